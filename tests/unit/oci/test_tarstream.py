"""The canonical tar: what it says, and that others read it as it was meant."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable

import pytest

from buildgraph.errors import HostError, InputError
from buildgraph.filetree import Entry, FileStat, FromTree, Kind
from buildgraph.oci.dirtree import DirTree, file_stat
from buildgraph.oci.tarread import TarReader
from buildgraph.oci.tarstream import (
    CHUNK,
    HeaderWriter,
    canonical,
    checked,
    pax_records,
    tar_chunks,
    with_marks,
)

EPOCH = 315_532_800


def tar_of(entries: Iterable[Entry], epoch: int = EPOCH) -> bytes:
    return b"".join(tar_chunks(canonical(entries), HeaderWriter(epoch)))


def read(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        return {member.name: member for member in tar}


def file(path: str, content: bytes = b"", **more: object) -> Entry:
    return Entry(path, Kind.FILE, 0o644, size=len(content), content=content, **more)  # type: ignore[arg-type]


def folder(path: str) -> Entry:
    return Entry(path, Kind.DIR, 0o755)


def test_entries_are_sorted_by_bytes_with_directories_first() -> None:
    data = tar_of([file("a/x"), file("a-b"), folder("a"), file("a/b"), file("\udcff"), file("é")])
    assert list(read(data)) == ["a", "a-b", "a/b", "a/x", "é", "\udcff"]


def test_it_ends_with_two_zero_blocks_and_nothing_more() -> None:
    data = tar_of([file("x", b"1")])
    assert len(data) == 4 * 512
    assert data[-1024:] == bytes(1024)


def test_a_plain_file_needs_no_pax_record() -> None:
    header = HeaderWriter(EPOCH).header(file("dir/name", b"abc", uid=7, gid=8))
    assert len(header) == 512
    info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (info.name, info.mode, info.uid, info.gid, info.size) == ("dir/name", 0o644, 7, 8, 3)
    assert (info.mtime, info.uname, info.gname) == (EPOCH, "", "")


def test_the_quick_header_and_the_slow_one_are_the_same() -> None:
    once = HeaderWriter(EPOCH)
    entries = [file(name, b"x" * size) for name in ("a", "b" * 100) for size in (0, 1, 1000)]
    first = [HeaderWriter(EPOCH).header(entry) for entry in entries]
    assert [once.header(entry) for entry in entries] == first
    assert [once.header(entry) for entry in entries] == first


@pytest.mark.parametrize(
    "path",
    [
        "n" * 100,
        "n" * 101,
        "n" * 255,
        "d" * 155 + "/" + "n" * 100,
        "d" * 156 + "/" + "n" * 100,
        "/".join(["d" * 60] * 12),
        "new\nline",
        "\udcfe\udcff",
        "smörgås",
    ],
)
def test_names_come_back(path: str) -> None:
    parents = [path[:at] for at, letter in enumerate(path) if letter == "/"]
    data = tar_of([*map(folder, parents), file(path, b"here")])
    assert path in read(data)
    assert [os.fsdecode(member.path) for member in TarReader(iter([data]))][-1] == path


def test_numbers_that_ustar_cannot_say() -> None:
    huge = 9 << 30
    stat = FileStat(Kind.FILE, 0o644, size=huge)
    entry = Entry(
        "x",
        Kind.FILE,
        0o644,
        3_000_000,
        1 << 31,
        huge,
        -5,
        content=FromTree(None, "", stat),  # type: ignore[arg-type]
    )
    header = HeaderWriter(EPOCH).header(entry)
    members = TarReader(iter([header]), bodies=False, total=1 << 62)
    (member,) = members
    assert (member.uid, member.gid, member.size) == (3_000_000, 1 << 31, huge)
    assert member.mtime_ns == -5_000_000_000
    assert b"mtime=-5\n" in header
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024))) as tar:
        info = tar.next()
        assert info is not None
        assert (info.uid, info.size, info.mtime) == (3_000_000, huge, -5)


def test_times_after_the_epoch_become_the_epoch_and_earlier_ones_stay() -> None:
    data = tar_of([file("a", mtime=EPOCH + 1), file("b", mtime=5), file("c")])
    assert [info.mtime for info in read(data).values()] == [EPOCH, 5, EPOCH]


def test_attributes_become_schily_records_with_any_bytes() -> None:
    value = bytes(range(256))
    info = read(tar_of([file("x", xattrs=(("security.capability", value),))]))["x"]
    found = info.pax_headers["SCHILY.xattr.security.capability"]
    assert found.encode("utf-8", "surrogateescape") == value


def test_pax_lengths_count_themselves() -> None:
    for size in range(80, 120):
        record = pax_records({b"path": b"x" * size})
        assert int(record.split(b" ")[0]) == len(record)


def test_device_numbers() -> None:
    data = tar_of([Entry("n", Kind.CHAR, 0o600, rdev=os.makedev(10, 229))])
    info = read(data)["n"]
    assert (info.devmajor, info.devminor, info.type) == (10, 229, tarfile.CHRTYPE)


def test_the_first_path_in_order_has_the_bytes_of_hard_links() -> None:
    data = tar_of([file("z", b"abc", uid=5), Entry("a", Kind.HARDLINK, 0, link="z")])
    found = read(data)
    assert found["a"].isreg()
    assert (found["a"].size, found["a"].uid) == (3, 5)
    assert found["z"].islnk()
    assert (found["z"].linkname, found["z"].uid) == ("a", 5)


def test_the_last_of_two_entries_of_a_path_wins_and_sockets_vanish() -> None:
    data = tar_of([file("a", b"1"), file("a", b"22"), Entry("s", Kind.SOCKET, 0o600)])
    assert [info.size for info in read(data).values()] == [2]


@pytest.mark.parametrize(
    "entries",
    [
        [file("a/b")],
        [file("a"), file("a/b")],
        [folder("a"), file("a"), file("a/b")],
        [Entry("a", Kind.HARDLINK, 0, link="b")],
        [folder("d"), Entry("a", Kind.HARDLINK, 0, link="d")],
    ],
)
def test_incomplete_layers_are_refused(entries: list[Entry]) -> None:
    with pytest.raises(ValueError, match="layer entry|hard link"):
        canonical(entries)


def test_overlay_marks_become_whiteout_files() -> None:
    ordered = canonical([folder("d"), Entry("d/gone", Kind.CHAR, 0), file("d/z")])
    names = [entry.path for entry in with_marks(ordered, {"d"})]
    assert names == ["d", "d/.wh..wh..opq", "d/.wh.gone", "d/z"]


def test_a_name_that_would_mean_a_whiteout_is_refused() -> None:
    with pytest.raises(InputError, match=r"\.wh\.x"):
        list(checked([file("d/.wh.x")]))


def test_chunks_have_one_size_whatever_the_files_are(tmp_path: object) -> None:
    entries = [file(f"f{n}", bytes([n]) * (n * 70_001)) for n in range(40)]
    sizes = [len(chunk) for chunk in tar_chunks(canonical(entries), HeaderWriter(EPOCH))]
    assert set(sizes[:-1]) == {CHUNK}
    assert sum(sizes) % 512 == 0


def _from(tree: DirTree, name: str) -> Entry:
    stat = file_stat(os.stat(name, dir_fd=tree.fd))
    return Entry(name, Kind.FILE, 0o644, size=stat.size, content=FromTree(tree, name, stat))


@pytest.mark.parametrize("size", [10, 300_000, 3_000_000])
@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite", "replace"])
def test_a_file_that_changed_since_its_stat_is_refused(tmp_path, size, change) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "f"
    path.write_bytes(b"a" * size)
    tree = DirTree(tmp_path)
    entry = _from(tree, "f")
    assert len(tar_of([entry])) > size
    if change == "grow":
        path.write_bytes(b"a" * (size + 1))
    elif change == "shrink":
        path.write_bytes(b"a" * (size - 1))
    elif change == "rewrite":
        os.utime(path, ns=(1, 1))
    else:
        (tmp_path / "g").write_bytes(b"a" * size)
        os.replace(tmp_path / "g", path)
    with pytest.raises(HostError, match="changed while reading"):
        tar_of([entry])
