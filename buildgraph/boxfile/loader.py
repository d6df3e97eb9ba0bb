"""Knows the shape of a Boxfile: text -> `Package` of `Target`s; must not know the disk.

A file has `workspace:` (the root's only), `package:`, `targets:` and `x-*`. Without `targets:`
every other key of it belongs to one target called `image`. A Dockerfile that no target of its
directory names is that target by itself. What a target says is written over what it extends, and
that over the package's defaults; then templates are evaluated, once for each variant of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.boxfile import schema, values, wording, yaml
from buildgraph.boxfile.header import Header, RegistryEntry, read_header
from buildgraph.boxfile.making import BOXFILE, Draft, Maker, in_package, visibility_of
from buildgraph.boxfile.rendering import Surroundings
from buildgraph.boxfile.target import Target
from buildgraph.errors import InputError, Location, raise_all
from buildgraph.label import DEFAULT_NAME, name_problem

__all__ = ["BOXFILE", "DOCKERFILES", "Header", "Package", "RegistryEntry", "in_package", "load"]

DOCKERFILES: Final = ("Dockerfile", "Containerfile", "dockerfile")  # the first that is there
_FILE_KEYS: Final = ("workspace", "package", "targets")


class Package(Struct, frozen=True):
    """One directory and its targets, in the order they are written; an implicit one is last."""

    path: str
    targets: Mapping[str, Target]
    boxfile: str | None = None  # path from the workspace's root; None: there is just a Dockerfile
    header: Header | None = None


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


class _Loader(Maker):
    """Collects the targets and the errors of one file."""

    opened: Callable[[Header], list[InputError]] | None = None

    # -- the file ------------------------------------------------------------------------

    def file(self, text: str) -> Header | None:
        """Read a whole Boxfile."""
        root = yaml.compose(text, in_package(self.scope.package, BOXFILE), self.scope.errors)
        if root is None or (isinstance(root, yaml.Scalar) and root.empty):
            return None
        if not isinstance(root, yaml.Mapping):
            hint = "put a space after ':'" if ":" in root.where.text else None
            self.scope.error(
                f"expected keys such as 'targets:', found {wording.found(root)}", root.where, hint
            )
            return None
        # A backslash may be a brace in the end.
        self.templates = any(sign in text for sign in ("{{", "{%", "\\"))
        workspace = root.get("workspace")
        header = None if workspace is None else self._workspace(workspace)
        self.header = header or self.header
        if header is not None and self.opened is not None:
            self.scope.errors.extend(self.opened(header))
        self._package(root.get("package"))
        targets = root.get("targets")
        rest = [entry for entry in root.entries if not _belongs_to_file(entry.key.text)]
        rest = [entry for entry in rest if not self._later(entry.key)]
        if targets is not None:
            self._refuse_beside_targets(rest)
            self.make(list(self._all_targets(targets.value)))
        elif rest:
            self.make(list(self._short_form(rest)))
        return header

    def implicit(self) -> None:
        """Add the target that a Dockerfile is by itself, unless some target is it already."""
        if self.dockerfile is None or DEFAULT_NAME in self.targets or self.scope.errors:
            return
        path = in_package(self.scope.package, self.dockerfile)
        if any(
            target.rule == "image" and target.attrs["dockerfile"].data == path
            for target in self.targets.values()
        ):
            return
        self.make([Draft(DEFAULT_NAME, Location(path), ())])

    def _later(self, key: yaml.Scalar) -> bool:
        if key.text not in schema.LATER_FILE:
            return False
        self.scope.error(f"{key.text!r} comes in a later version", key.where)
        return True

    def _workspace(self, entry: yaml.Entry) -> Header:
        if self.scope.package:
            self.scope.error("'workspace' belongs to the root's Boxfile", entry.key.where)
        return read_header(entry, self.scope, self.around)

    def _package(self, entry: yaml.Entry | None) -> None:
        """Read `package:`: what holds for all targets of the file."""
        if entry is None or (isinstance(entry.value, yaml.Scalar) and entry.value.empty):
            return
        if not isinstance(entry.value, yaml.Mapping):
            words = wording.found(entry.value)
            self.scope.error(f"package: expected a mapping, found {words}", entry.value.where)
            return
        keys = values.Keys(schema.PACKAGE, "package", others=(schema.DEFAULTS,))
        fields = values.parse_fields(
            entry.value.entries, keys, entry.key.where, replace(self.scope, names=self.names())
        )
        self.visibility = visibility_of(fields["visibility"])
        defaults = entry.value.get(schema.DEFAULTS)
        if defaults is None:
            return
        if not isinstance(defaults.value, yaml.Mapping):
            words = wording.found(defaults.value)
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
        if name not in self.rules:
            own = {a.name for a in schema.IMAGE.attributes}
            hint = f"write defaults: {{image: {{{name}: …}}}}" if name in own else None
            self.refuse_rule(name, entry.key.where, hint)
        elif not isinstance(entry.value, yaml.Mapping):
            words = wording.found(entry.value)
            self.scope.error(f"defaults.{name}: expected a mapping, found {words}", entry.key.where)
        else:
            spec = self.spec(name)
            known = {attribute.name for attribute in (spec.attributes if spec else ())}
            for one in entry.value.entries:
                if one.key.text not in known:
                    hint = self.scope.near(one.key.text, known)
                    message = f"defaults.{name} has no key {wording.found(one.key)}"
                    self.scope.error(message, one.key.where, hint)
            self.defaults[name] = entry.value.entries

    # -- which targets there are ---------------------------------------------------------

    def _attribute_names(self) -> set[str]:
        names = {attribute.name for attribute in (*schema.COMMON, *schema.IMAGE.attributes)}
        for rule in self.rules:
            spec = self.spec(rule)
            names.update(attribute.name for attribute in (spec.attributes if spec else ()))
        return names

    def _refuse_beside_targets(self, rest: list[yaml.Entry]) -> None:
        known = self._attribute_names() if rest else ()
        for entry in rest:
            name = entry.key.text
            if name in known:
                message = f"{name!r} belongs to a target"
                hint: str | None = f"move it below 'targets:', into a target such as {DEFAULT_NAME}"
            else:
                message = f"a Boxfile has no key {wording.found(entry.key)}"
                hint = self.scope.near(name, _FILE_KEYS)
            self.scope.error(message, entry.key.where, hint)

    def _all_targets(self, node: yaml.Node) -> Iterator[Draft]:
        if isinstance(node, yaml.Scalar) and node.empty:
            return
        if not isinstance(node, yaml.Mapping):
            words = wording.found(node)
            self.scope.error(
                f"targets: expected a mapping of names to targets, found {words}", node.where
            )
            return
        for entry in node.entries:
            name = entry.key.text
            problem = "'@' starts a matrix suffix" if "@" in name else name_problem(name)
            if problem:
                self.scope.error(
                    f"{wording.quoted(name)} cannot name a target: {problem}", entry.key.where
                )
            if isinstance(entry.value, yaml.Mapping):
                yield Draft(name, entry.key.where, entry.value.entries)
            elif isinstance(entry.value, yaml.Scalar) and entry.value.empty:
                yield Draft(name, entry.key.where, ())
            else:
                words = wording.found(entry.value)
                self.scope.error(
                    f"target {wording.quoted(name)}: expected a mapping, found {words}",
                    entry.value.where,
                )

    def _short_form(self, entries: list[yaml.Entry]) -> Iterator[Draft]:
        own = {attribute.name for attribute in (*schema.COMMON, *schema.IMAGE.attributes)}
        if not any(entry.key.text in own for entry in entries):
            own = self._attribute_names()
        if any(entry.key.text in own for entry in entries):
            yield Draft(DEFAULT_NAME, entries[0].key.where, entries, _FILE_KEYS)
            return
        for entry in entries:  # nothing here looks like a target: a misspelt key of the file
            hint = self.scope.near(entry.key.text, sorted((*_FILE_KEYS, *own)))
            self.scope.error(
                f"a Boxfile has no key {wording.found(entry.key)}", entry.key.where, hint
            )


def _belongs_to_file(key: str) -> bool:
    return key in _FILE_KEYS or key.startswith("x-")
