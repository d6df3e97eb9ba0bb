"""Knows what a registry asks for when it says 401, and what the answer to it is; must not know how
requests are sent.

A realm is an address that a stranger chose, so it is held to rules before anything goes there: a
registry spoken to by https names an https realm, and only a registry on a private or loopback
address may name one on such an address (A30).

Source: RFC 9110 section 11; the distribution project's "Token Authentication Specification" and
"OAuth2 token endpoint".
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from msgspec import Struct

from buildgraph.errors import HostError
from buildgraph.oci.registry.credentials import Credentials
from buildgraph.transport.addresses import Zone, literal_zone

CLIENT_ID: Final = "buildgraph"
_DEFAULT_SECONDS: Final = 60.0  # what a token without expires_in is good for
_LONGEST_SECONDS: Final = 24 * 3600.0

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_START: Final = re.compile(rf"[\s,]*({_TOKEN})(?=[\s,]|\Z)(?!\s*=)")
_PARAMETER: Final = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')


class Challenge(Struct, frozen=True):
    """One way in that a server offers; `scheme` in small letters."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenRequest:
    """The request that gets a token: GET, or POST of a form where there is a body."""

    url: str
    headers: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)
    body: bytes | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and how many seconds it is good for."""

    value: str = dataclasses.field(repr=False)
    seconds: float = _DEFAULT_SECONDS
    refresh: str = dataclasses.field(default="", repr=False)


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """Return what `WWW-Authenticate` headers offer; what cannot be read is left out."""
    out = []
    for value in values:
        at = 0
        while start := _START.match(value, at):
            at = start.end()
            parameters: dict[str, str] = {}
            while pair := _PARAMETER.match(value, at):
                at = pair.end()
                quoted = pair[2]
                text = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else pair[3]
                parameters.setdefault(pair[1].lower(), text)
            known = {k: parameters.get(k, "") for k in ("realm", "service", "scope", "error")}
            out.append(Challenge(start[1].lower(), **known))
    return tuple(out)


def basic(credentials: Credentials) -> str:
    """Return the value of an `Authorization` header with a name and a password."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def scope_of(repository: str, *actions: str) -> str:
    """Return the scope a repository is asked for with."""
    return f"repository:{repository}:{','.join(actions)}"


def token_request(
    challenge: Challenge,
    registry: str,
    scopes: Iterable[str],
    credentials: Credentials | None,
    *,
    keep: bool = False,
) -> TokenRequest:
    """Return how a bearer challenge is answered.

    `registry` is the URL the challenge came from. `keep` asks for a refresh token too (`login`).
    Raises HostError for a realm that may not be asked.
    """
    check_realm(challenge.realm, registry)
    wanted = list(dict.fromkeys(scope for scope in scopes if scope))
    if credentials is not None and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": challenge.service,
            "client_id": CLIENT_ID,
            "scope": " ".join(wanted),
            "refresh_token": credentials.identity_token,
        }
        kind = ("Content-Type", "application/x-www-form-urlencoded")
        return TokenRequest(challenge.realm, (kind,), urlencode(form).encode())
    query = [("service", challenge.service)] if challenge.service else []
    query += [("scope", scope) for scope in wanted]
    if keep:
        query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
    if credentials is not None and credentials.username:
        query.append(("account", credentials.username))
    joint = "&" if urlsplit(challenge.realm).query else "?"
    url = challenge.realm + (joint + urlencode(query) if query else "")
    named = credentials is not None and (credentials.username or credentials.password)
    headers = (("Authorization", basic(credentials)),) if credentials and named else ()
    return TokenRequest(url, headers)


def parse_token(body: bytes, realm: str) -> Token:
    """Return the token of a realm's answer. Raises HostError for anything else; quotes nothing."""
    host = urlsplit(realm).netloc.rpartition("@")[2]
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HostError(f"{host} gave a token of no known form") from error
    if not isinstance(answer, Mapping):
        raise HostError(f"{host} gave a token of no known form")
    value = answer.get("token") or answer.get("access_token")
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise HostError(f"{host} gave an answer without a token")
    seconds = answer.get("expires_in")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0:
        seconds = _DEFAULT_SECONDS
    refresh = answer.get("refresh_token")
    return Token(
        value,
        min(float(seconds), _LONGEST_SECONDS),
        refresh if isinstance(refresh, str) else "",
    )


def check_realm(realm: str, registry: str) -> None:
    """Refuse a realm that a registry has no business to name (A30).

    The address that a name really leads to is checked where the connection is made (A31).
    """
    ours = urlsplit(registry)
    try:
        theirs = urlsplit(realm)
        host, _ = theirs.hostname, theirs.port
    except ValueError:
        host, theirs = None, urlsplit("")
    why = ""
    if theirs.scheme not in ("http", "https") or not host:
        why = "is no http or https address"
    elif "@" in theirs.netloc:
        why = "holds a name or a password"
    elif theirs.fragment or any(ord(c) < 33 or ord(c) == 127 for c in realm):
        why = "is no plain address"
    elif ours.scheme == "https" and theirs.scheme == "http":
        why = "would be asked without encryption, and the registry was not"
    elif is_private(host) and not is_private(ours.hostname or ""):
        why = "is an address of this machine or of a private network, and the registry's is not"
    if why:
        shown = f"{theirs.scheme}://{host}" if host else repr(realm[:80])
        raise HostError(
            f"{ours.hostname} sends us to {shown} for a token, which {why}",
            hint="nothing was sent there",
        )


def is_private(host: str) -> bool:
    """Say whether a host is a literal address (or `localhost`) that is not the public network's."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return (literal_zone(host.strip("[]")) or Zone.PUBLIC) > Zone.PUBLIC
