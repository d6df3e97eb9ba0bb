"""Knows how one process inside is followed from request to result; must not know who asked.

The process is a container's first one or one that joined it: both are asked for over a socket,
which answers `started` with a pidfd, `running` once the command has been exec'd, and `done`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import termios
import threading
import time
from collections.abc import Callable
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.errors import HostError
from buildgraph.sandbox.spec import Limits
from buildgraph.sandbox.wire import receive

Output = Callable[[bytes], None]

_GRACE: Final = 10.0  # seconds between TERM and KILL
_TICK: Final = 0.1  # how long a cancel may go unseen
_PIECE: Final = 1 << 16
_TYPED: Final = 4096
_END_OF_FILE: Final = b"\x04"  # what a terminal takes for the end of what is typed


class ExitStatus(Struct, frozen=True):
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


class Streams(Struct, frozen=True):
    """Where what is written goes and what is read comes from.

    `errors` None = together with `output`. `stdin` is an fd; None = /dev/null. `window` is the
    size of a new terminal: rows, columns.
    """

    output: Output
    errors: Output | None = None
    stdin: int | None = None
    window: tuple[int, int] = (0, 0)


class Running:
    """One process inside. `begin`, then `finish`; `signal`, `resize` from any thread."""

    def __init__(
        self,
        sock: socket.socket,
        limits: Limits,
        streams: Streams,
        *,
        tty: bool,
        cancel: threading.Event | None,
        own: bool = False,
    ):
        """`own` says that the socket is closed with the process."""
        self.sock = sock
        self.own = own
        self.limits = limits
        self.streams = streams
        self.tty = tty
        self.cancel = cancel
        self.answered = False  # the other side has said how it went, and can be used again
        self.pid = 0
        self.seconds = 0.0
        self._lock = threading.Lock()  # the pidfd and the terminal, which end with the process
        self._pidfd = -1
        self._terminal = -1
        self._readers: dict[int, Output] = {}
        self._typed = b""
        self._line = ""
        self._state: Literal["asked", "running", "done"] = "asked"
        self._following = False  # what it writes is read by `finish` alone, in its thread
        self._written = 0
        self._truncated = False
        self._stopping: Literal["", "timeout", "cancel"] = ""
        self._kill_at: float | None = None
        self._poll = select.poll()
        self._handover = -1  # where a terminal arrives
        self._started = 0.0

    # -- from request to result ----------------------------------------------------------------

    def begin(self, ask: Callable[[tuple[int, ...]], None]) -> None:
        """Have it asked for and return once it has been exec'd or has ended.

        `ask` sends the request with the fds of the streams. Raises HostError where it could not
        be made; everything is closed then.
        """
        self._started = time.monotonic()
        try:
            theirs = self._open_channels()
            fds = list(theirs)
            if self.streams.stdin is not None and not self.tty:
                fds.append(self.streams.stdin)
            try:
                ask(tuple(fds))
            except OSError as error:
                raise HostError(f"the sandbox process is gone: {error}") from error
            finally:
                for fd in theirs:
                    os.close(fd)
            self._poll.register(self.sock.fileno(), select.POLLIN)
            while self._state == "asked":
                self._step()
            if self._state == "done":
                self._check_made()
        except BaseException:
            self.signal(signal.SIGKILL)
            self._close()
            raise

    def finish(self) -> ExitStatus:
        """Follow it to its end. Raises what `output` raised, HostError where it was lost."""
        try:
            self._following = True
            self._register_streams()
            while self._state != "done":
                self._step()
            for fd, output in list(self._readers.items()):
                self._drain(fd, output)
            return self._status()
        except BaseException:
            self.signal(signal.SIGKILL)
            raise
        finally:
            self._close()

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it is still there."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)

    def alive(self) -> bool:
        """Say whether the process has not been reaped yet: until then its number is its own."""
        try:
            with self._lock:
                if self._pidfd >= 0:
                    signal.pidfd_send_signal(self._pidfd, 0)
                return self._pidfd >= 0
        except ProcessLookupError:
            return False

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size, ioctl_tty(2)."""
        size = array.array("H", [rows, columns, 0, 0])
        with self._lock, contextlib.suppress(OSError):
            if self._terminal >= 0:
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    # -- channels ------------------------------------------------------------------------------

    def _open_channels(self) -> list[int]:
        """Open what it writes to, or gets its terminal by; return the ends that are sent."""
        if self.tty:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._handover = ours.detach()
            self._poll.register(self._handover, select.POLLIN)
            return [theirs.detach()]
        outputs = [self.streams.output]
        if self.streams.errors is not None:
            outputs.append(self.streams.errors)
        sent = []
        for output in outputs:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._readers[reader] = output
            sent.append(writer)
        return sent

    def _close(self) -> None:
        with self._lock:
            fds = [self._pidfd, self._handover, *self._readers]
            self._pidfd = self._terminal = self._handover = -1
            self._readers = {}
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        if self.own:
            self.sock.close()

    # -- one event -----------------------------------------------------------------------------

    def _step(self) -> None:
        """Wait for something to happen and deal with it."""
        sock = self.sock.fileno()
        for fd, event in self._poll.poll(self._patience()):
            if fd == sock:
                self._hear()
            elif fd == self._handover:
                self._poll.unregister(fd)
                self._take_terminal()
            elif fd == self._terminal and event & select.POLLOUT:
                self._type()
            elif fd == self.streams.stdin:
                self._feed()
            elif fd in self._readers and not self._read(fd, self._readers[fd]):
                self._poll.unregister(fd)

    def _hear(self) -> None:
        message, fds = receive(self.sock)
        if message is None:
            raise HostError("the sandbox process died")
        match message[0]:
            case "started":
                with self._lock:
                    self._pidfd = fds[0]
                self.pid = message[1]
            case "running":
                self._state = "running"
            case _:
                self.answered = True
                self._line = str(message[1])
                self._state = "done"
                self.seconds = time.monotonic() - self._started

    def _patience(self) -> float | None:
        """Begin or go on with ending it, where it is time to; return how long to wait, in ms."""
        limit = self.limits.timeout
        if self.cancel is None and limit is None:
            return None
        now = time.monotonic()
        if self._pidfd < 0:
            return _TICK * 1000
        if self.cancel is not None and self.cancel.is_set():
            if self._stopping != "cancel":
                self._stopping = "cancel"
                self.signal(signal.SIGKILL)
        elif not self._stopping and limit is not None and now - self._started > limit:
            self._stopping = "timeout"
            self._kill_at = now + _GRACE
            self.signal(signal.SIGTERM)
        elif self._kill_at is not None and now > self._kill_at:
            self._kill_at = None
            self.signal(signal.SIGKILL)
        return _TICK * 1000

    # -- terminal ------------------------------------------------------------------------------

    def _take_terminal(self) -> None:
        with socket.socket(fileno=os.dup(self._handover)) as sock:
            _, fds = receive(sock)
        if not fds:
            return
        with self._lock:
            self._terminal = fds[0]
        os.set_blocking(self._terminal, False)
        if any(self.streams.window):
            self.resize(*self.streams.window)
        self._readers[self._terminal] = self.streams.output
        if self._following:
            self._register_streams()

    def _register_streams(self) -> None:
        for fd in self._readers:
            self._poll.register(fd, select.POLLIN)
        if self._terminal >= 0 and self.streams.stdin is not None:
            self._poll.register(self.streams.stdin, select.POLLIN)

    def _feed(self) -> None:
        """Take what was typed; its end is typed as the terminal's end-of-file character."""
        assert self.streams.stdin is not None
        try:
            data = os.read(self.streams.stdin, _TYPED)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the terminal it was typed at is gone
        self._typed += data or _END_OF_FILE
        # Nothing more is taken before this has been: a terminal holds a page.
        self._poll.unregister(self.streams.stdin)
        if not data:
            self.streams = replace(self.streams, stdin=None)
        self._poll.modify(self._terminal, select.POLLIN | select.POLLOUT)

    def _type(self) -> None:
        try:
            self._typed = self._typed[os.write(self._terminal, self._typed) :]
        except BlockingIOError:
            return
        except OSError:
            self._typed = b""
        if not self._typed:
            self._poll.modify(self._terminal, select.POLLIN)
            if self.streams.stdin is not None:
                self._poll.register(self.streams.stdin, select.POLLIN)

    # -- output --------------------------------------------------------------------------------

    def _read(self, reader: int, output: Output) -> bool:
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
        room = self.limits.log - self._written
        if len(data) > room:
            self._truncated = True
            data = data[: max(room, 0)]
        if data:
            self._written += len(data)
            output(data)
        return True

    def _drain(self, reader: int, output: Output) -> None:
        """Pass on what is left: nobody writes any more, so this ends."""
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        while any(event & select.POLLIN for _, event in poll.poll(0)) and self._read(
            reader, output
        ):
            pass

    # -- result --------------------------------------------------------------------------------

    def _check_made(self) -> None:
        word, _, rest = self._line.partition(" ")
        if word == "error" and not self._stopping:
            raise HostError(rest if self.own else f"the sandbox could not be made: {rest}")

    def _status(self) -> ExitStatus:
        self._check_made()
        word, _, rest = self._line.partition(" ")
        number = int(rest) if word == "signal" else 0
        code = int(rest) if word == "exit" else 128 + (number or signal.SIGKILL)
        return ExitStatus(
            code,
            number,
            timed_out=self._stopping == "timeout",
            cancelled=self._stopping == "cancel",
            log_truncated=self._truncated,
            seconds=self.seconds,
        )
