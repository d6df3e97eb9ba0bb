"""Knows how to make one HTTP request over a given connection; must not know what is expected of the
answer.

No redirect is followed, no proxy asked, no environment read: what is tested is this one service.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from buildgraph.boxfile.smoke import HttpCheck
from buildgraph.engine.smoke.world import World
from buildgraph.limits import MIB

BODY_BYTES: Final = 4 * MIB  # of an answer; the rest is not read


class Answer(Struct, frozen=True):
    """What came back."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def told(self, lines: int = 20) -> str:
        """Return status line, headers and the beginning of the body."""
        head = [f"{self.status} {self.reason}".rstrip()]
        head += [f"{name}: {value}" for name, value in self.headers]
        text = self.body[:2000].decode("utf-8", "backslashreplace")
        body = text.splitlines()
        more = ["…"] if len(body) > lines or len(self.body) > 2000 else []
        return "\n".join([*head, "", *body[:lines], *more]).rstrip()


class _Connection(http.client.HTTPConnection):
    """An HTTP connection whose socket somebody else makes."""

    def __init__(self, host: str, port: int, dial: Callable[[], object]):
        super().__init__(host, port)
        self._dial = dial

    def connect(self) -> None:
        """Take the socket."""
        self.sock = self._dial()


def make_request(check: HttpCheck, world: World, timeout: float) -> Answer:
    """Make the request of a check. Raises OSError (of ssl, TimeoutError too) and HTTPException."""
    url = urlsplit(check.url)
    secure = url.scheme == "https"
    host, port = url.hostname or "", url.port or (443 if secure else 80)

    def dial() -> object:
        sock = world.connect(host, port, timeout)
        sock.settimeout(timeout)
        if not secure:
            return sock
        try:
            return _context(check, world).wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise

    connection = _Connection(host, port, dial)
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        body = None if check.body is None else check.body.encode("utf-8", "surrogateescape")
        connection.putrequest(check.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in _headers(check, url.netloc.rpartition("@")[2], body):
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        headers = tuple((name, value) for name, value in response.getheaders())
        return Answer(response.status, response.reason, headers, response.read(BODY_BYTES))
    finally:
        connection.close()


def _headers(check: HttpCheck, host: str, body: bytes | None) -> list[tuple[str, str]]:
    given = {name.lower() for name, _ in check.headers}
    ours = [("Host", host), ("User-Agent", "buildgraph"), ("Accept", "*/*")]
    ours.append(("Connection", "close"))
    if body is not None:
        ours.append(("Content-Length", str(len(body))))
    return [*((n, v) for n, v in ours if n.lower() not in given), *check.headers]


def _context(check: HttpCheck, world: World) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if check.ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=world.read_package_file(check.ca).decode("ascii"))
    if not check.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def told(check: HttpCheck) -> str:
    """Return the request as a report shows it."""
    lines = [f"{check.method} {check.url}", *(f"{n}: {v}" for n, v in check.headers)]
    return "\n".join([*lines, *([] if check.body is None else ["", check.body[:1000]])])
