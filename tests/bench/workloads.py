"""Knows what the suite builds, how big it is, and what the design allows for it; must not know
any tool.

Everything is made from fixed seeds, so two runs of the suite build the same bytes. Every image
stands on one static busybox, so that any builder can build it without a registry.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

BUSYBOX = Path("/bin/busybox")
PEER_NAMES = frozenset({"docker", "buildah", "podman", "buildkit", "runc"})  # who builds
_APPLETS = ("cat", "cp", "echo", "find", "ls", "mkdir", "sh", "true", "wc")
_MIB = 1 << 20

Phase = Literal["cold", "plan", "again", "changed", "one", "start"]


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to build: a directory with a Dockerfile, or several that stand on one base.

    `archive`: the result is wanted as an archive file. `edit` is the file that "one file changed"
    changes. `packages` are directories below `directory`, each an image `FROM base`; `one` is the
    package that is asked for alone.
    """

    directory: Path
    archive: bool = False
    packages: tuple[str, ...] = ()
    edit: Path | None = None
    one: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `budget` in seconds, from the design."""

    phase: Phase
    title: str
    budget: float | None = None
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Scale:
    """How big the workloads are."""

    runs: int
    stages: int
    files: int
    file_bytes: int
    large_bytes: int
    worked: int
    images: int
    image_files: int
    nodes: tuple[int, ...]
    many_images: int
    targets: int
    target_files: int
    asked: int
    records: int


FULL = Scale(
    runs=40,
    stages=32,
    files=40_000,
    file_bytes=5_400,
    large_bytes=1_100_000_000,
    worked=10_000,
    images=200,
    image_files=50,
    nodes=(1_000, 10_000, 100_000),
    many_images=1_000,
    targets=1_000,
    target_files=100,
    asked=1_000,
    records=1_000_000,
)
QUICK = Scale(
    runs=4,
    stages=3,
    files=400,
    file_bytes=5_400,
    large_bytes=8_000_000,
    worked=200,
    images=4,
    image_files=5,
    nodes=(300,),
    many_images=6,
    targets=6,
    target_files=5,
    asked=60,
    records=2_000,
)


@dataclass(frozen=True, slots=True)
class Workload:
    """A job and what is measured of it. `without` names tools that would take minutes."""

    name: str
    rows: tuple[Row, ...]
    make: Callable[[Path, Scale], Job]
    rounds: int = 3
    without: frozenset[str] = frozenset()
    files: bool = False  # cp -r of src/ is the least it can cost


# -- making files ------------------------------------------------------------------------------


def _text(seed: int, size: int) -> bytes:
    """Return text that compresses about as source code does."""
    pick = random.Random(seed)
    words = [pick.randbytes(pick.randrange(1, 6)).hex() for _ in range(2000)]
    lines = [
        " " * pick.choice((0, 4, 8)) + " ".join(pick.choices(words, k=pick.randrange(2, 9))) + "\n"
        for _ in range(size // 40)
    ]
    text = "".join(lines).encode()
    return text * (size // len(text) + 1)


def _tree(top: Path, count: int, mean: int, seed: int) -> None:
    """Make `count` files of `mean` bytes on average, a hundred a directory, none like another."""
    pick = random.Random(seed)
    text = _text(seed, _MIB)
    for number in range(count):
        where = top / f"d{number // 100:04}"
        if number % 100 == 0:
            where.mkdir(parents=True)
        size = pick.randrange(mean // 10, 2 * mean - mean // 10)
        start = pick.randrange(_MIB - 2 * mean)
        with open(where / f"f{number:05}.txt", "wb") as out:
            out.write(b"file %d\n" % number)
            out.write(text[start : start + size])


def _base(top: Path) -> None:
    """Make bin/ with a static busybox and links to it."""
    (top / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, top / "bin" / "busybox")
    (top / "bin" / "busybox").chmod(0o755)
    for name in _APPLETS:
        (top / "bin" / name).symlink_to("busybox")


def _dockerfile(top: Path, *lines: str) -> None:
    (top / "Dockerfile").write_text("\n".join(lines) + "\n")


# -- the workloads -----------------------------------------------------------------------------


def _steps(top: Path, scale: Scale) -> Job:
    _base(top)
    runs = (f"RUN : {number}" for number in range(scale.runs))
    _dockerfile(top, "FROM scratch", "COPY bin /bin", *runs)
    return Job(top)


def _stages(top: Path, scale: Scale) -> Job:
    _base(top)
    lines = ["FROM scratch AS base", "COPY bin /bin"]
    for number in range(scale.stages):
        lines += [f"FROM base AS s{number}", f"RUN echo {number} > /out{number}"]
    lines += ["FROM base", *(f"COPY --from=s{n} /out{n} /" for n in range(scale.stages))]
    _dockerfile(top, *lines)
    return Job(top)


def _many(top: Path, scale: Scale) -> Job:
    _tree(top / "src", scale.files, scale.file_bytes, 1)
    _dockerfile(top, "FROM scratch", "COPY src /src")
    return Job(top, archive=True, edit=top / "src" / "d0001" / "f00123.txt")


def _large(top: Path, scale: Scale) -> Job:
    (top / "src").mkdir(parents=True)
    pick = random.Random(2)
    text = _text(2, _MIB)[:_MIB]
    count = 22
    for number in range(count):
        left = scale.large_bytes // count
        with open(top / "src" / f"blob{number:02}", "wb") as out:
            out.write(b"blob %d\n" % number)
            while left > 0:
                piece = pick.randbytes(_MIB) if number % 2 else text
                left -= out.write(piece[:left])
    _dockerfile(top, "FROM scratch", "COPY src /src")
    return Job(top, archive=True)


def _worked(top: Path, scale: Scale) -> Job:
    _base(top)
    _tree(top / "src", scale.worked, 2_000, 3)
    _dockerfile(
        top,
        "FROM scratch AS build",
        "COPY bin /bin",
        "COPY src /src",
        "RUN cp -r /src /out && echo done > /out/done",
        "FROM scratch",
        "COPY --from=build /out /app",
    )
    return Job(top)


def _images(top: Path, scale: Scale) -> Job:
    _base(top / "base")
    _dockerfile(top / "base", "FROM scratch", "COPY bin /bin")
    (top / "Boxfile.yaml").write_text("workspace: {name: bench}\n")
    names = tuple(f"p{number:04}" for number in range(scale.images))
    text = _text(4, 65536)
    for position, name in enumerate(names):
        part = text[position : position + 1500]
        _package(top / name, name, scale.image_files, part, "RUN cat /src/*.txt > /all")
    edit = top / names[len(names) // 2] / "src" / "f001.txt"
    return Job(top, packages=names, edit=edit)


def _package(directory: Path, name: str, files: int, text: bytes, last: str) -> None:
    """Write a package that copies so many files over `//base` and ends with a step."""
    source = directory / "src"
    source.mkdir(parents=True)
    for number in range(files):
        (source / f"f{number:03}.txt").write_bytes(f"{name} {number}\n".encode() + text)
    (directory / "Boxfile.yaml").write_text('targets:\n  image:\n    contexts: {base: "//base"}\n')
    _dockerfile(directory, "FROM base", "COPY src /src", last)


def _many_images(top: Path, scale: Scale) -> Job:
    return _images(top, replace(scale, images=scale.many_images))


def _targets(top: Path, scale: Scale) -> Job:
    """Make images that only copy, so that what is measured is the way to them."""
    _base(top / "base")
    _dockerfile(top / "base", "FROM scratch", "COPY bin /bin")
    (top / "Boxfile.yaml").write_text("workspace: {name: bench}\n")
    names = tuple(f"g{number // 50:02}/p{number:04}" for number in range(scale.targets))
    text = _text(5, 65536)
    for position, name in enumerate(names):
        _package(
            top / name, name, scale.target_files, text[position : position + 500], "WORKDIR /src"
        )
    middle = names[len(names) // 2]
    return Job(top, packages=names, edit=top / middle / "src" / "f001.txt", one=f"//{middle}")


def _start(top: Path, scale: Scale) -> Job:
    _base(top)
    _dockerfile(top, "FROM scratch", "COPY bin /bin", 'CMD ["/bin/true"]')
    return Job(top)


WORKLOADS = (
    Workload(
        "40-run",
        (
            Row("cold", "40 RUN steps that do nothing", 1.0),
            Row("again", "nothing changed, 40 steps", 0.08, repeat=3),
        ),
        _steps,
    ),
    Workload("32-stages", (Row("cold", "32 independent stages, joined", 1.3),), _stages),
    Workload(
        "copy-many",
        (
            Row("cold", "COPY of 40,000 files, 216 MB, to an archive", 3.0),
            Row("again", "nothing changed, 40,000 files", 0.3, repeat=3),
            Row("changed", "one file of the 40,000 changed"),
        ),
        _many,
        files=True,
    ),
    Workload(
        "copy-large",
        (Row("cold", "COPY of 1.1 GB, half incompressible, to an archive", 6.0),),
        _large,
        files=True,
    ),
    Workload(
        "copy-run-copy",
        (Row("cold", "10,000 files copied, worked on by RUN, copied on", 1.6),),
        _worked,
        files=True,
    ),
    Workload(
        "200-images",
        (
            Row("cold", "200 images, 10,000 files: cold", 12.0),
            Row("again", "200 images: nothing changed", 0.5),
            Row("changed", "200 images: one file changed"),
        ),
        _images,
        rounds=1,
        without=frozenset({"buildah", "podman"}),
    ),
    Workload(
        "1000-images",
        (
            Row("cold", "1,000 images, 50,000 files: cold", 60.0),
            Row("again", "1,000 images: nothing changed", 0.5),
            Row("changed", "1,000 images: one file changed", 5.0),
        ),
        _many_images,
        rounds=1,
        without=PEER_NAMES,
    ),
    Workload(
        "1000-targets",
        (
            Row("plan", "1,000 targets over 100,000 files: plan, nothing kept"),
            Row("cold", "1,000 targets over 100,000 files: cold"),
            Row("again", "1,000 targets over 100,000 files: nothing changed", 1.0, repeat=3),
            Row("changed", "1,000 targets over 100,000 files: one changed", 3.0, repeat=3),
            Row("one", "1,000 targets: one of them, one file changed", 0.5, repeat=3),
        ),
        _targets,
        rounds=1,
        without=PEER_NAMES,
    ),
    Workload("start", (Row("start", "`true` in a container, warm store", repeat=5),), _start),
)
