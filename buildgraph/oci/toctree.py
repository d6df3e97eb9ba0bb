"""Knows a layer by its table of contents, the tar without its files; must not know its bytes.

Tables of contents are of our own making (`oci.streams.Toc`), so names in them are canonical, long
ones and odd ones come by PAX, and hard links lead to members that came before. Most are asked about
one or two paths of thousands, so a member is parsed when somebody wants to know it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from buildgraph.errors import InputError
from buildgraph.filetree import FileStat, Kind, kept_xattr, name_order
from buildgraph.oci.tarread import Member, apply_records, number, parse_header, read_pax
from buildgraph.oci.tarstream import BLOCK, OPAQUE_NAME, WHITEOUT_PREFIX

_ROOT = FileStat(Kind.DIR, 0o755)
_WHITEOUT = FileStat(Kind.CHAR, 0)
_OPAQUE = os.fsencode(OPAQUE_NAME)
_PREFIX = os.fsencode(WHITEOUT_PREFIX)
# What is kept of a header that says all of its member: mode to type flag, and the link's text.
_FIELDS = slice(100, 157)
_LINK = slice(157, 257)
_ODD = b"x34"  # PAX records belong to the next header; devices have numbers elsewhere


class TocTree:
    """A layer's names and metadata, read from its table of contents."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._members: dict[bytes, bytes | Member] = dict(_members(chunks))
        self._stats: dict[str, FileStat | None] = {"": _ROOT}
        self._children: dict[bytes, list[bytes]] | None = None

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path`, whiteouts too."""
        if path not in self._stats:
            self._stats[path] = self._stat(name_order(path))
        return self._stats[path]

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """Return the entries of a directory, whiteouts too, in `name_order`."""
        if self._children is None:
            self._children = {}
            for raw in self._members:
                parent, _, name = raw.rpartition(b"/")
                self._children.setdefault(parent, []).append(name)
        names = {
            name.removeprefix(_PREFIX)
            for name in self._children.get(name_order(path), ())
            if name != _OPAQUE
        }
        prefix = f"{path}/" if path else ""
        found = ((name, self.stat(prefix + name)) for name in map(os.fsdecode, sorted(names)))
        return [(name, stat) for name, stat in found if stat is not None]

    def opaque(self, path: str) -> bool:
        """Say whether the directory hides what is below."""
        return _join(name_order(path), _OPAQUE) in self._members

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return the kept attributes."""
        member = self._member(name_order(path))
        if member is not None and member.flag == b"1":
            member = self._member(member.link)
        return () if member is None else tuple(x for x in member.xattrs if kept_xattr(x[0]))

    def _stat(self, raw: bytes) -> FileStat | None:
        member = self._member(raw)
        if member is None:
            parent, _, name = raw.rpartition(b"/")
            return _WHITEOUT if _join(parent, _PREFIX + name) in self._members else None
        if member.flag == b"1":
            return self._stat(member.link)
        is_link = member.flag == b"2"
        return FileStat(
            Kind(member.flag.decode()),
            member.mode,
            member.uid,
            member.gid,
            len(member.link) if is_link else member.size,
            member.mtime_ns,
            rdev=os.makedev(member.major, member.minor),
            target=os.fsdecode(member.link) if is_link else "",
        )

    def _member(self, raw: bytes) -> Member | None:
        found = self._members.get(raw)
        return _parsed(raw, found) if isinstance(found, bytes) else found


def _parsed(path: bytes, fields: bytes) -> Member:
    mode, uid, gid = (number(fields[at : at + 8]) for at in (0, 8, 16))
    size, mtime_ns = number(fields[24:36]), number(fields[36:48]) * 1_000_000_000
    return Member(
        path, fields[56:57], mode & 0o7777, uid, gid, size, mtime_ns, fields[57:], major=0, minor=0
    )


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _members(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes | Member]]:
    """Yield (path, member): the fields of its header as they are, or parsed where it is odd."""
    data = b""
    for chunk in chunks:
        data += chunk
        at, whole = 0, len(data) - BLOCK
        while at <= whole:
            if data[at + 156] in _ODD:
                end, found = _odd(data, at)
                if found is None:
                    break  # the rest of it is in the next chunk
                yield found
                at = end
                continue
            path = data[at : at + 100].rstrip(b"\0")
            if data[at + 345]:
                path = data[at + 345 : at + 500].rstrip(b"\0") + b"/" + path
            header = data[at : at + 257]
            yield path.rstrip(b"/"), header[_FIELDS] + header[_LINK].rstrip(b"\0")
            at += BLOCK
        data = data[at:]
    if data:
        raise InputError("a layer's table of contents is cut off")


def _odd(data: bytes, at: int) -> tuple[int, tuple[bytes, Member] | None]:
    """Return (where the next member begins, this one), None where `data` has not all of it."""
    records: dict[bytes, bytes] = {}
    if data[at + 156 : at + 157] == b"x":
        size = number(data[at + 124 : at + 136])
        body = data[at + BLOCK : at + BLOCK + size]
        at += BLOCK + size + -size % BLOCK
        if at + BLOCK > len(data):
            return at, None
        records.update(read_pax(body))
    member = parse_header(data[at : at + BLOCK])
    apply_records(member, records)
    return at + BLOCK, (member.path.rstrip(b"/"), member)
