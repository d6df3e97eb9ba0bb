"""Knows how a packet filter table is written to the kernel; must not know whom it protects.

nf_tables over nfnetlink: linux/netfilter/nf_tables.h, nfnetlink.h. One table a builder, owned by
the netlink socket that made it (NFT_TABLE_F_OWNER, since 5.12), so that it goes when the process
does, however it ends.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

from msgspec import Struct

DROP: Final = 0
ACCEPT: Final = 1

FAMILY_INET: Final = 1
HOOK_INPUT: Final = 1
HOOK_FORWARD: Final = 2
HOOK_POSTROUTING: Final = 4

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_NEWTABLE: Final = _SUBSYSTEM << 8 | 0
_DELTABLE: Final = _SUBSYSTEM << 8 | 2
_NEWCHAIN: Final = _SUBSYSTEM << 8 | 3
_NEWRULE: Final = _SUBSYSTEM << 8 | 6
_REQUEST: Final = 1
_ACK: Final = 4
_CREATE: Final = 0x400
_APPEND: Final = 0x800
_NESTED: Final = 0x8000
_TABLE_OWNER: Final = 0x2
_ERROR: Final = 2
_EQ: Final = 0
_NEQ: Final = 1
_META_IIFNAME: Final = 6
_META_OIFNAME: Final = 7
_META_NFPROTO: Final = 15
_META_L4PROTO: Final = 16
_NETWORK_HEADER: Final = 1
_TRANSPORT_HEADER: Final = 2
_ESTABLISHED_OR_RELATED: Final = 2 | 4


def _attr(kind: int, data: bytes, *, nested: bool = False) -> bytes:
    head = struct.pack("=HH", 4 + len(data), kind | (_NESTED if nested else 0))
    return head + data + b"\0" * (-len(data) % 4)


def _text(kind: int, text: str) -> bytes:
    return _attr(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attr(kind, struct.pack("!I", value & 0xFFFFFFFF))


def _expression(name: str, data: bytes) -> bytes:
    return _attr(1, _text(1, name) + _attr(2, data, nested=True), nested=True)


def _compare(value: bytes, *, equal: bool = True) -> bytes:
    data = _attr(3, _attr(1, value), nested=True)
    return _expression("cmp", _number(1, 1) + _number(2, _EQ if equal else _NEQ) + data)


def _mask(length: int, mask: bytes) -> bytes:
    zero = _attr(5, _attr(1, b"\0" * length), nested=True)
    bits = _attr(4, _attr(1, mask), nested=True)
    return _expression("bitwise", _number(1, 1) + _number(2, 1) + _number(3, length) + bits + zero)


def _meta(key: int) -> bytes:
    return _expression("meta", _number(1, 1) + _number(2, key))


def _payload(base: int, offset: int, length: int) -> bytes:
    data = _number(1, 1) + _number(2, base) + _number(3, offset) + _number(4, length)
    return _expression("payload", data)


def _name(text: str) -> bytes:
    """Return a value for an interface name; a trailing `*` matches any ending."""
    return text[:-1].encode() if text.endswith("*") else text.encode().ljust(16, b"\0")


def from_interface(name: str, *, equal: bool = True) -> bytes:
    """Match the interface a packet came in by; `x*` matches a prefix."""
    return _meta(_META_IIFNAME) + _compare(_name(name), equal=equal)


def to_interface(name: str, *, equal: bool = True) -> bytes:
    """Match the interface a packet leaves by."""
    return _meta(_META_OIFNAME) + _compare(_name(name), equal=equal)


def ipv4(*, equal: bool = True) -> bytes:
    """Match packets of IPv4, or all others."""
    return _meta(_META_NFPROTO) + _compare(bytes([socket.AF_INET]), equal=equal)


def _address(offset: int, network: str, *, equal: bool) -> bytes:
    base, _, bits = network.partition("/")
    mask = struct.pack("!I", 0xFFFFFFFF << 32 - int(bits or 32) & 0xFFFFFFFF)
    load = _payload(_NETWORK_HEADER, offset, 4) + _mask(4, mask)
    return load + _compare(socket.inet_aton(base), equal=equal)


def source(network: str, *, equal: bool = True) -> bytes:
    """Match the IPv4 source address, `a.b.c.d/n`; use after `ipv4()`."""
    return _address(12, network, equal=equal)


def destination(network: str, *, equal: bool = True) -> bytes:
    """Match the IPv4 destination address."""
    return _address(16, network, equal=equal)


def port(protocol: int, number: int) -> bytes:
    """Match a destination port of TCP (6) or UDP (17)."""
    load = _payload(_TRANSPORT_HEADER, 2, 2)
    return (
        _meta(_META_L4PROTO)
        + _compare(bytes([protocol]))
        + load
        + _compare(struct.pack("!H", number))
    )


def answers() -> bytes:
    """Match packets of a connection the other side began."""
    bits = struct.pack("=I", _ESTABLISHED_OR_RELATED)
    return (
        _expression("ct", _number(1, 1) + _number(2, 0))
        + _mask(4, bits)
        + _compare(b"\0" * 4, equal=False)
    )


def verdict(code: int) -> bytes:
    """End with DROP or ACCEPT."""
    value = _attr(2, _attr(2, _number(1, code), nested=True), nested=True)
    return _expression("immediate", _number(1, 0) + value)


def masquerade() -> bytes:
    """Give the packet the address of the interface it leaves by."""
    return _expression("masq", b"")


class Chain(Struct, frozen=True):
    """A base chain and its rules, each a concatenation of the expressions above."""

    name: str
    kind: str  # filter | nat
    hook: int
    priority: int
    rules: tuple[bytes, ...]


class Table:
    """A table of the inet family that lives as long as this object's socket."""

    def __init__(self, name: str):
        self.name = name
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._sock.bind((0, 0))
        self._sock.settimeout(10)
        self._sequence = 0

    def create(self, chains: tuple[Chain, ...]) -> None:
        """Write the table in one transaction. Raises OSError and leaves nothing."""
        try:
            self._transact(self._messages(chains, _TABLE_OWNER))
        except OSError:
            # A kernel before 5.12 knows no owner: the table is then swept by its name.
            self._transact(self._messages(chains, 0))

    def _messages(self, chains: tuple[Chain, ...], flags: int) -> list[tuple[int, int, bytes]]:
        table = _text(1, self.name)
        out = [(_NEWTABLE, _CREATE, table + _number(2, flags))]
        for chain in chains:
            hook = _attr(4, _number(1, chain.hook) + _number(2, chain.priority), nested=True)
            body = table + _text(3, chain.name) + hook + _number(5, ACCEPT) + _text(7, chain.kind)
            out.append((_NEWCHAIN, _CREATE, body))
            for rule in chain.rules:
                body = table + _text(2, chain.name) + _attr(4, rule, nested=True)
                out.append((_NEWRULE, _CREATE | _APPEND, body))
        return out

    def delete(self) -> None:
        """Remove the table. Raises FileNotFoundError where there is none."""
        self._transact([(_DELTABLE, 0, _text(1, self.name))])

    def close(self) -> None:
        """Let the kernel remove the table, if it has an owner."""
        self._sock.close()

    def _message(self, kind: int, flags: int, family: int, resource: int, body: bytes) -> bytes:
        self._sequence += 1
        head = struct.pack("=IHHII", 20 + len(body), kind, flags | _REQUEST, self._sequence, 0)
        return head + struct.pack("!BBH", family, 0, resource) + body

    def _transact(self, messages: list[tuple[int, int, bytes]]) -> None:
        batch = self._message(_BATCH_BEGIN, 0, 0, _SUBSYSTEM, b"")
        waiting = set()
        for kind, flags, body in messages:
            batch += self._message(kind, flags | _ACK, FAMILY_INET, 0, body)
            waiting.add(self._sequence)
        batch += self._message(_BATCH_END, 0, 0, _SUBSYSTEM, b"")
        self._sock.send(batch)
        while waiting:
            data = self._sock.recv(1 << 16)
            while len(data) >= 20:
                length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
                if kind == _ERROR:
                    code = struct.unpack_from("=i", data, 16)[0]
                    if code:
                        raise OSError(-code, f"nf_tables: {os.strerror(-code)}", self.name)
                    waiting.discard(sequence)
                data = data[(length + 3) & ~3 :]
