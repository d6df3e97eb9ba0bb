"""Knows the options that several commands share and how their texts become values; must not know
what a command does with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from buildgraph.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])

# docker's words and ours.
_PROGRESS_MODES = ("auto", "tty", "plain", "json", "quiet", "rawjson", "none")
_OURS = {"rawjson": "json", "none": "quiet"}


def store_option(command: F) -> F:
    """Add `--store DIR`."""
    return click.option(
        "--store",
        metavar="DIR",
        default=None,
        help="Where layers and records are kept [default: $XDG_CACHE_HOME/buildgraph; "
        "root: /var/lib/buildgraph].",
    )(command)


def progress_option(command: F) -> F:
    """Add `--progress MODE`; the command gets our word for it."""
    return click.option(
        "--progress",
        type=click.Choice(_PROGRESS_MODES),
        default="auto",
        show_default=True,
        callback=lambda _context, _parameter, word: _OURS.get(word, word),
        help="How to show what goes on.",
    )(command)


def afterwards_options(command: F) -> F:
    """Add `--profile FILE` and `--report FILE`."""
    report = click.option(
        "--report",
        metavar="FILE",
        help="Write a page about it there: HTML with timeline, graph, reasons and logs.",
    )
    return click.option(
        "--profile",
        metavar="FILE",
        help="Write who did what when there: Chrome's trace format, for Perfetto.",
    )(report(command))


def parse_pairs(
    texts: tuple[str, ...], flag: str, environ: Mapping[str, str] | None = None
) -> tuple[tuple[str, str], ...]:
    """Parse `NAME=value` texts; with `environ`, a bare NAME takes its value from there.

    A bare name that the environment does not have is left out, as docker does.
    """
    out: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or (not equals and environ is None):
            raise InputError(f"{flag} {text}: expected NAME=VALUE")
        if equals:
            out.append((name, value))
        elif environ is not None and name in environ:
            out.append((name, environ[name]))
    return tuple(out)
