"""Knows the shape of a Boxfile: text -> `Package` of `Target`s; must not know the disk.

A file has `workspace:` (the root's only), `package:`, `targets:` and `x-*`. Without `targets:`
every other key of it belongs to one target called `image`. A Dockerfile that no target of its
directory names is that target by itself. What a target says is written over what it extends, and
that over the package's defaults; then templates are evaluated, once for each variant of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from buildgraph import limits
from buildgraph.boxfile import calls, schema, values, yaml
from buildgraph.boxfile.extends import Inheritance, Named, merge, size
from buildgraph.boxfile.header import Header, RegistryEntry, names_of, read_header
from buildgraph.boxfile.matrix import Variant, suffix, variants
from buildgraph.boxfile.rendering import Names, Surroundings
from buildgraph.boxfile.rule_files import errors_of
from buildgraph.boxfile.target import Target, Value, text_of
from buildgraph.boxfile.visibility import PRIVATE, PUBLIC, Visibility
from buildgraph.errors import InputError, Location, raise_all
from buildgraph.label import (
    DEFAULT_NAME,
    AllBelow,
    Label,
    OneTarget,
    TargetPattern,
    name_problem,
)

__all__ = ["BOXFILE", "DOCKERFILES", "Header", "Package", "RegistryEntry", "in_package", "load"]

BOXFILE: Final = "Boxfile.yaml"
DOCKERFILES: Final = ("Dockerfile", "Containerfile", "dockerfile")  # the first that is there
_FILE_KEYS: Final = ("workspace", "package", "targets")
_STRUCTURE_NAMES: Final = tuple(attribute.name for attribute in schema.STRUCTURE)
_STRUCTURE: Final = frozenset(_STRUCTURE_NAMES)
_RULE_AND_DOC: Final = schema.COMMON[:2]


@dataclass(frozen=True, slots=True)
class Package:
    """One directory and its targets, in the order they are written; an implicit one is last."""

    path: str
    targets: Mapping[str, Target]
    boxfile: str | None = None  # path from the workspace's root; None: there is just a Dockerfile
    header: Header | None = None


def in_package(package: str, name: str) -> str:
    """Return the path of a file of a package from the workspace's root."""
    return f"{package}/{name}" if package else name


def load(
    text: str | None,
    package: str,
    rules: Mapping[str, schema.RuleSpec],
    dockerfile: str | None = None,
    *,
    around: Surroundings | None = None,
    header: Header | None = None,
    opened: Callable[[Header], list[InputError]] | None = None,
) -> Package:
    """Return the package that the Boxfile `text` describes; None: the directory has no Boxfile.

    `dockerfile` is the name of the Dockerfile that lies in the directory, if one does. `rules`
    are all that may be used, the built-in ones among them. `around` and `header` (the root's,
    where this is another file) are what templates know; without `around` braces are text.
    `opened` is told of the header before any target is read, and returns what is wrong with it.
    Raises InputError with everything that is wrong, in the order of the file.
    """
    loader = _Loader(package, rules, dockerfile, around, header)
    loader.opened = opened
    found = None if text is None else loader.file(text)
    loader.implicit()
    raise_all(_in_order(loader.scope.errors))
    return Package(
        package,
        MappingProxyType(loader.targets),
        None if text is None else in_package(package, BOXFILE),
        found,
    )


def _in_order(errors: list[InputError]) -> list[InputError]:
    """Return the errors by place; what several targets share is told once."""
    once = {(error.message, error.where): error for error in errors}
    return sorted(once.values(), key=_position)


def _position(error: InputError) -> tuple[str, int, int]:
    where = error.where
    return (where.path, where.line, where.column) if where else ("", 0, 0)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A target as it is written; `others` are keys beside its own that are not wrong."""

    name: str
    where: Location
    entries: Sequence[yaml.Entry]
    others: tuple[str, ...] = ()


class _Loader:
    """Collects the targets and the errors of one file."""

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
        self._rules = rules
        self._dockerfile = dockerfile
        self._around = around
        self._header = header or Header(Location(BOXFILE))
        self._known: Names | None = None  # of all templates of the file, once there is one
        self._templates = False  # whether there may be any in the file
        self._defaults: dict[str, Sequence[yaml.Entry]] = {}
        self._visibility: Visibility | None = None
        self.opened: Callable[[Header], list[InputError]] | None = None

    # -- the file ------------------------------------------------------------------------

    def file(self, text: str) -> Header | None:
        """Read a whole Boxfile."""
        root = yaml.compose(text, in_package(self.scope.package, BOXFILE), self.scope.errors)
        if root is None or (isinstance(root, yaml.Scalar) and root.empty):
            return None
        if not isinstance(root, yaml.Mapping):
            hint = "put a space after ':'" if ":" in root.where.text else None
            self.scope.error(
                f"expected keys such as 'targets:', found {values.found(root)}", root.where, hint
            )
            return None
        # A backslash may be a brace in the end.
        self._templates = any(sign in text for sign in ("{{", "{%", "\\"))
        workspace = root.get("workspace")
        header = None if workspace is None else self._workspace(workspace)
        self._header = header or self._header
        if header is not None and self.opened is not None:
            self.scope.errors.extend(self.opened(header))
        self._package(root.get("package"))
        targets = root.get("targets")
        rest = [entry for entry in root.entries if not _belongs_to_file(entry.key.text)]
        rest = [entry for entry in rest if not self._later(entry.key)]
        if targets is not None:
            self._refuse_beside_targets(rest)
            self._make(list(self._all_targets(targets.value)))
        elif rest:
            self._make(list(self._short_form(rest)))
        return header

    def implicit(self) -> None:
        """Add the target that a Dockerfile is by itself, unless some target is it already."""
        if self._dockerfile is None or DEFAULT_NAME in self.targets or self.scope.errors:
            return
        path = in_package(self.scope.package, self._dockerfile)
        if any(
            target.rule == "image" and target.attrs["dockerfile"].data == path
            for target in self.targets.values()
        ):
            return
        self._make([_Draft(DEFAULT_NAME, Location(path), ())])

    def _later(self, key: yaml.Scalar) -> bool:
        if key.text not in schema.LATER_FILE:
            return False
        self.scope.error(f"{key.text!r} comes in a later version", key.where)
        return True

    def _workspace(self, entry: yaml.Entry) -> Header:
        if self.scope.package:
            self.scope.error("'workspace' belongs to the root's Boxfile", entry.key.where)
        return read_header(entry, self.scope, self._around)

    def _package(self, entry: yaml.Entry | None) -> None:
        """Read `package:`: what holds for all targets of the file."""
        if entry is None or (isinstance(entry.value, yaml.Scalar) and entry.value.empty):
            return
        if not isinstance(entry.value, yaml.Mapping):
            words = values.found(entry.value)
            self.scope.error(f"package: expected a mapping, found {words}", entry.value.where)
            return
        keys = values.Keys(schema.PACKAGE, "package", others=(schema.DEFAULTS,))
        fields = values.parse_fields(
            entry.value.entries, keys, entry.key.where, replace(self.scope, names=self._names())
        )
        self._visibility = _visibility(fields["visibility"])
        defaults = entry.value.get(schema.DEFAULTS)
        if defaults is None:
            return
        if not isinstance(defaults.value, yaml.Mapping):
            words = values.found(defaults.value)
            self.scope.error(
                f"defaults: expected a mapping of rules to attributes, found {words}",
                defaults.value.where,
                "write defaults: {image: {network: none}}",
            )
            return
        for one in defaults.value.entries:
            self._default(one)

    def _default(self, entry: yaml.Entry) -> None:
        name = entry.key.text
        if name not in self._rules:
            own = {a.name for a in schema.IMAGE.attributes}
            hint = f"write defaults: {{image: {{{name}: …}}}}" if name in own else None
            self._refuse_rule(name, entry.key.where, hint)
        elif not isinstance(entry.value, yaml.Mapping):
            words = values.found(entry.value)
            self.scope.error(f"defaults.{name}: expected a mapping, found {words}", entry.key.where)
        else:
            spec = self._spec(name)
            known = {attribute.name for attribute in (spec.attributes if spec else ())}
            for one in entry.value.entries:
                if one.key.text not in known:
                    hint = self.scope.near(one.key.text, known)
                    message = f"defaults.{name} has no key {values.found(one.key)}"
                    self.scope.error(message, one.key.where, hint)
            self._defaults[name] = entry.value.entries

    # -- which targets there are ---------------------------------------------------------

    def _attribute_names(self) -> set[str]:
        names = {attribute.name for attribute in (*schema.COMMON, *schema.IMAGE.attributes)}
        for rule in self._rules:
            spec = self._spec(rule)
            names.update(attribute.name for attribute in (spec.attributes if spec else ()))
        return names

    def _spec(self, name: str) -> schema.RuleSpec | None:
        """Return a rule, None after an error in its file."""
        try:
            return self._rules[name]
        except InputError as error:
            self.scope.errors.extend(errors_of(error))
            return None

    def _refuse_beside_targets(self, rest: list[yaml.Entry]) -> None:
        known = self._attribute_names() if rest else ()
        for entry in rest:
            name = entry.key.text
            if name in known:
                message = f"{name!r} belongs to a target"
                hint: str | None = f"move it below 'targets:', into a target such as {DEFAULT_NAME}"
            else:
                message = f"a Boxfile has no key {values.found(entry.key)}"
                hint = self.scope.near(name, _FILE_KEYS)
            self.scope.error(message, entry.key.where, hint)

    def _all_targets(self, node: yaml.Node) -> Iterator[_Draft]:
        if isinstance(node, yaml.Scalar) and node.empty:
            return
        if not isinstance(node, yaml.Mapping):
            words = values.found(node)
            self.scope.error(
                f"targets: expected a mapping of names to targets, found {words}", node.where
            )
            return
        for entry in node.entries:
            name = entry.key.text
            problem = "'@' starts a matrix suffix" if "@" in name else name_problem(name)
            if problem:
                self.scope.error(
                    f"{values.quoted(name)} cannot name a target: {problem}", entry.key.where
                )
            if isinstance(entry.value, yaml.Mapping):
                yield _Draft(name, entry.key.where, entry.value.entries)
            elif isinstance(entry.value, yaml.Scalar) and entry.value.empty:
                yield _Draft(name, entry.key.where, ())
            else:
                words = values.found(entry.value)
                self.scope.error(
                    f"target {values.quoted(name)}: expected a mapping, found {words}",
                    entry.value.where,
                )

    def _short_form(self, entries: list[yaml.Entry]) -> Iterator[_Draft]:
        own = {attribute.name for attribute in (*schema.COMMON, *schema.IMAGE.attributes)}
        if not any(entry.key.text in own for entry in entries):
            own = self._attribute_names()
        if any(entry.key.text in own for entry in entries):
            yield _Draft(DEFAULT_NAME, entries[0].key.where, entries, _FILE_KEYS)
            return
        for entry in entries:  # nothing here looks like a target: a misspelt key of the file
            hint = self.scope.near(entry.key.text, sorted((*_FILE_KEYS, *own)))
            self.scope.error(
                f"a Boxfile has no key {values.found(entry.key)}", entry.key.where, hint
            )

    # -- what each of them comes to ------------------------------------------------------

    def _make(self, drafts: Sequence[_Draft]) -> None:
        written = {entry.key.text for draft in drafts for entry in draft.entries}
        if self._defaults or not _STRUCTURE.isdisjoint(written):
            self._inherit(drafts)
            return
        for draft in drafts:  # of nearly all files: nothing is made of anything
            rule = self._rule_of(draft, draft.entries)
            if rule is not None:
                self._add(draft, rule, self._visibility, self._names_of(draft.name, rule))

    def _inherit(self, drafts: Sequence[_Draft]) -> None:
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
            defaults = self._defaults.get(rule, ())
            repeats = defaults or any(one.key.text == "extends" for one in draft.entries)
            whole = replace(draft, entries=merge(defaults, entries) if defaults else entries)
            if not repeats or self._count(whole, 1):
                self._variants(whole, rule)

    def _is_of_another(
        self, draft: _Draft, rule: str, by_name: Mapping[str, _Draft], inheritance: Inheritance
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
        if self._templates or self._rules[rule].body is not None:
            names = self._names()
            return names and names.more(target=target)
        return None

    def _names(self) -> Names | None:
        if self._known is None and self._around is not None:
            names = names_of(self._header, self._around)
            self._known = names.more(package=self.scope.package)
        return self._known

    def _count(self, draft: _Draft, times: int) -> bool:
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

    def _bases(self, draft: _Draft, by_name: Mapping[str, _Draft]) -> Iterator[Named]:
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

    def _rule_of(self, draft: _Draft, entries: Sequence[yaml.Entry]) -> str | None:
        """Return the rule of a target, None where there is no such rule."""
        rule = next((entry for entry in entries if entry.key.text == "rule"), None)
        if rule is None:
            return "image"
        before = len(self.scope.errors)
        value = values.parse_value(rule.value, schema.Text(), "rule", self.scope)
        if value is None or len(self.scope.errors) > before:
            return None
        name = text_of(value)
        if name not in self._rules:
            self._refuse_rule(name, value.where)
            return None
        return None if self._spec(name) is None else name

    def _refuse_rule(self, name: str, where: Location, hint: str | None = None) -> None:
        near = hint or self.scope.near(name, self._rules)
        hint = near or "rules: " + ", ".join(sorted(self._rules))
        self.scope.error(f"there is no rule {values.quoted(name)}", where, hint)

    def _variants(self, draft: _Draft, rule: str) -> None:
        """Add a target, or one for each variant of its matrix and a group of them."""
        names = self._names_of(draft.name, rule)
        scope = self.scope if names is None else replace(self.scope, names=names)
        structure = values.parse_fields(
            [entry for entry in draft.entries if entry.key.text in _STRUCTURE],
            values.Keys(schema.STRUCTURE, ""),
            draft.where,
            scope,
        )
        visibility = self._visibility
        if structure["visibility"].given:
            visibility = _visibility(structure["visibility"])
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
        body = self._rules[rule].body
        for further, _ in body.targets if body is not None else ():
            beside = [replace(draft, name=_beside(one.name, further)) for one in variants_of]
            labels = [Label(self.scope.package, one.name) for one in beside]
            one = replace(draft, name=_beside(draft.name, further))
            self.targets[one.name] = self._group(one, draft.where, labels, visibility)

    def _combinations(self, structure: Mapping[str, Value], where: Location) -> list[Variant]:
        axes = structure["matrix"]
        data = axes.data if isinstance(axes.data, Mapping) else {}
        lists = [v.data if isinstance(v.data, tuple) else () for v in _both(structure)]
        return variants(data, lists[0], lists[1], axes.key or where, self.scope.errors)

    def _group(
        self,
        draft: _Draft,
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
        self, draft: _Draft, rule: str, visibility: Visibility | None, names: Names | None
    ) -> None:
        spec = self._rules[rule]
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
        draft: _Draft,
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
        draft: _Draft,
        rule: str,
        attrs: dict[str, Value],
        visibility: Visibility | None,
        called: schema.RuleSpec | None = None,
    ) -> None:
        """Add the target that a draft has become; `called` is the rule of the workspace's own."""
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
        )

    def _call(
        self,
        draft: _Draft,
        spec: schema.RuleSpec,
        body: schema.RuleBody,
        visibility: Visibility | None,
        names: Names | None,
    ) -> None:
        """Add what a target of the workspace's own rule comes to: an image, and what is beside."""
        self._homes[body.path] = body.package
        repeated = [*body.image, *(entry for _, entries in body.targets for entry in entries)]
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
            names = names.more(**calls.template_names(found, own, label))
            made = replace(draft, entries=image)
            attrs = self._fields(made, spec, schema.IMAGE.attributes, names)
            if doc is not None:
                attrs["doc"] = doc
            self._put(draft, "image", attrs, visibility, spec)
            for further, entries in body.targets:
                self._add_beside(draft, further, entries, visibility, names)
        calls.tell_call(self.scope.errors[before:], body, draft.where)

    def _add_beside(
        self,
        draft: _Draft,
        further: str,
        entries: tuple[yaml.Entry, ...],
        visibility: Visibility | None,
        names: Names,
    ) -> None:
        """Add a further target of a rule beside the one that uses it."""
        beside = _Draft(_beside(draft.name, further), draft.where, entries)
        rule = self._rule_of(beside, entries)
        if rule is None:
            return
        if self._rules[rule].body is not None:
            where = entries[0].key.where
            self.scope.error("a rule's further target is of no rule of the workspace's own", where)
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
            if self._dockerfile is None:
                directory = f"{self.scope.package or '.'}/"
                self.scope.error(
                    f"there is no Dockerfile in {directory}",
                    where,
                    "add one, or say which with 'dockerfile:' or 'dockerfile_inline:'",
                )
                return
            default = in_package(self.scope.package, self._dockerfile)
            attrs["dockerfile"] = Value(default, where, given=False)


def _belongs_to_file(key: str) -> bool:
    return key in _FILE_KEYS or key.startswith("x-")


def _beside(name: str, further: str) -> str:
    """Return the name of a further target: `app.smoke` of `app`, a matrix suffix staying last."""
    base, at, pairs = name.partition("@")
    return f"{base}.{further}{at}{pairs}"


def _both(structure: Mapping[str, Value]) -> tuple[Value, Value]:
    return structure["exclude"], structure["include"]


def _visibility(value: Value) -> Visibility | None:
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
