"""Knows how private a network address is, and where a request may therefore lead; must not know
how addresses are found or connected to.

A name says nothing about where it leads, so it is the address of the connection that is judged
(reliability A31).
"""

from __future__ import annotations

import enum
import ipaddress
from typing import Final

from msgspec import Struct

from buildgraph.transport.failures import Refused

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Where clouds answer questions about a machine, credentials among them.
_METADATA: Final = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16"))
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Zone(enum.IntEnum):
    """How private an address is."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    RESERVED = 3  # link-local, metadata services, multicast


def zone_of(address: str) -> Zone:
    """Return the zone of a literal address; an IPv4 address inside an IPv6 one counts as itself."""
    ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if ip in _METADATA or ip.is_link_local or ip.is_multicast:
        return Zone.RESERVED
    if ip.is_loopback or ip.is_unspecified:  # 0.0.0.0 connects to the machine itself
        return Zone.LOOPBACK
    return Zone.PUBLIC if ip.is_global else Zone.PRIVATE


def literal_zone(host: str) -> Zone | None:
    """Return the zone of a host that is an address, or None for a name."""
    try:
        return zone_of(host)
    except ValueError:
        return None


class AddressPolicy(Struct, frozen=True):
    """The most private zone that a request may reach."""

    limit: Zone = Zone.LOOPBACK

    def check(self, shown: str, address: str) -> None:
        """Raise Refused where `address`, to which `shown` led, is off limits."""
        if (zone := zone_of(address)) > self.limit:
            raise Refused(
                f"{shown} leads to {address}, which is {_WORDS[zone]}",
                hint="nothing was sent there; use the address you mean, if you do mean it",
            )

    def within(self, zone: Zone) -> AddressPolicy:
        """Return the policy for where an answer from `zone` leads: nowhere more private."""
        return AddressPolicy(min(self.limit, zone))


_WORDS: Final = {
    Zone.PUBLIC: "a public address",
    Zone.PRIVATE: "an address of a private network",
    Zone.LOOPBACK: "this machine itself",
    Zone.RESERVED: "a link-local or metadata address",
}


def _unwrapped(ip: _Address) -> _Address:
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip
