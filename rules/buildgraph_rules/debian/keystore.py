"""Knows the one file of Debian's packages that holds the time it was made in a form that matters:
Java's list of authorities; must not know Java.

Without this, no image with a Java in it has the same bytes twice. Source: JavaKeyStore.java of
OpenJDK (sun.security.provider); the integrity digest is no secret, its password is the default.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from buildgraph.rootpath import Root
from buildgraph_rules.debian.database import read_file, write_file

PLACE: Final = "etc/ssl/certs/java/cacerts"
_HEAD: Final = b"\xfe\xed\xfe\xed\x00\x00\x00\x02"
_CERTIFICATE: Final = 2
_DIGEST_BYTES: Final = 20
_SALT: Final = "changeit".encode("utf-16-be") + b"Mighty Aphrodite"
_LARGEST: Final = 16 * 1024 * 1024


def settle_keystore(root: Root, epoch: int) -> None:
    """Date every entry of Java's certificates to `epoch`; leave alone what is not as expected."""
    data = read_file(root, PLACE, _LARGEST)
    settled = None if data is None else settle(data, epoch)
    if settled is not None:
        write_file(root, PLACE, settled)


def settle(data: bytes, epoch: int) -> bytes | None:
    """Return the keystore with every date set, or None where it is not one that we know."""
    body, digest = bytearray(data[:-_DIGEST_BYTES]), data[-_DIGEST_BYTES:]
    if not body.startswith(_HEAD) or _digest(body) != digest:
        return None
    try:
        (count,) = struct.unpack_from(">I", body, len(_HEAD))
        place = len(_HEAD) + 4
        for _ in range(count):
            tag, alias = struct.unpack_from(">IH", body, place)
            if tag != _CERTIFICATE:
                return None
            place += 6 + alias
            struct.pack_into(">Q", body, place, epoch * 1000)
            (kind,) = struct.unpack_from(">H", body, place + 8)
            place += 10 + kind
            (length,) = struct.unpack_from(">I", body, place)
            place += 4 + length
    except struct.error:
        return None
    return bytes(body) + _digest(body) if place == len(body) else None


def _digest(body: bytes | bytearray) -> bytes:
    return hashlib.sha1(_SALT + bytes(body), usedforsecurity=False).digest()
