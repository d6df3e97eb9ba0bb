"""Knows a layer by its table of contents, the tar without its files; must not know its bytes.

Tables of contents are of our own making, so names in them are canonical and hard links lead to
members that came before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from buildgraph.filetree import FileStat, Kind, kept_xattr, name_order
from buildgraph.oci.tarread import Member, TarReader
from buildgraph.oci.tarstream import OPAQUE_NAME, WHITEOUT_PREFIX
from buildgraph.oci.unpack import member_path

_ROOT = FileStat(Kind.DIR, 0o755)
_WHITEOUT = FileStat(Kind.CHAR, 0)


class TocTree:
    """A layer's names and metadata, read from its table of contents."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._stats: dict[str, FileStat] = {}
        self._children: dict[str, list[str]] = {}
        self._opaque: set[str] = set()
        self._xattrs: dict[str, tuple[tuple[str, bytes], ...]] = {}
        for member in TarReader(iter(chunks), total=1 << 62, bodies=False):
            path = member_path(member.path)
            parent, slash, name = path.rpartition("/")
            if name == OPAQUE_NAME:
                self._opaque.add(parent)
                continue
            if name.startswith(WHITEOUT_PREFIX):
                name = name[len(WHITEOUT_PREFIX) :]
                path = f"{parent}{slash}{name}"
                self._stats[path] = _WHITEOUT
            else:
                self._stats[path] = self._member(member, path)
            self._children.setdefault(parent, []).append(name)

    def _member(self, member: Member, path: str) -> FileStat:
        if member.flag == b"1":
            target = member_path(member.link)
            if target in self._xattrs:
                self._xattrs[path] = self._xattrs[target]
            return self._stats[target]
        if member.xattrs:
            self._xattrs[path] = tuple(x for x in member.xattrs if kept_xattr(x[0]))
        return FileStat(
            Kind(member.flag.decode()),
            member.mode,
            member.uid,
            member.gid,
            len(member.link) if member.flag == b"2" else member.size,
            member.mtime_ns,
            rdev=os.makedev(member.major, member.minor),
            target=os.fsdecode(member.link) if member.flag == b"2" else "",
        )

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path`, whiteouts too."""
        return self._stats.get(path) if path else _ROOT

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """Return the entries of a directory, whiteouts too, in `name_order`."""
        prefix = f"{path}/" if path else ""
        names = sorted(self._children.get(path, ()), key=name_order)
        return [(name, self._stats[prefix + name]) for name in names]

    def opaque(self, path: str) -> bool:
        """Say whether the directory hides what is below."""
        return path in self._opaque

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return the kept attributes."""
        return self._xattrs.get(path, ())
