"""Knows how pins are brought up to date in a workspace's lock file; must not know how packages are
resolved, nor print anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from buildgraph.boxfile.target import Target
from buildgraph.errors import HostError
from buildgraph.limits import LOCK_BYTES
from buildgraph.oci.types import Platform
from buildgraph_cache.store import Store
from buildgraph_rules.debian import rule
from buildgraph_rules.debian.lock import FILE_NAME, Lock, read_lock, write_lock
from buildgraph_rules.debian.pins import Resolution


@dataclass(frozen=True, slots=True)
class LockResult:
    """What a lock run found: a line for each pin that is new, gone or another."""

    path: str
    changed: bool
    lines: tuple[str, ...]


def read_workspace_lock(root: str) -> Lock | None:
    """Return the pins of a workspace, None where it has no lock file. Raises InputError."""
    try:
        with open(os.path.join(root, FILE_NAME), "rb") as file:
            data = file.read(LOCK_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot read {FILE_NAME}: {error.strerror}") from error
    return read_lock(data.decode("utf-8", "surrogateescape"), FILE_NAME)


def lock(
    root: str,
    targets: Iterable[Target],
    platforms: Callable[[Target], Iterable[Platform]],
    store: Store,
    *,
    write: bool,
    progress: Callable[[str, int, int], None],
) -> LockResult:
    """Resolve targets anew and write their pins; those of other targets stay as they are.

    Atomic: the old file or the new one is there. Raises InputError, HostError.
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
    before, after = write_lock(old.values()), write_lock(new.values())
    changed = before != after or not os.path.exists(path)
    if changed and write:
        _replace(path, after)
    return LockResult(path, changed, tuple(_differences(old, new)))


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
