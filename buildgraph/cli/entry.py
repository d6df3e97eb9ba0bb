"""Knows how a command begins and ends: finding workspace and store, and turning what was raised
into a message and an exit code; must not know what a command does in between.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from buildgraph.boxfile.files import find_root
from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.opening import workspace_at
from buildgraph.cli.places import default_store
from buildgraph.errors import BuildgraphError, InputError, Interrupted

F = TypeVar("F", bound=Callable[..., Any])

EXIT_BUG = 70
EXIT_INTERRUPT = 130
EXIT_TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM or SIGHUP came; unwinds like KeyboardInterrupt so that everything is cleaned up."""


def report(error: BuildgraphError) -> int:
    """Print an error to stderr and return its exit code."""
    from buildgraph.cli.console import render_error, wants_color

    text = render_error(error, color=wants_color(sys.stderr, os.environ))
    try:
        sys.stderr.write(text if text.endswith("\n") else text + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass  # nobody reads; the exit code still says it
    return error.exit_code


def guarded(function: F) -> F:
    """Turn the errors of a command into words and an exit code; the only place that exits."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            code = function(*args, **kwargs)
        except Interrupted:
            _say("interrupted")
            leave(EXIT_INTERRUPT)
        except KeyboardInterrupt:
            _say("interrupted")
            leave(EXIT_INTERRUPT)
        except Terminated:
            _say("terminated")
            leave(EXIT_TERMINATED)
        except BuildgraphError as error:
            leave(report(error))
        except BrokenPipeError:
            leave(0)  # `buildgraph ... | head -1`: the reader has what it wanted
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the user must learn how to report it
            traceback.print_exc()
            _say("this is a bug in buildgraph; please report it with the lines above")
            leave(EXIT_BUG)
        leave(int(code or 0))

    return wrapper  # type: ignore[return-value]  # same parameters, by functools.wraps


def leave(code: int) -> NoReturn:
    """Flush and exit; output nobody reads is no failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            # Python would complain again at shutdown; give it somewhere to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _say(text: str) -> None:
    try:
        click.echo(text, err=True)
    except BrokenPipeError:
        pass


def open_workspace(cwd: str) -> tuple[Workspace, str]:
    """Find and open the workspace that `cwd` is in; returns it and the package of `cwd`."""
    root = find_root(cwd)
    if root is None:
        raise InputError(
            "this is no workspace",
            hint="put a Boxfile.yaml with `workspace: {name: ...}` at its root",
        )
    workspace = workspace_at(root)
    return workspace, workspace.package_of(cwd)


def own_store(named: str | None) -> str:
    """Return the store that is meant, and from now on be able to read and remove what is in it.

    An ordinary user enters a user namespace: the files of a layer belong to many users. That
    changes who we are, so it comes before any thread and behind the question whose home this is.
    """
    place = named or default_store(os.environ, os.geteuid())
    if os.geteuid() != 0:
        from buildgraph.sandbox.userns import enter

        enter()
    return place
