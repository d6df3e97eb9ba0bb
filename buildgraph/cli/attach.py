"""Knows how a container runs with the caller's streams, terminal and signals until its end; must
not know what it is for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from msgspec import Struct

from buildgraph.cli.terminal import (
    Runs,
    caught_signals,
    fed_pipe,
    flush,
    follow,
    raw_terminal,
    writer_to,
)
from buildgraph.sandbox.host import ExitStatus, Output
from buildgraph.sandbox.spec import Limits


class Ends(Struct, frozen=True):
    """What a container is started with: callbacks and fds, as `SandboxHost.start` takes them."""

    output: Output
    errors: Output | None
    stdin: int | None
    tty: int | None


class Runnable(Runs, Protocol):
    """A container that is closed at the end."""

    def close(self) -> None:
        """Kill what is left of it."""


def attached(
    start: Callable[[Ends], Runnable],
    *,
    interactive: bool,
    tty: bool,
    grace: float,
    finish: Callable[[Runnable, ExitStatus], None] | None = None,
) -> ExitStatus:
    """Start a container with our streams, follow it to its end and close it.

    `finish` is called in between, while what it wrote is still there. The terminal is given back
    as it was, whatever happens.
    """
    flush()
    with ExitStack() as stack:
        terminal = _terminal() if tty else None
        stdin = None
        if interactive and tty and terminal is not None:
            stdin = terminal
        elif interactive:
            stdin = stack.enter_context(fed_pipe(sys.stdin.fileno()))
        came = stack.enter_context(caught_signals(window=terminal is not None))
        # Before it starts: the first lines it writes go through our terminal as they are.
        if tty and interactive and terminal is not None:
            stack.enter_context(raw_terminal(terminal))
        ends = Ends(writer_to(1), None if tty else writer_to(2), stdin, terminal)
        container = start(ends)
        stack.callback(container.close)
        status = follow(container, came, terminal=terminal, grace=grace)
        if finish is not None:
            finish(container, status)
    return status


def _terminal() -> int | None:
    """Return the fd of the terminal we are at, None where there is none."""
    for stream in (0, 1, 2):
        if os.isatty(stream):
            return stream
    return None


def say_how_it_ended(status: ExitStatus, limits: Limits, memory: int) -> None:
    """Say what an exit code alone does not: that the kernel ended it for a limit."""
    if (status.oom and status.code != 0) or status.pids_limit or status.timed_out:
        sys.stderr.write(f"buildgraph: the command {status.describe(limits, memory)}\n")
