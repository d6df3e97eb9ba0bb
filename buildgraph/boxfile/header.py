"""Knows what the root's Boxfile says of the workspace as a whole, and which names templates have
from it; must not know targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.boxfile import schema, values, wording, yaml
from buildgraph.boxfile.rendering import STAMP, Names, Surroundings
from buildgraph.boxfile.target import Value, text_of
from buildgraph.boxfile.template import is_template
from buildgraph.errors import Location

_LATER: Final = "the workspace knows no {0}: only targets do"
_REFUSED: Final = {name: _LATER.format(name) for name in ("package", "target", "matrix")} | {
    STAMP: "what git says cannot be a variable: write it where it is used"
}


class RegistryEntry(Struct, frozen=True):
    """How one registry is spoken to; `ca` is a path from the workspace's root."""

    mirrors: tuple[str, ...] = ()
    insecure: bool = False
    ca: str | None = None


class Header(Struct, frozen=True):
    """What the root file says of the workspace; `rules` are packages with rules of its own."""

    where: Location
    name: str | None = None
    vars: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    registry: str | None = None
    registries: Mapping[str, RegistryEntry] = field(default_factory=lambda: MappingProxyType({}))
    rules: tuple[Value, ...] = ()


def names_of(header: Header, around: Surroundings) -> Names:
    """Return the names that every template of the workspace has."""
    workspace = {"name": header.name or around.name}
    if header.registry is not None:
        workspace["registry"] = header.registry
    known = {
        "vars": dict(header.vars),
        "workspace": workspace,
        "env": around.variables,
        STAMP: around.git,
    }
    return Names(known, around.read, {"matrix": "this target has no matrix"})


def read_header(entry: yaml.Entry, scope: values.Scope, around: Surroundings | None) -> Header:
    """Return what `workspace:` says; without `around` braces are text."""
    if isinstance(entry.value, yaml.Scalar) and entry.value.empty:
        return Header(entry.key.where)
    keys = values.Keys(
        schema.WORKSPACE.fields, "workspace", schema.LATER_WORKSPACE, extensions=True
    )
    if not isinstance(entry.value, yaml.Mapping):
        words = wording.found(entry.value)
        scope.error(
            f"workspace: expected a mapping, found {words}",
            entry.value.where,
            "write workspace: {name: shop}",
        )
        return Header(entry.key.where)
    if around is not None:
        scope = replace(scope, names=_own_names(entry.value, scope, around))
    fields = values.parse_fields(entry.value.entries, keys, entry.key.where, scope)
    variables = fields["vars"].data
    pairs = variables if isinstance(variables, Mapping) else {}
    return Header(
        entry.key.where,
        _optional_text(fields["name"]),
        MappingProxyType({name: text_of(value) for name, value in pairs.items()}),
        _optional_text(fields["registry"]),
        MappingProxyType(_registries(fields["registries"])),
        rules if isinstance(rules := fields["rules"].data, tuple) else (),
    )


def _own_names(node: yaml.Mapping, scope: values.Scope, around: Surroundings) -> Names:
    """Return the names that the header itself has: variables, each from those above it."""
    quiet = values.Scope(scope.package)  # what is wrong is reported when all is parsed
    declared = node.get("env")
    if declared is not None:
        kind = next(one.type for one in schema.WORKSPACE.fields if one.name == "env")
        value = values.parse_value(declared.value, kind, "env", quiet)
        items = value.data if value is not None and isinstance(value.data, tuple) else ()
        around.variables.names = frozenset(text_of(item) for item in items)
    known: dict[str, Any] = {"env": around.variables, "vars": {}}
    name = node.get("name")
    if name and isinstance(name.value, yaml.Scalar) and not is_template(name.value.text):
        known["workspace"] = {"name": name.value.text}
    names = Names(known, around.read, _REFUSED)
    written = node.get("vars")
    if written is not None and isinstance(written.value, yaml.Mapping):
        inner = replace(scope, names=names)
        for entry in written.value.entries:
            value = values.parse_value(
                entry.value, schema.Text(multiline=True), f"vars.{entry.key.text}", inner
            )
            if value is not None:
                known["vars"][entry.key.text] = text_of(value)
    return names


def _registries(found: Value) -> dict[str, RegistryEntry]:
    """Return the registries of the header by `host[:port]`."""
    data = found.data
    out: dict[str, RegistryEntry] = {}
    for name, entry in data.items() if isinstance(data, Mapping) else ():
        fields = entry.data
        assert isinstance(fields, Mapping)
        mirrors = fields["mirrors"].data
        assert isinstance(mirrors, tuple)
        out[name] = RegistryEntry(
            tuple(text_of(mirror) for mirror in mirrors),
            fields["insecure"].data is True,
            _optional_text(fields["ca"]),
        )
    return out


def _optional_text(value: Value) -> str | None:
    return None if value.data is None else text_of(value)
