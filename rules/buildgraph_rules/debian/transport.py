"""Knows how bytes come from http, https and file URIs, with retries, resume and caps; must not know
what the bytes mean.

Bytes are never trusted for where they came from: callers check digests or signatures.
`http_proxy`, `https_proxy`, `no_proxy` are honoured. A login in a URI is sent to that scheme, host
and port only; a redirect to anywhere else goes without it.
"""

from __future__ import annotations

import base64
import email.utils
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from buildgraph.errors import HostError, Interrupted
from buildgraph_rules.debian.sources import without_login

if TYPE_CHECKING:
    import http.client
    import urllib.request

ATTEMPTS: Final = 6  # the first and five more
STALL_SECONDS: Final = 60.0  # without a byte
_RETRY_AFTER_SECONDS: Final = 60.0
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
_CHUNK: Final = 256 * 1024
_REDIRECTS: Final = 10


class NotFound(HostError):
    """The archive does not have it (404, 410, or no such file)."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer being read. `offset` is where in the file its first byte lies."""

    chunks: Iterator[bytes]
    offset: int


class Transport:
    """Fetches. Holds no connection between calls, so threads may share it.

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
        import urllib.error

        shown = without_login(uri)
        try:
            with _opener().open(_request(uri, have), timeout=self._stall) as answer:
                resumed = answer.status == 206 and _starts_at(answer, have)
                if answer.status == 206 and not resumed:
                    raise _Retry("the server answered with another range than asked for")
                offset = have if resumed else 0
                consume(Response(self._chunks(answer), offset))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416 and have:  # nothing after byte `have`: the caller verifies
                    consume(Response(iter(()), have))
                    return
                raise _verdict(shown, error) from error
        except urllib.error.URLError as error:
            raise _connection(shown, error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise _connection(shown, error) from error

    def _chunks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        while chunk := answer.read1(_CHUNK):
            self._check()
            yield chunk
        if answer.length:  # read1() says nothing about a body that was cut off
            raise _Retry(f"the connection was closed {answer.length} bytes early")

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


def append_to(file: IO[bytes], response: Response, limit: int, uri: str) -> None:
    """Write a response where it belongs in `file`.

    Raises HostError past `limit` bytes and for a full disk, which must not look like the network.
    """
    length = response.offset
    _on_disk(file, lambda: (file.seek(length), file.truncate()))
    for chunk in response.chunks:
        length += len(chunk)
        if length > limit:
            raise HostError(f"{without_login(uri)} is longer than the {limit} bytes it should have")
        _on_disk(file, lambda data=chunk: file.write(data))  # type: ignore[misc]
    _on_disk(file, file.flush)


def _on_disk(file: IO[bytes], act: Callable[[], object]) -> None:
    try:
        act()
    except OSError as error:
        raise HostError(f"cannot write {file.name}: {error.strerror}") from error


def _request(uri: str, have: int) -> urllib.request.Request:
    import urllib.request

    parts = urlsplit(uri)
    request = urllib.request.Request(without_login(uri), headers={"User-Agent": "buildgraph"})
    request.add_header("Accept-Encoding", "identity")
    if have:
        request.add_header("Range", f"bytes={have}-")
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        value = "Basic " + base64.b64encode(login.encode()).decode()
        # An unredirected header is dropped at the first redirect, wherever it leads
        request.add_unredirected_header("Authorization", value)
    return request


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone: no redirect reaches file: or ftp:."""
    import urllib.request

    class Redirects(urllib.request.HTTPRedirectHandler):
        max_redirections = _REDIRECTS

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _starts_at(answer: http.client.HTTPResponse, offset: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _verdict(shown: str, error: urllib.error.HTTPError) -> Exception:
    if error.code in (404, 410):
        return NotFound(f"{shown} does not exist (HTTP {error.code})")
    if error.code not in _RETRIED:
        return HostError(f"cannot fetch {shown}: HTTP {error.code} {error.reason}")
    after = _retry_after(error.headers.get("Retry-After"))
    if after is not None and after > _RETRY_AFTER_SECONDS:
        return HostError(
            f"cannot fetch {shown}: HTTP {error.code}",
            hint=f"the server asks to come back in {round(after)} seconds",
        )
    return _Retry(f"HTTP {error.code} {error.reason}", after)


def _retry_after(value: str | None) -> float | None:
    """Return seconds from a Retry-After header in either form (RFC 9110, 10.2.3)."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    moment = email.utils.parsedate_tz(value)
    return None if moment is None else max(0.0, email.utils.mktime_tz(moment) - time.time())


def _connection(shown: str, error: object) -> Exception:
    import ssl

    reason = error if isinstance(error, Exception) else Exception(str(error))
    if isinstance(reason, ssl.SSLCertVerificationError):
        return HostError(
            f"cannot fetch {shown}: {reason.verify_message}",
            hint="are ca-certificates installed and is the clock right?",
        )
    if str(reason).startswith("unknown url type"):
        return HostError(f"cannot fetch {shown}: redirected to something that is not http")
    words = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return _Retry(words or type(reason).__name__)


def file_length(path: str | os.PathLike[str]) -> int:
    """Return the length of a file, 0 where there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
