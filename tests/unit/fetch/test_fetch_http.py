from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildgraph.errors import HostError, InputError, Interrupted
from buildgraph.fetch.http import KIND, OLDEST, Content, HttpSource, Wanted
from buildgraph.fetch.names import UNNAMED, file_name
from buildgraph.transport.client import Client
from buildgraph.transport.failures import TooLarge, Unreachable
from buildgraph.transport.pool import Settings
from buildgraph.transport.urls import parse_url
from buildgraph_cache.digest import Digest
from buildgraph_cache.store import Store
from unit.transport.scripted_server import (
    End,
    FakeClock,
    Seen,
    Server,
    head,
    in_turn,
    ranged,
    reply,
)

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
DATA = bytes(range(256)) * 400


def digest_of(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


@dataclass
class Here:
    """A store and a client, and what asks with them."""

    store: Store
    client: Client
    cancel: threading.Event = field(default_factory=threading.Event)
    told: list[tuple[str, int, int]] = field(default_factory=list)

    def source(self, *, offline: bool = False, limit: int = 1 << 30) -> HttpSource:
        return HttpSource(self.store, self.client, offline=offline, limit=limit)

    def find(self, url: str, data: bytes | None = None, **more: bool) -> Content:
        times = more.pop("times", False)
        wanted = Wanted(parse_url(url), None if data is None else digest_of(data), times)
        return self.source(**more).find(  # type: ignore[arg-type]
            wanted, cancel=self.cancel, progress=lambda *said: self.told.append(said)
        )

    def peek(self, url: str, data: bytes | None = None, *, times: bool = False) -> Content | None:
        wanted = Wanted(parse_url(url), None if data is None else digest_of(data), times)
        return self.source().peek(wanted, cancel=self.cancel)

    def bytes(self, content: Content) -> bytes:
        return Path(self.store.blob_path(content.digest)).read_bytes()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    clock = FakeClock()
    with (
        Store.open(str(tmp_path / "store")) as store,
        store.lease(),
        Client(Settings(stall_timeout=0.3), clock=clock) as client,
    ):
        yield Here(store, client)


def dated(data: bytes) -> Callable[[Seen], Iterable[bytes]]:
    return lambda seen: reply(
        200, b"" if seen.method == "HEAD" else data, {"ETag": '"1"', "Last-Modified": DATE}
    )


def test_a_file_is_found_and_told_about(here: Here) -> None:
    with Server(dated(DATA)) as server:
        url = server.url("/a?token=secret").replace("//", "//me:pw@")
        content = here.find(url)
        assert here.bytes(content) == DATA
        assert content == Content(digest_of(DATA), len(DATA), None)
        assert here.told[0] == (f"downloading {server.url('/a')}?…", 0, len(DATA))
        assert here.told[-1][1:] == (len(DATA), len(DATA))
    (record,) = here.store.records(KIND)
    assert b"secret" not in record.value + record.key.encode()
    assert b"pw" not in record.value


def test_dates_count_where_they_are_asked_for(here: Here) -> None:
    with Server(dated(DATA)) as server:
        assert here.find(server.url(), times=True).modified == 1_700_000_000
        assert here.find(server.url(), DATA).modified is None
        # Pinned, and known under another address: the date alone is asked for.
        assert here.find(server.url("/b"), DATA, times=True).modified == 1_700_000_000
        assert server.targets == ["GET /", "HEAD /b"]
        assert here.find(server.url("/b"), DATA, times=True).modified == 1_700_000_000
        assert here.find(server.url("/c"), DATA).modified is None
        assert here.find(server.url("/c"), DATA, times=True, offline=True).modified is None
        assert len(server.seen) == 2
    old = {"Last-Modified": "Thu, 01 Jan 1970 00:00:01 GMT"}
    with Server(lambda seen: reply(200, b"old", old)) as server:
        assert OLDEST > 1
        assert here.find(server.url(), times=True).modified is None


def test_peeking_downloads_nothing(here: Here) -> None:
    with Server(dated(DATA)) as server:
        assert here.peek(server.url()) is None
        assert here.peek(server.url(), DATA) is None
        assert server.seen == []
        here.find(server.url())
        assert here.peek(server.url()) is None  # it answers with 200
        assert here.peek(server.url(), DATA) == Content(digest_of(DATA), len(DATA))
    with Server(
        lambda s: reply(304) if "if-none-match" in s.headers else reply(200, b"x", {"ETag": '"1"'})
    ) as server:
        found = here.find(server.url())
        assert here.peek(server.url()) == found
        assert len(server.seen) == 2


def test_a_record_whose_bytes_are_gone_is_none(here: Here) -> None:
    with Server(dated(DATA)) as server:
        content = here.find(server.url())
        here.store.remove_blob(content.digest)
        assert here.bytes(here.find(server.url())) == DATA
        assert "if-none-match" not in server.seen[1].headers


def test_wrong_bytes_are_never_in_the_store(here: Here) -> None:
    with Server(dated(b"evil")) as server:
        for _ in range(2):
            with pytest.raises(InputError, match="has not the content that --checksum says"):
                here.find(server.url(), DATA)
    assert not here.store.has_blob(digest_of(DATA))
    assert not here.store.has_blob(digest_of(b"evil"))
    assert list(here.store.records(KIND)) == []


def test_a_wrong_beginning_is_fetched_once_more(here: Here) -> None:
    with here.store.partial(digest_of(DATA)) as partial:
        partial.write(b"something else")
    with Server(lambda seen: ranged(seen, DATA)) as server:
        assert here.bytes(here.find(server.url(), DATA)) == DATA
        assert [seen.offset for seen in server.seen] == [14, 0]


def test_another_process_goes_on_where_one_was_cut(here: Here) -> None:
    answers = [
        *[lambda seen: ranged(seen, DATA, '"1"', max(0, 1000 - seen.offset))] * 6,
        lambda seen: ranged(seen, DATA, '"1"'),  # its head tells that it is the same file
        lambda seen: ranged(seen, DATA, '"1"'),
    ]
    with Server(in_turn(answers)) as server:
        with pytest.raises(Unreachable):
            here.find(server.url())
        assert here.bytes(here.find(server.url())) == DATA
        assert [seen.offset for seen in server.seen[-2:]] == [0, 1000]


def test_a_changed_file_is_not_pieced_together(here: Here) -> None:
    answers = [
        *[lambda seen: ranged(seen, DATA, '"1"', max(0, 1000 - seen.offset))] * 6,
        lambda seen: ranged(seen, b"new" * 1000, '"2"'),
    ]
    with Server(in_turn(answers)) as server:
        with pytest.raises(Unreachable):
            here.find(server.url())
        assert here.bytes(here.find(server.url())) == b"new" * 1000


def test_a_cap_offline_and_a_stop(here: Here) -> None:
    with Server(lambda seen: reply(200, DATA)) as server:
        wanted = Wanted(parse_url(server.url()))
        with pytest.raises(TooLarge):
            here.source(limit=100).find(wanted, cancel=here.cancel)
        with pytest.raises(HostError, match="--offline fetches nothing"):
            here.source(offline=True).find(wanted, cancel=here.cancel)
        assert len(server.seen) == 1
    stalling = (head(200, {"Content-Length": 5}), b"x", End.STALL)
    with Server(lambda seen: stalling) as server:
        threading.Timer(0.1, here.cancel.set).start()
        with pytest.raises(Interrupted):
            here.find(server.url())


def test_two_at_once_download_once(here: Here) -> None:
    def slowly(seen: Seen) -> Iterable[bytes]:
        yield head(200, {"Content-Length": len(DATA), "ETag": '"1"'})
        yield DATA[:1000]
        started.wait(2)
        yield DATA[1000:]

    started = threading.Event()
    found: list[Content] = []
    with Server(slowly) as server:
        url = server.url()
        threads = [
            threading.Thread(target=lambda: found.append(here.find(url, DATA))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        threading.Timer(0.2, started.set).start()
        for thread in threads:
            thread.join()
        assert len(found) == 3
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("end", "name"),
    [
        ("/a.txt", "a.txt"),
        ("/x/a%20b", "a b"),
        ("/x/%2e%2e", UNNAMED),
        ("/..", UNNAMED),
        ("", UNNAMED),
        ("/x/", UNNAMED),
        ("/a?b=/c/d", "a"),
        ("/%ff", "\udcff"),
        ("/a*[b]", "a*[b]"),
        ("/x%2fy", None),
        ("/%2fetc%2fpasswd", None),
        ("/x%5cy", None),
        ("/x%00", None),
        ("/x%0ay", None),
        ("/" + "x" * 256, None),
    ],
)
def test_the_name_of_a_file(end: str, name: str | None) -> None:
    url = parse_url(f"https://example.com{end}".replace("[", "%5b").replace("]", "%5d"))
    if name is None:
        with pytest.raises(InputError, match="no plain file name"):
            file_name(url, into=False)
    elif name == UNNAMED:
        assert file_name(url, into=False) == name
        with pytest.raises(InputError, match="does not end in a file name"):
            file_name(url, into=True)
    else:
        assert file_name(url, into=True) == name
