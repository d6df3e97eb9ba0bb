"""Knows how a shell is opened in the sandbox of a step that failed; must not know how steps are
built.
"""

from __future__ import annotations

import os
import sys

from msgspec.structs import replace

from buildgraph.cli.attach import Ends, Runnable, attached, say_how_it_ended
from buildgraph.cli.entry import report
from buildgraph.cli.session import Session
from buildgraph.engine.run_step import FailedStep
from buildgraph.errors import BuildgraphError
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.spec import SandboxSpec

_SHELL = "/bin/sh"


def shell_after_failure(session: Session) -> None:
    """Open a shell where a RUN failed, if one did and there is a terminal. Never raises.

    The file system is as the step left it; environment, user, directory and mounts are the
    step's, secrets included.
    """
    failed = session.take_failed()
    if failed is None:
        return
    if not (os.isatty(0) and os.isatty(2)):
        sys.stderr.write("buildgraph: --on-error shell: there is no terminal for a shell here\n")
        return
    sys.stderr.write(f"buildgraph: a shell where {failed.title} failed; leave it with `exit`\n")
    try:
        run_step(session.sandbox, step_with(failed, (_SHELL,)), tty=True)
    except BuildgraphError as error:
        report(error)


def step_with(failed: FailedStep, args: tuple[str, ...]) -> SandboxSpec:
    """Return the sandbox of a failed step with another command, over what the step has written."""
    limits = replace(failed.spec.limits, timeout=None, log=1 << 62)
    # A work directory is marked until a step has ended well; another one has no such mark.
    work = failed.scratch.directory("work-again")
    return replace(failed.spec, args=args, limits=limits, work=work, init=True)


def run_step(sandbox: SandboxHost, spec: SandboxSpec, *, tty: bool) -> int:
    """Run a step's sandbox with our streams and return the exit code."""
    env = dict(spec.env)
    if tty:
        env.setdefault("TERM", os.environ.get("TERM", "xterm"))
    spec = replace(spec, tty=tty, env=tuple(env.items()))

    def start(ends: Ends) -> Runnable:
        return sandbox.start(spec, ends.output, errors=ends.errors, stdin=ends.stdin, tty=ends.tty)

    status = attached(start, interactive=tty, tty=tty, grace=10.0)
    say_how_it_ended(status, spec.limits, sandbox.memory)
    return status.code
