"""Knows in what two images differ: files, config, packages, layers; must not know where the images
came from or how a difference is shown.

Files are compared as a container would see them, times apart: a directory that both images take
from the same layers is not looked into, so the work grows with what differs.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.filetree import FileStat, Kind, name_order
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import HistoryEntry, Image, ImageConfig

TEXT_BYTES: Final = 64 * limits.KIB  # of a file whose lines are compared
_STATUS_BYTES: Final = 64 * limits.MIB
_STATUS: Final = "var/lib/dpkg/status"
_STATUS_PARTS: Final = "var/lib/dpkg/status.d"  # one file a package, as distroless images have it
_PAIRS: Final = ("env", "labels")
_NOT_COMPARED: Final = ("history", *_PAIRS)

KIND_NAMES: Final[Mapping[Kind, str]] = {
    Kind.FILE: "file",
    Kind.HARDLINK: "file",
    Kind.SYMLINK: "link",
    Kind.CHAR: "character device",
    Kind.BLOCK: "block device",
    Kind.DIR: "directory",
    Kind.FIFO: "pipe",
    Kind.SOCKET: "socket",
}


class FileState(Struct, frozen=True):
    """What is at a path of one image; `digest` of a file's bytes, "" where nobody asked."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    target: str = ""
    rdev: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    digest: str = ""

    @property
    def type(self) -> str:
        """The kind in a word."""
        return KIND_NAMES[self.kind]


class FileChange(Struct, frozen=True):
    """A path that is not the same in both; None: it is not there."""

    path: str
    before: FileState | None
    after: FileState | None

    @property
    def what(self) -> str:
        """`added`, `removed` or `changed`."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


class ValueChange(Struct, frozen=True):
    """A named value that is not the same in both; None: it is not there."""

    name: str
    before: str | None
    after: str | None


class LayerLine(Struct, frozen=True):
    """A layer of either image or of both, with the instruction that made it where that is told."""

    diff_id: str
    size: int
    made_by: str
    side: str  # "both", "before", "after"


class ImageDiff(Struct, frozen=True):
    """All that differs, each part sorted; sizes are bytes of uncompressed layers."""

    files: tuple[FileChange, ...]
    config: tuple[ValueChange, ...]
    packages: tuple[ValueChange, ...]
    layers: tuple[LayerLine, ...]
    size_before: int
    size_after: int

    @property
    def same(self) -> bool:
        """Whether the images have the same files and the same config."""
        return not (self.files or self.config)


def diff_images(
    before: tuple[Image, RootView],
    after: tuple[Image, RootView],
    *,
    wanted: Callable[[str], bool] = lambda path: True,
    digests: bool = False,
) -> ImageDiff:
    """Compare two images; `wanted` says which paths count.

    With `digests` files that only one image has are hashed as well. Raises InputError where the
    package database cannot be read.
    """
    (one, old), (two, new) = before, after
    return ImageDiff(
        tuple(diff_files(old, new, wanted=wanted, digests=digests)),
        tuple(diff_config(one.config, two.config)),
        tuple(diff_values(installed(old), installed(new))),
        tuple(_layers(one, two)),
        sum(layer.size for layer in one.chain.layers),
        sum(layer.size for layer in two.chain.layers),
    )


# --- files ------------------------------------------------------------------------------------


def diff_files(
    before: RootView,
    after: RootView,
    *,
    wanted: Callable[[str], bool] = lambda path: True,
    digests: bool = False,
) -> list[FileChange]:
    """Return the paths that differ, sorted by bytes."""
    walk = _Walk(before, after, wanted, digests)
    return sorted(walk.run(), key=lambda change: name_order(change.path))


class _Walk:
    """One comparison of two trees."""

    def __init__(
        self, before: RootView, after: RootView, wanted: Callable[[str], bool], digests: bool
    ) -> None:
        self._before = before
        self._after = after
        self._wanted = wanted
        self._digests = digests

    def run(self) -> Iterator[FileChange]:
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            if self._before.layers_at(directory) == self._after.layers_at(directory):
                continue
            old = dict(self._before.list(directory))
            new = dict(self._after.list(directory))
            for name in {**old, **new}:
                path = f"{directory}/{name}" if directory else name
                yield from self._entry(path, old.get(name), new.get(name), waiting)

    def _entry(
        self, path: str, old: FileStat | None, new: FileStat | None, waiting: list[str]
    ) -> Iterator[FileChange]:
        both = old is not None and new is not None
        if both and _is_directory(old) and _is_directory(new):
            waiting.append(path)
        else:
            yield from self._below(self._before, path, old, removed=True)
            yield from self._below(self._after, path, new, removed=False)
        if not self._wanted(path):
            return
        if old is None or new is None:
            yield FileChange(
                path, self._state(self._before, path, old), self._state(self._after, path, new)
            )
        elif self._before.layer_of(path) != self._after.layer_of(path):
            yield from self._compared(path, old, new)

    def _compared(self, path: str, old: FileStat, new: FileStat) -> Iterator[FileChange]:
        one, two = self._bare(self._before, path, old), self._bare(self._after, path, new)
        if one != two or old.kind is not Kind.FILE:
            if one != two:
                yield FileChange(
                    path,
                    self._hashed(self._before, path, old),
                    self._hashed(self._after, path, new),
                )
            return
        one, two = self._hashed(self._before, path, old), self._hashed(self._after, path, new)
        if one != two:
            yield FileChange(path, one, two)

    def _below(
        self, view: RootView, path: str, stat: FileStat | None, *, removed: bool
    ) -> Iterator[FileChange]:
        """Yield everything inside a directory that only one side has as a directory."""
        other = self._after if removed else self._before
        if stat is None or stat.kind is not Kind.DIR or _is_directory(other.stat(path)):
            return
        waiting = [path]
        while waiting:
            directory = waiting.pop()
            for name, inner in view.list(directory):
                here = f"{directory}/{name}"
                if inner.kind is Kind.DIR:
                    waiting.append(here)
                if self._wanted(here):
                    state = self._state(view, here, inner)
                    yield (
                        FileChange(here, state, None) if removed else FileChange(here, None, state)
                    )

    def _state(self, view: RootView, path: str, stat: FileStat | None) -> FileState | None:
        if stat is None:
            return None
        if self._digests and stat.kind is Kind.FILE:
            return self._hashed(view, path, stat)
        return self._bare(view, path, stat)

    def _hashed(self, view: RootView, path: str, stat: FileStat) -> FileState:
        digest = str(view.digest(path, stat)) if stat.kind is Kind.FILE else ""
        return self._bare(view, path, stat, digest)

    def _bare(self, view: RootView, path: str, stat: FileStat, digest: str = "") -> FileState:
        return FileState(
            stat.kind,
            stat.mode,
            stat.uid,
            stat.gid,
            stat.size if stat.kind is Kind.FILE else 0,
            stat.target,
            stat.rdev if stat.kind in (Kind.CHAR, Kind.BLOCK) else 0,
            view.xattrs(path),
            digest,
        )


def _is_directory(stat: FileStat | None) -> bool:
    return stat is not None and stat.kind is Kind.DIR


def text_lines(view: RootView, path: str) -> list[str] | None:
    """Return the lines of a small text file of an image, None for anything else."""
    stat = view.stat(path)
    if stat is None or stat.kind is not Kind.FILE or stat.size > TEXT_BYTES:
        return None
    with open(view.open(path), "rb") as file:
        data = file.read(TEXT_BYTES + 1)
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return None


# --- config and packages ----------------------------------------------------------------------


def diff_config(before: ImageConfig, after: ImageConfig) -> Iterator[ValueChange]:
    """Yield the fields that differ, variables and labels one by one, then instructions."""
    for name in ImageConfig.__struct_fields__:
        if name in _NOT_COMPARED:
            continue
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield ValueChange(name, _shown(old), _shown(new))
    for name in _PAIRS:
        yield from (
            ValueChange(f"{name} {change.name}", change.before, change.after)
            for change in diff_values(dict(getattr(before, name)), dict(getattr(after, name)))
        )
    yield from _history(before.history, after.history)


def _history(
    before: tuple[HistoryEntry, ...], after: tuple[HistoryEntry, ...]
) -> Iterator[ValueChange]:
    old = [entry.created_by for entry in before]
    new = [entry.created_by for entry in after]
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        if tag != "equal":
            yield from (ValueChange("instruction", text, None) for text in old[i1:i2])
            yield from (ValueChange("instruction", None, text) for text in new[j1:j2])


def _shown(value: Any) -> str | None:
    if value in (None, "", ()):
        return None
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return str(value)


def diff_values(before: Mapping[str, str], after: Mapping[str, str]) -> list[ValueChange]:
    """Return the names whose values differ, sorted."""
    return [
        ValueChange(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def installed(view: RootView) -> dict[str, str]:
    """Return the Debian packages that an image says are installed: `name:arch` -> version.

    The architecture stands in the name only where one name is there for several. Raises
    InputError for a database of unreasonable size. Source: dpkg's status file, deb822(5).
    """
    texts = [_read(view, _STATUS)]
    parts = view.resolve(_STATUS_PARTS)
    if _is_directory(view.stat(parts)):
        texts += [_read(view, f"{parts}/{name}") for name, _ in view.list(parts)]
    rows = [row for text in texts for row in _stanzas(text)]
    names = [name for name, _, _ in rows]
    several = {name for name in names if names.count(name) > 1} if _repeats(names) else set()
    return {f"{n}:{a}" if n in several else n: version for n, a, version in rows}


def _repeats(names: list[str]) -> bool:
    return len(set(names)) != len(names)


def _read(view: RootView, path: str) -> str:
    data = view.read_file(path, _STATUS_BYTES)
    return "" if data is None else data.decode("utf-8", "replace")


def _stanzas(text: str) -> Iterator[tuple[str, str, str]]:
    for stanza in re.split(r"\n[ \t]*\n", text):
        found: dict[str, str] = {}
        for line in stanza.split("\n"):
            key, colon, value = line.partition(":")
            if colon and key in ("Package", "Version", "Architecture", "Status"):
                found[key] = value.strip()
        state = found.get("Status", "installed").rpartition(" ")[2]
        if "Package" in found and "Version" in found and state == "installed":
            yield found["Package"], found.get("Architecture", ""), found["Version"]


# --- layers -----------------------------------------------------------------------------------


def _layers(before: Image, after: Image) -> Iterator[LayerLine]:
    one, two = layer_lines(before, "before"), layer_lines(after, "after")
    matcher = difflib.SequenceMatcher(None, [x.diff_id for x in one], [x.diff_id for x in two])
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            yield from (LayerLine(x.diff_id, x.size, x.made_by, "both") for x in two[j1:j2])
        else:
            yield from one[i1:i2]
            yield from two[j1:j2]


def layer_lines(image: Image, side: str = "both") -> list[LayerLine]:
    """Return the layers of an image, bottom first, with what its history says of them."""
    made = [entry.created_by for entry in image.config.history if not entry.empty_layer]
    layers = image.chain.layers
    if len(made) != len(layers):
        made = [""] * len(layers)
    return [
        LayerLine(layer.diff_id, layer.size, text, side)
        for layer, text in zip(layers, made, strict=True)
    ]


def path_filter(globs: Iterable[str]) -> Callable[[str], bool]:
    """Return whether a path is meant by one of some globs: `*` in a name, `**` over names, `?`.

    A pattern without a slash means a name anywhere; what is in a matching directory matches too.
    Raises InputError for an empty one.
    """
    patterns = [re.compile(_glob(text)) for text in globs]
    if not patterns:
        return lambda path: True
    return lambda path: any(pattern.fullmatch(path) for pattern in patterns)


def _glob(text: str) -> str:
    bare = text.strip("/")
    if not bare:
        raise InputError(f"--files {text!r} means nothing", hint="as in --files 'etc/**'")
    out = [] if "/" in bare or text.startswith("/") else ["(?:.*/)?"]
    for piece in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", bare):
        out.append({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece) or "")
        if not out[-1]:
            out[-1] = re.escape(piece)
    return f"(?s:{''.join(out)}(?:/.*)?)"


def printable(path: str) -> str:
    """Return a path for JSON: bytes that are no UTF-8 as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
