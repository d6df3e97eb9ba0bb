"""Knows when a check holds in a world of plain values; needs no container."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from buildgraph.boxfile.smoke import (
    Check,
    CheckKind,
    ConfigCheck,
    ExecCheck,
    ExitCheck,
    Expected,
    FileCheck,
    HttpCheck,
    LimitsCheck,
    LogsCheck,
    Subject,
    TcpCheck,
    Wanted,
)
from buildgraph.engine.smoke.checks import Ending, run_check
from buildgraph.engine.smoke.expect import at_path, complaints, json_complaints
from buildgraph.engine.smoke.world import Ended, Over, Ran
from buildgraph.errors import Location
from buildgraph.filetree import FileStat, Kind
from buildgraph.oci.types import Chain, Image, ImageConfig, Layer, Platform
from buildgraph_cache.digest import Digest

WEB = Subject(service="web")
HERE = Location("Boxfile.yaml", 3, 5)


@dataclass
class TextFiles:
    """Files by path."""

    content: dict[str, tuple[FileStat, bytes]]

    def stat(self, path: str) -> FileStat | None:
        return self.content[path][0] if path in self.content else None

    follow = stat

    def read(self, path: str, cap: int) -> bytes | None:
        return self.content[path][1] if path in self.content else None

    def sha256(self, path: str) -> str | None:
        data = self.read(path, 0)
        return None if data is None else hashlib.sha256(data).hexdigest()


def _request(sock: socket.socket) -> bytes:
    """Return all of a request: head and body of HTTP come in pieces."""
    data = sock.recv(65536)
    if re.match(rb"[A-Z]+ /", data):
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        told = re.search(rb"(?i)content-length: (\d+)", head)
        missing = int(told[1]) - len(body) if told else 0
        while missing > 0:
            more = sock.recv(65536)
            data, missing = data + more, missing - len(more)
    return data


@dataclass
class FakeWorld:
    """A world whose answers are given, and whose time goes by when somebody waits."""

    answers: list[bytes] = field(default_factory=list)  # one a connection; b"" refuses
    ran: Ran = field(default_factory=lambda: Ran(0, b"", b""))
    log: bytes = b""
    ends: list[Ended | None] = field(default_factory=lambda: [None])
    config: ImageConfig = field(default_factory=lambda: ImageConfig(Platform("linux", "amd64")))
    layers: tuple[Layer, ...] = ()
    tree: dict[str, tuple[FileStat, bytes]] = field(default_factory=dict)
    over_at: float = 1e9
    time: float = 0.0
    asked: list[bytes] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def pause(self, seconds: float) -> None:
        self.time += seconds
        if self.time >= self.over_at:
            raise Over("web ended with exit code 1")

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        answer = self.answers.pop(0) if self.answers else b""
        if not answer:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = socket.socketpair()

        def serve() -> None:
            self.asked.append(_request(theirs))
            theirs.sendall(answer)
            theirs.close()

        threading.Thread(target=serve, daemon=True).start()
        return ours

    def execute(self, service: str, args: Sequence[str], **more: Any) -> Ran:
        return self.ran

    def command(self, check: Any, timeout: float) -> Ran:
        return self.ran

    def logs(self, service: str) -> bytes:
        return self.log

    def ended(self, service: str) -> list[Ended | None]:
        return self.ends

    def files(self, subject: Subject) -> TextFiles:
        return TextFiles(self.tree)

    def image(self, subject: Subject) -> Image:
        return Image(self.config, Chain.of(self.layers))

    def layer_paths(self, image: Image) -> list[tuple[int, str]]:
        return [(1, "root/.cache/x"), (2, "srv/app/app.py")]

    def layer_secrets(self, image: Image) -> list[tuple[int, str, str]]:
        return [(n, f"key{n}", "a private key") for n in range(1, 31)]

    def read_package_file(self, path: str) -> bytes:
        return b""


def judge(what: CheckKind, world: FakeWorld, within: float = 0.0) -> list[str]:
    """Return what is wrong."""
    check = Check("name", what, HERE, round(within * 10**9))
    return list(run_check(check, world).attempt.complaints)


def http(status: str, body: str, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


# -- texts ---------------------------------------------------------------------------------


def test_expectations_of_a_text() -> None:
    text = b"one\ntwo\n"
    assert complaints(text, Expected(("one", "two"), ("^two$",), ("^three",)), "it") == []
    assert complaints(text, Expected(equals="one\ntwo"), "it") == []
    assert complaints(text, Expected(("x",), ("^wo",), ("t.o",), "one"), "it") == [
        "it does not contain 'x'",
        "it does not match '^wo'",
        "it matches 't.o': 'two'",
        "it is 'one\\ntwo\\n', not 'one'",
    ]


def test_paths_in_json() -> None:
    value = {"a": [{"b c": 1}, True], "d": None}
    assert at_path(value, "$.a[0]['b c']") == 1
    assert at_path(value, "a[-1]") is True
    data = b'{"a": [{"b": "x"}, 3.5], "t": true}'
    assert json_complaints(data, (("$.a[0].b", "x"), ("a[1]", "3.5"), ("t", "true"))) == []
    assert json_complaints(data, (("$.a.b", "x"), ("$.a[7]", "1"), ("$.t", "false"))) == [
        'json $.a.b: $.a is [{"b":"x"},3.5], which has no .b',
        "json $.a[7]: $.a has no [7]",
        "json $.t is 'true', not 'false'",
    ]
    assert json_complaints(b"<html>", (("$", "1"),)) == ["the answer is not JSON"]


# -- http ----------------------------------------------------------------------------------


def test_a_request_is_what_the_check_says() -> None:
    world = FakeWorld([http("200 OK", "hi")])
    check = HttpCheck("POST", "http://web:81/a?b=c", (("X-One", "1"), ("host", "other")), "body")
    assert judge(check, world) == []
    assert world.asked[0] == (
        b"POST /a?b=c HTTP/1.1\r\nUser-Agent: buildgraph\r\nAccept: */*\r\nConnection: close\r\n"
        b"Content-Length: 4\r\nX-One: 1\r\nhost: other\r\n\r\nbody"
    )


@pytest.mark.parametrize(
    ("answer", "check", "wrong"),
    [
        ("204 No", {}, []),
        ("301 Moved", {}, ["status 301, not 2xx"]),
        ("301 Moved", {"status": ("3xx", "200")}, []),
        ("500 Oh", {"status": ("200", "404")}, ["status 500, not 200 or 404"]),
        ("200 OK", {"response_headers": (("X-Is", "^v"),)}, []),
        ("200 OK", {"response_headers": (("x-is", "w"),)}, ["header x-is is 'v1', not 'w'"]),
        ("200 OK", {"response_headers": (("no", "."),)}, ["header no is not there, not '.'"]),
    ],
)
def test_what_an_answer_must_be_like(answer: str, check: dict[str, Any], wrong: list[str]) -> None:
    world = FakeWorld([http(answer, "", **{"X-Is": "v1"})])
    assert judge(HttpCheck("GET", "http://web/", **check), world) == wrong


def test_nonsense_instead_of_http_is_a_finding() -> None:
    (wrong,) = judge(HttpCheck("GET", "http://web/"), FakeWorld([b"SSH-2.0\r\n"]))
    assert "SSH-2.0" in wrong


def test_only_within_makes_it_try_again() -> None:
    good = http("200 OK", "")
    assert judge(HttpCheck("GET", "http://web/"), FakeWorld([b"", good])) == ["connection refused"]
    world = FakeWorld([b"", b"", good])
    assert judge(HttpCheck("GET", "http://web/"), world, within=5) == []
    assert 0 < world.time < 1
    late = FakeWorld()
    assert judge(HttpCheck("GET", "http://web/"), late, within=5) == ["connection refused"]
    assert late.time == pytest.approx(5)


def test_a_death_ends_the_trying() -> None:
    world = FakeWorld(over_at=2)
    check = Check("x", TcpCheck("web", 1), HERE, 60 * 10**9)
    with pytest.raises(Ending, match="web ended") as caught:
        run_check(check, world)
    assert caught.value.finding.attempt.complaints == ("connection refused",)
    assert world.time < 3


def test_talking_tcp() -> None:
    check = TcpCheck("db", 6379, "PING\r\n", Expected(("+PONG",)))
    world = FakeWorld([b"+PONG\r\n"])
    assert judge(check, world) == []
    assert world.asked == [b"PING\r\n"]
    wrong = judge(TcpCheck("db", 1, "x", Expected(("y",))), FakeWorld([b"z"]))
    assert wrong == ["the answer does not contain 'y'"]


# -- the rest ------------------------------------------------------------------------------


def test_commands() -> None:
    check = ExecCheck("web", ("a",), 0, Expected(("out",)), Expected(equals=""))
    assert judge(check, FakeWorld(ran=Ran(0, b"out\n", b""))) == []
    assert judge(check, FakeWorld(ran=Ran(137, b"", b"e", oom=True))) == [
        "exit code 137, out of memory, not 0",
        "stdout does not contain 'out'",
        "stderr is 'e', not ''",
    ]
    assert judge(check, FakeWorld(ran=Ran(-1, b"", b"", refusal="web has ended"))) == [
        "web has ended"
    ]
    late = FakeWorld(ran=Ran(143, b"out", b"", timed_out=True))
    assert judge(check, late) == ["it did not end within 30 s"]


def test_logs_and_ends() -> None:
    assert judge(LogsCheck("web", Expected(("ready",))), FakeWorld(log=b"is ready\n")) == []
    assert judge(ExitCheck("web", 3), FakeWorld(ends=[Ended(3)])) == []
    running = FakeWorld()
    assert judge(ExitCheck("web"), running) == ["web still runs"]
    assert running.time == pytest.approx(30), "waiting goes without saying"
    wrong = FakeWorld(ends=[Ended(3, text="ended with exit code 3")])
    assert judge(ExitCheck("web"), wrong) == ["web ended with exit code 3, not with 0"]
    assert wrong.time == 0, "it cannot become another one"


def test_files() -> None:
    passwd = b"root:x:0:0:::\napp:x:1000:1000:::\n"
    world = FakeWorld(
        tree={
            "a": (FileStat(Kind.FILE, 0o4750, 1000, 7, 5), b"hello"),
            "d": (FileStat(Kind.DIR, 0o1777), b""),
            "l": (FileStat(Kind.SYMLINK, 0o777, target="a"), b"hello"),
            "etc/passwd": (FileStat(Kind.FILE, 0o644), passwd),
        }
    )
    good = FileCheck(
        WEB,
        "/a",
        type="file",
        mode=0o4750,
        owner="app",
        content=Expected(("hell",)),
        sha256=hashlib.sha256(b"hello").hexdigest(),
        permissions="urwxr-x---",
        executable_by="group",
    )
    assert judge(good, world) == []
    assert judge(FileCheck(WEB, "/d", permissions="dtrwxrwxrwx"), world) == []
    assert judge(FileCheck(WEB, "/none", exists=False), world) == []
    assert judge(FileCheck(WEB, "/l", type="link"), world) == []
    bad = FileCheck(WEB, "/a", type="directory", mode=0o644, owner="app:app", executable_by="other")
    assert judge(bad, world) == [
        "/a is a file, not a directory",
        "mode 4750, not 0644",
        "not executable by other: urwxr-x---",
        "the image has no group 'app'",
    ]
    assert judge(FileCheck(WEB, "/a", owner=":8"), world) == ["owner 1000:7, not :8"]
    assert judge(FileCheck(WEB, "/a", exists=False), world) == ["/a is there"]


def test_variables_of_the_image_in_a_path() -> None:
    config = ImageConfig(Platform("linux", "amd64"), env=(("HOME", "/h"),))
    world = FakeWorld(config=config, tree={"h/x": (FileStat(Kind.FILE, 0o644), b"")})
    assert judge(FileCheck(WEB, "$HOME/x"), world) == []


def test_configs() -> None:
    config = ImageConfig(
        Platform("linux", "amd64"),
        env=(("A", "1"),),
        entrypoint=("/e",),
        user="app",
        exposed_ports=("80/tcp", "53/udp"),
        labels=(("l", "v1"),),
        volumes=("/data/",),
    )
    world = FakeWorld(config=config)
    good = ConfigCheck(
        WEB,
        root=False,
        user="app",
        ports=("80", "53/udp"),
        closed_ports=("81",),
        labels=(Wanted("l", "^v", True),),
        environment=(Wanted("A", "1"),),
        unset=("B",),
        entrypoint=("/e",),
        command=(),
        volumes=("/data",),
    )
    assert judge(good, world) == []
    bad = ConfigCheck(
        WEB,
        root=True,
        ports=("81",),
        closed_ports=("80",),
        labels=(Wanted("l", "v"), Wanted("m", "")),
        unset=("A",),
        command=("x",),
        volumes=("/x",),
        no_volumes=("/data",),
    )
    assert judge(bad, world) == [
        "its user is app, not root",
        "command [], not ['x']",
        "label l is 'v1', not 'v'",
        "there is no label m",
        "variable A is set",
        "port 81 is not exposed",
        "port 80 is exposed",
        "/x is no volume",
        "/data is a volume",
    ]


@pytest.mark.parametrize("user", ["", "0", "root", "root:app", "0:5"])
def test_who_is_root(user: str) -> None:
    world = FakeWorld(config=ImageConfig(Platform("linux", "amd64"), user=user))
    (wrong,) = judge(ConfigCheck(WEB, root=False), world)
    assert wrong.startswith("its user is ")


def test_limits() -> None:
    layer = Layer(Digest("sha256:" + "a" * 64), 600)
    world = FakeWorld(layers=(layer, layer))
    assert judge(LimitsCheck(WEB, 1200, 2, ("/**/*.pyc",)), world) == []
    wrong = judge(LimitsCheck(WEB, 1000, 1, ("/root/.cache/**", "/srv/*/*.py"), True), world)
    assert wrong[:4] == [
        "1200 bytes of layers, more than 1000",
        "2 layers, more than 1",
        "layer 1 has /root/.cache/x, forbidden by /root/.cache/**",
        "layer 2 has /srv/app/app.py, forbidden by /srv/*/*.py",
    ]
    assert wrong[4] == "layer 1 has /key1: a private key"
    assert wrong[-1] == "and 10 more"
