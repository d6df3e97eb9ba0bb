"""Knows how a Boxfile is written: values -> YAML text that reads back as the same values; must not
know where the values came from.

What could not be said in a Boxfile stands in comments, so that nobody loses it without seeing it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct, field

Plain = str | bool | list["Plain"] | dict[str, "Plain"]

_BARE: Final = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.@+=-]*(?::[A-Za-z0-9_/.@+=-]+)*")
_WORDS: Final = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n", "."))
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_ODD: Final = re.compile(
    '["\\\\\x00-\x1f\x7f-\xa0\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff'
    "\ufffe\uffff]"
)
_WIDTH: Final = 80


class DraftTarget(Struct):
    """One target to be written; `notes` are said in comments above it."""

    name: str
    fields: dict[str, Plain] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    disabled: bool = False  # written as a comment: it could not be built as it is


class Draft(Struct):
    """One Boxfile to be written; `workspace` is the name of the workspace that begins there."""

    targets: list[DraftTarget] = field(default_factory=list)
    workspace: str | None = None
    variables: dict[str, str] = field(default_factory=dict)  # of the workspace; templates
    notes: list[str] = field(default_factory=list)


def write_boxfile(draft: Draft) -> str:
    """Return the text of a Boxfile; a pure function of its argument."""
    return "\n".join([*_lines(draft), ""])


def _lines(draft: Draft) -> Iterator[str]:
    yield from _comments(draft.notes, "")
    if draft.workspace is not None:
        yield from _workspace(draft.workspace, draft.variables)
    if not any(not target.disabled for target in draft.targets):
        if draft.targets:
            yield "targets: {}"
    else:
        yield "targets:"
    for target in draft.targets:
        yield from _comments(target.notes, "  ")
        body = [f"  {scalar(target.name)}:" + ("" if target.fields else " {}")]
        body += _mapping(target.fields, 4)
        if target.disabled:
            yield from (f"  # {line[2:]}" for line in body)
        else:
            yield from body


def _workspace(name: str, variables: Mapping[str, str]) -> Iterator[str]:
    if not variables:
        yield f"workspace: {{name: {scalar(name)}}}"
        return
    names: list[Plain] = [*variables]
    yield "workspace:"
    yield from _mapping({"name": name, "env": names, "vars": dict(variables)}, 2)


def _comments(notes: list[str], indent: str) -> Iterator[str]:
    for note in notes:
        for line in note.splitlines():
            yield f"{indent}# {_ODD.sub('?', line.replace(chr(34), chr(39)))}".rstrip()


def _mapping(values: Mapping[str, Plain], indent: int) -> Iterator[str]:
    for key, value in values.items():
        head = f"{' ' * indent}{scalar(key)}:"
        inline = _inline(value)
        if inline is not None and indent + len(head) + len(inline) <= _WIDTH:
            yield f"{head} {inline}"
        elif isinstance(value, dict):
            yield head
            yield from _mapping(value, indent + 2)
        elif isinstance(value, list):
            yield head
            yield from _list(value, indent + 2)
        elif isinstance(value, str) and _is_block(value):
            yield f"{head} |"
            yield from (f"{' ' * (indent + 2)}{x}".rstrip() for x in value[:-1].split("\n"))
        else:
            yield f"{head} {scalar(value)}"


def _list(items: list[Plain], indent: int) -> Iterator[str]:
    for item in items:
        inline = _inline(item)
        yield f"{' ' * indent}- {inline if inline is not None else scalar(str(item))}"


def _inline(value: Plain) -> str | None:
    """Return a value in one line, None for a text that is better a block."""
    if isinstance(value, dict):
        parts = [(scalar(key), _inline(inner)) for key, inner in value.items()]
        if any(inner is None for _, inner in parts):
            return None
        return "{" + ", ".join(f"{key}: {inner}" for key, inner in parts) + "}"
    if isinstance(value, list):
        items = [_inline(item) for item in value]
        return None if None in items else "[" + ", ".join(str(item) for item in items) + "]"
    return None if isinstance(value, str) and _is_block(value) else scalar(value)


def _is_block(text: str) -> bool:
    if "\n" not in text or not text.endswith("\n") or text.endswith("\n\n"):
        return False
    lines = text[:-1].split("\n")
    bad = any(_ODD.search(re.sub(r'["\\\t]', "", x)) or x != x.rstrip() for x in lines)
    return bool(lines[0]) and not lines[0][0].isspace() and not bad


def scalar(value: str | bool) -> str:
    """Return a text, a flag or a number as YAML reads it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return '"' + _ODD.sub(_escape, value) + '"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
