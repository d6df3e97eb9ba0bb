"""Knows how the types of the table of keys are called in lists of them; must not know the keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from buildgraph.boxfile import schema

_WORDS: Final[Mapping[type[schema.Type], str]] = {
    schema.Text: "text",
    schema.Bool: "bool",
    schema.Int: "int",
    schema.Decimal: "number",
    schema.Size: "size",
    schema.Duration: "duration",
    schema.LabelRef: "label",
    schema.PatternRef: "pattern",
    schema.Audience: "label or pattern",
    schema.ContextPlace: "context",
    schema.FilePath: "file",
    schema.DirPath: "directory",
    schema.PackageName: "package",
    schema.PlatformName: "platform",
}


def type_words(kind: schema.Type) -> str:
    """Return a type in a few words: `list of text`, `none|host|default`, `{id, env, src}`."""
    match kind:
        case schema.Choice(values):
            return "|".join(values)
        case schema.ListOf(item):
            return f"list of {type_words(item)}"
        case schema.MapOf(value):
            return f"map of {type_words(value)}"
        case schema.Record(fields):
            return "{" + ", ".join(field.name for field in fields) + "}"
        case schema.ByShape():
            ways = [way for way in (kind.scalar, kind.sequence, kind.mapping) if way is not None]
            return " or ".join(type_words(way) for way in ways)
        case _:
            return _WORDS[type(kind)]


def default_words(attribute: schema.Attribute) -> str:
    """Return the default in words, "" where there is none to speak of."""
    match attribute.default:
        case None | () | "":
            return ""
        case bool(flag):
            return "true" if flag else "false"
        case found:
            return str(found)
