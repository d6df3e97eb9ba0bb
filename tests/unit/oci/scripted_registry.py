"""Knows how a registry behaves that does what it is told to: a small honest one on loopback, with
faults put in its way one request at a time; must not know what a client makes of them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]
    size: int = 0

    @property
    def line(self) -> str:
        """Method and path without the repository, digests shortened."""
        path = re.sub(r"sha256:([0-9a-f]{6})[0-9a-f]*", r"\1", urlsplit(self.path).path)
        return f"{self.method} {path}"


@dataclass
class Fault:
    """What happens to a request instead of the honest answer, the first `times` that it comes."""

    method: str
    path: str  # a regular expression
    act: Callable[[Handler], None]
    times: int = 1


@dataclass
class Registry:
    """What the server holds and what it was asked."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # tag or digest
    uploads: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    ranges: bool = True
    referrers: bool = True  # whether it keeps account of them (OCI 1.1)
    auth: str = ""  # "basic" or "token": what it asks for
    login: str = "keeper:s3cret"  # whom it lets in
    tokens: dict[str, int] = field(default_factory=dict)  # how many requests each is good for yet
    token_uses: int = 999
    token_seconds: int = 300  # what it says
    page: int = 0  # how many referrers it tells at once; 0 = all
    host: str = ""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def lines(self, *methods: str) -> list[str]:
        """Return what was asked, without the greeting."""
        return [a.line for a in self.asked if a.path != "/v2/" and a.method in (methods or METHODS)]

    def fail(self, method: str, path: str, act: Callable[[Handler], None], times: int = 1) -> None:
        self.faults.append(Fault(method, path, act, times))

    def add_blob(self, data: bytes) -> str:
        self.blobs[sha256(data)] = data
        return sha256(data)

    def add_manifest(self, value: object, *names: str, kind: str = MANIFEST) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        for name in (*names, sha256(data)):
            self.manifests[name] = (kind, data)
        return sha256(data)


METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the book, unless a fault stands in the way."""

    protocol_version = "HTTP/1.1"
    registry: Registry

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole answer; `_` in a header's name stands for `-`."""
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self) -> None:
        registry = self.registry
        length = int(self.headers.get("Content-Length") or 0)
        asked = Asked(self.command, self.path, dict(self.headers), length)
        registry.asked.append(asked)
        for fault in registry.faults:
            if fault.times and fault.method == self.command and re.search(fault.path, self.path):
                fault.times -= 1
                fault.act(self)
                return
        body = self.rfile.read(length)
        if urlsplit(self.path).path == "/token":
            self.token()
            return
        if not self.allowed():
            self.answer(401, WWW_Authenticate=self.challenge())
            return
        getattr(self, f"on_{self.command.lower()}")(urlsplit(self.path), body)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = handle_any  # noqa: N815

    def challenge(self) -> str:
        """Return what it asks for."""
        if self.registry.auth == "basic":
            return 'Basic realm="test"'
        return f'Bearer realm="http://{self.registry.host}/token",service="test"'

    def allowed(self) -> bool:
        """Say whether a request says who it is; a token gets used up."""
        registry = self.registry
        kind, _, said = (self.headers.get("Authorization") or "").partition(" ")
        if not registry.auth:
            return True
        if registry.auth == "basic":
            return (kind, said) == ("Basic", base64.b64encode(registry.login.encode()).decode())
        left = registry.tokens.get(said, 0)
        registry.tokens[said] = left - 1
        return kind == "Bearer" and left > 0

    def token(self) -> None:
        """Give a token to whoever has the password."""
        registry = self.registry
        login = "Basic " + base64.b64encode(registry.login.encode()).decode()
        if self.headers.get("Authorization") != login:
            self.answer(401)
            return
        value = f"token{len(registry.tokens)}"
        registry.tokens[value] = registry.token_uses
        told = {"token": value, "expires_in": registry.token_seconds}
        self.answer(200, json.dumps(told).encode())

    def on_get(self, url: object, body: bytes) -> None:
        registry = self.registry
        path = urlsplit(self.path).path
        if path == "/v2/":
            self.answer(200, b"{}")
        elif found := re.search(r"/manifests/([^/]+)$", path):
            if found[1] not in registry.manifests:
                self.answer(404)
                return
            kind, data = registry.manifests[found[1]]
            self.answer(200, data, Content_Type=kind, Docker_Content_Digest=sha256(data))
        elif found := re.search(r"/blobs/uploads/(\w+)$", path):
            if found[1] not in registry.uploads:
                self.answer(404)
                return
            have = len(registry.uploads[found[1]])
            self.answer(204, Location=self.path, Range=f"0-{max(have - 1, 0)}")
        elif found := re.search(r"/blobs/(sha256:\w+)$", path):
            self.blob(found[1])
        elif (found := re.search(r"/referrers/(sha256:\w+)$", path)) and registry.referrers:
            self.referrers(found[1])
        else:
            self.answer(404)

    on_head = on_get

    def blob(self, digest: str) -> None:
        data = self.registry.blobs.get(digest)
        if data is None:
            self.answer(404)
            return
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and self.registry.ranges:
            start = int(wanted[1])
            told = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], Content_Range=told)
        else:
            self.answer(200, data)

    def referrers(self, digest: str) -> None:
        """Tell what refers to a digest: a page, from the entry the query names."""
        query = parse_qs(urlsplit(self.path).query)
        entries = []
        for name, (kind, data) in sorted(self.registry.manifests.items()):
            value = json.loads(data)
            wanted = query.get("artifactType", [value.get("artifactType")])
            if name != sha256(data) or value.get("subject", {}).get("digest") != digest:
                continue
            if value.get("artifactType") in wanted:
                entry = {"mediaType": kind, "digest": name, "size": len(data)}
                for key in ("artifactType", "annotations"):
                    entry |= {key: value[key]} if key in value else {}
                entries.append(entry)
        start = int(query.get("from", ["0"])[0])
        end = start + (self.registry.page or len(entries))
        told = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries[start:end]}
        more = {"OCI_Filters_Applied": "artifactType"} if "artifactType" in query else {}
        if end < len(entries):
            place = urlsplit(self.path).path
            more["Link"] = f'<{place}?from={end}>; rel="next"'
        self.answer(200, json.dumps(told).encode(), Content_Type=INDEX, **more)

    def on_post(self, url: object, body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "mount" in query and query["mount"][0] in self.registry.blobs:
            self.answer(201)
            return
        name = f"u{next(self.registry.numbers)}"
        self.registry.uploads[name] = b""
        base = re.sub(r"/blobs/uploads/.*", "/blobs/uploads/", self.path)
        self.answer(202, Location=f"{base}{name}?state=a%2Fb", Range="0-0")

    def on_patch(self, url: object, body: bytes) -> None:
        name = urlsplit(self.path).path.rpartition("/")[2]
        start = int((self.headers.get("Content-Range") or "0-").partition("-")[0])
        have = self.registry.uploads[name]
        if start != len(have):
            self.answer(416, Location=self.path, Range=f"0-{len(have) - 1}")
            return
        self.registry.uploads[name] = have + body
        self.answer(202, Location=self.path, Range=f"0-{len(have + body) - 1}")

    def on_put(self, url: object, body: bytes) -> None:
        parts = urlsplit(self.path)
        if "/manifests/" in parts.path:
            name = parts.path.rpartition("/")[2]
            kind = self.headers.get("Content-Type") or ""
            value = json.loads(body)
            subject = value.pop("subject", {}).get("digest")  # need not be there
            missing = [
                d
                for d in re.findall(r'"digest": "(sha256:\w+)"', json.dumps(value))
                if d not in self.registry.blobs and d not in self.registry.manifests
            ]
            if missing:
                self.answer(400, b"unknown blob")
                return
            self.registry.add_manifest(body, name, kind=kind)
            more = {"OCI_Subject": subject} if subject and self.registry.referrers else {}
            self.answer(201, Docker_Content_Digest=sha256(body), **more)
            return
        name = parts.path.rpartition("/")[2]
        if name not in self.registry.uploads:
            self.answer(404)
            return
        data = self.registry.uploads.pop(name) + body
        if parse_qs(parts.query)["digest"] != [sha256(data)]:
            self.answer(400, b"digest invalid")
            return
        self.registry.add_blob(data)
        self.answer(201)

    def log_message(self, *words: object) -> None:
        pass


# --- faults --------------------------------------------------------------------------------------


def status(code: int, body: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    def act(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.answer(code, body, **headers)

    return act


def reset(handler: Handler) -> None:
    """Drop the connection as a crashed machine does."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    handler.connection.close()


def cut_body(count: int) -> Callable[[Handler], None]:
    """Answer a blob and stop after `count` of the bytes that were asked for."""

    def act(handler: Handler) -> None:
        digest = handler.path.rpartition("/")[2]
        data = handler.registry.blobs[digest]
        wanted = re.match(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        told = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        handler.answer(
            206 if wanted else 200,
            data[start : start + count],
            Content_Length=str(len(data) - start),
            **told,
        )
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    return act


def swallow(count: int) -> Callable[[Handler], None]:
    """Take `count` bytes of an upload's piece, keep them, and drop the connection."""

    def act(handler: Handler) -> None:
        data = handler.rfile.read(count)
        name = urlsplit(handler.path).path.rpartition("/")[2]
        handler.registry.uploads[name] += data
        reset(handler)

    return act


def forget(handler: Handler) -> None:
    """Do not know an upload any more."""
    handler.registry.uploads.clear()
    status(404)(handler)


def silent_put(handler: Handler) -> None:
    """Take a blob and drop the connection before the answer."""
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    name = urlsplit(handler.path).path.rpartition("/")[2]
    handler.registry.add_blob(handler.registry.uploads.pop(name) + body)
    reset(handler)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections are dropped on purpose."""


@contextlib.contextmanager
def serving(registry: Registry) -> Iterator[Registry]:
    """Run the server until the context is left."""
    handler = type("H", (Handler,), {"registry": registry})
    server = _Server(("127.0.0.1", 0), handler)
    registry.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
