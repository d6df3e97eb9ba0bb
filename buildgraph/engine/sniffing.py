"""Knows whether a file is an archive that ADD unpacks, by its content; must not know its name.

Plain tar, or tar in gzip, bzip2, xz or zstd: the first block must be a tar header whose checksum
is right. Source: shared reference 1.5; POSIX pax, "ustar Interchange Format".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from buildgraph.errors import InputError
from buildgraph.filetree import FileTree
from buildgraph.oci.compress import decompress

_BLOCK: Final = 512
_PIECE: Final = 64 << 10
_PIECES: Final = 64  # a bzip2 block is 900 kB; whoever hides the first header deeper is no archive


def is_archive(tree: FileTree, path: str) -> bool:
    """Say whether the regular file at `path` begins as an archive that can be unpacked."""
    fd = tree.open(path)
    try:
        block = b""
        for data in decompress(_pieces(fd)):
            block += data[: _BLOCK - len(block)]
            if len(block) == _BLOCK:
                return is_tar_header(block)
    except InputError:  # damaged or only looks compressed: copied as it is
        return False
    finally:
        os.close(fd)
    return False


def is_tar_header(block: bytes) -> bool:
    """Say whether 512 bytes are a tar header: a name, and a checksum that is right."""
    if len(block) < _BLOCK or not block[0]:
        return False
    text = block[148:156].strip(b" \0")
    try:
        wanted = int(text, 8)
    except ValueError:
        return False
    rest = block[:148] + b" " * 8 + block[156:_BLOCK]
    return wanted in (sum(rest), sum(b - 256 if b > 127 else b for b in rest))


def _pieces(fd: int) -> Iterator[bytes]:
    for _ in range(_PIECES):
        data = os.read(fd, _PIECE)
        if not data:
            return
        yield data
