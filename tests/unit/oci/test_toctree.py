"""Holds what is read lazily from a table of contents to what a reader of tars finds in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from buildgraph.errors import InputError
from buildgraph.filetree import Entry, FileStat, Kind, name_order
from buildgraph.oci.tarread import Member, TarReader
from buildgraph.oci.tarstream import HeaderWriter, canonical, tar_chunks, with_marks
from buildgraph.oci.toctree import TocTree

EPOCH = 315_532_800
LONG = "d/" + "n" * 120
DEEP = "d/" + "/".join(["e" * 60] * 2)
XATTRS = (("security.capability", b"\x01" * 20), ("user.x", b"\0\n="))
ENTRIES = [
    Entry("d", Kind.DIR, 0o2750, 3, 4),
    Entry("d/a", Kind.FILE, 0o4755, 1000, 1000, 3, content=b"abc"),
    Entry("d/b", Kind.HARDLINK, 0o644, link="d/a"),
    Entry("d/big-owner", Kind.FILE, 0o644, 4_000_000_000, 5, xattrs=XATTRS),
    Entry("d/to-big", Kind.HARDLINK, 0o644, link="d/big-owner"),
    Entry("d/caf\u00e9", Kind.FILE, 0o600, mtime=7),
    Entry("d/raw\udcff", Kind.SYMLINK, 0o777, link="caf\u00e9/\udcfe"),
    Entry("d/link", Kind.SYMLINK, 0o777, link="../else/where"),
    Entry("d/far", Kind.SYMLINK, 0o777, link="x" * 140),
    Entry(LONG, Kind.FILE, 0o644, size=1, content=b"1"),
    Entry("d/" + "e" * 60, Kind.DIR, 0o755),
    Entry(DEEP, Kind.DIR, 0o755, xattrs=(("user.dir", b"1"),)),
    Entry(DEEP + "/f", Kind.FILE, 0o644),
    Entry("d/fifo", Kind.FIFO, 0o644),
    Entry("d/null", Kind.CHAR, 0o666, rdev=os.makedev(1, 3)),
    Entry("d/disk", Kind.BLOCK, 0o660, 0, 6, rdev=os.makedev(259, 1)),
    Entry("d/gone", Kind.CHAR, 0, rdev=0),
    Entry("hidden", Kind.DIR, 0o700),
]


def contents() -> bytes:
    out: list[bytes] = []
    ordered = with_marks(canonical(ENTRIES), ("hidden",))
    for _ in tar_chunks(ordered, HeaderWriter(EPOCH), out.append):
        pass
    return b"".join(out)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def by_reader(data: bytes) -> dict[str, Member]:
    reader = TarReader(iter([data]), total=1 << 62, bodies=False)
    return {os.fsdecode(member.path.rstrip(b"/")): member for member in reader}


@pytest.mark.parametrize("size", [1 << 20, 4096, 700, 512, 13])
def test_members_are_what_a_reader_finds(size: int) -> None:
    data = contents()
    tree = TocTree(pieces(data, size))
    for path, member in by_reader(data).items():
        name = path.rpartition("/")[2]
        if name.startswith(".wh."):
            continue
        stat = tree.stat(path)
        assert stat is not None, path
        if member.flag == b"1":
            assert stat == tree.stat(os.fsdecode(member.link))
            assert tree.xattrs(path) == tree.xattrs(os.fsdecode(member.link))
            continue
        kind = Kind(member.flag.decode())
        target = os.fsdecode(member.link) if kind is Kind.SYMLINK else ""
        assert stat == FileStat(
            kind,
            member.mode,
            member.uid,
            member.gid,
            len(member.link) if kind is Kind.SYMLINK else member.size,
            member.mtime_ns,
            rdev=os.makedev(member.major, member.minor),
            target=target,
        )
        assert tree.xattrs(path) == member.xattrs


def test_what_entries_said_is_there() -> None:
    tree = TocTree([contents()])
    for entry in ENTRIES:
        stat = tree.stat(entry.path)
        assert stat is not None
        if entry.kind is not Kind.HARDLINK:
            assert (stat.kind, stat.mode, stat.rdev) == (entry.kind, entry.mode, entry.rdev)
            assert (stat.uid, stat.gid, stat.target) == (entry.uid, entry.gid, entry.link)
    assert tree.xattrs("d/to-big") == XATTRS
    assert tree.stat("d/none") is None
    assert tree.xattrs("d/none") == ()
    assert tree.stat("") == FileStat(Kind.DIR, 0o755)


def test_lists_have_whiteouts_and_no_marks() -> None:
    tree = TocTree([contents()])
    names = [name for name, _ in tree.list("d")]
    inside = [e.path[2:] for e in ENTRIES if e.path.startswith("d/") and "/" not in e.path[2:]]
    assert names == sorted(inside, key=name_order)
    assert dict(tree.list("d"))["gone"] == FileStat(Kind.CHAR, 0)
    assert [name for name, _ in tree.list("")] == ["d", "hidden"]
    assert tree.list("hidden") == []
    assert [tree.opaque(path) for path in ("", "d", "hidden")] == [False, False, True]


def test_what_is_cut_off_is_refused() -> None:
    data = contents()
    for end in (100, 700, len(data) - 1):
        with pytest.raises(InputError, match="cut off"):
            TocTree([data[:end]])
