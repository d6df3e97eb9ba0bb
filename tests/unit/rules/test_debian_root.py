"""What is run in which order, what is put in place meanwhile, and what is cleaned away after."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from buildgraph.errors import HostError, InputError, Location
from buildgraph.rootpath import Root
from buildgraph_rules.debian.cleaning import clean
from buildgraph_rules.debian.configure import plan, set_up, tear_down
from buildgraph_rules.debian.deb import Deb, read_deb
from buildgraph_rules.debian.keystore import settle
from buildgraph_rules.debian.resolve import configure_order
from buildgraph_rules.debian.rootfs import build
from unit.rules.debian_world import Entry, Package, directory

HERE = Location("Boxfile.yaml", 2, 3)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of packages belong to root")

PREINST = {"preinst": "#!/bin/sh\n"}
SYSTEM = (
    Package("base-passwd", fields={"Essential": "yes"}),
    Package("dpkg", "1.2", fields={"Essential": "yes", "Pre-Depends": "libcc"}, control=PREINST),
    Package("libcc", fields={"Multi-Arch": "same"}, architecture="amd64", control=PREINST),
)


def debs(place: Path, *packages: Package) -> dict[str, Deb]:
    found = {}
    for package in packages:
        file = place / package.file_name
        file.write_bytes(package.deb)
        found[package.name] = read_deb(str(file))
    return found


def commands(found: Mapping[str, Deb]) -> list[str]:
    order = configure_order({name: deb.package for name, deb in found.items()})
    return [
        " ".join(c.argv).replace("/usr/bin/dpkg --force-unsafe-io", "dpkg")
        for c in plan(found, order, 0).commands
    ]


def test_the_bootstrap_set_runs_its_preinst_late(tmp_path: Path) -> None:
    assert commands(debs(tmp_path, *SYSTEM)) == [
        "/var/lib/dpkg/info/libcc:amd64.preinst install",
        "/var/lib/dpkg/info/dpkg.preinst install",
        "dpkg --force-depends --configure base-passwd",
        "dpkg --configure libcc:amd64 dpkg",
        "dpkg --configure --pending",
    ]


def test_others_with_a_preinst_are_left_to_dpkg(tmp_path: Path) -> None:
    found = debs(
        tmp_path,
        *SYSTEM,
        Package("aa", fields={"Depends": "bb"}, control=PREINST),
        Package("bb"),
        Package("cc", fields={"Pre-Depends": "bb"}, control=PREINST),
        Package("dd", fields={"Depends": "cc"}),
    )
    order = configure_order({name: deb.package for name, deb in found.items()})
    steps = plan(found, order, 0)
    assert steps.staged == ("aa", "cc")
    assert "aa" not in steps.unpacked
    assert commands(found)[4:] == [
        "dpkg --no-triggers --unpack /var/cache/buildgraph/aa.deb",
        "dpkg --no-triggers --configure bb",
        "dpkg --no-triggers --unpack /var/cache/buildgraph/cc.deb",
        "dpkg --configure --pending",
    ]


def test_scripts_see_nothing_of_the_host(tmp_path: Path) -> None:
    found = debs(tmp_path, *SYSTEM)
    order = configure_order({name: deb.package for name, deb in found.items()})
    steps = plan(found, order, 315532800)
    script = dict(steps.commands[0].env)
    assert script["DPKG_MAINTSCRIPT_PACKAGE"] == "libcc"
    assert script["DPKG_RUNNING_VERSION"] == "1.2"
    for command in steps.commands:
        env = dict(command.env)
        assert env["SOURCE_DATE_EPOCH"] == "315532800"
        assert env["DEBIAN_FRONTEND"] == "noninteractive"
        assert set(env) & {"USER", "LANG", "LD_PRELOAD", "SSH_AUTH_SOCK"} == set()


def test_stand_ins_come_and_go(tmp_path: Path) -> None:
    top = tmp_path / "root"
    (top / "usr/sbin").mkdir(parents=True)
    (top / "usr/sbin/start-stop-daemon").write_text("real")
    found = debs(tmp_path, Package("aa"))
    with Root.at(str(top)) as root:
        set_up(root, list(found.values()))
        assert (top / "usr/sbin/policy-rc.d").read_text().endswith("exit 101\n")
        assert (top / "usr/sbin/start-stop-daemon").read_text().endswith("exit 0\n")
        staged = top / "var/cache/buildgraph/aa.deb"
        assert staged.read_bytes() == (tmp_path / "aa_1.0_all.deb").read_bytes()
        assert staged.stat().st_nlink == 1  # a link would let scripts write to the store
        tear_down(root)
    assert os.listdir(top / "usr/sbin") == ["start-stop-daemon"]
    assert (top / "usr/sbin/start-stop-daemon").read_text() == "real"
    assert os.readlink(top / "etc/mtab") == "../proc/self/mounts"


def test_a_policy_of_the_packages_own_stays(tmp_path: Path) -> None:
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/policy-rc.d").write_text("own")
    with Root.at(str(tmp_path)) as root:
        set_up(root, [])
        tear_down(root)
    assert (tmp_path / "usr/sbin/policy-rc.d").read_text() == "own"


def build_one(top: Path, found: Mapping[str, Deb], status: str | None) -> list[str]:
    """Build with a stand-in for the sandbox that only writes dpkg's status file."""
    ran: list[str] = []

    def run(argv: Sequence[str], env: Mapping[str, str], root: str) -> None:
        ran.append(" ".join(argv))
        if status is not None:
            Path(root, "var/lib/dpkg/status").write_text(status)

    top.mkdir(exist_ok=True)
    build(
        list(found.values()),
        str(top),
        run,
        configured=True,
        files=[("etc/apt/sources.list", "deb x\n")],
        epoch=0,
        where=HERE,
        note=lambda _: None,
    )
    return ran


def test_an_unfinished_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"dpkg \(install ok unpacked\)"):
        build_one(tmp_path / "root", debs(tmp_path, *SYSTEM), None)


def test_files_are_written_last(tmp_path: Path) -> None:
    status = "Package: dpkg\nStatus: install ok installed\n"
    assert len(build_one(tmp_path / "root", debs(tmp_path, *SYSTEM), status)) == 5
    assert (tmp_path / "root/etc/apt/sources.list").read_text() == "deb x\n"


def test_configuring_needs_dpkg(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        build_one(tmp_path / "root", debs(tmp_path, Package("aa")), None)
    assert caught.value.where == HERE
    assert "configure: false" in (caught.value.hint or "")


def test_files_alone_get_users_and_certificates(tmp_path: Path) -> None:
    def never(argv: Sequence[str], env: Mapping[str, str], root: str) -> None:
        raise AssertionError(argv)

    certificates = "usr/share/ca-certificates/mozilla"
    found = debs(
        tmp_path,
        Package(
            "base-passwd",
            entries=[Entry("usr/share/base-passwd/passwd.master", b"root:*:0:0::/root:/bin/sh\n")],
        ),
        Package(
            "ca-certificates",
            entries=[
                directory(certificates),
                Entry(f"{certificates}/b.crt", b"B"),
                Entry(f"{certificates}/a.crt", b"A\n"),
            ],
        ),
    )
    top = tmp_path / "root"
    top.mkdir()
    build(
        list(found.values()),
        str(top),
        never,
        configured=False,
        files=[],
        epoch=0,
        where=HERE,
        note=lambda _: None,
    )
    assert (top / "etc/passwd").read_text() == "root:*:0:0::/root:/bin/sh\n"
    assert (top / "etc/ssl/certs/ca-certificates.crt").read_text() == "A\nB\n"
    entry = (top / "var/lib/dpkg/status.d/base-passwd").read_text()
    assert entry.startswith("Package: base-passwd\nVersion: 1.0\n")


# --- cleaning


def test_what_is_cleaned_and_what_stays(tmp_path: Path) -> None:
    gone = [
        "etc/passwd-",
        "var/lib/dpkg/status-old",
        "var/lib/dpkg/lock",
        "var/log/dpkg.log",
        "var/log/apt/history.log",
        "var/cache/apt/archives/x.deb",
        "var/cache/ldconfig/aux-cache",
        "var/lib/apt/lists/mirror_Packages",
        "tmp/deep/below/x",
        "var/cache/buildgraph/aa.deb",
        "etc/ssh/ssh_host_rsa_key",
    ]
    kept = ["etc/passwd", "var/lib/dpkg/status", "var/lib/apt/lists/partial/.keep", "usr/tmp/x"]
    emptied = ["etc/machine-id", "var/log/wtmp"]
    for name in gone + kept + emptied:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    with Root.at(str(tmp_path)) as root:
        clean(root)
        clean(root)
    assert [name for name in gone if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert [(tmp_path / name).read_text() for name in emptied] == ["", ""]
    assert (tmp_path / "tmp").is_dir()


def test_cleaning_follows_no_link(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "x.log").write_text("x")
    (outside / "machine-id").write_text("x")
    (top / "var").mkdir(parents=True)
    (top / "etc").mkdir()
    (top / "var/log").symlink_to(outside)
    (top / "tmp").symlink_to(outside)
    (top / "etc/machine-id").symlink_to(outside / "machine-id")
    (top / "var/tmp").mkdir()
    (top / "var/tmp/way").symlink_to(outside)
    with Root.at(str(top)) as root:
        clean(root)
    assert sorted(os.listdir(outside)) == ["machine-id", "x.log"]
    assert (outside / "machine-id").read_text() == "x"
    assert os.listdir(top / "var/tmp") == []


# --- Java's keystore


def keystore(moment: int) -> bytes:
    body = b"\xfe\xed\xfe\xed\x00\x00\x00\x02" + struct.pack(">I", 2)
    for alias in (b"one", b"two"):
        body += struct.pack(">IH", 2, len(alias)) + alias + struct.pack(">Q", moment)
        body += struct.pack(">H", 5) + b"X.509" + struct.pack(">I", 4) + b"cert"
    salt = "changeit".encode("utf-16-be") + b"Mighty Aphrodite"
    return body + hashlib.sha1(salt + body).digest()


def test_a_keystore_is_dated() -> None:
    assert settle(keystore(1_700_000_000_000), 315532800) == keystore(315532800_000)


@pytest.mark.parametrize(
    "data", [b"", b"PK", keystore(1)[:-1], keystore(1)[:30], keystore(1)[:-1] + b"!"]
)
def test_what_is_no_keystore_stays(data: bytes) -> None:
    assert settle(data, 0) is None
