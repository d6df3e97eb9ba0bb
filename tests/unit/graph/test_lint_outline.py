"""An outline says what building a stage takes, and the list what can be built."""

from __future__ import annotations

from buildgraph.dockerfile.parser import parse
from buildgraph.graph.lint_outline import list_stages, outline

TEXT = """\
# VERSION of the base
ARG VERSION=1
ARG ONLY_HERE=x
FROM scratch AS Other
ARG NOT_NEEDED
FROM base:$VERSION AS base
# MODE to build in
ARG MODE
RUN --mount=type=secret,id=token,required --mount=type=secret,target=/run/key \\
    --mount=type=cache,target=/root/.cache --mount=type=ssh x

# app is what runs
FROM base AS app
ARG VERSION
ARG MODE=release TARGETARCH
RUN --mount=type=secret,id=token x
FROM scratch
"""


def test_outline() -> None:
    file = parse(TEXT, "Dockerfile")
    made = outline(file, 2, {"MODE": "debug"})
    assert (made.name, made.description) == ("app", "is what runs")
    assert [(arg.name, arg.value, arg.description) for arg in made.args] == [
        ("VERSION", "1", "of the base"),
        ("ONLY_HERE", "x", ""),
        ("MODE", "debug", "to build in"),
    ]
    assert [arg.where.line for arg in made.args] == [2, 3, 8]
    shown = {kind: [(m.name, m.required) for m in found] for kind, found in made.mounts.items()}
    assert shown == {
        "secret": [("token", True), ("key", False)],
        "ssh": [("default", False)],
        "cache": [("/root/.cache", False)],
    }
    assert [arg.name for arg in outline(file, 3, {}).args] == ["VERSION", "ONLY_HERE"]
    assert outline(file, 2, {}).args[2].value == "release"


def test_stages() -> None:
    rows = [(s.name, s.default, s.description, s.base) for s in list_stages(parse(TEXT, "D"))]
    assert rows == [
        ("Other", False, "", "scratch"),
        ("base", False, "", "base:$VERSION"),
        ("app", False, "is what runs", "base"),
        ("", True, "", "scratch"),
    ]
