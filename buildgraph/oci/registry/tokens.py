"""Knows who we say we are in each request to one registry; must not know what is requested.

A password goes to the registry's own origin or, for a token, to the realm that the registry named
and that `check_realm` let pass. A token is kept until shortly before it ends and is renewed once
for a request that was refused (R24).

Source: distribution project, "Token Authentication Specification".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from buildgraph import limits
from buildgraph.errors import HostError
from buildgraph.oci.registry.challenge import (
    Challenge,
    Token,
    basic,
    parse_challenges,
    parse_token,
    token_request,
)
from buildgraph.oci.registry.credentials import Credentials
from buildgraph.transport.addresses import AddressPolicy
from buildgraph.transport.client import Client
from buildgraph.transport.headers import Headers
from buildgraph.transport.messages import FixedAuthorization, Request
from buildgraph.transport.urls import Origin, Url, parse_url

_MARGIN: Final = 10.0  # seconds: a token that ends sooner is not worth sending


class Tokens:
    """Answers the challenges of one registry; an `Authorizer` for each set of scopes.

    Threads may share it. `credentials` is asked once, when a challenge wants to know who we are.
    """

    def __init__(
        self,
        client: Client,
        origin: Origin,
        credentials: Callable[[], Credentials | None],
        policy: AddressPolicy,
        *,
        now: Callable[[], float] = time.monotonic,
    ):
        """`policy` is what a realm may be reached at: nothing more private than the registry."""
        self._client = client
        self._origin = origin
        self._credentials = credentials
        self._policy = policy
        self._now = now
        self._lock = threading.Lock()
        self._known: Credentials | None = None
        self._asked = False
        self._bearer: Challenge | None = None
        self._basic = False
        self._offers_basic = False
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}

    def use(self, credentials: Credentials) -> None:
        """Be this from now on, whatever is kept."""
        with self._lock:
            self._known, self._asked = credentials, True
            self._tokens.clear()
        # What a registry asked for before counts: it may have been answered by nobody then.
        self._basic = self._basic or self._offers_basic

    def challenged(self, headers: Headers) -> bool:
        """Take what a 401 asks for; False where we have no answer to any of it."""
        offers = parse_challenges(headers.all("WWW-Authenticate"))
        bearer = next((c for c in offers if c.scheme == "bearer" and c.realm), None)
        if bearer is not None:
            self._bearer = bearer
            return True
        self._offers_basic = any(c.scheme == "basic" for c in offers)
        if self._offers_basic and self._who() is not None:
            self._basic = True
            return True
        return False

    def scoped(self, *scopes: str) -> Scoped:
        """Return the authorizer for requests that need these scopes."""
        return Scoped(self, scopes)

    def header(self, url: Url, scopes: tuple[str, ...]) -> str | None:
        """Return the value of Authorization, fetching a token where none is good any more."""
        if url.origin != self._origin:
            return None
        if self._bearer is not None:
            with self._lock:
                value, end = self._tokens.get(scopes, ("", 0.0))
                if not value or end - self._now() < _MARGIN:
                    value = self._fetch(scopes)
            return f"Bearer {value}"
        who = self._who() if self._basic else None
        return basic(who) if who is not None else None

    def renew(self, url: Url, headers: Headers, scopes: tuple[str, ...], sent: str | None) -> bool:
        """Take a 401; True where the next `header` says something else than `sent`."""
        if url.origin != self._origin or not self.challenged(headers):
            return False
        with self._lock:
            value, _ = self._tokens.get(scopes, ("", 0.0))
            if f"Bearer {value}" == sent:
                self._tokens.pop(scopes, None)
        return self.header(url, scopes) != sent

    def _who(self) -> Credentials | None:
        if not self._asked:
            self._known = self._credentials()
            self._asked = True
        return self._known

    def _fetch(self, scopes: tuple[str, ...]) -> str:
        assert self._bearer is not None
        wanted = scopes or ((self._bearer.scope,) if self._bearer.scope else ())
        token = fetch_token(
            self._client, self._bearer, self._origin, wanted, self._who(), self._policy
        )
        self._tokens[scopes] = (token.value, self._now() + token.seconds)
        return token.value


class Scoped:
    """The `Authorizer` of requests that need certain scopes."""

    def __init__(self, tokens: Tokens, scopes: tuple[str, ...]):
        self._tokens = tokens
        self._scopes = scopes
        self._sent = threading.local()  # what this thread's request said

    def header(self, url: Url) -> str | None:
        """Return what stands in Authorization."""
        value = self._tokens.header(url, self._scopes)
        self._sent.value = value
        return value

    def renew(self, url: Url, headers: Headers) -> bool:
        """Say whether there is another answer to a 401."""
        sent = getattr(self._sent, "value", None)
        return self._tokens.renew(url, headers, self._scopes, sent)


def fetch_token(
    client: Client,
    challenge: Challenge,
    registry: Origin,
    scopes: tuple[str, ...],
    credentials: Credentials | None,
    policy: AddressPolicy,
    *,
    keep: bool = False,
) -> Token:
    """Ask a realm for a token. Raises HostError, which quotes no secret."""
    wanted = token_request(challenge, f"{registry}/", scopes, credentials, keep=keep)
    url = parse_url(wanted.url)
    headers = dict(wanted.headers)
    login = headers.pop("Authorization", None)
    request = Request(
        "GET" if wanted.body is None else "POST",
        url,
        headers,
        wanted.body,
        authorizer=FixedAuthorization({url.origin: login} if login else {}),
        policy=policy,
        retry=True,
    )
    response, body = client.read(request, limits.AUTH_FILE_BYTES)
    if response.status in (401, 403):
        who = f"{credentials.username!r}" if credentials and credentials.username else "us"
        if credentials is None:
            hint = f"`buildgraph login {registry.netloc}` keeps a name and a password"
        else:
            hint = "the password may be wrong or may have ended; `buildgraph login` keeps a new one"
        raise HostError(
            f"{url.origin.netloc} gives {who} no token (HTTP {response.status})", hint=hint
        )
    if response.status == 404 and wanted.body is not None and credentials is not None:
        # Not every server knows the OAuth2 way; the older one takes the token as a password.
        older = Credentials(credentials.username or "<token>", credentials.identity_token)
        return fetch_token(client, challenge, registry, scopes, older, policy, keep=keep)
    if response.status != 200:
        raise HostError(f"{url.shown} gives no token (HTTP {response.status})")
    return parse_token(body, wanted.url)
