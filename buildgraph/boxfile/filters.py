"""Knows what stands behind `|` in a template: a closed list of functions of plain data; must not
know how a template is read.

Each says what it makes before it makes it where that could be large: `replace`, `join`, `indent`.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Callable
from typing import Any, Final

from buildgraph import limits


class FilterError(Exception):
    """A filter cannot do it."""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise FilterError("expected a text")


def _list(value: Any) -> list[Any]:
    if isinstance(value, list | dict):
        return list(value)
    raise FilterError("expected a list")


def _bounded(size: int) -> None:
    if size > limits.TEMPLATE_OUTPUT:
        raise FilterError(f"more than {limits.TEMPLATE_OUTPUT} characters")


def _join(value: Any, separator: Any = "") -> str:
    items, between = [_text(item) for item in _list(value)], _text(separator)
    _bounded(sum(map(len, items)) + len(between) * len(items))
    return between.join(items)


def _replace(value: Any, old: Any, new: Any) -> str:
    text, before, after = _text(value), _text(old), _text(new)
    _bounded(len(text) + text.count(before) * len(after))
    return text.replace(before, after)


def _indent(value: Any, width: Any = 4, first: Any = False) -> str:
    text = _text(value)
    if type(width) is not int or not 0 <= width <= 100:
        raise FilterError("the width is a number up to 100")
    _bounded(len(text) + (text.count("\n") + 1) * width)
    blank = " " * width
    out = text.replace("\n", f"\n{blank}")
    return blank + out if first else out


def _split(value: Any, separator: Any = " ") -> list[Any]:
    text, between = _text(value), _text(separator)
    if not between:
        raise FilterError("the separator is empty")
    return list(text.split(between))


def _int(value: Any) -> int:
    text = _text(value)
    try:
        return int(text) if len(text) <= 20 else int("")
    except ValueError:
        raise FilterError(f"{text[:40]!r} is not a whole number") from None


def _length(value: Any) -> int:
    if isinstance(value, str | list | dict):
        return len(value)
    raise FilterError("expected a text or a list")


def _end(index: int) -> Callable[[Any], Any]:
    def pick(value: Any) -> Any:
        items = _list(value)
        if not items:
            raise FilterError("the list is empty")
        return items[index]

    return pick


def _sort(value: Any) -> list[Any]:
    try:
        return sorted(_list(value))
    except TypeError:
        raise FilterError("texts and numbers do not compare") from None


def _unique(value: Any) -> list[Any]:
    items = _list(value)
    return list(dict.fromkeys(_text(item) for item in items))


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [[key, item] for key, item in value.items()]
    raise FilterError("expected a mapping")


def _json(value: Any) -> str:
    flat = list(value.values()) if isinstance(value, dict) else value
    for item in flat if isinstance(flat, list) else [flat]:
        if not isinstance(item, str | int | None):
            raise FilterError("expected a text, or a list or a mapping of texts")
    return json.dumps(value, ensure_ascii=False)


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "basename": lambda value: posixpath.basename(_text(value)),
    "capitalize": lambda value: _text(value).capitalize(),
    "default": lambda value: value,  # the evaluator's own: it has to see what is missing
    "dirname": lambda value: posixpath.dirname(_text(value)),
    "first": _end(0),
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _end(-1),
    "length": _length,
    "list": _list,
    "lower": lambda value: _text(value).lower(),
    "quote": lambda value: shlex.quote(_text(value)),
    "replace": _replace,
    "reverse": lambda value: _list(value)[::-1],
    "sort": _sort,
    "split": _split,
    "string": _text,
    "tojson": _json,
    "trim": lambda value: _text(value).strip(),
    "unique": _unique,
    "upper": lambda value: _text(value).upper(),
}
