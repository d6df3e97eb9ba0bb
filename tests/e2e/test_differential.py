"""Knows how to compare what we, docker's BuildKit and buildah make of one Dockerfile: every path of
the root file system but for its times, and the config. Must not know what is right where they
differ: the cases' table of accepted deviations says that, with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from e2e import peers
from e2e.building import Bench
from e2e.differential_batches import BATCHES
from e2e.differential_cases import ANY, CASES, Case
from e2e.images import Image, Tree

pytestmark = [pytest.mark.peers, pytest.mark.slow]

FIELDS = ("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "ExposedPorts", "Volumes", "Labels")
FIELDS += ("StopSignal", "Shell", "OnBuild", "Healthcheck")


class Peer(Protocol):
    def build(self, directory: Path, *words: str) -> Image: ...


@pytest.fixture(scope="module")
def base(root_bench: Bench) -> Path:
    """Return a docker archive of the base that every case starts from."""
    directory = root_bench.directory({}, "FROM base\n")
    archive = root_bench.workspace.path(f"{directory}.tar")
    words = ["-t", "base:latest", "-o", f"type=docker,dest={archive}", directory]
    root_bench.run("build", *root_bench.base(words), *words)
    return archive


@pytest.fixture(scope="module")
def docker(base: Path) -> Iterator[peers.Docker]:
    if os.geteuid() != 0 or not shutil.which("dockerd") or not os.access(peers.DOCKER, os.X_OK):
        pytest.skip("no docker daemon can be started: docker.io is not installed, or not root")
    with peers.docker() as daemon:
        daemon.load(base)
        yield daemon


@pytest.fixture(scope="module")
def buildah(base: Path) -> Iterator[peers.Buildah]:
    if os.geteuid() != 0 or not shutil.which("buildah") or not shutil.which("runc"):
        pytest.skip("buildah and runc are not both installed, or not root")
    with peers.buildah() as tool:
        tool.load(base, "localhost/base:latest")
        yield tool


@pytest.mark.parametrize("name", ["docker", "buildah"])
@pytest.mark.parametrize("case", [*CASES, *BATCHES], ids=lambda case: case.name)
def test_builders_agree(
    root_bench: Bench, case: Case, name: str, request: pytest.FixtureRequest
) -> None:
    if name not in case.peers:
        pytest.skip(f"not asked of {name}: too old for it, or slow at it")
    peer: Peer = request.getfixturevalue(name)
    directory = root_bench.directory(case.files, whole(case.dockerfile))
    theirs = peer.build(root_bench.workspace.path(directory), *case.args)
    ours = root_bench.build_in(directory, "--network=none", *case.args).image
    found = [*files(ours.tree, theirs.tree), *config(ours.config, theirs.config)]
    here = [d for d in case.accepted if d.peer in (name, "both")]
    general = [d for d in ANY if d.peer in (name, "both")]
    left = [line for line in found if not any(re.search(d.what, line) for d in (*here, *general))]
    assert not left, "\n".join(left)
    gone = [d for d in here if not any(re.search(d.what, line) for line in found)]
    assert not gone, f"no deviation any more: {gone}"


def whole(dockerfile: str) -> str:
    """Return a Dockerfile that starts from the base; `x0` is its first stage."""
    begins = "# escape" in dockerfile or "FROM base AS x0" in dockerfile
    return dockerfile if begins else f"FROM base AS x0\n{dockerfile}"


def files(ours: Tree, theirs: Tree) -> Iterator[str]:
    """Yield a line for each path that is not the same; times are not compared."""
    for path in sorted({*ours, *theirs}):
        mine, other = ours.get(path), theirs.get(path)
        if mine != other:
            first = mine.line(path) if mine else f"nothing at {path}"
            second = other.line(path) if other else f"nothing at {path}"
            yield f"file {path}: {first} | {second}"


def config(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each field that does not mean the same; absent and empty are one."""
    for name in FIELDS:
        mine, other = ours.get(name) or None, theirs.get(name) or None
        if name == "WorkingDir":
            mine, other = mine or "/", other or "/"
        if name in ("Env", "ExposedPorts", "Labels", "Volumes"):
            yield from members(name, mine or {}, other or {})
        elif mine != other:
            yield f"config {name}: {mine} | {other}"


def members(name: str, ours: Any, theirs: Any) -> Iterator[str]:
    """Yield a line for each variable, port, label or volume that is not the same."""
    if name == "Env":
        order = [[text.partition("=")[0] for text in env] for env in (ours, theirs)]
        if order[0] != order[1] and sorted(order[0]) == sorted(order[1]):
            yield f"config Env order: {order[0]} | {order[1]}"
        ours, theirs = (dict(text.split("=", 1) for text in env) for env in (ours, theirs))
    for key in sorted({*ours, *theirs}):
        mine, other = ours.get(key), theirs.get(key)
        if (key in ours, mine) != (key in theirs, other):
            yield f"config {name} {key}: {mine!r} | {other!r}"
