"""Knows which kind of screen a build gets and what all kinds promise; must not know how any of them
draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol, TextIO

from buildgraph.cli.console import is_terminal
from buildgraph.cli.entry import report
from buildgraph.errors import BuildgraphError
from buildgraph.events import Event

Mode = Literal["auto", "tty", "plain", "json", "quiet"]

# BUILDKIT_PROGRESS's words, so that existing CI set-ups keep their meaning.
_BUILDKIT: Mapping[str, Mode] = {
    "tty": "tty",
    "plain": "plain",
    "quiet": "quiet",
    "none": "quiet",
    "rawjson": "json",
}


class Screen(Protocol):
    """Shows events; a listener.

    Calls are thread-safe, never raise and never wait for whoever reads. Whoever makes one closes
    it, after the last event, also when the build raised.
    """

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        ...

    def close(self) -> None:
        """Show what is still to be shown and leave the streams as they were; idempotent."""
        ...

    def has_shown(self, error: BuildgraphError) -> bool:
        """Say whether a person has seen this error in full (once closed), so need not again."""
        ...


def report_rest(screen: Screen, errors: Iterable[BuildgraphError]) -> int:
    """Report failures of a build that its closed screen has not shown; returns the exit code."""
    code = 0
    for error in errors:
        if not screen.has_shown(error):
            report(error)
        code = max(code, error.exit_code)
    return code


def make_listener(mode: str, out: TextIO, err: TextIO, env: Mapping[str, str]) -> Screen:
    """Return the screen for `mode` ("auto", "tty", "plain", "json" or "quiet").

    People read `err`; programs read `out`, which gets JSON lines and nothing else. The live view
    needs a terminal that can move its cursor, and gives way to plain lines elsewhere.
    """
    if mode == "auto":
        mode = _BUILDKIT.get(env.get("BUILDKIT_PROGRESS", ""), "auto")
    if mode == "json":
        from buildgraph.cli.progress_json import JsonScreen

        return JsonScreen(out)
    if mode == "quiet":
        from buildgraph.cli.progress_plain import QuietScreen

        return QuietScreen(err, env)
    if _can_draw(err, env) and (mode == "tty" or (mode == "auto" and not _in_ci(env))):
        from buildgraph.cli.progress_live import LiveScreen

        return LiveScreen(err, env)
    if env.get("GITLAB_CI", "") == "true":
        from buildgraph.cli.progress_gitlab import GitlabScreen

        return GitlabScreen(err, env)
    from buildgraph.cli.progress_plain import PlainScreen

    return PlainScreen(err, env)


def _can_draw(err: TextIO, env: Mapping[str, str]) -> bool:
    return is_terminal(err) and env.get("TERM", "") not in ("", "dumb")


def _in_ci(env: Mapping[str, str]) -> bool:
    return env.get("CI", "").lower() not in ("", "0", "false")
