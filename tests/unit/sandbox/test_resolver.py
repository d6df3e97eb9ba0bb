"""The wire format of names, who has which, and the resolver over real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.sandbox import resolver, resolver_wire
from buildgraph.sandbox.network_loop import Loop
from buildgraph.sandbox.resolver import Names, Resolver
from buildgraph.sandbox.resolver_wire import AAAA, ANY, PTR, A, Answer, NotAQuery, encode_query

SUBNET = "10.104.0.0/16"


def decode(data: bytes) -> tuple[int, bool, list[tuple[int, bytes]]]:
    """Return code, whether it was cut, and kind and data of each record of an answer."""
    _, flags, questions, answers, _, extra = struct.unpack_from("!6H", data)
    assert flags & 0x8000
    place = 12
    if questions:
        while data[place]:
            place += data[place] + 1
        place += 5
    records = []
    for _ in range(answers):
        assert data[place : place + 2] == b"\xc0\x0c"
        kind, _, _, size = struct.unpack_from("!HHIH", data, place + 2)
        records.append((kind, data[place + 12 : place + 12 + size]))
        place += 12 + size
    assert place + 11 * extra == len(data)
    return flags & 15, bool(flags & 0x200), records


def of_names(names: Names, upstream: tuple[str, ...] = ()) -> Resolver:
    sock = socket.socket()
    sock.close()
    return Resolver(Loop("unused"), names, (sock, sock), subnets=[SUBNET], upstream=upstream)


def ask(one: Resolver, name: str, kind: int = A) -> tuple[int, bool, list[tuple[int, bytes]]]:
    answer = one.answer(encode_query(name, kind, 7), tcp=False)
    assert answer is not None
    assert answer[:2] == b"\0\7"
    return decode(answer)


@pytest.fixture
def names() -> Names:
    known = Names()
    known.add(["db", "database", "db.example.com"], ("10.104.0.2",))
    known.add(["app"], ("10.104.0.3", "fd00::3"))
    return known


def test_known_names_have_addresses_whatever_their_case(names: Names) -> None:
    one = of_names(names)
    for name in ("db", "DB", "database", "db.example.com"):
        assert ask(one, name) == (0, False, [(A, bytes([10, 104, 0, 2]))])
    assert ask(one, "app", AAAA)[2] == [(AAAA, socket.inet_pton(socket.AF_INET6, "fd00::3"))]
    assert len(ask(one, "app", ANY)[2]) == 2


def test_a_known_name_without_that_kind_exists_all_the_same(names: Names) -> None:
    assert ask(of_names(names), "db", AAAA) == (0, False, [])
    assert ask(of_names(names), "db", 15) == (0, False, [])


def test_unknown_names(names: Names) -> None:
    one = of_names(names)
    assert ask(one, "nobody")[0] == resolver_wire.NO_SUCH_NAME
    assert ask(one, "9.0.104.10.in-addr.arpa", PTR)[0] == resolver_wire.NO_SUCH_NAME
    assert ask(one, "www.example.com")[0] == resolver_wire.REFUSED
    assert ask(one, "8.8.8.8.in-addr.arpa", PTR)[0] == resolver_wire.REFUSED


def test_with_a_way_out_others_are_asked_but_not_for_our_own(names: Names) -> None:
    one = of_names(names, ("192.0.2.1",))
    assert one.answer(encode_query("www.example.com", A), tcp=False) is None
    assert ask(one, "nobody")[0] == resolver_wire.NO_SUCH_NAME
    assert ask(one, "db")[2]


def test_addresses_have_names(names: Names) -> None:
    answer = ask(of_names(names), "2.0.104.10.in-addr.arpa", PTR)
    assert answer == (0, False, [(PTR, b"\x02db\0")])
    digits = ".".join(reversed(socket.inet_pton(socket.AF_INET6, "fd00::3").hex()))
    assert ask(of_names(names), f"{digits}.ip6.arpa", PTR)[2] == [(PTR, b"\x03app\0")]


def test_localhost_is_oneself(names: Names) -> None:
    assert ask(of_names(names), "localhost")[2] == [(A, b"\x7f\0\0\1")]


def test_a_scaled_service_takes_turns() -> None:
    names = Names()
    for last in (2, 3, 4):
        names.add([f"app-{last}", "app"], (f"10.104.0.{last}",))
    firsts = [names.addresses("app")[0] for _ in range(6)]  # type: ignore[index]
    assert set(firsts) == {"10.104.0.2", "10.104.0.3", "10.104.0.4"}
    assert firsts[:3] == firsts[3:]
    names.remove(["app-3", "app"], ("10.104.0.3",))
    assert set(names.addresses("app") or ()) == {"10.104.0.2", "10.104.0.4"}
    assert names.addresses("app-3") is None


def test_more_than_fits_is_cut_over_udp_and_whole_over_tcp() -> None:
    names = Names()
    for last in range(200):
        names.add(["app"], (f"10.104.0.{last}",))
    one = of_names(names)
    query = encode_query("app", A)
    plain, large = one.answer(query, tcp=False), one.answer(query, tcp=True)
    assert plain is not None
    assert large is not None
    assert len(plain) <= 512
    code, cut, records = decode(plain)
    assert (code, cut) == (0, True)
    assert 20 < len(records) < 40
    assert len(decode(large)[2]) == 200
    edns = one.answer(encode_query("app", A, size=60000), tcp=False)
    assert edns is not None
    assert 512 < len(edns) <= 1232


def test_what_is_no_question_of_ours_gets_the_code_for_it(names: Names) -> None:
    one = of_names(names)
    query = bytearray(encode_query("db", A))
    several = bytes(query[:5] + b"\2" + query[6:])
    assert decode(one.answer(several, tcp=False) or b"")[0] == resolver_wire.FORMAT_ERROR
    status = bytes(query[:2] + b"\x10" + query[3:])
    assert decode(one.answer(status, tcp=False) or b"")[0] == resolver_wire.NOT_IMPLEMENTED
    chaos = bytes(query[:-1] + b"\3")
    assert decode(one.answer(chaos, tcp=False) or b"")[0] == resolver_wire.REFUSED
    pointer = bytes(query[:12]) + b"\xc0\x0c" + bytes(query[-4:])
    assert decode(one.answer(pointer, tcp=False) or b"")[0] == resolver_wire.FORMAT_ERROR
    for nothing in (b"", b"short", bytes(query[:2] + b"\x80" + query[3:])):
        with pytest.raises(NotAQuery):
            one.answer(nothing, tcp=False)


@given(st.binary(max_size=600))
def test_any_bytes_are_answered_or_are_no_query(data: bytes) -> None:
    names = Names()
    names.add(["db"], ("10.104.0.2",))
    with contextlib.suppress(NotAQuery):
        answer = of_names(names).answer(data, tcp=False)
        assert answer is None or len(answer) <= max(512, len(data) + 12)


@given(st.data(), st.text("abc-", min_size=1, max_size=63), st.sampled_from([A, AAAA, PTR, ANY]))
def test_a_damaged_query_is_never_worse_than_refused(
    data: st.DataObject, name: str, kind: int
) -> None:
    raw = bytearray(encode_query(name, kind, size=data.draw(st.sampled_from([0, 600]))))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    names = Names()
    names.add([name], ("10.104.0.2",))
    with contextlib.suppress(NotAQuery):
        of_names(names).answer(bytes(raw), tcp=data.draw(st.booleans()))


@given(st.lists(st.sampled_from(["10.104.0.2", "10.104.0.3"]), max_size=30), st.integers(512, 1232))
def test_answers_stay_within_their_room(addresses: list[str], room: int) -> None:
    query = resolver_wire.parse_query(encode_query("a" * 60, A, size=room))
    records = tuple(Answer(A, address) for address in addresses * 5)
    data = resolver_wire.encode_answer(query, 0, records, room=room)
    assert len(data) <= room
    code, cut, got = decode(data)
    assert code == 0
    assert cut == (len(got) < len(records))


# -- over sockets ----------------------------------------------------------------------------------


@pytest.fixture
def served(names: Names) -> Iterator[tuple[str, int]]:
    loop = Loop("test")
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(tcp.getsockname())
    address = tcp.getsockname()
    Resolver(loop, names, (udp, tcp), subnets=[SUBNET]).start()
    yield address
    before = threading.active_count()
    loop.close()
    assert threading.active_count() == before - 1
    assert tcp.fileno() == udp.fileno() == -1


def over_udp(address: tuple[str, int], data: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(address)
        sock.send(data)
        return sock.recv(65535)


def test_it_answers_over_udp_and_tcp(served: tuple[str, int]) -> None:
    query = encode_query("db", A, 5)
    assert decode(over_udp(served, query))[2] == [(A, bytes([10, 104, 0, 2]))]
    with socket.create_connection(served, 5) as sock:
        framed = struct.pack("!H", len(query)) + query
        sock.sendall(framed + framed[:3])  # two questions, one of them in pieces
        sock.sendall(framed[3:])
        with sock.makefile("rb") as file:
            for _ in range(2):
                size = int.from_bytes(file.read(2), "big")
                assert decode(file.read(size))[2] == [(A, bytes([10, 104, 0, 2]))]


def test_rubbish_does_not_end_it(served: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for size in range(0, 400, 7):
            sock.sendto(bytes(range(256))[:size] * 2, served)
            sock.sendto(encode_query("db", A)[:size], served)
    for rubbish in (b"\xff\xff" + b"x" * 100, b"\0\0\0\0", b"\0\x0cshort"):
        with socket.create_connection(served, 5) as tcp:
            tcp.sendall(rubbish)
    assert decode(over_udp(served, encode_query("app", A)))[2]


def test_others_are_asked_one_after_another(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    """The first resolver of the host is silent, the second lies first and answers then."""
    monkeypatch.setattr(resolver, "_UPSTREAM_WAIT", 0.2)
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        silent.bind(("127.0.0.53", 53))
        other.bind(("127.0.0.54", 53))
    except OSError:
        silent.close()
        other.close()
        pytest.skip("machine: port 53 of 127.0.0.53 cannot be had")
    loop = Loop("test")
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(tcp.getsockname())
    Resolver(loop, names, (udp, tcp), upstream=["127.0.0.53", "127.0.0.54"]).start()

    def answer() -> None:
        data, peer = other.recvfrom(4096)
        query = resolver_wire.parse_query(data)
        forged = resolver_wire.encode_answer(query, 0, (Answer(A, "192.0.2.66"),), room=512)
        other.sendto(bytes([forged[0] ^ 1]) + forged[1:], peer)
        other.sendto(
            resolver_wire.encode_answer(query, 0, (Answer(A, "192.0.2.7"),), room=512), peer
        )

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        found = decode(over_udp(udp.getsockname(), encode_query("www.example.com", A, 9)))
        assert found == (0, False, [(A, bytes([192, 0, 2, 7]))])
    finally:
        thread.join(5)
        loop.close()
        silent.close()
        other.close()
