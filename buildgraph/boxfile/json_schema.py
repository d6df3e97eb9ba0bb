"""Knows how the table of keys is written as a JSON Schema (draft 2020-12), for editors; must not
know any key by itself.

The schema is a little wider than `load`: what depends on other values (paths, labels, sums) it
cannot say, and a template may stand wherever a scalar may. `$id` is left out: it is a file of the
workspace's, not of a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, assert_never

from buildgraph.boxfile import schema

Json = dict[str, Any]

_TEMPLATE: Final = r"\{\{|\{%"
_ANY_TEMPLATE: Final[Json] = {"type": "string", "pattern": _TEMPLATE}
_PLAIN: Final = ["string", "number", "boolean"]  # all of them keep their text
_EXTENSION: Final = "^x-"


def boxfile_schema(rules: Mapping[str, schema.RuleSpec]) -> Json:
    """Return the schema of a Boxfile whose targets may be of these rules."""
    target = {"$ref": "#/$defs/target", "unevaluatedProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Boxfile.yaml",
        "type": ["object", "null"],
        "properties": {
            "workspace": _nullable(_record(schema.WORKSPACE, open_ended=True)),
            "package": _nullable(_package(rules)),
            "targets": _nullable(
                {
                    "type": "object",
                    "propertyNames": {"pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"},
                    "additionalProperties": _nullable(target),
                }
            ),
        },
        "patternProperties": {_EXTENSION: True},
        "if": {"required": ["targets"]},
        "else": {"$ref": "#/$defs/target"},
        "unevaluatedProperties": False,
        "$defs": {
            "target": _target(rules),
            **{f"rule.{rule.name}": _rule(rule) for rule in rules.values()},
        },
    }


def _target(rules: Mapping[str, schema.RuleSpec]) -> Json:
    properties = _properties(schema.COMMON)
    properties["rule"] = {
        "enum": list(rules),
        "description": properties["rule"]["description"],
        "default": "image",
    }
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": {_EXTENSION: True},
        "allOf": [_chosen(rule) for rule in rules.values()],
        # Its rule is that of what it extends, which is written elsewhere.
        "if": {"required": ["extends"], "not": {"required": ["rule"]}},
        "then": {"anyOf": [{"$ref": f"#/$defs/rule.{rule.name}"} for rule in rules.values()]},
    }


def _chosen(rule: schema.RuleSpec) -> Json:
    """Return the condition that a target is of a rule, and what it has then."""
    named: Json = {"properties": {"rule": {"const": rule.name}}}
    condition: Json = {**named, "required": ["rule"]}
    if rule.name == "image":
        condition = {**named, "anyOf": [{"required": ["rule"]}, {"not": {"required": ["extends"]}}]}
    needed = [attribute.name for attribute in rule.attributes if attribute.required]
    then: Json = {"$ref": f"#/$defs/rule.{rule.name}"}
    if needed:
        then |= {"anyOf": [{"required": ["extends"]}, {"required": needed}]}
    return {"if": condition, "then": then}


def _rule(rule: schema.RuleSpec) -> Json:
    return {"description": rule.doc, "properties": _properties(rule.attributes)}


def _package(rules: Mapping[str, schema.RuleSpec]) -> Json:
    defaults = {
        name: {"$ref": f"#/$defs/rule.{name}", "unevaluatedProperties": False} for name in rules
    }
    return {
        "type": "object",
        "properties": {
            **_properties(schema.PACKAGE),
            schema.DEFAULTS: {
                "type": "object",
                "description": "Attributes of all targets of a rule that do not say otherwise.",
                "properties": defaults,
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    }


def _properties(attributes: Iterable[schema.Attribute]) -> Json:
    return {attribute.name: _attribute(attribute) for attribute in attributes}


def _attribute(attribute: schema.Attribute) -> Json:
    out = {**_type(attribute.type), "description": attribute.doc}
    if attribute.default not in (None, ()):
        out["default"] = attribute.default
    return out


def _type(kind: schema.Type) -> Json:
    match kind:
        case schema.ListOf(item, single):
            array = {"type": "array", "items": _type(item)}
            # Uniqueness is left to `load`: 1.0 and 1 are two texts to it, and one number here.
            return {"anyOf": [_type(item), array]} if single else array
        case schema.MapOf(value, key_pattern):
            names = {"propertyNames": {"pattern": _whole(key_pattern)}} if key_pattern else {}
            return {"type": "object", "additionalProperties": _type(value), **names}
        case schema.Record():
            return _record(kind)
        case schema.ByShape():
            ways = [way for way in (kind.scalar, kind.sequence, kind.mapping) if way is not None]
            nothing: list[Json] = [{"type": "null"}] if kind.nothing else []
            return {"anyOf": [*map(_type, ways), *nothing]}
        case _:
            return _scalar(kind)


def _record(kind: schema.Record, *, open_ended: bool = False) -> Json:
    out: Json = {
        "type": "object",
        "properties": _properties(kind.fields),
        "additionalProperties": False,
    }
    if open_ended:
        out["patternProperties"] = {_EXTENSION: True}
    needed = [attribute.name for attribute in kind.fields if attribute.required]
    if needed:
        out["required"] = needed
    if kind.one_of:
        out["oneOf"] = [{"required": [name]} for name in kind.one_of]
    return out


def _scalar(kind: schema.Scalar) -> Json:
    match kind:
        case schema.Text(pattern):
            return {"type": _PLAIN, **({"pattern": _or_template(pattern)} if pattern else {})}
        case schema.Bool():
            return {"anyOf": [{"type": "boolean"}, _ANY_TEMPLATE]}
        case schema.Int(minimum, maximum):
            number = {"type": "integer", "minimum": minimum, "maximum": maximum}
            return {"anyOf": [number, _ANY_TEMPLATE]}
        case schema.Decimal():
            return _number(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", exclusiveMinimum=0)
        case schema.Size():
            return _number(r"[0-9]+(\.[0-9]+)? ?[kKmMgGtT]?([iI]?[bB])?", minimum=0)
        case schema.Duration():
            return _number(r"0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+", const=0)
        case schema.Choice(values):
            return {"anyOf": [{"enum": list(values)}, _ANY_TEMPLATE]}
        case schema.PlatformName():
            pattern = r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?"
            return {"type": "string", "pattern": _or_template(pattern)}
        case (
            schema.LabelRef()
            | schema.PatternRef()
            | schema.Audience()
            | schema.ContextPlace()
            | schema.FilePath()
            | schema.DirPath()
            | schema.PackageName()
        ):
            return {"type": _PLAIN, "minLength": 1}
        case _:
            assert_never(kind)


def _number(pattern: str, **bounds: int) -> Json:
    text = {"type": "string", "pattern": _or_template(pattern)}
    return {"anyOf": [{"type": "number", **bounds}, text]}


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"


def _or_template(pattern: str) -> str:
    return f"{_whole(pattern)}|{_TEMPLATE}"


def _nullable(kind: Json) -> Json:
    return {"anyOf": [{"type": "null"}, kind]}
