"""Knows how a request becomes an answer: redirects, credentials, retries; must not know what is
asked for, nor what a socket is.

Redirects: at most ten, to http and https only, never from https to http, and nowhere more private
than where the first answer came from (A31, A62). Authorization is gone for good once a redirect
leaves the origin (A28). Retries: `schedule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from buildgraph.closing import Closing
from buildgraph.errors import InputError
from buildgraph.transport.addresses import AddressPolicy, Zone, literal_zone, zone_of
from buildgraph.transport.failures import Again, Refused, TooLarge, TransportError
from buildgraph.transport.messages import Authorizer, Request, Response
from buildgraph.transport.pool import Pool, Settings
from buildgraph.transport.schedule import (
    RETRIED,
    Clock,
    Retries,
    RetryPolicy,
    SystemClock,
    retry_after,
)
from buildgraph.transport.urls import follow, strip_logins

_REDIRECTED: Final = frozenset({301, 302, 303, 307, 308})
_DRAINED: Final = 64 * 1024  # a longer body of a redirect costs more than a new connection


class Client(Closing):
    """Sends requests; threads may share it. Close it when done."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ):
        self._pool = Pool(settings or Settings())
        self._retry = retry or RetryPolicy()
        self._clock: Clock = clock or SystemClock()

    def close(self) -> None:
        """Close idle connections; idempotent, and the client can be used again."""
        self._pool.close()

    def retries(self, request: Request) -> Retries:
        """Return the patience for one request, to be shared by all that is done for it."""
        return Retries(self._retry, self._clock, request.cancel)

    def send(self, request: Request, retries: Retries | None = None) -> Response:
        """Return the answer, after redirects and retries, with its body unread. Close it.

        Any status comes back but those that are worth a retry (408, 429, 500, 502-504), which are
        raised once the retries are used up. Raises Unreachable, Refused, TransportError,
        Interrupted.
        """
        retries = retries or self.retries(request)
        while True:
            retries.check()
            try:
                return self._attempt(request)
            except Again as failure:
                if not request.may_retry and "HTTP 429" not in failure.reason:
                    raise _final(request, failure) from failure
                retries.again(request.url.shown, failure)

    def read(self, request: Request, limit: int, *statuses: int) -> tuple[Response, bytes]:
        """Return the (closed) answer and its whole body; a cut one is asked for again.

        Any status is taken without `statuses`, else see `Response.require`. Raises TooLarge over
        `limit` bytes, and what `send` raises.
        """
        retries = self.retries(request)
        while True:
            with self.send(request, retries) as response:
                if statuses:
                    response.require(*statuses)
                body = bytearray()
                try:
                    for piece in response.pieces():
                        body += piece
                        if len(body) > limit:
                            raise TooLarge(f"{response.url.shown} is longer than {limit} bytes")
                except Again as failure:
                    if not request.may_retry:
                        raise _final(request, failure) from failure
                    retries.again(request.url.shown, failure)
                    continue
            return response, bytes(body)

    # -- one attempt ---------------------------------------------------------------------

    def _attempt(self, request: Request) -> Response:
        """Follow redirects to an answer. Raises Again for a status or failure that may pass."""
        hop = _Hop(request)
        while True:
            response = self._authorized(hop)
            place = response.headers.get("Location")
            if response.status in _REDIRECTED and place and request.redirects:
                with response:
                    if (response.headers.number("Content-Length") or 0) <= _DRAINED:
                        _drain(response)
                hop.follow(response, place)
                continue
            if response.status in RETRIED:
                after = retry_after(response.headers.get("Retry-After"), self._clock.wall())
                response.close()
                raise Again(f"HTTP {response.status} {response.reason}".strip(), after)
            return response

    def _authorized(self, hop: _Hop) -> Response:
        """Send one hop; a 401 is answered once by another word from the authorizer (R24)."""
        response = self._exchange(hop)
        asked = hop.authorizer()
        if response.status == 401 and asked and asked.renew(hop.url, response.headers):
            with response:
                _drain(response)
            response = self._exchange(hop)
        return response

    def _exchange(self, hop: _Hop) -> Response:
        request = hop.request
        return self._pool.exchange(
            hop.method, hop.url, hop.headers(), hop.body, hop.policy, request.cancel
        )


class _Hop:
    """Where a request has been led to."""

    def __init__(self, request: Request):
        self.request = request
        self.method = request.method
        self.body = request.body
        self.url = request.url
        self.policy: AddressPolicy = request.policy
        self._at_home = True
        self._count = 0

    def authorizer(self) -> Authorizer | None:
        """Return who may speak here; nobody once the origin was left."""
        return self.request.authorizer if self._at_home else None

    def headers(self) -> Mapping[str, str]:
        """Return the fields for this hop."""
        fields = dict(self.request.headers)
        if self.body is None and self.request.body is not None:
            fields = {n: v for n, v in fields.items() if not n.lower().startswith("content-")}
        elif self.request.length is not None and not isinstance(self.body, bytes):
            fields["Content-Length"] = str(self.request.length)
        elif self.body is None and self.method in ("POST", "PUT", "PATCH"):
            fields["Content-Length"] = "0"
        if self._at_home:
            asked = self.authorizer()
            value = (asked.header(self.url) if asked else None) or self.request.url.basic
            if value:
                fields["Authorization"] = value
        return fields

    def follow(self, response: Response, place: str) -> None:
        """Go where a redirect leads. Raises Refused."""
        here = self.url
        self._count += 1
        if self._count > self.request.redirects:
            raise Refused(
                f"{self.request.url.shown} redirects more than {self.request.redirects} times"
            )
        try:
            there = follow(here, place)
        except InputError as error:
            shown = strip_logins(place[:100]).partition("?")[0]
            raise Refused(
                f"{here.shown} redirects to {shown!r}, which is no http or https address",
                hint="nothing was fetched from there",
            ) from error
        if (here.origin.scheme, there.origin.scheme) == ("https", "http"):
            raise Refused(f"{here.shown} redirects from https to http: {there.shown}")
        # A proxy shows nobody whom it reached, so a name behind one counts as public.
        zone = zone_of(response.peer) if response.peer else literal_zone(here.origin.host)
        self.policy = self.policy.within(Zone.PUBLIC if zone is None else zone)
        if there.origin != here.origin:
            self._at_home = False
        if response.status == 303 and self.method != "HEAD":
            self.method, self.body = "GET", None
        self.url = there


def _drain(response: Response) -> None:
    """Read a short body that nobody needs, so that the connection can be used again."""
    with suppress(Again, TransportError):
        response.read_up_to(_DRAINED)


def _final(request: Request, failure: Again) -> TransportError:
    return TransportError(
        f"{request.method} {request.url.shown} failed: {failure.reason}",
        hint="it was not sent again, since it is not known whether the server has acted on it",
    )
