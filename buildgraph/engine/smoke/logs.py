"""Knows how what a service writes is kept, bounded; must not know what a service is.

The file is raw: whoever shows it makes it safe (A64).
"""

from __future__ import annotations

import os
import threading
from typing import Final

from buildgraph.limits import KIB, MIB

LOG_BYTES: Final = 16 * MIB  # of one service, all its containers together
_TAIL: Final = 64 * KIB


class ServiceLog:
    """One service's log; written by the threads of its containers, read by anybody.

    The file ends at the cap and says so; the last lines are kept beyond it.
    """

    def __init__(self, path: str):
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._size = 0
        self._tail = b""
        self.truncated = False

    def write(self, data: bytes) -> None:
        """Take more output."""
        with self._lock:
            self._tail = (self._tail + data)[-_TAIL:]
            if self._fd < 0 or self.truncated:
                return
            room = LOG_BYTES - self._size
            if len(data) > room:
                data = data[:room] + b"\n[the log was longer than its limit]\n"
                self.truncated = True
            self._size += len(data)
            os.write(self._fd, data)

    def read(self) -> bytes:
        """Return what was written so far."""
        with self._lock:
            size = self._size
            return b"" if self._fd < 0 else os.pread(self._fd, size, 0)

    def last_lines(self, count: int) -> tuple[str, ...]:
        """Return the last lines, raw text with bytes that are no UTF-8 as surrogates."""
        with self._lock:
            lines = self._tail.decode("utf-8", "surrogateescape").split("\n")
        if lines and not lines[-1]:
            lines.pop()
        return tuple(lines[-count:])

    def close(self) -> None:
        """Close the file; idempotent. It stays for whoever keeps it."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
