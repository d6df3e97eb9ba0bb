from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildgraph.errors import Interrupted
from buildgraph.transport.client import Client
from buildgraph.transport.failures import Refused, TransportError, Unreachable
from buildgraph.transport.messages import Request
from buildgraph.transport.pool import Settings, Tls
from buildgraph.transport.sockets import Address, resolve
from buildgraph.transport.urls import parse_url
from unit.transport.scripted_server import End, FakeClock, Seen, Server, head, reply

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="machine: openssl is missing")


@dataclass(frozen=True)
class Authority:
    """A certificate for a.example and 127.0.0.1 that vouches for itself."""

    cert: Path
    context: ssl.SSLContext

    def client(self, *, trusted: bool = True, verify: bool = True, stall: float = 60.0) -> Client:
        tls = Tls((str(self.cert),) if trusted else (), verify=verify)

        def resolver(host: str, port: int) -> list[Address]:
            return resolve("127.0.0.1", port)

        settings = Settings(
            tls=lambda origin: tls, resolver=resolver, stall_timeout=stall, connect_timeout=stall
        )
        return Client(settings, clock=FakeClock())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    top = tmp_path_factory.mktemp("tls")
    cert, key = top / "cert.pem", top / "key.pem"
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=a.example"
    )
    names = "subjectAltName=DNS:a.example,IP:127.0.0.1"
    subprocess.run(
        ["openssl", *words.split(), "-addext", names, "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return Authority(cert, context)


def read(client: Client, url: str) -> bytes:
    with client:
        return client.read(Request("GET", parse_url(url)), 1 << 20, 200)[1]


def test_a_trusted_server_is_spoken_to(authority: Authority) -> None:
    with Server(lambda seen: reply(200, b"x" * 100_000), authority.context) as server:
        with authority.client() as client:
            for host in (None, "a.example", None):
                request = Request("GET", parse_url(server.url(host=host)))
                assert len(client.read(request, 1 << 20)[1]) == 100_000
        assert [seen.connection for seen in server.seen] == [1, 2, 1]


def test_an_unknown_authority_and_a_wrong_name_are_refused_at_once(authority: Authority) -> None:
    with Server(lambda seen: reply(200), authority.context) as server:
        with pytest.raises(TransportError, match="certificate of .* is not trusted") as caught:
            read(authority.client(trusted=False), server.url())
        assert "SSL_CERT_FILE" in (caught.value.hint or "")
        with pytest.raises(TransportError, match=r"not trusted: .*evil\.example"):
            read(authority.client(), server.url(host="evil.example"))
        assert server.seen == []
        assert read(authority.client(trusted=False, verify=False), server.url()) == b""


def test_a_redirect_never_gives_up_on_tls(authority: Authority) -> None:
    with Server(lambda seen: reply(200)) as plain:
        place = {"Location": plain.url()}
        with Server(lambda seen: reply(302, fields=place), authority.context) as server:
            with pytest.raises(Refused, match="from https to http"):
                read(authority.client(), server.url())
        assert plain.seen == []


def test_a_stall_inside_tls_ends_and_so_does_a_stopped_build(authority: Authority) -> None:
    def answer(seen: Seen) -> Iterable[bytes | End]:
        return (head(200, {"Content-Length": 100}), b"x", End.STALL)

    with Server(answer, authority.context) as server:
        with pytest.raises(Unreachable, match="nothing came or went for 0.3 seconds"):
            read(authority.client(stall=0.3), server.url())
        cancel = threading.Event()
        threading.Timer(0.1, cancel.set).start()
        with authority.client() as client, pytest.raises(Interrupted):
            client.read(Request("GET", parse_url(server.url()), cancel=cancel), 1000)


def test_a_server_that_speaks_no_tls(authority: Authority) -> None:
    with Server(lambda seen: reply(200)) as server:
        with pytest.raises(Unreachable):
            read(authority.client(stall=0.05), server.url().replace("http:", "https:"))
