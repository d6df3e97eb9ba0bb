"""What a Boxfile says and no Dockerfile hears is found where it is written."""

from __future__ import annotations

from pathlib import Path

from buildgraph.boxfile.lint import EXAMPLES, REASONS, BoxfileWarning, lint_targets, skips
from buildgraph.boxfile.target import image_target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.dockerfile.parser import parse
from buildgraph.graph.lint_facts import facts_of

DOCKERFILE = "ARG MODE\nFROM base\nRUN --mount=type=secret,id=used --mount=type=bind,from=tools,target=/t x\n"


def lint(root: Path, boxfile: str, dockerfile: str = DOCKERFILE) -> list[BoxfileWarning]:
    (root / "Boxfile.yaml").write_text("workspace: {name: w}\n" + boxfile)
    (root / "Dockerfile").write_text(dockerfile)
    workspace = Workspace.open(str(root))
    pairs = []
    for label in workspace.expand(["//..."]):
        target = image_target(workspace.target(label))
        args = {arg.name: arg.value for arg in target.args}
        pairs.append((target, facts_of(parse(dockerfile, "Dockerfile"), args)))
    return lint_targets(pairs)


def fired(root: Path, boxfile: str, dockerfile: str = DOCKERFILE) -> list[tuple[str, int, int]]:
    found = lint(root, boxfile, dockerfile)
    return [(one.rule, one.where.line, one.where.column) for one in found]


def test_arguments(tmp_path: Path) -> None:
    text = "targets:\n  image:\n    args:\n      MODE: x\n      MOED: y\n"
    assert fired(tmp_path, text) == [("BoxfileUnusedArg", 6, 7)]
    (one,) = lint(tmp_path, text)
    assert (one.message, one.fix) == (
        "The Dockerfile declares no ARG MOED",
        "did you mean 'MODE'?",
    )
    for name in ("HTTP_PROXY", "SOURCE_DATE_EPOCH", "BUILDKIT_SYNTAX", "TARGETARCH"):
        assert fired(tmp_path, f"targets: {{image: {{args: {{{name}: x}}}}}}\n") == []
    late = "targets: {image: {args: {X: x}}}\n"
    for where in ("FROM a\nARG X\n", "FROM a AS b\nARG X\nFROM c\n", "FROM a\nONBUILD ARG X\n"):
        assert fired(tmp_path, late, where) == []
    assert fired(tmp_path, late, "FROM a\nARG $Y\n") == []  # who knows


def test_contexts(tmp_path: Path) -> None:
    text = 'targets:\n  image:\n    contexts: {Base: "./", tools: "./", "lib:latest": "./"}\n'
    assert fired(tmp_path, text) == [("BoxfileUnusedContext", 4, 41)]
    text = 'targets: {image: {contexts: {x: "./"}}}\n'
    for dockerfile in (
        "FROM a\nCOPY --from=X / /\n",
        "ARG B=x\nFROM $B\n",
        "FROM x:latest\n",
        "FROM $UNKNOWN\n",
        "FROM a\nONBUILD COPY --from=x / /\n",
    ):
        assert fired(tmp_path, text, dockerfile) == []
    assert fired(tmp_path, text, "FROM a\n") == [("BoxfileUnusedContext", 2, 30)]


def test_secrets(tmp_path: Path) -> None:
    text = (
        "targets:\n  image:\n    secrets:\n      - {id: used, env: A}\n      - {id: usde, env: B}\n"
    )
    assert fired(tmp_path, text) == [("BoxfileUnusedSecret", 6, 9)]
    text = "targets: {image: {secrets: [{id: s, env: S}]}}\n"
    for mount in ("id=s", "id=$X", "target=/run/s", "src=s"):
        assert fired(tmp_path, text, f"FROM a\nRUN --mount=type=secret,{mount} x\n") == []
    text = "targets: {image: {secrets: [{id: GIT_AUTH_TOKEN, env: S}]}}\n"
    assert fired(tmp_path, text, "FROM a\n") == []


def test_tags(tmp_path: Path) -> None:
    text = (
        "targets:\n  a: {tags: [x/y:1, x/y]}\n  b: {tags: [x/y:2]}\n  c: {tags: ['x/y:latest']}\n"
    )
    assert fired(tmp_path, text) == [("BoxfileDuplicateTag", 5, 14)]
    (one,) = lint(tmp_path, text)
    assert one.message == "//:a and //:c both get the tag x/y:latest"


def test_comments_skip(tmp_path: Path) -> None:
    text = "# check=skip=A, B\ntargets:\n  # check=skip=C\n  x: y\n  z: y\n"
    assert skips(text, "A", 4)
    assert skips(text, "B", 5)
    assert skips(text, "C", 4)
    assert not skips(text, "C", 5)
    assert skips("# check=skip=all\n", "D", 9)
    assert not skips("", "D", 9)


def test_every_boxfile_rule_is_explained(tmp_path: Path) -> None:
    assert set(REASONS) == set(EXAMPLES)
    dockerfile = "ARG MODE\nFROM base\n"
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text("FROM scratch\n")
    for rule, (bad, good) in EXAMPLES.items():
        assert rule in [one.rule for one in lint(tmp_path, bad, dockerfile)], rule
        assert [one for one in lint(tmp_path, good, dockerfile) if one.rule == rule] == [], rule
