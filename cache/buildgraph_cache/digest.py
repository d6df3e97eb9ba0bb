"""Knows how content is named: `sha256:<hex>`; must not know what the content is."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

Digest = NewType("Digest", str)

_GRAMMAR = re.compile(r"sha256:[0-9a-f]{64}\Z")


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest, or raise ValueError for anything but `sha256:<64 hex digits>`.

    A digest becomes part of a file name, so the grammar is checked once, here (A25).
    """
    if not _GRAMMAR.match(text):
        raise ValueError(f"not a sha256 digest: {text!r}")
    return Digest(text)


def sha256_digest(data: bytes) -> Digest:
    """Return the digest of `data`."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    """Return the hexadecimal part of a digest."""
    return digest[7:]
