"""Knows what the targets of a file come to: with what they extend and the package's defaults below
them, one for each variant of a matrix, an image for a rule that is a template; must not know what
else a Boxfile has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from buildgraph import limits
from buildgraph.boxfile import calls, schema, values, wording, yaml
from buildgraph.boxfile.extends import Inheritance, Named, merge, size
from buildgraph.boxfile.header import Header, names_of
from buildgraph.boxfile.matrix import Variant, suffix, variants
from buildgraph.boxfile.rendering import Names, Surroundings
from buildgraph.boxfile.rule_files import WHEN, errors_of
from buildgraph.boxfile.target import NamedPath, Target, Value, text_of
from buildgraph.boxfile.visibility import PRIVATE, PUBLIC, Visibility
from buildgraph.errors import InputError, Location
from buildgraph.label import AllBelow, Label, OneTarget, TargetPattern

BOXFILE: Final = "Boxfile.yaml"
_STRUCTURE_NAMES: Final = tuple(attribute.name for attribute in schema.STRUCTURE)
_STRUCTURE: Final = frozenset(_STRUCTURE_NAMES)
_RULE_AND_DOC: Final = schema.COMMON[:2]


def in_package(package: str, name: str) -> str:
    """Return the path of a file of a package from the workspace's root."""
    return f"{package}/{name}" if package else name


class Draft(Struct, frozen=True):
    """A target as it is written; `others` are keys beside its own that are not wrong."""

    name: str
    where: Location
    entries: Sequence[yaml.Entry]
    others: tuple[str, ...] = ()


class Maker:
    """Makes the targets of one file, and collects what is wrong with them in `scope`."""

    def __init__(
        self,
        package: str,
        rules: Mapping[str, schema.RuleSpec],
        dockerfile: str | None,
        around: Surroundings | None,
        header: Header | None,
    ):
        self._homes: dict[str, str] = {}  # of files of rules
        self._values = 0  # of targets that repeat what others say
        self.scope = values.Scope(package, homes=self._homes)
        self.targets: dict[str, Target] = {}
        self.rules = rules
        self.dockerfile = dockerfile
        self.around = around
        self.header = header or Header(Location(BOXFILE))
        self._known: Names | None = None  # of all templates of the file, once there is one
        self.templates = False  # whether there may be any in the file
        self.defaults: dict[str, Sequence[yaml.Entry]] = {}
        self.visibility: Visibility | None = None

    def spec(self, name: str) -> schema.RuleSpec | None:
        """Return a rule, None after an error in its file."""
        try:
            return self.rules[name]
        except InputError as error:
            self.scope.errors.extend(errors_of(error))
            return None

    def make(self, drafts: Sequence[Draft]) -> None:
        """Add the targets that drafts come to."""
        written = {entry.key.text for draft in drafts for entry in draft.entries}
        if self.defaults or not _STRUCTURE.isdisjoint(written):
            self._inherit(drafts)
            return
        for draft in drafts:  # of nearly all files: nothing is made of anything
            rule = self._rule_of(draft, draft.entries)
            if rule is not None:
                self._add(draft, rule, self.visibility, self._names_of(draft.name, rule))

    def _inherit(self, drafts: Sequence[Draft]) -> None:
        """Make targets of drafts once what they extend and the defaults are written below them."""
        by_name = {draft.name: draft for draft in drafts}

        def bases(name: str) -> Iterator[Named]:
            return self._bases(by_name[name], by_name)

        written = {draft.name: draft.entries for draft in drafts}
        inheritance = Inheritance(written, bases, self.scope.errors)
        for draft in drafts:
            if self._values > limits.PACKAGE_VALUES:
                break  # that has been told, and says enough
            own = self._rule_of(draft, draft.entries)
            entries = inheritance.of(draft.name)
            rule = self._rule_of(draft, entries)
            if (
                rule is None
                or own is None
                or self._is_of_another(draft, rule, by_name, inheritance)
            ):
                continue
            defaults = self.defaults.get(rule, ())
            repeats = defaults or any(one.key.text == "extends" for one in draft.entries)
            whole = replace(draft, entries=merge(defaults, entries) if defaults else entries)
            if not repeats or self._count(whole, 1):
                self._variants(whole, rule)

    def _is_of_another(
        self, draft: Draft, rule: str, by_name: Mapping[str, Draft], inheritance: Inheritance
    ) -> bool:
        """Say whether a target extends one of another rule, and complain of it."""
        for base, where in self._bases(draft, by_name):
            other = self._rule_of(by_name[base], inheritance.of(base))
            if other is not None and other != rule:
                message = f"{draft.name!r} is of the rule {rule}, and {base!r} of {other}"
                self.scope.error(message, where)
                return True
        return False

    def _names_of(self, target: str, rule: str) -> Names | None:
        """Return the names of a target's templates, None where there is no template."""
        if self.templates or self.rules[rule].body is not None:
            names = self.names()
            return names and names.more(target=target)
        return None

    def names(self) -> Names | None:
        """Return the names that all templates of the file have, None where braces are text."""
        if self._known is None and self.around is not None:
            names = names_of(self.header, self.around)
            self._known = names.more(package=self.scope.package)
        return self._known

    def _count(self, draft: Draft, times: int) -> bool:
        """Say whether a file may have the values of a target so many times more."""
        if self._values > limits.PACKAGE_VALUES:
            return False
        said = [entry for entry in draft.entries if entry.key.text not in _STRUCTURE]
        self._values += times * (size(said) + 10)  # about as many defaults as that
        if self._values > limits.PACKAGE_VALUES:
            self.scope.error(
                f"the targets of this file have more than {limits.PACKAGE_VALUES} values",
                draft.where,
            )
        return self._values <= limits.PACKAGE_VALUES

    def _bases(self, draft: Draft, by_name: Mapping[str, Draft]) -> Iterator[Named]:
        entry = next((one for one in draft.entries if one.key.text == "extends"), None)
        if entry is None:
            return
        kind = schema.STRUCTURE[0].type
        value = values.parse_value(entry.value, kind, "extends", self.scope)
        items = value.data if value is not None and isinstance(value.data, tuple) else ()
        for item in items:
            label = item.data
            assert isinstance(label, Label)
            if label.package != self.scope.package:
                self.scope.error(
                    f"extends: {label} is in another file",
                    item.where,
                    "what several packages share is a rule of the workspace's own",
                )
            elif label.name not in by_name:
                hint = self.scope.near(label.name, by_name)
                self.scope.error(f"there is no target {label}", item.where, hint)
            else:
                yield label.name, item.where

    def _rule_of(self, draft: Draft, entries: Sequence[yaml.Entry]) -> str | None:
        """Return the rule of a target, None where there is no such rule."""
        rule = next((entry for entry in entries if entry.key.text == "rule"), None)
        if rule is None:
            return "image"
        before = len(self.scope.errors)
        value = values.parse_value(rule.value, schema.Text(), "rule", self.scope)
        if value is None or len(self.scope.errors) > before:
            return None
        name = text_of(value)
        if name not in self.rules:
            self.refuse_rule(name, value.where)
            return None
        return None if self.spec(name) is None else name

    def refuse_rule(self, name: str, where: Location, hint: str | None = None) -> None:
        """Complain that there is no such rule."""
        near = hint or self.scope.near(name, self.rules)
        hint = near or "rules: " + ", ".join(sorted(self.rules))
        self.scope.error(f"there is no rule {wording.quoted(name)}", where, hint)

    def _variants(self, draft: Draft, rule: str) -> None:
        """Add a target, or one for each variant of its matrix and a group of them."""
        names = self._names_of(draft.name, rule)
        scope = self.scope if names is None else replace(self.scope, names=names)
        structure = values.parse_fields(
            [entry for entry in draft.entries if entry.key.text in _STRUCTURE],
            values.Keys(schema.STRUCTURE, ""),
            draft.where,
            scope,
        )
        visibility = self.visibility
        if structure["visibility"].given:
            visibility = visibility_of(structure["visibility"])
        axes = structure["matrix"]
        if not axes.given:
            for name in ("exclude", "include"):
                if structure[name].given:
                    place = structure[name].key or draft.where
                    self.scope.error(f"{name!r} goes with a 'matrix'", place)
            self._add(draft, rule, visibility, names)
            return
        found = self._combinations(structure, draft.where)
        if not self._count(draft, len(found)):
            return
        variants_of = [replace(draft, name=draft.name + suffix(one)) for one in found]
        labels = [Label(self.scope.package, one.name) for one in variants_of]
        group = self._group(draft, axes.key or draft.where, labels, visibility)
        self.targets[draft.name] = group
        for variant, one in zip(found, variants_of, strict=True):
            known = names and replace(names.more(matrix=dict(variant)), refused={})
            self._add(one, rule, visibility, known)
        if labels:
            doc = self.targets[labels[0].name].doc
            self.targets[draft.name] = replace(group, doc=doc)
        body = self.rules[rule].body
        for further in body.targets if body is not None else ():
            beside = [calls.beside(one.name, further.key) for one in variants_of]
            labels = [Label(self.scope.package, name) for name in beside if name in self.targets]
            if labels:
                one = replace(draft, name=calls.beside(draft.name, further.key))
                self.targets[one.name] = self._group(one, draft.where, labels, visibility)

    def _combinations(self, structure: Mapping[str, Value], where: Location) -> list[Variant]:
        axes = structure["matrix"]
        data = axes.data if isinstance(axes.data, Mapping) else {}
        lists = [v.data if isinstance(v.data, tuple) else () for v in _both(structure)]
        return variants(data, lists[0], lists[1], axes.key or where, self.scope.errors)

    def _group(
        self,
        draft: Draft,
        where: Location,
        labels: Sequence[Label],
        visibility: Visibility | None,
    ) -> Target:
        """Return the group that the name of a target with a matrix is."""
        members = tuple(
            Value(TargetPattern(str(label), OneTarget(label)), where) for label in labels
        )
        attrs = MappingProxyType({"targets": Value(members, where)})
        label = Label(self.scope.package, draft.name)
        return Target(label, "group", draft.where, attrs, "", visibility)

    def _add(
        self, draft: Draft, rule: str, visibility: Visibility | None, names: Names | None
    ) -> None:
        spec = self.rules[rule]
        if draft.name in self.targets:
            self.scope.error(f"there is a target {draft.name!r} already", draft.where)
        if spec.body is not None:
            self._call(draft, spec, spec.body, visibility, names)
            return
        before = len(self.scope.errors)
        attrs = self._fields(draft, spec, spec.attributes, names)
        if rule == "image" and len(self.scope.errors) == before:
            self._fill_dockerfile(attrs, draft.where)
        self._put(draft, rule, attrs, visibility)

    def _fields(
        self,
        draft: Draft,
        spec: schema.RuleSpec,
        attributes: tuple[schema.Attribute, ...],
        names: Names | None,
        others: Sequence[str] = (),
    ) -> dict[str, Value]:
        """Return what a target says, as far as it is about `attributes` or `COMMON`."""
        article = "an" if spec.name[0] in "aeiou" else "a"
        keys = values.Keys(
            _RULE_AND_DOC + attributes,
            f"{article} {spec.name} target",
            schema.LATER_TARGET,
            (*_STRUCTURE_NAMES, *draft.others, *others),
            extensions=True,
        )
        scope = self.scope if names is None else replace(self.scope, names=names)
        return values.parse_fields(draft.entries, keys, draft.where, scope)

    def _put(
        self,
        draft: Draft,
        rule: str,
        attrs: dict[str, Value],
        visibility: Visibility | None,
        called: schema.RuleSpec | None = None,
        paths: tuple[NamedPath, ...] = (),
    ) -> None:
        """Add the target that a draft has become; `called` is the rule that made the draft."""
        doc = attrs.pop("doc", None)
        attrs.pop("rule", None)
        self.targets[draft.name] = Target(
            Label(self.scope.package, draft.name),
            rule,
            draft.where,
            MappingProxyType(attrs),
            text_of(doc) if doc else "",
            visibility,
            called.name if called is not None else "",
            called.body.path if called is not None and called.body is not None else None,
            paths,
        )

    def _call(
        self,
        draft: Draft,
        spec: schema.RuleSpec,
        body: schema.RuleBody,
        visibility: Visibility | None,
        names: Names | None,
    ) -> None:
        """Add what a target of a rule that is a template comes to: an image, and what is beside."""
        if body.package is not None:
            self._homes[body.path] = body.package
        repeated = [*body.image, *(entry for one in body.targets for entry in one.entries)]
        if not self._count(replace(draft, entries=repeated), 1):
            return
        before = len(self.scope.errors)
        own = calls.own_attributes(spec, body)
        known = {attribute.name for attribute in spec.attributes}
        said = replace(draft, entries=calls.own_entries(draft.entries, body))
        unknown = [
            entry
            for entry in draft.entries
            if entry.key.text not in known and entry.key.text not in body.own
        ]
        image = calls.image_entries([e for e in draft.entries if e not in unknown], body)
        found = self._fields(
            replace(said, entries=[*said.entries, *unknown]), spec, own, names, sorted(known)
        )
        doc = found.get("doc")
        if names is not None and len(self.scope.errors) == before:
            label = Label(self.scope.package, draft.name)
            names = names.more(**calls.template_names(found, own, label, body))
            made = replace(draft, entries=image)
            attrs = self._fields(made, spec, schema.IMAGE.attributes, names)
            if doc is not None:
                attrs["doc"] = doc
            # A context of its own need not be a directory of the workspace.
            paths = () if attrs["context"].given else calls.paths_of(found, own, draft.where)
            self._put(draft, "image", attrs, visibility, spec, paths)
            for further in body.targets:
                if self._is_wanted(further, names):
                    self._add_beside(draft, further, visibility, names)
        calls.tell_call(self.scope.errors[before:], body, draft.where)

    def _is_wanted(self, further: schema.Further, names: Names) -> bool:
        """Say whether the condition of a further target holds."""
        if further.when is None:
            return True
        scope = replace(self.scope, names=names)
        value = values.parse_value(further.when.value, schema.Bool(), WHEN, scope)
        return value is not None and value.data is True

    def _add_beside(
        self, draft: Draft, further: schema.Further, visibility: Visibility | None, names: Names
    ) -> None:
        """Add a further target of a rule beside the one that uses it."""
        name = calls.beside(draft.name, further.key)
        beside = Draft(name, draft.where, further.entries)
        rule = self._rule_of(beside, further.entries)
        if rule is None:
            return
        if self.rules[rule].body is not None:
            where = further.entries[0].key.where
            self.scope.error("a rule's further target is of no rule that is a template", where)
            return
        self._add(beside, rule, visibility, names)

    def _fill_dockerfile(self, attrs: dict[str, Value], where: Location) -> None:
        path, inline = attrs["dockerfile"], attrs["dockerfile_inline"]
        if path.given and inline.given:
            self.scope.error(
                "there is 'dockerfile' and 'dockerfile_inline': one of them is enough",
                inline.key or inline.where,
            )
        elif not path.given and not inline.given:
            if self.dockerfile is None:
                directory = f"{self.scope.package or '.'}/"
                self.scope.error(
                    f"there is no Dockerfile in {directory}",
                    where,
                    "add one, or say which with 'dockerfile:' or 'dockerfile_inline:'",
                )
                return
            default = in_package(self.scope.package, self.dockerfile)
            attrs["dockerfile"] = Value(default, where, given=False)


def _both(structure: Mapping[str, Value]) -> tuple[Value, Value]:
    return structure["exclude"], structure["include"]


def visibility_of(value: Value) -> Visibility | None:
    """Return who may use a target, None for everybody."""
    if value.data is None:
        return None
    items = value.data if isinstance(value.data, tuple) else ()
    users: list[TargetPattern] = []
    for item in items:
        if item.data == PUBLIC:
            users.append(TargetPattern("//...", AllBelow("")))
        elif isinstance(item.data, TargetPattern):
            users.append(item.data)
        else:
            assert item.data in (PRIVATE, None)
    return Visibility(tuple(users), value.key or value.where)
