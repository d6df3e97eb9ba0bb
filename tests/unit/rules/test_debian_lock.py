from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.errors import InputError
from buildgraph_cache.digest import Digest, sha256_digest
from buildgraph_rules.debian.lock import read_images, read_lock, write_lock
from buildgraph_rules.debian.pins import Pin, Resolution, apt_sources, packages_op
from buildgraph_rules.debian.sources import ArchiveSource

DIGEST = sha256_digest(b"x")
MAIN = ArchiveSource("http://mirror.example/debian/", "trixie", ("main", "contrib"))
EMPTY = ArchiveSource("http://mirror.example/debian/", "trixie-updates", ("main",))
OLD = ArchiveSource(
    "https://old.example/20260131T000000Z/", "trixie", ("main",), check_valid_until=False
)


def pin(name: str, archive: int = 0, version: str = "1:1.0-1") -> Pin:
    return Pin(name, version, "amd64", f"pool/{name}.deb", 12, DIGEST, archive)


def resolution(label: str = "//base:image", *pins: Pin) -> Resolution:
    return Resolution(label, "amd64", DIGEST, (MAIN, EMPTY, OLD), pins)


TEXT = f"""\
# Written by `buildgraph lock`: run it again to bring this up to date.
version 1

target //base:image amd64
  request {DIGEST}
  archive deb http://mirror.example/debian/ trixie main contrib
    apt 1:1.0-1 amd64 pool/apt.deb 12 {DIGEST}
    zlib1g 1:1.0-1 amd64 pool/zlib1g.deb 12 {DIGEST}
  archive deb http://mirror.example/debian/ trixie-updates main
  archive deb [check-valid-until=no] https://old.example/20260131T000000Z/ trixie main
    bash 1:1.0-1 amd64 pool/bash.deb 12 {DIGEST}
"""
ONE = resolution("//base:image", pin("apt"), pin("bash", 2), pin("zlib1g"))


def test_the_form() -> None:
    assert write_lock([ONE]) == TEXT


def test_it_is_read_as_it_was_written() -> None:
    found = read_lock(TEXT, "Boxfile.lock")
    assert found == {("//base:image", "amd64"): ONE}
    assert found["//base:image", "amd64"].locked


def test_the_order_of_targets_does_not_matter() -> None:
    two = resolution("//a:b", pin("bash"))
    assert write_lock([ONE, two]) == write_lock([two, ONE])


_NAMES = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,12}", fullmatch=True)


@given(st.lists(_NAMES, unique=True), st.integers(0, 2))
def test_round_trip(names: list[str], archive: int) -> None:
    wanted = resolution("//x:y", *(pin(name, archive) for name in sorted(names)))
    assert read_lock(write_lock([wanted]), "lock") == {("//x:y", "amd64"): wanted}


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("version 1\n", "version 2\n", 2, "not a lock file of this version"),
        ("target //base:image amd64", "target base amd64", 4, "expected `target"),
        ("target //base:image amd64", "tarket //base:image amd64", 4, "expected `target"),
        (f"request {DIGEST}", "request sha256:12", 5, "expected `request"),
        ("archive deb http", "archive dep http", 6, "not an apt source"),
        ("    apt 1:1.0-1", "    apt", 7, "expected `NAME"),
        ("    apt 1:1.0-1", "    ../apt 1:1.0-1", 7, "damaged line"),
        ("pool/apt.deb", "pool/../apt.deb", 7, "damaged line"),
        ("pool/apt.deb", "/pool/apt.deb", 7, "damaged line"),
        (f"apt.deb 12 {DIGEST}", f"apt.deb -1 {DIGEST}", 7, "damaged line"),
        (f"apt.deb 12 {DIGEST}", "apt.deb 12 sha256:34", 7, "not a sha256 digest"),
        ("    zlib1g 1", "    apt 1", 8, "is here twice"),
    ],
)
def test_damage_is_told_by_its_place(old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_lock(TEXT.replace(old, new, 1), "Boxfile.lock")
    where = caught.value.where
    assert words in caught.value.message
    assert where is not None
    assert (where.path, where.line) == ("Boxfile.lock", line)


def test_a_target_twice() -> None:
    body = TEXT[TEXT.index("target") :]
    with pytest.raises(InputError, match="twice"):
        read_lock(TEXT + body, "Boxfile.lock")


def test_addresses_are_quoted() -> None:
    odd = Pin("g++", "1", "all", "pool/g++_1~2#3.deb", 1, DIGEST, 0)
    assert resolution("//x:y", odd).uri(odd) == "http://mirror.example/debian/pool/g++_1~2%233.deb"


def test_apt_in_the_image_goes_on_with_the_same_archives() -> None:
    wanted = resolution("//x:y", pin("apt"), pin("debian-archive-keyring"))
    signed = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
    assert apt_sources(wanted).splitlines() == [
        f"deb [{signed}] http://mirror.example/debian/ trixie main contrib",
        f"deb [{signed}] http://mirror.example/debian/ trixie-updates main",
        f"deb [{signed} check-valid-until=no] https://old.example/20260131T000000Z/ trixie main",
    ]
    assert ("etc/apt/sources.list", apt_sources(wanted)) in packages_op(
        wanted, configure=True
    ).files
    assert packages_op(wanted, configure=False).files == ()
    assert packages_op(resolution("//x:y", pin("bash")), configure=True).files == ()


IMAGES = {
    "docker.io/library/debian:12": Digest("sha256:" + "a" * 64),
    "127.0.0.1:5000/x/y:1": Digest("sha256:" + "b" * 64),
}


def test_images_stand_on_a_line_each() -> None:
    text = write_lock([ONE], IMAGES)
    lines = [line for line in text.splitlines() if line.startswith("image ")]
    assert lines == [
        f"image 127.0.0.1:5000/x/y:1@sha256:{'b' * 64}",
        f"image docker.io/library/debian:12@sha256:{'a' * 64}",
    ]
    assert read_images(text, "lock") == IMAGES
    assert read_lock(text, "lock") == read_lock(write_lock([ONE]), "lock")
    assert write_lock([ONE], {}) == write_lock([ONE]) == TEXT


@pytest.mark.parametrize(
    "line",
    [
        "image",
        "image debian:12@sha256:" + "a" * 64,
        "image docker.io/library/debian@sha256:" + "a" * 64,
        "image docker.io/library/debian:12",
        "image docker.io/library/debian:12@sha256:zz",
        "image docker.io/library/debian:12@sha256:" + "a" * 64 + " more",
        ("image docker.io/library/debian:12@sha256:" + "a" * 64 + "\n") * 2,
    ],
)
def test_a_damaged_image_line_is_named(line: str) -> None:
    with pytest.raises(InputError) as failure:
        read_images(f"version 1\n{line}\n", "Boxfile.lock")
    assert failure.value.where is not None
    assert failure.value.where.path == "Boxfile.lock"
