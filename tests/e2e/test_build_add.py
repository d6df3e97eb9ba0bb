"""Knows what ADD makes of archives and what it refuses; must not know how it reads
them.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile

import pytest
import zstandard

from e2e.building import BOTH, Bench
from e2e.images import listing, text


def tar(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], form: int = 2) -> bytes:
    """Return an archive of members; `form` as tarfile.PAX_FORMAT and its kin."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    """Return the header of one member."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_700_000_000
    for key, value in values.items():
        setattr(info, key, value)
    return info


ARCHIVE = tar(
    member("top", tarfile.DIRTYPE, mode=0o750, uid=3, gid=4),
    (member("top/f", uid=5, gid=6, uname="app", mode=0o4711), b"data"),
    member("top/l", tarfile.SYMTYPE, linkname="f"),
    member("top/h", tarfile.LNKTYPE, linkname="top/f", uid=5, gid=6, mode=0o4711),
    (member("implied/by/this"), b"x"),
)
UNPACKED = """
    d 755 0:0 d
    d 755 0:0 d/implied
    d 755 0:0 d/implied/by
    f 644 0:0 d/implied/by/this = 'x'
    d 750 3:4 d/top
    f 4711 5:6 d/top/f = 'data'
    f 4711 5:6 d/top/h = 'data' same as d/top/f
    l 0:0 d/top/l -> f
"""
FORMS = {
    "plain": ARCHIVE,
    "gzip": gzip.compress(ARCHIVE),
    "bzip2": bz2.compress(ARCHIVE),
    "xz": lzma.compress(ARCHIVE),
    "zstd": zstandard.compress(ARCHIVE),
}


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_an_archive_is_unpacked_whatever_its_name(who: Bench, form: str) -> None:
    built = who.build("FROM scratch\nADD picture.png /d\n", {"picture.png": FORMS[form]})
    assert listing(built.image.tree) == text(UNPACKED)


def test_what_is_no_archive_is_copied(root_bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "notes.tar": "no archive",
        "damaged.tar.gz": gzip.compress(ARCHIVE)[:-40][:60],
        "packed.gz": gzip.compress(b"x" * 5000),
    }
    built = root_bench.build("FROM scratch\nADD . /d/\nADD notes.tar packed.gz /e/\n", files)
    assert built.content("d/notes.tar") == "no archive"
    assert "e/packed.gz" in built.image.tree


def test_unpack_false_and_copy_leave_archives_alone(root_bench: Bench) -> None:
    built = root_bench.build(
        "FROM scratch\nADD --unpack=false a.tar /1\nCOPY a.tar /2\nADD . /3\n", {"a.tar": ARCHIVE}
    )
    tree = built.image.tree
    assert tree["1"].content == tree["2"].content == tree["3/a.tar"].content == ARCHIVE


def test_owners_come_from_the_archive_unless_chown(root_bench: Bench) -> None:
    built = root_bench.build("FROM base\nADD --chown=app a.tar /d\n", {"a.tar": ARCHIVE})
    owners = {(f.uid, f.gid) for path, f in built.image.tree.items() if path.startswith("d/top")}
    assert owners == {(1000, 1000)}


@BOTH
def test_an_archive_goes_over_what_is_there(who: Bench) -> None:
    archive = tar(
        (member("etc/passwd"), b"new"),
        (member("tmp/x"), b"x"),
        (member("l/inside"), b"through"),
        member("bin/sh", tarfile.SYMTYPE, linkname="/else"),
    )
    built = who.build(
        "FROM base\nRUN mkdir /real && ln -s real /l\nADD a.tar /\n", {"a.tar": archive}
    )
    assert built.made == text(
        """
        l 0:0 bin/sh -> /else
        f 644 0:0 etc/passwd = 'new'
        l 0:0 l -> real
        d 755 0:0 real
        f 644 0:0 real/inside = 'through'
        f 644 0:0 tmp/x = 'x'
        """
    )
    assert built.image.tree["tmp"].mode == 0o1777


def test_archives_and_files_beside_each_other(root_bench: Bench) -> None:
    built = root_bench.build(
        "FROM scratch\nADD a.tar f b.tgz /d\n",
        {
            "a.tar": tar((member("one"), b"1")),
            "b.tgz": gzip.compress(tar((member("two"), b"2"), (member("f"), b"later wins"))),
            "f": "f",
        },
    )
    assert {p: f.content for p, f in built.image.tree.items() if f.kind == "f"} == {
        "d/one": b"1",
        "d/two": b"2",
        "d/f": b"later wins",
    }


BAD = {
    "climbs": (tar((member("../../x"), b"x")), "leaves its root"),
    "a link, then through it": (
        tar(member("l", tarfile.SYMTYPE, linkname="../../.."), (member("l/pwned"), b"x")),
        None,  # resolved inside the image
    ),
    "a hard link outside": (
        tar(member("h", tarfile.LNKTYPE, linkname="/etc/shadow")),
        "",
    ),
    "a whiteout": (tar((member("d/.wh."), b"")), ""),
    "cut short": (ARCHIVE[:1500], ""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_archives_write_nothing_outside(root_bench: Bench, name: str) -> None:
    archive, message = BAD[name]
    before = set(os.listdir("/"))
    files = {"a.tar": archive}
    if message is None:
        built = root_bench.build("FROM scratch\nADD a.tar /\n", files)
        assert built.has("pwned")
    else:
        assert message in root_bench.fail("FROM scratch\nADD a.tar /\n", files).stderr
    assert set(os.listdir("/")) == before


def test_the_same_archive_on_another_base_is_another_layer(root_bench: Bench) -> None:
    files = {"a.tar": tar((member("l/f"), b"x"))}
    first = root_bench.build("FROM base\nRUN mkdir r s && ln -s r l\nADD a.tar /\n", files)
    second = root_bench.build("FROM base\nRUN mkdir r s && ln -s s l\nADD a.tar /\n", files)
    assert (first.has("r/f"), first.has("s/f")) == (True, False)
    assert (second.has("r/f"), second.has("s/f")) == (False, True)


def test_times_of_members_are_the_epoch(root_bench: Bench) -> None:
    built = root_bench.build("FROM scratch\nADD a.tar /\n", {"a.tar": ARCHIVE})
    assert {f.mtime for f in built.image.tree.values()} == {315532800}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ADD https://example.com/ /", "does not end in a file name"),
        ("ADD https://example.com/a%2fb /", "no plain file name"),
        ("ADD file:///etc/passwd /", "not found in the context"),
        ("COPY https://example.com/x /", "ADD can read URLs"),
        ("ADD --checksum=sha256:00 f /", "checksum"),
        ("ADD --from=x f /", "--from"),
        ("ADD --keep-git-dir=perhaps f /", "keep-git-dir"),
    ],
)
def test_what_add_refuses(root_bench: Bench, line: str, message: str) -> None:
    said = root_bench.fail(f"FROM scratch\n{line}\n", {"f": "f"})
    assert message in said.stderr
    assert "Dockerfile:2:" in said.stderr
