"""Knows how a real registry server is run for a test, with or without TLS, passwords and tokens;
must not know what is kept in it.

The server is Debian's `docker-registry`, on a port of loopback, with a directory of its own.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

PROGRAM = shutil.which("docker-registry")
USER, PASSWORD = "keeper", "s3cret-of-the-keeper"


@dataclass(frozen=True)
class RegistryServer:
    """A running server."""

    host: str  # 127.0.0.1:port
    home: Path
    scheme: str
    ca: Path | None
    pid: int

    def get(self, path: str) -> bytes:
        """Return what the server says to an anonymous GET."""
        with urllib.request.urlopen(f"{self.scheme}://{self.host}{path}", timeout=10) as answer:
            data = answer.read()
        assert isinstance(data, bytes)
        return data


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


def bcrypt(password: str) -> str:
    """Return a password as a htpasswd file holds it; crypt(3)."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    found = crypt(password.encode(), b"$2b$05$abcdefghijklmnopqrstuu")
    assert isinstance(found, bytes)
    return found.decode()


def certificate(home: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that signs itself; return it and its key."""
    cert, key = home / "ca.crt", home / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "30", "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(cert),
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@contextlib.contextmanager
def registry(
    *, tls: bool = False, password: bool = False, token_realm: str = "", root_cert: str = ""
) -> Iterator[RegistryServer]:
    """Run a registry until the context is left."""
    if PROGRAM is None:
        pytest.skip("machine: docker-registry is not installed")
    home = Path(tempfile.mkdtemp(prefix="bg-registry-"))
    port = free_port()
    lines = [
        "version: 0.1",
        "log: {level: error, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {home}/data}}, delete: {{enabled: true}}}}",
        f"http:\n  addr: 127.0.0.1:{port}",
    ]
    cert = None
    if tls:
        cert, key = certificate(home)
        lines.append(f"  tls: {{certificate: {cert}, key: {key}}}")
    if password:
        (home / "htpasswd").write_text(f"{USER}:{bcrypt(PASSWORD)}\n")
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {home}/htpasswd}}}}")
    if token_realm:
        lines.append(
            f"auth: {{token: {{realm: '{token_realm}', service: test, issuer: test, "
            f"rootcertbundle: {root_cert}}}}}"
        )
    (home / "config.yml").write_text("\n".join(lines) + "\n")
    scheme = "https" if tls else "http"
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "serve", str(home / "config.yml")], stdout=log, stderr=log
        )
    try:
        _wait(f"127.0.0.1:{port}", process, home)
        yield RegistryServer(f"127.0.0.1:{port}", home, scheme, cert, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        shutil.rmtree(home)


def _wait(host: str, process: subprocess.Popen[bytes], home: Path) -> None:
    end = time.monotonic() + 20
    name, _, port = host.partition(":")
    while time.monotonic() < end:
        assert process.poll() is None, (home / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection((name, int(port)), 1):
            return
        time.sleep(0.02)
    raise AssertionError("the registry does not answer: " + (home / "log").read_text())


# --- a token server ------------------------------------------------------------------------------


class TokenServer:
    """Gives tokens that the registry believes, signed by a key of its own; counts what it gave."""

    def __init__(self, home: Path, *, seconds: int = 60):
        self.cert, self.key = certificate(home)
        self.seconds = seconds
        self.scopes: list[tuple[str, ...]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                if self.headers.get("Authorization") != expected:
                    self.send_error(401)
                    return
                scopes = tuple(query.get("scope", []))
                outer.scopes.append(scopes)
                body = json.dumps({"token": outer.sign(scopes), "expires_in": outer.seconds})
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *words: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def sign(self, scopes: tuple[str, ...]) -> str:
        """Return a JWT (RFC 7519, ES256) that allows what was asked for."""
        der = subprocess.run(
            ["openssl", "x509", "-in", str(self.cert), "-outform", "DER"],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {"iss": "test", "sub": USER, "aud": "test", "exp": now + 3600, "nbf": now - 60,
                  "iat": now, "jti": os.urandom(8).hex(), "access": access}  # fmt: skip
        text = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.key)],
            input=text.encode(), check=True, capture_output=True,
        ).stdout  # fmt: skip
        return f"{text}.{_b64(_raw_signature(signature))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _raw_signature(der: bytes) -> bytes:
    """Return r and s of an ECDSA signature, 32 bytes each (RFC 7518, 3.4)."""
    at = 2
    out = b""
    for _ in range(2):
        length = der[at + 1]
        number = int.from_bytes(der[at + 2 : at + 2 + length])
        out += number.to_bytes(32)
        at += 2 + length
    return out
