"""Tries that what is worked on beside its producer is whole, in order, and fails aloud."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from buildgraph.oci.pipeline import fan_out, handing_on

CHUNKS = [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("threads", [False, True])
def test_everything_arrives_in_order_before_the_block_ends(threads: bool) -> None:
    seen: list[bytes] = []

    def slow(chunk: bytes) -> None:
        time.sleep(0.001)
        seen.append(chunk)

    with handing_on(slow, threads=threads) as give:
        fan_out(CHUNKS, [lambda chunk: give(chunk + b"!")], threads=threads)
    assert seen == [chunk + b"!" for chunk in CHUNKS]


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("at", [0, 20, 49])
def test_the_failure_of_whoever_takes_them_is_raised(threads: bool, at: int) -> None:
    def full(chunk: bytes) -> None:
        if chunk == CHUNKS[at]:
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"), handing_on(full, threads=threads) as give:
        fan_out(CHUNKS, [give], threads=threads)


def test_the_failure_of_the_producer_ends_every_thread() -> None:
    def broken() -> Iterator[bytes]:
        yield from CHUNKS[:3]
        raise ValueError("changed")

    seen: list[bytes] = []
    with pytest.raises(ValueError, match="changed"), handing_on(seen.append, threads=True) as give:
        fan_out(broken(), [give], threads=True)
    assert seen == CHUNKS[:3]
