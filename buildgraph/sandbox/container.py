"""Knows what may be asked of a container that runs; must not know what it is for.

A container is followed by a thread of its own from start to end, so that its output is passed on
and its end is known whether anybody waits or not.
"""

from __future__ import annotations

import os
import signal as signals
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from buildgraph.closing import Closing
from buildgraph.errors import HostError
from buildgraph.sandbox.running import ExitStatus, Output, Running, Streams
from buildgraph.sandbox.spec import Limits, SandboxSpec

# Starts a process in the container and returns once it has been exec'd.
Join = Callable[[dict[str, Any], Streams, Limits, threading.Event | None], Running]


class Container(Closing):
    """A running container; a context manager whose end kills it. Every method is thread-safe.

    `release` is called once, in the following thread, when every process is dead; it completes
    the status.
    """

    def __init__(
        self,
        spec: SandboxSpec,
        running: Running,
        *,
        join: Join,
        release: Callable[[ExitStatus | None], ExitStatus | None],
    ):
        self.spec = spec
        self._running = running
        self._join = join
        self._release = release
        self._ended = threading.Event()
        self._status: ExitStatus | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="container", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The number of its first process as seen from here; valid while it runs."""
        return self._running.pid

    def _follow(self) -> None:
        status = None
        try:
            status = self._running.finish()
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            self._error = error
        finally:
            self._status = self._release(status)
            self._ended.set()

    # -- its end ---------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Return how it ended, or None if it still runs after `timeout` seconds.

        When it has ended every process of it is dead and its files are at rest. Raises HostError
        where it was lost, and whatever the output's callback raised.
        """
        if not self._ended.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self._status

    @property
    def ended(self) -> bool:
        """Say whether it has ended."""
        return self._ended.is_set()

    def signal(self, number: int) -> None:
        """Send a signal to the main process. Does nothing after its end."""
        self._running.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal the size of the window."""
        self._running.resize(rows, columns)

    def stop(self, number: int = signals.SIGTERM, grace: float = 10.0) -> ExitStatus:
        """Send a signal, give it `grace` seconds, then kill everything; return how it ended."""
        self.signal(number)
        status = self.wait(grace)
        if status is None:
            self.signal(signals.SIGKILL)
            status = self.wait()
        assert status is not None
        return status

    def close(self) -> None:
        """Kill it, if it still runs. Idempotent; never raises what the container met."""
        if not self._ended.is_set():
            self.signal(signals.SIGKILL)
        self._ended.wait()
        self._thread.join()

    # -- inside ----------------------------------------------------------------------------------

    def exec(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        groups: Sequence[int] | None = None,
        output: Output,
        errors: Output | None = None,
        stdin: int | None = None,
        tty: int | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
    ) -> ExitStatus:
        """Run one more process in the container and return how it ended.

        It has the rights, limits and system calls of the container; what is None is as the main
        process has it (its groups, only where `uid` is None too). `output` is called in this
        thread. `tty` is the fd of a terminal whose size its own terminal takes; then `stdin` is
        what is typed. After `timeout` seconds it gets SIGTERM, and SIGKILL ten seconds later.
        Raises HostError where there is no container any more.
        """
        spec = self.spec
        plan = {
            "args": list(args),
            "env": dict(spec.env if env is None else env),
            "cwd": spec.cwd if cwd is None else cwd,
            "uid": spec.uid if uid is None else uid,
            "gid": spec.gid if gid is None else gid,
            "groups": list((spec.groups if uid is None else ()) if groups is None else groups),
            "stdin": stdin is not None and tty is None,
            "errors": errors is not None and tty is None,
            "tty": tty is not None,
        }
        limits = replace(spec.limits, timeout=timeout)
        streams = Streams(output, errors, stdin, (0, 0) if tty is None else window_of(tty))
        running = self._join(plan, streams, limits, cancel)
        return running.finish()

    def open_root(self) -> int:
        """Return an O_PATH fd of its root as its processes see it. The caller closes it.

        Raises HostError where it has ended.
        """
        try:
            fd = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"the container has ended: {error.strerror}") from error
        if not self._running.alive():
            os.close(fd)  # its number may be somebody else's by now
            raise HostError("the container has ended")
        return fd


def window_of(fd: int) -> tuple[int, int]:
    """Return rows and columns of the terminal at `fd`; zeros where it is none."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return size.lines, size.columns
