"""Knows how bytes come from http, https and file URIs, with retries, resume and caps; must not know
what the bytes mean.

Bytes are never trusted for where they came from: callers check digests or signatures.
`http_proxy`, `https_proxy`, `no_proxy` are honoured. A login in a URI is sent to that scheme, host
and port only; a redirect to anywhere else goes without it.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from buildgraph.errors import HostError, Interrupted
from buildgraph_rules.debian.sources import without_login

if TYPE_CHECKING:
    import http.client

    from buildgraph_rules.debian.connections import Connections

ATTEMPTS: Final = 6  # the first and five more
STALL_SECONDS: Final = 60.0  # without a byte
_RETRY_AFTER_SECONDS: Final = 60.0
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
_CHUNK: Final = 256 * 1024


class NotFound(HostError):
    """The archive does not have it (404, 410, or no such file)."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer being read. `offset` is where in the file its first byte lies."""

    chunks: Iterator[bytes]
    offset: int


class Transport:
    """Fetches; threads may share it. `close` it when done.

    `cancelled` is asked between chunks and while waiting; `sleep` and `jitter` are for tests.
    """

    def __init__(
        self,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        stall: float = STALL_SECONDS,
    ):
        self._cancelled = cancelled
        self._sleep = sleep
        self._jitter = jitter
        self._stall = stall
        self._open: Connections | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close kept connections; idempotent, and the next call opens new ones."""
        with self._lock:
            connections, self._open = self._open, None
        if connections is not None:
            connections.close()

    def read(self, uri: str, limit: int) -> bytes:
        """Return the whole of `uri`. Raises NotFound, HostError (also over `limit` bytes)."""
        received = bytearray()

        def consume(response: Response) -> None:
            del received[response.offset :]
            for chunk in response.chunks:
                received.extend(chunk)
                if len(received) > limit:
                    raise HostError(f"{without_login(uri)} is longer than {limit} bytes")

        self.transfer(uri, lambda: 0, consume)
        return bytes(received)

    def transfer(
        self, uri: str, have: Callable[[], int], consume: Callable[[Response], None]
    ) -> None:
        """Hand `uri` to `consume`, from byte `have()` on where the server can; retry as R23 says.

        `have` is asked before each attempt, so what a broken one brought is not fetched again.
        Raises NotFound, HostError, Interrupted; what `consume` raises comes through unless it is
        an error of the network.
        """
        if urlsplit(uri).scheme in ("file", "copy"):
            consume(Response(self._read_file(uri, have()), have()))
            return
        wait, reason = 0.0, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._pause(wait)
            try:
                self._once(uri, have(), consume)
                return
            except _Retry as retry:
                reason = retry.reason
                backoff = 0.5 * 2**attempt * (0.75 + 0.5 * self._jitter())
                wait = backoff if retry.after is None else retry.after
        raise HostError(
            f"cannot fetch {without_login(uri)}: {reason}",
            hint=f"gave up after {ATTEMPTS} attempts; is the network or the proxy in order?",
        )

    def _pause(self, seconds: float) -> None:
        left = seconds
        while left > 0:
            self._check()
            step = min(left, 0.25)
            self._sleep(step)
            left -= step

    def _check(self) -> None:
        if self._cancelled():
            raise Interrupted("the download was stopped")

    def _once(self, uri: str, have: int, consume: Callable[[Response], None]) -> None:
        import http.client

        shown = without_login(uri)
        headers = {"User-Agent": "buildgraph", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            answer = self._connections().get(uri, headers)
            try:
                response = answer.response
                if response.status == 206 and _starts_at(response, have):
                    consume(Response(self._chunks(response), have))
                elif response.status == 200:
                    consume(Response(self._chunks(response), 0))
                elif response.status == 416 and have:
                    consume(Response(iter(()), have))  # nothing after that: the caller verifies
                else:
                    raise _verdict(shown, response)
            finally:
                answer.close()
        except (OSError, http.client.HTTPException) as error:
            raise _connection(shown, error) from error

    def _connections(self) -> Connections:
        from buildgraph_rules.debian.connections import Connections

        with self._lock:
            if self._open is None:
                self._open = Connections(self._stall)
            return self._open

    def _chunks(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while chunk := response.read1(_CHUNK):
            self._check()
            yield chunk
        if response.length:  # read1() says nothing about a body that was cut off
            raise _Retry(f"the connection was closed {response.length} bytes early")

    def _read_file(self, uri: str, offset: int) -> Iterator[bytes]:
        path = unquote(urlsplit(uri).path)
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                while chunk := file.read(_CHUNK):
                    self._check()
                    yield chunk
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{path} does not exist") from error
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error


class _Retry(Exception):
    """This attempt failed; another may not. `after` is what the server asked us to wait."""

    def __init__(self, reason: str, after: float | None = None):
        super().__init__(reason)
        self.reason = reason
        self.after = after


def _starts_at(answer: http.client.HTTPResponse, offset: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _verdict(shown: str, response: http.client.HTTPResponse) -> Exception:
    code = response.status
    if code in (404, 410):
        return NotFound(f"{shown} does not exist (HTTP {code})")
    if code == 206:
        return _Retry("the server answered with another range than asked for")
    if code not in _RETRIED:
        return HostError(f"cannot fetch {shown}: HTTP {code} {response.reason}")
    after = _retry_after(response.headers.get("Retry-After"))
    if after is not None and after > _RETRY_AFTER_SECONDS:
        return HostError(
            f"cannot fetch {shown}: HTTP {code}",
            hint=f"the server asks to come back in {round(after)} seconds",
        )
    return _Retry(f"HTTP {code} {response.reason}", after)


def _retry_after(value: str | None) -> float | None:
    """Return seconds from a Retry-After header in either form (RFC 9110, 10.2.3)."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    moment = email.utils.parsedate_tz(value)
    return None if moment is None else max(0.0, email.utils.mktime_tz(moment) - time.time())


def _connection(shown: str, error: Exception) -> Exception:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return HostError(
            f"cannot fetch {shown}: {error.verify_message}",
            hint="are ca-certificates installed and is the clock right?",
        )
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _Retry(words or type(error).__name__)
