"""The language that is built in is recognised, and another one is named."""

from __future__ import annotations

import pytest

from buildgraph.dockerfile.checks_findings import own_options, unknown_rules
from buildgraph.dockerfile.directives import CheckOptions, check_frontend, is_built_in
from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError

OURS = """docker/dockerfile docker/dockerfile:1 docker/dockerfile:1.20 docker/dockerfile:1-labs
docker/dockerfile:labs docker/dockerfile:1.7-labs docker/dockerfile:latest
docker/dockerfile:experimental docker/dockerfile:1.0-experimental docker/dockerfile-upstream:master
docker.io/docker/dockerfile:1 docker.io/docker/dockerfile-upstream:1.4
mirror.example.com:5000/docker/dockerfile:1 docker/dockerfile:1@sha256:0123
docker/dockerfile@sha256:0123""".split()
OTHERS = """docker/dockerfile:2 docker/dockerfile:10 earthly/buildkit example.com/front:1
docker/dockerfiles:1 notdocker/dockerfile:1 dockerfile:1 example.com/docker/dockerfile-x""".split()


@pytest.mark.parametrize("name", OURS)
def test_our_language(name: str) -> None:
    assert is_built_in(name)
    file = parse(f"# syntax={name}\nFROM scratch\n", "Dockerfile")
    check_frontend(file.directives, "Dockerfile")


@pytest.mark.parametrize("name", OTHERS)
def test_another_frontend_is_named(name: str) -> None:
    assert not is_built_in(name)
    file = parse(f"# escape=\\\n#syntax = {name} --opt\nFROM scratch\n", "Dockerfile")
    with pytest.raises(InputError, match="not fetched") as caught:
        check_frontend(file.directives, "Dockerfile")
    assert repr(name) in caught.value.message
    assert caught.value.where is not None
    assert caught.value.where.line == 2


def test_build_argument_beats_the_line() -> None:
    file = parse("# syntax=example.com/x\nFROM scratch\n", "Dockerfile")
    check_frontend(file.directives, "Dockerfile", "docker/dockerfile:1 --option")
    file = parse("# syntax=docker/dockerfile:1\nFROM scratch\n", "Dockerfile")
    with pytest.raises(InputError, match="example.com/x"):
        check_frontend(file.directives, "Dockerfile", "example.com/x")


def test_a_line_below_a_shebang_counts() -> None:
    file = parse("#!/usr/bin/env x\n# syntax=example.com/x\nFROM scratch\n", "Dockerfile")
    assert file.directives.syntax == "example.com/x"
    with pytest.raises(InputError, match="example.com/x"):
        check_frontend(file.directives, "Dockerfile")
    # but other directives there are comments, as upstream has it
    file = parse("#!/usr/bin/env x\n# escape=`\nFROM scratch\n", "Dockerfile")
    assert file.directives.escape == "\\"


@pytest.mark.parametrize("text", ["//syntax=example.com/x\n{}", '{"syntax": "example.com/x"}'])
def test_other_forms_are_no_dockerfiles(text: str) -> None:
    with pytest.raises(InputError, match="example.com/x"):
        parse(text, "Dockerfile")


def test_a_build_argument_replaces_check_options() -> None:
    file = parse("# check=skip=all;error=true\nFROM scratch\n", "Dockerfile")
    assert own_options(file) == CheckOptions(skip_all=True, error=True)
    name = "BUILDKIT_DOCKERFILE_CHECK"
    assert own_options(file, {name: ""}) == CheckOptions()
    assert own_options(file, {name: "skip=A"}) == CheckOptions(skip=frozenset({"A"}))
    with pytest.raises(InputError) as caught:
        own_options(file, {name: "skop=A"})
    assert "BUILDKIT_DOCKERFILE_CHECK" in str(caught.value)


def test_rules_that_do_not_exist_are_named() -> None:
    text = (
        "# check=skip=UndefinedVr,UndefinedVar\nFROM scratch\n"
        "# check=skip=all\nUSER a\n# check=skip=Nonsense;experimental=Undefined\nUSER b\n"
    )
    file = parse(text, "Dockerfile")
    found = unknown_rules(file, own_options(file), {"UndefinedVar", "UnknownRule"})
    assert [(one.where.line, one.message) for one in found] == [
        (1, "There is no rule 'UndefinedVr' to skip or to ask for (did you mean UndefinedVar?)"),
        (6, "There is no rule 'Nonsense' to skip or to ask for"),
        (6, "There is no rule 'Undefined' to skip or to ask for (did you mean UndefinedVar?)"),
    ]
    assert found[0].where.column == 14
