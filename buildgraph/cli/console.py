"""Knows how an error is drawn, compiler style, and when colour is wanted; must not know where
errors come from, nor print.

    error: unknown key 'dokerfile'
      --> app/Boxfile.yaml:12:7
       |
    12 |       dokerfile: Dockerfile
       |       ^^^^^^^^^
    hint: did you mean 'dockerfile'?
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from msgspec.structs import replace

from buildgraph.cli.escape import clip, no_commands, safe, width
from buildgraph.cli.words import plural
from buildgraph.errors import BuildFailed, BuildgraphError, InputErrors, Location

LOG_LINES: Final = 20
_FALLBACK_COLUMNS: Final = 120  # for a source line, where nothing says how wide the reader is
_TAB: Final = 4

_RED, _YELLOW, _BLUE, _CYAN, _DIM = "1;31", "1;33", "1;34", "1;36", "2"


class Stream(Protocol):
    """What we ask of a stream."""

    def isatty(self) -> bool:
        """Say whether a person looks at it."""
        ...


def wants_color(stream: Stream, env: Mapping[str, str]) -> bool:
    """Return whether to write colours to `stream`.

    NO_COLOR beats FORCE_COLOR and CLICOLOR_FORCE, which beat what the stream is; then CLICOLOR=0
    and TERM=dumb say no. Sources: no-color.org, bixense.com/clicolors, force-color.org.
    """
    if env.get("NO_COLOR"):
        return False
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        if env.get(name, "0") not in ("", "0", "false"):
            return True
    if env.get("CLICOLOR") == "0" or env.get("TERM") == "dumb":
        return False
    return is_terminal(stream)


def is_terminal(stream: Stream) -> bool:
    """Return whether `stream` is a terminal; a closed stream is none."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def columns(env: Mapping[str, str], descriptor: int | None = None) -> int:
    """Return how wide the reader's window is: COLUMNS, else the terminal's, else a fallback."""
    try:
        given = int(env.get("COLUMNS", ""))
    except ValueError:
        given = 0
    if given > 0:
        return given
    if descriptor is None:
        return shutil.get_terminal_size((_FALLBACK_COLUMNS, 24)).columns or _FALLBACK_COLUMNS
    try:
        return os.get_terminal_size(descriptor).columns or _FALLBACK_COLUMNS
    except OSError:
        return _FALLBACK_COLUMNS


def render_error(
    error: BuildgraphError, color: bool = False, env: Mapping[str, str] | None = None
) -> str:
    """Return the whole report of `error`, ending in a newline; `env` says COLUMNS.

    All of several input errors are drawn, and counted. Text of files, of output and of messages
    is made safe for terminals and CI systems.
    """
    paint = _Paint(color, max(columns(os.environ if env is None else env), 40))
    if isinstance(error, InputErrors) and error.errors:
        reports = ["\n".join(_one(each, paint)) for each in error.errors]
        reports.append(paint(_RED, plural(len(error.errors), "error")))
        return "\n\n".join(reports) + "\n"
    return "\n".join(_one(error, paint)) + "\n"


def render_finding(
    level: str,
    message: str,
    where: Location,
    notes: Iterable[tuple[str, str]] = (),
    *,
    color: bool = False,
    env: Mapping[str, str] | None = None,
) -> str:
    """Return what is said about a place in the form of an error, ending in a newline.

    `level` is its first word; each note is a word and a text that stand below the source line.
    """
    paint = _Paint(color, max(columns(os.environ if env is None else env), 40))
    style = _RED if level == "error" else _YELLOW
    lines = [f"{paint(style, level + ':')} {_text(message)}", *_place(where, paint)]
    lines += [f"{paint(_CYAN, word + ':')} {_text(text)}" for word, text in notes]
    return "\n".join(lines) + "\n"


class _Paint:
    """Puts colour on text, or not."""

    def __init__(self, color: bool, room: int):
        self.color = color
        self.room = room

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.color else text


def _one(error: BuildgraphError, paint: _Paint) -> Iterator[str]:
    message = _text(error.message)
    if isinstance(error, BuildFailed) and error.label and error.label not in error.message:
        message = f"{_text(error.label)}: {message}"
    yield f"{paint(_RED, 'error:')} {message}"
    if error.where is not None:
        yield from _place(error.where, paint)
    if isinstance(error, BuildFailed):
        yield from _log(error.log, paint)
    if error.hint:
        yield f"{paint(_CYAN, 'hint:')} {_text(error.hint)}"
    if isinstance(error, BuildFailed) and error.replay:
        yield f"{paint(_CYAN, 'replay:')} {_text(error.replay)}"


def without_logins(where: Location) -> Location:
    """Return a place whose line shows no login of a URL; its columns stay where they are."""
    if "@" not in where.text:
        return where
    from buildgraph.transport.urls import mask_logins  # of few lines, so it is rarely loaded

    return replace(where, text=mask_logins(where.text))


def _text(text: str) -> str:
    """Return words of ours with pieces of theirs; lines after the first are indented."""
    return no_commands(safe(text, newlines=True)).replace("\n", "\n  ")


def _place(where: Location, paint: _Paint) -> Iterator[str]:
    number = f"{where.line:>2}" if where.text and where.line else ""
    margin = " " * len(number)
    yield f"{margin or '  '}{paint(_BLUE, '-->')} {safe(str(where))}"
    if not number:
        return
    bar = paint(_BLUE, "|")
    source, marks = _caret(where, paint.room - len(number) - 3)
    yield f"{margin} {bar}"
    yield f"{paint(_BLUE, number)} {bar} {source}".rstrip()
    if marks:
        yield f"{margin} {bar} {paint(_RED, marks)}"


def _caret(where: Location, room: int) -> tuple[str, str]:
    """Return the source line as shown and the line of carets below it.

    A long line is cut around the place, so that both fit into `room` columns.
    """
    text = without_logins(where).text.rstrip("\r\n")
    if not where.column:
        body = text.strip()
        shown = clip(_visible(text.rstrip()), room)
        start = len(shown) - len(shown.lstrip())
        return shown, (" " * start + "^" * max(width(shown) - start, 1)) if body else ""
    first = min(max(where.column - 1, 0), len(text))
    last = min(max(where.end_column - 1, first + 1), max(len(text), first + 1))
    before, marked, after = text[:first], text[first:last], text[last:]
    before, marked, after = _visible(before), _visible(marked), _visible(after)
    if width(before) + width(marked) > room:  # keep what is marked in sight
        marked = clip(marked, room * 2 // 3)
        keep = max(room - width(marked) - room // 4, 0)
        if width(before) > keep:
            before = "…" + _tail(before, max(keep - 1, 0))
    shown = clip(before + marked + after, room)
    return shown, " " * width(before) + "^" * max(width(marked), 1)


def _visible(text: str) -> str:
    """Return `text` in safe form, tabs as a fixed number of spaces so that carets stay true."""
    return safe(text.replace("\t", " " * _TAB))


def _tail(text: str, room: int) -> str:
    while width(text) > room:
        text = text[1:] if width(text) - room < 64 else text[width(text) - room - 1 :]
    return text


def _log(log: tuple[str, ...], paint: _Paint) -> Iterator[str]:
    if not log:
        return
    last = log[-LOG_LINES:]
    yield paint(_DIM, f"its last {plural(len(last), 'line')} of output:")
    for line in last:
        yield "  " + no_commands(safe(line, color=paint.color))
