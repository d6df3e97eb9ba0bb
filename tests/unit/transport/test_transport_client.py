from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from buildgraph.errors import HostError, Interrupted
from buildgraph.transport.addresses import AddressPolicy, Zone
from buildgraph.transport.client import Client
from buildgraph.transport.failures import (
    Denied,
    NotFound,
    Refused,
    StatusError,
    TooLarge,
    TransportError,
    Unreachable,
)
from buildgraph.transport.headers import Headers
from buildgraph.transport.messages import FixedAuthorization, Request
from buildgraph.transport.pool import Settings
from buildgraph.transport.proxies import Proxies
from buildgraph.transport.sockets import Address, resolve
from buildgraph.transport.urls import Origin, Url, parse_url
from unit.transport.scripted_server import End, FakeClock, Seen, Server, head, in_turn, reply


def get(url: str, **more: Any) -> Request:
    return Request("GET", parse_url(url), **more)


class Made:
    """A client with a clock that does not tick; closed when its test is over."""

    all: ClassVar[list[Made]] = []

    def __init__(self, **settings: Any):
        self.clock = FakeClock()
        self.client = Client(Settings(**settings), clock=self.clock)
        self.all.append(self)

    def read(self, url: str, **more: Any) -> bytes:
        return self.client.read(get(url, **more), 1 << 20, 200)[1]


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    while Made.all:
        Made.all.pop().client.close()


@pytest.fixture
def made() -> Made:
    return Made()


def script(*answers: Iterable[bytes | End]) -> Callable[[Seen], Iterable[bytes | End]]:
    """Answer the first request with the first, and so on; the last again and again."""
    left = list(answers)

    def answer(seen: Seen) -> Iterable[bytes | End]:
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


# -- connections ---------------------------------------------------------------------------


def test_a_connection_is_kept_for_the_next_request(made: Made) -> None:
    with Server(lambda seen: reply(200, b"hello")) as server:
        assert [made.read(server.url(f"/{i}")) for i in range(3)] == [b"hello"] * 3
        assert {seen.connection for seen in server.seen} == {1}
        assert server.seen[0].headers["accept-encoding"] == "identity"
        assert server.seen[0].headers["host"] == f"127.0.0.1:{server.port}"


def test_a_connection_with_a_body_left_is_not_used_again(made: Made) -> None:
    with Server(lambda seen: reply(200, b"x" * 1000)) as server:
        with made.client.send(get(server.url())) as response:
            assert next(response.chunks(10)) == b"x" * 10
        made.read(server.url())
        assert [seen.connection for seen in server.seen] == [1, 2]


def test_a_server_that_hung_up_meanwhile_costs_no_attempt(made: Made) -> None:
    with Server(script((*reply(200, b"a"), End.CLOSE), reply(200, b"b"))) as server:
        assert made.read(server.url()) == b"a"
        time.sleep(0.05)
        assert made.read(server.url()) == b"b"
        assert made.clock.slept == []


def test_answers_in_chunks_and_to_the_end_of_the_connection(made: Made) -> None:
    chunked = (head(200, {"Transfer-Encoding": "chunked"}), b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    ended = (head(200), b"till the end", End.CLOSE)
    with Server(script(chunked, ended)) as server:
        assert made.read(server.url()) == b"abcde"
        assert made.read(server.url()) == b"till the end"
        assert [seen.connection for seen in server.seen] == [1, 1]


def test_bodies_are_sent_whole_in_pieces_or_again() -> None:
    made = Made()
    with Server(script(reply(503), reply(201), reply(201), reply(201))) as server:
        url = parse_url(server.url())
        pieces = [b"ab", b"", b"cd" * 70_000]
        whole = b"".join(pieces)
        made.client.send(Request("PUT", url, body=lambda: iter(pieces))).close()
        made.client.send(Request("PUT", url, body=lambda: iter(pieces), length=len(whole))).close()
        made.client.send(Request("POST", url, {"Content-Type": "x/y"}, body=b"small")).close()
        assert [seen.body == whole for seen in server.seen] == [True, True, True, False]
        assert server.seen[0].headers["transfer-encoding"] == "chunked"
        assert server.seen[2].headers["content-length"] == str(len(whole))
        assert server.seen[3].body == b"small"
        assert server.seen[3].headers["content-type"] == "x/y"


def test_headers_of_an_answer_have_names_in_any_case(made: Made) -> None:
    with Server(lambda seen: reply(200, fields={"ETag": '"1"', "X-N": "12"})) as server:
        with made.client.send(get(server.url())) as response:
            assert response.headers.get("etag") == '"1"'
            assert response.headers["ETAG"] == '"1"'
            assert response.headers.number("x-n") == 12
            assert "nothing" not in response.headers
            assert response.peer == "127.0.0.1"


def test_too_many_header_bytes_are_refused(made: Made) -> None:
    fields = {f"X-{i}": "y" * 60_000 for i in range(6)}
    with Server(lambda seen: reply(200, fields=fields)) as server:
        with pytest.raises(TransportError, match="header bytes"):
            made.read(server.url())
    endless = (head(200, {f"X-{i}": "y" for i in range(200)}),)
    with Server(lambda seen: endless) as server, pytest.raises(HostError, match="headers"):
        made.read(server.url())


def test_a_body_over_its_cap_is_refused(made: Made) -> None:
    with Server(lambda seen: reply(200, b"x" * 101)) as server, pytest.raises(TooLarge):
        made.client.read(get(server.url()), 100)
    with Server(lambda seen: reply(200, b"x" * 100)) as server:
        assert len(made.client.read(get(server.url()), 100)[1]) == 100


# -- retries (R23) -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_five_times_more(made: Made, status: int) -> None:
    with Server(lambda seen: reply(status)) as server:
        with pytest.raises(Unreachable, match=f"HTTP {status}") as caught:
            made.read(server.url())
        assert len(server.seen) == 6
    assert made.clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert "6 attempts" in (caught.value.hint or "")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 416, 418, 501, 505])
def test_what_will_not_pass_is_tried_once(made: Made, status: int) -> None:
    kind = {401: Denied, 403: Denied, 404: NotFound, 410: NotFound}.get(status, StatusError)
    with Server(lambda seen: reply(status, b"because")) as server:
        with pytest.raises(kind) as caught:
            made.read(server.url())
        assert len(server.seen) == 1
    assert caught.value.status == status
    assert caught.value.body == b"because"


def test_a_server_says_when_to_come_back(made: Made) -> None:
    later = {"Retry-After": "7"}
    date = {"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}
    with Server(script(reply(429, fields=later), reply(503, fields=date), reply(200, b"ok"))) as s:
        assert made.read(s.url()) == b"ok"
    assert made.clock.slept == [7.0, 30.0]


def test_much_later_is_not_waited_for(made: Made) -> None:
    with Server(lambda seen: reply(429, fields={"Retry-After": "61"})) as server:
        with pytest.raises(Unreachable) as caught:
            made.read(server.url())
        assert len(server.seen) == 1
    assert caught.value.hint == "the server asks to come back in 61 seconds"
    assert made.clock.slept == []


def test_what_may_have_been_done_is_not_sent_twice(made: Made) -> None:
    with Server(script(reply(503), reply(429), reply(202))) as server:
        url = parse_url(server.url())
        with pytest.raises(TransportError, match="POST .*HTTP 503"):
            made.client.send(Request("POST", url, body=b"x"))
        with made.client.send(Request("POST", url, body=b"x")) as response:
            assert response.status == 202
        assert len(server.seen) == 3


def test_nobody_there_is_tried_again(made: Made) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        Unreachable, match=rf"cannot connect to 127\.0\.0\.1:{port}: 127.0.0.1: conn"
    ):
        made.read(f"http://127.0.0.1:{port}/")
    assert len(made.clock.slept) == 5


def test_a_reset_before_the_answer_is_tried_again(made: Made) -> None:
    with Server(script((End.RESET,), (End.CLOSE,), (b"garbage\r\n\r\n",), reply(200, b"ok"))) as s:
        assert made.read(s.url()) == b"ok"
        assert len(s.seen) == 4


def test_a_cut_body_is_asked_for_again(made: Made) -> None:
    long = {"Content-Length": 10}
    cut = (head(200, {"Transfer-Encoding": "chunked"}), b"5\r\nab", End.CLOSE)
    short = (head(200, long), b"12345", End.CLOSE)
    reset = (head(200, long), b"12345", End.RESET)
    with Server(script(cut, short, reset, reply(200, b"whole"))) as server:
        assert made.read(server.url()) == b"whole"
        assert len(server.seen) == 4


def test_more_bytes_than_promised_do_not_reach_the_next_answer(made: Made) -> None:
    evil = (head(200, {"Content-Length": 2}), b"ok" + head(200, {"Content-Length": 4}) + b"evil")
    with Server(script(evil, reply(200, b"good"))) as server:
        assert made.read(server.url()) == b"ok"
        time.sleep(0.02)
        assert made.read(server.url()) == b"good"


def test_a_stall_is_not_a_slow_server() -> None:
    made = Made(stall_timeout=0.3)

    def slowly(seen: Seen) -> Iterable[bytes]:
        yield head(200, {"Content-Length": 6})
        for _ in range(6):
            time.sleep(0.1)
            yield b"x"

    stall = (head(200, {"Content-Length": 6}), b"x", End.STALL)
    turns: list[Callable[[Seen], Iterable[bytes | End]]] = [lambda s: stall, slowly]
    with Server(in_turn(turns)) as server:
        assert made.read(server.url()) == b"xxxxxx"
        assert len(server.seen) == 2


def test_a_stopped_build_does_not_wait_for_a_stall(made: Made) -> None:
    cancel = threading.Event()
    with Server(lambda seen: (head(200, {"Content-Length": 6}), End.STALL)) as server:
        threading.Timer(0.1, cancel.set).start()
        begun = time.monotonic()
        with pytest.raises(Interrupted):
            made.read(server.url(), cancel=cancel)
        assert time.monotonic() - begun < 2
        with pytest.raises(Interrupted):
            made.read(server.url(), cancel=cancel)
        assert len(server.seen) == 1


# -- names and addresses (R27, A31) --------------------------------------------------------


def test_an_address_that_says_no_is_followed_by_the_next() -> None:
    def resolver(host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET, ("127.0.0.3", port)), *resolve("127.0.0.1", port)]

    made = Made(resolver=resolver)
    with Server(lambda seen: reply(200, b"ok")) as server:
        assert made.read(server.url(host="two.example")) == b"ok"
        assert server.seen[0].headers["host"].startswith("two.example:")
    assert made.clock.slept == []


def test_a_black_hole_costs_a_quarter_of_a_second() -> None:
    # A listener whose queue is full takes no connection and says nothing.
    with socket.socket() as hole:
        hole.bind(("127.0.0.5", 0))
        hole.listen(0)
        full = [socket.socket() for _ in range(3)]
        for one in full:
            one.setblocking(False)
            one.connect_ex(hole.getsockname())
        port = hole.getsockname()[1]

        def resolver(host: str, _: int) -> list[Address]:
            return [Address(socket.AF_INET, ("127.0.0.5", port)), *resolve("127.0.0.1", _)]

        made = Made(resolver=resolver)
        with Server(lambda seen: reply(200, b"ok")) as server:
            begun = time.monotonic()
            assert made.read(server.url(host="two.example")) == b"ok"
            assert time.monotonic() - begun < 3
        for one in full:
            one.close()


def test_a_name_that_flaps_is_looked_up_again_and_an_unknown_one_is_not() -> None:
    errors = [socket.EAI_AGAIN, socket.EAI_NONAME]

    def resolver(host: str, port: int) -> list[Address]:
        raise socket.gaierror(errors.pop(0), "no")

    made = Made(resolver=resolver)
    with pytest.raises(TransportError, match="nobody knows the host nowhere.example"):
        made.read("http://nowhere.example/")
    assert made.clock.slept == [0.5]


def test_a_public_name_with_a_private_address_is_judged_by_the_address() -> None:
    def resolver(host: str, port: int) -> list[Address]:
        return resolve("127.0.0.2", port)

    with Server(lambda seen: reply(200), address="127.0.0.2") as server:
        made = Made(resolver=resolver)
        public = AddressPolicy(Zone.PUBLIC)
        url = server.url(host="public.example")
        with pytest.raises(Refused, match=r"leads to 127\.0\.0\.2, which is this machine itself"):
            made.read(url, policy=public)
        assert server.seen == []
        made.read(url)
        with pytest.raises(Refused):  # a kept connection is judged as well
            made.read(url, policy=public)
        assert len(server.seen) == 1


def test_metadata_addresses_are_never_asked(made: Made) -> None:
    for url in ("http://169.254.169.254/latest", "http://[fe80::1]/", "http://[fd00:ec2::254]/"):
        with pytest.raises(Refused, match="link-local or metadata"):
            made.read(url)


# -- redirects (A28, A62) ------------------------------------------------------------------


def test_redirects_are_followed_ten_times(made: Made) -> None:
    def answer(seen: Seen) -> Iterable[bytes]:
        left = int(seen.target[1:])
        return reply(302, b"moved", {"Location": f"{left - 1}"}) if left else reply(200, b"there")

    with Server(answer) as server:
        response, body = made.client.read(get(server.url("/10")), 100)
        assert (body, response.url.target) == (b"there", "/0")
        assert {seen.connection for seen in server.seen} == {1}
        with pytest.raises(Refused, match="more than 10 times"):
            made.read(server.url("/11"))
        with made.client.send(get(server.url("/3"), redirects=0)) as response:
            assert response.status == 302


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://x/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://u:p@x y/",
    ],
)
def test_a_redirect_to_elsewhere_is_refused(made: Made, place: str) -> None:
    with Server(lambda seen: reply(302, fields={"Location": place})) as server:
        with pytest.raises(HostError) as caught:
            made.read(server.url())
        assert len(server.seen) == 1
    assert isinstance(caught.value, Refused) or place == "http://2852039166/"
    assert "u:p" not in str(caught.value)


def test_a_redirect_leads_nowhere_more_private_than_it_came_from() -> None:
    with Server(lambda seen: reply(200, b"secret"), address="127.0.0.2") as inside:
        place = f"http://127.0.0.2:{inside.port}/"
        with Server(lambda seen: reply(302, fields={"Location": place})) as server:
            made = Made()
            assert made.read(server.url()) == b"secret"  # from loopback to loopback
            with pytest.raises(Refused):
                made.client.send(get(server.url(), policy=AddressPolicy(Zone.PRIVATE)))


def test_methods_and_bodies_after_a_redirect(made: Made) -> None:
    for status, method in ((303, "GET"), (302, "POST"), (307, "POST"), (308, "POST")):
        turns = [reply(status, fields={"Location": "/there"}), reply(200)]
        with Server(lambda seen, turns=turns: turns.pop(0)) as server:
            request = Request("POST", parse_url(server.url()), {"Content-Type": "t"}, body=b"data")
            made.client.send(request).close()
            assert server.targets == ["POST /", f"{method} /there"]
            assert server.seen[1].body == (b"data" if method == "POST" else b"")
            assert ("content-type" in server.seen[1].headers) is (method == "POST")


class Renewing:
    """An authorizer with a word that expires."""

    def __init__(self, words: list[str]):
        self.words = words
        self.asked: list[Url] = []

    def header(self, url: Url) -> str | None:
        self.asked.append(url)
        return self.words[0]

    def renew(self, url: Url, headers: Headers) -> bool:
        assert headers.get("WWW-Authenticate") == "Bearer"
        self.words.pop(0)
        return True


def test_a_401_is_answered_once(made: Made) -> None:
    def answer(seen: Seen) -> Iterable[bytes]:
        if seen.headers["authorization"] == "good":
            return reply(200, b"ok")
        return reply(401, b"no", {"WWW-Authenticate": "Bearer"})

    with Server(answer) as server:
        assert made.read(server.url(), authorizer=Renewing(["old", "good"])) == b"ok"
        assert len(server.seen) == 2
        with pytest.raises(Denied):
            made.read(server.url(), authorizer=Renewing(["a", "b", "good"]))
        assert len(server.seen) == 4


def test_a_credential_never_leaves_its_origin(made: Made) -> None:
    with Server(lambda seen: reply(200, b"got")) as other:

        def answer(seen: Seen) -> Iterable[bytes]:
            place = "/inside" if seen.target == "/" else other.url("/outside")
            return reply(302, fields={"Location": place})

        with Server(answer) as server:
            origin = parse_url(server.url()).origin
            everywhere = Renewing(["word"])
            fixed = FixedAuthorization({origin: "word", parse_url(other.url()).origin: "other"})
            for authorizer in (everywhere, fixed):
                made.read(server.url(), authorizer=authorizer)
            made.read(server.url().replace("//", "//me:pw@"))
            assert [s.headers.get("authorization") for s in server.seen] == [
                *["word"] * 4,
                *["Basic bWU6cHc="] * 2,
            ]
            assert [s.headers.get("authorization") for s in other.seen] == [None] * 3
            assert {u.origin for u in everywhere.asked} == {origin}


def test_a_credential_does_not_come_back_with_a_redirect(made: Made) -> None:
    with Server(lambda s: reply(302, fields={"Location": home[0] + "/secret"})) as other:
        home: list[str] = []

        def answer(seen: Seen) -> Iterable[bytes]:
            if seen.target == "/secret":
                return reply(200, seen.headers.get("authorization", "nobody").encode())
            return reply(302, fields={"Location": other.url()})

        with Server(answer) as server:
            home.append(server.url("")[:-1] if server.url("").endswith("/") else server.url(""))
            assert made.read(server.url(), authorizer=Renewing(["word"])) == b"nobody"


def test_the_port_and_the_scheme_are_part_of_who_is_asked() -> None:
    values = FixedAuthorization({Origin("https", "a", 443): "hunter2"})
    for text, value in (
        ("https://a/", "hunter2"),
        ("https://a:443/p", "hunter2"),
        ("https://a:444/", None),
        ("http://a/", None),
        ("https://a.evil/", None),
        ("https://evil/a", None),
        ("https://a@evil/", None),
    ):
        assert values.header(parse_url(text)) == value
    assert "hunter2" not in repr(values)


# -- proxies -------------------------------------------------------------------------------


def proxied(server: Server, **more: str) -> Made:
    names: Mapping[str, str] = {
        "http_proxy": server.url().replace("//", "//u:p@"),
        "https_proxy": server.url().replace("//", "//u:p@"),
        **more,
    }
    return Made(proxies=Proxies.of(names))


def test_http_goes_through_the_proxy_whole() -> None:
    with Server(lambda seen: reply(200, b"via")) as proxy:
        made = proxied(proxy)
        assert made.read("http://user:pw@a.example/x?y") == b"via"
        (seen,) = proxy.seen
        assert seen.target == "http://a.example/x?y"
        assert seen.headers["host"] == "a.example"
        assert seen.headers["proxy-authorization"] == "Basic dTpw"
        assert seen.headers["authorization"] == "Basic dXNlcjpwdw=="


def test_https_goes_through_a_tunnel_and_the_login_stays_with_the_proxy() -> None:
    with Server(lambda seen: reply(407)) as proxy:
        made = proxied(proxy)
        with pytest.raises(Unreachable, match="the proxy 127.0.0.1:.*407"):
            made.read("https://user:pw@a.example/x")
        assert proxy.targets == ["CONNECT a.example:443"] * 6
        assert proxy.seen[0].headers["proxy-authorization"] == "Basic dTpw"
        assert "authorization" not in proxy.seen[0].headers


def test_a_redirect_behind_a_proxy_is_judged_by_what_can_be_seen() -> None:
    place = "http://10.0.0.1/admin"
    with Server(lambda seen: reply(302, fields={"Location": place})) as proxy:
        made = proxied(proxy)
        with pytest.raises(Refused, match="private network"):
            made.read("http://a.example/")
        with pytest.raises(Refused):
            made.read("http://169.254.169.254/")
        assert len(proxy.seen) == 1


def test_a_proxy_is_not_used_where_no_proxy_says_so() -> None:
    with Server(lambda seen: reply(500)) as proxy, Server(lambda seen: reply(200, b"ok")) as server:
        assert proxied(proxy, no_proxy="127.0.0.0/8").read(server.url()) == b"ok"
        assert proxy.seen == []


def test_it_all_leaves_no_descriptor_open() -> None:
    with Server(lambda seen: reply(200, b"x" * 100)) as server:
        before = len(os.listdir("/proc/self/fd"))
        made = Made()
        for _ in range(5):
            made.read(server.url())
        response = made.client.send(get(server.url()))
        response.close()
        response.close()
        made.client.close()
        time.sleep(0.2)
        assert len(os.listdir("/proc/self/fd")) == before
