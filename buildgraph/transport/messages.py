"""Knows what a request and its response are, as values; must not know how they travel.

A request names a header or a body; who it comes from is the `Authorizer`'s to say, hop by hop, so
that a credential cannot follow a redirect to somebody else (A28).
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO, Final, Protocol, Self

from msgspec import Struct, field

from buildgraph.closing import Closing
from buildgraph.errors import HostError
from buildgraph.transport.addresses import AddressPolicy
from buildgraph.transport.failures import Again, Denied, NotFound, StatusError, Unreachable
from buildgraph.transport.headers import Headers
from buildgraph.transport.urls import Origin, Url

CHUNK: Final = 256 * 1024
_EXCERPT: Final = 4096
_PRIVATE: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})

# Bytes, or how to get them from the beginning; each call gives a fresh iteration.
Body = bytes | Callable[[], Iterable[bytes] | BinaryIO]


class Authorizer(Protocol):
    """Who we are to a server."""

    def header(self, url: Url) -> str | None:
        """Return the value of Authorization for this address, or None.

        Asked for the address of the request and for redirects inside its origin, never after one
        has left it.
        """

    def renew(self, url: Url, headers: Headers) -> bool:
        """Take a 401's headers; True: `header` now has another answer, worth one more request."""


@dataclasses.dataclass(frozen=True, slots=True)
class FixedAuthorization:
    """One value an origin; None for all others."""

    values: Mapping[Origin, str] = dataclasses.field(default_factory=dict, repr=False)

    def header(self, url: Url) -> str | None:
        """Return the value for the address's own origin."""
        return self.values.get(url.origin)

    def renew(self, url: Url, headers: Headers) -> bool:
        """There is no other answer."""
        return False


class Request(Struct, frozen=True):
    """What to ask. `headers` go to every hop, so nothing secret belongs there.

    `length` is that of a body that is not bytes; without it the body goes out in chunks. `retry`:
    whether to ask again after a failure that may pass; None: where the method allows it. A login
    in `url` is sent to its own origin only, unless `authorizer` has something to say.
    """

    method: str
    url: Url
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    length: int | None = None
    authorizer: Authorizer | None = None
    policy: AddressPolicy = field(default_factory=AddressPolicy)
    redirects: int = 10
    retry: bool | None = None
    cancel: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if name.lower() in _PRIVATE:
                raise ValueError(f"{name} belongs to the authorizer")
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(
                r"[\r\n\0]", value
            ):
                raise ValueError(f"not a header: {name!r}")

    @property
    def may_retry(self) -> bool:
        """Whether sending it twice does no harm."""
        return self.method in IDEMPOTENT if self.retry is None else self.retry


class Stream(Protocol):
    """Where the bytes of a body come from; the pool's side of a response."""

    def read(self, size: int) -> bytes:
        """Return some bytes, b"" at the end. Raises Again where the body was cut."""

    def close(self) -> None:
        """Keep the connection if the body was read to its end, else drop it; idempotent."""


class Response(Closing):
    """An answer whose body is still to be read; a context manager. Close it.

    `url` is where the answer came from after redirects, `peer` the address of the other end, ""
    where that is a proxy.
    """

    def __init__(
        self, status: int, reason: str, headers: Headers, url: Url, peer: str, stream: Stream
    ):
        self.status = status
        self.reason = reason
        self.headers = headers
        self.url = url
        self.peer = peer
        self._stream = stream

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """Yield the body in pieces of at most `size` bytes.

        Raises Unreachable where it was cut (`Client.read` and `resume.download` try again).
        """
        try:
            yield from self.pieces(size)
        except Again as failure:
            raise Unreachable(f"{self.url.shown}: {failure.reason}") from failure

    def read_up_to(self, limit: int) -> bytes:
        """Return the beginning of the body, at most `limit` bytes. Raises as `chunks`."""
        out = bytearray()
        while len(out) < limit:
            data = next(self.chunks(min(CHUNK, limit - len(out))), b"")
            if not data:
                break
            out += data
        return bytes(out)

    def pieces(self, size: int = CHUNK) -> Iterator[bytes]:
        """Yield the body as `chunks` does, for this room: raises Again where it was cut."""
        while data := self._stream.read(size):
            yield data

    def require(self, *statuses: int) -> Self:
        """Return self if the status is one of these.

        Else raises NotFound, Denied or StatusError, closed and with the beginning of the body.
        """
        if self.status in statuses:
            return self
        body = b""
        with self, suppress(HostError):
            body = self.read_up_to(_EXCERPT)
        raise status_error(self.url, self.status, self.reason, self.headers, body)

    def close(self) -> None:
        """Give the connection back or drop it; idempotent."""
        self._stream.close()


def status_error(url: Url, status: int, reason: str, headers: Headers, body: bytes) -> StatusError:
    """Return the error for a status nobody can use."""
    text = f"HTTP {status} {reason}".strip()[:200]
    kind: type[StatusError] = StatusError
    message = f"{url.shown} cannot be had: {text}"
    hint = None
    if status in (404, 410):
        kind, message = NotFound, f"{url.shown} does not exist ({text})"
    elif status in (401, 403, 407):
        kind, hint = Denied, "the server wants to know who asks, or says no to who does"
    return kind(message, None, hint, status=status, headers=headers, body=body)
