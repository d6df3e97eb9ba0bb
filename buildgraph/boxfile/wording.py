"""Knows the words of messages about values: what was written, what was wanted; must not know when a
value is wrong.
"""

from __future__ import annotations

from typing import Final, assert_never

from buildgraph.boxfile import schema, yaml

_QUOTED: Final = 80


def quoted(text: str) -> str:
    """Return a text of the user's for a message, cut where nobody would read on."""
    return repr(text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…")


def found(node: yaml.Node) -> str:
    """Return words for what a node is."""
    match node:
        case yaml.Scalar():
            if node.empty:
                return "nothing"
            return quoted(node.text)
        case yaml.Sequence():
            return "a list"
        case yaml.Mapping():
            return "a mapping"
        case _:
            assert_never(node)


def wanted(kind: schema.Type) -> str:
    """Return words for what a type takes."""
    match kind:
        case schema.Text():
            return kind.expected
        case schema.Choice():
            return "one of " + ", ".join(kind.values)
        case schema.ListOf(single=True):
            return f"{wanted(kind.item)} or a list of such"
        case schema.ByShape():
            ways = (kind.scalar, kind.sequence, kind.mapping)
            return " or ".join(wanted(way) for way in ways if way is not None)
        case _:
            return _WORDS[type(kind)]


_WORDS: Final[dict[type[schema.Type], str]] = {
    schema.Bool: "true or false",
    schema.Int: "a whole number",
    schema.Decimal: "a number above 0",
    schema.Size: "a size such as 256M",
    schema.Duration: "a duration such as 30s",
    schema.LabelRef: "a label",
    schema.PatternRef: "a label or a pattern",
    schema.Audience: "public, private, a label or a pattern",
    schema.ContextPlace: "a label, a directory or an OCI layout",
    schema.FilePath: "the path of a file",
    schema.DirPath: "the path of a directory",
    schema.PackageName: "the name of a package",
    schema.PlatformName: "a platform such as linux/amd64",
    schema.ListOf: "a list",
    schema.MapOf: "a mapping",
    schema.Record: "a mapping",
}
