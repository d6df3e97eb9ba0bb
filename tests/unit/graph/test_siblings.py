"""Names in a Dockerfile lead to the neighbour that makes such an image, and to nobody else."""

from __future__ import annotations

import pytest

from buildgraph.dockerfile.parser import parse
from buildgraph.graph.siblings import Maker, find_links, outside_names

FILE = """
ARG BASE=acme/base
FROM $BASE AS b
FROM b
FROM tool:1
COPY --from=b / /
COPY --from=acme/files /x /
COPY --from=0 /x /
RUN --mount=type=bind,from=acme/mount true
FROM scratch
"""


def test_names_that_no_stage_is() -> None:
    assert outside_names(parse(FILE, "Dockerfile"), {}) == [
        "acme/base",
        "tool:1",
        "acme/files",
        "acme/mount",
    ]
    assert outside_names(parse(FILE, "Dockerfile"), {"BASE": "x"})[0] == "x"
    assert outside_names(parse("FROM $X\nFROM y\n", "Dockerfile"), {}) == ["y"]


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("acme/a:1", "//a"),
        ("docker.io/acme/a:1", "//a"),
        ("acme/a", "//a:latest"),
        ("acme/a:2", None),
        ("acme/computed:7", "//c"),
        ("other/dir", "//dir"),
        ("dir:1", None),  # a tag of its own: somebody else's
        ("me", None),  # itself
        ("acme/a@sha256:" + "0" * 64, None),
    ],
)
def test_who_makes_a_name(name: str, maker: str | None) -> None:
    makers = [
        Maker("//me", ("me",), "me"),
        Maker("//a", ("acme/a:1",), "x"),
        Maker("//a:latest", ("acme/a",), "y"),
        Maker("//c", ("acme/computed:$V",), "z"),
        Maker("//dir", (), "dir"),
    ]
    found = find_links("//me", [name], makers)
    assert [link.maker for link in found] == ([maker] if maker else [])
