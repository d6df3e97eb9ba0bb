"""What a push means before anything is built, and what is said of one that means nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildgraph.boxfile.workspace import Workspace
from buildgraph.engine.push_plan import push_plans
from buildgraph.errors import InputError, InputErrors

HEAD = """\
targets:
  image: {dockerfile_inline: FROM scratch, tags: [h.example/own:1, h.example/own:2]}
  bare: {dockerfile_inline: FROM scratch}
  smoke: {rule: smoke, checks: [{file: {image: ":image", path: /g}}]}
  other: {rule: smoke, checks: [{file: {image: ":bare", path: /g}}]}
  both: {rule: group, targets: [release, bare]}
  release:
    rule: push
"""


def workspace(top: Path, push: str, head: str = HEAD) -> Workspace:
    (top / "Boxfile.yaml").write_text("workspace: {name: shop}\n")
    (top / "app").mkdir()
    (top / "app" / "Boxfile.yaml").write_text(head + push)
    return Workspace.open(str(top))


def told(place: Workspace, *words: str) -> list[str]:
    """Return each plan as a line."""
    return [
        f"{plan.label}: {plan.image} -> {' '.join(name.familiar for name in plan.names)} "
        f"{plan.if_exists} after {' '.join(test.name for test in plan.requires)}".rstrip()
        for plan in push_plans(place, "", words)
    ]


RELEASE = '    image: ":image"\n    requires: [smoke]\n    if_exists: skip\n'
LINE = "//app:release: //app:image -> h.example/own:1 h.example/own:2 skip after smoke"
OWN = "//app:image: //app:image -> h.example/own:1 h.example/own:2 retag after"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["//app:release"], [LINE]),
        (["//..."], [LINE]),
        (["//app:both"], [LINE]),
        (["//app:*", "//app:image"], [LINE, OWN]),
        (["//app:image"], [OWN]),
        (["app:image"], [OWN]),
        (["//app/...", "-//app:image"], [LINE]),
    ],
)
def test_what_counts(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    assert sorted(told(workspace(tmp_path, RELEASE), *words)) == sorted(expected)


def test_tags_of_the_push_count_more(tmp_path: Path) -> None:
    place = workspace(tmp_path, '    image: ":bare"\n    tags: h.example/bare\n')
    assert told(place, "//app:release") == [
        "//app:release: //app:bare -> h.example/bare:latest retag after"
    ]


@pytest.mark.parametrize(
    ("push", "words", "said", "line"),
    [
        ("image: bare", ["//..."], "neither //app:release nor //app:bare says a name", 7),
        ("image: smoke", ["//..."], "//app:smoke is a smoke and no image", 9),
        ("image: image\n    requires: [bare]", ["//..."], "//app:bare is no smoke test", 10),
        (
            "image: image\n    requires: [smoke, other]",
            ["//..."],
            "//app:other does not test //app:image",
            10,
        ),
        ("image: image\n    tags: [UP:1]", ["//..."], "must be in lower case", 10),
        (
            f"image: image\n    tags: ['x@sha256:{'0' * 64}']",
            ["//..."],
            "nothing can be pushed to it",
            10,
        ),
        ("image: image\n    if_exists: maybe", ["//..."], "if_exists", 10),
        ("image: image", ["//app:bare"], "//app:bare has no name to be pushed under", 3),
        ("image: image", ["//app:smoke"], "//app:smoke is no image and no push", 0),
        ("image: image", ["//...", "-//app:release"], "there is nothing to push among", 0),
        (
            "image: image\n  second: {rule: push, image: bare, tags: [h.example/own:2]}",
            ["//..."],
            "push different images to h.example/own:2",
            10,
        ),
    ],
)
def test_what_cannot_be_pushed(
    tmp_path: Path, push: str, words: list[str], said: str, line: int
) -> None:
    place = workspace(tmp_path, f"    {push}\n")
    with pytest.raises(InputError) as failure:
        push_plans(place, "", words)
    error = failure.value
    (only,) = error.errors if isinstance(error, InputErrors) else (error,)
    assert said in only.message
    assert (only.where.line if only.where else 0) == line
