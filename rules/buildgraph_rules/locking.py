"""Knows how pins are brought up to date in a workspace's lock file; must not know how packages are
resolved, nor print anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from buildgraph.boxfile.target import Target
from buildgraph.errors import HostError
from buildgraph.limits import LOCK_BYTES
from buildgraph.oci.types import Platform
from buildgraph_cache.digest import Digest
from buildgraph_cache.store import Store
from buildgraph_rules.debian import rule
from buildgraph_rules.debian.lock import FILE_NAME, Lock, read_images, read_lock, write_lock
from buildgraph_rules.debian.pins import Resolution


@dataclass(frozen=True, slots=True)
class LockResult:
    """What a lock run found: a line for each pin that is new, gone or another."""

    path: str
    changed: bool
    lines: tuple[str, ...]


def read_workspace_lock(root: str) -> Lock | None:
    """Return the packages a workspace pins, None where it has no lock file. Raises InputError."""
    text = _read(root)
    return None if text is None else read_lock(text, FILE_NAME)


def read_image_pins(root: str) -> dict[str, Digest]:
    """Return the images a workspace pins, by their canonical names. Raises InputError."""
    text = _read(root)
    return {} if text is None else dict(read_images(text, FILE_NAME))


def _read(root: str) -> str | None:
    try:
        with open(os.path.join(root, FILE_NAME), "rb") as file:
            data = file.read(LOCK_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot read {FILE_NAME}: {error.strerror}") from error
    return data.decode("utf-8", "surrogateescape")


def lock(
    root: str,
    targets: Iterable[Target],
    platforms: Callable[[Target], Iterable[Platform]],
    store: Store,
    *,
    images: Mapping[str, Digest] | None = None,
    write: bool,
    progress: Callable[[str, int, int], None],
) -> LockResult:
    """Resolve targets anew and write their pins; those of other targets stay as they are.

    `images` are all images the lock is to hold; None leaves them as they are. Atomic: the old file
    or the new one is there. Raises InputError, HostError.
    """
    old = dict(read_workspace_lock(root) or {})
    new = dict(old)
    indices: rule.Indices = {}
    for target in targets:
        for platform in platforms(target):
            found = rule.resolve(
                target,
                platform,
                store=store,
                workspace=root,
                refresh=True,
                progress=progress,
                known_indices=indices,
            )
            new[found.label, found.architecture] = found
    path = os.path.join(root, FILE_NAME)
    had = read_image_pins(root)
    have = had if images is None else images
    before, after = write_lock(old.values(), had), write_lock(new.values(), have)
    changed = before != after or not os.path.exists(path)
    if changed and write:
        _replace(path, after)
    return LockResult(path, changed, (*_image_differences(had, have), *_differences(old, new)))


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
