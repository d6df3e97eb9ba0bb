"""Knows how to compare what a process sees in a container of ours and in one of `docker run`; must
not know what is right where they differ: the table says that, with the reason.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from buildgraph.cli.run import RunFlags, command, options_of
from buildgraph.engine.container.start import Streams, open_container
from buildgraph.errors import BuildgraphError
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.config import parse_config
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.tarstream import HeaderWriter, canonical, tar_chunks
from buildgraph.oci.types import Chain, Image, Layer
from buildgraph.sandbox.host import SandboxHost
from buildgraph_cache.store import Store
from e2e import peers
from e2e.harness import BUSYBOX
from e2e.run_table_cases import CASES, IMAGE, MEANT, MORE_MASKED, NOT_MOUNTED, PROBE, Case

pytestmark = [pytest.mark.peers, pytest.mark.slow]

_PASSWD = """root:x:0:0:root:/root:/bin/sh
app:x:1000:1000::/home/app:/bin/sh
many:x:1001:1000::/home/many:/bin/sh
1234:x:0:0::/root:/bin/sh
"""
_GROUP = "root:x:0:root\napp:x:1000:\naudio:x:29:app,many\nvideo:x:44:many\nwheel:x:10:many\n"
_APPLETS = (
    "sh cat ls id env sort hostname grep cut awk sed wc readlink sleep echo kill pwd true"
).split()
_EPOCH = 315532800

Seen = dict[str, str]


def entries() -> list[Entry]:
    """Return the one layer that all images have."""

    def file(path: str, content: bytes, mode: int = 0o644, uid: int = 0) -> Entry:
        return Entry(path, Kind.FILE, mode, uid, uid, len(content), content=content)

    def directory(path: str, mode: int = 0o755, uid: int = 0) -> Entry:
        return Entry(path, Kind.DIR, mode, uid, uid)

    found = [directory(name) for name in ("bin", "etc", "srv", "root", "opt", "opt/x", "home")]
    found += [directory("tmp", 0o1777), directory("home/app", 0o755, 1000)]
    found += [directory("data", 0o2750, 1000), directory("data/sub", 0o700, 7)]
    found += [file("data/f", b"data\n", 0o640, 1000), file("data/sub/g", b"x", 0o600, 7)]
    found += [Entry("link", Kind.SYMLINK, 0o777, link="srv")]
    found += [file("bin/busybox", BUSYBOX.read_bytes(), 0o755)]
    found += [Entry(f"bin/{name}", Kind.SYMLINK, 0o777, link="busybox") for name in _APPLETS]
    found += [file("etc/passwd", _PASSWD.encode()), file("etc/group", _GROUP.encode())]
    found += [file("probe", PROBE.encode(), 0o755), file("opt/x/probe2", PROBE.encode(), 0o755)]
    found += [file("plain", b"echo no\n", 0o755)]
    return canonical(found)


def config_of(case: Case, diff_id: str) -> bytes:
    """Return the image config of a case."""
    document = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {**IMAGE, **case.image},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": case.name}],
    }
    return json.dumps(document).encode()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    if os.geteuid() != 0 or not shutil.which("dockerd") or not os.access(peers.DOCKER, os.X_OK):
        pytest.skip("no docker daemon can be started: docker.io is not installed, or not root")
    directory = Path(tempfile.mkdtemp(prefix="bg-table-", dir="/var/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


class Ours:
    """Containers of ours, started in this process."""

    def __init__(self, store: Store, sandbox: SandboxHost):
        self.store = store
        self.sandbox = sandbox
        self.layers = LayerStore(store, _EPOCH)
        self.layer: Layer = self.layers.create(entries(), "directory")

    def run(self, case: Case) -> Seen:
        config, _ = parse_config(config_of(case, str(self.layer.diff_id)))
        words = ["--network=none", *case.options, "image", *case.args]
        given = command.make_context("run", words).params
        given = {k: v for k, v in given.items() if k in RunFlags.__struct_fields__}
        output: list[bytes] = []
        errors: list[bytes] = []
        try:
            options = options_of(RunFlags(**given), case.args, {})
            image = Image(config, Chain.of((self.layer,)))
            streams = Streams(output.append, errors.append)
            opened = open_container(self.store, self.layers, self.sandbox, image, options, streams)
        except BuildgraphError as error:
            return {"code": "125", "out": "", "err": str(error)}
        with opened as container:
            if case.stop:
                end = time.monotonic() + 5
                while b"ready" not in b"".join(output) and time.monotonic() < end:
                    time.sleep(0.01)
                status = container.stop()
            else:
                found = container.wait(30)
                assert found is not None
                status = found
            host = container.spec.hostname
        seen = {"code": str(status.code), "err": b"".join(errors).decode()}
        return seen | read(b"".join(output).decode(), case, host)


class Theirs:
    """The same of docker."""

    def __init__(self, daemon: peers.Docker):
        self.daemon = daemon

    def run(self, case: Case) -> Seen:
        words = ["--network=none", *case.options, f"case-{case.name}:x", *case.args]
        if case.stop:
            return self._stop(words)
        done = peers.subprocess.run(
            [peers.DOCKER, "run", "--rm", *words],
            env=self.daemon.env,
            stdin=peers.subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        seen = {"code": str(done.returncode), "err": done.stderr}
        host = re.search("## hostname\n(.*)", done.stdout)
        return seen | read(done.stdout, case, host[1] if host else "")

    def _stop(self, words: list[str]) -> Seen:
        name = self.daemon.call("run", "-d", *words)
        end = time.monotonic() + 5
        while "ready" not in self.daemon.call("logs", name) and time.monotonic() < end:
            time.sleep(0.05)
        self.daemon.call("stop", name)
        code = self.daemon.call("inspect", "-f", "{{.State.ExitCode}}", name)
        return {"code": code, "out": self.daemon.call("logs", name) + "\n", "err": ""}


def read(text: str, case: Case, host: str) -> Seen:
    """Return the parts of a probe's answer; a random host name is called HOST."""
    if not case.probe:
        return {"out": text}
    if host:
        text = text.replace(host, "HOST")
    # Without a network docker has no address for a container's own name; ours leads to itself.
    text = text.replace("127.0.0.1\tHOST\n", "")
    parts = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture(scope="module")
def ours(place: Path) -> Iterator[Ours]:
    with Store.open(place / "store") as store, store.lease(), SandboxHost(store.root) as sandbox:
        yield Ours(store, sandbox)


@pytest.fixture(scope="module")
def theirs(place: Path, ours: Ours) -> Iterator[dict[str, Future[Seen]]]:
    """Docker's answers, all asked for at once: its containers take half a second each."""
    archive = place / "images.tar"
    write_archive(archive, ours.layer)
    with peers.docker() as daemon:
        daemon.call("load", "-q", "-i", archive)
        asked = Theirs(daemon)
        with ThreadPoolExecutor(4) as pool:
            yield {case.name: pool.submit(asked.run, case) for case in CASES}


def write_archive(path: Path, layer: Layer) -> None:
    """Write a docker archive with an image for each case over one layer."""
    data = b"".join(tar_chunks(entries(), HeaderWriter(_EPOCH)))
    manifest: list[dict[str, Any]] = []
    with tarfile.open(path, "w") as tar:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        add("layer.tar", data)
        for case in CASES:
            add(f"{case.name}.json", config_of(case, str(layer.diff_id)))
            tags = [f"case-{case.name}:x"]
            manifest.append(
                {"Config": f"{case.name}.json", "RepoTags": tags, "Layers": ["layer.tar"]}
            )
        add("manifest.json", json.dumps(manifest).encode())


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


def mounts_of(text: str) -> dict[str, set[str]]:
    return {point: set(flags.split(",")) for point, flags in map(str.split, text.splitlines())}


def assert_mounts(mine: str, docker: str) -> None:
    ours, theirs = mounts_of(mine), mounts_of(docker)
    assert set(ours) - MORE_MASKED == {p for p in theirs if not p.startswith(NOT_MOUNTED)}
    for point in theirs.keys() & ours.keys():
        assert ours[point] >= theirs[point], point


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_container_sees_what_dockers_sees(
    case: Case, ours: Ours, theirs: dict[str, Future[Seen]]
) -> None:
    mine = ours.run(case)
    docker = theirs[case.name].result(60)
    if case.probe:
        assert mine["code"] == "0", mine
        assert len(mine) > 15, mine
        assert_mounts(mine.pop("mounts"), docker.pop("mounts"))
    meant = {**(MEANT if case.probe else {}), **case.differs}
    wrong = {
        name: (mine.get(name), docker.get(name))
        for name in sorted({*mine, *docker})
        if mine.get(name) != docker.get(name) and name not in meant
    }
    assert not wrong, "\n".join(
        f"{n}:\n ours   {a!r}\n docker {b!r}" for n, (a, b) in wrong.items()
    )
