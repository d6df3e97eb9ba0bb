"""Knows how layer bytes are compressed; must not know what a layer is.

The only door to isal and zstandard. Decompressors run in this process, never a program of the
machine or the image (A22), and are bounded (A18).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Final, Literal, Protocol, cast

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.oci.types import MEDIA_LAYER

Algorithm = Literal["gzip", "zstd", "uncompressed"]
DEFAULT_LEVEL: Final[dict[str, int]] = {"gzip": 1, "zstd": 3, "uncompressed": 0}
_LEVELS: Final = {"gzip": (0, 9), "zstd": (1, 22), "uncompressed": (0, 0)}
_ISAL_LEVELS: Final = 2
_OUT: Final = 1 << 20


class Compression(Struct, frozen=True):
    """How a layer's tar becomes a blob. `level` None is the algorithm's default.

    gzip levels 0 to 2 are ISA-L's (1 is our default), 3 to 9 are zlib's: ISA-L's level 3 gives
    other bytes on a processor with AVX2 than on one without; the lower levels do not.
    """

    name: Algorithm = "gzip"
    level: int | None = None

    def __post_init__(self) -> None:
        if self.name not in _LEVELS:
            raise InputError(
                f"unknown compression {self.name!r}", hint="gzip, zstd or uncompressed"
            )
        low, high = _LEVELS[self.name]
        if self.level is not None and not low <= self.level <= high:
            raise InputError(f"{self.name} compression has levels {low} to {high}")

    @property
    def id(self) -> str:
        """Name what makes the bytes: algorithm, level and library with its version.

        ISA-L and zstd may change their output with a version, so blobs of another version are
        not taken for ours; the uncompressed tar is the same everywhere.
        """
        level = DEFAULT_LEVEL[self.name] if self.level is None else self.level
        if self.name == "uncompressed":
            return "uncompressed"
        if self.name == "zstd":
            import zstandard

            version = ".".join(map(str, zstandard.ZSTD_VERSION))
            return f"zstd-{level}-libzstd-{version}"
        if level > _ISAL_LEVELS:
            import zlib

            return f"gzip-{level}-zlib-{zlib.ZLIB_RUNTIME_VERSION}"
        import isal

        return f"gzip-{level}-isal-{isal.__version__}"

    @property
    def media_type(self) -> str:
        """The OCI media type of a layer compressed so."""
        return layer_media_type(self.name)


def layer_media_type(name: str) -> str:
    """Return the OCI media type of a layer in this compression."""
    return {"gzip": MEDIA_LAYER + "+gzip", "zstd": MEDIA_LAYER + "+zstd"}.get(name, MEDIA_LAYER)


class Compressor(Protocol):
    """A stream: feed it, then flush it once."""

    def compress(self, data: bytes) -> bytes:
        """Take bytes in; return what is ready."""

    def flush(self) -> bytes:
        """Return the rest; the compressor is spent."""


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(compression: Compression) -> Compressor:
    """Return a new compressor; its output depends on the input and on how the input is cut.

    Feed chunks of one fixed size for bytes that repeat. The gzip header holds no time and no name.
    """
    name, level = compression.name, compression.level
    if level is None:
        level = DEFAULT_LEVEL[name]
    if name == "uncompressed":
        return _Plain()
    if name == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    if level > _ISAL_LEVELS:
        import zlib

        return zlib.compressobj(level, zlib.DEFLATED, 31)
    from isal import isal_zlib

    return isal_zlib.compressobj(level, isal_zlib.DEFLATED, 31)


def sniff(head: bytes) -> str:
    """Return gzip, zstd, xz, bzip2 or uncompressed from the first bytes of a stream."""
    if head[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if head[:4] == b"\x28\xb5\x2f\xfd" or (
        head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F
    ):
        return "zstd"
    if head[:6] == b"\xfd7zXZ\x00":
        return "xz"
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):
        return "bzip2"
    return "uncompressed"


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out without input."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take bytes in, give at most `max_length` out."""


class _Gzip:
    """isal's and zlib's decompressobj in the shape of bz2's and lzma's."""

    def __init__(self) -> None:
        from isal import isal_zlib

        self._z = isal_zlib.decompressobj(31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._z.eof

    @property
    def unused_data(self) -> bytes:
        return self._z.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._z.decompress(self._z.unconsumed_tail + data, max_length)
        self.needs_input = not self._z.unconsumed_tail and len(out) < max_length
        return out


def _decompressor(name: str) -> _Decompressor:
    if name == "gzip":
        return _Gzip()
    if name == "xz":
        import lzma

        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * limits.ZSTD_WINDOW)
    import bz2

    return bz2.BZ2Decompressor()


def decompress(
    source: Iterator[bytes],
    *,
    total: int = limits.LAYER_BYTES,
    ratio: int | None = limits.DECOMPRESS_RATIO,
) -> Iterator[bytes]:
    """Yield the decompressed bytes of a stream whose form is told by its first bytes.

    Concatenated members are one stream, as gzip(1) and zstd(1) have it. Raises InputError for
    damaged or truncated data, for more than `total` bytes, for growing more than `ratio` times
    once DECOMPRESS_FREE bytes are out (None: for what we have packed ourselves, since zeros pack
    a thousandfold), and for a zstd window over ZSTD_WINDOW.
    """
    head = b""
    for piece in source:
        head += piece
        if len(head) >= 16:
            break
    name = sniff(head)
    counted = _Counter(source, head)
    if name == "uncompressed":
        stream: Iterator[bytes] = iter(counted)
    elif name == "zstd":
        stream = _zstd(counted)
    else:
        stream = _members(name, counted)
    out = 0
    for data in stream:
        out += len(data)
        if out > total:
            raise InputError(f"the archive unpacks to more than {total} bytes")
        if ratio is not None and out > max(limits.DECOMPRESS_FREE, counted.taken * ratio):
            raise InputError(f"the {name} archive grows more than {ratio} times: refused")
        yield data


class _Counter:
    """Counts the compressed bytes that were taken."""

    def __init__(self, source: Iterator[bytes], head: bytes) -> None:
        self._source = source
        self._head = head
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        if self._head:
            self.taken += len(self._head)
            yield self._head
        for piece in self._source:
            self.taken += len(piece)
            yield piece


def _members(name: str, source: _Counter) -> Iterator[bytes]:
    try:
        yield from _each_member(name, iter(source))
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"the {name} stream is damaged: {error}") from error
    except Exception as error:
        # zlib.error, isal's error and LZMAError have no base in common but Exception
        if type(error).__name__ in ("error", "IsalError", "LZMAError"):
            raise InputError(f"the {name} stream is damaged: {error}") from error
        raise


def _each_member(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    data = next(pieces, b"")
    while data:
        engine = _decompressor(name)
        while not engine.eof:
            if not data and engine.needs_input:
                data = next(pieces, b"")
                if not data:
                    raise InputError(f"the {name} stream is cut off")
            out = engine.decompress(data, _OUT)
            data = b""
            if out:
                yield out
        data = engine.unused_data or next(pieces, b"")
        # zero padding after a member, as gzip(1) and xz(1) allow
        while data and not (data := data.lstrip(b"\0")):
            data = next(pieces, b"")


class _Reader:
    """A file-like view of an iterator, for zstandard's stream reader."""

    def __init__(self, source: _Counter) -> None:
        self._pieces = iter(source)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        data = self._rest or next(self._pieces, b"")
        if 0 <= size < len(data):
            self._rest = data[size:]
            return data[:size]
        self._rest = b""
        return data


def _zstd(source: _Counter) -> Iterator[bytes]:
    import zstandard

    engine = zstandard.ZstdDecompressor(max_window_size=limits.ZSTD_WINDOW)
    try:
        # A stream cut inside a frame just ends here; whoever knows its digest or reads a tar
        # from it finds that out.
        reader = engine.stream_reader(
            cast(IO[bytes], _Reader(source)), read_size=256 * 1024, read_across_frames=True
        )
        while data := reader.read(_OUT):
            yield data
    except zstandard.ZstdError as error:
        raise InputError(f"the zstd stream is damaged or needs too much memory: {error}") from error
