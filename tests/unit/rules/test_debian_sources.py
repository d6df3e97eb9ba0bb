from __future__ import annotations

from pathlib import Path

import pytest

from buildgraph.errors import HostError, InputError, Location
from buildgraph_rules.debian.sources import (
    ArchiveSource,
    KeyringFile,
    KeyringText,
    is_snapshot,
    machine_sources,
    normal_uri,
    parse_deb822,
    parse_line,
    snapshot_uri,
    without_login,
)

HERE = Location("sources.list", 1)
URI = "http://mirror.example/debian/"


def one(line: str) -> ArchiveSource:
    (source,) = parse_line(line, HERE, "amd64")
    return source


def test_one_line() -> None:
    source = one("deb http://mirror.example/debian bookworm main contrib  # mine")
    assert source == ArchiveSource(URI, "bookworm", ("main", "contrib"))
    assert source.directory == URI + "dists/bookworm/"


def test_options() -> None:
    line = (
        "deb [ signed-by=/a.gpg,/b.asc trusted=yes arch=amd64,i386 check-valid-until=no ] "
        "http://mirror.example/debian bookworm main"
    )
    source = one(line)
    assert source.keyrings == (KeyringFile("/a.gpg"), KeyringFile("/b.asc"))
    assert source.trusted
    assert not source.check_valid_until
    assert source.line == (
        "deb [trusted=yes check-valid-until=no] http://mirror.example/debian/ bookworm main"
    )


def test_signers_by_fingerprint() -> None:
    fingerprint = "4D64FEC119C2029067D6E791F8D2585B8783D481"
    assert one(f"deb [signed-by={fingerprint}] {URI} sid main").signers == (fingerprint,)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# deb http://mirror.example/debian bookworm main",
        "deb-src http://mirror.example/debian bookworm main",
        "deb [arch=arm64] http://mirror.example/debian bookworm main",
        "deb cdrom:[Debian]/ bookworm main",
    ],
)
def test_lines_that_are_not_for_us(line: str) -> None:
    assert list(parse_line(line, HERE, "amd64")) == []


@pytest.mark.parametrize("line", ["debian http://x y z", "deb http://x", "deb [x] http://x y z"])
def test_lines_that_apt_refuses(line: str) -> None:
    with pytest.raises(InputError) as caught:
        list(parse_line(line, HERE, "amd64"))
    assert caught.value.where == HERE


def test_a_suite_needs_components_unless_it_is_a_directory() -> None:
    assert one("deb http://mirror.example/x ./").directory == "http://mirror.example/x/./"
    assert one("deb http://mirror.example/x /").directory == "http://mirror.example/x/"
    with pytest.raises(InputError, match="without components"):
        one("deb http://mirror.example/x bookworm")


DEB822 = """\
# A comment before anything
Types: deb deb-src
URIs: http://mirror.example/debian
# a comment inside a paragraph does not end it
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://mirror.example/off
Suites: bookworm
Components: main

Types: deb
URIs: https://vendor.example/$(ARCH)
Suites: /
Architectures: amd64
Signed-By: /usr/share/keyrings/vendor.gpg
"""


def test_deb822() -> None:
    one, two, vendor = parse_deb822(DEB822, "x.sources", "amd64")
    assert (one.uri, one.suite, one.components) == (URI, "bookworm", ("main", "contrib"))
    assert two.suite == "bookworm-updates"
    (key,) = one.keyrings
    assert isinstance(key, KeyringText)
    assert key.text.splitlines()[:3] == ["-----BEGIN PGP PUBLIC KEY BLOCK-----", "", "mDMEY865"]
    assert vendor.uri == "https://vendor.example/amd64/"
    assert vendor.flat
    assert [s.suite for s in parse_deb822(DEB822, "x", "arm64")] == ["bookworm", "bookworm-updates"]


def test_a_bad_paragraph_is_told_by_its_line() -> None:
    with pytest.raises(InputError) as caught:
        list(parse_deb822(DEB822 + "\nTypes: deb\nSuites: x\n", "x.sources", "amd64"))
    assert str(caught.value) == "x.sources:26: apt source without URIS"


def write(etc: Path, name: str, text: str) -> None:
    file = etc / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_machines_sources_are_those_of_its_release(tmp_path: Path) -> None:
    write(tmp_path, "os-release", 'ID=debian\nVERSION_CODENAME="bookworm"\n')
    write(tmp_path, "apt/sources.list", f"deb {URI} bookworm main\n")
    write(tmp_path, "apt/sources.list.d/a.list", f"deb {URI} bookworm contrib main\n")
    write(
        tmp_path,
        "apt/sources.list.d/b.sources",
        f"Types: deb\nURIs: {URI}\nSuites: bookworm-security bookworm-backports nodistro\n"
        "Components: main\n",
    )
    write(tmp_path, "apt/sources.list.d/c.list.save", "nonsense")
    write(tmp_path, "apt/trusted.gpg.d/k.asc", "key")
    found = machine_sources("amd64", tmp_path)
    assert [(s.suite, s.components) for s in found] == [
        ("bookworm", ("main", "contrib")),
        ("bookworm-security", ("main",)),
    ]
    assert KeyringFile(str(tmp_path / "apt/trusted.gpg.d/k.asc")) in found[0].keyrings


def test_a_machine_without_sources_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        machine_sources("amd64", tmp_path)
    assert "mirror:" in (caught.value.hint or "")


def test_snapshots() -> None:
    assert is_snapshot("20260131T235959Z")
    assert not is_snapshot("2026-01-31")
    time = "20260131T000000Z"
    assert snapshot_uri("http://m.example/debian/", time) == f"http://m.example/debian/{time}/"
    assert snapshot_uri("http://m.example/@SNAPSHOTID@/", time) == f"http://m.example/{time}/"


def test_logins_are_not_shown() -> None:
    assert without_login("https://me:secret@mirror.example:8443/x") == (
        "https://mirror.example:8443/x"
    )
    assert "secret" not in one("deb https://me:secret@mirror.example/x y z").line


@pytest.mark.parametrize("uri", ["ftp://mirror.example/", "mirror.example/debian", "http:///x"])
def test_schemes(uri: str) -> None:
    with pytest.raises(InputError, match="archive"):
        normal_uri(uri, HERE)
