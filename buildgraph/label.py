"""Knows how targets are named and how sets of them are written; must not know what a target is or
which ones exist.

Source: Bazel's "Labels" and "Target patterns", with three differences: the default target of a
package is `image`, not the directory's name; a name may end in a matrix suffix (`@py=3.12`); and
where a command takes a pattern it also takes a plain path.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from buildgraph.errors import InputError, Location

DEFAULT_NAME: Final = "image"
LABEL_CHARACTERS: Final = 1024

# One directory of a package path. Scoped directories (`@acme`) are common, spaces are not.
_COMPONENT: Final = re.compile(r"[\w.+~@-]+")
_PAIR: Final = r"[A-Za-z_][A-Za-z0-9_-]*=[A-Za-z0-9_.+~-]+"
_NAME: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:@{_PAIR}(?:,{_PAIR})*)?")
_WILDCARDS: Final = ("all", "*")


class Label(Struct, frozen=True, order=True):
    """The name of one target; `package` is a path from the workspace's root, "" for the root."""

    package: str
    name: str

    def __str__(self) -> str:
        return f"//{self.package}:{self.name}"

    @property
    def short(self) -> str:
        """Return `//dir` for `//dir:image` and the full form for everything else."""
        if self.name == DEFAULT_NAME and self.package:
            return f"//{self.package}"
        return str(self)

    @property
    def base_name(self) -> str:
        """Return the name without its matrix suffix."""
        return self.name.partition("@")[0]

    @property
    def matrix(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of the matrix suffix, in the order they are written."""
        suffix = self.name.partition("@")[2]
        pairs = (pair.partition("=") for pair in suffix.split(",") if pair)
        return tuple((key, value) for key, _, value in pairs)


class OneTarget(Struct, frozen=True):
    """Just this target."""

    label: Label


class AllInPackage(Struct, frozen=True):
    """Every target of one package."""

    package: str


class AllBelow(Struct, frozen=True):
    """Every target of a package and of all packages below it."""

    package: str


class AtPath(Struct, frozen=True):
    """What stands at a path: a directory's target, or the target of a Dockerfile.

    `path` is relative to the workspace's root. `neighbour` is the label that a bare word could
    mean as well (`app` is `:app` before it is `./app`), else None.
    """

    path: str
    neighbour: Label | None = None


Selection = OneTarget | AllInPackage | AllBelow | AtPath


class TargetPattern(Struct, frozen=True):
    """A set of targets to add, or with `exclude` to take away; `text` is what was written."""

    text: str
    what: Selection
    exclude: bool = False


def parse_label(text: str, package: str, where: Location | None = None) -> Label:
    """Return the label that `text` means in `package`.

    Accepts `//pkg:name`, `//pkg`, `:name` and the bare `name` of a target in the same package.
    Raises InputError.
    """
    _check_shape(text, where)
    if _is_wildcard(text):
        raise InputError(f"{text!r} is a pattern; one target is wanted here", where)
    if text.startswith("//"):
        return _absolute(text, where)
    if text.startswith(":"):
        return Label(package, check_name(text[1:], text, where))
    if "/" in text or ":" in text:
        raise InputError(
            f"{text!r} is not a label",
            where,
            hint=f"labels of other packages start at the root: {_rooted(text, package)!r}",
        )
    return Label(package, check_name(text, text, where))


def parse_pattern(text: str, package: str, where: Location | None = None) -> TargetPattern:
    """Return the set of targets that `text` means when the current directory is `package`.

    Accepts every label, `//...`, `//pkg/...` (also `:all` behind it), `//pkg:all`, `//pkg:*`,
    the same without `//` relative to `package`, a leading `-` to exclude, and a plain path:
    `./a/b`, `a/b`, `a/b/Dockerfile`, `..`. Raises InputError, also for a path that leaves the
    workspace.
    """
    exclude = text.startswith("-")
    body = text[1:] if exclude else text
    _check_shape(body, where)
    return TargetPattern(text, _selection(body, package, where), exclude)


def check_package(package: str, text: str, where: Location | None = None) -> str:
    """Return `package` if it is a well-formed package path, else raise; `text` is for words."""
    if package == "":
        return package
    for component in package.split("/"):
        problem = _component_problem(component)
        if problem:
            raise InputError(f"{text!r} is not a label: {problem}", where)
    return package


def is_package(path: str) -> bool:
    """Return whether a directory of this path can be named in a label."""
    return path == "" or not any(_component_problem(part) for part in path.split("/"))


def check_name(name: str, text: str, where: Location | None = None) -> str:
    """Return `name` if it is a well-formed target name, else raise; `text` is for words."""
    problem = name_problem(name)
    if problem:
        raise InputError(f"{text!r} is not a label: {problem}", where)
    return name


def name_problem(name: str) -> str | None:
    """Return what keeps `name` from being a target's, in words, or None."""
    if name == "":
        return "the name is missing"
    if name in _WILDCARDS:
        return f"{name!r} means every target"
    if _NAME.fullmatch(name):
        return None
    if "@" in name and _NAME.fullmatch(name.partition("@")[0]):
        return "a matrix suffix is written @key=value,key=value"
    if name[0] in ".+-":
        return "a name starts with a letter, digit or '_'"
    bad = next((c for c in name if not re.fullmatch(r"[A-Za-z0-9_.+-]", c)), "@")
    return f"{bad!r} cannot be in a name"


def _component_problem(component: str) -> str | None:
    if component == "":
        return "there is an empty directory name in it"
    if component in (".", ".."):
        return f"{component!r} cannot be in a package path"
    if component == "...":
        return "'...' must come last"
    if _COMPONENT.fullmatch(component):
        return None
    bad = next(c for c in component if not _COMPONENT.fullmatch(c))
    return f"{bad!r} cannot be in a package path"


def _check_shape(text: str, where: Location | None) -> None:
    if text == "":
        raise InputError("the label is empty", where)
    if len(text) > LABEL_CHARACTERS:
        raise InputError(f"the label is longer than {LABEL_CHARACTERS} characters", where)
    if text.startswith("@"):
        raise InputError(
            f"{text!r}: labels of other repositories (@repo//) are reserved for later", where
        )


def _is_wildcard(text: str) -> bool:
    name = text.rpartition(":")[2] if ":" in text else ""
    head = text.partition(":")[0]
    return name in _WILDCARDS or head == "..." or head.endswith("/...")


def _absolute(text: str, where: Location | None) -> Label:
    package, colon, name = text[2:].partition(":")
    if not colon and "@" in package and "=" in package:
        directory, _, suffix = package.partition("@")
        raise InputError(
            f"{text!r} is not a label: a matrix suffix belongs to a name",
            where,
            hint=f"write '//{directory}:{DEFAULT_NAME}@{suffix}'",
        )
    check_package(package, text, where)
    return Label(package, check_name(name, text, where) if colon else DEFAULT_NAME)


def _selection(text: str, package: str, where: Location | None) -> Selection:
    if not _is_wildcard(text):
        if text.startswith(("//", ":")):
            return OneTarget(parse_label(text, package, where))
        if ":" in text:
            return OneTarget(_absolute(_rooted(text, package), where))
        return _at_path(text, package, where)
    rooted = text if text.startswith("//") else _rooted(text, package)
    head, colon, name = rooted[2:].partition(":")
    if head == "..." or head.endswith("/..."):
        if colon and name not in _WILDCARDS:
            raise InputError(
                f"{text!r} is not a pattern: only 'all' or '*' may follow '...:'", where
            )
        return AllBelow(check_package(head[:-3].rstrip("/"), text, where))
    return AllInPackage(check_package(head, text, where))


def _rooted(text: str, package: str) -> str:
    """Return a relative label as written from the root; it may still be malformed."""
    head, colon, name = text.partition(":")
    path = join(package, head)
    return f"//{head if path is None else path}{colon}{name}"


def _at_path(text: str, package: str, where: Location | None) -> AtPath:
    if text.startswith("/"):
        raise InputError(
            f"{text!r} is an absolute path", where, hint="labels start with '//', paths without '/'"
        )
    path = join(package, text)
    if path is None:
        raise InputError(f"{text!r} leaves the workspace", where)
    bare = "/" not in text and _NAME.fullmatch(text) and text not in _WILDCARDS
    return AtPath(path, Label(package, text) if bare else None)


def join(package: str, path: str) -> str | None:
    """Return `path` (relative to `package`) from the root, without `.` and `..`; None if outside.

    Purely lexical: a symbolic link on the way is not seen here.
    """
    parts = package.split("/") if package else []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
