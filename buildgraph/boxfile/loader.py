"""Knows the shape of a Boxfile: text -> `Package` of `Target`s; must not know the disk.

A file has `workspace:` (the root's only), `targets:` and `x-*`. Without `targets:` every other
key of it belongs to one target called `image`. A Dockerfile that no target of its directory
names is that target by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from buildgraph.boxfile import schema, values, yaml
from buildgraph.boxfile.target import Target, Value, text_of
from buildgraph.errors import InputError, Location, raise_all
from buildgraph.label import DEFAULT_NAME, Label, name_problem

BOXFILE: Final = "Boxfile.yaml"
DOCKERFILES: Final = ("Dockerfile", "Containerfile", "dockerfile")  # the first that is there
_FILE_KEYS: Final = ("workspace", "targets")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """How one registry is spoken to; `ca` is a path from the workspace's root."""

    mirrors: tuple[str, ...] = ()
    insecure: bool = False
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What the root file says of the workspace."""

    where: Location
    name: str | None = None
    vars: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    registry: str | None = None
    registries: Mapping[str, RegistryEntry] = field(default_factory=lambda: MappingProxyType({}))


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
) -> Package:
    """Return the package that the Boxfile `text` describes; None: the directory has no Boxfile.

    `dockerfile` is the name of the Dockerfile that lies in the directory, if one does. `rules`
    are all that may be used, the built-in ones among them. Raises InputError with everything that
    is wrong, in the order of the file.
    """
    loader = _Loader(values.Scope(package), rules, dockerfile)
    header = None if text is None else loader.file(text)
    raise_all(sorted(loader.scope.errors, key=_position))
    loader.implicit()
    return Package(
        package,
        MappingProxyType(loader.targets),
        None if text is None else in_package(package, BOXFILE),
        header,
    )


def _position(error: InputError) -> tuple[str, int, int]:
    where = error.where
    return (where.path, where.line, where.column) if where else ("", 0, 0)


class _Loader:
    """Collects the targets and the errors of one file."""

    def __init__(
        self,
        scope: values.Scope,
        rules: Mapping[str, schema.RuleSpec],
        dockerfile: str | None,
    ):
        self.scope = scope
        self.targets: dict[str, Target] = {}
        self._rules = rules
        self._dockerfile = dockerfile

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
        workspace = root.get("workspace")
        targets = root.get("targets")
        rest = [entry for entry in root.entries if not _belongs_to_file(entry.key.text)]
        rest = [entry for entry in rest if not self._later(entry.key)]
        if targets is not None:
            self._refuse_beside_targets(rest)
            self._all_targets(targets.value)
        elif rest:
            self._short_form(rest)
        return None if workspace is None else self._header(workspace)

    def implicit(self) -> None:
        """Add the target that a Dockerfile is by itself, unless some target is it already."""
        if self._dockerfile is None or DEFAULT_NAME in self.targets:
            return
        path = in_package(self.scope.package, self._dockerfile)
        if any(
            target.rule == "image" and target.attrs["dockerfile"].data == path
            for target in self.targets.values()
        ):
            return
        where = Location(path)
        self._add(DEFAULT_NAME, "image", where, [])

    def _later(self, key: yaml.Scalar) -> bool:
        if key.text not in schema.LATER_FILE:
            return False
        self.scope.error(f"{key.text!r} comes in a later version", key.where)
        return True

    def _header(self, entry: yaml.Entry) -> Header:
        if self.scope.package:
            self.scope.error("'workspace' belongs to the root's Boxfile", entry.key.where)
        if isinstance(entry.value, yaml.Scalar) and entry.value.empty:
            return Header(entry.key.where)
        keys = values.Keys(
            schema.WORKSPACE.fields, "workspace", schema.LATER_WORKSPACE, extensions=True
        )
        if not isinstance(entry.value, yaml.Mapping):
            words = values.found(entry.value)
            self.scope.error(
                f"workspace: expected a mapping, found {words}",
                entry.value.where,
                "write workspace: {name: shop}",
            )
            return Header(entry.key.where)
        fields = values.parse_fields(entry.value.entries, keys, entry.key.where, self.scope)
        variables = fields["vars"].data
        pairs = variables if isinstance(variables, Mapping) else {}
        return Header(
            entry.key.where,
            _optional_text(fields["name"]),
            MappingProxyType({name: text_of(value) for name, value in pairs.items()}),
            _optional_text(fields["registry"]),
            MappingProxyType(_registries(fields["registries"])),
        )

    def _refuse_beside_targets(self, rest: list[yaml.Entry]) -> None:
        known = {a.name for rule in self._rules.values() for a in rule.attributes}
        known.update(attribute.name for attribute in schema.COMMON)
        for entry in rest:
            name = entry.key.text
            if name in known:
                message = f"{name!r} belongs to a target"
                hint: str | None = f"move it below 'targets:', into a target such as {DEFAULT_NAME}"
            else:
                message = f"a Boxfile has no key {values.found(entry.key)}"
                hint = self.scope.near(name, _FILE_KEYS)
            self.scope.error(message, entry.key.where, hint)

    def _all_targets(self, node: yaml.Node) -> None:
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
                self._target(name, entry.key.where, list(entry.value.entries))
            elif isinstance(entry.value, yaml.Scalar) and entry.value.empty:
                self._target(name, entry.key.where, [])
            else:
                words = values.found(entry.value)
                self.scope.error(
                    f"target {values.quoted(name)}: expected a mapping, found {words}",
                    entry.value.where,
                )

    def _short_form(self, entries: list[yaml.Entry]) -> None:
        own = {a.name for rule in self._rules.values() for a in rule.attributes}
        own.update(attribute.name for attribute in schema.COMMON)
        own.update(schema.LATER_TARGET)
        if any(entry.key.text in own for entry in entries):
            self._target(DEFAULT_NAME, entries[0].key.where, entries, _FILE_KEYS)
            return
        for entry in entries:  # nothing here looks like a target: a misspelt key of the file
            hint = self.scope.near(entry.key.text, sorted((*_FILE_KEYS, *own)))
            self.scope.error(
                f"a Boxfile has no key {values.found(entry.key)}", entry.key.where, hint
            )

    def _target(
        self,
        name: str,
        where: Location,
        entries: list[yaml.Entry],
        others: tuple[str, ...] = (),
    ) -> None:
        rule = next((entry for entry in entries if entry.key.text == "rule"), None)
        rule_name = "image"
        if rule is not None:
            before = len(self.scope.errors)
            value = values.parse_value(rule.value, schema.Text(), "rule", self.scope)
            if value is None or len(self.scope.errors) > before:
                return
            rule_name = text_of(value)
            if rule_name not in self._rules:
                self._refuse_rule(rule_name, value.where)
                return
        self._add(name, rule_name, where, entries, others)

    def _refuse_rule(self, name: str, where: Location) -> None:
        near = self.scope.near(name, self._rules)
        hint = near or "rules: " + ", ".join(sorted(self._rules))
        self.scope.error(f"there is no rule {values.quoted(name)}", where, hint)

    def _add(
        self,
        name: str,
        rule: str,
        where: Location,
        entries: list[yaml.Entry],
        others: tuple[str, ...] = (),
    ) -> None:
        spec = self._rules[rule]
        article = "an" if rule[0] in "aeiou" else "a"
        keys = values.Keys(
            (*schema.COMMON, *spec.attributes),
            f"{article} {rule} target",
            schema.LATER_TARGET,
            others,
            extensions=True,
        )
        before = len(self.scope.errors)
        attrs = values.parse_fields(entries, keys, where, self.scope)
        if rule == "image" and len(self.scope.errors) == before:
            self._fill_dockerfile(attrs, where)
        doc = attrs.pop("doc", None)
        attrs.pop("rule", None)
        label = Label(self.scope.package, name)
        self.targets[name] = Target(
            label, rule, where, MappingProxyType(attrs), text_of(doc) if doc else ""
        )

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
