"""Knows how content is named: `sha256:<hex>`; must not know what the content is.

Imports nothing at run time: the path that finds nothing to do goes through here.
"""

from __future__ import annotations

from typing import NewType

Digest = NewType("Digest", str)

_PREFIX = "sha256:"
_LENGTH = len(_PREFIX) + 64


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest, or raise ValueError for anything but `sha256:<64 hex digits>`.

    A digest becomes part of a file name, so the grammar is checked once, here (A25).
    """
    if len(text) != _LENGTH or not text.startswith(_PREFIX) or not is_hex(text[len(_PREFIX) :]):
        raise ValueError(f"not a sha256 digest: {text!r}")
    return Digest(text)


def is_hex(text: str) -> bool:
    """Return whether `text` is 64 lower-case hexadecimal digits."""
    return len(text) == 64 and not text.strip("0123456789abcdef")


def sha256_digest(data: bytes) -> Digest:
    """Return the digest of `data`."""
    import hashlib  # 2 ms that a build with nothing to do does not need

    return Digest(_PREFIX + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    """Return the hexadecimal part of a digest."""
    return digest[7:]
