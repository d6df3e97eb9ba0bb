"""Knows how to have the disk begin early with what a build leaves to it; must not know what it is.

What a build wrote is made durable at its end by one syncfs(2), which then waits for the disk. Steps
seldom keep every processor and the disk busy, so a part of that can go on beside them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

from buildgraph_cache.disk import Disk

_ENOUGH: Final = 8 << 20  # bytes; a build of small steps never gets there, and its end is short


class WriteBack:
    """Writes a file system out, beside whoever asked, once enough was left to it.

    Only for speed: an error is met again by whoever makes things durable, through a descriptor that
    is older than the writes. May be called by any thread.
    """

    def __init__(self, root: str, enough: int = _ENOUGH) -> None:
        self._root = root
        self._enough = enough
        self._left = 0
        self._busy = False
        self._lock = threading.Lock()

    def left(self, size: int) -> None:
        """Take note of so many bytes more that were written and not waited for."""
        with self._lock:
            self._left += size
            if self._busy or self._left < self._enough:
                return
            self._left, self._busy = 0, True
        threading.Thread(target=self._write, name="write-back", daemon=True).start()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                Disk().syncfs(fd)
            finally:
                os.close(fd)
        with self._lock:
            self._busy = False
