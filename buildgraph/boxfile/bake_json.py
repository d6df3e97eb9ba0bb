"""Knows the JSON form of a bake file: text -> the blocks that its HCL form would be; must not know
what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator

from buildgraph.boxfile import yaml
from buildgraph.boxfile.hcl import parse_template
from buildgraph.boxfile.hcl_nodes import Attribute, Block, Expression, Items, Literal, Object
from buildgraph.errors import InputError, Location, raise_all


def bake_json(text: str, path: str) -> Block:
    """Return a JSON bake file as the block that its HCL form would be."""
    errors: list[InputError] = []
    # YAML holds JSON, and its reader knows where everything stands.
    root = yaml.compose(text, path, errors)
    raise_all(errors)
    if not isinstance(root, yaml.Mapping):
        raise InputError("expected an object with 'target'", Location(path, 1, 1))
    attributes: list[Attribute] = []
    blocks: list[Block] = []
    for entry in root.entries:
        kind = entry.key.text
        if kind not in ("target", "group", "variable", "function"):
            blocks.append(Block(kind, (), (), (), entry.key.where))
            continue
        if not isinstance(entry.value, yaml.Mapping):
            raise InputError(f"{kind}: expected an object", entry.value.where)
        for inner in entry.value.entries:
            blocks.append(
                Block(kind, (inner.key.text,), tuple(_attributes(inner)), (), inner.key.where)
            )
    return Block("", (), tuple(attributes), tuple(blocks), root.where)


def _attributes(entry: yaml.Entry) -> Iterator[Attribute]:
    node = entry.value
    if isinstance(node, yaml.Sequence) and len(node.items) == 1:
        node = node.items[0]  # as `bake --print` of old wrote blocks
    if not isinstance(node, yaml.Mapping):
        raise InputError(f"{entry.key.text}: expected an object", node.where)
    for inner in node.entries:
        yield Attribute(inner.key.text, _expression(inner.value), inner.key.where)


def _expression(node: yaml.Node) -> Expression:
    match node:
        case yaml.Mapping():
            entries = tuple(
                (Literal(e.key.text, e.key.where), _expression(e.value)) for e in node.entries
            )
            return Object(entries, node.where)
        case yaml.Sequence():
            return Items(tuple(_expression(item) for item in node.items), node.where)
        case yaml.Scalar():
            if not node.plain:
                return parse_template(node.text, node.where)
            if node.text in ("true", "false"):
                return Literal(node.text == "true", node.where)
            return Literal(None if node.empty else node.text, node.where)
