"""Compressed streams: what we write repeats, what we read is bounded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
from collections.abc import Iterator

import pytest
import zstandard

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.oci.compress import Compression, compressor, decompress, sniff

DATA = b"".join(b"%d, " % n for n in range(300_000)) + os.urandom(100_000)


def pack(compression: Compression, data: bytes, piece: int = 1 << 20) -> bytes:
    engine = compressor(compression)
    out = [engine.compress(data[at : at + piece]) for at in range(0, len(data), piece)]
    return b"".join([*out, engine.flush()])


def cut(data: bytes, piece: int) -> Iterator[bytes]:
    return (data[at : at + piece] for at in range(0, len(data), piece))


def unpack(data: bytes, piece: int = 1 << 16) -> bytes:
    return b"".join(decompress(cut(data, piece)))


@pytest.mark.parametrize(
    "compression",
    [
        Compression(),
        *(Compression("gzip", level) for level in (0, 1, 2, 3, 9)),
        Compression("zstd"),
        Compression("zstd", 1),
        Compression("uncompressed"),
    ],
)
@pytest.mark.parametrize("piece", [1000, 1 << 20])
def test_what_is_packed_comes_back(compression: Compression, piece: int) -> None:
    data = pack(compression, DATA)
    assert data == pack(compression, DATA)
    assert unpack(data, piece) == DATA


def test_gzip_has_no_time_and_no_name() -> None:
    data = pack(Compression("gzip"), DATA)
    assert data[:8] == b"\x1f\x8b\x08\0\0\0\0\0"
    assert gzip.decompress(data) == DATA


def test_the_id_names_what_makes_the_bytes() -> None:
    ids = {Compression("gzip", level).id for level in (None, 1, 2, 6)} | {
        Compression("zstd").id,
        Compression("uncompressed").id,
    }
    assert len(ids) == 5
    assert Compression("gzip").id == Compression("gzip", 1).id
    assert Compression("gzip").id.startswith("gzip-1-isal-")
    assert Compression("gzip", 3).id.startswith("gzip-3-zlib-"), "its bytes differ by processor"


@pytest.mark.parametrize(("name", "level"), [("gzip", 10), ("gzip", -1), ("zstd", 23), ("zstd", 0)])
def test_levels_have_bounds(name: str, level: int) -> None:
    with pytest.raises(InputError, match="levels"):
        Compression(name, level)  # type: ignore[arg-type]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown compression"):
        Compression("lz4")  # type: ignore[arg-type]


FORMS = {
    "gzip": gzip.compress(DATA),
    "bzip2": bz2.compress(DATA),
    "xz": lzma.compress(DATA, preset=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(DATA),
    "uncompressed": DATA,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("piece", [7, 1 << 16, 1 << 24])
def test_forms_are_told_by_their_first_bytes(name: str, piece: int) -> None:
    data = FORMS[name] if piece > 7 else FORMS[name][:50_000]
    assert sniff(FORMS[name][:16]) == name
    if piece > 7:
        assert unpack(data, piece) == DATA


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
def test_several_members_are_one_stream(name: str) -> None:
    assert unpack(FORMS[name] * 2) == DATA * 2


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_zeros_after_a_member_are_padding(name: str) -> None:
    assert unpack(FORMS[name] + bytes(70_000)) == DATA


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_a_cut_stream_is_refused(name: str) -> None:
    for size in (20, len(FORMS[name]) // 2, len(FORMS[name]) - 1):
        with pytest.raises(InputError, match="cut off|damaged"):
            unpack(FORMS[name][:size])


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
def test_a_damaged_stream_is_refused(name: str) -> None:
    data = bytearray(FORMS[name])
    data[len(data) // 2] ^= 0xFF
    data[len(data) // 2 + 1] ^= 0xFF
    with pytest.raises(InputError, match="damaged"):
        unpack(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        unpack(FORMS[name] + b"garbage that is no member")


def test_an_empty_stream_is_empty() -> None:
    assert unpack(b"") == b""
    assert unpack(b"\x1f") == b"\x1f"


def test_bombs_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DECOMPRESS_FREE", 1 << 20)
    for bomb in (bz2.compress(bytes(30 << 20)), zstandard.compress(bytes(30 << 20))):
        with pytest.raises(InputError, match="grows more than"):
            unpack(bomb)


def test_the_total_is_capped() -> None:
    with pytest.raises(InputError, match="more than 1000 bytes"):
        list(decompress(iter([FORMS["gzip"]]), total=1000))


def test_a_long_zstd_window_is_refused() -> None:
    params = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    writer = zstandard.ZstdCompressor(compression_params=params).compressobj()
    data = writer.compress(bytes(1 << 20)) + writer.flush()
    with pytest.raises(InputError, match="zstd stream"):
        unpack(data)


def test_a_large_xz_dictionary_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    with pytest.raises(InputError, match="xz stream"):
        unpack(lzma.compress(b"x" * 1000, filters=filters))


def test_gzip_1_reads_it() -> None:
    done = subprocess.run(
        ["gzip", "-dc"], input=pack(Compression(), DATA), capture_output=True, check=True
    )
    assert done.stdout == DATA
    assert gzip.GzipFile(fileobj=io.BytesIO(pack(Compression(), DATA))).read(10) == DATA[:10]
