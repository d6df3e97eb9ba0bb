"""Knows the names of stored objects and how their bytes are hashed; must not know the index.

A reference is text: `blob:sha256:<hex>`, `snapshot:<hex>` or `record:<kind>/<key>`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from buildgraph_cache.digest import Digest, is_hex, parse_digest

_CHUNK = 1 << 20


def blob_ref(digest: Digest) -> str:
    """Return the reference to a blob."""
    return f"blob:{parse_digest(digest)}"


def snapshot_ref(name: str) -> str:
    """Return the reference to a snapshot, named by 64 hex digits or by a digest.

    The name becomes a path, so anything else raises ValueError.
    """
    hexadecimal = name.removeprefix("sha256:")
    if not is_hex(hexadecimal):
        raise ValueError(f"not the name of a snapshot: {name!r}")
    return f"snapshot:{hexadecimal}"


def record_ref(kind: str, key: str) -> str:
    """Return the reference to a record; `kind` has no slash."""
    return f"record:{kind}/{key}"


def key_bytes(key: str) -> bytes:
    """Return the key of a record as the index keeps it: it may be a path in any encoding."""
    return key.encode("utf-8", "surrogateescape")


def key_text(raw: object) -> str:
    """Return a key as it comes out of the index, whatever damage made of it."""
    return raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else str(raw)


def is_object_ref(ref: str) -> bool:
    """Return whether the reference is to something on disk with a well-formed name."""
    if ref.startswith("blob:sha256:"):
        return is_hex(ref[12:])
    return ref.startswith("snapshot:") and is_hex(ref[9:])


def fingerprint_of(fd: int) -> bytes:
    """Return the xxh3-128 of all bytes of a file; its offset does not matter."""
    import xxhash

    hasher = xxhash.xxh3_128()
    for chunk in _chunks(fd):
        hasher.update(chunk)
    return hasher.digest()


def digest_of(fd: int) -> tuple[Digest, bytes]:
    """Return the sha256 digest and the fingerprint of all bytes of a file."""
    import hashlib

    import xxhash

    strong, quick = hashlib.sha256(), xxhash.xxh3_128()
    for chunk in _chunks(fd):
        strong.update(chunk)
        quick.update(chunk)
    return Digest(f"sha256:{strong.hexdigest()}"), quick.digest()


def _chunks(fd: int) -> Iterator[memoryview]:
    """Yield the bytes of a file, piece by piece in one buffer that is used again."""
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    offset = 0
    while count := os.preadv(fd, [buffer], offset):
        offset += count
        yield view[:count]
