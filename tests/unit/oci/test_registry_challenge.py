"""What a 401 asks for, and which realms may be asked for a token."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.errors import HostError
from buildgraph.oci.registry.challenge import (
    Challenge,
    check_realm,
    is_private,
    parse_challenges,
    parse_token,
    scope_of,
    token_request,
)
from buildgraph.oci.registry.credentials import Credentials

REALM = "https://auth.example/token"
REGISTRY = "https://registry.example/v2/"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="r",service="s",scope="a:b:c,d"', [Challenge("bearer", "r", "s", "a:b:c,d")]),
        ("bearer realm=r", [Challenge("bearer", "r")]),
        ('Basic realm="a \\"b\\" c"', [Challenge("basic", 'a "b" c')]),
        ('Basic realm="x", Bearer realm="y"', [Challenge("basic", "x"), Challenge("bearer", "y")]),
        ("Negotiate, Basic realm=x", [Challenge("negotiate"), Challenge("basic", "x")]),
        ('BEARER  Realm = "r" , error="insufficient_scope"',
         [Challenge("bearer", "r", error="insufficient_scope")]),
        ("", []),
        ('"', []),
    ],
)  # fmt: skip
def test_headers(header: str, expected: list[Challenge]) -> None:
    assert list(parse_challenges([header])) == expected


@given(st.text(max_size=200))
def test_any_header_is_read_without_a_failure(text: str) -> None:
    parse_challenges([text, "Bearer " + text])


def test_a_pathological_header_takes_no_time() -> None:
    parse_challenges(
        ["Bearer " + 'a="\\' * 20_000, "a " * 50_000, "," * 50_000, " " * 50_000, "a" * 50_000]
    )


def test_a_token_is_asked_for_by_get() -> None:
    challenge = Challenge("bearer", REALM + "?x=1", "reg", "ignored")
    scopes = [scope_of("a/b", "pull"), scope_of("a/b", "pull"), scope_of("c", "pull", "push")]
    request = token_request(challenge, REGISTRY, scopes, Credentials("me", "p w"))
    query = parse_qs(urlsplit(request.url).query)
    assert query == {
        "x": ["1"],
        "service": ["reg"],
        "scope": ["repository:a/b:pull", "repository:c:pull,push"],
        "account": ["me"],
    }
    assert dict(request.headers)["Authorization"] == "Basic bWU6cCB3"
    assert request.body is None
    assert "bWU6" not in repr(request)


def test_an_identity_token_is_exchanged_by_post() -> None:
    request = token_request(
        Challenge("bearer", REALM, "reg"), REGISTRY, ["s"], Credentials(identity_token="idt")
    )
    assert request.url == REALM
    assert request.body is not None
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["refresh_token"],
        "service": ["reg"],
        "client_id": ["buildgraph"],
        "scope": ["s"],
        "refresh_token": ["idt"],
    }


def test_a_scope_cannot_become_another_parameter() -> None:
    request = token_request(
        Challenge("bearer", REALM, "a&service=evil"), REGISTRY, ["a&service=evil"], None
    )
    query = parse_qs(urlsplit(request.url).query)
    assert query == {"service": ["a&service=evil"], "scope": ["a&service=evil"]}
    assert request.headers == ()


@pytest.mark.parametrize(
    ("realm", "registry", "allowed"),
    [
        (REALM, REGISTRY, True),
        ("https://registry.example:444/t", REGISTRY, True),
        ("http://auth.example/t", REGISTRY, False),
        ("http://127.0.0.2/t", REGISTRY, False),
        ("https://127.0.0.2/t", REGISTRY, False),
        ("https://localhost/t", REGISTRY, False),
        ("https://169.254.169.254/t", REGISTRY, False),
        ("https://10.0.0.1/t", REGISTRY, False),
        ("https://[::1]/t", REGISTRY, False),
        ("https://[::ffff:127.0.0.1]/t", REGISTRY, False),
        ("file:///etc/passwd", REGISTRY, False),
        ("", REGISTRY, False),
        ("https:///t", REGISTRY, False),
        ("https://u:p@auth.example/t", REGISTRY, False),
        ("https://auth.example/t\r\nX: y", REGISTRY, False),
        ("https://auth.example:99999/t", REGISTRY, False),
        ("https://[bad/t", REGISTRY, False),
        ("http://127.0.0.1:5001/t", "http://127.0.0.1:5000/v2/", True),
        ("http://localhost:5001/t", "https://localhost:5000/v2/", False),
        ("https://localhost:5001/t", "https://localhost:5000/v2/", True),
        ("https://10.0.0.2/t", "https://10.0.0.1/v2/", True),
    ],
)
def test_realms(realm: str, registry: str, allowed: bool) -> None:
    if allowed:
        check_realm(realm, registry)
        return
    with pytest.raises(HostError, match="for a token"):
        check_realm(realm, registry)


def test_no_secret_goes_to_a_refused_realm() -> None:
    with pytest.raises(HostError):
        token_request(
            Challenge("bearer", "http://127.0.0.2/"), REGISTRY, [], Credentials("me", "secret")
        )


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("localhost", True),
        ("127.9.9.9", True),
        ("192.168.3.4", True),
        ("fe80::1", True),
        ("[::1]", True),
        ("0.0.0.0", True),
        ("100.64.0.1", True),
        ("8.8.8.8", False),
        ("example.com", False),
        ("localhost.example", False),
    ],
)
def test_private_hosts(host: str, private: bool) -> None:
    assert is_private(host) is private


@pytest.mark.parametrize(
    ("answer", "value", "seconds"),
    [
        ({"token": "t"}, "t", 60.0),
        ({"access_token": "t", "expires_in": 300}, "t", 300.0),
        ({"token": "t", "expires_in": -1}, "t", 60.0),
        ({"token": "t", "expires_in": "soon"}, "t", 60.0),
        ({"token": "t", "expires_in": 1e12}, "t", 86400.0),
        ({"token": "t", "expires_in": True}, "t", 60.0),
    ],
)
def test_tokens(answer: dict[str, object], value: str, seconds: float) -> None:
    token = parse_token(json.dumps(answer).encode(), REALM)
    assert (token.value, token.seconds) == (value, seconds)
    assert "'t'" not in repr(token)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"{}", b'{"token": 3}', b'{"token": "a\\nb"}', b"[" * 100_000]
)
def test_an_answer_that_is_no_token_is_not_quoted(body: bytes) -> None:
    with pytest.raises(HostError, match=r"auth\.example"):
        parse_token(body, REALM)
