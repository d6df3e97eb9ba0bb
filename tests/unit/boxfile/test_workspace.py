"""Knows what labels and patterns mean in a workspace on disk, and what is said of its mistakes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from buildgraph.boxfile import schema
from buildgraph.boxfile.files import find_root
from buildgraph.boxfile.target import group_target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.errors import HostError, InputError, Location
from buildgraph.label import Label, parse_label

Write = Callable[[Mapping[str, str]], str]
Shown = Callable[[InputError], list[str]]

SHOP = {
    "Boxfile.yaml": "workspace: {name: shop, vars: {PY: '3.12'}, registry: registry.example.com}\n"
    "targets:\n  everything: {rule: group, targets: ['//...', '-//old/...']}\n",
    "app/Boxfile.yaml": "targets:\n  image:\n    contexts: {base: '//base', gen: '//proto:gen'}\n"
    "  debug: {stage: debug, contexts: {app: ':image'}}\n",
    "app/Dockerfile": "FROM base\n",
    "app/docker/worker.Dockerfile": "FROM base\n",
    "base/Containerfile": "FROM scratch\n",
    "proto/Boxfile.yaml": "targets: {gen: {dockerfile_inline: FROM scratch}}\n",
    "old/deep/Dockerfile": "FROM scratch\n",
    "docs/readme.md": "nothing\n",
}
ALL = [
    "//:everything",
    "//app:image",
    "//app:debug",
    "//base:image",
    "//old/deep:image",
    "//proto:gen",
]


def texts(labels: list[Label]) -> list[str]:
    return [str(label) for label in labels]


def wrong(shown: Shown, run: Callable[[], object]) -> list[str]:
    with pytest.raises(InputError) as caught:
        run()
    return shown(caught.value)


def test_what_the_root_says(write: Write) -> None:
    workspace = Workspace.open(write(SHOP))
    assert (workspace.name, workspace.registry) == ("shop", "registry.example.com")
    assert dict(workspace.vars) == {"PY": "3.12"}


def test_a_plain_directory_is_a_workspace(write: Write) -> None:
    root = write({"Dockerfile": "FROM scratch\n"})
    workspace = Workspace.open(root)
    assert workspace.name == os.path.basename(root)
    assert texts(workspace.expand(["."])) == ["//:image"]
    assert texts(workspace.expand([root])) == ["//:image"]
    assert texts(workspace.expand(["//..."])) == ["//:image"]


def test_packages_are_found_and_sorted(write: Write) -> None:
    workspace = Workspace.open(write(SHOP))
    assert workspace.discover() == ["", "app", "base", "old/deep", "proto"]
    assert workspace.discover("old") == ["old/deep"]


@pytest.mark.parametrize(
    ("patterns", "cwd", "expected"),
    [
        (["//..."], "", ALL),
        (["..."], "app", ["//app:image", "//app:debug"]),
        (["//app:all"], "", ["//app:image", "//app:debug"]),
        ([":all"], "app", ["//app:image", "//app:debug"]),
        ([":debug", "//base", ":debug"], "app", ["//app:debug", "//base:image"]),
        (["debug"], "app", ["//app:debug"]),
        (["app"], "", ["//app:image"]),
        (["./app", "proto:gen"], "", ["//app:image", "//proto:gen"]),
        (["."], "app", ["//app:image"]),
        (["../base"], "app", ["//base:image"]),
        (["Dockerfile"], "app", ["//app:image"]),
        (["base/Containerfile"], "", ["//base:image"]),
        (["everything"], "", ["//:everything"]),
        (
            ["//...", "-//app/...", "-:everything"],
            "",
            ["//base:image", "//old/deep:image", "//proto:gen"],
        ),
        (["//app:all", "-//app:all", "//app:debug"], "", ["//app:debug"]),
        ([], "", []),
    ],
)
def test_patterns_mean(write: Write, patterns: list[str], cwd: str, expected: list[str]) -> None:
    workspace = Workspace.open(write(SHOP))
    assert texts(workspace.expand(patterns, cwd)) == expected
    assert texts(workspace.expand(patterns, os.path.join(workspace.root, cwd))) == expected


def test_a_dockerfile_elsewhere_belongs_to_the_target_that_names_it(write: Write) -> None:
    files = {**SHOP, "app/Boxfile.yaml": "targets: {w: {dockerfile: docker/worker.Dockerfile}}\n"}
    workspace = Workspace.open(write(files))
    assert texts(workspace.expand(["app/docker/worker.Dockerfile"])) == ["//app:w"]
    absolute = os.path.join(workspace.root, "app/docker/worker.Dockerfile")
    assert texts(workspace.expand([absolute])) == ["//app:w"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["//apq"], ["there is no directory 'apq' (did you mean 'app'?)"]),
        (["//app:imgae"], ["there is no target //app:imgae (did you mean 'image'?)"]),
        (["//app:zzz"], ["there is no target //app:zzz (//app has debug, image)"]),
        (["//proto"], ["there is no target //proto:image (//proto has gen)"]),
        (["//docs"], ["there is no Boxfile.yaml or Dockerfile in docs/"]),
        (["//docs/..."], ["'//docs/...' matches no target"]),
        (["//nope/..."], ["there is no directory 'nope'"]),
        (
            ["bas"],
            ["there is neither a target //:bas nor a directory 'bas' (did you mean 'base'?)"],
        ),
        (["./bas"], ["there is no directory 'bas' (did you mean 'base'?)"]),
        (["app/docker/worker.Dockerfile"], ["no target is built from the file"]),
        (["-//app"], ["no target is left of '-//app'"]),
        (["//app", "-//app"], ["no target is left of '//app -//app'"]),
        (["//app:image", "-//gone"], ["there is no directory 'gone'"]),
        (
            ["//a b", "//app:zzz", "../x"],
            [
                "'//a b' is not a label: ' ' cannot be in a package path",
                "there is no target //app:zzz (//app has debug, image)",
                "'../x' leaves the workspace",
            ],
        ),
        (["/etc"], ["'/etc' is not in the workspace"]),
    ],
)
def test_patterns_that_mean_nothing(
    write: Write, shown: Shown, patterns: list[str], expected: list[str]
) -> None:
    workspace = Workspace.open(write(SHOP))
    told = wrong(shown, lambda: workspace.expand(patterns))
    assert len(told) == len(expected)
    for line, start in zip(told, expected, strict=True):
        assert line.startswith(start)


def test_dependencies_come_first(write: Write) -> None:
    workspace = Workspace.open(write(SHOP))
    order = workspace.closure([Label("app", "debug")])
    assert [str(target.label) for target in order] == [
        "//base:image",
        "//proto:gen",
        "//app:image",
        "//app:debug",
    ]


def test_a_group_needs_its_members_and_never_means_groups_by_wildcard(write: Write) -> None:
    workspace = Workspace.open(write(SHOP))
    group = group_target(workspace.target(Label("", "everything")))
    expected = ["//app:image", "//app:debug", "//base:image", "//proto:gen"]
    assert texts(workspace.members(group)) == expected
    assert texts(workspace.members(workspace.target(group.label))) == expected
    order = [str(target.label) for target in workspace.closure([group.label])]
    assert sorted(order) == sorted([*expected, "//:everything"])
    assert order[-1] == "//:everything"


def test_a_cycle_is_told_as_the_path_round_it(write: Write, shown: Shown) -> None:
    root = write(
        {
            "Boxfile.yaml": "workspace: {name: x}\n",
            "a/Boxfile.yaml": "targets:\n  image:\n    contexts: {b: //b}\n",
            "a/Dockerfile": "FROM b\n",
            "b/Boxfile.yaml": "contexts:\n  c: //c\n",
            "b/Dockerfile": "FROM c\n",
            "c/Boxfile.yaml": "contexts: {a: //a, c: //c}\n",
            "c/Dockerfile": "FROM a\n",
        }
    )
    workspace = Workspace.open(root)
    assert wrong(shown, lambda: workspace.closure([Label("a", "image")])) == [
        (
            "3:19-22 [//b] targets need each other:"
            " //a:image -> //b:image -> //c:image -> //a:image"
            " (//a:image needs //b:image at a/Boxfile.yaml:3:19;"
            " //b:image needs //c:image at b/Boxfile.yaml:2:6;"
            " //c:image needs //a:image at c/Boxfile.yaml:1:15)"
        ),
        (
            "1:23-26 [//c] targets need each other: //c:image -> //c:image"
            " (//c:image needs //c:image at c/Boxfile.yaml:1:23)"
        ),
    ]


def test_all_errors_of_all_files_are_told_at_once(write: Write, shown: Shown) -> None:
    root = write(
        {
            "Boxfile.yaml": "workspace: {nmae: x}\n",
            "a/Boxfile.yaml": "targets:\n  image: {stge: x, network: maybe}\n",
            "a/Dockerfile": "",
            "b/Boxfile.yaml": "targets: [\n",
            "c/Boxfile.yaml": "dockerfile: D\n",
        }
    )
    workspace = Workspace.open(root)
    assert wrong(shown, lambda: workspace.expand(["//...", ":all"])) == [
        "1:13-17 [nmae] workspace has no key 'nmae' (did you mean 'name'?)",
        "2:11-15 [stge] an image target has no key 'stge' (did you mean 'stage'?)",
        "2:29-34 [maybe] network: expected one of none, host, default, found 'maybe'",
        "1:10-11 [[] not valid YAML: did not find expected node content (close the bracket)",
    ]
    # A file that nobody asks for does not stand in the way; the root's always does.
    assert len(wrong(shown, lambda: workspace.expand(["//c"]))) == 1


def test_unknown_targets_are_told_where_they_are_named(write: Write, shown: Shown) -> None:
    root = write(
        {
            "Boxfile.yaml": "workspace: {name: x}\n",
            "a/Boxfile.yaml": "contexts:\n  x: //b:imge\n  y: src\n  z: //gone\n"
            "  f: ./file\n  d: ./dir\ncontext: nothing\ndockerfile: D\n",
            "a/file": "",
            "a/src/x": "",
            "b/Dockerfile": "",
        }
    )
    workspace = Workspace.open(root)
    assert wrong(shown, lambda: workspace.closure([Label("a", "image")])) == [
        "2:6-14 [//b:imge] there is no target //b:imge (did you mean 'image'?)",
        "3:6-9 [src] there is no target //a:src (for the directory write './src')",
        "4:6-12 [//gone] there is no directory 'gone'",
        "5:6-12 [./file] 'a/file' is not a directory",
        "6:6-11 [./dir] there is no directory 'a/dir' in the workspace",
        "7:10-17 [nothing] there is no directory 'a/nothing' in the workspace",
        "8:13-14 [D] there is no file 'a/D' in the workspace",
    ]


def test_rules_of_others_bring_dependencies(
    write: Write, rules: Mapping[str, schema.RuleSpec]
) -> None:
    root = write(
        {
            "Boxfile.yaml": "targets:\n  image: {rule: system, packages: [], after: ':b'}\n"
            "  b: {dockerfile_inline: FROM scratch}\n"
        }
    )
    workspace = Workspace.open(root, rules)
    order = workspace.closure(workspace.expand(["//:image"]))
    assert [str(target.label) for target in order] == ["//:b", "//:image"]
    with pytest.raises(InputError, match="there is no rule 'system'"):
        Workspace.open(root).expand(["//:image"])


def test_what_is_not_searched(write: Write) -> None:
    dockerfile = "FROM scratch\n"
    root = write(
        {
            "Boxfile.yaml": "workspace: {name: x}\n",
            ".git/Dockerfile": dockerfile,
            ".venv/x/Dockerfile": dockerfile,
            "a/node_modules/x/Dockerfile": dockerfile,
            "a/__pycache__/Dockerfile": dockerfile,
            "out/Dockerfile": dockerfile,
            "a/out/Dockerfile": dockerfile,
            "cache/CACHEDIR.TAG": "",
            "cache/x/Dockerfile": dockerfile,
            "env/pyvenv.cfg": "",
            "env/lib/Dockerfile": dockerfile,
            "layout/oci-layout": "",
            "layout/Dockerfile": dockerfile,
            "nested/Boxfile.yaml": "workspace: {name: y}\n",
            "nested/x/Dockerfile": dockerfile,
            "my dir/Dockerfile": dockerfile,
        }
    )
    os.symlink("a/out", os.path.join(root, "link"))
    workspace = Workspace.open(root)
    assert workspace.discover() == ["", "a/out"]
    assert dict(workspace.skipped) == {
        "my dir": "its name cannot be in a label",
        "nested": "is a workspace of its own",
    }
    # Asked for by name they are packages like all others.
    assert texts(workspace.expand(["//out", "//layout", "//link", "//out/..."])) == [
        "//out:image",
        "//layout:image",
        "//link:image",
    ]
    with pytest.raises(InputError, match="//nested is a workspace of its own"):
        workspace.expand(["//nested:image"])


def test_links_never_lead_out(write: Write, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "Dockerfile").write_text("FROM scratch\n")
    (outside / "Boxfile.yaml").write_text("secret: value\n")
    root = write(
        {
            "Boxfile.yaml": "workspace: {name: x}\ntargets:\n"
            "  a: {dockerfile_inline: FROM scratch, context: dir}\n"
            "  b: {dockerfile: file}\n"
        }
    )
    os.symlink(outside, os.path.join(root, "dir"))
    os.symlink(outside / "Dockerfile", os.path.join(root, "file"))
    os.mkdir(os.path.join(root, "c"))
    os.symlink(outside / "Boxfile.yaml", os.path.join(root, "c", "Boxfile.yaml"))
    workspace = Workspace.open(root)
    for label in ("//dir", "//c", "//:a", "//:b"):
        with pytest.raises(InputError, match="there is no"):
            workspace.closure([parse_label(label, "")])
    with pytest.raises(InputError, match="there is no file 'file'"):
        workspace.read("file", 100)


def test_every_input_is_known(write: Write) -> None:
    root = write(SHOP)
    workspace = Workspace.open(root)
    workspace.expand(["//base"])
    assert workspace.files_read == ["./", "Boxfile.yaml", "base/"]
    workspace.closure(workspace.expand(["//app"]))
    assert workspace.read("app/Dockerfile", 100) == b"FROM base\n"
    assert workspace.files_read == [
        "./",
        "Boxfile.yaml",
        "app/",
        "app/Boxfile.yaml",
        "app/Dockerfile",
        "base/",
        "proto/",
        "proto/Boxfile.yaml",
    ]
    workspace.expand(["//..."])
    assert {"docs/", "old/", "old/deep/"} <= set(workspace.files_read)


def test_a_file_is_read_once(write: Write) -> None:
    root = write(SHOP)
    workspace = Workspace.open(root)
    first = workspace.package("app")
    Path(root, "app/Boxfile.yaml").write_text("targets: [")
    assert workspace.package("app") is first


def test_reading_a_file(write: Write, shown: Shown) -> None:
    root = write({**SHOP, "big": "x" * 101})
    os.mkfifo(os.path.join(root, "pipe"))
    workspace = Workspace.open(root)
    where = Location("app/Boxfile.yaml", 1, 2, 4, "abcdef")
    assert wrong(shown, lambda: workspace.read("app/Dockerfil", 100, where)) == [
        "1:2-4 [bc] there is no file 'app/Dockerfil' (did you mean 'Dockerfile'?)"
    ]
    for path, message in (
        ("big", "'big' is larger than"),
        ("pipe", "'pipe' is not a regular file"),
        ("app", "'app' is not a regular file"),
    ):
        with pytest.raises(InputError, match=message):
            workspace.read(path, 100)


def test_a_file_that_may_not_be_read_is_the_hosts_move(write: Write) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    root = write(SHOP)
    os.chmod(os.path.join(root, "app/Boxfile.yaml"), 0)
    with pytest.raises(HostError, match="cannot read 'app/"):
        Workspace.open(root).expand(["//app"])


def test_the_root_is_found(write: Write, tmp_path: Path) -> None:
    root = write(
        {
            "w/Boxfile.yaml": "# first\nworkspace: {name: w}\n",
            "w/a/Boxfile.yaml": "targets: {x: {doc: 'no\n    workspace: here'}}\n",
            "w/a/b/file": "",
            "g/.git/HEAD": "",
            "g/a/b/file": "",
            "p/a/Dockerfile": "",
        }
    )
    assert find_root(f"{root}/w/a/b") == f"{root}/w"
    assert find_root(f"{root}/w/a/b/file") == f"{root}/w"
    assert find_root(f"{root}/w") == f"{root}/w"
    assert find_root(f"{root}/g/a/b") == f"{root}/g"
    assert find_root(f"{root}/p/a") == f"{root}/p/a"
    assert find_root(f"{root}/gone") is None
    os.mkfifo(tmp_path / "p" / "Boxfile.yaml")  # must not hang
    assert find_root(f"{root}/p/a") == f"{root}/p/a"


def test_a_thousand_packages_load_in_about_a_second(write: Write) -> None:
    files = {"Boxfile.yaml": "workspace: {name: big}\n"}
    for number in range(1000):
        directory = f"g{number // 50}/s{number}"
        base = f"base: //g{(number - 1) // 50}/s{number - 1}, " if number else ""
        files[f"{directory}/Dockerfile"] = "FROM scratch\n"
        files[f"{directory}/Boxfile.yaml"] = (
            f"targets:\n  image:\n    contexts: {{{base}here: .}}\n    args: {{PY: 3.12, A: b}}\n"
            f"    labels: {{a.b.c: s{number}}}\n    tags: [registry.example.com/s{number}]\n"
            "  debug: {stage: debug, contexts: {app: ':image'}}\n"
        )
    root = write(files)
    start = time.process_time()
    workspace = Workspace.open(root)
    order = workspace.closure(workspace.expand(["//..."]))
    taken = time.process_time() - start
    assert len(order) == 2000
    assert taken < 20  # processor seconds; 0.4 of them here
