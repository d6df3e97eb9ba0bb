"""Compose files come to builds; a drafted Boxfile reads back as what it was written from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.boxfile import loader, schema, yaml
from buildgraph.boxfile.compose_import import read_builds
from buildgraph.boxfile.draft import Draft, DraftTarget, write_boxfile
from buildgraph.boxfile.imported import Imported, draft_of, plain
from buildgraph.boxfile.target import DockerfileAt, image_target
from buildgraph.errors import InputError

COMPOSE = """
secrets:
  token: {environment: TOK}
  file: {file: ./s.txt}
services:
  base: {build: ./base}
  app:
    image: acme/app:${TAG:-dev}
    platform: linux/amd64
    build:
      context: app
      dockerfile: docker/Dockerfile
      target: prod
      args: {A: 1, B: "${B:?wanted}", C: }
      additional_contexts: {base: "service:base", files: ./files}
      secrets: [token, {source: file, target: f}]
      labels: [x=y]
      tags: ["acme/app:more"]
      network: host
      ssh: [default]
      x-bake: {tags: [acme/app:baked], no-cache: true}
  db: {image: postgres}
"""


def test_services_that_are_built() -> None:
    found = read_builds(COMPOSE, "compose.yaml", "B='two'\n")
    assert found.images == {"db": "postgres"}
    base, app = found.builds
    assert base == Imported("base", context="./base")
    assert app.tags == ["acme/app:dev", "acme/app:more", "acme/app:baked"]
    assert app.args == {"A": "1", "B": "two"}
    assert app.contexts == {"base": "target:base", "files": "./files"}
    assert app.secrets == [{"id": "token", "env": "TOK"}, {"id": "f", "src": "./s.txt"}]
    assert (app.stage, app.network, app.labels) == ("prod", "host", {"x": "y"})
    assert [note.partition(" (")[0] for note in app.notes] == [
        "not carried over: argument C",
        "not carried over: ssh, line 20",
        "not carried over: no_cache, line 21",
    ]
    text = write_boxfile(draft_of(found.builds, {}, here="/r", out="/r"))
    package = loader.load(text, "", schema.BUILT_IN)
    target = image_target(package.targets["app"])
    assert target.context == "app"
    assert target.dockerfile == DockerfileAt("app/docker/Dockerfile", target.dockerfile.where)
    assert [(c.name, str(c.ref)) for c in target.contexts] == [
        ("base", "LabelContext(label=Label(package='', name='base'))"),
        ("files", "DirContext(path='files')"),
    ]


@pytest.mark.parametrize(
    "text", ["", "a: 1", "services: 1", "services: {a: 1}", "services: {a: {build: [x]}}"]
)
def test_what_is_no_compose_file(text: str) -> None:
    with pytest.raises(InputError):
        read_builds(text, "compose.yaml")


def test_paths_seen_from_another_directory() -> None:
    build = Imported("a", context="../x", dockerfile="D", contexts={"n": "y"})
    text = write_boxfile(draft_of([build], {"a": ["a"], "g": ["a", "none"]}, here="/r/c", out="/r"))
    assert "context: x" in text
    assert "dockerfile: x/D" in text
    assert '"n": c/y' in text
    assert "a-all:" in text
    assert 'targets: [":a"]' in text
    assert "the member 'none'" in text


TEXTS = st.text(max_size=30) | st.sampled_from(
    [
        "",
        "null",
        "~",
        "yes",
        "3.10",
        "- x",
        "a: b",
        "#x",
        "{{ x }}",
        "a\nb\n",
        " a\n",
        "\ud800",
        "'",
        "*a",
        "&a",
        "!x",
        "@",
        "a #b",
        "|",
        "x:",
        "\x85",
        "\ufeff",
    ]
)


@given(st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), TEXTS, max_size=4), TEXTS)
def test_every_text_reads_back(args: dict[str, str], label: str) -> None:
    target = DraftTarget("t", {"args": dict(args), "labels": {"k": label}}, [label])
    text = write_boxfile(Draft([target], "w", notes=["note\nof two"]))
    errors: list[InputError] = []
    root = yaml.compose(text, "Boxfile.yaml", errors)
    if "\ud800" in text or any(
        0xD800 <= ord(c) < 0xE000 for v in (*args.values(), label) for c in v
    ):
        return  # no text of a file: YAML has no way to say it
    assert not errors, text
    assert isinstance(root, yaml.Mapping)

    def value(node: yaml.Node) -> object:
        if isinstance(node, yaml.Mapping):
            return {e.key.text: value(e.value) for e in node.entries}
        return node.text if isinstance(node, yaml.Scalar) else [value(i) for i in node.items]

    assert value(root)["targets"]["t"] == {  # type: ignore[index]
        **({"args": args} if args else {"args": {}}),
        "labels": {"k": label},
    }


def test_braces_of_templates_mean_themselves() -> None:
    assert plain("a {{ b }} {% c") == 'a {{ "{{" }} b }} {{ "{%" }} c'
