"""What a .deb from a stranger may try, and what dpkg would do with an honest one."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard

from buildgraph.errors import HostError
from buildgraph.rootpath import Root
from buildgraph_rules.debian.database import status_entry, write_database
from buildgraph_rules.debian.deb import read_deb
from buildgraph_rules.debian.unpack import Unpacked, unpack
from unit.rules.debian_world import Entry, Package, ar, directory, hard_link, link, tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of packages belong to root")


class World:
    """A place for packages, a root to unpack them into, and something outside of it."""

    def __init__(self, place: Path):
        self.place = place
        self.root = place / "root"
        self.root.mkdir()
        self.outside = place / "outside"
        self.outside.write_text("untouched")

    def unpack(self, *packages: Package, aside: bool = True) -> dict[str, Unpacked]:
        debs = []
        for package in packages:
            file = self.place / package.file_name
            file.write_bytes(package.deb)
            debs.append(read_deb(str(file)))
        done = unpack(debs, str(self.root), conffiles_aside=aside)
        return {unpacked.deb.name: unpacked for unpacked in done}

    def refused(self, *entries: Entry) -> str:
        with pytest.raises(HostError) as caught:
            self.unpack(Package("evil", entries=entries))
        assert self.outside.read_text() == "untouched"
        return caught.value.message

    def text(self, path: str) -> str:
        return (self.root / path).read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- strangers


@pytest.mark.parametrize("name", ["../outside", "usr/../../outside", "./../outside", "usr/.."])
def test_dots_that_lead_out(world: World, name: str) -> None:
    assert "'..'" in world.refused(Entry(name, b"x"))


def test_absolute_names_are_inside(world: World) -> None:
    world.unpack(Package("good", entries=[Entry("//usr//share/./x", b"x")]))
    assert world.text("usr/share/x") == "x"


@pytest.mark.parametrize("target", ["..", "/", "../..", "/proc/self/root", "../../../../.."])
def test_a_link_then_a_file_through_it(world: World, target: str) -> None:
    entries = [directory("usr"), link("usr/out", target), Entry("usr/out/outside", b"changed")]
    try:
        world.unpack(Package("evil", entries=entries))
    except HostError:
        pass
    assert world.outside.read_text() == "untouched"


def test_an_absolute_link_to_a_directory_of_the_host(world: World) -> None:
    entries = [link("out", str(world.place)), Entry("out/outside", b"changed")]
    world.unpack(Package("evil", entries=entries))
    assert world.outside.read_text() == "untouched"
    assert world.text(f"{str(world.place).lstrip('/')}/outside") == "changed"


def test_a_file_in_place_of_a_link(world: World) -> None:
    """Writing to the name of a link replaces the link; it is never written through."""
    world.unpack(Package("evil", entries=[link("x", "../outside"), Entry("x", b"changed")]))
    assert not (world.root / "x").is_symlink()
    assert world.outside.read_text() == "untouched"


def test_a_link_that_is_replaced_leads_nowhere_any_more(world: World) -> None:
    entries = [
        directory("one"),
        directory("two"),
        link("way", "one"),
        Entry("way/first", b"1"),
        link("way", "two"),
        Entry("way/second", b"2"),
    ]
    world.unpack(Package("good", entries=entries))
    assert world.text("one/first") == "1"
    assert world.text("two/second") == "2"


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "usr/nothing"])
def test_a_hard_link_to_what_is_not_in_the_package(world: World, target: str) -> None:
    message = world.refused(hard_link("x", target))
    assert "not in the package" in message or "'..'" in message


def test_a_hard_link_to_a_link(world: World) -> None:
    entries = [link("a", "../outside"), hard_link("b", "a"), Entry("b", b"changed")]
    assert "not a regular file" in world.refused(*entries)


def test_a_root_that_is_a_link(world: World) -> None:
    assert "root directory" in world.refused(link("./", ".."))
    assert "root directory" in world.refused(Entry(".", b"x"))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, b"9"])
def test_devices_and_unknown_types(world: World, kind: bytes) -> None:
    assert "refused" in world.refused(Entry("dev", type=kind))


def test_a_chain_of_links_ends(world: World) -> None:
    entries = [link(f"l{i}", f"l{i + 1}") for i in range(300)]
    assert "evil" in world.refused(*entries, link("l300", "l0"), Entry("l0/x", b"x"))


def test_a_header_of_a_gigabyte(world: World) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    data = gzip.compress(header.tobuf(tarfile.GNU_FORMAT))
    package = Package("evil")
    control = gzip.compress(tar([Entry("control", package.paragraph.encode())]))
    file = world.place / "evil.deb"
    file.write_bytes(
        ar(("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar.gz", data))
    )
    with pytest.raises(HostError, match="header record"):
        unpack([read_deb(str(file))], str(world.root), conffiles_aside=True)


def test_a_decompression_bomb(world: World) -> None:
    package = Package("evil")
    control = gzip.compress(tar([Entry("control", package.paragraph.encode())]))
    bomb = zstandard.ZstdCompressor(level=1).compress(tar([]) + bytes(200 << 20))
    file = world.place / "evil.deb"
    file.write_bytes(
        ar(("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar.zst", bomb))
    )
    deb = read_deb(str(file))
    with pytest.raises(Exception, match="grows more than"):
        for _ in deb.chunks():
            pass


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a Debian package"),
        (b"!<arch>\n", "not a Debian package"),
        (ar(("debian-binary", b"2.0\n")), "not a Debian package"),
        (ar(("control.tar", b""), ("data.tar", b"")), "not a Debian package"),
        (ar(("debian-binary", b""), ("control.tar.7z", b"")), "unknown compression"),
        (Package("xy").deb[:200], "cut off"),
        (Package("xy").deb.replace(b"`\n", b"``", 1), "bad ar header"),
        (
            ar(("debian-binary", b""), ("control.tar", tar([])), ("data.tar", b"")),
            "no control file",
        ),
        (
            ar(
                ("debian-binary", b""),
                ("control.tar", tar([Entry("../x", b"")])),
                ("data.tar", b""),
            ),
            "not a plain file",
        ),
        (
            ar(
                ("debian-binary", b""),
                ("control.tar", tar([Entry("control", b"Package: ../xy\nVersion: 1\n")])),
                ("data.tar", b""),
            ),
            "bad package name",
        ),
    ],
)
def test_what_is_no_package(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "x.deb"
    file.write_bytes(data)
    with pytest.raises(HostError, match=words):
        read_deb(str(file))


# --- honest ones


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_compressions(world: World, ending: str, compress: object) -> None:
    assert callable(compress)
    control = tar([Entry("./control", Package("xy").paragraph.encode())])
    data = tar([Entry("./big", b"12345678" * 400_000)])
    file = world.place / "xy.deb"
    file.write_bytes(
        ar(
            ("debian-binary", b"2.0\n"),
            (f"control.tar{ending}", compress(control)),
            (f"data.tar{ending}", compress(data)),
        )
    )
    unpack([read_deb(str(file))], str(world.root), conffiles_aside=True)
    assert (world.root / "big").stat().st_size == 3_200_000


def test_usr_is_merged(world: World) -> None:
    entries = [directory("bin"), Entry("bin/x", b"x"), directory("lib64"), Entry("lib64/l", b"l")]
    done = world.unpack(Package("xy", entries=entries))
    assert {n: os.readlink(world.root / n) for n in ("bin", "sbin", "lib", "lib64")} == {
        "bin": "usr/bin",
        "sbin": "usr/sbin",
        "lib": "usr/lib",
        "lib64": "usr/lib64",
    }
    assert world.text("usr/bin/x") == "x"
    assert world.text("usr/lib64/l") == "l"
    assert not (world.root / "lib32").exists()
    # dpkg's lists have the names that the package used
    assert list(done["xy"].paths) == ["/.", "/bin", "/bin/x", "/lib64", "/lib64/l"]


def test_modes_and_special_bits(world: World) -> None:
    entries = [
        directory("tmp", 0o1777),
        Entry("tmp/su", b"x", mode=0o4755),
        hard_link("tmp/su2", "./tmp/su"),
        Entry("tmp/pipe", type=tarfile.FIFOTYPE, mode=0o620),
    ]
    world.unpack(Package("xy", entries=entries))
    modes = {
        n: stat.S_IMODE((world.root / n).stat().st_mode) for n in ("tmp", "tmp/su", "tmp/pipe")
    }
    assert modes == {"tmp": 0o1777, "tmp/su": 0o4755, "tmp/pipe": 0o620}
    assert (world.root / "tmp/su2").stat().st_ino == (world.root / "tmp/su").stat().st_ino


def test_the_first_package_decides_about_a_directory(world: World) -> None:
    one = Package("aa", entries=[directory("d", 0o750), Entry("d/a", b"")])
    two = Package("bb", entries=[directory("d", 0o700), Entry("d/b", b"")])
    world.unpack(one, two)
    assert stat.S_IMODE((world.root / "d").stat().st_mode) == 0o750


def test_a_link_leaves_a_directory_alone(world: World) -> None:
    one = Package("aa", entries=[directory("d"), Entry("d/a", b"a")])
    world.unpack(one, Package("bb", entries=[link("d", "elsewhere")]))
    assert world.text("d/a") == "a"


def test_two_owners_of_one_file(world: World) -> None:
    one = Package("aa", entries=[Entry("f", b"1")])
    two = Package("bb", entries=[Entry("f", b"2")])
    with pytest.raises(HostError, match="/f is in package aa as well"):
        world.unpack(one, two)


def test_replaces_takes_a_file_over(world: World) -> None:
    one = Package("aa", entries=[Entry("f", b"1"), Entry("g", b"1")])
    two = Package("bb", fields={"Replaces": "aa (<< 2)"}, entries=[Entry("f", b"2")])
    done = world.unpack(one, two)
    assert world.text("f") == "2"
    assert list(done["aa"].paths) == ["/.", "/g"]


def test_replaces_works_in_any_order(world: World) -> None:
    one = Package("aa", fields={"Replaces": "bb"}, entries=[Entry("f", b"1")])
    world.unpack(one, Package("bb", entries=[Entry("f", b"2")]))
    assert world.text("f") == "1"


def test_conffiles_wait_for_dpkg(world: World) -> None:
    package = Package(
        "xy",
        control={"conffiles": "/etc/x.conf\nremove-on-upgrade /etc/old\n"},
        entries=[directory("etc"), Entry("etc/x.conf", b"x"), hard_link("etc/y", "etc/x.conf")],
    )
    done = world.unpack(package)
    assert sorted(os.listdir(world.root / "etc")) == ["x.conf.dpkg-new", "y"]
    assert "/etc/x.conf" in done["xy"].paths
    assert status_entry(done["xy"].deb).startswith(
        "Package: xy\nStatus: install ok unpacked\nConffiles:\n /etc/x.conf newconffile\nVersion: "
    )


def test_conffiles_without_dpkg(world: World) -> None:
    package = Package("xy", control={"conffiles": "/x.conf\n"}, entries=[Entry("x.conf", b"x")])
    world.unpack(package, aside=False)
    assert world.text("x.conf") == "x"


def test_the_database(world: World) -> None:
    one = Package(
        "libxy1",
        fields={"Multi-Arch": "same"},
        architecture="amd64",
        control={
            "postinst": "#!/bin/sh\n",
            "triggers": "# why\ninterest-noawait /usr/lib/xy\nactivate ldconfig\ninterest xy\n",
            "with.dot": "",
            "list": "/etc/passwd",
        },
        entries=[directory("usr"), Entry("usr/x", b"x")],
    )
    two = Package("aa", control={"md5sums": "abc  usr/y\n"}, entries=[Entry("usr/y", b"y")])
    done = world.unpack(one, two)
    with Root.at(str(world.root)) as root:
        write_database(root, list(done.values()))
    info = sorted(os.listdir(world.root / "var/lib/dpkg/info"))
    assert info == [
        "aa.list",
        "aa.md5sums",
        "format",
        "libxy1:amd64.list",
        "libxy1:amd64.md5sums",
        "libxy1:amd64.postinst",
        "libxy1:amd64.triggers",
    ]
    assert world.text("var/lib/dpkg/info/libxy1:amd64.list") == "/.\n/usr\n/usr/x\n"
    assert world.text("var/lib/dpkg/info/libxy1:amd64.md5sums") == (
        "9dd4e461268c8034f5c8564e155c67a6  usr/x\n"
    )
    assert world.text("var/lib/dpkg/info/aa.md5sums") == "abc  usr/y\n"
    assert world.text("var/lib/dpkg/triggers/File") == "/usr/lib/xy libxy1:amd64/noawait\n"
    assert world.text("var/lib/dpkg/triggers/xy") == "libxy1:amd64\n"
    assert os.access(world.root / "var/lib/dpkg/info/libxy1:amd64.postinst", os.X_OK)


def test_a_trigger_is_no_path(world: World) -> None:
    done = world.unpack(Package("evil", control={"triggers": "interest ../../../outside\n"}))
    with Root.at(str(world.root)) as root, pytest.raises(HostError, match="bad trigger name"):
        write_database(root, list(done.values()))
    assert world.outside.read_text() == "untouched"
