"""Knows how a rule is written as a template: `NAME.rule.yaml` -> `RuleSpec`, a workspace's own or
one of the library; must not know what a target makes of it (`calls.py`) or the disk.

A rule is a table of typed attributes and the template of a Dockerfile over them. It may set
attributes of the image and add further targets, such as a smoke test, beside each that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from buildgraph.boxfile import schema, values, wording, yaml
from buildgraph.boxfile.rendering import STAMP
from buildgraph.boxfile.schema import Attribute, Bool, ByShape, Choice, ListOf, MapOf, Record, Text
from buildgraph.boxfile.target import Value, text_of
from buildgraph.errors import InputError, InputErrors, Location, raise_all
from buildgraph.label import name_problem

SUFFIX: Final = ".rule.yaml"
WHEN: Final = "when"  # of a further target: the condition to be there
RULE_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

_SIMPLE: Final[Mapping[str, schema.Scalar]] = {
    "text": schema.Text(multiline=True),
    "bool": schema.Bool(),
    "int": schema.Int(),
    "label": schema.LabelRef(),
    "file": schema.FilePath(),
    "directory": schema.DirPath(),
    "platform": schema.PlatformName(),
}
_ATTRIBUTE: Final = Record(
    (
        Attribute(
            "type",
            Choice((*_SIMPLE, "choice", "list", "map")),
            "What its values are.",
            default="text",
        ),
        Attribute("items", Choice(tuple(_SIMPLE)), "What a list or a map holds.", default="text"),
        Attribute("values", ListOf(Text()), "The words of a choice.", default=()),
        Attribute("pattern", Text(), "What must match a text whole, as Python's re has it."),
        Attribute("doc", Text(multiline=True), "What it is, in a sentence.", required=True),
        Attribute("required", Bool(), "Whether each target must have it.", default=False),
        Attribute(
            "default",
            ByShape(scalar=Text(multiline=True), sequence=ListOf(Text()), mapping=MapOf(Text())),
            "What it is where a target does not say.",
        ),
    )
)
FILE: Final = (
    Attribute("name", Text(), "The name of the file, once more."),
    Attribute("doc", Text(multiline=True), "What targets of this rule are.", required=True),
    Attribute("attributes", MapOf(_ATTRIBUTE, r"[a-z][a-z0-9_]*", "a name in small letters"), "…"),
    Attribute("dockerfile", Text(multiline=True), "Template of the Dockerfile.", required=True),
)
_RAW: Final = ("image", "targets")  # read once there is a target to read them for
# Attributes that a target of the rule has from `image`, all but what the rule is.
_INHERITED: Final = tuple(
    one for one in schema.IMAGE.attributes if one.name not in ("dockerfile", "dockerfile_inline")
)
_GOES_WITH: Final = {"items": ("list", "map"), "values": ("choice",), "pattern": ("text",)}
_TAKEN: Final = frozenset(
    [one.name for one in (*schema.IMAGE.attributes, *schema.COMMON)]
    + ["vars", "workspace", "package", "target", "matrix", "env", "self", "beside", "loop", STAMP]
)


class RuleTable(Mapping[str, schema.RuleSpec]):
    """Rules by name; one that is a file is read when somebody asks for it."""

    def __init__(self, fixed: Mapping[str, schema.RuleSpec]):
        self._known = dict(fixed)
        self._files: dict[str, Callable[[], schema.RuleSpec]] = {}
        self._failed: dict[str, InputError] = {}
        self._shipped: set[str] = set()

    @property
    def shipped(self) -> frozenset[str]:
        """Return the names of the templates of the library."""
        return frozenset(self._shipped)

    @property
    def read_paths(self) -> set[str]:
        """Return the paths of the files that were read so far and have nothing wrong in them."""
        return {spec.body.path for spec in self._known.values() if spec.body is not None}

    def add(self, name: str, read: Callable[[], schema.RuleSpec], *, shipped: bool = False) -> bool:
        """Add a rule that `read` returns; False: there is one of this name already.

        What is `shipped` gives way to another: the library may grow, and nobody has to rename.
        """
        if name in self and name not in self._shipped:
            return False
        self._known.pop(name, None)
        self._files[name] = read
        (self._shipped.add if shipped else self._shipped.discard)(name)
        return True

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._files

    def __iter__(self) -> Iterator[str]:
        yield from self._known
        yield from (name for name in self._files if name not in self._known)

    def __len__(self) -> int:
        return len(self._known.keys() | self._files.keys())

    def __getitem__(self, name: str) -> schema.RuleSpec:
        """Return a rule. Raises KeyError, and InputError for what is wrong in its file."""
        if name in self._failed:
            raise self._failed[name]
        if name not in self._known:
            try:
                self._known[name] = self._files[name]()
            except InputError as error:
                self._failed[name] = error
                raise
        return self._known[name]


def read_rule(text: str, path: str, name: str, *, shipped: bool = False) -> schema.RuleSpec:
    """Return the rule that a file describes. Raises InputError with all that is wrong.

    `path` is from the workspace's root; labels and paths in the file are relative to its directory.
    With `shipped` it is a file of the library, and they are relative to whoever uses the rule.
    """
    package, _, _ = path.rpartition("/")
    scope = values.Scope(package)
    root = yaml.compose(text, path, scope.errors)
    if not isinstance(root, yaml.Mapping):
        if not scope.errors:
            scope.error("a rule has 'doc', 'attributes' and 'dockerfile'", Location(path, 1))
        raise _all(scope.errors)
    where = Location(path, 1)
    fields = values.parse_fields(
        root.entries, values.Keys(FILE, "a rule", others=_RAW), where, scope
    )
    written = fields["name"]
    if written.given and written.data != name:
        scope.error(f"the file is called {name}{SUFFIX}", written.where)
    own, defaults = _attributes(root.get("attributes"), fields["attributes"], scope)
    body = root.get("dockerfile")
    image = _entries(root, "image", scope)
    for entry in image:
        if entry.key.text not in {attribute.name for attribute in _INHERITED}:
            hint = scope.near(entry.key.text, [attribute.name for attribute in _INHERITED])
            scope.error(f"image has no key {wording.found(entry.key)}", entry.key.where, hint)
    targets = tuple(_further(_entries(root, "targets", scope), scope))
    if scope.errors or body is None or not isinstance(body.value, yaml.Scalar):
        raise _all(scope.errors)
    dockerfile = yaml.Entry(replace(body.key, text="dockerfile_inline"), body.value)
    return schema.RuleSpec(
        name,
        _words(fields["doc"]),
        (*own, *_INHERITED),
        schema.RuleBody(
            path,
            None if shipped else package,
            tuple(attribute.name for attribute in own),
            tuple(defaults),
            (*image, dockerfile),
            targets,
        ),
    )


def _all(errors: list[InputError]) -> InputError:
    try:
        raise_all(sorted(errors, key=lambda error: error.where or Location("")))
    except InputError as error:
        return error
    raise AssertionError("nothing is wrong")


def _attributes(
    written: yaml.Entry | None, found: Value, scope: values.Scope
) -> tuple[list[Attribute], list[yaml.Entry]]:
    """Return the attributes, and the defaults as they are written."""
    data = found.data if isinstance(found.data, Mapping) else {}
    node = written.value if written is not None else None
    out: list[Attribute] = []
    defaults: list[yaml.Entry] = []
    for name, value in data.items():
        place = value.key or value.where
        if name in _TAKEN:
            scope.error(f"attributes: {name!r} is taken: every target has it already", place)
            continue
        fields = value.data
        assert isinstance(fields, Mapping)
        kind = _kind(fields, scope)
        default = fields["default"]
        if default.given and fields["required"].data is True:
            scope.error(f"{name}: what is required has no default", default.key or place)
        entry = node.get(name) if isinstance(node, yaml.Mapping) else None
        if default.given and entry is not None and isinstance(entry.value, yaml.Mapping):
            own = entry.value.get("default")
            assert own is not None
            defaults.append(yaml.Entry(replace(own.key, text=name), own.value))
        required = fields["required"].data is True
        nothing = () if isinstance(kind, ListOf | MapOf) and not required else None
        shown = _shown(default, kind) if nothing is None else nothing
        out.append(Attribute(name, kind, _words(fields.get("doc")), shown, required))
    return out, defaults


def _words(doc: Value | None) -> str:
    """Return a text as one line, "" after an error."""
    return "" if doc is None or doc.data is None else " ".join(text_of(doc).split())


def _kind(fields: Mapping[str, Value], scope: values.Scope) -> schema.Type:
    kind = text_of(fields["type"])
    for key, wanted in (
        ("items", ("list", "map")),
        ("values", ("choice",)),
        ("pattern", ("text",)),
    ):
        if fields[key].given and kind not in wanted:
            words = " or ".join(wanted)
            scope.error(f"{key!r} goes with type {words}", fields[key].key or fields[key].where)
    items = _SIMPLE[text_of(fields["items"])]
    if kind == "list":
        return ListOf(items, single=True)
    if kind == "map":
        return MapOf(items)
    if kind == "choice":
        given = fields["values"]
        words_of = given.data if isinstance(given.data, tuple) else ()
        if not words_of:
            scope.error("a choice has 'values'", fields["type"].where)
        return Choice(tuple(text_of(item) for item in words_of))
    pattern = fields["pattern"]
    if kind == "text" and pattern.given:
        text = text_of(pattern)
        try:
            re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            scope.error(f"pattern: {error}", pattern.where)
        return Text(text, f"what {text} matches", multiline=True)
    return _SIMPLE[kind]


def _shown(default: Value, kind: schema.Type) -> schema.Default:
    """Return a default for lists of attributes; a target gets it as it is written."""
    if not default.given or isinstance(default.data, tuple | Mapping):
        return None
    text = text_of(default)
    if isinstance(kind, Bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if isinstance(kind, schema.Int) and text.isdecimal() else text


def _entries(root: yaml.Mapping, name: str, scope: values.Scope) -> tuple[yaml.Entry, ...]:
    entry = root.get(name)
    if entry is None or (isinstance(entry.value, yaml.Scalar) and entry.value.empty):
        return ()
    if isinstance(entry.value, yaml.Mapping):
        return entry.value.entries
    scope.error(
        f"{name}: expected a mapping, found {wording.found(entry.value)}", entry.value.where
    )
    return ()


def _further(entries: tuple[yaml.Entry, ...], scope: values.Scope) -> Iterator[schema.Further]:
    """Yield the targets that stand beside each of the rule."""
    for entry in entries:
        name, where = entry.key.text, entry.key.where
        problem = "'@' starts a matrix suffix" if "@" in name else name_problem(name)
        if problem:
            scope.error(f"{wording.quoted(name)} cannot end a target's name: {problem}", where)
        elif not isinstance(entry.value, yaml.Mapping):
            words = wording.found(entry.value)
            scope.error(f"{name}: expected a mapping, found {words}", entry.value.where)
        else:
            refused = {one.name for one in schema.STRUCTURE}
            for one in entry.value.entries:
                if one.key.text in refused:
                    scope.error(f"a rule's further target has no {one.key.text!r}", one.key.where)
            rest = tuple(one for one in entry.value.entries if one.key.text != WHEN)
            yield schema.Further(name, rest, entry.value.get(WHEN))


def errors_of(error: InputError) -> tuple[InputError, ...]:
    """Return the single errors of one that may be several."""
    return error.errors if isinstance(error, InputErrors) else (error,)
