"""Knows the grammar of http and https addresses, and which form of one may be shown; must not
know how anything is fetched.

Source: RFC 3986; RFC 9110, 4.2 and 4.3.1 (origin). Stricter on purpose: what two parsers could
read in two ways is refused.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.errors import InputError, Location

PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\<>\"`{}|^]")
_SAFE: Final = "/%:@!$&'()*+,;=~-._?"  # of a path or a query; a % is taken as written
_URL_CHARS: Final = 8192
_LOGIN: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s?#@\"']*(?:@[^/\s?#@\"']*)*@")


class Origin(Struct, frozen=True, order=True):
    """Scheme, host and port: what a credential is bound to, and what a connection leads to.

    `host` is lower case ASCII, an IPv6 address without brackets.
    """

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """The host as a URL has it, with the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether this names the machine itself beyond doubt: see `is_loopback_name`."""
        return is_loopback_name(self.host)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


class Url(Struct, frozen=True):
    """A parsed address. `str()` is the whole of it without the login; `shown` is for people."""

    origin: Origin
    target: str = "/"  # path and query, percent-encoded; begins with a slash
    login: tuple[str, str] | None = None  # user and password, decoded

    @property
    def path(self) -> str:
        """The path, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def shown(self) -> str:
        """The address for messages, logs and records: no login, and no values of a query."""
        path, mark, _ = self.target.partition("?")
        return f"{self.origin}{path}" + ("?…" if mark else "")

    @property
    def basic(self) -> str | None:
        """What the login is as a value of Authorization (RFC 7617)."""
        if self.login is None:
            return None
        return "Basic " + base64.b64encode(":".join(self.login).encode()).decode()

    def without_login(self) -> Url:
        """Return the same address without its login."""
        return self if self.login is None else replace(self, login=None)

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


def parse_url(text: str, where: Location | None = None) -> Url:
    """Parse an absolute http or https address; a fragment is dropped.

    Raises InputError, whose message holds no login.
    """

    def bad(why: str) -> InputError:
        return InputError(f"{strip_logins(text[:200])!r} is not a usable URL: {why}", where)

    if len(text) > _URL_CHARS:
        raise bad("it is too long")
    if _FORBIDDEN.search(text):
        raise bad("it holds a space, a backslash or another character that must be encoded")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise bad("its host or port is malformed") from error
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise bad("only http and https are")
    host = _host(parts.hostname or "")
    if host is None or ("[" in parts.netloc) is not (":" in host):
        raise bad("it has no valid host")
    login = None
    if "@" in parts.netloc:
        login = (unquote(parts.username or ""), unquote(parts.password or ""))
        if any(c in "\r\n" for word in login for c in word):
            raise bad("its login holds a line break")
    path = quote(parts.path or "/", safe=_SAFE)
    query = "?" + quote(parts.query, safe=_SAFE) if parts.query else ""
    return Url(Origin(scheme, host, port or PORTS[scheme]), path + query, login)


def follow(base: Url, place: str) -> Url:
    """Return where a Location header leads; its login, if any, is dropped (A28).

    Raises InputError for what is neither http nor https.
    """
    encoded = quote(place, safe=_SAFE + "[]#")
    return parse_url(urljoin(str(base), encoded)).without_login()


def strip_logins(text: str) -> str:
    """Return a text with the login cut out of every URL in it."""
    return _LOGIN.sub(r"\1", text)


def mask_logins(text: str) -> str:
    """Return a text as long as before, with stars for the login in every URL."""
    return _LOGIN.sub(lambda m: m[1] + "*" * (len(m[0]) - len(m[1]) - 1) + "@", text)


def is_loopback_name(host: str) -> bool:
    """Say whether a host is `localhost` or a literal loopback address, and no look-alike (A34)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(text: str) -> str | None:
    if ":" in text:
        try:
            return str(ipaddress.IPv6Address(text))
        except ValueError:
            return None
    try:
        name = text.encode("ascii" if text.isascii() else "idna").decode().lower()
    except UnicodeError:
        return None
    if len(name) > 253 or ".." in name or not _HOST.fullmatch(name):
        return None
    return name
