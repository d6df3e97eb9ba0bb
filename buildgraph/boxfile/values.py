"""Knows how a node becomes a value of a schema type, and the words when it cannot; must not know
which keys there are (`schema.py`) or the disk.

Nothing here raises for bad input: errors go to `Scope.errors` with their places, and what could
not be parsed is left out, so that one run reports everything.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, assert_never

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.boxfile import schema, yaml
from buildgraph.boxfile.rendering import (
    STAMP,
    Names,
    check_stamps,
    read,
    rendered,
    spread,
    stamp_refused,
)
from buildgraph.boxfile.target import (
    Block,
    Data,
    DirContext,
    LabelContext,
    LayoutContext,
    Stamped,
    Value,
)
from buildgraph.boxfile.template import Template, is_template
from buildgraph.boxfile.visibility import PRIVATE, PUBLIC
from buildgraph.boxfile.wording import found, quoted, wanted
from buildgraph.errors import InputError, Location, did_you_mean, raise_all
from buildgraph.label import join, parse_label, parse_pattern

_INT: Final = re.compile(r"[-+]?[0-9]+")
_DECIMAL: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE)
_SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_PLATFORM: Final = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9]+)?")
_PACKAGE: Final = re.compile(
    r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9][a-z0-9-]*)?(?:=[A-Za-z0-9][A-Za-z0-9.+:~-]*)?"
)
_LAYOUT: Final = re.compile(
    r"(?P<path>.*?)(?:@(?P<digest>sha256:[0-9a-f]{64})|:(?P<tag>\w[\w.-]{0,127}))?", re.ASCII
)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://|git@")
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_HINTS: Final = 100
_YES_AND_NO: Final = {"yes": "true", "on": "true", "no": "false", "off": "false"}


class Scope(Struct, frozen=True):
    """Where values are parsed: the package that relative labels and paths start from.

    `names` are those of templates; None: braces are text like any other. `homes` are the packages
    of values that other files than the package's own hold, by the file's path.
    """

    package: str
    errors: list[InputError] = field(default_factory=list)
    names: Names | None = None
    stamps: bool = False  # whether what git says may stand here
    homes: Mapping[str, str] = field(default_factory=dict)

    def home(self, where: Location) -> str:
        """Return the package that what is written at a place is relative to."""
        return self.homes.get(where.path, self.package)

    def error(self, message: str, where: Location, hint: str | None = None) -> None:
        """Note that something is wrong at `where`."""
        self.errors.append(InputError(message, where, hint))

    def near(self, name: str, candidates: Iterable[str]) -> str | None:
        """Return "did you mean", for as many errors as somebody may read: searching is slow."""
        return did_you_mean(name, candidates) if len(self.errors) < _HINTS else None


class Keys(Struct, frozen=True):
    """The keys that a mapping may have, and words about it.

    `later` are keys of a later version; `others` are keys that belong here but not to the table.
    """

    attributes: tuple[schema.Attribute, ...]
    what: str  # "an image target", for messages
    later: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    extensions: bool = False  # `x-*` is left alone
    prefix: str = ""  # of the names in messages: "secrets."
    refused: Mapping[str, str] = field(default_factory=dict)  # key -> why there will be none


def parse_fields(
    entries: Iterable[yaml.Entry], keys: Keys, owner: Location, scope: Scope
) -> dict[str, Value]:
    """Return a value for every attribute of `keys`, defaults included.

    A missing required key is reported at `owner`, where defaults stand too.
    """
    table = {attribute.name: attribute for attribute in keys.attributes}
    fields: dict[str, Value] = {}
    seen: set[str] = set()
    for entry in entries:
        name = entry.key.text
        seen.add(name)
        attribute = table.get(name)
        if attribute is not None:
            stamps = attribute.stamps and scope.names is not None
            inner = replace(scope, stamps=True) if stamps else scope
            value = parse_value(entry.value, attribute.type, keys.prefix + name, inner)
            if value is not None:
                fields[name] = Value(value.data, value.where, entry.key.where)
        elif not (keys.extensions and name.startswith("x-")) and name not in keys.others:
            _refuse_key(entry.key, keys, scope)
    nothing: dict[schema.Default, Value] = {
        default: Value(default, owner, given=False) for default in (None, ())
    }
    for attribute in keys.attributes:
        if attribute.required and attribute.name not in seen:
            scope.error(f"{keys.what} needs {attribute.name!r}", owner)
        elif attribute.name not in fields:
            # Most of what is not written is nothing: one value of it will do.
            default = nothing.get(attribute.default)
            fields[attribute.name] = default or Value(attribute.default, owner, given=False)
    return fields


def _refuse_key(key: yaml.Scalar, keys: Keys, scope: Scope) -> None:
    if key.text in keys.refused:
        scope.error(f"{keys.prefix}{key.text} is refused", key.where, keys.refused[key.text])
        return
    if key.text in keys.later:
        scope.error(f"{quoted(key.text)} comes in a later version", key.where)
        return
    candidates = [attribute.name for attribute in keys.attributes]
    candidates.extend((*keys.later, *keys.others))
    hint = scope.near(key.text, candidates)
    scope.error(f"{keys.what} has no key {found(key)}", key.where, hint)


def parse_value(node: yaml.Node, kind: schema.Type, name: str, scope: Scope) -> Value | None:
    """Return the value of `node` as `kind`, None after an error; `name` is for messages."""
    match kind:
        case schema.ListOf():
            return _list(node, kind, name, scope)
        case schema.MapOf():
            return _map(node, kind, name, scope)
        case schema.Record():
            return _record(node, kind, name, scope)
        case schema.ByShape():
            return _by_shape(node, kind, name, scope)
        case _:
            if isinstance(node, yaml.Scalar) and not node.empty:
                return _scalar(node, kind, name, scope)
            _wrong(node, kind, name, scope)
            return None


def _by_shape(node: yaml.Node, kind: schema.ByShape, name: str, scope: Scope) -> Value | None:
    if isinstance(node, yaml.Scalar) and node.empty and kind.nothing:
        return Value(None, node.where)
    chosen: schema.Type | None
    match node:
        case yaml.Scalar():
            chosen = None if node.empty else kind.scalar
        case yaml.Sequence():
            chosen = kind.sequence
        case yaml.Mapping():
            chosen = kind.mapping
        case _:
            assert_never(node)
    if chosen is not None:
        return parse_value(node, chosen, name, scope)
    _wrong(node, kind, name, scope)
    return None


def _list(node: yaml.Node, kind: schema.ListOf, name: str, scope: Scope) -> Value | None:
    if isinstance(node, yaml.Sequence):
        items = node.items
    elif kind.single and isinstance(node, yaml.Scalar) and not node.empty:
        items = (node,)
    else:
        _wrong(node, kind, name, scope)
        return None
    values: list[Value | None] = []
    for item in items:
        several = _spread(item, scope) if isinstance(node, yaml.Sequence) else None
        inner = scope if several is None else replace(scope, names=None)
        values.extend(
            parse_value(one, kind.item, name, inner)
            for one in ((item,) if several is None else several)
        )
    if kind.unique:
        _refuse_twice([value for value in values if value is not None], name, scope)
    return Value(tuple(value for value in values if value is not None), node.where)


def _spread(item: yaml.Node, scope: Scope) -> list[yaml.Scalar] | None:
    """Return what an item stands for that is the template of a list."""
    if scope.names is None or not isinstance(item, yaml.Scalar) or not is_template(item.text):
        return None
    return spread(item, scope.names)


def _refuse_twice(values: list[Value], name: str, scope: Scope) -> None:
    first: dict[object, Value] = {}
    for value in values:
        before = first.setdefault(value.data, value)
        if before is not value:
            hint = f"first at {before.where}"
            text = value.data.source if isinstance(value.data, Stamped) else str(value.data)
            scope.error(f"{name}: {quoted(text)} is there twice", value.where, hint)


def _map(node: yaml.Node, kind: schema.MapOf, name: str, scope: Scope) -> Value | None:
    if not isinstance(node, yaml.Mapping):
        _wrong(node, kind, name, scope)
        return None
    found: dict[str, Value] = {}
    for entry in node.entries:
        key = entry.key
        if kind.key_pattern and not re.fullmatch(kind.key_pattern, key.text):
            scope.error(f"{name}: {quoted(key.text)} is not {kind.key_expected}", key.where)
        value = parse_value(entry.value, kind.value, f"{name}.{key.text}", scope)
        if value is not None:
            found[key.text] = Value(value.data, value.where, key.where)
    return Value(MappingProxyType(found), node.where)


def _record(node: yaml.Node, kind: schema.Record, name: str, scope: Scope) -> Value | None:
    if not isinstance(node, yaml.Mapping):
        _wrong(node, kind, name, scope)
        return None
    keys = Keys(kind.fields, f"an entry of {name}", prefix=f"{name}.", refused=dict(kind.refused))
    before = len(scope.errors)
    fields = parse_fields(node.entries, keys, node.where, scope)
    if kind.one_of and len(scope.errors) == before:
        given = [field for field in kind.one_of if fields[field].given]
        if len(given) != 1:
            wanted = " or ".join(repr(field) for field in kind.one_of)
            only = ", not both" if given else ""
            scope.error(f"{name}: give either {wanted}{only}", node.where)
    return Value(MappingProxyType(fields), node.where)


def _scalar(node: yaml.Scalar, kind: schema.Scalar, name: str, scope: Scope) -> Value | None:
    if scope.names is not None and is_template(node.text):
        return _from_template(node, kind, name, scope, scope.names)
    before = len(scope.errors)
    try:
        data = _parse(node, kind, name, scope)
    except InputError as error:  # from the grammar of labels
        scope.errors.append(error)
        return None
    return Value(data, node.where) if len(scope.errors) == before else None


def _from_template(
    node: yaml.Scalar, kind: schema.Scalar, name: str, scope: Scope, names: Names
) -> Value | None:
    """Return the value of what a template comes to; with a stamp in it, when somebody asks."""
    try:
        template = read(node, names)
        if STAMP in template.names:
            if not scope.stamps:
                raise stamp_refused(node, template, name)
            check_stamps(node, template)
            return Value(_stamped(node, template, kind, name, names), node.where)
        node = rendered(node, template, names)
    except InputError as error:
        scope.errors.append(error)
        return None
    return _scalar(node, kind, name, replace(scope, names=None))


def _stamped(
    node: yaml.Scalar, template: Template, kind: schema.Scalar, name: str, names: Names
) -> Stamped:
    def render() -> str:
        scope = Scope("")
        value = _scalar(rendered(node, template, names), kind, name, scope)
        raise_all(scope.errors)
        assert value is not None
        return value.data.text if isinstance(value.data, Block) else str(value.data)

    return Stamped(node.text, render)


def _parse(node: yaml.Scalar, kind: schema.Scalar, name: str, scope: Scope) -> Data:  # noqa: C901  one case per type
    text = node.text
    match kind:
        case schema.Text():
            return _text(node, kind, name, scope)
        case schema.Bool():
            return _bool(node, name, scope)
        case schema.Int():
            return _int(node, kind, name, scope)
        case schema.Decimal():
            return _decimal(node, name, scope)
        case schema.Size():
            return _size(node, name, scope)
        case schema.Duration():
            return _duration(node, name, scope)
        case schema.Choice():
            if text not in kind.values:
                _wrong(node, kind, name, scope, scope.near(text, kind.values))
            return text
        case schema.LabelRef():
            return parse_label(text, scope.home(node.where), node.where)
        case schema.PatternRef():
            return _pattern(node, scope)
        case schema.Audience():
            return text if text in (PUBLIC, PRIVATE) else _pattern(node, scope)
        case schema.ContextPlace():
            return _context(node, name, scope)
        case schema.FilePath() | schema.DirPath():
            return _path(node, kind, name, scope)
        case schema.PackageName():
            return _matching(node, _PACKAGE, kind, name, scope)
        case schema.PlatformName():
            return _matching(node, _PLATFORM, kind, name, scope)
        case _:
            assert_never(kind)


def _text(node: yaml.Scalar, kind: schema.Text, name: str, scope: Scope) -> str | Block:
    if kind.pattern and not re.fullmatch(kind.pattern, node.text):
        scope.error(f"{name}: {quoted(node.text)} is not {kind.expected}", node.where)
    elif not kind.multiline and "\n" in node.text:
        scope.error(
            f"{name}: one line is expected, found {node.text.count(chr(10)) + 1}", node.where
        )
    elif node.style == "|" and kind.multiline:
        return Block(node.text, node.body_line, node.body_indent, node.lines)
    return node.text


def _bool(node: yaml.Scalar, name: str, scope: Scope) -> bool:
    if node.plain and node.text in ("true", "True", "TRUE"):
        return True
    if node.plain and node.text in ("false", "False", "FALSE"):
        return False
    word = _YES_AND_NO.get(node.text.lower(), node.text.lower())
    hint = f"write {word}" if word in ("true", "false") else None
    _wrong(node, schema.Bool(), name, scope, hint)
    return False


def _int(node: yaml.Scalar, kind: schema.Int, name: str, scope: Scope) -> int:
    if not node.plain or not _INT.fullmatch(node.text) or len(node.text) > 20:
        _wrong(node, kind, name, scope)
        return 0
    number = int(node.text)
    if not kind.minimum <= number <= kind.maximum:
        scope.error(
            f"{name}: {number} is not between {kind.minimum} and {kind.maximum}", node.where
        )
    return number


def _decimal(node: yaml.Scalar, name: str, scope: Scope) -> str:
    if len(node.text) > 20 or not _DECIMAL.fullmatch(node.text) or float(node.text) <= 0:
        _wrong(node, schema.Decimal(), name, scope)
    return node.text


def _size(node: yaml.Scalar, name: str, scope: Scope) -> int:
    found = _SIZE.fullmatch(node.text) if len(node.text) <= 32 else None
    if found is None:
        _wrong(node, schema.Size(), name, scope)
        return 0
    factor = 1024 ** _UNITS[found[2].lower()]
    return int(float(found[1]) * factor) if "." in found[1] else int(found[1]) * factor


def _duration(node: yaml.Scalar, name: str, scope: Scope) -> int:
    if node.text == "0":
        return 0
    spans = list(_SPAN.finditer(node.text)) if len(node.text) <= 64 else []
    if not spans or "".join(span[0] for span in spans) != node.text:
        _wrong(node, schema.Duration(), name, scope)
        return 0
    return sum(round(float(span[1]) * _NANOSECONDS[span[2]]) for span in spans)


def _pattern(node: yaml.Scalar, scope: Scope) -> Data:
    body = node.text.removeprefix("-")
    if "/" in body or ":" in body or body == "...":
        pattern = parse_pattern(node.text, scope.home(node.where), node.where)
        if body.startswith(("//", ":")):
            return pattern
        raise InputError(
            f"{quoted(node.text)} is not a label", node.where, hint="labels start with '//'"
        )
    # A bare word is a neighbour here, never a path: what it means must not hang on directories.
    if body in ("*", "all"):
        raise InputError(f"{body!r} is not a label", node.where, hint=f'write ":{body}"')
    neighbour = parse_label(body, scope.home(node.where), node.where)
    sign = "-" if node.text.startswith("-") else ""
    return parse_pattern(f"{sign}{neighbour}", "", node.where)


def _context(node: yaml.Scalar, name: str, scope: Scope) -> Data:
    text = node.text
    if text.startswith("oci-layout://"):
        return _layout(node, name, scope)
    scheme = _SCHEME.match(text)
    if scheme:
        kind = "images of registries" if text.startswith("docker-image:") else "remote files"
        scope.error(f"{name}: {kind} come in a later version", node.where)
        return None
    if text.startswith(("target:", "service:")):
        hint = f'write ":{text.partition(":")[2]}"'
        scope.error(f"{name}: {quoted(text)} is a word of other tools", node.where, hint)
        return None
    if not text.startswith(("//", ":")) and ("/" in text or text in (".", "..")):
        path = _path(node, schema.DirPath(), name, scope)
        return None if path is None else DirContext(path)
    return LabelContext(parse_label(text, scope.home(node.where), node.where))


def _layout(node: yaml.Scalar, name: str, scope: Scope) -> LayoutContext | None:
    found = _LAYOUT.fullmatch(node.text.removeprefix("oci-layout://"))
    path = found["path"] if found else ""
    if found is None or not path or "@" in path or ":" in path:
        scope.error(
            f"{name}: {quoted(node.text)} is not an OCI layout",
            node.where,
            "write oci-layout://DIRECTORY[:TAG|@sha256:DIGEST]",
        )
        return None
    if path.startswith("/"):
        return LayoutContext(
            "/" + posixpath.normpath(path).lstrip("/"), found["tag"], found["digest"]
        )
    inside = join(scope.home(node.where), path)
    if inside is None:
        scope.error(f"{name}: {quoted(path)} leaves the workspace", node.where)
        return None
    return LayoutContext(inside, found["tag"], found["digest"])


def _path(
    node: yaml.Scalar, kind: schema.FilePath | schema.DirPath, name: str, scope: Scope
) -> str | None:
    text = node.text
    problem, hint = None, None
    path = join(scope.home(node.where), text)
    if _SCHEME.match(text):
        problem = "remote files come in a later version"
    elif text.startswith(("/", "~")):
        problem, hint = (
            f"{quoted(text)} is not relative",
            "write it relative to the Boxfile's directory",
        )
    elif path is None:
        problem = f"{quoted(text)} leaves the workspace"
    elif not text or (isinstance(kind, schema.FilePath) and (not path or text.endswith("/"))):
        problem = f"{quoted(text)} is not {wanted(kind)}"
    if problem is None:
        return path
    scope.error(f"{name}: {problem}", node.where, hint)
    return None


def _matching(
    node: yaml.Scalar, pattern: re.Pattern[str], kind: schema.Type, name: str, scope: Scope
) -> str:
    if not pattern.fullmatch(node.text):
        scope.error(f"{name}: {quoted(node.text)} is not {wanted(kind)}", node.where)
    return node.text


def _wrong(
    node: yaml.Node, kind: schema.Type, name: str, scope: Scope, hint: str | None = None
) -> None:
    if hint is None and isinstance(node, yaml.Scalar) and node.empty:
        hint = 'write "" for an empty text' if isinstance(kind, schema.Text) else None
    scope.error(f"{name}: expected {wanted(kind)}, found {found(node)}", node.where, hint)
