"""Fetches from a server that does what a script says: errors, cuts, redirects, lies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from buildgraph.errors import HostError, Interrupted
from buildgraph.transport.failures import NotFound
from buildgraph_cache.digest import sha256_digest
from buildgraph_cache.store import Store
from buildgraph_rules.debian.mirrors import Mirrors
from buildgraph_rules.debian.storage import fetch_blob
from unit.transport.scripted_server import FakeClock

BODY = bytes(range(256)) * 4000


@dataclass
class Answer:
    """What the server does with one request; `cut` ends the body there."""

    status: int = 200
    body: bytes = BODY
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    ranges: bool = True


class Server:
    """Gives the answers of a script, then the last one for ever; notes every request."""

    def __init__(self) -> None:
        self.script: list[Answer] = [Answer()]
        self.requests: list[tuple[str, dict[str, str], int]] = []  # path, headers, from which port
        self.sent = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                port = self.client_address[1]
                outer.requests.append((self.path, dict(self.headers), port))
                script = outer.script
                outer.answer(self, script.pop(0) if len(script) > 1 else script[0])

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        start, status = 0, answer.status
        wanted = handler.headers.get("Range")
        if wanted and answer.ranges and status == 200:
            start, status = int(wanted[6:-1]), 206
            if start >= len(answer.body):
                status = 416
        body = b"" if status == 416 else answer.body[start:]
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        if status == 206:
            end, total = len(answer.body) - 1, len(answer.body)
            handler.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        part = body if answer.cut is None else body[: answer.cut]
        self.sent += len(part)
        handler.wfile.write(part)
        if answer.cut is not None:
            handler.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


@pytest.fixture
def waits() -> FakeClock:
    return FakeClock()


@pytest.fixture
def mirrors(waits: FakeClock) -> Iterator[Mirrors]:
    with Mirrors(clock=waits) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as opened:
        yield opened


def test_a_body(server: Server, mirrors: Mirrors) -> None:
    assert mirrors.read(f"{server.uri}/x", len(BODY)) == BODY


def test_a_body_over_the_limit(server: Server, mirrors: Mirrors) -> None:
    with pytest.raises(HostError, match="longer than"):
        mirrors.read(f"{server.uri}/x", len(BODY) - 1)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_trouble(server: Server, mirrors: Mirrors, waits: FakeClock, status: int) -> None:
    server.script = [Answer(status, b"no"), Answer(status, b"no"), Answer()]
    assert mirrors.read(f"{server.uri}/x", 1 << 30) == BODY
    assert sum(waits.slept) == pytest.approx(0.5 + 1.0)


@pytest.mark.parametrize("status", [400, 401, 403, 451])
def test_a_refusal_is_not_repeated(server: Server, mirrors: Mirrors, status: int) -> None:
    server.script = [Answer(status, b"no")]
    with pytest.raises(HostError, match=f"HTTP {status}"):
        mirrors.read(f"{server.uri}/x", 1 << 30)
    assert len(server.requests) == 1


def test_what_is_not_there(server: Server, mirrors: Mirrors) -> None:
    server.script = [Answer(404, b"no")]
    with pytest.raises(NotFound):
        mirrors.read(f"{server.uri}/x", 1 << 30)
    assert len(server.requests) == 1


def test_it_gives_up(server: Server, mirrors: Mirrors, waits: FakeClock) -> None:
    server.script = [Answer(503, b"no")]
    with pytest.raises(HostError, match="503"):
        mirrors.read(f"{server.uri}/x", 1 << 30)
    assert len(server.requests) == 6
    assert sum(waits.slept) == pytest.approx(0.5 + 1 + 2 + 4 + 8)


def test_retry_after(server: Server, mirrors: Mirrors, waits: FakeClock) -> None:
    server.script = [Answer(429, b"", {"Retry-After": "7"}), Answer()]
    assert mirrors.read(f"{server.uri}/x", 1 << 30) == BODY
    assert sum(waits.slept) == pytest.approx(7)


def test_retry_after_too_long(server: Server, mirrors: Mirrors) -> None:
    server.script = [Answer(503, b"", {"Retry-After": "3600"})]
    with pytest.raises(HostError) as caught:
        mirrors.read(f"{server.uri}/x", 1 << 30)
    assert "3600 seconds" in (caught.value.hint or "")
    assert len(server.requests) == 1


def test_nobody_listens(server: Server, mirrors: Mirrors) -> None:
    server.close()
    with pytest.raises(HostError, match="refused"):
        mirrors.read(f"{server.uri}/x", 1 << 30)


def test_a_cut_body_goes_on_where_it_was_cut(
    server: Server, mirrors: Mirrors, store: Store
) -> None:
    server.script = [Answer(cut=c) for c in (1, 1000, 70_000, 300_000)] + [Answer()]
    fetch_blob(store, mirrors, [f"{server.uri}/x"], sha256_digest(BODY), len(BODY))
    assert store.has_blob(sha256_digest(BODY))
    assert server.sent < 1.2 * len(BODY)


def test_a_server_without_ranges(server: Server, mirrors: Mirrors, store: Store) -> None:
    server.script = [Answer(cut=1000, ranges=False), Answer(ranges=False)]
    fetch_blob(store, mirrors, [f"{server.uri}/x"], sha256_digest(BODY), len(BODY))
    assert store.has_blob(sha256_digest(BODY))


def test_a_download_outlives_its_process(server: Server, store: Store) -> None:
    """The first one is stopped half way; the second asks for the rest alone."""
    digest, uri = sha256_digest(BODY), f"{server.uri}/x"
    cancel = threading.Event()

    def grew(length: int) -> None:
        if length > len(BODY) // 3:
            cancel.set()

    with Mirrors(cancel) as first, pytest.raises(Interrupted):
        fetch_blob(store, first, [uri], digest, len(BODY), grew)
    with store.partial(str(digest)) as partial:
        have = partial.size
    assert 0 < have < len(BODY)
    with Mirrors() as second:
        path = fetch_blob(store, second, [uri], digest, len(BODY))
    assert Path(path).read_bytes() == BODY
    assert server.requests[-1][1]["Range"] == f"bytes={have}-"


def test_a_wrong_beginning_is_thrown_away(server: Server, mirrors: Mirrors, store: Store) -> None:
    digest = sha256_digest(BODY)
    with store.partial(str(digest)) as partial:
        partial.write(b"something else entirely")
    fetch_blob(store, mirrors, [f"{server.uri}/x"], digest, len(BODY))
    assert store.has_blob(digest)


def test_a_lying_mirror(server: Server, mirrors: Mirrors, store: Store) -> None:
    digest = sha256_digest(BODY)
    server.script = [Answer(body=BODY[:-1] + b"!")]
    with pytest.raises(HostError) as caught:
        fetch_blob(store, mirrors, [f"{server.uri}/x"], digest, len(BODY))
    assert digest in caught.value.message
    assert not store.has_blob(digest)


def test_the_second_address(server: Server, mirrors: Mirrors, store: Store) -> None:
    server.script = [Answer(404, b""), Answer()]
    uris = [f"{server.uri}/by-hash", f"{server.uri}/plain"]
    fetch_blob(store, mirrors, uris, sha256_digest(BODY), len(BODY))
    assert [path for path, _, _ in server.requests] == ["/by-hash", "/plain"]


def test_a_redirect_to_the_same_server_keeps_the_login(server: Server, mirrors: Mirrors) -> None:
    server.script = [Answer(302, b"", {"Location": "/y"}), Answer()]
    uri = server.uri.replace("http://", "http://me:secret@")
    assert mirrors.read(f"{uri}/x", 1 << 30) == BODY
    assert ["Authorization" in headers for _, headers, _ in server.requests] == [True, True]


def test_a_redirect_elsewhere_goes_without_the_login(
    server: Server, mirrors: Mirrors, store: Store
) -> None:
    other = Server()
    try:
        server.script = [Answer(302, b"", {"Location": f"{other.uri}/y"})]
        uri = server.uri.replace("http://", "http://me:secret@")
        assert mirrors.read(f"{uri}/x", 1 << 30) == BODY
        ((_, headers, _),) = other.requests
        assert "Authorization" not in headers
    finally:
        other.close()


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_away_from_http(server: Server, mirrors: Mirrors, place: str) -> None:
    server.script = [Answer(302, b"", {"Location": place})]
    with pytest.raises(HostError, match="no http or https address"):
        mirrors.read(f"{server.uri}/x", 1 << 30)


def test_endless_redirects(server: Server, mirrors: Mirrors) -> None:
    server.script = [Answer(302, b"", {"Location": "/x"})]
    with pytest.raises(HostError, match="more than 10 times"):
        mirrors.read(f"{server.uri}/x", 1 << 30)
    assert len(server.requests) == 11


def test_connections_are_kept(server: Server, mirrors: Mirrors) -> None:
    for _ in range(5):
        mirrors.read(f"{server.uri}/x", 1 << 30)
    assert len({port for _, _, port in server.requests}) == 1


def test_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.uri.replace("http://", "http://me:secret@"))
    monkeypatch.delenv("no_proxy", raising=False)
    with Mirrors() as mirrors:
        assert mirrors.read("http://mirror.example/debian/x?y", 1 << 30) == BODY
    ((path, headers, _),) = server.requests
    assert path == "http://mirror.example/debian/x?y"
    assert headers["Host"] == "mirror.example"
    assert "Proxy-Authorization" in headers


def test_files(tmp_path: Path, mirrors: Mirrors) -> None:
    (tmp_path / "a b").write_bytes(b"x")
    assert mirrors.read(f"file:{tmp_path}/a%20b", 10) == b"x"
    with pytest.raises(NotFound):
        mirrors.read(f"file://{tmp_path}/c", 10)


def test_a_file_that_is_too_long(tmp_path: Path, mirrors: Mirrors) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(HostError, match="longer than 4 bytes"):
        mirrors.read(f"file:{tmp_path}/a", 4)


def test_cancelling(server: Server) -> None:
    cancel = threading.Event()
    cancel.set()
    with Mirrors(cancel) as mirrors, pytest.raises(Interrupted):
        mirrors.read(f"{server.uri}/x", 10)
    assert not server.requests
