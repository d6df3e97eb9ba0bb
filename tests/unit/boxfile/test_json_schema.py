"""Knows that the JSON Schema says what the loader says, as far as a schema can."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildgraph.boxfile import loader, schema
from buildgraph.boxfile.json_schema import boxfile_schema
from buildgraph.boxfile.rendering import Surroundings
from buildgraph.boxfile.smoke_schema import SMOKE
from buildgraph.boxfile.workspace import Workspace
from buildgraph.errors import InputError

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).resolve().parents[3]

GOOD = [
    "",
    "targets:\n",
    "stage: x",
    "x-mine: {a: 1}\nstage: 3.10",
    "workspace: {name: shop, vars: {PY: 3.12}, env: HOME, registries: {r.example.com: {mirrors: m}}}",
    "workspace:\ntargets: {image: , b: {extends: image, rule: image}}",
    "package: {visibility: [private], defaults: {image: {network: none}, group: {targets: [a]}}}",
    "targets: {g: {rule: group, targets: [':a', '//...']}, a: {}}",
    "targets: {a: {rule: system, packages: [xz], jobs: 3, memory: 256M, timeout: 1m30s}}",
    "targets: {a: {rule: system, packages: [xz], jobs: '{{ 1 + 1 }}', configure: '{{ 1 < 2 }}'}}",
    "targets: {a: {matrix: {py: ['3.12', 3.13]}, exclude: [{py: 3.13}], args: {P: '{{ matrix.py }}'}}}",
    "targets: {a: {rule: system, packages: [xz]}, b: {extends: a}, c: {extends: [':a'], jobs: 2}}",
    "targets: {a: {rule: system, packages: [xz]}, b: {extends: a, rule: system}}",
    "secrets: [{id: a, env: B}, {id: c, src: d}]\nplatforms: linux/amd64\ntags: ['a:{{ 1 }}']",
    "network: '{{ \"none\" }}'\nargs: {A: true, B: 1, C: 'x'}\nsrcs: src\nignore: []",
    "dockerfile_inline: |\n  FROM scratch\n",
]
BAD = [
    "[]",
    "text",
    "stagee: x",
    "targets: []",
    "targets: {a: text}",
    "targets: {a b: {}}",
    "targets: {a: {stagee: x}}",
    "targets: {}\nstage: x",
    "workspace: {nmae: x}",
    "workspace: {name: a b}",
    "workspace: {vars: {1x: y}}",
    "workspace: {registries: {r: {insecure: maybe}}}",
    "package: {defaults: {image: {packages: [xz]}}}",
    "package: {defaults: {none: {}}}",
    "package: {visible: public}",
    "targets: {g: {rule: group}}",
    "targets: {g: {rule: groop, targets: [a]}}",
    "targets: {g: {rule: group, targets: [a], stage: x}}",
    "network: sometimes",
    "args: [a]",
    "args: {A: [b]}",
    "args: {A-B: c}",
    "tags: {a: b}",
    "platforms: [linux]",
    "secrets: [{id: a}]",
    "secrets: [{id: a, env: B, src: c}]",
    "secrets: [{env: B}]",
    "targets: {a: {rule: system, packages: [xz], jobs: 10}}",
    "targets: {a: {rule: system, packages: [xz], jobs: many}}",
    "targets: {a: {rule: system, packages: [xz], memory: lots}}",
    "targets: {a: {rule: system, packages: [xz], timeout: soon}}",
    "targets: {a: {rule: system, packages: [xz], configure: perhaps}}",
    "targets: {a: {matrix: [x]}}",
    "targets: {a: {matrix: {py: 3}}}",
    "targets: {a: {matrix: {py: ['a b']}}}",
    "targets: {a: {}, b: {extends: {a: b}}}",
]


@pytest.fixture(scope="module")
def validator(request: pytest.FixtureRequest) -> Any:
    rules: Mapping[str, schema.RuleSpec] = {**_rules(), SMOKE.name: SMOKE}
    found = boxfile_schema(rules)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def _rules() -> Mapping[str, schema.RuleSpec]:
    system = schema.RuleSpec(
        "system",
        "A root file system.",
        (
            schema.Attribute("packages", schema.ListOf(schema.PackageName()), "…", required=True),
            schema.Attribute("configure", schema.Bool(), "…", default=True),
            schema.Attribute("memory", schema.Size(), "…"),
            schema.Attribute("timeout", schema.Duration(), "…"),
            schema.Attribute("jobs", schema.Int(1, 9), "…", default=1),
        ),
    )
    return {**schema.BUILT_IN, "system": system}


def _loads(text: str) -> bool:
    around = Surroundings({}, "/nowhere")
    try:
        loader.load(text, "", _rules(), "Dockerfile", around=around)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("text", GOOD)
def test_what_loads_is_valid(validator: Any, text: str) -> None:
    assert _loads(text)
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize("text", BAD)
def test_what_does_not_load_is_invalid(validator: Any, text: str) -> None:
    assert not _loads(text)
    assert not validator.is_valid(yaml.safe_load(text))


def test_the_boxfiles_of_this_repository_are_valid() -> None:
    from buildgraph_rules.registry import rule_specs

    found = boxfile_schema(Workspace.open(str(ROOT), rule_specs()).rules)
    whole = jsonschema.Draft202012Validator(found)
    paths = [*ROOT.glob("Boxfile.yaml"), *ROOT.glob("examples/**/Boxfile.yaml")]
    assert paths
    for path in paths:
        assert [
            error.message for error in whole.iter_errors(yaml.safe_load(path.read_text()))
        ] == []


def test_every_key_has_words() -> None:
    found = boxfile_schema({**_rules(), SMOKE.name: SMOKE})
    for name, rule in found["$defs"].items():
        for key, value in rule["properties"].items():
            assert value["description"], (name, key)
