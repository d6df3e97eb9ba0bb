"""Knows how targets are made from others: `extends`, `matrix`, the package's defaults; and who may
use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from buildgraph import limits
from buildgraph.boxfile.loader import Package
from buildgraph.boxfile.target import image_target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.context.ignore import IgnoreRules
from buildgraph.errors import InputError
from buildgraph.label import Label, parse_label

Load = Callable[..., Package]
Shown = Callable[[InputError], list[str]]
Write = Callable[[Mapping[str, str]], str]


def test_mappings_merge_and_the_rest_replaces(load: Load) -> None:
    package = load(
        "targets:\n"
        "  image: {doc: all, args: {A: '1', B: '{{ target }}'}, ignore: [a, b], network: none}\n"
        "  debug: {extends: ':image', args: {B: '2', C: '3'}, ignore: [c]}\n"
        "  last: {extends: [image, debug], stage: x}\n"
        "  inline: {extends: image, dockerfile_inline: FROM scratch}\n"
    )
    debug, last = (image_target(package.targets[name]) for name in ("debug", "last"))
    assert [(a.name, a.value) for a in debug.args] == [("A", "1"), ("B", "2"), ("C", "3")]
    assert (debug.ignore, debug.network, debug.doc) == (("c",), "none", "")
    assert [a.value for a in last.args] == ["1", "2", "3"]
    own = image_target(package.targets["image"])
    assert [a.value for a in own.args] == ["1", "image"]
    assert package.targets["inline"].text("dockerfile") is None


def test_what_is_extended_may_stand_below(load: Load) -> None:
    package = load("targets:\n  a: {extends: b}\n  b: {rule: group, targets: [c]}\n  c: {}\n")
    assert package.targets["a"].rule == "group"
    assert list(package.targets) == ["a", "b", "c"]


def test_a_matrix_makes_targets_and_a_group_of_them(load: Load) -> None:
    package = load(
        "targets:\n"
        "  compat:\n"
        "    doc: on {{ matrix.py | default('all') }}\n"
        "    matrix: {py: ['3.12', '3.13'], os: [bookworm, trixie]}\n"
        "    exclude: [{py: '3.12', os: trixie}]\n"
        "    include: [{os: sid, py: '3.14'}]\n"
        "    args: {PY: '{{ matrix.py }}', OS: '{{ matrix.os | upper }}'}\n"
    )
    names = [
        "compat@py=3.12,os=bookworm",
        "compat@py=3.13,os=bookworm",
        "compat@py=3.13,os=trixie",
        "compat@py=3.14,os=sid",
    ]
    assert list(package.targets) == ["compat", *names]
    group = package.targets["compat"]
    assert group.rule == "group"
    assert [item.data.text for item in group.items("targets")] == [  # type: ignore[union-attr]
        f"//app:{name}" for name in names
    ]
    assert image_target(package.targets[names[2]]).args[1].value == "TRIXIE"
    assert package.targets[names[0]].label.matrix == (("py", "3.12"), ("os", "bookworm"))
    for target in package.targets.values():
        assert parse_label(str(target.label), "") == target.label


def test_patterns_and_groups_take_variants(write: Write) -> None:
    root = write(
        {
            "Boxfile.yaml": "workspace: {vars: {NEWEST: '3.13'}}\n",
            "app/Dockerfile": "FROM scratch\n",
            "app/Boxfile.yaml": "targets:\n"
            "  image: {}\n"
            "  compat: {extends: image, matrix: {py: ['3.12', '{{ vars.NEWEST }}']}}\n"
            "  next: {contexts: {base: ':compat@py={{ vars.NEWEST }}'}}\n",
        }
    )
    workspace = Workspace.open(root)
    both = ["compat@py=3.12", "compat@py=3.13"]
    names = [label.name for label in workspace.expand(["//app:all"])]
    assert names == ["image", "compat", *both, "next"]
    group = workspace.target(workspace.expand(["//app:compat"])[0])
    assert [label.name for label in workspace.members(group)] == both
    closure = workspace.closure([Label("app", "next")])
    assert [target.label.name for target in closure] == ["compat@py=3.13", "next"]
    with pytest.raises(InputError, match=r"no target //app:compat@py=3\.11") as caught:
        workspace.expand(["//app:compat@py=3.11"])
    assert "compat@py=3.1" in (caught.value.hint or "")


def test_a_matrix_has_a_limit(load: Load) -> None:
    many = ", ".join(str(i) for i in range(limits.MATRIX_TARGETS + 1))
    with pytest.raises(InputError, match="at most 1000"):
        load(f"targets:\n  a: {{matrix: {{n: [{many}]}}}}\n")


def test_what_a_package_says_holds_for_all_its_targets(load: Load) -> None:
    package = load(
        "package: {defaults: {image: {network: none, labels: {a: '1', b: '{{ target }}'}}}}\n"
        "targets:\n"
        "  x: {labels: {a: '2'}}\n"
        "  y: {network: host}\n"
        "  z: {extends: y}\n"
        "  g: {rule: group, targets: [x]}\n"
    )
    x, y, z = (image_target(package.targets[name]) for name in ("x", "y", "z"))
    assert (x.network, x.labels) == ("none", (("a", "2"), ("b", "x")))
    assert (y.network, z.network) == ("host", "host")
    implicit = load("package: {defaults: {image: {network: none}}}").targets["image"]
    assert image_target(implicit).network == "none"


def test_targets_are_for_everybody_unless_they_say_otherwise(write: Write, shown: Shown) -> None:
    use = "contexts: {a: '//lib:%s'}\n"
    root = write(
        {
            "Boxfile.yaml": "workspace:\n",
            "lib/Dockerfile": "FROM scratch\n",
            "lib/Boxfile.yaml": "package: {visibility: private}\n"
            "targets:\n"
            "  own: {}\n"
            "  user: {contexts: {a: ':own'}, visibility: public}\n"
            "  some: {visibility: ['//app/...', '-//app/b:all']}\n"
            "  many: {visibility: '//app/a:many', matrix: {n: ['1']}}\n",
            **{
                f"{name}/{file}": text
                for name, target in (
                    ("app/a", "some"),
                    ("app/b", "some"),
                    ("c", "own"),
                    ("d", "user"),
                )
                for file, text in (
                    ("Dockerfile", "FROM scratch\n"),
                    ("Boxfile.yaml", use % target),
                )
            },
            "all/Boxfile.yaml": "targets: {all-of: {rule: group, targets: ['//lib:all']}}\n",
        }
    )
    workspace = Workspace.open(root)
    for allowed in ("//app/a", "//d", "//lib:user", "//all:all-of"):
        workspace.closure(workspace.expand([allowed]))
    with pytest.raises(InputError) as caught:
        workspace.closure(workspace.expand(["//c", "//app/b"]))
    hints = "visibility at lib/Boxfile.yaml"
    assert [text.partition("] ")[2] for text in shown(caught.value)] == [
        f"//lib:some is not visible to //app/b:image ({hints}:5:10: //app/..., -//app/b:all)",
        f"//lib:own is not visible to //c:image ({hints}:1:11: private)",
    ]


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ("srcs: [src, '*.toml']", ["src/a.py", "src/a.md", "src/deep/b.py", "x.toml"]),
        ("srcs: ['src/**/*.py', '!src/deep']", ["src/a.py"]),
        ("srcs: src\nignore: ['**/*.md']", ["src/a.py", "src/deep/b.py"]),
        ("srcs: []", []),
        ("ignore: [src]", ["README.md", "deep/x.toml", "x.toml"]),
    ],
)
def test_srcs_are_all_that_there_is(load: Load, attributes: str, kept: list[str]) -> None:
    files = ["README.md", "deep/x.toml", "src/a.md", "src/a.py", "src/deep/b.py", "x.toml"]
    ignore = image_target(load(attributes).targets["image"]).ignore
    assert ignore is not None
    rules = IgnoreRules.parse("\n".join(ignore))
    assert sorted(path for path in files if not rules.excluded_by(path)) == sorted(kept)
