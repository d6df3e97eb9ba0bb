"""Archives that mean harm, each by the class of attack it belongs to."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.oci.tarread import TarReader
from buildgraph.oci.tarstream import pax_header
from buildgraph.oci.unpack import Unpacker

EPOCH = 315_532_800
ME = (os.geteuid(), os.getegid())


class Tar:
    """Builds an archive entry by entry, however odd."""

    def __init__(self, style: int = tarfile.PAX_FORMAT) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=style)

    def add(self, name: str, data: bytes | None = None, **fields: object) -> Tar:
        info = tarfile.TarInfo(name)
        info.uid, info.gid = ME
        info.mode = 0o755 if fields.get("type") == tarfile.DIRTYPE else 0o644
        for key, value in fields.items():
            setattr(info, key, value)
        if data is not None:
            info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data or b""))
        return self

    def dir(self, name: str, **fields: int) -> Tar:
        return self.add(name, None, type=tarfile.DIRTYPE, **fields)

    def link(self, name: str, target: str) -> Tar:
        return self.add(name, type=tarfile.SYMTYPE, linkname=target)

    def hard(self, name: str, target: str) -> Tar:
        return self.add(name, type=tarfile.LNKTYPE, linkname=target)

    def bytes(self) -> bytes:
        self.tar.close()
        return self.buffer.getvalue()


def unpack(data: bytes | Tar, place: Path, piece: int = 1 << 16) -> None:
    raw = data.bytes() if isinstance(data, Tar) else data
    pieces = (raw[at : at + piece] for at in range(0, len(raw), piece))
    reader = TarReader(pieces)
    with Unpacker(str(place), EPOCH, "user") as unpacker:
        unpacker.unpack(reader, reader)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "victims").mkdir()
    yield inside
    assert (tmp_path / "victim").read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["inside", "victim", "victims"]
    assert not os.listdir(tmp_path / "victims")


def names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


# --- A11 to A15: leaving the root ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["../victim", "a/../../victim", "/../victim", "a/b/../../../x"])
def test_dot_dot_that_leaves_the_root_is_refused(place: Path, name: str) -> None:
    with pytest.raises(InputError, match="leaves its root"):
        unpack(Tar().add(name, b"pwned"), place)


def test_absolute_names_are_inside(place: Path) -> None:
    unpack(Tar().add("/etc/x", b"1").add("//y", b"2").add("a/../z", b"3"), place)
    assert names(place) == ["etc", "etc/x", "y", "z"]


@pytest.mark.parametrize("up", ["..", "../..", "/", "../victims", "/../victims"])
def test_writing_through_a_link_stays_inside(place: Path, up: str) -> None:
    try:
        unpack(Tar().link("out", up).add("out/victim", b"pwned"), place)
    except InputError:
        return
    assert not (place.parent / "victims" / "victim").exists()


def test_a_link_inside_is_followed_inside(place: Path) -> None:
    unpack(Tar().dir("usr").dir("usr/lib").link("lib", "/usr/lib").add("lib/x", b"1"), place)
    assert (place / "usr/lib/x").read_bytes() == b"1"
    assert (place / "lib").is_symlink()


def test_a_file_never_replaces_what_a_link_points_to(place: Path) -> None:
    unpack(Tar().link("f", "../victim").add("f", b"mine"), place)
    assert (place / "f").read_bytes() == b"mine"
    assert not (place / "f").is_symlink()


def test_a_directory_entry_replaces_a_link(place: Path) -> None:
    unpack(Tar().link("d", "../victims").dir("d").add("d/x", b"1"), place)
    assert names(place) == ["d", "d/x"]


def test_a_chain_of_links_longer_than_path_max_ends(place: Path) -> None:
    tar = Tar()
    step = "d" * 247
    path = ""
    for letter in "abcdefghijklmnop":
        tar.dir(path + step)
        tar.link(path + letter, step)
        path += letter + "/"
    tar.link(path + "x" * 254, "../" * 16)
    tar.link("escape", path + "x" * 254 + "/../victims")
    tar.add("escape/pwned", b"1")
    try:
        unpack(tar, place)
    except InputError:
        return


def test_a_loop_of_links_is_no_directory(place: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        unpack(Tar().link("a", "b").link("b", "a").add("a/x", b"1"), place)


def test_a_file_is_no_directory(place: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        unpack(Tar().add("a", b"").add("a/x", b"1"), place)


@pytest.mark.parametrize("target", ["../victim", "/../victim", "nothing", "d", ".", "gone"])
def test_hard_links_lead_only_to_files_of_this_layer(place: Path, target: str) -> None:
    with pytest.raises(InputError, match="hard link|leaves its root"):
        unpack(Tar().dir("d").add(".wh.gone").hard("h", target).add("h", b"pwned"), place)


def test_a_hard_link_through_a_link_stays_inside(place: Path) -> None:
    with pytest.raises(InputError, match="hard link"):
        unpack(Tar().link("up", "..").hard("h", "up/victim"), place)


def test_overwriting_a_hard_link_leaves_the_other_name(place: Path) -> None:
    unpack(Tar().add("a", b"1").hard("b", "a").hard("b", "./a").add("b", b"22"), place)
    assert (place / "a").read_bytes() == b"1"
    assert (place / "b").read_bytes() == b"22"


@pytest.mark.parametrize("name", [".", "/", "./", "a/.."])
def test_the_root_entry_may_only_be_a_directory(place: Path, name: str) -> None:
    unpack(Tar().dir(name, mode=0o700), place)
    with pytest.raises(InputError, match="root directory"):
        unpack(Tar().link(name, "/etc"), place)


# --- A16: whiteouts -----------------------------------------------------------------------------


def is_whiteout(path: Path) -> bool:
    st = os.lstat(path)
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "user.overlay.opaque" in os.listxattr(path)


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."])
def test_whiteouts_of_no_name_are_refused(place: Path, name: str) -> None:
    with pytest.raises(InputError, match="whiteout"):
        unpack(Tar().dir("d").add(name), place)


def test_a_layer_that_hides_everything_below_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match="whole root"):
        unpack(Tar().add(".wh..wh..opq"), place)


def test_whiteouts_do_not_follow_links(place: Path) -> None:
    unpack(Tar().link("out", "../victims").add(".wh.out"), place)
    assert (place / "out").is_symlink()
    unpack(Tar().link("o2", "..").add("o2/.wh.victim"), place)


def test_whiteouts_and_opaque_marks_take_overlays_form(place: Path) -> None:
    unpack(Tar().dir("d").add("d/.wh..wh..opq").add("d/.wh.x").add("d/.wh..wh.plnk"), place)
    assert names(place) == ["d", "d/x"]
    assert is_whiteout(place / "d/x")
    assert is_opaque(place / "d")


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_whiteout_beside_what_the_layer_makes(place: Path, order: str) -> None:
    tar = Tar()
    if order == "before":
        tar.add(".wh.f").add(".wh.d")
    tar.add("f", b"1").dir("d").add("d/x", b"2")
    if order == "after":
        tar.add(".wh.f").add(".wh.d")
    unpack(tar, place)
    assert (place / "f").read_bytes() == b"1"
    assert names(place) == ["d", "d/x", "f"]
    assert is_opaque(place / "d")


def test_a_character_device_that_overlay_takes_for_a_whiteout_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match="0:0"):
        unpack(Tar().add("x", type=tarfile.CHRTYPE), place)


# --- A17, A19: headers --------------------------------------------------------------------------


def header(name: bytes = b"x", flag: bytes = b"0", size: bytes = b"0", **more: bytes) -> bytes:
    fields = {"mode": b"644", "uid": b"%o" % ME[0], "gid": b"%o" % ME[1], "mtime": b"0", **more}
    block = struct.pack(
        "100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x",
        name, fields["mode"], fields["uid"], fields["gid"], size, fields["mtime"], b" " * 8, flag,
        fields.get("link", b""), fields.get("magic", b"ustar\x0000"), b"", b"", b"", b"", b"",
    )  # fmt: skip
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


@pytest.mark.parametrize("flag", [b"x", b"g", b"L", b"K"])
def test_header_records_have_a_cap(place: Path, flag: bytes) -> None:
    over = limits.TAR_HEADER_RECORD_BYTES + 1
    with pytest.raises(InputError, match="header record"):
        unpack(header(flag=flag, size=b"%o" % over) + bytes(over), place)


def test_the_logical_size_has_a_cap(place: Path) -> None:
    data = header(size=b"\x80" + (1 << 40).to_bytes(11, "big"))
    with pytest.raises(InputError, match="more bytes than a layer may have"):
        unpack(data, place)
    assert names(place) in ([], ["x"])


def test_many_files_share_the_cap(tmp_path: Path) -> None:
    one = header(size=b"1000") + bytes(512)
    with pytest.raises(InputError, match="more bytes than a layer may have"):
        for _ in TarReader(iter([one * 3]), total=1500):
            pass


def test_the_number_of_members_has_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LAYER_ENTRIES", 3)
    with pytest.raises(InputError, match="more than 3 members"):
        list(TarReader(iter([header() * 4])))


@pytest.mark.parametrize(
    "records",
    [{b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}, {b"GNU.sparse.map": b"0,1" * 1000}],
)
def test_sparse_members_are_refused(place: Path, records: dict[bytes, bytes]) -> None:
    with pytest.raises(InputError, match="sparse"):
        unpack(pax_header(records) + header(), place)
    with pytest.raises(InputError, match="sparse"):
        unpack(header(flag=b"S"), place)


@pytest.mark.parametrize(
    "body",
    [
        b"5 a=b\n",
        b"x a=b\n",
        b"7 ab=\n",
        b"99 a=b\n",
        b"6 a=bc",
        b"0 a=b\n",
        b"-1 =\n",
        b"6 ab c\n",
    ],
)
def test_damaged_pax_records_are_refused(place: Path, body: bytes) -> None:
    data = header(flag=b"x", size=b"%o" % len(body)) + body + bytes(512 - len(body))
    with pytest.raises(InputError, match="PAX"):
        unpack(data + header(), place)


@pytest.mark.parametrize(
    "records",
    [
        {b"size": b"-1"},
        {b"uid": b"1e3"},
        {b"mtime": b"nan"},
        {b"mtime": b"1.x"},
        {b"gid": b"9" * 40},
        {b"path": b"a\0b"},
        {b"linkpath": b"a\0b"},
    ],
)
def test_bad_pax_values_are_refused(place: Path, records: dict[bytes, bytes]) -> None:
    with pytest.raises(InputError):
        unpack(pax_header(records) + header(), place)


def test_a_damaged_header_is_refused(place: Path) -> None:
    good = header()
    with pytest.raises(InputError, match="checksum"):
        unpack(b"y" + good[1:], place)
    with pytest.raises(InputError, match="damaged number"):
        unpack(header(size=b"8z"), place)
    with pytest.raises(InputError, match="negative"):
        unpack(header(size=b"\xff" * 12), place)


@pytest.mark.parametrize("cut", [100, 512, 700, 1024 + 100])
def test_a_cut_archive_is_refused(place: Path, cut: int) -> None:
    data = Tar().add("a", b"x" * 600).add("b", b"y").bytes()
    with pytest.raises(InputError, match="cut off"):
        unpack(data[:cut], place)


def test_a_name_too_long_for_a_directory_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match="256 bytes"):
        unpack(Tar().add("n" * 256, b""), place)


# --- A20: readers must agree --------------------------------------------------------------------


def test_the_last_spelling_of_a_name_wins(place: Path) -> None:
    tar = Tar().add("a", b"1").add("./a", b"22").add("/a", b"333").add(".//a", b"4444")
    unpack(tar.dir("d").add("d/x", b"").add("d", b"file").dir("e").dir("e/"), place)
    assert (place / "a").read_bytes() == b"4444"
    assert (place / "d").read_bytes() == b"file"
    assert names(place) == ["a", "d", "e"]


def test_a_directory_twice_keeps_its_entries_and_takes_the_last_mode(place: Path) -> None:
    unpack(Tar().dir("d").add("d/x", b"").dir("d", mode=0o700, mtime=5), place)
    assert names(place) == ["d", "d/x"]
    assert stat.S_IMODE(os.stat(place / "d").st_mode) == 0o700
    assert os.stat(place / "d").st_mtime == 5


def test_a_directory_that_becomes_a_file_and_again_a_directory(place: Path) -> None:
    unpack(Tar().dir("d").add("d/x", b"").add("d", b"").dir("d").add("d/y", b"1"), place)
    assert names(place) == ["d", "d/y"]


# --- forms of headers, and what is kept ---------------------------------------------------------


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("piece", [1, 511, 512, 1 << 20])
def test_the_formats_are_read_alike(place: Path, style: int, piece: int) -> None:
    long = "d" * 40 + "/" + "n" * 59
    tar = Tar(style).dir("d" * 40).add(long, b"data", mtime=77).link("l", "t" * 90)
    unpack(tar.hard("h", long), place, piece)
    assert (place / long).read_bytes() == b"data"
    assert os.stat(place / long).st_mtime == 77
    assert os.stat(place / "h").st_ino == os.stat(place / long).st_ino
    assert os.readlink(place / "l") == "t" * 90


def test_gnu_long_names_and_base_256_numbers(place: Path) -> None:
    name = "/".join(["d" * 100, "n" * 200])
    tar = Tar(tarfile.GNU_FORMAT).add(name, b"1", mtime=-1000)
    unpack(tar.link("l", "t" * 300), place)
    assert os.stat(place / name).st_mtime == -1000
    assert os.readlink(place / "l") == "t" * 300


def test_old_tars_tell_directories_by_a_slash(place: Path) -> None:
    data = header(b"dir/", flag=b"\0", magic=b"", mode=b"755") + header(
        b"dir/f", flag=b"\0", magic=b""
    )
    unpack(data, place)
    assert names(place) == ["dir", "dir/f"]


def test_fractions_of_seconds_are_kept(place: Path) -> None:
    unpack(pax_header({b"mtime": b"-1.500000001"}) + header(b"a"), place)
    unpack(pax_header({b"mtime": b"7.25"}) + header(b"b"), place)
    assert os.stat(place / "a").st_mtime_ns == -1_500_000_001
    assert os.stat(place / "b").st_mtime_ns == 7_250_000_000


def test_modes_survive_with_every_bit(place: Path) -> None:
    unpack(Tar().add("f", b"", mode=0o6755).dir("d", mode=0o1777).add("d/x", b"", mode=0), place)
    assert stat.S_IMODE(os.stat(place / "f").st_mode) == 0o6755
    assert stat.S_IMODE(os.stat(place / "d").st_mode) == 0o1777
    assert stat.S_IMODE(os.stat(place / "d/x").st_mode) == 0


def test_implied_directories_are_plain(place: Path) -> None:
    old = os.umask(0o077)
    try:
        unpack(Tar().add("a/b/c", b""), place)
    finally:
        os.umask(old)
    for name in ("a", "a/b"):
        st = os.stat(place / name)
        assert (stat.S_IMODE(st.st_mode), st.st_mtime) == (0o755, EPOCH)


def test_device_nodes_are_metadata_where_none_may_be_made(place: Path) -> None:
    unpack(Tar().add("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0), place)
    assert stat.S_ISREG(os.lstat(place / "disk").st_mode)
    assert os.getxattr(place / "disk", "user.buildgraph.node") == b"b 8 0"


def test_attributes_of_the_machine_are_not_taken(place: Path) -> None:
    records = {
        b"SCHILY.xattr.user.mine": b"1",
        b"SCHILY.xattr.user.overlay.opaque": b"y",
        b"SCHILY.xattr.trusted.overlay.redirect": b"/etc",
        b"SCHILY.xattr.system.posix_acl_access": b"x",
        b"SCHILY.xattr.user.buildgraph.node": b"c 1 1",
    }
    unpack(pax_header(records) + header(b"f"), place)
    assert os.listxattr(place / "f") == ["user.mine"]


def test_global_headers_are_skipped(place: Path) -> None:
    body = b"13 path=gone\n"
    data = header(flag=b"g", size=b"%o" % len(body)) + body + bytes(512 - len(body))
    unpack(data + header(b"f"), place)
    assert names(place) == ["f"]


def test_nothing_is_executed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Callable[[], None]:
        raise AssertionError("a program was started")

    for name in ("fork", "posix_spawn", "execve", "execvp"):
        monkeypatch.setattr(os, name, refuse)
    unpack(Tar().add("xz", b"#!/bin/sh\n", mode=0o755), place)
