from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from buildgraph.transport.client import Client
from buildgraph.transport.failures import NotFound, TooLarge, Unreachable
from buildgraph.transport.headers import Headers
from buildgraph.transport.messages import Request
from buildgraph.transport.pool import Settings
from buildgraph.transport.resume import Received, download, validator_of
from buildgraph.transport.urls import parse_url
from unit.transport.scripted_server import (
    End,
    FakeClock,
    MemorySink,
    Seen,
    Server,
    head,
    in_turn,
    ranged,
    reply,
)

DATA = random.Random(7).randbytes(3_000_000)
Answer = Callable[[Seen], Iterable["bytes | End"]]


class Fetch:
    """One download, with all that a test may ask about it."""

    def __init__(self, server: Server, sink: MemorySink | None = None, limit: int = 1 << 30):
        self.server = server
        self.sink = sink or MemorySink()
        self.limit = limit
        self.clock = FakeClock()

    def __call__(self, validator: str | None = None, named: bool = False) -> Received:
        request = Request("GET", parse_url(self.server.url("/file")))
        with Client(Settings(stall_timeout=0.3), clock=self.clock) as client:
            return download(
                client, request, self.sink, limit=self.limit, validator=validator, named=named
            )

    @property
    def offsets(self) -> list[int]:
        return [seen.offset for seen in self.server.seen]


def cutting(*cuts: int, etag: str | None = '"v1"', end: End = End.CLOSE) -> Answer:
    """Answer with the file, cutting the first answers after so many bytes."""
    left: Iterator[int] = iter(cuts)
    return lambda seen: ranged(seen, DATA, etag, next(left, None), end)


def test_a_cut_at_any_offset_costs_little() -> None:
    dice = random.Random(11)
    offsets = [0, 1, len(DATA) - 1, *(dice.randrange(len(DATA)) for _ in range(17))]
    for number, offset in enumerate(offsets):
        # A reset may take with it what came just before.
        with Server(cutting(offset, end=End.RESET if number % 2 else End.CLOSE)) as server:
            fetch = Fetch(server)
            got = fetch()
            assert bytes(fetch.sink.data) == DATA
            assert fetch.offsets[0] == 0
            assert len(fetch.offsets) == 2
            assert fetch.offsets[1] <= offset
            assert got.fetched < 1.2 * len(DATA)
            if fetch.offsets[1]:
                assert server.seen[1].headers["if-range"] == '"v1"'


def test_what_goes_on_is_not_given_up() -> None:
    piece = 200_000
    with Server(cutting(*[piece] * 5)) as server:
        fetch = Fetch(server)
        fetch()
        assert bytes(fetch.sink.data) == DATA
        assert fetch.offsets == [i * piece for i in range(6)]
    with Server(cutting(*[1_100_000] * 2, *[1] * 4)) as server:  # a megabyte is progress
        Fetch(server)()
        assert len(server.seen) == 7


def test_what_does_not_go_on_is_given_up() -> None:
    with Server(lambda seen: ranged(seen, DATA, cut=10)) as server:
        fetch = Fetch(server)
        with pytest.raises(Unreachable, match="6 attempts|closed .* bytes early|reset"):
            fetch()
        assert fetch.offsets == [0, 10, 20, 30, 40, 50]
        assert fetch.clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0]
        assert fetch.sink.size == 60  # for the next build


def test_a_stall_and_a_wrong_length_are_cuts_too() -> None:
    turns: list[Answer] = [
        lambda s: (head(200, {"Content-Length": len(DATA), "ETag": '"v1"'}), DATA[:100], End.STALL),
        lambda s: (
            head(206, {"Content-Length": 5, "Content-Range": f"bytes 100-104/{len(DATA)}"}),
            DATA[100:105],
        ),
        lambda s: ranged(s, DATA),
    ]
    with Server(in_turn(turns)) as server:
        fetch = Fetch(server)
        fetch()
        assert bytes(fetch.sink.data) == DATA
        assert fetch.offsets == [0, 100, 105]


def test_a_file_that_changed_meanwhile_is_fetched_anew() -> None:
    turns: list[Answer] = [
        lambda s: ranged(s, b"a" * 1000, '"v1"', 500),
        lambda s: ranged(s, b"b" * 1000, '"v2"'),
    ]
    with Server(in_turn(turns)) as server:
        fetch = Fetch(server)
        fetch()
        assert bytes(fetch.sink.data) == b"b" * 1000
        assert fetch.sink.restarts == 1


def test_without_a_validator_nothing_is_pieced_together() -> None:
    with Server(cutting(1000, etag=None)) as server:
        fetch = Fetch(server)
        fetch()
        assert fetch.offsets == [0, 0]
        assert bytes(fetch.sink.data) == DATA
    with Server(cutting(1000, etag='W/"v1"')) as server:
        fetch = Fetch(server)
        fetch()
        assert fetch.offsets == [0, 0]


def test_what_an_earlier_process_brought_is_gone_on_with() -> None:
    for more in ({"validator": '"v1"'}, {"named": True}):
        with Server(cutting()) as server:
            fetch = Fetch(server, MemorySink(DATA[:2_000_000]))
            got = fetch(**more)  # type: ignore[arg-type]
            assert bytes(fetch.sink.data) == DATA
            assert (fetch.offsets, got.fetched) == ([2_000_000], 1_000_000)
    with Server(cutting()) as server:
        fetch = Fetch(server, MemorySink(DATA[:2_000_000]))
        fetch()
        assert fetch.offsets == [0]


def test_what_is_there_already_is_not_fetched() -> None:
    with Server(cutting()) as server:
        fetch = Fetch(server, MemorySink(DATA))
        assert fetch(named=True).fetched == 0
        assert bytes(fetch.sink.data) == DATA


def test_what_is_too_long_already_is_fetched_anew() -> None:
    with Server(cutting()) as server:
        fetch = Fetch(server, MemorySink(DATA + b"x"))
        fetch(named=True)
        assert bytes(fetch.sink.data) == DATA
        assert fetch.offsets == [len(DATA) + 1, 0]


def test_a_server_without_ranges_sends_it_all_again() -> None:
    turns: list[Answer] = [
        lambda s: (head(200, {"Content-Length": 10, "ETag": '"1"'}), b"01234", End.RESET),
        lambda s: reply(200, b"0123456789", {"ETag": '"1"'}),
    ]
    with Server(in_turn(turns)) as server:
        fetch = Fetch(server)
        fetch()
        assert bytes(fetch.sink.data) == b"0123456789"
        assert fetch.offsets == [0, 5]


def test_a_server_with_strange_ranges_is_asked_again() -> None:
    turns: list[Answer] = [
        lambda s: (head(200, {"Content-Length": 10, "ETag": '"1"'}), b"01234", End.RESET),
        lambda s: reply(206, b"3456789", {"Content-Range": "bytes 3-9/10"}),
        lambda s: reply(200, b"0123456789"),
    ]
    with Server(in_turn(turns)) as server:
        fetch = Fetch(server)
        fetch()
        assert bytes(fetch.sink.data) == b"0123456789"
        assert fetch.offsets == [0, 5, 0]


def test_an_endless_or_too_long_body_ends_at_its_cap() -> None:
    def endless(seen: Seen) -> Iterable[bytes]:
        yield head(200, {"Transfer-Encoding": "chunked"})
        while True:
            yield b"3e8\r\n" + b"x" * 1000 + b"\r\n"

    with Server(endless) as server:
        fetch = Fetch(server, limit=100_000)
        with pytest.raises(TooLarge):
            fetch()
        assert fetch.sink.size <= 100_000
    with Server(cutting()) as server:
        fetch = Fetch(server, limit=len(DATA) - 1)
        with pytest.raises(TooLarge):
            fetch()
        assert fetch.sink.size == 0  # its length said so


def test_a_file_that_is_not_there() -> None:
    with Server(lambda seen: reply(404)) as server, pytest.raises(NotFound, match="does not exist"):
        Fetch(server)()


def test_the_patience_is_one_for_the_head_and_the_body() -> None:
    turns: list[Answer] = [
        lambda s: reply(503),
        lambda s: ranged(s, DATA, cut=5),
        lambda s: reply(503),
        lambda s: ranged(s, DATA, cut=5),
        lambda s: reply(503),
        lambda s: reply(503),
    ]
    with Server(in_turn(turns)) as server:
        fetch = Fetch(server)
        with pytest.raises(Unreachable):
            fetch()
        assert len(server.seen) == 6


def test_what_vouches_for_bytes() -> None:
    date = "Tue, 14 Nov 2023 22:13:20 GMT"
    later = "Tue, 14 Nov 2023 22:13:21 GMT"
    assert validator_of(Headers({"etag": '"a"', "last-modified": date})) == '"a"'
    assert validator_of(Headers({"etag": 'W/"a"', "last-modified": date})) is None
    assert validator_of(Headers({"last-modified": date})) == date
    assert validator_of(Headers({"last-modified": date, "date": later})) == date
    assert validator_of(Headers({"last-modified": date, "date": date})) is None
    assert validator_of(Headers({"last-modified": "yesterday"})) is None
    assert validator_of(Headers()) is None


def test_memory_does_not_grow_with_the_body() -> None:
    import tracemalloc

    class Hashing(MemorySink):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0
            self.hash = hashlib.sha256()

        @property
        def size(self) -> int:
            return self.count

        def write(self, data: bytes) -> int:
            self.count += len(data)
            self.hash.update(data)
            return len(data)

    block = bytes(1 << 20)

    def large(seen: Seen) -> Iterable[bytes]:
        yield head(200, {"Content-Length": 48 << 20})
        for _ in range(48):
            yield block

    with Server(large) as server:
        fetch = Fetch(server, Hashing())
        tracemalloc.start()
        fetch()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert fetch.sink.size == 48 << 20
        assert peak < 8 << 20
