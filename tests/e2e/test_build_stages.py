"""Knows which stages run, what names mean and what a context shows; must not know how a graph is
made of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from e2e.building import BOTH, Bench
from e2e.images import listing, read_layout, text


def test_only_what_the_target_needs_runs(root_bench: Bench) -> None:
    dockerfile = """
FROM base AS never
RUN exit 1
FROM base AS mounted
RUN echo m >/m
FROM base AS copied
RUN echo c >/c
FROM base AS under
RUN echo u >/u
FROM under AS Middle
COPY --from=2 /c /c
RUN --mount=from=mounted,target=/x cat /x/m >/n
FROM middle AS last
RUN echo last >/last
"""
    built = root_bench.build(dockerfile)
    assert {"c", "n", "u", "last"} <= set(built.image.tree)
    ran = " ".join(built.result.built)
    assert "exit 1" not in ran
    middle = root_bench.build(dockerfile, None, "--target", "mIDDLE")
    assert not middle.has("last")
    assert middle.result.built == []
    said = root_bench.fail(dockerfile, None, "--target", "midle")
    assert "did you mean" in said.stderr
    assert root_bench.fail(dockerfile, None, "--target", "0").code == 2, "no numbers (code)"
    assert root_bench.fail(dockerfile, None, "--target", "never", expect=1).code == 1


def test_names_of_stages(root_bench: Bench) -> None:
    built = root_bench.build(
        "FROM scratch AS STAge0\nCOPY f /zero\nFROM scratch AS Stage1\nCOPY f /one\n"
        "FROM scratch\nCOPY --from=staGE0 /zero /a\nCOPY --from=1 /one /b\n",
        {"f": "f"},
    )
    assert sorted(built.image.tree) == ["a", "b"]
    # FROM binds to the latest earlier one, --from to the last in the file.
    built = root_bench.build(
        "FROM scratch AS s\nCOPY f /first\nFROM scratch AS s\nCOPY f /second\nFROM s\n", {"f": "f"}
    )
    assert sorted(built.image.tree) == ["second"]


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        (
            "FROM scratch AS b\nCOPY --from=build /x /\nFROM scratch AS build\nFROM b\n",
            ["b", "build"],
        ),
        ("FROM scratch AS b\nCOPY --from=1 /x /\nFROM scratch\nFROM b\n", ["1"]),
        ("FROM scratch\nCOPY --from=7 /x /\n", ["7"]),
        ("FROM scratch AS stage\nFROM Stage\n", ["Stage"]),
        ("FROM scratch AS a\nCOPY --from=a /x /\n", ["a"]),
    ],
)
def test_references_that_lead_nowhere(root_bench: Bench, dockerfile: str, words: list[str]) -> None:
    said = root_bench.fail(dockerfile).stderr
    assert all(f"'{word}'" in said or f" {word}" in said for word in words)
    assert "Dockerfile:" in said


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM nope:1\n",
        "FROM scratch AS scratch\nFROM nope:1\n",
        "FROM base\nCOPY --from=nope:1 a /\n",
    ],
)
def test_a_name_nobody_knows_here_is_one_of_a_registry(root_bench: Bench, dockerfile: str) -> None:
    failed = root_bench.fail(dockerfile, None, "--offline", expect=3)
    assert "nope:1" in failed.stderr
    assert "Dockerfile:" in failed.stderr
    assert "contexts: {nope:" in failed.stderr


@BOTH
def test_onbuild_runs_first_in_the_child_and_is_gone_then(who: Bench) -> None:
    built = who.build(
        """
FROM base AS parent
ONBUILD ARG who=nobody
ONBUILD RUN echo $who >/trigger
ONBUILD COPY f /copied
ONBUILD COPY --from=0 /bin/busybox /from-stage
ONBUILD COPY <<EOF /here
text $who
EOF
FROM parent AS child
RUN cat /trigger /copied >/both
FROM child
RUN test -e /trigger && rm /trigger
""",
        {"f": "f\n"},
        "--build-arg=who=me",
    )
    assert built.content("both") == "me\nf\n"
    assert built.content("here") == "text me\n"
    assert not built.has("trigger"), "triggers do not run again in a grandchild"
    assert not built.image.config.get("OnBuild")


def test_scopes_of_args(root_bench: Bench) -> None:
    dockerfile = """
ARG image=idlebase
ARG tag=${image}-t
ARG plain=global
FROM ${image#idle} AS a
ARG plain
ARG own=own
ARG TARGETARCH
ARG TARGETSTAGE
ARG image
RUN echo "$plain $own [$tag] $TARGETARCH $TARGETSTAGE $image" >/a
FROM a
RUN echo "$plain $own" >/inherits
FROM base AS last
ARG plain=shadow
RUN echo "$plain [$own]" >/last
COPY --from=a /a /a
COPY --from=1 /inherits /
"""
    built = root_bench.build(dockerfile)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}
    arch = machine.get(os.uname().machine, os.uname().machine)
    assert built.content("a") == f"global own [] {arch} last idlebase\n"
    assert built.content("inherits") == "global own\n"
    assert built.content("last") == "shadow []\n"
    built = root_bench.build(dockerfile, None, "--build-arg=plain=cli", "--build-arg", "own")
    assert built.content("last") == "cli []\n"


def test_a_build_arg_nobody_wants_is_told(root_bench: Bench) -> None:
    words = [root_bench.directory({}, "FROM scratch\nCOPY Dockerfile /\n"), "--progress", "plain"]
    said = root_bench.run("build", *words, "--build-arg", "unused=1")
    assert "unused" in said.stderr


def test_named_contexts(root_bench: Bench, tmp_path: Path) -> None:
    other = root_bench.directory({"o": "other", "no": "no", ".dockerignore": "no\n"})
    dockerfile = (
        "FROM scratch AS stage\nCOPY f /f\nFROM base\nCOPY --from=other . /o\n"
        "COPY --from=stage . /s\nRUN --mount=from=other,target=/m ls /m >/ls\n"
    )
    built = root_bench.build(dockerfile, {"f": "f"}, f"--build-context=other={other}")
    assert built.content("o/o") == "other"
    assert built.content("s/f") == "f"
    assert not built.has("o/no")
    assert "no\n" not in built.content("ls")
    # a context stands for a stage of that name, and for an image
    built = root_bench.build(
        dockerfile, None, f"--build-context=other={other}", f"--build-context=stage={other}"
    )
    assert built.has("s/o")


def test_a_context_that_is_a_layout_by_tag_and_by_digest(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM scratch\nCOPY Dockerfile /only\n")
    layout = root_bench.workspace.path(f"{directory}-layout")
    words = [directory, "-o", f"type=oci,tar=false,dest={layout}", "-t", "name:v2"]
    said = root_bench.run("build", *words, "--progress", "json")
    (digest,) = said.digests.values()
    for suffix in (":v2", f"@{digest}", ""):
        built = root_bench.build(
            "FROM made\nCOPY f /\n",
            {"f": "f"},
            f"--build-context=made=oci-layout://{layout}{suffix}",
        )
        assert sorted(built.image.tree) == ["f", "only"]
    wrong = f"--build-context=made=oci-layout://{layout}:v3"
    assert "v3" in root_bench.fail("FROM made\n", None, wrong).stderr


@BOTH
def test_targets_of_a_workspace_stand_on_each_other(who: Bench) -> None:
    top = who.directory(
        {
            "Boxfile.yaml": "workspace: {name: w}\n",
            "base/Dockerfile": "FROM scratch\nCOPY f /base\nENV B=1\n",
            "base/f": "base",
            "app/Dockerfile": "FROM below\nCOPY --from=files /base /copied\nCOPY f /app\n",
            "app/f": "app",
            "app/Boxfile.yaml": "targets:\n  image:\n"
            '    contexts: {below: "//base", files: "//base:image"}\n',
        }
    )
    built = who.build_in("//app", cwd=top)
    assert listing(built.image.tree) == text(
        """
        f 644 0:0 app = 'app'
        f 644 0:0 base = 'base'
        f 644 0:0 copied = 'base'
        """
    )
    assert "B=1" in built.image.config["Env"]
    everything = who.run("build", "//...", "--progress", "json", cwd=top)
    assert set(everything.digests) == {"//app:image", "//base:image"}


IGNORES = {
    "plain names and directories": ("a\nd/e\n", {"a", "d/e/f", "d/e/r.md"}),
    "a star stops at a slash": ("*.md\nd/*.md\n", {"r.md", "d/r.md"}),
    "two stars do not": ("**/r.md\n", {"r.md", "d/r.md", "d/e/r.md"}),
    "the last line wins": ("**/*.md\n!d/**\nd/e\n", {"r.md", "d/e/f", "d/e/r.md"}),
    "children come back": ("d\n!d/e/f\n", {"d/r.md", "d/e/r.md"}),
    "comments, blanks, slashes, dots": ("# x\n  a  \n/r.md\n./d/../b\n", {"a", "r.md", "b"}),
    "a byte order mark and CRLF": ("\ufeffa\r\nb\r\n", {"a", "b"}),
    "classes and escapes": ("[ab]\n\\!c\n", {"a", "b", "!c"}),
    "everything but": ("*\n!a\n!Dockerfile\n", None),
}


@pytest.mark.parametrize("name", IGNORES)
def test_the_ignore_file(root_bench: Bench, name: str) -> None:
    lines, left_out = IGNORES[name]
    names = ["a", "b", "!c", "r.md", "d/r.md", "d/e/f", "d/e/r.md"]
    files = dict.fromkeys(names, "x")
    built = root_bench.build("FROM scratch\nCOPY . /\n", {**files, ".dockerignore": lines})
    kept = {path for path, file in built.image.tree.items() if file.kind == "f"}
    wanted = {"a"} if left_out is None else set(names) - left_out
    assert kept - {"Dockerfile", ".dockerignore"} == wanted


def test_which_ignore_file_counts(root_bench: Bench) -> None:
    directory = root_bench.directory(
        {
            "a": "",
            "b": "",
            "Dockerfile": "FROM scratch\nCOPY . /\n",
            ".dockerignore": "a\nDockerfile\n.dockerignore\n",
            "sub/Other": "FROM scratch\nCOPY . /\n",
            "sub/Other.dockerignore": "b\nsub\n",
        }
    )
    assert set(root_bench.build_in(directory).image.tree) == {
        "b",
        "sub",
        "sub/Other",
        "sub/Other.dockerignore",
    }
    other = root_bench.build_in(directory, "-f", f"{directory}/sub/Other")
    assert set(other.image.tree) == {"a", "Dockerfile", ".dockerignore"}


@pytest.mark.parametrize("line", ["!", "[", "a[-]"])
def test_a_bad_ignore_file_is_an_error_with_its_line(root_bench: Bench, line: str) -> None:
    said = root_bench.fail("FROM scratch\nCOPY . /\n", {".dockerignore": f"ok\n{line}\n"})
    assert ".dockerignore" in said.stderr


def test_what_the_ignore_file_hides_is_said(root_bench: Bench) -> None:
    files = {".dockerignore": "*.log\n", "x.log": ""}
    said = root_bench.fail("FROM scratch\nCOPY x.log /\n", files)
    assert "'x.log' is left out of the context by" in said.stderr
    assert ".dockerignore: *.log" in said.stderr


def test_a_lower_case_dockerfile_is_found(root_bench: Bench) -> None:
    directory = root_bench.directory({"dockerfile": "FROM scratch\nCOPY f /\n", "f": "f"})
    assert root_bench.build_in(directory).has("f")


def test_platforms(root_bench: Bench) -> None:
    directory = root_bench.directory(
        {},
        "FROM --platform=$BUILDPLATFORM base AS tool\nRUN echo once >/t\nFROM scratch\n"
        "ARG TARGETPLATFORM\nCOPY <<EOF /p\n$TARGETPLATFORM\nEOF\nCOPY --from=tool /t /t\n",
    )
    layout = root_bench.workspace.path(f"{directory}-layout")
    words = [directory, "--platform", "linux/amd64,linux/arm64/v8"]
    words += ["-o", f"type=oci,tar=false,dest={layout}", "--progress", "json"]
    said = root_bench.run("build", *root_bench.base(words), *words)
    assert sum("once" in title for title in said.built) == 1
    index = json.loads((layout / "index.json").read_text())
    (top,) = index["manifests"]
    inner = json.loads((layout / "blobs" / top["digest"].replace(":", "/")).read_text())
    assert [m["platform"] for m in inner["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
    ]
    second = read_layout(layout, inner["manifests"][1]["digest"])
    assert second.tree["p"].content == b"linux/arm64\n"
    assert "pwn" in root_bench.fail("FROM scratch\n", None, "--platform", "linux/../../pwn").stderr


def test_a_context_of_an_unknown_kind_is_refused(root_bench: Bench) -> None:
    said = root_bench.fail("FROM x\n", None, "--build-context=x=ftp://localhost/x")
    assert "this kind is not supported" in said.stderr
