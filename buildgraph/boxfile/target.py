"""Knows what a target is once its Boxfile is read, in general and rule by rule; must not know
YAML or the disk.

`Target` holds whatever its rule's `RuleSpec` describes. `ImageTarget` and `GroupTarget` are typed
views of it. A rule in another room makes its own view with the accessors of `Target`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import force_setattr

from buildgraph.boxfile.schema import Network, Timestamps
from buildgraph.boxfile.visibility import Visibility
from buildgraph.errors import Location
from buildgraph.label import Label, OneTarget, TargetPattern


class LabelContext(Struct, frozen=True):
    """A named context that is the root file system of another target."""

    label: Label


class DirContext(Struct, frozen=True):
    """A named context that is a directory; `path` is relative to the workspace's root."""

    path: str


class LayoutContext(Struct, frozen=True):
    """A named context that is an image in an OCI layout.

    `path` is relative to the workspace's root unless it is absolute. At most one of `tag` and
    `digest` is set.
    """

    path: str
    tag: str | None = None
    digest: str | None = None


ContextRef = LabelContext | DirContext | LayoutContext


class Block(Struct, frozen=True):
    """A text of several lines that a Boxfile holds as a literal block (`|`).

    Line n of `text` is line `first_line + n - 1` of the Boxfile, shifted right by `indent`; with
    `lines`, for a text that a template came to, it is line `first_line + lines[n - 1] - 1`.
    """

    text: str
    first_line: int
    indent: int
    lines: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Stamped:
    """A text with what git says in it: asked for when the text is needed, since it costs.

    `render` raises InputError at the place of the expression.
    """

    source: str  # as written
    render: Callable[[], str] = dataclasses.field(compare=False, repr=False)


class Value(Struct, frozen=True):
    """A parsed value and where it was written; a default stands where its target does.

    `key` is the place of the key when the value is an entry of a mapping.
    """

    data: Data
    where: Location
    key: Location | None = None
    given: bool = True  # False: a default


Data = (
    None
    | bool
    | int
    | str
    | Block
    | Stamped
    | Label
    | TargetPattern
    | LabelContext
    | DirContext
    | LayoutContext
    | tuple[Value, ...]
    | Mapping[str, Value]
)

EMPTY: Mapping[str, Value] = MappingProxyType({})


# A path below the root, where it is written, and what has to be there: a "file" or a "directory".
NamedPath = tuple[str, Location, str]


class Target(Struct, frozen=True):
    """A labelled thing of a Boxfile; `attrs` has every attribute of its rule, defaults included.

    `kind` is the rule as the Boxfile has it: with a rule of the workspace's own `rule` is what that
    comes to, `rule_file` the path of the file it stands in, and `paths` the files and directories
    that the rule was given. `visibility` None: public.
    """

    label: Label
    rule: str
    where: Location
    attrs: Mapping[str, Value]
    doc: str = ""
    visibility: Visibility | None = None
    kind: str = ""
    rule_file: str | None = None
    paths: tuple[NamedPath, ...] = ()

    def __post_init__(self) -> None:
        if not self.kind:
            force_setattr(self, "kind", self.rule)

    def value(self, name: str) -> Value:
        """Return the attribute `name` with its place. Raises KeyError where the rule lacks it."""
        return self.attrs[name]

    def text(self, name: str) -> str | None:
        """Return a text attribute (path, choice, package, platform as well), None if not given."""
        value = self.attrs[name]
        return None if value.data is None else text_of(value)

    def flag(self, name: str) -> bool:
        """Return a Bool attribute; not given and without default is False."""
        data = self.attrs[name].data
        if data is None or isinstance(data, bool):
            return bool(data)
        raise TypeError(f"{name} of {self.label} is no flag")

    def number(self, name: str) -> int | None:
        """Return an Int, Size (bytes) or Duration (nanoseconds) attribute, None if not given."""
        data = self.attrs[name].data
        if data is None or (isinstance(data, int) and not isinstance(data, bool)):
            return data
        raise TypeError(f"{name} of {self.label} is no number")

    def items(self, name: str) -> tuple[Value, ...]:
        """Return the items of a list attribute, () if not given."""
        data = self.attrs[name].data
        if data is None:
            return ()
        if isinstance(data, tuple):
            return data
        raise TypeError(f"{name} of {self.label} is no list")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the items of a list of texts, () if not given."""
        return tuple(text_of(item) for item in self.items(name))

    def entries(self, name: str) -> Mapping[str, Value]:
        """Return the entries of a mapping attribute in the order they are written."""
        data = self.attrs[name].data
        if data is None or data == ():
            return EMPTY
        if isinstance(data, Mapping):
            return data
        raise TypeError(f"{name} of {self.label} is no mapping")

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return the entries of a mapping of texts, in the order they are written."""
        return tuple((key, text_of(value)) for key, value in self.entries(name).items())


def text_of(value: Value) -> str:
    """Return the text that `value` must be (our bug otherwise: the schema has checked it).

    Raises InputError where git is asked and cannot say.
    """
    match value.data:
        case Block(text) | str(text):
            return text
        case Stamped():
            return value.data.render()
        case _:
            raise TypeError(f"{value.where}: no text")


class Located(Struct, frozen=True):
    """A text and where it was written."""

    text: str
    where: Location


class DockerfileAt(Struct, frozen=True):
    """A Dockerfile of its own; `path` is relative to the workspace's root."""

    path: str
    where: Location  # of the attribute, or of the target when it is the default


class DockerfileInline(Struct, frozen=True):
    """A Dockerfile inside the Boxfile.

    With `first_line` > 0, line n of `text` is line `first_line + n - 1` of the file
    `where.path`, and its columns are shifted right by `indent`. With `lines`, line n was made from
    line `first_line + lines[n - 1] - 1` by a template. `call` is the target whose rule has the
    text, where that is another file.
    """

    text: str
    where: Location
    first_line: int = 0
    indent: int = 0
    lines: tuple[int, ...] = ()
    call: Location | None = None


class NamedContext(Struct, frozen=True):
    """One entry of `contexts`; `where` is the place of the value, `key` that of the name."""

    name: str
    ref: ContextRef
    where: Location
    key: Location


class Argument(Struct, frozen=True):
    """One entry of `args`; `where` is the place of the value, `key` that of the name."""

    name: str
    value: str
    where: Location
    key: Location


class Secret(Struct, frozen=True):
    """Where the value of a secret is to be found: one of `env` and `src` is set.

    `src` is relative to the workspace's root.
    """

    id: str
    env: str | None
    src: str | None
    where: Location


class ImageTarget(Struct, frozen=True, kw_only=True):
    """A target of the rule `image`. All paths are relative to the workspace's root ("" = it)."""

    label: Label
    where: Location
    dockerfile: DockerfileAt | DockerfileInline
    context: str
    context_where: Location
    contexts: tuple[NamedContext, ...] = ()
    args: tuple[Argument, ...] = ()
    stage: Located | None = None
    platforms: tuple[Located, ...] = ()
    tags: tuple[Located, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    secrets: tuple[Secret, ...] = ()
    network: Network = "default"
    timestamps: Timestamps = "normal"
    ignore: tuple[str, ...] | None = None  # None: the ignore file decides
    doc: str = ""


class Member(Struct, frozen=True):
    """One label or pattern of a group."""

    pattern: TargetPattern
    where: Location


class GroupTarget(Struct, frozen=True, kw_only=True):
    """A target of the rule `group`."""

    label: Label
    where: Location
    members: tuple[Member, ...]
    doc: str = ""


def image_target(target: Target) -> ImageTarget:
    """Return the typed view of a target of the rule `image`."""
    context = target.value("context")
    return ImageTarget(
        label=target.label,
        where=target.where,
        dockerfile=_dockerfile(target),
        context=target.label.package if context.data is None else text_of(context),
        context_where=context.where,
        contexts=tuple(
            NamedContext(name, _context(value), value.where, value.key or value.where)
            for name, value in target.entries("contexts").items()
        ),
        args=tuple(
            Argument(name, text_of(value), value.where, value.key or value.where)
            for name, value in target.entries("args").items()
        ),
        stage=_located(target.value("stage")),
        platforms=_all_located(target, "platforms"),
        tags=_all_located(target, "tags"),
        labels=target.pairs("labels"),
        annotations=target.pairs("annotations"),
        secrets=tuple(_secret(value) for value in target.items("secrets")),
        network=_network(target.text("network")),
        timestamps="preserve" if target.text("timestamps") == "preserve" else "normal",
        ignore=_left_out(target),
        doc=target.doc,
    )


def group_target(target: Target) -> GroupTarget:
    """Return the typed view of a target of the rule `group`."""
    members: list[Member] = []
    for item in target.items("targets"):
        if not isinstance(item.data, TargetPattern):
            raise TypeError(f"{item.where}: no pattern")
        members.append(Member(item.data, item.where))
    return GroupTarget(
        label=target.label, where=target.where, members=tuple(members), doc=target.doc
    )


def references(target: Target) -> Iterator[tuple[Label, Location]]:
    """Yield every single label that the target's attributes hold, with its place.

    Patterns with wildcards are left out: what they mean is the workspace's to say.
    """
    for value in target.attrs.values():
        if value.given:
            yield from _labels_in(value)


def _labels_in(value: Value) -> Iterator[tuple[Label, Location]]:
    data = value.data
    match data:
        case Label():
            yield data, value.where
        case LabelContext(label):
            yield label, value.where
        case TargetPattern():
            if isinstance(data.what, OneTarget) and not data.exclude:
                yield data.what.label, value.where
        case tuple():
            for item in data:
                yield from _labels_in(item)
        case None | bool() | int() | str() | Block() | Stamped() | DirContext() | LayoutContext():
            pass
        case _:
            for item in data.values():
                yield from _labels_in(item)


def _dockerfile(target: Target) -> DockerfileAt | DockerfileInline:
    inline = target.value("dockerfile_inline")
    if isinstance(inline.data, Block):
        block = inline.data
        call = None if inline.where.path == target.where.path else target.where
        return DockerfileInline(
            block.text, inline.where, block.first_line, block.indent, block.lines, call
        )
    if inline.data is not None:
        return DockerfileInline(text_of(inline), inline.where)
    path = target.value("dockerfile")
    return DockerfileAt(text_of(path), path.where)


def _context(value: Value) -> ContextRef:
    if isinstance(value.data, (LabelContext, DirContext, LayoutContext)):
        return value.data
    raise TypeError(f"{value.where}: no context")


def _left_out(target: Target) -> tuple[str, ...] | None:
    """Return the patterns of what the context does not have, None where the ignore file says it.

    `srcs` are the same turned round: everything is left out but them.
    """
    ignore, srcs = target.value("ignore"), target.value("srcs")
    if not srcs.given:
        return target.texts("ignore") if ignore.given else None
    turned = (p[1:] if p.startswith("!") else f"!{p}" for p in target.texts("srcs"))
    return ("**", *turned, *target.texts("ignore"))


def _located(value: Value) -> Located | None:
    return None if value.data is None else Located(text_of(value), value.where)


def _all_located(target: Target, name: str) -> tuple[Located, ...]:
    return tuple(Located(text_of(item), item.where) for item in target.items(name))


def _network(text: str | None) -> Network:
    match text:
        case "none" | "host":
            return text
        case _:
            return "default"


def _secret(value: Value) -> Secret:
    if not isinstance(value.data, Mapping):
        raise TypeError(f"{value.where}: no secret")
    fields = value.data
    env, src = fields["env"].data, fields["src"].data
    return Secret(
        id=text_of(fields["id"]),
        env=env if isinstance(env, str) else None,
        src=src if isinstance(src, str) else None,
        where=value.where,
    )
