"""Knows how a body that may be cut is brought over whole, going on where it stopped; must not know
what the bytes are or where they are kept.

What was received stays with the sink. The rest is asked for by Range, with If-Range where the
bytes could have changed meanwhile (RFC 9110, 13.1.5 and 14), so at most one buffer is sent twice
(reliability R22). Nothing is believed: the owner of the sink hashes all of it at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.transport.client import Client
from buildgraph.transport.failures import Again, TooLarge
from buildgraph.transport.headers import Headers
from buildgraph.transport.messages import Request, Response
from buildgraph.transport.schedule import Retries, http_date

_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UNSATISFIED: Final = re.compile(r"bytes \*/(\d{1,18})")
_WORTHWHILE: Final = 1 << 20  # bytes that an attempt must bring to count as getting on
_SETTLED: Final = 1.0  # seconds: a file changed later may change again without a new date


class Sink(Protocol):
    """Where bytes go; `buildgraph_cache.partials.Partial`."""

    @property
    def size(self) -> int:
        """How many bytes are there already."""

    def write(self, data: bytes, /) -> int:
        """Append bytes."""

    def restart(self) -> None:
        """Drop all bytes."""


class Received(Struct, frozen=True):
    """What a download came to: the last response's head, and how many bytes came for it."""

    headers: Headers
    size: int
    fetched: int


def validator_of(headers: Headers) -> str | None:
    """Return what tells these bytes from any later ones: a strong ETag, or a settled date."""
    etag = (headers.get("ETag") or "").strip()
    if etag.startswith('"'):
        return etag
    changed, now = http_date(headers.get("Last-Modified")), http_date(headers.get("Date"))
    if etag or changed is None or (now is not None and now - changed < _SETTLED):
        return None
    return headers.get("Last-Modified")


def download(
    client: Client,
    request: Request,
    sink: Sink,
    *,
    limit: int,
    first: Response | None = None,
    validator: str | None = None,
    named: bool = False,
    grew: Callable[[int, int], None] = lambda done, total: None,
    retries: Retries | None = None,
) -> Received:
    """Bring the body of a GET into `sink`, whole.

    `first` is an answer to `request` that is open already (it is closed here). `validator` vouches
    for the bytes that `sink` has; `named` says that they need none, since a digest is checked at
    the end. `grew` is told (bytes there, bytes in all or 0). `request.url` is what is asked again
    after a cut, so a redirect is followed anew. Raises TooLarge over `limit` bytes, StatusError,
    Unreachable and what else `Client.send` raises; what was received stays in the sink.
    """
    retries = retries or client.retries(request)
    transfer = _Transfer(client, request, sink, limit, grew, retries, validator, named)
    while True:
        before = transfer.fetched
        try:
            return transfer.attempt(first)
        except Again as failure:
            if transfer.fetched - before >= _WORTHWHILE:
                retries.progressed()
            retries.again(request.url.shown, failure)
        finally:
            if first is not None:
                first.close()
                first = None


class _Transfer(Struct):
    client: Client
    request: Request
    sink: Sink
    limit: int
    grew: Callable[[int, int], None]
    retries: Retries
    validator: str | None
    named: bool
    fetched: int = 0

    def attempt(self, first: Response | None) -> Received:
        """Bring what is missing. Raises Again where that was cut."""
        with first or self._ask() as response:
            total = self._place(response)
            if total is not None and total > self.limit:
                raise self._too_large()
            if response.status != 416:
                self._copy(response, total)
            size = self.sink.size
            if total is not None and size != total:
                raise Again(f"{size} bytes came, where {total} were promised")
            return Received(response.headers, size, self.fetched)

    def _ask(self) -> Response:
        have = self.sink.size
        if have and not self.named and self.validator is None:
            self.sink.restart()
            have = 0
        headers = dict(self.request.headers)
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.validator is not None:
                headers["If-Range"] = self.validator
        return self.client.send(replace(self.request, headers=headers), self.retries)

    def _place(self, response: Response) -> int | None:
        """Set the sink to where the answer begins; return the length of the whole, if told."""
        have = self.sink.size
        if response.status == 206:
            match = _RANGE.fullmatch((response.headers.get("Content-Range") or "").strip())
            if match is None or int(match[1]) != have:
                self.sink.restart()
                raise Again("the server answered with another range than asked for")
            return None if match[3] == "*" else int(match[3])
        if response.status == 416 and have:
            match = _UNSATISFIED.fullmatch((response.headers.get("Content-Range") or "").strip())
            if match is None or int(match[1]) != have:
                self.sink.restart()
                raise Again("the server has less than it had before")
            return have
        response.require(200)
        if have:
            self.sink.restart()
        self.validator = validator_of(response.headers)
        return response.headers.number("Content-Length")

    def _copy(self, response: Response, total: int | None) -> None:
        done = self.sink.size
        self.grew(done, total or 0)
        for chunk in response.pieces():
            self.retries.check()
            done += len(chunk)
            if done > self.limit:
                raise self._too_large()
            self.sink.write(chunk)
            self.fetched += len(chunk)
            self.grew(done, total or 0)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"{self.request.url.shown} is longer than {self.limit} bytes",
            hint="that is more than one download may bring",
        )
