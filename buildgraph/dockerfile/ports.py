"""Knows the words of EXPOSE after expansion; must not know who listens there.

Source: shared reference, section 1.4.
"""

from __future__ import annotations

import re

from msgspec import Struct

from buildgraph.dockerfile.wording import quote
from buildgraph.errors import InputError, Location, did_you_mean

_PROTOCOLS = ("tcp", "udp", "sctp")
_WORD = (
    r"(?:(?P<host>.*):)?(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?(?:/(?P<protocol>[^/]*))?"
)
_HIGHEST = 65_535


class PortSpec(Struct, frozen=True):
    """One word of EXPOSE; `host` is the address or host port in front of it, which we ignore."""

    first: int
    last: int
    protocol: str  # lower case
    host: str | None
    protocol_as_written: str | None


def parse_port_spec(word: str, where: Location) -> PortSpec:
    """Read `port[-end][/protocol]`, with an IP address or host port in front tolerated.

    Raises InputError for anything else.
    """
    match = re.fullmatch(_WORD, word)
    if match is None:
        raise InputError(
            f"{quote(word)} is no port", where, "write for instance 80, 53/udp or 80-90"
        )
    first = int(match["first"])
    last = int(match["last"] or match["first"])
    written = match["protocol"]
    protocol = (written or "tcp").lower()
    if protocol not in _PROTOCOLS:
        raise InputError(
            f"unknown protocol {quote(protocol)} in port {quote(word)}",
            where,
            did_you_mean(protocol[:60], _PROTOCOLS) or f"it is {', '.join(_PROTOCOLS)}",
        )
    if last > _HIGHEST:
        raise InputError(f"port {last} is higher than {_HIGHEST}", where)
    if last < first:
        raise InputError(f"the port range {quote(word)} ends before it begins", where)
    return PortSpec(first, last, protocol, match["host"], written)


def parse_ports(word: str, where: Location) -> tuple[str, ...]:
    """Expand one word into the ports that it names: `80-81/udp` gives `80/udp` and `81/udp`."""
    spec = parse_port_spec(word, where)
    return tuple(f"{port}/{spec.protocol}" for port in range(spec.first, spec.last + 1))


def exposed_ports(words: list[str], where: Location) -> tuple[str, ...]:
    """Expand all words of an EXPOSE, each port once, ordered by protocol and number.

    Ranges are merged before they are expanded, so that a line of overlapping ranges costs no more
    than the ports there are.
    """
    ranges = [parse_port_spec(word, where) for word in words]
    ranges.sort(key=lambda spec: (spec.protocol, spec.first))
    ports: list[str] = []
    protocol, following = "", 0
    for spec in ranges:
        if spec.protocol != protocol:
            protocol, following = spec.protocol, 0
        first = max(spec.first, following)
        ports += (f"{port}/{protocol}" for port in range(first, spec.last + 1))
        following = max(following, spec.last + 1)
    return tuple(ports)
