"""Knows what may be asked of a container of an image: processes as one of its users, its files, its
end; must not know why it runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from buildgraph.closing import Closing
from buildgraph.engine.container.files import ContainerFiles
from buildgraph.engine.users import user_of
from buildgraph.oci.rootview import RootView
from buildgraph.sandbox.host import Container, ExitStatus, Output
from buildgraph.sandbox.spec import SandboxSpec


class ImageContainer(Closing):
    """A container of an image; a context manager whose end kills it and drops what it wrote.

    Every method may be called from any thread.
    """

    def __init__(
        self,
        container: Container,
        view: RootView,
        stack: ExitStack,
        *,
        shift: int,
        upper: str,
        stop_signal: int,
        stop_grace: float,
        home_is_given: bool,
    ):
        self.container = container
        self.upper = upper  # what it has written, at rest once it has ended
        self.stop_signal = stop_signal
        self.stop_grace = stop_grace
        self._view = view
        self._stack = stack
        self._shift = shift
        self._home_is_given = home_is_given

    @property
    def spec(self) -> SandboxSpec:
        """The container as data."""
        return self.container.spec

    @property
    def pid(self) -> int:
        """The number of its first process as seen from here; valid while it runs."""
        return self.container.pid

    @property
    def ended(self) -> bool:
        """Say whether it has ended."""
        return self.container.ended

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Return how it ended, or None if it still runs after `timeout` seconds."""
        return self.container.wait(timeout)

    def signal(self, number: int) -> None:
        """Send a signal to the main process. Does nothing after its end."""
        self.container.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal the size of the window."""
        self.container.resize(rows, columns)

    def stop(self, number: int | None = None, grace: float | None = None) -> ExitStatus:
        """Send the image's STOPSIGNAL, wait, then kill everything; return how it ended."""
        return self.container.stop(
            self.stop_signal if number is None else number,
            self.stop_grace if grace is None else grace,
        )

    def close(self) -> None:
        """Kill it, if it still runs, and remove what it wrote. Idempotent."""
        self.container.close()
        self._stack.close()

    def exec(
        self,
        args: Sequence[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        output: Output,
        errors: Output | None = None,
        stdin: int | None = None,
        tty: int | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
    ) -> ExitStatus:
        """Run one more process in the container and return how it ended; see `Container.exec`.

        `user` is looked up in the image's files; None = the container's own. `env` is added to
        the container's environment.
        """
        variables = dict(self.spec.env)
        uid = gid = None
        groups: tuple[int, ...] | None = None
        if user is not None:
            who = user_of(self._view, user)
            uid, gid, groups = who.uid, who.gid, (who.gid, *who.groups)
            if not self._home_is_given:
                variables["HOME"] = who.home
        return self.container.exec(
            args,
            env={**variables, **(env or {})},
            cwd=cwd,
            uid=uid,
            gid=gid,
            groups=groups,
            output=output,
            errors=errors,
            stdin=stdin,
            tty=tty,
            timeout=timeout,
            cancel=cancel,
        )

    def files(self) -> ContainerFiles:
        """Return its file system as its processes see it now. The caller closes it.

        Raises HostError where it has ended.
        """
        return ContainerFiles(self.container.open_root(), self._shift)
