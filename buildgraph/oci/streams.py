"""Knows what is done to a stream of tar bytes on its way; must not know where it goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from buildgraph.oci.compress import Compression, compressor
from buildgraph.oci.tarstream import CHUNK

_TOC: Final = Compression("zstd", 1)
_TOC_BATCH: Final = 1 << 20


class Size:
    """Counts the bytes of a stream."""

    def __init__(self) -> None:
        self.total = 0

    def counting(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks on."""
        for chunk in chunks:
            self.total += len(chunk)
            yield chunk


class Toc:
    """Collects the headers of a tar, compressed on the way."""

    def __init__(self) -> None:
        self._engine = compressor(_TOC)
        self._out: list[bytes] = []
        self._pending: list[bytes] = []
        self._length = 0

    def add(self, header: bytes) -> None:
        """Take one header."""
        self._pending.append(header)
        self._length += len(header)
        if self._length >= _TOC_BATCH:
            self._out.append(self._engine.compress(b"".join(self._pending)))
            self._pending = []
            self._length = 0

    def finish(self) -> bytes:
        """Return the whole, compressed."""
        self._out.append(self._engine.compress(b"".join(self._pending)))
        self._out.append(self._engine.flush())
        return b"".join(self._out)


def rechunk(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a stream into the chunks that `tar_chunks` makes, so that packing repeats its bytes."""
    pending = bytearray()
    for chunk in chunks:
        pending += chunk
        while len(pending) >= CHUNK:
            yield bytes(pending[:CHUNK])
            del pending[:CHUNK]
    if pending:
        yield bytes(pending)
