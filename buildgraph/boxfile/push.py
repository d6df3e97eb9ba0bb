"""Knows what a target of the rule `push` says; must not know registries, nor other targets."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from buildgraph.boxfile.target import Located, Target, Value, text_of
from buildgraph.errors import Location
from buildgraph.label import Label

IfExists = Literal["retag", "skip", "fail"]


class Needed(Struct, frozen=True):
    """A target that a push names, and where."""

    label: Label
    where: Location


class PushTarget(Struct, frozen=True, kw_only=True):
    """A target of the rule `push`; without `tags` the image's own count."""

    label: Label
    where: Location
    image: Needed
    tags: tuple[Located, ...]
    if_exists: IfExists
    requires: tuple[Needed, ...]


def push_target(target: Target) -> PushTarget:
    """Return the typed view of a target of the rule `push`."""
    return PushTarget(
        label=target.label,
        where=target.where,
        image=_needed(target.value("image")),
        tags=tuple(Located(text_of(item), item.where) for item in target.items("tags")),
        if_exists=_if_exists(target.text("if_exists")),
        requires=tuple(_needed(item) for item in target.items("requires")),
    )


def _needed(value: Value) -> Needed:
    if not isinstance(value.data, Label):
        raise TypeError(f"{value.where}: no label")
    return Needed(value.data, value.where)


def _if_exists(text: str | None) -> IfExists:
    match text:
        case "skip" | "fail":
            return text
        case _:
            return "retag"
