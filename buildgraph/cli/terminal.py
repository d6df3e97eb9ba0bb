"""Knows how the caller's terminal and signals reach a running container and how the terminal gets
back to what it was; must not know which container.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, Protocol

from buildgraph.sandbox.container import window_of
from buildgraph.sandbox.host import ExitStatus

_PROXIED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PIECE: Final = 1 << 16
_TICK: Final = 0.1  # how long a signal may go unseen: waiting goes on after its handler


class Runs(Protocol):
    """A container, as far as this module asks."""

    @property
    def pid(self) -> int:
        """Its first process."""

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Return how it ended."""

    def signal(self, number: int) -> None:
        """Send a signal to its first process."""

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal the size of the window."""


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Pass every key on as it is typed, and give the terminal back as it was, whatever happens."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def fed_pipe(source: int) -> Iterator[int]:
    """Yield the reading end of a pipe that gets what `source` has: a container must never hold the
    caller's own terminal or file, which it could open anew for writing.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def pump() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(source, _PIECE):
                while data:
                    data = data[os.write(writer, data) :]
        with contextlib.suppress(OSError):
            os.close(writer)

    threading.Thread(target=pump, name="stdin", daemon=True).start()
    try:
        yield reader
    finally:
        with contextlib.suppress(OSError):
            os.close(reader)


@contextlib.contextmanager
def caught_signals(*, window: bool) -> Iterator[list[int]]:
    """Yield a list that gets the signals that come meanwhile, for `follow`.

    With `window` changes of a terminal's size are among them.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    handled = [*_PROXIED, *([signal.SIGWINCH] if window else [])]
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(container: Runs, came: list[int], *, terminal: int | None, grace: float) -> ExitStatus:
    """Wait for a container's end; signals that come meanwhile are the container's.

    A signal that would end any other process ends a process 1 that has no handler for it too: the
    kernel would drop it without a word. After a second one, or `grace` seconds after the first,
    everything is killed. `terminal` is the fd whose window size is passed on.
    """
    ending = 0
    kill_at: float | None = None
    while True:
        status = container.wait(_TICK)
        if status is not None:
            return status
        while came:
            number = came.pop(0)
            if number == signal.SIGWINCH and terminal is not None:
                container.resize(*window_of(terminal))
                continue
            if number in _ENDING:
                ending += 1
                if ending > 1 or _is_dropped(container.pid, number):
                    status = _kill(container)
                    return ExitStatus(128 + number, number) if ending == 1 else status
                kill_at = time.monotonic() + grace
            container.signal(number)
        if kill_at is not None and time.monotonic() > kill_at:
            return _kill(container)


def _kill(container: Runs) -> ExitStatus:
    container.signal(signal.SIGKILL)
    status = container.wait()
    assert status is not None
    return status


def _is_dropped(pid: int, number: int) -> bool:
    """Say whether process 1 neither handles nor ignores a signal, pid_namespaces(7)."""
    masks = {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in masks:
                    masks[name] = int(value, 16)
    except (OSError, ValueError):
        return False
    return not any(mask >> (number - 1) & 1 for mask in masks.values())


def writer_to(stream: int) -> Callable[[bytes], None]:
    """Return a callback that writes everything to an fd; a reader that is gone is no failure."""

    def write(data: bytes) -> None:
        try:
            while data:
                data = data[os.write(stream, data) :]
        except BrokenPipeError:
            return

    return write


def flush() -> None:
    """Write out what this program has said itself, before a container says something."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
