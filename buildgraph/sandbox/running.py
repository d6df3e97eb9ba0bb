"""Knows how one container is followed from request to result; must not know who started it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from buildgraph.errors import HostError
from buildgraph.sandbox.spec import Limits
from buildgraph.sandbox.wire import receive, send

Output = Callable[[bytes], None]

_GRACE: Final = 10.0  # seconds between TERM and KILL
_TICK: Final = 0.1  # how long a cancel may go unseen
_PIECE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a container ended. `signal` is 0 unless a signal ended its main process."""

    code: int  # as a shell counts: 128 + signal for a killed process
    signal: int = 0
    oom: bool = False  # the kernel killed a process for the limit of memory
    timed_out: bool = False
    cancelled: bool = False
    pids_limit: bool = False  # a fork was refused for the limit of processes
    log_truncated: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """True for exit code 0 in time."""
        return self.code == 0 and not (self.timed_out or self.cancelled)

    def describe(self, limits: Limits, memory: int | None = None) -> str:
        """Return why it failed, in words, for `the command …`; "" when it did not.

        `memory` is the limit in force where the spec names none.
        """
        if self.cancelled:
            return "was cancelled"
        if self.timed_out:
            return f"did not end within {limits.timeout:g} s"
        if self.ok:
            return ""
        how = (
            f"was ended by {_signal_name(self.signal)}"
            if self.signal
            else (f"ended with exit code {self.code}")
        )
        limit = limits.memory or memory
        if self.oom:
            size = f" (limit {limit / (1 << 20):.0f} MiB)" if limit else ""
            how += f": out of memory{size}"
        if self.pids_limit:
            how += f": pids limit reached (limit {limits.pids} processes)"
        return how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Running:
    """One container, in the thread that wants it."""

    def __init__(
        self,
        slot: socket.socket,
        limits: Limits,
        output: Output,
        cancel: threading.Event | None,
        stdin: int | None,
    ):
        self.slot = slot
        self.limits = limits
        self.output = output
        self.cancel = cancel
        self.stdin = stdin
        self.answered = False  # the slot has said how it went, and can be used again
        self.pidfd = -1
        self.terminal = -1
        self.written = 0
        self.truncated = False
        self.stopping: Literal["", "timeout", "cancel"] = ""
        self.kill_at: float | None = None
        self.poll = select.poll()

    def run(self, plan: dict[str, Any], netns: int | None) -> ExitStatus:
        """Start it and follow it to its end. Raises HostError where it could not be made."""
        started = time.monotonic()
        reader, writer = self._channel(plan["tty"])
        try:
            fds = [writer]
            if plan["stdin"]:
                fds.append(self.stdin if self.stdin is not None else -1)
            if netns is not None:
                fds.append(netns)
            try:
                send(self.slot, plan, tuple(fds))
            except OSError as error:
                raise HostError(f"the sandbox process is gone: {error}") from error
            finally:
                os.close(writer)
            line = self._follow(reader, started)
            self._drain(self.terminal if self.terminal >= 0 else reader)
        finally:
            for fd in (reader, self.pidfd, self.terminal):
                if fd >= 0:
                    os.close(fd)
        return self._status(line, time.monotonic() - started)

    def _channel(self, tty: bool) -> tuple[int, int]:
        """Return our end and the container's of what it writes to, or gets its terminal by."""
        if not tty:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            return reader, writer
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return ours.detach(), theirs.detach()

    def _follow(self, reader: int, started: float) -> str:
        """Pass on output until the container is gone; return its status line."""
        poll, slot = self.poll, self.slot.fileno()
        poll.register(reader, select.POLLIN)
        poll.register(slot, select.POLLIN)
        tty_socket = reader if self._is_socket(reader) else -1
        while True:
            self._watch(started)
            for fd, _ in poll.poll(_TICK * 1000):
                if fd == slot:
                    message, fds = receive(self.slot)
                    if message is None:
                        raise HostError("the sandbox process died")
                    if message[0] == "done":
                        self.answered = True
                        return str(message[1])
                    self.pidfd = fds[0]
                elif fd == tty_socket:
                    poll.unregister(fd)
                    self._take_terminal(fd)
                elif fd == self.stdin:
                    self._feed()
                elif not self._read(fd):
                    poll.unregister(fd)

    @staticmethod
    def _is_socket(fd: int) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")

    def _take_terminal(self, fd: int) -> None:
        with socket.socket(fileno=os.dup(fd)) as sock:
            _, fds = receive(sock)
        if fds:
            self.terminal = fds[0]
            os.set_blocking(self.terminal, False)
            self.poll.register(self.terminal, select.POLLIN)
            if self.stdin is not None:
                self.poll.register(self.stdin, select.POLLIN)

    def _feed(self) -> None:
        """Pass on what was typed; its end is typed as the terminal's end-of-file character."""
        assert self.stdin is not None
        data = os.read(self.stdin, 4096)
        with contextlib.suppress(OSError):
            os.write(self.terminal, data or b"\x04")
        if not data:
            self.poll.unregister(self.stdin)

    def _watch(self, started: float) -> None:
        """Begin or go on with ending the container, where it is time to."""
        if self.pidfd < 0:
            return
        now, limit = time.monotonic(), self.limits.timeout
        if self.cancel is not None and self.cancel.is_set():
            if self.stopping != "cancel":
                self.stopping = "cancel"
                self._signal(signal.SIGKILL)
        elif not self.stopping and limit is not None and now - started > limit:
            self.stopping = "timeout"
            self.kill_at = now + _GRACE
            self._signal(signal.SIGTERM)
        elif self.kill_at is not None and now > self.kill_at:
            self.kill_at = None
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def _read(self, reader: int) -> bool:
        """Pass on one piece; False at the end of the output."""
        try:
            data = os.read(reader, _PIECE)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno == errno.EIO:
                return False  # the last process let go of its terminal
            raise
        if not data:
            return False
        room = self.limits.log - self.written
        if len(data) > room:
            self.truncated = True
            data = data[: max(room, 0)]
        if data:
            self.written += len(data)
            self.output(data)
        return True

    def _drain(self, reader: int) -> None:
        """Pass on what is left: nobody writes any more, so this ends."""
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        while any(event & select.POLLIN for _, event in poll.poll(0)) and self._read(reader):
            pass

    def _status(self, line: str, seconds: float) -> ExitStatus:
        word, _, rest = line.partition(" ")
        if word == "error" and not self.stopping:
            raise HostError(f"the sandbox could not be made: {rest}")
        number = int(rest) if word == "signal" else 0
        code = int(rest) if word == "exit" else 128 + (number or signal.SIGKILL)
        return ExitStatus(
            code,
            number,
            timed_out=self.stopping == "timeout",
            cancelled=self.stopping == "cancel",
            log_truncated=self.truncated,
            seconds=seconds,
        )
