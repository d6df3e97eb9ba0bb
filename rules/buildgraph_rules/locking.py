"""Knows how pins are brought up to date in a workspace's lock file; must not know how packages are
resolved, nor print anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from msgspec import Struct

from buildgraph.errors import HostError
from buildgraph.limits import LOCK_BYTES
from buildgraph_cache.digest import Digest
from buildgraph_rules.debian.lock import FILE_NAME, Lock, Pins, read_pins, write_lock
from buildgraph_rules.debian.pins import Resolution


class LockResult(Struct, frozen=True):
    """What a lock run found: a line for each pin that is new, gone or another."""

    path: str
    changed: bool
    lines: tuple[str, ...]


def read_workspace_pins(root: str) -> Pins:
    """Return what a workspace pins; nothing where it has no lock file. Raises InputError."""
    try:
        with open(os.path.join(root, FILE_NAME), "rb") as file:
            data = file.read(LOCK_BYTES + 1)
    except FileNotFoundError:
        return Pins()
    except OSError as error:
        raise HostError(f"cannot read {FILE_NAME}: {error.strerror}") from error
    return read_pins(data.decode("utf-8", "surrogateescape"), FILE_NAME)


def lock(
    root: str,
    old: Pins,
    found: Iterable[Resolution],
    images: Mapping[str, Digest],
    *,
    write: bool,
) -> LockResult:
    """Write pins: `found` beside those packages `old` has of other targets, and these images.

    Atomic: the old file or the new one is there. Raises HostError.
    """
    before = dict(old.packages or {})
    after = before | {(one.label, one.architecture): one for one in found}
    path = os.path.join(root, FILE_NAME)
    was, text = write_lock(before.values(), old.images), write_lock(after.values(), images)
    changed = was != text or not os.path.exists(path)
    if changed and write:
        _replace(path, text)
    lines = (*_image_differences(old.images, images), *_differences(before, after))
    return LockResult(path, changed, lines)


def _replace(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def _image_differences(old: Mapping[str, Digest], new: Mapping[str, Digest]) -> Iterable[str]:
    for name in sorted({*old, *new}):
        was, now = old.get(name), new.get(name)
        if was != now:
            yield f"{name} {_short(was) or 'new'} -> {_short(now) or 'gone'}"


def _short(digest: Digest | None) -> str:
    return digest[:19] if digest else ""


def _differences(old: Lock, new: Lock) -> Iterable[str]:
    for key in sorted(new):
        before, after = _versions(old.get(key)), _versions(new[key])
        where = f"{key[0]} ({key[1]})"
        if not before:
            yield f"{where}: {len(after)} packages pinned"
            continue
        for name in sorted({*before, *after}):
            was, now = before.get(name), after.get(name)
            if was != now:
                yield f"{where}: {name} {was or 'new'} -> {now or 'gone'}"


def _versions(resolution: Resolution | None) -> dict[str, str]:
    return {pin.name: pin.version for pin in resolution.pins} if resolution else {}
