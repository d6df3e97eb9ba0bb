"""Knows which keys a Boxfile may hold, their types, defaults and words, as one table; must not
know how a value is parsed (`values.py`) or where a file lies.

Validation reads this table now; a JSON Schema can be written from it later, so nothing about a
key may be known elsewhere. A rule of another room describes its attributes with the same words
and hands the `RuleSpec` to `Workspace.open`.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from buildgraph.boxfile.yaml import Entry


class Text(Struct, frozen=True):
    """Any scalar, kept as written (`3.10` is "3.10"); `pattern` must match it whole."""

    pattern: str = ""
    expected: str = "text"  # words for the message when `pattern` does not match
    multiline: bool = False  # whether a line break may be inside


class Bool(Struct, frozen=True):
    """`true` or `false`, as in the YAML 1.2 core schema; nothing else."""


class Int(Struct, frozen=True):
    """A whole number."""

    minimum: int = 0
    maximum: int = 2**63 - 1


class Decimal(Struct, frozen=True):
    """A number above 0 with or without a fraction, kept as text; `0.5`."""


class Size(Struct, frozen=True):
    """A number of bytes: `1048576`, `256M`, `1.5GiB`; units are powers of 1024, as docker's."""


class Duration(Struct, frozen=True):
    """A time span in Go's words (`500ms`, `1h30m`), parsed to nanoseconds."""


class Choice(Struct, frozen=True):
    """One of a few words."""

    values: tuple[str, ...]


class LabelRef(Struct, frozen=True):
    """The label of one target: `//pkg:name`, `//pkg`, `:name`, or the bare name of a neighbour."""


class PatternRef(Struct, frozen=True):
    """A label or a pattern of labels: `//pkg/...`, `:all`, `-//pkg:name`."""


class Audience(Struct, frozen=True):
    """Who may use a target: `public`, `private`, a label or a pattern of labels."""


class ContextPlace(Struct, frozen=True):
    """What a named context is: a label, a directory (with a slash in it) or `oci-layout://…`."""


class FilePath(Struct, frozen=True):
    """A file, relative to the Boxfile's directory; parsed to a path relative to the workspace."""


class DirPath(Struct, frozen=True):
    """A directory, relative to the Boxfile's; parsed to a path relative to the workspace."""


class PackageName(Struct, frozen=True):
    """A package of a distribution: `name`, `name:arch`, `name=version`, `name:arch=version`."""


class PlatformName(Struct, frozen=True):
    """`os/arch[/variant]`."""


class ListOf(Struct, frozen=True):
    """A list; with `single`, one item may stand there without the list."""

    item: Type
    single: bool = False
    unique: bool = False


class MapOf(Struct, frozen=True):
    """A mapping of any keys; `key_pattern` must match each key whole."""

    value: Type
    key_pattern: str = ""
    key_expected: str = "a name"


class Record(Struct, frozen=True):
    """A mapping of known keys; exactly one of `one_of` must be there.

    `refused` are keys that other tools have and we never will, each with the reason.
    """

    fields: tuple[Attribute, ...]
    one_of: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


class ByShape(Struct, frozen=True):
    """One of several types, told apart by how the value is written; None: not in this form.

    With `nothing`, no value at all (`key:`) is one too.
    """

    scalar: Scalar | None = None
    sequence: ListOf | None = None
    mapping: MapOf | Record | None = None
    nothing: bool = False


Scalar = (
    Text
    | Bool
    | Int
    | Decimal
    | Size
    | Duration
    | Choice
    | LabelRef
    | PatternRef
    | Audience
    | ContextPlace
    | FilePath
    | DirPath
    | PackageName
    | PlatformName
)
Type = Scalar | ListOf | MapOf | Record | ByShape

# What a key is when nobody wrote it: parsed data, as `Value.data` would hold it.
Default = bool | int | str | tuple[()] | None


class Attribute(Struct, frozen=True):
    """One key of a target (or of a record).

    `default` is the value when the key is absent, in parsed form: text, number, `()` for a list
    or a mapping, None for "not given". A required attribute has none. With `stamps` it may hold
    what git says: it is no reason to build anything again.
    """

    name: str
    type: Type
    doc: str
    default: Default = None
    required: bool = False
    stamps: bool = False


class Further(Struct, frozen=True):
    """A target that a rule puts beside each that uses it: its key, what is written of it, and the
    condition; None: always.
    """

    key: str
    entries: tuple[Entry, ...]
    when: Entry | None = None


class RuleBody(Struct, frozen=True):
    """What a rule that is a template makes of a target; see `rule_files.py`.

    `own` are the names of its attributes, the others are the image's. `defaults`, `image` and the
    entries of `targets` are as they are written in the file `path`, relative to `package` (None:
    to the target's, for a rule of the library); `image` ends with the Dockerfile's template.
    """

    path: str
    package: str | None
    own: tuple[str, ...]
    defaults: tuple[Entry, ...]
    image: tuple[Entry, ...]
    targets: tuple[Further, ...]


class RuleSpec(Struct, frozen=True):
    """A kind of target: its name in `rule:`, one line of words, its attributes."""

    name: str
    doc: str
    attributes: tuple[Attribute, ...]
    body: RuleBody | None = None

    def attribute(self, name: str) -> Attribute | None:
        """Return the attribute of this name, or None."""
        return next((a for a in self.attributes if a.name == name), None)


Network = Literal["none", "host", "default"]
Timestamps = Literal["normal", "preserve"]

ENVIRONMENT_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
CONTEXT_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]*"

MATRIX_KEY: Final = r"[A-Za-z_][A-Za-z0-9_-]*"  # as in a label's suffix (label.py)
MATRIX_VALUE: Final = r"[A-Za-z0-9_.+~-]+"

VISIBILITY: Final = Attribute(
    "visibility",
    ListOf(Audience(), single=True),
    "Who may use it outside of its package: public (default), private, labels, patterns.",
)

# Attributes that every target may have: of them the loader makes others, or more targets.
STRUCTURE: Final = (
    Attribute(
        "extends",
        ListOf(LabelRef(), single=True),
        "Targets of this file whose attributes it has as well; mappings merge, the rest replaces.",
        default=(),
    ),
    Attribute(
        "matrix",
        MapOf(
            ListOf(Text(MATRIX_VALUE, "a text of letters, digits and _.+~-"), unique=True),
            MATRIX_KEY,
            "a name",
        ),
        "Lists of values: a target for each combination, NAME@key=value.",
        default=(),
    ),
    Attribute(
        "exclude",
        ListOf(MapOf(Text())),
        "Combinations of the matrix to leave out, by some of their pairs.",
        default=(),
    ),
    Attribute(
        "include", ListOf(MapOf(Text())), "Combinations beside those of the matrix.", default=()
    ),
    VISIBILITY,
)
COMMON: Final = (
    Attribute("rule", Text(), "The kind of target.", default="image"),
    Attribute("doc", Text(multiline=True), "What the target is for, in words.", default=""),
    *STRUCTURE,
)

SECRET: Final = Record(
    fields=(
        Attribute(
            "id",
            Text(r"[A-Za-z0-9_.-]+", "an id of letters, digits, '_', '.', '-'"),
            "What RUN --mount=type=secret,id= asks for.",
            required=True,
        ),
        Attribute(
            "env",
            Text(ENVIRONMENT_NAME, "the name of an environment variable"),
            "Environment variable that holds it.",
        ),
        Attribute("src", FilePath(), "File that holds it."),
    ),
    one_of=("env", "src"),
)

IMAGE: Final = RuleSpec(
    "image",
    "An image from a Dockerfile.",
    (
        Attribute("dockerfile", FilePath(), "The Dockerfile; default: Dockerfile, Containerfile."),
        Attribute("dockerfile_inline", Text(multiline=True), "The text of the Dockerfile itself."),
        Attribute("context", DirPath(), "Directory that COPY reads from; default: this one."),
        Attribute(
            "contexts",
            MapOf(ContextPlace(), CONTEXT_NAME, "a context name"),
            "Names that FROM and --from= may use: targets, directories, OCI layouts.",
            default=(),
        ),
        Attribute(
            "args",
            MapOf(Text(multiline=True), ENVIRONMENT_NAME, "the name of an ARG"),
            "Values of ARG instructions.",
            default=(),
        ),
        Attribute("stage", Text(r"\S+", "the name of a stage"), "Stage to build; default: last."),
        Attribute(
            "platforms",
            ListOf(PlatformName(), single=True, unique=True),
            "Platforms to build for; default: this machine's.",
            default=(),
        ),
        Attribute(
            "tags",
            ListOf(Text(r"\S+", "an image name"), single=True, unique=True),
            "Names that the image gets.",
            default=(),
            stamps=True,
        ),
        Attribute(
            "labels",
            MapOf(Text(multiline=True)),
            "Labels of the config.",
            default=(),
            stamps=True,
        ),
        Attribute(
            "annotations",
            MapOf(Text(multiline=True)),
            "Annotations of the manifest.",
            default=(),
            stamps=True,
        ),
        Attribute("secrets", ListOf(SECRET), "Secrets that RUN may mount.", default=()),
        Attribute(
            "network",
            Choice(("none", "host", "default")),
            "Network of RUN steps.",
            default="default",
        ),
        Attribute(
            "timestamps",
            Choice(("normal", "preserve")),
            "normal: no file is younger than the epoch; preserve: as they are.",
            default="normal",
        ),
        Attribute(
            "ignore",
            ListOf(Text()),
            "Patterns to leave out of the context, instead of the ignore file's.",
        ),
        Attribute(
            "srcs",
            ListOf(Text(), single=True),
            "Patterns of the only files that the context has, instead of the ignore file's; "
            "! takes away.",
        ),
    ),
)

GROUP: Final = RuleSpec(
    "group",
    "Several targets under one name.",
    (Attribute("targets", ListOf(PatternRef()), "Labels or patterns.", required=True),),
)

PUSH: Final = RuleSpec(
    "push",
    "An image that `buildgraph push` brings to a registry; `build` does not push.",
    (
        Attribute("image", LabelRef(), "The image.", required=True),
        Attribute(
            "tags",
            ListOf(Text(r"\S+", "an image name"), single=True, unique=True),
            "Names to push it under; default: the image's own tags.",
            default=(),
            stamps=True,
        ),
        Attribute(
            "if_exists",
            Choice(("retag", "skip", "fail")),
            "What to do with a tag that exists and is another image.",
            default="retag",
        ),
        Attribute(
            "requires",
            ListOf(LabelRef(), single=True, unique=True),
            "Smoke tests of the image that must pass first.",
            default=(),
        ),
    ),
)

BUILT_IN: Final[dict[str, RuleSpec]] = {rule.name: rule for rule in (IMAGE, GROUP, PUSH)}

REGISTRY: Final = Record(
    fields=(
        Attribute(
            "mirrors",
            ListOf(Text(r"\S+", "host[:port][/prefix] or a URL of it"), single=True, unique=True),
            "Places to ask first when pulling, in this order.",
            default=(),
        ),
        Attribute(
            "insecure",
            Bool(),
            "Whether plain HTTP and unknown certificates will do; no password is sent then.",
            default=False,
        ),
        Attribute("ca", FilePath(), "Certificates to trust for it, a PEM file."),
    )
)

WORKSPACE: Final = Record(
    fields=(
        Attribute(
            "name",
            Text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits, '_', '.', '-'"),
            "Name of the workspace; default: its directory's.",
        ),
        Attribute(
            "vars",
            MapOf(Text(multiline=True), ENVIRONMENT_NAME, "the name of a variable"),
            "Values for templates.",
            default=(),
        ),
        Attribute(
            "env",
            ListOf(Text(ENVIRONMENT_NAME, "the name of an environment variable"), single=True),
            "Environment variables that templates may read.",
            default=(),
        ),
        Attribute(
            "rules",
            ListOf(LabelRef(), single=True),
            "Directories with rules of its own, NAME.rule.yaml.",
            default=(),
        ),
        Attribute("registry", Text(r"\S+", "a registry or a prefix in one"), "Where tags live."),
        Attribute(
            "registries",
            MapOf(REGISTRY, r"[A-Za-z0-9.\[\]-]+(:[0-9]+)?", "a registry, host or host:port"),
            "How to speak to registries.",
            default=(),
        ),
    )
)

# What `package:` of a Boxfile may hold, beside `defaults`: attributes by the rule they are for.
PACKAGE: Final = (VISIBILITY,)
DEFAULTS: Final = "defaults"

# Keys that the design has and this version does not do yet: refused in words, never ignored.
LATER_FILE: Final = ("load",)
LATER_WORKSPACE: Final = ()
LATER_TARGET: Final = ()
