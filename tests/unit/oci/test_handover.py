"""Handing an image to a docker daemon that says what a test wants: which layers it is sent, what is
told of its failures, and where it is looked for.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import socketserver
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from buildgraph.errors import HostError, InputError, Interrupted
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.compress import Compression
from buildgraph.oci.handover.docker import hand_to_docker
from buildgraph.oci.handover.docker_api import socket_of
from buildgraph.oci.handover.handed import Handed
from buildgraph.oci.handover.outside import outside
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.types import Chain, Image, ImageConfig, Platform
from buildgraph_cache.store import Store

ME = (os.geteuid(), os.getegid())
GRAPH = [["Backing Filesystem", "extfs"]]
CONTAINERD = [["driver-type", "io.containerd.snapshotter.v1"]]


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path / "store")) as store:
        yield LayerStore(store, overlay="user")


def image(layers: LayerStore, *texts: bytes) -> Image:
    made = [
        layers.create([Entry(f"f{n}", Kind.FILE, 0o644, *ME, len(text), content=text)])
        for n, text in enumerate(texts)
    ]
    return Image(ImageConfig(Platform("linux", "amd64")), Chain.of(tuple(made)))


@dataclass
class Daemon:
    """What a daemon has and was asked."""

    path: str
    images: dict[str, list[str]] = field(default_factory=dict)  # id -> diff_ids
    status: list[list[str]] = field(default_factory=lambda: GRAPH)
    server: str = "Docker/20.10.24 (linux)"
    answers: list[tuple[int, bytes]] = field(default_factory=list)  # to loads; then it is honest
    loads: list[dict[str, bytes]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as a daemon does."""

    protocol_version = "HTTP/1.1"
    daemon: Daemon

    def version_string(self) -> str:
        return self.daemon.server

    def answer(self, value: Any, status: int = 200) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        images = self.daemon.images
        self.daemon.asked.append(self.path)
        if self.path == "/info":
            self.answer({"DriverStatus": self.daemon.status})
        elif self.path == "/images/json":
            self.answer([{"Id": name, "RepoTags": None} for name in images])
        elif (name := self.path.split("/")[2]) in images:
            self.answer({"Id": name, "RootFS": {"Layers": images[name]}})
        else:
            self.answer({"message": "No such image"}, 404)

    def do_POST(self) -> None:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
        self.daemon.loads.append(files)
        if self.daemon.answers:
            status, body = self.daemon.answers.pop(0)
            self.answer(body, status)
            return
        (entry,) = json.loads(files["manifest.json"])
        config = files[entry["Config"]]
        name = f"sha256:{hashlib.sha256(config).hexdigest()}"
        self.daemon.images[name] = json.loads(config)["rootfs"]["diff_ids"]
        self.answer(b'{"stream":"Loaded image"}\r\n')

    def log_message(self, *words: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[Any, Any]:
        return super().get_request()[0], ("client", 0)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: some tests hang up."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(str(tmp_path / "sock"))
    server = Server(found.path, type("H", (Handler,), {"daemon": found}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def hand(layers: LayerStore, daemon: Daemon, made: Image, *names: str, **more: Any) -> Handed:
    return hand_to_docker(
        made,
        layers,
        [parse_reference(name) for name in names],
        {"DOCKER_HOST": f"unix://{daemon.path}"},
        more.pop("cancel", threading.Event()),
        **more,
    )


def blobs(load: Mapping[str, bytes]) -> int:
    """Return how many layers an archive holds."""
    (entry,) = json.loads(load["manifest.json"])
    return sum(1 for path in entry["Layers"] if path in load)


def test_only_missing_layers_are_sent(layers: LayerStore, daemon: Daemon) -> None:
    first = hand(layers, daemon, image(layers, b"base", b"one"), "app:1")
    assert (first.layers, first.of) == (2, 2)
    second = hand(layers, daemon, image(layers, b"base", b"two", b"three"), "app:2")
    assert (second.layers, second.of, blobs(daemon.loads[1])) == (2, 3, 2)
    assert json.loads(daemon.loads[1]["manifest.json"])[0]["RepoTags"] == ["app:2"]
    third = hand(layers, daemon, image(layers, b"base", b"one"))
    assert (third.layers, blobs(daemon.loads[2])) == (0, 0)


def test_a_layer_above_another_base_is_sent(layers: LayerStore, daemon: Daemon) -> None:
    """The daemon knows it by its chain, so that the same change set on another base is another."""
    hand(layers, daemon, image(layers, b"base", b"one"))
    again = hand(layers, daemon, image(layers, b"other", b"one"))
    assert again.layers == 2


def test_the_same_layer_twice_is_sent_where_one_is_needed(
    layers: LayerStore, daemon: Daemon
) -> None:
    made = image(layers, b"base")
    (only,) = made.chain.layers
    hand(layers, daemon, made)
    twice = Image(made.config, Chain.of((only, only)))
    hand(layers, daemon, twice)
    assert blobs(daemon.loads[1]) == 2


@pytest.mark.parametrize(
    ("status", "server"), [(CONTAINERD, "Docker/29.0.0 (linux)"), (GRAPH, "Libpod/4.3.1 (linux)")]
)
def test_who_reads_every_layer_gets_every_layer(
    layers: LayerStore, daemon: Daemon, status: list[list[str]], server: str
) -> None:
    daemon.status, daemon.server = status, server
    for _ in range(2):
        handed = hand(layers, daemon, image(layers, b"base", b"one"))
        assert handed.layers == 2
    assert "/images/json" not in daemon.asked


def test_a_refusal_is_followed_by_everything(layers: LayerStore, daemon: Daemon) -> None:
    hand(layers, daemon, image(layers, b"base", b"one"))
    daemon.answers = [
        (200, b'{"errorDetail":{"message":"m"},"error":"open layer: no such file"}\n')
    ]
    handed = hand(layers, daemon, image(layers, b"base", b"two"))
    assert [blobs(load) for load in daemon.loads] == [2, 1, 2]
    assert handed.layers == 2


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, b'{"message":"no space left on device"}', "docker says: no space left on device"),
        (500, b"<html>", "docker says: HTTP 500"),
        (200, b'{"error":"bad archive"}', "docker says: bad archive"),
        (200, b"", "docker took the image and does not know sha256:"),
    ],
)
def test_what_docker_says(
    layers: LayerStore, daemon: Daemon, status: int, body: bytes, said: str
) -> None:
    daemon.answers = [(status, body)]
    with pytest.raises(HostError) as failure:
        hand(layers, daemon, image(layers, b"base"))
    assert said in failure.value.message


def test_zstd_is_packed_anew(layers: LayerStore, daemon: Daemon) -> None:
    hand(layers, daemon, image(layers, b"base"), compression=Compression("zstd"))
    (entry,) = json.loads(daemon.loads[0]["manifest.json"])
    assert daemon.loads[0][entry["Layers"][0]][:2] == b"\x1f\x8b"


def test_a_stopped_build_does_not_go_on(layers: LayerStore, daemon: Daemon) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Interrupted):
        hand(layers, daemon, image(layers, b"base"), cancel=cancel)
    assert not [t for t in threading.enumerate() if t.name == "archive"]


# --- where it is looked for ----------------------------------------------------------------------


def test_where_a_daemon_listens(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert socket_of({**home, "DOCKER_HOST": "unix:///a/b"}) == "/a/b"
    for far in ("tcp://1.2.3.4:2375", "ssh://me@there", "npipe:////./pipe/x", "unix://relative"):
        with pytest.raises(InputError, match="by a unix socket alone"):
            socket_of({**home, "DOCKER_HOST": far})
    name = hashlib.sha256(b"rootless").hexdigest()
    meta = tmp_path / ".docker/contexts/meta" / name / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Endpoints": {"docker": {"Host": "unix:///run/user/1/sock"}}}))
    assert socket_of({**home, "DOCKER_CONTEXT": "rootless"}) == "/run/user/1/sock"
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "rootless"}')
    assert socket_of(home) == "/run/user/1/sock"
    assert socket_of({**home, "DOCKER_HOST": "unix:///a/b"}) == "/a/b"
    with pytest.raises(InputError, match="context 'gone' is not known"):
        socket_of({**home, "DOCKER_CONTEXT": "gone"})


@pytest.mark.skipif(os.path.exists("/var/run/docker.sock"), reason="machine: it has a daemon")
def test_a_daemon_of_the_user(tmp_path: Path) -> None:
    mine = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    with pytest.raises(HostError, match="there is no docker daemon") as failure:
        socket_of(mine)
    assert "-o type=docker,dest=FILE" in str(failure.value.hint)
    (tmp_path / "docker.sock").touch()
    assert socket_of(mine) == str(tmp_path / "docker.sock")


# --- programs outside ----------------------------------------------------------------------------


def test_a_program_outside_reads_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked as for an ordinary user, whoever runs this test."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "in").write_text("hello")
    with outside(True) as programs, open(tmp_path / "in", "rb") as file:
        done = programs.run(["sh", "-c", "cat; echo oh >&2; exit 3"], stdin=file.fileno())
        assert (done.code, done.out, done.why) == (3, "hello", "oh")
        assert programs.run(["sh", "-c", "cat"]).out == ""
        with pytest.raises(FileNotFoundError):
            programs.run(["no-such-program-of-ours"])
        long = programs.run(["sh", "-c", "yes | head -c 1000000; printf '\\377'"])
        assert long.out.endswith("y\n?")
        assert len(long.out) < 20_000
