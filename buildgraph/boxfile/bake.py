"""Knows a bake file (HCL or JSON): what its targets, groups and variables come to; must not know
how a target is written down.

Variables have their defaults: what bake would take from the environment is noted, not read, so
that the result is the same for everybody. Inherited attributes are merged as bake does it: names
and mappings by name, lists of secrets appended, all else replaced. Source: Docker's "Bake file
reference".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Final, NoReturn, assert_never

from msgspec import Struct, field

from buildgraph.boxfile import hcl_nodes as hcl
from buildgraph.boxfile.bake_json import bake_json
from buildgraph.boxfile.bake_words import (
    KNOWN,
    LEFT_OUT,
    PLACES,
    Data,
    literals,
    merge,
    shown,
    text_of,
    truth,
)
from buildgraph.boxfile.hcl import RESOLVE, parse_hcl
from buildgraph.boxfile.hcl_nodes import Block, Expression
from buildgraph.boxfile.imported import (
    Imported,
    parse_secret,
    settled,
    variable,
    variables_in,
)
from buildgraph.errors import InputError, Location, did_you_mean, raise_all

_MATRIX_LIMIT: Final = 1_000  # targets of one matrix
_DEPTH: Final = 64
_BUILTINS: Final[Mapping[str, str]] = {
    "BAKE_CMD_CONTEXT": ".",
    "BAKE_LOCAL_PLATFORM": "linux/amd64",
}


class _Target(Struct, frozen=True):
    """A target as it is written; `values` with the place of each."""

    name: str
    attributes: Mapping[str, tuple[Expression, Location]]
    where: Location


class BakeFile(Struct):
    """What a bake file comes to."""

    builds: list[Imported] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)  # that stay, with their defaults


def read_bake(text: str, path: str, *, keep: bool = False) -> BakeFile:
    """Return what the bake file `path` says; with `keep` variables stay variables in its texts.

    Raises InputError, InputErrors with all places.
    """
    root = bake_json(text, path) if path.endswith(".json") else parse_hcl(text, path)
    return _Reader(root, keep).read()


class _Reader:
    """Reads one file."""

    def __init__(self, root: Block, keep: bool) -> None:
        self._root = root
        self._keep = keep
        self._decided: set[str] = set()  # variables whose default was looked at
        self._variables: dict[str, Expression | None] = {}
        self._known: dict[str, Data] = dict(_BUILTINS)
        self._open: list[str] = []
        self._targets: dict[str, _Target] = {}
        self._matrices: dict[str, list[str]] = {}
        self._errors: list[InputError] = []
        self._used: set[str] = set()
        self._out = BakeFile()

    def read(self) -> BakeFile:
        for attribute in self._root.attributes:  # a bare attribute is a variable's default
            self._variables[attribute.name] = attribute.value
        groups: list[Block] = []
        for block in self._root.blocks:
            self._block(block, groups)
        raise_all(self._errors)
        for name in self._targets:
            try:
                self._builds(name)
            except InputError as error:
                self._errors.append(error)
        for block in groups:
            try:
                self._group(block)
            except InputError as error:
                self._errors.append(error)
        raise_all(self._errors)
        for name, members in self._matrices.items():
            self._out.groups.setdefault(name, members)
        for name, found in self._out.groups.items():
            self._out.groups[name] = (
                [one for member in found for one in self._matrices.get(member, [member])]
                if name not in self._matrices
                else found
            )
        self._tell_variables()
        return self._out

    def _tell_variables(self) -> None:
        used = [name for name in self._known if name in self._used and name in self._variables]
        kept = {name: text_of(self._known[name]) for name in used if self._is_kept(name)}
        self._out.variables = kept
        fixed = {name: self._known[name] for name in used if name not in kept}
        fixed |= {name: kept[name] for name in used if name in self._decided and name in kept}
        if fixed:
            said = ", ".join(f"{name}={text_of(value)!r}" for name, value in fixed.items())
            self._out.notes.append(
                f"variables have their defaults; bake took them from the environment: {said}"
                if not kept
                else f"the defaults of these variables have decided about targets: {said}"
            )

    def _is_kept(self, name: str) -> bool:
        value = self._known.get(name)
        plain = value is not None and not isinstance(value, (list, dict))
        return self._keep and plain and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None

    def _settled(self, value: Data) -> Data:
        """Return a value without variables, where what it is decides about more than a text."""
        if isinstance(value, list):
            return [self._settled(item) for item in value]
        if isinstance(value, dict):
            return {key: self._settled(inner) for key, inner in value.items()}
        if not isinstance(value, str) or not variables_in(value):
            return value
        self._decided.update(variables_in(value))
        return settled(value, {name: text_of(known) for name, known in self._known.items()})

    def _block(self, block: Block, groups: list[Block]) -> None:
        if block.kind in ("target", "group", "variable", "function") and len(block.labels) != 1:
            self._errors.append(InputError(f"{block.kind} needs one name", block.where))
        elif block.kind == "variable":
            values = {a.name: a.value for a in block.attributes}
            self._variables[block.labels[0]] = values.get("default")
            if block.blocks:
                self._out.notes.append(
                    f"not carried over: the validation of variable {block.labels[0]}"
                )
        elif block.kind == "target":
            attributes = {a.name: (a.value, a.where) for a in block.attributes}
            for inner in block.blocks:
                self._errors.append(
                    InputError(f"a target has no {inner.kind!r} block", inner.where)
                )
            self._targets[block.labels[0]] = _Target(block.labels[0], attributes, block.where)
        elif block.kind == "group":
            groups.append(block)
        elif block.kind == "function":
            self._out.notes.append(f"not carried over: the function {block.labels[0]}")
        else:
            hint = did_you_mean(block.kind, ("target", "group", "variable"))
            self._errors.append(InputError(f"a bake file has no {block.kind!r}", block.where, hint))

    def _group(self, block: Block) -> None:
        members: list[str] = []
        for attribute in block.attributes:
            if attribute.name == "targets":
                value = self._settled(self._value(attribute.value, {}))
                members += self._texts(value, attribute.where)
            elif attribute.name != "description":
                hint = did_you_mean(attribute.name, ("targets", "description"))
                raise InputError(f"a group has no {attribute.name!r}", attribute.where, hint)
        self._out.groups[block.labels[0]] = members

    # --- targets --------------------------------------------------------------------------

    def _builds(self, name: str) -> None:
        target = self._targets[name]
        if self._is_only_inherited(target):
            self._out.notes.append(f"{name} is there to be inherited from, and is no target here")
            return
        if "matrix" not in target.attributes:
            self._out.builds.append(self._build(name, name, {}))
            return
        where = target.attributes["matrix"][1]
        axes, lists = self._axes(target)
        if "name" not in target.attributes:
            raise InputError("a matrix needs 'name', a name for each target", where)
        made: list[str] = []
        for combination in itertools.product(*lists):
            scope = dict(zip(axes, combination, strict=True))
            own = text_of(self._settled(self._value(target.attributes["name"][0], scope)))
            if own in made or own in self._targets:
                raise InputError(f"the matrix names two targets {own!r}", where)
            made.append(own)
            self._out.builds.append(self._build(name, own, scope))
        self._matrices[name] = made

    def _axes(self, target: _Target) -> tuple[list[str], list[list[Data]]]:
        """Return the names and the values of a matrix."""
        expression, where = target.attributes["matrix"]
        axes = self._settled(self._value(expression, {}))
        if not isinstance(axes, dict):
            raise InputError("matrix: expected a mapping of lists", where)
        lists: list[list[Data]] = []
        for axis, values in axes.items():
            if not isinstance(values, list):
                raise InputError(f"matrix: {axis} is no list", where)
            lists.append(values)
        count = 1
        for values in lists:
            count *= len(values)
        if count > _MATRIX_LIMIT:
            raise InputError(f"the matrix makes {count} targets, more than {_MATRIX_LIMIT}", where)
        return list(axes), lists

    def _is_only_inherited(self, target: _Target) -> bool:
        """Say whether a target is by custom none: `_common`, `docker-metadata-action`."""
        own = PLACES.intersection(target.attributes)
        inherited = any(
            target.name == parent
            for other in self._targets.values()
            if other is not target and "inherits" in other.attributes
            for parent in literals(other.attributes["inherits"][0])
        )
        wanted = target.name in self._asked_for()
        return not wanted and (target.name.startswith("_") or (inherited and not own))

    def _asked_for(self) -> set[str]:
        """Return the targets that a group or a context names."""
        found: set[str] = set()
        for block in self._root.blocks:
            if block.kind == "group":
                for attribute in block.attributes:
                    found |= literals(attribute.value)
        for target in self._targets.values():
            value = target.attributes.get("contexts")
            if value is not None and isinstance(value[0], hcl.Object):
                found |= {
                    str(v.value).removeprefix("target:")
                    for _, v in value[0].entries
                    if isinstance(v, hcl.Literal)
                }
        return found

    def _merged(
        self, name: str, scope: Mapping[str, Data], above: tuple[str, ...] = ()
    ) -> dict[str, tuple[Data, Location]]:
        """Return a target's attributes with those it inherits."""
        target = self._targets[name]
        if name in above or len(above) > _DEPTH:
            raise InputError(f"{name!r} inherits from itself", target.where)
        own = {
            key: (self._of_attribute(key, expression, scope), where)
            for key, (expression, where) in target.attributes.items()
            if key not in ("matrix", "name")
        }
        out: dict[str, tuple[Data, Location]] = {}
        inherits, place = own.pop("inherits", ([], target.where))
        for parent in self._texts(self._settled(inherits), place):
            if parent not in self._targets:
                hint = did_you_mean(parent, self._targets)
                raise InputError(f"there is no target {parent!r} to inherit from", place, hint)
            merge(out, self._merged(parent, scope, (*above, name)))
        merge(out, own)
        return out

    def _of_attribute(self, key: str, expression: Expression, scope: Mapping[str, Data]) -> Data:
        try:
            return self._value(expression, scope)
        except InputError:
            if key in LEFT_OUT:  # it takes no part, so it need not be understood
                return "…"
            raise

    def _build(self, name: str, own: str, scope: Mapping[str, Data]) -> Imported:
        build = Imported(own)
        for key, (value, where) in self._merged(name, scope).items():
            if key not in KNOWN:
                hint = did_you_mean(key, KNOWN)
                raise InputError(f"a target has no {key!r}", where, hint)
            if value is None or value in ([], {}):
                continue
            if key in LEFT_OUT:
                build.leave_out(f"{key} = {shown(value)}", LEFT_OUT[key])
            else:
                self._set(build, key, value, where)
        return build

    def _set(  # noqa: C901 - a case for each word
        self, build: Imported, key: str, value: Data, where: Location
    ) -> None:
        match key:
            case "context":
                build.context = self._one(value, where)
            case "dockerfile":
                build.dockerfile = self._one(value, where)
            case "dockerfile-inline":
                build.inline = self._one(value, where)
            case "target":
                build.stage = self._one(value, where)
            case "network":
                build.network = self._one(value, where)
            case "description":
                build.doc = self._one(value, where)
            case "args" | "labels" | "contexts":
                pairs = self._pairs(value, key, where)
                for name in value if key == "args" and isinstance(value, dict) else ():
                    if name not in pairs and name in self._variables:
                        build.leave_out(f"argument {name}", "where it is set: --build-arg " + name)
                setattr(build, key, {**getattr(build, key), **pairs})
            case "annotations":
                for text in self._texts(value, where):
                    name, equals, data = text.partition("=")
                    if not equals:
                        raise InputError(f"annotation {text!r}: expected NAME=VALUE", where)
                    build.annotations[name] = data
            case "platforms":
                named = [p for text in self._texts(value, where) for p in text.split(",")]
                build.platforms = [each for each in named if each != "local"]
                if "local" in named:
                    build.leave_out("platform local", "this machine's is the default")
            case "tags":
                build.tags = self._texts(value, where)
            case "secret":
                self._secrets(build, value, where)
            case _:
                build.leave_out(key)

    def _secrets(self, build: Imported, value: Data, where: Location) -> None:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                text = ",".join(f"{k}={text_of(v)}" for k, v in item.items() if v is not None)
            else:
                text = text_of(item)
            secret = parse_secret(text)
            if secret is None:
                raise InputError(f"secret {text!r}: expected id=ID,src=FILE", where)
            build.secrets.append(secret)

    # --- values ---------------------------------------------------------------------------

    def _one(self, value: Data, where: Location) -> str:
        if isinstance(value, (list, dict)):
            raise InputError("expected a text", where)
        return text_of(value)

    def _texts(self, value: Data, where: Location) -> list[str]:
        if value is None:
            return []
        if not isinstance(value, list) or any(isinstance(v, (dict, list)) for v in value):
            raise InputError("expected a list of texts", where)
        return [text_of(item) for item in value if item not in (None, "")]

    def _pairs(self, value: Data, key: str, where: Location) -> dict[str, str]:
        if not isinstance(value, dict):
            raise InputError(f"{key}: expected a mapping", where)
        return {name: text_of(inner) for name, inner in value.items() if inner is not None}

    def _value(self, expression: Expression, scope: Mapping[str, Data]) -> Data:
        match expression:
            case hcl.Literal(value=value):
                return value
            case hcl.Template(parts=parts):
                return "".join(self._part(part, scope) for part in parts)
            case hcl.Reference():
                return self._reference(expression, scope)
            case hcl.Items(items=items):
                return [self._value(item, scope) for item in items]
            case hcl.Object(entries=entries):
                return {
                    text_of(self._settled(self._value(k, scope))): self._value(v, scope)
                    for k, v in entries
                }
            case hcl.Choice(condition=condition, yes=yes, no=no):
                decided = truth(self._settled(self._value(condition, scope)))
                return self._value(yes if decided else no, scope)
            case hcl.Operation():
                return self._operation(expression, scope)
            case hcl.Call(name=name, where=where):
                raise InputError(f"the function {name}() is not understood here", where, RESOLVE)
            case _:
                assert_never(expression)

    def _part(self, part: Expression, scope: Mapping[str, Data]) -> str:
        value = self._value(part, scope)
        if isinstance(value, (list, dict)):
            raise InputError("a list cannot be part of a text", part.where, RESOLVE)
        return text_of(value)

    def _operation(self, operation: hcl.Operation, scope: Mapping[str, Data]) -> bool:
        right = self._settled(self._value(operation.right, scope))
        if operation.left is None:
            return not truth(right)
        left = self._settled(self._value(operation.left, scope))
        match operation.sign:
            case "&&":
                return truth(left) and truth(right)
            case "||":
                return truth(left) or truth(right)
            case "!=":
                return left != right
            case _:
                return left == right

    def _reference(self, reference: hcl.Reference, scope: Mapping[str, Data]) -> Data:
        name, path = reference.name, list(reference.path)
        if name in scope:
            value = scope[name]
        elif name == "target" and path:
            value = self._of_target(str(path.pop(0)), path, reference.where)
            if path:
                path.pop(0)
        else:
            value = self._variable(name, reference.where, scope)
        for part in path:
            if isinstance(value, dict) and part in value:
                value = value[str(part)]
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                raise InputError(f"{name} has no {part!r}", reference.where)
        return value

    def _of_target(self, name: str, path: list[str | int], where: Location) -> Data:
        if name not in self._targets or not path:
            raise InputError(
                f"there is no target {name!r}", where, did_you_mean(name, self._targets)
            )
        if name in self._open:
            self._circle(name, where)
        self._open.append(name)
        found = self._merged(name, {}).get(str(path[0]), (None, where))[0]
        self._open.pop()
        return found

    def _variable(self, name: str, where: Location, scope: Mapping[str, Data]) -> Data:
        self._used.add(name)
        if name in self._known:
            return variable(name) if self._is_variable(name) else self._known[name]
        if name not in self._variables:
            hint = did_you_mean(name, (*self._variables, *scope))
            raise InputError(f"there is no variable {name!r}", where, hint)
        if name in self._open:
            self._circle(name, where)
        default = self._variables[name]
        self._open.append(name)
        value = None if default is None else self._value(default, {})
        self._open.pop()
        self._known[name] = value
        return variable(name) if self._is_variable(name) else self._known[name]

    def _is_variable(self, name: str) -> bool:
        return name in self._variables and self._is_kept(name)

    def _circle(self, name: str, where: Location) -> NoReturn:
        raise InputError(f"{' -> '.join([*self._open, name])} is a circle", where)
