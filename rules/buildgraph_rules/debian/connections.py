"""Knows how to ask an http or https server through the proxies of the environment, keeping
connections for the next request; must not know about retries or what is fetched.

Connections are kept because an image is a hundred small files: without that, each would pay for
a name lookup, a handshake and a slow start.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
import urllib.request
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from buildgraph.errors import HostError

CONNECT_SECONDS: Final = 15.0  # for each address: one that does not answer must not hold us up
_REDIRECTS: Final = 10
_REDIRECTED: Final = frozenset({301, 302, 303, 307, 308})
_DRAINED: Final = 64 * 1024  # a longer body of a redirect costs more than a new connection
_PORTS: Final = {"http": 80, "https": 443}

Origin = tuple[str, str, int]  # scheme, host, port


@dataclass(slots=True)
class Answer:
    """A response being read; `close` it when done, or with the rest unread."""

    response: http.client.HTTPResponse
    _connections: Connections
    _origin: Origin
    _connection: http.client.HTTPConnection

    def close(self) -> None:
        """Keep the connection if the body has been read to its end, else drop it."""
        self._connections.give_back(self._origin, self._connection, self.response)


class Connections:
    """Idle connections by origin; threads may share it. Close it when done."""

    def __init__(self, stall: float):
        self._stall = stall
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._proxies = urllib.request.getproxies()
        self._context: ssl.SSLContext | None = None

    def close(self) -> None:
        """Close what is idle; idempotent."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def get(self, uri: str, headers: dict[str, str]) -> Answer:
        """Return the answer after redirects.

        A login in `uri` goes to its own origin only. Raises HostError for a redirect that leads
        away from http or from https to http, OSError and HTTPException for the network's errors.
        """
        login = _login(urlsplit(uri))
        first = _origin(urlsplit(uri))
        for _ in range(_REDIRECTS + 1):
            parts = urlsplit(uri)
            origin = _origin(parts)
            extra = {"Authorization": login} if login and origin == first else {}
            answer = self._ask(origin, parts, {**headers, **extra})
            place = answer.response.headers.get("Location")
            if answer.response.status not in _REDIRECTED or not place:
                return answer
            answer.response.read(_DRAINED)
            answer.close()
            uri = urljoin(uri, place)
            scheme = urlsplit(uri).scheme
            if scheme not in _PORTS or (parts.scheme == "https" and scheme == "http"):
                raise HostError(f"{parts.hostname} redirects from {parts.scheme} to {scheme}")
        raise HostError(f"{first[1]} redirects more than {_REDIRECTS} times")

    def give_back(
        self,
        origin: Origin,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        """Take a connection back after a response."""
        whole = response.isclosed() or response.length == 0  # read1() leaves it open at the end
        response.close()
        if whole and not response.will_close:
            with self._lock:
                self._idle.setdefault(origin, []).append(connection)
        else:
            connection.close()

    def _ask(self, origin: Origin, parts: SplitResult, headers: dict[str, str]) -> Answer:
        with self._lock:
            idle = self._idle.get(origin)
            kept = idle.pop() if idle else None
        proxy = self._proxy(origin)
        if kept is not None:
            try:
                return self._send(kept, origin, parts, headers, proxy)
            except (OSError, http.client.HTTPException):
                kept.close()  # the server has hung up meanwhile, as it may
        connection = self._connect(origin, proxy)
        try:
            return self._send(connection, origin, parts, headers, proxy)
        except BaseException:
            connection.close()
            raise

    def _send(
        self,
        connection: http.client.HTTPConnection,
        origin: Origin,
        parts: SplitResult,
        headers: dict[str, str],
        proxy: SplitResult | None,
    ) -> Answer:
        target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        if proxy is not None and origin[0] == "http":
            target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
            login = _login(proxy)
            headers = {**headers, "Proxy-Authorization": login} if login else headers
        connection.request("GET", target, headers=headers)
        return Answer(connection.getresponse(), self, origin, connection)

    def _connect(self, origin: Origin, proxy: SplitResult | None) -> http.client.HTTPConnection:
        scheme, host, port = origin
        via, through = (host, port) if proxy is None else _origin(proxy)[1:]
        if scheme == "https":
            if self._context is None:
                self._context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                via, through, timeout=CONNECT_SECONDS, context=self._context
            )
            if proxy is not None:
                login = _login(proxy)
                connection.set_tunnel(host, port, {"Proxy-Authorization": login} if login else {})
        else:
            connection = http.client.HTTPConnection(via, through, timeout=CONNECT_SECONDS)
        connection.connect()
        connection.sock.settimeout(self._stall)
        return connection

    def _proxy(self, origin: Origin) -> SplitResult | None:
        address = self._proxies.get(origin[0]) or self._proxies.get("all")
        if not address or urllib.request.proxy_bypass(f"{origin[1]}:{origin[2]}"):
            return None
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if parts.scheme != "http" or not parts.hostname:
            raise HostError(f"the proxy for {origin[0]} is not an http proxy")
        return parts


def _origin(parts: SplitResult) -> Origin:
    try:
        port = parts.port or _PORTS[parts.scheme]
    except ValueError as error:
        raise HostError(f"bad port in the address of {parts.hostname}") from error
    return parts.scheme, parts.hostname or "", port


def _login(parts: SplitResult) -> str:
    if not parts.username:
        return ""
    words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(words.encode()).decode()
