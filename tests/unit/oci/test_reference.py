"""Names of images, as docker reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.errors import InputError
from buildgraph.oci.reference import parse_reference

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("alpine", "docker.io/library/alpine", "alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("me/app", "docker.io/me/app", "me/app"),
        ("index.docker.io/me/app:x", "docker.io/me/app:x", "me/app:x"),
        ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("host:5000/a/b_c__d-e.f", "host:5000/a/b_c__d-e.f", "host:5000/a/b_c__d-e.f"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("Upper/app", "Upper/app", "Upper/app"),
        (f"a@sha256:{HEX}", f"docker.io/library/a@sha256:{HEX}", f"a@sha256:{HEX}"),
        (f"h.x/a:t@sha256:{HEX}", f"h.x/a:t@sha256:{HEX}", f"h.x/a:t@sha256:{HEX}"),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, full: str, short: str) -> None:
    found = parse_reference(text)
    assert str(found) == full
    assert found.familiar == short
    assert parse_reference(full) == found
    assert parse_reference(short) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a repository"),
        ("UPPER", "lower case"),
        ("a:", "not a tag"),
        ("a:-x", "not a tag"),
        ("a:" + "x" * 129, "not a tag"),
        ("a@sha256:12", "not a digest"),
        ("a@md5:" + HEX, "not a digest"),
        ("a//b", "not a repository"),
        ("a/../b", "not a repository"),
        ("-h.x/a", "not a host name"),
        ("h.x:port/a", "not a host name"),
        ("h.x/" + "a" * 255, "longer than 255"),
        (HEX, "image id"),
        ("a b", "not a repository"),
        ("a\n", "not a repository"),
        ("a:1\n", "not a tag"),
        ("a:é", "not a tag"),
    ],
)
def test_what_is_no_name_is_said_to_be_none(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_reference(text)


def test_the_default_tag() -> None:
    assert str(parse_reference("a").with_default_tag()) == "docker.io/library/a:latest"
    pinned = parse_reference(f"a@sha256:{HEX}")
    assert pinned.with_default_tag() == pinned


_PART = st.from_regex(r"\A[a-z0-9]{1,4}((\.|_|__|-)[a-z0-9]{1,3}){0,2}\Z")


@given(
    st.sampled_from(["docker.io/", "localhost/", "h.x/", "h:1/"]),
    st.lists(_PART, min_size=1, max_size=3),
    st.sampled_from(["", ":v1", ":A.b-c_d"]),
    st.sampled_from(["", "@sha256:" + HEX]),
)
def test_round_trip(domain: str, parts: list[str], tag: str, digest: str) -> None:
    found = parse_reference(domain + "/".join(parts) + tag + digest)
    assert parse_reference(str(found)) == found
    assert parse_reference(found.familiar) == found
