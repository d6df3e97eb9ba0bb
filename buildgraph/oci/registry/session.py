"""Knows how one repository of one registry is spoken to: which of its places answers, by which
scheme, with which certificates and in whose name; must not know what images are.

Source: OCI distribution-spec v1.1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar
from urllib.parse import quote

from msgspec import Struct, field

from buildgraph.closing import Closing
from buildgraph.errors import HostError
from buildgraph.oci.registry.challenge import scope_of
from buildgraph.oci.registry.credentials import Credentials, CredentialStore
from buildgraph.oci.registry.places import Endpoint, Places, Scheme
from buildgraph.oci.registry.tokens import Scoped, Tokens
from buildgraph.transport.addresses import AddressPolicy, Zone, zone_of
from buildgraph.transport.client import Client
from buildgraph.transport.failures import Refused, TransportError, Unreachable
from buildgraph.transport.messages import Body, Request, Response
from buildgraph.transport.pool import Settings, Tls
from buildgraph.transport.proxies import Proxies
from buildgraph.transport.schedule import Clock, RetryPolicy, SystemClock
from buildgraph.transport.urls import Origin, Url, follow, parse_url

_PING_BYTES: Final = 64 * 1024

_Result = TypeVar("_Result")


class Spoken(Struct, frozen=True):
    """A place that has answered: where requests go and who we are there."""

    endpoint: Endpoint
    base: str  # everything before /<repository>/
    origin: Origin
    tokens: Tokens

    @property
    def shown(self) -> str:
        """The place for messages."""
        return f"{self.origin}/{self.endpoint.repository}"


class Registries(Closing):
    """All registries of one command; threads may share it. Close it when done.

    Nothing is sent before the first question. Every place is asked once by `GET /v2/`: that tells
    the scheme, what it wants to know of us, and how private its address is.
    """

    def __init__(
        self,
        places: Places,
        credentials: CredentialStore,
        *,
        environ: Mapping[str, str],
        cancel: threading.Event | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        stall: float = 60.0,
    ):
        self.places = places
        self.credentials = credentials
        self.cancel = cancel or threading.Event()
        self._tls: dict[Origin, Tls] = {}
        settings = Settings(Proxies.of(environ), stall_timeout=stall, tls=self._tls_of)
        self.clock = clock or SystemClock()
        self.client = Client(settings, retry=retry, clock=self.clock)
        self._spoken: dict[tuple[str, str, str], tuple[str, Origin, Tokens] | HostError] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close idle connections; idempotent."""
        self.client.close()

    def _tls_of(self, origin: Origin) -> Tls:
        return self._tls.get(origin, Tls())

    def speak(self, endpoint: Endpoint, domain: str) -> Spoken:
        """Return the place ready to be spoken to. Raises HostError, the same one each time."""
        key = (endpoint.host, endpoint.prefix, domain)
        with self._lock:  # one greeting at a time: it is short, and happens once a place
            known = self._spoken.get(key)
            if known is None:
                try:
                    known = self._greet(endpoint, domain)
                except HostError as error:
                    known = error
                self._spoken[key] = known
        if isinstance(known, HostError):
            raise known
        base, origin, tokens = known
        return Spoken(endpoint, base, origin, tokens)

    def _greet(self, endpoint: Endpoint, domain: str) -> tuple[str, Origin, Tokens]:
        failure: HostError | None = None
        for scheme in endpoint.schemes:
            try:
                return self._greet_by(endpoint, domain, scheme)
            except TransportError as error:
                failure = failure or error
        assert failure is not None
        if endpoint.schemes == ("https",):
            failure.hint = failure.hint or (
                "a registry without encryption has to be named as insecure, in registries.conf or "
                "in the Boxfile's workspace: registries"
            )
        raise failure

    def _greet_by(
        self, endpoint: Endpoint, domain: str, scheme: Scheme
    ) -> tuple[str, Origin, Tokens]:
        base = endpoint.base(scheme)
        url = parse_url(base + "/")
        if endpoint.ca or endpoint.client or not endpoint.verify:
            certificate, key = endpoint.client[0] if endpoint.client else (None, None)
            self._tls[url.origin] = Tls(
                ca_files=endpoint.ca,
                client_cert=certificate,
                client_key=key,
                verify=endpoint.verify,
            )
        # Where there is somebody else to ask, one failure is enough.
        patient = not endpoint.mirror and len(endpoint.schemes) == 1
        request = Request(
            "GET",
            url,
            dict(endpoint.headers),
            redirects=0,
            retry=patient,
            cancel=self.cancel,
        )
        response, _ = self.client.read(request, _PING_BYTES)
        zone = zone_of(response.peer) if response.peer else Zone.PUBLIC
        tokens = Tokens(
            self.client,
            url.origin,
            lambda: self._who(endpoint, domain),
            AddressPolicy(zone),
        )
        if response.status == 401:
            tokens.challenged(response.headers)
        elif response.status == 400 and scheme == "http":
            # What servers say who expect TLS on this port; nothing of ours was sent.
            raise Unreachable(f"{url.shown} does not speak plain HTTP")
        return base, url.origin, tokens

    def check(self, domain: str, credentials: Credentials) -> None:
        """See whether a registry takes a name and a password. Raises HostError where it does not.

        An open registry, which never asks, takes any.
        """
        spoken = self.speak(self.places.endpoints(domain, "login")[-1], domain)
        spoken.tokens.use(credentials)
        url = parse_url(spoken.base + "/")
        request = Request(
            "GET",
            url,
            dict(spoken.endpoint.headers),
            authorizer=spoken.tokens.scoped(),
            redirects=0,
            cancel=self.cancel,
        )
        response, _ = self.client.read(request, _PING_BYTES)
        if response.status in (401, 403):
            raise HostError(
                f"{domain} does not take this name and password (HTTP {response.status})"
            )

    def _who(self, endpoint: Endpoint, domain: str) -> Credentials | None:
        """Return the credentials for a place: a mirror's are its own, never the registry's."""
        if not endpoint.trusted:
            return None
        return self.credentials.find(
            endpoint.host if endpoint.mirror else domain, endpoint.repository
        )

    def repository(self, domain: str, path: str, *, push: bool = False) -> Repository:
        """Return a repository; nothing is asked yet. Raises InputError for a blocked registry."""
        return Repository(self, domain, path, self.places.endpoints(domain, path), push=push)


class Repository(Struct):
    """One repository and the places that answer for it."""

    registries: Registries
    domain: str
    path: str
    endpoints: tuple[Endpoint, ...]
    push: bool = False
    extra_scopes: tuple[str, ...] = ()
    _authorizers: dict[str, Scoped] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Domain and path."""
        return f"{self.domain}/{self.path}"

    def for_tag(self) -> Iterator[Spoken]:
        """Yield the places that may say what a tag means, in order."""
        return self._speak(e for e in self.endpoints if e.resolve and e.use in ("all", "tag"))

    def for_digest(self) -> Iterator[Spoken]:
        """Yield the places that may give what has this digest, in order."""
        return self._speak(e for e in self.endpoints if e.pull and e.use in ("all", "digest"))

    def for_push(self) -> Spoken:
        """Return the one place that takes what we push."""
        for endpoint in self.endpoints:
            if endpoint.push:
                return self.registries.speak(endpoint, self.domain)
        raise HostError(f"no place of {self.name} may be pushed to", hint=self.endpoints[0].said_by)

    def _speak(self, endpoints: Iterable[Endpoint]) -> Iterator[Spoken]:
        """Yield those that answer; raise the last failure where none does."""
        failure: HostError | None = None
        reached = False
        for endpoint in endpoints:
            try:
                spoken = self.registries.speak(endpoint, self.domain)
            except HostError as error:
                failure = error
                continue
            reached = True
            yield spoken
        if not reached:
            raise failure or HostError(f"no place of {self.name} may be asked")

    def first_of(self, places: Iterable[Spoken], attempt: Callable[[Spoken], _Result]) -> _Result:
        """Return what the first place gives that can; the last place's failure else (R25)."""
        failure: TransportError | None = None
        for spoken in places:
            try:
                return attempt(spoken)
            except TransportError as error:
                failure = error
        raise failure or HostError(f"no place of {self.name} may be asked")

    # --- requests -----------------------------------------------------------------------------

    def url(self, spoken: Spoken, rest: str) -> Url:
        """Return the address of something in the repository; `rest` begins without a slash."""
        return parse_url(f"{spoken.base}/{quote(spoken.endpoint.repository)}/{rest}")

    def within(self, spoken: Spoken, base: Url, place: str) -> Url:
        """Return where a Location header leads; it must stay http(s), and may be elsewhere."""
        there = follow(base, place)
        if base.origin.scheme == "https" and there.origin.scheme == "http":
            raise Refused(f"{base.shown} sends an upload to {there.shown}, without encryption")
        return there

    def request(
        self,
        spoken: Spoken,
        method: str,
        url: Url,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        *,
        length: int | None = None,
        redirects: int = 10,
        retry: bool | None = None,
    ) -> Request:
        """Return a request in the name of whoever we are there."""
        return Request(
            method,
            url,
            {**dict(spoken.endpoint.headers), **(headers or {})},
            body,
            length,
            authorizer=self._authorizer(spoken),
            redirects=redirects,
            retry=retry,
            cancel=self.registries.cancel,
        )

    def send(self, request: Request) -> Response:
        """Send a request of this repository. Close the answer."""
        return self.registries.client.send(request)

    def _authorizer(self, spoken: Spoken) -> Scoped:
        key = spoken.base
        known = self._authorizers.get(key)
        if known is None:
            actions = ("pull", "push") if self.push else ("pull",)
            own = scope_of(spoken.endpoint.repository, *actions)
            known = spoken.tokens.scoped(own, *self.extra_scopes)
            self._authorizers[key] = known
        return known
