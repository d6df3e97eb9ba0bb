"""Knows what HCL is made of, as values that remember where they stand; must not know its syntax or
what it is for.
"""

from __future__ import annotations

from dataclasses import dataclass

from buildgraph.errors import Location


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as it is: text, number, flag or null."""

    value: str | int | float | bool | None
    where: Location


@dataclass(frozen=True, slots=True)
class Template:
    """A text with expressions in it."""

    parts: tuple[Expression, ...]
    where: Location


@dataclass(frozen=True, slots=True)
class Reference:
    """A name and what is taken of it: `item.os`, `item["os"]`, `list[0]`."""

    name: str
    path: tuple[str | int, ...]
    where: Location


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Expression, ...]
    where: Location


@dataclass(frozen=True, slots=True)
class Object:
    """A mapping; a key may be an expression too."""

    entries: tuple[tuple[Expression, Expression], ...]
    where: Location


@dataclass(frozen=True, slots=True)
class Choice:
    """`condition ? yes : no`."""

    condition: Expression
    yes: Expression
    no: Expression
    where: Location


@dataclass(frozen=True, slots=True)
class Operation:
    """`left sign right`, or `!right`."""

    sign: str
    left: Expression | None
    right: Expression
    where: Location


@dataclass(frozen=True, slots=True)
class Call:
    """`name(...)`; its arguments are not kept."""

    name: str
    where: Location


Expression = Literal | Template | Reference | Items | Object | Choice | Operation | Call


@dataclass(frozen=True, slots=True)
class Attribute:
    """`name = value`."""

    name: str
    value: Expression
    where: Location


@dataclass(frozen=True, slots=True)
class Block:
    """`kind "label" { ... }`."""

    kind: str
    labels: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    blocks: tuple[Block, ...]
    where: Location
