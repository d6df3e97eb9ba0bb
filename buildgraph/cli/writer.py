"""Knows how to write to a stream that may be slow, stopped, full or gone without making anybody
wait for it; must not know what the text says.

A thread of its own writes, because a pipe whose reader has stopped blocks its writer, and a build
must not stand still for that (nor for a terminal that is held with Ctrl-S). What piles up is
bounded: output of steps is dropped first, and said to be. A stream that fails once, for whatever
reason, is given up for good: EPIPE, EIO of a terminal that was closed, ENOSPC of a log's disk.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import Final, TextIO

QUEUE_CHARACTERS: Final = 4_000_000  # waiting, before output of steps is dropped
HARD_CHARACTERS: Final = 32_000_000  # waiting, before anything is dropped
PATIENCE: Final = 5.0  # seconds that `close` waits for a reader that takes nothing


class Writer:
    """Writes text to `stream` in the background; thread-safe, never raises, never blocks.

    Whoever makes one closes it. `stream` itself stays open, and must not be written to meanwhile.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._waiting: deque[str] = deque()
        self._characters = 0
        self._dropped = 0
        self._ready = threading.Condition()
        self._closing = False
        self._broken = False
        self._moved = time.monotonic()
        self._thread: threading.Thread | None = None

    @property
    def broken(self) -> bool:
        """Say whether the stream was given up."""
        return self._broken

    @property
    def pending(self) -> int:
        """Return how many characters the reader has not taken yet."""
        return self._characters

    def write(self, text: str, *, essential: bool = True) -> None:
        """Write `text` soon; what is not `essential` is dropped when the reader is far behind."""
        with self._ready:
            if self._broken or self._closing:
                return
            limit = HARD_CHARACTERS if essential else QUEUE_CHARACTERS
            if self._characters + len(text) > limit:
                self._dropped += 1
                return
            if self._dropped and self._characters < QUEUE_CHARACTERS // 2:
                text = f"[{self._dropped} lines were dropped: the reader is too slow]\n{text}"
                self._dropped = 0
            self._waiting.append(text)
            self._characters += len(text)
            if self._thread is None:
                self._moved = time.monotonic()
                self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
                self._thread.start()
            self._ready.notify()

    def close(self, patience: float = PATIENCE) -> None:
        """Write what waits, for as long as the reader takes something at least every `patience`.

        Idempotent.
        """
        with self._ready:
            self._closing = True
            self._ready.notify()
            thread = self._thread
        while thread is not None and thread.is_alive():
            thread.join(0.05)
            if time.monotonic() - self._moved > patience:
                self._broken = True  # and the daemon thread ends with the process
                return

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._waiting and not self._closing:
                    self._ready.wait()
                if not self._waiting:
                    return
                text = "".join(self._waiting)
                self._waiting.clear()
            self._moved = time.monotonic()
            try:
                self._put(text)
            except (OSError, ValueError):  # ValueError: somebody closed the stream
                self._broken = True
            with self._ready:
                self._characters -= len(text)
                if self._broken:
                    self._waiting.clear()
                    self._characters = 0
                    return

    def _put(self, text: str) -> None:
        if self._descriptor is None:
            self._stream.write(text)
            self._stream.flush()
            return
        data = memoryview(text.encode(self._encoding, "backslashreplace"))
        # Given up means that the descriptor may soon be somebody else's.
        while data and not self._broken:
            try:
                # Not more at once: a pipe takes 64 KiB, and each piece taken counts as movement.
                written = os.write(self._descriptor, data[:65536])
            except BlockingIOError:  # somebody made the stream non-blocking
                select.select([], [self._descriptor], [])
                continue
            self._moved = time.monotonic()
            data = data[written:]


def _descriptor(stream: TextIO) -> int | None:
    """Return the file descriptor, with nothing left in the stream's own buffer; None if none."""
    try:
        descriptor = stream.fileno()
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return None
    return descriptor
