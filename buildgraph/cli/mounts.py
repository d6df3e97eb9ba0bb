"""Knows how cache mounts are named, chosen, listed and carried on the command line; must not know
how they are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from buildgraph.cli.escape import safe
from buildgraph.cli.words import seconds, size
from buildgraph.errors import InputError, did_you_mean
from buildgraph.oci.publish import new_file
from buildgraph_cache.mount_care import CacheMount

_TYPE = "exec.cachemount"
_KEYS = ("type", "id", "target", "until")
_PIECE = 1 << 20


class Filters(Struct, frozen=True):
    """What `--filter` says; `mounts` is whether only cache mounts are meant."""

    mounts: bool = False
    ids: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    until: str | None = None

    def takes(self, mount: CacheMount) -> bool:
        """Say whether a mount is meant."""
        about = mount.about
        return (not self.ids or about.get("id") in self.ids) and (
            not self.targets or about.get("target") in self.targets
        )


def parse_filters(texts: Sequence[str]) -> Filters:
    """Parse `--filter KEY=VALUE`, in docker's words. Raises InputError."""
    values: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key not in _KEYS or not equals or not value:
            hint = did_you_mean(key[:60], _KEYS) if key not in _KEYS else None
            raise InputError(f"--filter {text}", hint=hint or f"KEY=VALUE, of {', '.join(_KEYS)}")
        values.setdefault(key, []).append(value)
    for kind in values.get("type", ()):
        if kind != _TYPE:
            raise InputError(
                f"--filter type={kind}: only {_TYPE} can be chosen",
                hint="without a filter everything that is not in use can go",
            )
    until = values.pop("until", [None])
    return Filters(
        bool(values),
        frozenset(values.get("id", ())),
        frozenset(values.get("target", ())),
        until[-1],
    )


def mount_id(mount: CacheMount) -> str:
    """Return what people call a mount."""
    return safe(mount.about.get("id") or mount.name[:12])


def mount_as_json(mount: CacheMount) -> dict[str, Any]:
    """Return what is known of a mount."""
    about = mount.about
    return {
        "id": about.get("id", ""),
        "namespace": about.get("namespace", ""),
        "path": about.get("path", ""),
        "target": about.get("target", ""),
        "bytes": mount.size,
        "last_used": mount.used,
        "name": mount.name,
    }


def mount_lines(mounts: Sequence[CacheMount], now: float) -> Iterator[str]:
    """Yield a table of mounts, the last used first; nothing where there are none."""
    if not mounts:
        return
    rows = [("CACHE MOUNT", "SIZE", "LAST USED", "TARGET")]
    for mount in reversed(mounts):
        namespace = mount.about.get("namespace", "")
        name = f"{safe(namespace)}/{mount_id(mount)}" if namespace else mount_id(mount)
        used = f"{seconds(max(0.0, now - mount.used))} ago"
        rows.append((name, size(mount.size), used, safe(mount.about.get("target", ""))))
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    yield ""
    for row in rows:
        yield (f"{row[0]:<{wide[0]}}  {row[1]:>{wide[1]}}  {row[2]:>{wide[2]}}  {row[3]}".rstrip())


@contextmanager
def written_whole(path: str | None) -> Iterator[BinaryIO]:
    """Yield a file that is at `path` whole, or not at all; None is stdout. Raises HostError."""
    if path is None:
        if sys.stdout.isatty():
            raise InputError("an archive is not written to a terminal", hint="give a file")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with new_file(Path(path)) as file:
        yield file


@contextmanager
def reading(path: str | None) -> Iterator[Iterator[bytes]]:
    """Yield the bytes of a file, None is stdin, in pieces. Raises InputError."""
    if path is None:
        yield iter(lambda: sys.stdin.buffer.read(_PIECE), b"")
        return
    try:
        file = open(path, "rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    with file:
        yield iter(lambda: file.read(_PIECE), b"")
