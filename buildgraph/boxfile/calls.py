"""Knows what a target of a rule that is a template comes to: which attributes are the rule's and
which the image's, and what its templates know; must not know how a rule's file is read.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from buildgraph.boxfile.extends import merge
from buildgraph.boxfile.schema import Attribute, DirPath, FilePath, RuleBody, RuleSpec, Type
from buildgraph.boxfile.schema import ListOf as _ListOf
from buildgraph.boxfile.schema import MapOf as _MapOf
from buildgraph.boxfile.target import Block, NamedPath, Value
from buildgraph.boxfile.yaml import Entry
from buildgraph.errors import InputError, Location
from buildgraph.label import Label


def own_attributes(spec: RuleSpec, body: RuleBody) -> tuple[Attribute, ...]:
    """Return the attributes that the rule itself has."""
    return tuple(one for one in spec.attributes if one.name in body.own)


def own_entries(entries: Sequence[Entry], body: RuleBody) -> list[Entry]:
    """Return what a target says to the rule, over the rule's defaults."""
    return merge(body.defaults, [entry for entry in entries if entry.key.text in body.own])


def image_entries(entries: Sequence[Entry], body: RuleBody) -> list[Entry]:
    """Return the attributes of the image: the rule's, and over them what the target says."""
    return merge(body.image, [entry for entry in entries if entry.key.text not in body.own])


def beside(name: str, further: str) -> str:
    """Return the name of a further target: `app.smoke` of `app`, a matrix suffix staying last."""
    base, at, pairs = name.partition("@")
    return f"{base}.{further}{at}{pairs}"


def template_names(
    fields: Mapping[str, Value], attributes: Iterable[Attribute], label: Label, body: RuleBody
) -> dict[str, Any]:
    """Return the names that the rule's templates have beside everybody's.

    Paths are relative to the target's directory, which is the context unless somebody says
    otherwise; labels are whole. `self` is the target's label, `beside` those of further targets.
    """
    others = {
        one.key: str(Label(label.package, beside(label.name, one.key))) for one in body.targets
    }
    known: dict[str, Any] = {"self": str(label), "beside": others}
    for attribute in attributes:
        value = fields.get(attribute.name)
        if value is not None:
            known[attribute.name] = _plain(value, attribute.type, label.package)
    return known


def paths_of(
    fields: Mapping[str, Value], attributes: Iterable[Attribute], call: Location
) -> tuple[NamedPath, ...]:
    """Return the files and directories that a target itself gives to its rule."""
    found: list[NamedPath] = []
    for attribute in attributes:
        value, kind = fields.get(attribute.name), attribute.type
        items = [value] if value is not None else []
        if isinstance(kind, _ListOf):
            items = [i for one in items if isinstance(one.data, tuple) for i in one.data]
            kind = kind.item
        if isinstance(kind, FilePath | DirPath):
            name = "file" if isinstance(kind, FilePath) else "directory"
            here = [one for one in items if one.where.path == call.path]
            found += [(one.data, one.where, name) for one in here if isinstance(one.data, str)]
    return tuple(found)


def _plain(value: Value, kind: Type, package: str) -> Any:
    data = value.data
    if isinstance(kind, _ListOf):
        items = data if isinstance(data, tuple) else ()
        return [_plain(item, kind.item, package) for item in items]
    if isinstance(kind, _MapOf):
        entries = data if isinstance(data, Mapping) else {}
        return {key: _plain(item, kind.value, package) for key, item in entries.items()}
    match data:
        case Block(text):
            return text
        case str(path) if isinstance(kind, FilePath | DirPath):
            return posixpath.relpath(path or ".", package or ".")
        case None | bool() | int() | str():
            return data
        case Label():
            return str(data)
        case _:
            raise TypeError(f"{value.where}: nothing for a template")


def tell_call(errors: Iterable[InputError], body: RuleBody, call: Location) -> None:
    """Say in errors of the rule's file who called it."""
    for error in errors:
        told = f"called at {call}"
        if error.where is not None and error.where.path == body.path:
            if told not in (error.hint or ""):
                error.hint = f"{error.hint}; {told}" if error.hint else told
