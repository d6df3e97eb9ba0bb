"""Knows how one thread waits for many sockets and moments; must not know what arrives on them.

One loop serves one private network: its resolver and its published ports. Not asyncio, whose import
alone takes longer than the start of a network.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

Callback = Callable[[int], None]


class _HasFd(Protocol):
    def fileno(self) -> int: ...


class Timer:
    """Something to be done at a moment; `cancel` is for the loop's thread."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None] | None):
        self.action = action

    def cancel(self) -> None:
        """Forget it. Idempotent."""
        self.action = None


class Loop:
    """A thread that calls back when sockets are ready. All methods but `call` and `close` are for
    that thread, or for anybody before the first `call`.

    A callback that raises loses its socket, never the loop.
    """

    def __init__(self, name: str):
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, READ, None)
        self._calls: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._watched: dict[int, tuple[_HasFd, Callable[[], None]]] = {}

    # -- from any thread -----------------------------------------------------------------------

    def call(self, action: Callable[[], None]) -> bool:
        """Have `action` done in the loop's thread, soon; False when the loop has ended."""
        with self._lock:
            if self._stopping:
                return False
            self._calls.append(action)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            os.eventfd_write(self._wake, 1)
        return True

    def close(self) -> None:
        """End the thread and close every socket that is watched. Idempotent."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            thread = self._thread
            os.eventfd_write(self._wake, 1)
        if thread is not None:
            thread.join()
        for _, close in list(self._watched.values()):
            close()
        self._selector.close()
        os.close(self._wake)

    # -- in the loop's thread --------------------------------------------------------------------

    def watch(
        self,
        sock: _HasFd,
        events: int,
        callback: Callback,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Call back when `sock` is ready; `close` ends it (default: `sock.close()`).

        No events at all means: keep it, but do not wait for it.
        """
        fd = sock.fileno()
        known = self._selector.get_map().get(fd)
        if not events:
            if known is not None:
                self._selector.unregister(fd)
        elif known is not None:
            if known.events != events or known.data != callback:
                self._selector.modify(fd, events, callback)
        else:
            self._selector.register(fd, events, callback)
        ending: Any = close or getattr(sock, "close", None)
        self._watched[fd] = (sock, ending)

    def forget(self, sock: _HasFd) -> None:
        """Wait for it no more; the caller closes it. Idempotent while it is open."""
        fd = sock.fileno()
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        self._watched.pop(fd, None)

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Do `action` after so many seconds."""
        timer = Timer(action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._number), timer))
        return timer

    def _run(self) -> None:
        while not self._stopping:
            for key, events in self._selector.select(self._patience()):
                if key.data is None:
                    os.eventfd_read(self._wake)
                elif key.fd in self._selector.get_map():  # an earlier callback may have ended it
                    self._guard(key.data, events, key.fd)
            with self._lock:
                calls, self._calls = self._calls, []
            for action in calls:
                self._guard(lambda _, action=action: action(), 0, -1)  # type: ignore[misc]
            self._ring()

    def _patience(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _ring(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            action = heapq.heappop(self._timers)[2].action
            if action is not None:
                self._guard(lambda _, action=action: action(), 0, -1)  # type: ignore[misc]

    def _guard(self, callback: Callback, events: int, fd: int) -> None:
        try:
            callback(events)
        except Exception:  # noqa: BLE001 (one peer's failure must not end the others' service)
            watched = self._watched.pop(fd, None)
            if watched is not None:
                if fd in self._selector.get_map():
                    self._selector.unregister(fd)
                watched[1]()


def listening(sock: socket.socket) -> socket.socket:
    """Make a socket fit for a loop."""
    sock.setblocking(False)
    return sock
