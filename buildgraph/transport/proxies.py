"""Knows which proxy the environment names for an origin; must not know how one is talked to.

`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`, in lower case first; `HTTP_PROXY` in upper
case is not read inside a CGI program, where a client could set it (CVE-2016-5385).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from msgspec import Struct

from buildgraph.errors import InputError
from buildgraph.transport.urls import Origin, Url, parse_url


class Proxies(Struct, frozen=True):
    """The proxies of one environment, and who is reached without."""

    by_scheme: tuple[tuple[str, Url], ...] = ()
    without: tuple[str, ...] = ()

    @staticmethod
    def of(environ: Mapping[str, str]) -> Proxies:
        """Read them. Raises InputError for a proxy that is not an http proxy."""
        found: list[tuple[str, Url]] = []
        for scheme in ("http", "https"):
            for name in (f"{scheme}_proxy", "all_proxy"):
                text = environ.get(name) or _upper(environ, name)
                if text:
                    found.append((scheme, _proxy(name, text)))
                    break
        text = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        words = tuple(w.strip().lower() for w in text.replace(" ", ",").split(",") if w.strip())
        return Proxies(tuple(found), words)

    def for_origin(self, origin: Origin) -> Url | None:
        """Return the proxy for an origin; None: it is reached directly."""
        if any(_covers(word, origin) for word in self.without):
            return None
        return dict(self.by_scheme).get(origin.scheme)


def _upper(environ: Mapping[str, str], name: str) -> str | None:
    if name == "http_proxy" and "REQUEST_METHOD" in environ:
        return None
    return environ.get(name.upper())


def _proxy(name: str, text: str) -> Url:
    try:
        url = parse_url(text if "://" in text else f"http://{text}")
    except InputError as error:
        raise InputError(f"the variable {name}: {error.message}") from error
    if url.origin.scheme != "http":
        raise InputError(
            f"the variable {name} names a proxy that is itself reached by https",
            hint="proxies are reached by http; what goes through them may well be https",
        )
    return url


def _covers(word: str, origin: Origin) -> bool:
    """Say whether a word of no_proxy (name, suffix, address, network) covers an origin."""
    if word == "*":
        return True
    host, colon, port = word.rpartition(":")
    if colon and port.isdigit() and not host.endswith(":") and host.count(":") != 1:
        if int(port) != origin.port:
            return False
        word = host.strip("[]")
    word = word.removeprefix("*").strip("[]")
    try:
        network = ipaddress.ip_network(word, strict=False)
    except ValueError:
        name = word.lstrip(".")
        return bool(name) and (origin.host == name or origin.host.endswith("." + name))
    try:
        return ipaddress.ip_address(origin.host) in network
    except ValueError:
        return False
