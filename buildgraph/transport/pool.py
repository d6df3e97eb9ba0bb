"""Knows how one request goes over one connection, and keeps connections for the next; the only
module that touches urllib3. Must not know about redirects, retries or credentials.

urllib3's connections do the framing, the TLS handshake and the check of certificates; which
address they lead to, how long a wait may be and who is kept is decided here.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from buildgraph.errors import BuildgraphError, HostError
from buildgraph.transport.addresses import AddressPolicy, literal_zone
from buildgraph.transport.failures import Again, Refused, TransportError
from buildgraph.transport.headers import Headers
from buildgraph.transport.messages import IDEMPOTENT, Body, Response
from buildgraph.transport.proxies import Proxies
from buildgraph.transport.sockets import (
    CannotConnect,
    Patient,
    PatientTls,
    Resolver,
    dial,
    resolve,
)
from buildgraph.transport.urls import Origin, Url

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection
    from urllib3.response import HTTPResponse

HEADER_BYTES: Final = 256 * 1024  # of one response, all fields together
_KEPT_EACH: Final = 8  # idle connections of one origin
_KEPT_SECONDS: Final = 60.0
_AGENT: Final = "buildgraph"
_LOST: Final = (BrokenPipeError, ConnectionResetError)


class Tls(Struct, frozen=True):
    """How a server's certificate is checked, and ours shown. Paths of PEM files."""

    ca_files: tuple[str, ...] = ()  # besides the system's; $SSL_CERT_FILE replaces those
    client_cert: str | None = None
    client_key: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Return a new context. Raises HostError for files that cannot be used."""
        try:
            context = ssl.create_default_context()
            for name in self.ca_files:
                context.load_verify_locations(name)
            if self.client_cert is not None:
                context.load_cert_chain(self.client_cert, self.client_key)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(filter(None, (*self.ca_files, self.client_cert)))
            raise HostError(f"cannot use the certificates in {names}: {error}") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.sslsocket_class = PatientTls
        return context


class Settings(Struct, frozen=True):
    """How connections are made. Seconds; `tls` says how to check an origin."""

    proxies: Proxies = field(default_factory=Proxies)
    connect_timeout: float = 15.0  # over all addresses of a host
    stall_timeout: float = 60.0  # without a byte
    tls: Callable[[Origin], Tls] = lambda origin: Tls()
    resolver: Resolver = resolve


class _Lent(Struct):
    """A connection in use: by one thread, for one request."""

    connection: HTTPConnection
    origin: Origin
    peer: str
    fresh: bool
    proxied: bool
    since: float = 0.0


class Pool:
    """Connections by origin; threads may share it. Close it when done."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._idle: dict[Origin, list[_Lent]] = {}
        self._contexts: dict[Tls, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close what is idle; idempotent."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for lent in (one for row in idle.values() for one in row):
            lent.connection.close()

    def exchange(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        body: Body | None,
        policy: AddressPolicy,
        cancel: threading.Event,
    ) -> Response:
        """Send one request and return the head of its response.

        A kept connection that the server has closed meanwhile is replaced once. Raises Again for
        what may pass, Refused, TransportError, Interrupted.
        """
        self._check_literal(url, policy)
        while True:
            lent = self._take(url, cancel)
            keep = False
            try:
                if not lent.proxied:
                    policy.check(url.shown, lent.peer)
                raw = self._ask(lent, method, url, headers, body)
                keep = True
                break
            except Refused:
                raise
            except Exception as error:
                # A server may hang up on an idle connection just when we use it again. Whether it
                # has seen a body is not known, so only what may be sent twice is (RFC 9110, 9.2.2).
                harmless = body is None or method in IDEMPOTENT
                stale = not lent.fresh and isinstance(error, _stale_errors())
                if stale and harmless and not cancel.is_set():
                    continue
                raise _translated(error, url, lent.proxied) from error
            finally:
                if not keep:
                    lent.connection.close()
        stream = _Body(self, lent, raw, url)
        fields = Headers((str(n), str(v)) for n, v in raw.headers.items())
        if sum(len(n) + len(v) for n, v in fields) > HEADER_BYTES:
            stream.close()
            raise TransportError(f"{url.shown} answers with more than {HEADER_BYTES} header bytes")
        peer = "" if lent.proxied else lent.peer
        return Response(raw.status, raw.reason or "", fields, url, peer, stream)

    def give_back(self, lent: _Lent) -> None:
        """Keep a connection whose response was read to the end."""
        lent.fresh = False
        lent.since = time.monotonic()
        _watch(lent.connection.sock, None, self._settings.stall_timeout)
        with self._lock:
            row = self._idle.setdefault(lent.origin, [])
            if len(row) < _KEPT_EACH:
                row.append(lent)
                return
        lent.connection.close()

    def _check_literal(self, url: Url, policy: AddressPolicy) -> None:
        """What a proxy connects to is seen by nobody here, but a literal address can be judged."""
        if literal_zone(url.origin.host) is not None:
            policy.check(url.shown, url.origin.host)

    def _take(self, url: Url, cancel: threading.Event) -> _Lent:
        origin = url.origin
        while True:
            with self._lock:
                row = self._idle.get(origin)
                lent = row.pop() if row else None
            if lent is None:
                break
            if lent.connection.is_connected and time.monotonic() - lent.since < _KEPT_SECONDS:
                _watch(lent.connection.sock, cancel, self._settings.stall_timeout)
                return lent
            lent.connection.close()
        return self._connect(url, cancel)

    def _connect(self, url: Url, cancel: threading.Event) -> _Lent:
        origin, settings = url.origin, self._settings
        proxy = settings.proxies.for_origin(origin)
        via = origin if proxy is None else proxy.origin
        connection, peer = self._new(origin, via, cancel)
        try:
            if proxy is not None and origin.scheme == "https":
                login = {"Proxy-Authorization": proxy.basic} if proxy.basic else {}
                connection.set_tunnel(origin.host, origin.port, login, scheme="http")
            connection.connect()
            connection.timeout = settings.stall_timeout
            _watch(connection.sock, cancel, settings.stall_timeout)
        except Exception as error:
            connection.close()
            raise _translated(error, url, proxy is not None, via) from error
        except BaseException:
            connection.close()
            raise
        return _Lent(connection, origin, peer[0], True, proxy is not None)

    def _new(
        self, origin: Origin, via: Origin, cancel: threading.Event
    ) -> tuple[HTTPConnection, list[str]]:
        from urllib3.connection import HTTPConnection, HTTPSConnection

        settings = self._settings
        peer: list[str] = []

        def connected(_: object) -> socket.socket:
            found = settings.resolver(via.host, via.port)
            sock = dial(found, settings.connect_timeout, cancel)
            peer.append(str(sock.getpeername()[0]))
            _watch(sock, cancel, settings.connect_timeout)
            sock.settimeout(settings.connect_timeout)
            return sock

        class Plain(HTTPConnection):
            _new_conn = connected

        class Secure(HTTPSConnection):
            _new_conn = connected

        timeout = settings.connect_timeout
        if origin.scheme == "http":
            return Plain(via.host, via.port, timeout=timeout, blocksize=1 << 16), peer
        context = self._context(settings.tls(origin))
        secure = Secure(via.host, via.port, timeout=timeout, ssl_context=context, blocksize=1 << 16)
        if context.verify_mode == ssl.CERT_NONE:
            secure.assert_hostname = False
        return secure, peer

    def _context(self, tls: Tls) -> ssl.SSLContext:
        with self._lock:
            context = self._contexts.get(tls)
            if context is None:
                context = self._contexts[tls] = tls.context()
            return context

    def _ask(
        self, lent: _Lent, method: str, url: Url, headers: Mapping[str, str], body: Body | None
    ) -> HTTPResponse:
        target = url.target
        fields = {
            "Host": url.origin.netloc,
            "User-Agent": _AGENT,
            "Accept-Encoding": "identity",
            **headers,
        }
        if lent.proxied and url.origin.scheme == "http":
            target = str(url)
            proxy = self._settings.proxies.for_origin(url.origin)
            if proxy is not None and proxy.basic:
                fields["Proxy-Authorization"] = proxy.basic
        payload: Any = body() if callable(body) else body
        try:
            lent.connection.request(
                method,
                target,
                payload,
                fields,
                preload_content=False,
                decode_content=False,
                enforce_content_length=True,
            )
        except _LOST:
            if body is None:
                raise
            # A server may say no before it has read everything, and then stop reading.
        finally:
            if payload is not None and hasattr(payload, "close"):
                payload.close()
        return lent.connection.getresponse()


class _Body:
    """The body of one response."""

    def __init__(self, pool: Pool, lent: _Lent, raw: HTTPResponse, url: Url):
        self._pool = pool
        self._lent = lent
        self._raw = raw
        self._url = url
        self._open = True
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return some bytes, b"" at the end. Raises Again where the body was cut."""
        if not self._open or self._ended:
            return b""
        try:
            data: bytes = self._raw.read1(size)
        except Exception as error:
            self._drop()
            raise _translated(error, self._url, self._lent.proxied) from error
        except BaseException:
            self._drop()
            raise
        if not data:
            left = self._raw.length_remaining
            if left:
                self._drop()
                raise Again(f"the connection was closed {left} bytes early")
            self._ended = True
        return data

    def close(self) -> None:
        """Keep the connection if the body was read to its end, else drop it; idempotent."""
        if not self._open:
            return
        if self._raw.length_remaining == 0:
            self._ended = True
        connection = self._lent.connection
        self._open = False
        # http.client has closed the connection already where the server wants that.
        if self._ended and connection.sock is not None:
            self._raw.close()
            self._pool.give_back(self._lent)
        else:
            self._drop()

    def _drop(self) -> None:
        self._open = False
        self._raw.close()
        self._lent.connection.close()


def _watch(sock: object, cancel: threading.Event | None, stall: float) -> None:
    if isinstance(sock, Patient | PatientTls):
        sock.cancelled = cancel
        sock.stall = stall


def _stale_errors() -> tuple[type[Exception], ...]:
    import http.client

    from urllib3.exceptions import ProtocolError

    return (*_LOST, http.client.BadStatusLine, ProtocolError)


def _translated(error: Exception, url: Url, proxied: bool, via: Origin | None = None) -> Exception:
    """Return what an exception of the network means: Again where it may pass."""
    import http.client

    from urllib3.exceptions import HTTPError, IncompleteRead

    if isinstance(error, BuildgraphError | Again):
        return error
    cause = _root(error)
    for one in (error, cause):
        if isinstance(one, IncompleteRead | http.client.IncompleteRead):
            left = f"{one.expected} bytes early" if one.expected else "in the middle"
            return Again(f"{url.origin.netloc} closed the connection {left}")
    host = url.origin.netloc if via is None else via.netloc
    if proxied:
        host = f"the proxy {host}" if via is not None else f"{host}, through the proxy"
    if isinstance(cause, ssl.SSLCertVerificationError | socket.gaierror):
        return _of_the_host(cause, url, host)
    if isinstance(cause, CannotConnect):
        return Again(f"cannot connect to {host}: {cause}")
    if isinstance(cause, OSError | http.client.HTTPException | HTTPError):
        text = str(cause) or type(cause).__name__
        return Again(f"{host}: {text[:300]}")
    return error


def _of_the_host(
    cause: ssl.SSLCertVerificationError | socket.gaierror, url: Url, host: str
) -> Exception:
    """Return what it means that a host cannot be found or trusted."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TransportError(
            f"{url.shown}: the certificate of {url.origin.netloc} is not trusted: "
            f"{cause.verify_message or cause.reason}",
            hint="if it is of an authority of your own, name that in SSL_CERT_FILE",
        )
    if cause.errno == socket.EAI_NONAME:
        return TransportError(
            f"{url.shown}: nobody knows the host {host}", hint="is it spelled right?"
        )
    return Again(f"the name of {host} cannot be looked up: {cause.strerror}")


def _root(error: BaseException) -> BaseException:
    """Return what lies below urllib3's and http.client's own exceptions."""
    seen = 0
    while seen < 5 and type(error).__module__.startswith("urllib3"):
        below = error.__cause__ or error.__context__
        if below is None:
            break
        error, seen = below, seen + 1
    return error
