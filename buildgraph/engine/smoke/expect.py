"""Knows when a text is what was expected, and the words where it is not; must not know where the
text came from.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from buildgraph.boxfile.smoke import Expected
from buildgraph.boxfile.smoke_checks import path_steps

_SHOWN: Final = 200
_LINE: Final = 120


def shorten(text: str, length: int = _LINE) -> str:
    """Return a text for a message, in quotes, cut where nobody would read on."""
    return repr(text if len(text) <= length else text[: length - 1] + "…")


def complaints(data: bytes, expected: Expected, what: str) -> list[str]:
    """Return what of `expected` does not hold for a text called `what`."""
    if expected.anything:
        return []
    text = data.decode("utf-8", "surrogateescape")
    out = [
        f"{what} does not contain {shorten(each)}" for each in expected.contains if each not in text
    ]
    out += [
        f"{what} does not match {shorten(each)}"
        for each in expected.matches
        if not re.search(each, text, re.MULTILINE)
    ]
    for each in expected.excludes:
        found = re.search(each, text, re.MULTILINE)
        if found:
            out.append(f"{what} matches {shorten(each)}: {shorten(found[0])}")
    if expected.equals is not None and text.removesuffix("\n") != expected.equals.removesuffix(
        "\n"
    ):
        out.append(f"{what} is {shorten(text, _SHOWN)}, not {shorten(expected.equals, _SHOWN)}")
    return out


class NoPath(Exception):
    """A JSON value has nothing at a path."""


def at_path(value: Any, path: str) -> Any:
    """Return what is at `$.a[0].b`. Raises NoPath, with how far it went."""
    done = "$"
    for step in path_steps(path) or ():
        name = f"[{step}]" if isinstance(step, int) else f".{step}"
        try:
            if isinstance(step, int) and isinstance(value, list):
                value = value[step]
            elif isinstance(value, dict):
                value = value[str(step)]
            else:
                raise NoPath(f"{done} is {as_text(value)}, which has no {name}")
        except (KeyError, IndexError):
            raise NoPath(f"{done} has no {name}") from None
        done += name
    return value


def as_text(value: Any) -> str:
    """Return a JSON value as one would write it in a Boxfile: a text without its quotes."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def json_complaints(data: bytes, wanted: tuple[tuple[str, str], ...]) -> list[str]:
    """Return which of (path, value) do not hold; values are compared as texts (`3`, `true`)."""
    if not wanted:
        return []
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ["the answer is not JSON"]
    out: list[str] = []
    for path, text in wanted:
        try:
            found = as_text(at_path(value, path))
        except NoPath as missing:
            out.append(f"json {path}: {missing}")
            continue
        if found != text:
            out.append(f"json {path} is {shorten(found)}, not {shorten(text)}")
    return out
