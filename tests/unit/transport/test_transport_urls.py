from __future__ import annotations

import pytest

from buildgraph.errors import InputError
from buildgraph.transport.addresses import AddressPolicy, Zone, zone_of
from buildgraph.transport.failures import Refused
from buildgraph.transport.headers import Headers
from buildgraph.transport.messages import Request
from buildgraph.transport.proxies import Proxies
from buildgraph.transport.schedule import http_date, retry_after
from buildgraph.transport.urls import (
    Origin,
    follow,
    is_loopback_name,
    mask_logins,
    parse_url,
    strip_logins,
)


def test_an_address_is_taken_apart() -> None:
    url = parse_url("HTTPS://u%40x:p%3aw@Example.COM:8443/a b".replace(" ", "%20") + "?q=1#f")
    assert url.origin == Origin("https", "example.com", 8443)
    assert url.target == "/a%20b?q=1"
    assert url.login == ("u@x", "p:w")
    assert str(url) == "https://example.com:8443/a%20b?q=1"
    assert url.shown == "https://example.com:8443/a%20b?…"
    assert parse_url("http://[::1]:80").origin == Origin("http", "::1", 80)
    assert str(parse_url("http://[::1]:81/x")) == "http://[::1]:81/x"
    assert parse_url("https://bücher.example/ü").origin.host == "xn--bcher-kva.example"
    assert parse_url("https://bücher.example/ü").target == "/%C3%BC"


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a/b",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://",
        "http:///x",
        "http://a b/",
        "http://a\\@b/",
        "http://a/\r\nHost: b",
        "http://a:99999/",
        "http://a:x/",
        "http://[::1/",
        "http://[v1.x]/",
        "http://a..b/",
        "http://-a/",
        "http://u%0d%0a:p@a/",
        "http://a/" + "x" * 9000,
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_url(text)


def test_no_message_holds_a_login() -> None:
    with pytest.raises(InputError) as caught:
        parse_url("http://me:secret@a:x/")
    assert "secret" not in str(caught.value)
    text = "ADD https://me:s@cret@host/x http://tok@h/ git+ssh://a:b@c/d https://h/@x /"
    assert strip_logins(text) == "ADD https://host/x http://h/ git+ssh://c/d https://h/@x /"
    assert len(mask_logins(text)) == len(text)
    assert mask_logins("ADD https://me:pw@h/@x /") == "ADD https://*****@h/@x /"
    assert "secret" not in repr(Headers({"Authorization": "secret"}))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost.", False),
        ("localhost.evil", False),
        ("localhost.localdomain", False),
        ("evil-localhost", False),
        ("xlocalhost", False),
        ("127.0.0.1.evil", False),
        ("127.1", False),
        ("2130706433", False),
        ("0x7f000001", False),
        ("0177.0.0.1", False),
        ("0.0.0.0", False),
        ("128.0.0.1", False),
        ("::", False),
        ("::2", False),
        ("", False),
        ("10.0.0.1", False),
    ],
)
def test_a_look_alike_is_not_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback_name(host) is loopback


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("8.8.8.8", Zone.PUBLIC),
        ("2606:4700::1", Zone.PUBLIC),
        ("10.1.2.3", Zone.PRIVATE),
        ("100.64.0.1", Zone.PRIVATE),
        ("fd00::1", Zone.PRIVATE),
        ("127.0.0.2", Zone.LOOPBACK),
        ("::1", Zone.LOOPBACK),
        ("0.0.0.0", Zone.LOOPBACK),
        ("::ffff:127.0.0.1", Zone.LOOPBACK),
        ("64:ff9b::7f00:1", Zone.LOOPBACK),
        ("169.254.169.254", Zone.RESERVED),
        ("::ffff:169.254.169.254", Zone.RESERVED),
        ("2002:a9fe:a9fe::", Zone.RESERVED),
        ("fe80::1%eth0", Zone.RESERVED),
        ("fd00:ec2::254", Zone.RESERVED),
        ("100.100.100.200", Zone.RESERVED),
        ("224.0.0.1", Zone.RESERVED),
    ],
)
def test_how_private_an_address_is(address: str, zone: Zone) -> None:
    assert zone_of(address) is zone


def test_a_policy_only_gets_stricter() -> None:
    policy = AddressPolicy().within(Zone.PRIVATE)
    assert policy.within(Zone.LOOPBACK).limit is Zone.PRIVATE
    with pytest.raises(Refused, match=r"x leads to 127\.0\.0\.1, which is this machine itself"):
        policy.check("x", "127.0.0.1")


def test_a_redirect_brings_no_login_along() -> None:
    base = parse_url("https://me:pw@a/x/y?q")
    assert follow(base, "//u:p@b/z").login is None
    assert str(follow(base, "../z")) == "https://a/z"
    assert str(follow(base, "?r")) == "https://a/x/y?r"
    assert str(follow(base, "/a b")) == "https://a/a%20b"
    with pytest.raises(InputError):
        follow(base, "file:///etc/passwd")


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("http://a.example/", True),
        ("http://skip.example/", False),
        ("http://x.skip.example/", False),
        ("http://notskip.example/", True),
        ("http://sub.dot.example/", False),
        ("http://10.1.2.3/", False),
        ("http://11.1.2.3/", True),
        ("http://port.example:81/", False),
        ("http://port.example:82/", True),
        ("http://[fd00::1]/", False),
        ("https://a.example/", False),
    ],
)
def test_who_is_reached_through_the_proxy(url: str, proxied: bool) -> None:
    proxies = Proxies.of(
        {
            "HTTP_PROXY": "u:p@proxy:3128",
            "no_proxy": "skip.example, .dot.example 10.0.0.0/8,port.example:81,fd00::/8",
        }
    )
    found = proxies.for_origin(parse_url(url).origin)
    assert (found is not None) is proxied
    if found is not None:
        assert found.origin == Origin("http", "proxy", 3128)
        assert found.basic == "Basic dTpw"


def test_other_kinds_of_proxies_are_named() -> None:
    with pytest.raises(InputError, match="the variable all_proxy: .*only http and https"):
        Proxies.of({"ALL_PROXY": "socks5://me:secret@p:1"})
    with pytest.raises(InputError, match="itself reached by https"):
        Proxies.of({"https_proxy": "https://p:1"})
    assert Proxies.of({"HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}) == Proxies()
    assert (
        Proxies.of({"no_proxy": "*", "http_proxy": "p"}).for_origin(Origin("http", "a", 80)) is None
    )


def test_when_a_server_asks_to_come_back() -> None:
    assert retry_after("7", 0.0) == 7.0
    assert retry_after("Tue, 14 Nov 2023 22:13:30 GMT", 1_700_000_000.0) == 10.0
    assert retry_after("Tue, 14 Nov 2023 22:13:00 GMT", 1_700_000_000.0) == 0.0
    for text in (None, "", "soon", "-1", "1.5", "9" * 400 + "x", "²"):
        assert retry_after(text, 0.0) is None
    assert http_date("Thu, 99 Foo 2023") is None


def test_a_secret_does_not_go_into_headers() -> None:
    with pytest.raises(ValueError, match="authorizer"):
        Request("GET", parse_url("http://a"), {"authorization": "x"})
    with pytest.raises(ValueError, match="not a header"):
        Request("GET", parse_url("http://a"), {"X": "a\r\nY: b"})
