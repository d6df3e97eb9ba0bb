"""Knows what HCL is made of, as values that remember where they stand; must not know its syntax or
what it is for.
"""

from __future__ import annotations

from msgspec import Struct

from buildgraph.errors import Location


class Literal(Struct, frozen=True):
    """A value as it is: text, number, flag or null."""

    value: str | int | float | bool | None
    where: Location


class Template(Struct, frozen=True):
    """A text with expressions in it."""

    parts: tuple[Expression, ...]
    where: Location


class Reference(Struct, frozen=True):
    """A name and what is taken of it: `item.os`, `item["os"]`, `list[0]`."""

    name: str
    path: tuple[str | int, ...]
    where: Location


class Items(Struct, frozen=True):
    """A list."""

    items: tuple[Expression, ...]
    where: Location


class Object(Struct, frozen=True):
    """A mapping; a key may be an expression too."""

    entries: tuple[tuple[Expression, Expression], ...]
    where: Location


class Choice(Struct, frozen=True):
    """`condition ? yes : no`."""

    condition: Expression
    yes: Expression
    no: Expression
    where: Location


class Operation(Struct, frozen=True):
    """`left sign right`, or `!right`."""

    sign: str
    left: Expression | None
    right: Expression
    where: Location


class Call(Struct, frozen=True):
    """`name(...)`; its arguments are not kept."""

    name: str
    where: Location


Expression = Literal | Template | Reference | Items | Object | Choice | Operation | Call


class Attribute(Struct, frozen=True):
    """`name = value`."""

    name: str
    value: Expression
    where: Location


class Block(Struct, frozen=True):
    """`kind "label" { ... }`."""

    kind: str
    labels: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    blocks: tuple[Block, ...]
    where: Location
