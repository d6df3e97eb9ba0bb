"""Knows what COPY does with links that lead out, special files, attributes, times and many files;
must not know how.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from e2e.building import BOTH, CAPABILITY, Bench, Link, as_root
from e2e.images import read_archive


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../../../../etc/passwd", "/proc/self/root/etc/passwd"]
)
def test_a_link_of_the_context_leads_nowhere_outside_it(root_bench: Bench, target: str) -> None:
    said = root_bench.fail("FROM scratch\nCOPY l /\n", {"l": Link(target)})
    assert "not found in the context" in said.stderr
    built = root_bench.build("FROM scratch\nCOPY d /\n", {"d/l": Link(target)})
    assert built.image.tree["l"].link == target


def test_a_dockerfile_that_leads_outside_is_not_read(root_bench: Bench) -> None:
    directory = root_bench.directory({"Dockerfile": Link("/etc/passwd")})
    said = root_bench.run("build", directory, expect=2)
    assert "root:" not in said.stdout + said.stderr


@as_root
def test_special_files_are_kept_as_such_and_never_read(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM scratch\nCOPY d /\n")
    where = root_bench.workspace.path(directory) / "d"
    where.mkdir()
    os.mkfifo(where / "fifo", 0o640)
    os.mknod(where / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    built = root_bench.build_in(directory)
    assert built.image.tree["fifo"].line("fifo") == "p 640 0:0 fifo"
    assert built.image.tree["zero"].line("zero") == "c 600 0:0 zero"


@as_root
def test_extended_attributes_are_copied(root_bench: Bench) -> None:
    directory = root_bench.directory({"d/f": "x"}, "FROM scratch\nCOPY d /1\nCOPY d/f /2\n")
    path = root_bench.workspace.path(directory) / "d/f"
    os.setxattr(path, "user.colour", b"blue")
    os.setxattr(path, "security.capability", CAPABILITY)
    first = root_bench.build_in(directory)
    again = root_bench.build_in(directory, "--no-cache")
    assert first.digest == again.digest
    for name in ("1/f", "2"):
        xattrs = dict(first.image.tree[name].xattrs)
        assert xattrs["user.colour"] == "blue"
        assert xattrs["security.capability"].encode("utf-8", "surrogateescape") == CAPABILITY


def test_times_are_the_epoch(root_bench: Bench) -> None:
    old = 100_000_000
    directory = root_bench.directory({"d/old": "x", "d/new": "y"}, "FROM scratch\nCOPY d /\n")
    os.utime(root_bench.workspace.path(directory) / "d/old", (old, old))
    tree = root_bench.build_in(directory).image.tree
    assert (tree["old"].mtime, tree["new"].mtime) == (315532800, 315532800)
    assert (
        root_bench.build_in(directory, env={"SOURCE_DATE_EPOCH": "1000000000"})
        .image.tree["new"]
        .mtime
        == 1_000_000_000
    )


@BOTH
def test_times_are_kept_on_request(who: Bench) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("new/inside")
        member.mtime = 1_700_000_000
        tar.addfile(member)
    directory = who.directory(
        {
            "d/old": "x",
            "a.tar": archive.getvalue(),
            "Boxfile.yaml": "workspace: {name: w}\ntargets: {image: {timestamps: preserve}}\n",
        },
        "FROM scratch\nCOPY d /made/\nADD a.tar /\nWORKDIR /w\n",
    )
    os.utime(who.workspace.path(directory) / "d/old", (1_600_000_000, 1_600_000_000))
    words = [":image", "-o", f"type=oci,dest={who.workspace.path(directory)}.tar"]
    who.run("build", *words, cwd=directory)
    tree = read_archive(Path(f"{who.workspace.path(directory)}.tar")).tree
    times = {path: file.mtime for path, file in tree.items()}
    assert times["made/old"] == 1_600_000_000
    assert times["new/inside"] == 1_700_000_000
    assert times["made"] == times["new"] == times["w"] == 315532800


@BOTH
def test_a_context_of_many_files(who: Bench) -> None:
    names = [f"d{i % 7}/e{i % 13}/f{i:04}" for i in range(1500)]
    built = who.build(
        "FROM base\nCOPY . /x\nRUN find /x -type f | wc -l >/n\n", dict.fromkeys(names, "z")
    )
    assert built.content("n").strip() == str(len(names) + 1)  # and the Dockerfile
    assert {f"x/{name}" for name in names} < built.image.tree.keys()


def test_the_build_reads_nothing_into_the_place_of_the_context(root_bench: Bench) -> None:
    directory = root_bench.directory(
        {"a": "a"}, "FROM base\nCOPY . /x\nRUN rm -rf /x /etc/passwd\n"
    )
    before = {p: p.stat().st_mtime_ns for p in _all(root_bench.workspace.path(directory))}
    built = root_bench.build_in(directory)
    assert "- etc/passwd\n" in built.made
    assert {p: p.stat().st_mtime_ns for p in _all(root_bench.workspace.path(directory))} == before


def _all(top: Path) -> list[Path]:
    return [top, *top.rglob("*")]
