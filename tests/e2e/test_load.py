"""Handing an image to docker, podman and containerd: they run or tell what we built, and get only
the layers they lack.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.building import BOTH, Bench, as_root, call, needs
from e2e.harness import User, remove_tree
from e2e.peers import Docker, docker, unmount_below

TEXT = 'FROM base\nRUN echo 1 > /one\nCOPY f /f\nCMD ["cat", "/f"]\n'


@pytest.fixture(scope="module")
def daemon() -> Iterator[Docker]:
    with docker() as running:
        yield running


def load(bench: Bench, content: str, *words: str, env: dict[str, str], expect: int = 0) -> str:
    """Build a small image, load it, and return what was said."""
    directory = bench.directory({"f": content}, TEXT)
    done = bench.run(
        "build", *bench.base([]), directory, "--progress=plain", *words, env=env, expect=expect
    )
    return done.stdout + done.stderr


def sent(said: str) -> tuple[int, int, int]:
    """Return how many layers were sent, of how many, and how many bytes."""
    found = re.search(r"\((\d+) of (\d+) layers sent, ([\d,]+) bytes\)", said)
    assert found, said
    return int(found[1]), int(found[2]), int(found[3].replace(",", ""))


# --- docker --------------------------------------------------------------------------------------


@as_root
@needs("dockerd")
def test_docker_gets_the_layers_it_lacks(root_bench: Bench, daemon: Docker) -> None:
    env = {"DOCKER_HOST": daemon.env["DOCKER_HOST"]}
    layers, of, size = sent(load(root_bench, "first", "-t", "loaded:1", "--load", env=env))
    assert (layers, of) == (3, 3)
    assert size > 300_000
    layers, of, size = sent(load(root_bench, "second", "-t", "loaded:2", "--load", env=env))
    assert (layers, of) == (1, 3)
    assert size < 20_000, "the base and the RUN layer are there"
    again = sent(load(root_bench, "second", "-t", "loaded:3", "--load", env=env))
    assert again[0] == 0
    ids = [daemon.call("image", "inspect", "-f", "{{.Id}}", f"loaded:{n}") for n in (2, 3)]
    assert ids[0] == ids[1]
    archive = daemon.home / "saved.tar"
    daemon.call("save", "-o", archive, "loaded:2")
    names = call("tar", "tf", archive).stdout
    assert names.count("layer.tar") == 3


@as_root
@needs("dockerd")
def test_a_layer_that_vanished_is_sent_after_all(root_bench: Bench, daemon: Docker) -> None:
    """The daemon forgets its images after we have looked: it says no, and gets everything."""
    load(root_bench, "vanishing", "-t", "vanishing:1", "--load", env=daemon.env)
    with Meddler(daemon.home / "sock", daemon) as between:
        env = {"DOCKER_HOST": f"unix://{between.path}"}
        said = load(root_bench, "another", "-t", "vanishing:2", "--load", env=env)
    assert sent(said)[0] == 3
    assert between.loads == 2
    assert daemon.call("image", "inspect", "-f", "{{len .RootFS.Layers}}", "vanishing:2") == "3"


class Meddler:
    """Passes on what docker is asked, and removes all its images before the first load."""

    def __init__(self, to: Path, daemon: Docker):
        self.home = Path(tempfile.mkdtemp(prefix="bg-meddler-"))
        self.path = self.home / "sock"
        self.loads = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._to = str(to)
        self._daemon = daemon
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Meddler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._open:
            each.close()
        remove_tree(self.home)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._to)
                self._open += [client, there]
                pumps = [(self._up, (client, there)), (self._pump, (there, client))]
                started = [threading.Thread(target=pump, args=args) for pump, args in pumps]
                self._threads += started
                for thread in started:
                    thread.start()

    def _up(self, client: socket.socket, there: socket.socket) -> None:
        first = client.recv(65536)
        while first.startswith(b"GET"):
            there.sendall(first)
            first = client.recv(65536)
        if first.startswith(b"POST /images/load"):
            self.loads += 1
            if self.loads == 1:
                ids = self._daemon.call("images", "-aq", "--no-trunc").split()
                self._daemon.call("rmi", "-f", *dict.fromkeys(ids))
        there.sendall(first)
        self._pump(client, there)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_what_docker_cannot_have_is_said(root_bench: Bench) -> None:
    nobody = {"DOCKER_HOST": "unix:///nowhere/sock"}
    said = load(root_bench, "1", "-o", "type=docker", env=nobody, expect=3)
    assert "cannot speak to docker at /nowhere/sock" in said
    two = ["--platform", "linux/amd64,linux/arm64"]
    said = load(root_bench, "1", "--load", *two, env=nobody, expect=2)
    assert "has 2 platforms and docker takes one" in said


# --- podman --------------------------------------------------------------------------------------


@contextlib.contextmanager
def podman(user: User | None) -> Iterator[dict[str, str]]:
    """Give the variables of a podman with storage of its own."""
    home = Path(tempfile.mkdtemp(prefix="bg-podman-", dir="/var/tmp"))
    (home / "run").mkdir()
    (home / "storage.conf").write_text(
        f'[storage]\ndriver = "{"overlay" if user is None else "vfs"}"\n'
        f'graphroot = "{home}/root"\nrunroot = "{home}/run"\n'
        f'rootless_storage_path = "{home}/root"\n'
    )
    env = {"CONTAINERS_STORAGE_CONF": f"{home}/storage.conf", "XDG_RUNTIME_DIR": f"{home}/run"}
    env["HOME"] = str(home)
    if user is not None:
        call("chown", "-R", f"{user.uid}", home)
        (home / "run").chmod(0o700)
    try:
        yield env
    finally:
        for pid in home.glob(
            "run/**/pause.pid"
        ):  # podman leaves a process behind for its next call
            os.kill(int(pid.read_text()), signal.SIGKILL)
        unmount_below(home)
        remove_tree(home)


@BOTH
@needs("podman")
def test_podman_runs_what_it_was_given(who: Bench) -> None:
    with podman(who.user) as env:
        said = load(who, "hello", "-t", "loaded/app:1", "-t", "other:2", "--load=podman", env=env)
        assert "podman: loaded/app:1, other:2" in said
        load(who, "hello", "-t", "loaded/app:3", "--load", "podman", env=env)
        ids = {ask(who, env, "image", "inspect", "--format", "{{.Id}}", name) for name in
               ("docker.io/loaded/app:1", "docker.io/library/other:2", "docker.io/loaded/app:3")}  # fmt: skip
        assert len(ids) == 1
        layers = ask(who, env, "image", "inspect", "--format", "{{len .RootFS.Layers}}", ids.pop())
        assert layers == "3"
        load(who, "nameless", "--load=podman", env=env)
        names = ask(who, env, "images", "--format", "{{.Repository}}:{{.Tag}}").split()
        assert sorted(names) == [
            "<none>:<none>",
            "docker.io/library/other:2",
            "docker.io/loaded/app:1",
            "docker.io/loaded/app:3",
        ]


@as_root
@needs("podman")
def test_podmans_socket_is_a_dockers(root_bench: Bench) -> None:
    """It reads every layer, and says so by its name."""
    with podman(None) as env:
        place = f"{env['HOME']}/sock"
        more = {"PATH": os.environ["PATH"], **env}
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{place}"],
            env=more, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            end = time.monotonic() + 20
            while not os.path.exists(place):
                assert service.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            for n in ("1", "2"):
                at = {"DOCKER_HOST": f"unix://{place}"}
                said = load(root_bench, n, "-t", f"by/socket:{n}", "--load", env=at)
                assert sent(said)[:2] == (3, 3)
        finally:
            service.terminate()
            service.wait(20)
        assert len(call("podman", "images", "-q", env=more).stdout.split()) == 2


def ask(bench: Bench, env: dict[str, str], *words: str) -> str:
    """Ask podman as whoever a bench is for."""
    more = {"PATH": os.environ["PATH"], **env}
    if bench.user is None:
        return call("podman", *words, env=more).stdout.strip()
    asked = bench.user.popen(
        ["podman", *words], env=more, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = asked.communicate(timeout=60)
    assert asked.returncode == 0, err
    return str(out).strip()


def test_an_engine_that_is_not_there(root_bench: Bench) -> None:
    empty = {"PATH": "/nowhere"}
    assert "podman is not installed" in load(root_bench, "1", "--load=podman", env=empty, expect=3)


# --- containerd ----------------------------------------------------------------------------------


@contextlib.contextmanager
def containerd() -> Iterator[dict[str, str]]:
    """Run a containerd with directories of its own and without plugins that need more."""
    home = Path(tempfile.mkdtemp(prefix="bg-containerd-", dir="/var/tmp"))
    (home / "config.toml").write_text(
        f'version = 2\nroot = "{home}/root"\nstate = "{home}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'[grpc]\naddress = "{home}/sock"\n[ttrpc]\naddress = "{home}/ttrpc"\n'
    )
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "containerd", "--config", str(home / "config.toml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    env = {"CONTAINERD_ADDRESS": f"{home}/sock", "CONTAINERD_NAMESPACE": "tests"}
    try:
        end = time.monotonic() + 20
        while not (home / "sock").exists():
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield env
    finally:
        process.kill()  # it takes seconds to end by itself
        process.wait(20)
        unmount_below(home)
        remove_tree(home)


@as_root
@needs("containerd", "ctr")
def test_containerd_has_what_it_was_given(root_bench: Bench) -> None:
    with containerd() as env:
        said = load(root_bench, "1", "-t", "loaded:1", "--load=containerd", env=env)
        assert sent(said)[:2] == (3, 3)
        said = load(root_bench, "2", "-t", "loaded:2", "--load=containerd", env=env)
        assert sent(said)[:2] == (1, 3)
        said = load(root_bench, "2", "--load=containerd", env=env)
        assert "localhost/" in said
        more = {"PATH": os.environ["PATH"], **env}
        listed = call("ctr", "-n", "tests", "images", "ls", env=more).stdout
        assert "docker.io/library/loaded:1" in listed
        checked = call("ctr", "-n", "tests", "images", "check", env=more).stdout
        assert checked.count("complete (4/4)") == 3, checked
