"""Knows the shape of a Boxfile, what its targets become, and the words of each mistake."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from buildgraph.boxfile import schema, wording
from buildgraph.boxfile.target import (
    DirContext,
    DockerfileAt,
    DockerfileInline,
    LabelContext,
    LayoutContext,
    group_target,
    image_target,
    references,
)
from buildgraph.errors import InputError
from buildgraph.label import AllBelow, Label, OneTarget

Load = Callable[..., Any]
Complaints = Callable[..., list[str]]
Drawn = Callable[[InputError], str]
MISTAKES = Path(__file__).with_name("mistakes.txt")
SHA = "sha256:" + "ab" * 32


def one(body: str) -> str:
    """Return a Boxfile whose only target has this body; its first line is line 3, column 5."""
    return "targets:\n  image:\n" + "".join(f"    {line}\n" for line in body.split("\n"))


def test_the_whole_image_target(load: Load) -> None:
    package = load(
        one(
            f"""\
doc: The application.
dockerfile: docker/Dockerfile
context: ..
contexts:
  base: ":base"
  near: base
  protos: "//proto:gen"
  lib: "//lib"
  files: ./files
  up: ../shared/
  here: .
  layout: oci-layout://images/debian:12
  pinned: oci-layout:///srv/images@{SHA}
  plain: oci-layout://images
args: {{PY: 3.10, DEBUG: true, EMPTY: "", MULTI: "a\\nb"}}
stage: runtime
platforms: linux/amd64
tags: [registry.example.com/shop/app:1, app]
labels: {{org.opencontainers.image.title: app}}
annotations: {{x: y}}
secrets: [{{id: token, env: API_TOKEN}}, {{id: netrc, src: .netrc}}]
network: none
timestamps: preserve
ignore: ["*.md", "!README.md"]
x-team: [anything, {{at: all}}]"""
        )
    )
    image = image_target(package.targets["image"])
    assert image.label == Label("app", "image")
    assert str(image.where) == "app/Boxfile.yaml:2:3"
    assert image.doc == "The application."
    assert isinstance(image.dockerfile, DockerfileAt)
    assert image.dockerfile.path == "app/docker/Dockerfile"
    assert str(image.dockerfile.where) == "app/Boxfile.yaml:4:17"
    assert image.context == ""
    assert {context.name: context.ref for context in image.contexts} == {
        "base": LabelContext(Label("app", "base")),
        "near": LabelContext(Label("app", "base")),
        "protos": LabelContext(Label("proto", "gen")),
        "lib": LabelContext(Label("lib", "image")),
        "files": DirContext("app/files"),
        "up": DirContext("shared"),
        "here": DirContext("app"),
        "layout": LayoutContext("app/images/debian", tag="12"),
        "pinned": LayoutContext("/srv/images", digest=SHA),
        "plain": LayoutContext("app/images"),
    }
    first = image.contexts[0]
    assert (str(first.key), str(first.where)) == ("app/Boxfile.yaml:7:7", "app/Boxfile.yaml:7:13")
    assert [(argument.name, argument.value) for argument in image.args] == [
        ("PY", "3.10"),
        ("DEBUG", "true"),
        ("EMPTY", ""),
        ("MULTI", "a\nb"),
    ]
    assert str(image.args[1].where) == "app/Boxfile.yaml:17:29"
    assert image.stage is not None
    assert image.stage.text == "runtime"
    assert [platform.text for platform in image.platforms] == ["linux/amd64"]
    assert [tag.text for tag in image.tags] == ["registry.example.com/shop/app:1", "app"]
    assert image.labels == (("org.opencontainers.image.title", "app"),)
    assert image.annotations == (("x", "y"),)
    assert [(secret.id, secret.env, secret.src) for secret in image.secrets] == [
        ("token", "API_TOKEN", None),
        ("netrc", None, "app/.netrc"),
    ]
    assert (image.network, image.timestamps) == ("none", "preserve")
    assert image.ignore == ("*.md", "!README.md")
    assert [str(label) for label, _ in references(package.targets["image"])] == [
        "//app:base",
        "//app:base",
        "//proto:gen",
        "//lib:image",
    ]


def test_an_empty_image_target_has_defaults(load: Load) -> None:
    image = image_target(load("targets: {image: }").targets["image"])
    assert image.dockerfile == DockerfileAt("app/Dockerfile", image.where)
    assert image.context == "app"
    assert (image.network, image.timestamps, image.ignore) == ("default", "normal", None)
    assert image.contexts == image.args == image.tags == ()
    assert load("targets: {image: {ignore: []}}").targets["image"].value("ignore").given
    assert image_target(load("targets: {image: {ignore: []}}").targets["image"]).ignore == ()


def test_a_dockerfile_in_the_boxfile_knows_its_lines(load: Load) -> None:
    package = load(
        "targets:\n  image:\n    dockerfile_inline: |\n      FROM x\n      RUN y\n", dockerfile=None
    )
    image = image_target(package.targets["image"])
    assert image.dockerfile == DockerfileInline(
        "FROM x\nRUN y\n", package.targets["image"].value("dockerfile_inline").where, 4, 6
    )
    quoted = load('dockerfile_inline: "FROM x\\nRUN y"', dockerfile=None).targets["image"]
    dockerfile = image_target(quoted).dockerfile
    assert isinstance(dockerfile, DockerfileInline)
    assert (dockerfile.text, dockerfile.first_line) == ("FROM x\nRUN y", 0)


def test_a_file_without_targets_is_one_target(load: Load) -> None:
    package = load("# short\ndockerfile: D\nargs: {A: 1}\nx-y: z\n", dockerfile=None)
    assert list(package.targets) == ["image"]
    image = image_target(package.targets["image"])
    assert str(image.where) == "app/Boxfile.yaml:2:1"
    assert isinstance(image.dockerfile, DockerfileAt)
    assert image.dockerfile.path == "app/D"
    short = load("rule: system\npackages: [bash]\n", dockerfile=None)
    assert short.targets["image"].rule == "system"


def test_a_dockerfile_is_a_target_unless_another_is_built_from_it(load: Load) -> None:
    assert list(load(None).targets) == ["image"]
    assert list(load("").targets) == ["image"]
    assert list(load("targets: {a: {dockerfile: other}}").targets) == ["a", "image"]
    assert list(load("targets: {a: {dockerfile: Dockerfile}}").targets) == ["a"]
    assert list(load("targets: {a: {}}").targets) == ["a"]
    assert load("targets: {}", dockerfile=None).targets == {}
    implicit = image_target(load(None, dockerfile="Containerfile").targets["image"])
    assert implicit.dockerfile == DockerfileAt("app/Containerfile", implicit.where)
    assert str(implicit.where) == "app/Containerfile"
    assert load(None).boxfile is None
    assert load("").boxfile == "app/Boxfile.yaml"


def test_groups(load: Load) -> None:
    text = one("rule: group\ntargets: [image2, ':b', //c, //d/..., -//d/e, -f]")
    group = group_target(load(text, dockerfile=None).targets["image"])
    assert [(m.pattern.exclude, m.pattern.what) for m in group.members] == [
        (False, OneTarget(Label("app", "image2"))),
        (False, OneTarget(Label("app", "b"))),
        (False, OneTarget(Label("c", "image"))),
        (False, AllBelow("d")),
        (True, OneTarget(Label("d/e", "image"))),
        (True, OneTarget(Label("app", "f"))),
    ]
    assert str(group.members[0].where) == "app/Boxfile.yaml:4:15"


def test_a_rule_of_another_room(load: Load) -> None:
    body = """\
rule: system
packages: [ca-certificates, "libc6:amd64=2.36-9", python3=3.11~1]
configure: false
memory: 256M
timeout: 1m30s
jobs: 4
after: //x
like: [a, ":b"]"""
    target = load(one(body), dockerfile=None).targets["image"]
    assert target.rule == "system"
    assert target.texts("packages") == ("ca-certificates", "libc6:amd64=2.36-9", "python3=3.11~1")
    assert target.flag("configure") is False
    assert target.number("memory") == 256 * 1024**2
    assert target.number("timeout") == 90 * 10**9
    assert target.number("jobs") == 4
    assert [str(label) for label, _ in references(target)] == [
        "//x:image",
        "//app:a",
        "//app:b",
    ]
    plain = load(one("rule: system\npackages: []"), dockerfile=None).targets["image"]
    assert plain.flag("configure") is True
    assert plain.number("memory") is None
    assert plain.texts("like") == ()
    with pytest.raises(TypeError):
        plain.text("configure")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("256M", 256 * 1024**2),
        ("256MB", 256 * 1024**2),
        ("256 MiB", 256 * 1024**2),
        ("1.5g", 3 * 512 * 1024**2),
        ("2TiB", 2 * 1024**4),
        ("7b", 7),
    ],
)
def test_sizes(load: Load, text: str, size: int) -> None:
    body = f"rule: system\npackages: []\nmemory: {text}"
    assert load(one(body), dockerfile=None).targets["image"].number("memory") == size


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("0", 0), ("500ms", 500_000_000), ("1.5h", 5_400 * 10**9), ("2m1us", 120 * 10**9 + 1000)],
)
def test_durations(load: Load, text: str, nanoseconds: int) -> None:
    body = f"rule: system\npackages: []\ntimeout: {text}"
    assert load(one(body), dockerfile=None).targets["image"].number("timeout") == nanoseconds


def test_what_the_root_file_says(load: Load) -> None:
    header = load(
        "workspace: {name: shop, vars: {PY: 3.10}, registry: registry.example.com/shop}",
        package="",
    ).header
    assert (header.name, dict(header.vars)) == ("shop", {"PY": "3.10"})
    assert header.registry == "registry.example.com/shop"
    empty = load("workspace:\n", package="").header
    assert (empty.name, dict(empty.vars), empty.registry) == (None, {}, None)


def test_every_type_has_words() -> None:
    for kind in get_args(schema.Scalar):
        if kind not in (schema.Text, schema.Choice):
            assert kind in wording._WORDS
    assert wording.wanted(schema.Choice(("a", "b"))) == "one of a, b"


def test_mistakes_are_told_in_these_words(load: Load, drawn: Drawn, update_golden: bool) -> None:
    """`mistakes.txt` is for reading too: each Boxfile, and what is said of it."""
    told = []
    for case in MISTAKES.read_text().split("=== ")[1:]:
        name, _, rest = case.partition("\n")
        text = rest.partition("\n---\n")[0]
        with pytest.raises(InputError) as caught:
            load(text + "\n", package="" if text.startswith("workspace") else "app")
        told.append(f"=== {name}\n{text}\n---\n{drawn(caught.value)}\n")
    now = "\n".join(told)
    if update_golden:
        MISTAKES.write_text(now)
    assert MISTAKES.read_text() == now


def test_only_the_root_has_a_workspace(complaints: Complaints) -> None:
    assert complaints("{workspace: {name: x}}") == [
        "1:2-11 [workspace] 'workspace' belongs to the root's Boxfile"
    ]


def test_no_dockerfile(complaints: Complaints) -> None:
    hint = "add one, or say which with 'dockerfile:' or 'dockerfile_inline:'"
    assert complaints("targets:\n  image: {}\n", dockerfile=None) == [
        f"2:3-8 [image] there is no Dockerfile in app/ ({hint})"
    ]
    assert complaints("stage: x\n", dockerfile=None, package="") == [
        f"1:1-6 [stage] there is no Dockerfile in ./ ({hint})"
    ]


def test_long_texts_are_cut_in_messages(complaints: Complaints) -> None:
    (message,) = complaints(one("platforms: " + "a/" * 10_000))
    assert message.endswith(f"platforms: {'a/' * 39}a…' is not a platform such as linux/amd64"[12:])


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"kez{i}: 1\n" for i in range(40_000)),
        "targets:\n" + "".join(f"  t{i}: {{dockerfle: x}}\n" for i in range(15_000)),
        "dockerfile: D\ncontexts: {a: oci-layout://" + "a:" * 400_000 + "/ }",
        "dockerfile: D\nplatforms: " + "a/" * 400_000 + "b c",
        "dockerfile: D\ncontexts: {a: //" + "a/" * 400_000 + "}",
        "dockerfile: D\ndockerfile_inline: |\n" + "  \n" * 300_000,
    ],
    ids=["keys", "targets", "layout", "platform", "label", "block"],
)
def test_hostile_files_end_in_errors_soon(load: Load, text: str) -> None:
    start = time.process_time()
    with pytest.raises(InputError):
        load(text)
    assert time.process_time() - start < 20  # processor time; a second of it here
