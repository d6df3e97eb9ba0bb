"""Bake files come to the builds that bake would make, and what we do not understand is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.boxfile.bake import BakeFile, read_bake
from buildgraph.boxfile.hcl import parse_hcl
from buildgraph.boxfile.imported import Imported, draft_of
from buildgraph.errors import BuildgraphError, InputError, InputErrors


def bake(text: str, path: str = "docker-bake.hcl") -> BakeFile:
    return read_bake(text, path)


def one(text: str, name: str = "a") -> Imported:
    return next(build for build in bake(text).builds if build.name == name)


def test_attributes_variables_and_inheritance() -> None:
    found = one(
        """
        # comments of
        // three
        /* kinds */
        variable "TAG" { default = "1.0" }
        variable "NAME" { default = "app:${TAG}" }
        target "base" {
          args = { A = "1", B = null, "C" : true }
          platforms = ["linux/amd64", "linux/arm64"]
          labels = { "x.y" = 3 }
          secret = ["id=s,env=S"]
        }
        target "a" {
          inherits = ["base"]
          context = "dir"
          dockerfile = "D"
          target = "stage"
          args = { A = "2" }
          platforms = ["linux/amd64"]
          secret = [{ id = "t", src = "f" }]
          tags = ["${NAME}", "b", TAG == "1.0" && !false ? "yes" : "no"]
          contexts = { n = "target:base" }
          annotations = ["k=v"]
          network = "none"
          description = "words"
        }
        """
    )
    assert found == Imported(
        "a",
        context="dir",
        dockerfile="D",
        stage="stage",
        args={"A": "2", "C": "true"},
        platforms=["linux/amd64"],
        labels={"x.y": "3"},
        secrets=[{"id": "s", "env": "S"}, {"id": "t", "src": "f"}],
        tags=["app:1.0", "b", "yes"],
        contexts={"n": "target:base"},
        annotations={"k": "v"},
        network="none",
        doc="words",
    )


def test_a_matrix_is_unfolded_and_is_a_group() -> None:
    found = bake(
        """
        group "all" { targets = ["a", "b"] }
        target "a" {
          name = "a-${os.n}-${v}"
          matrix = { os = [{ n = "x", r = ["p"] }, { n = "y", r = ["q"] }], v = [1, 2] }
          args = { R = os.r[0] }
        }
        target "b" {}
        """
    )
    assert [b.name for b in found.builds] == ["a-x-1", "a-x-2", "a-y-1", "a-y-2", "b"]
    assert found.builds[2].args == {"R": "q"}
    assert found.groups["a"] == ["a-x-1", "a-x-2", "a-y-1", "a-y-2"]
    assert found.groups["all"] == ["a-x-1", "a-x-2", "a-y-1", "a-y-2", "b"]


def test_heredocs_and_escapes() -> None:
    found = one(
        'target "a" {\n  dockerfile-inline = <<-EOT\n    FROM x\n      RUN $${y} ${"z"}\n    EOT\n'
        '  args = { A = "\\"q\\" \\u00e9 $${n} %%{p}" }\n}\n'
    )
    assert found.inline == "FROM x\n  RUN ${y} z\n"
    assert found.args == {"A": '"q" é ${n} %{p}'}


def test_what_has_no_place_is_noted() -> None:
    found = one('target "a" {\n cache-from = ["type=gha"]\n output = ["type=docker"]\n}')
    assert found.notes == [
        "not carried over: cache-from = type=gha (steps are found in the store)",
        "not carried over: output = type=docker (-o at the command line)",
    ]


def test_json_is_the_same_language() -> None:
    text = json.dumps(
        {
            "variable": {"TAG": {"default": "9"}},
            "group": {"default": {"targets": ["a"]}},
            "target": {
                "a": {"context": ".", "tags": ["x:${TAG}"], "args": {"N": None, "M": 3, "T": True}}
            },
        }
    )
    found = bake(text, "docker-bake.json")
    assert found.builds[0].tags == ["x:9"]
    assert found.builds[0].args == {"M": "3", "T": "true"}
    assert found.groups == {"default": ["a"]}
    assert "TAG='9'" in found.notes[0]


def test_variables_may_stay_variables() -> None:
    text = """
        variable "TAG" { default = "la'test" }
        variable "FULL" { default = "x:${TAG}" }
        variable "LIST" { default = ["p"] }
        group "default" { targets = ["a"] }
        target "a" {
          tags = ["${FULL}", TAG == "la'test" ? "yes-{{" : "no"]
          platforms = LIST
          context = "d/${TAG}"
          cache-from = [TAG]
        }
    """
    found = read_bake(text, "docker-bake.hcl", keep=True)
    made = draft_of(found.builds, found.groups, here="/r", out="/r", variables=found.variables)
    assert made.variables == {
        "TAG": "{{ env.TAG | default('la\\'test') }}",
        "FULL": "{{ env.FULL | default('x:' ~ vars.TAG) }}",
    }
    assert made.targets[0].fields == {
        "context": "d/{{ vars.TAG }}",
        "dockerfile": "d/{{ vars.TAG }}/Dockerfile",
        "platforms": ["p"],
        "tags": ["{{ vars.FULL }}", 'yes-{{ "{{" }}'],
    }
    assert "cache-from = ${TAG}" in made.targets[0].notes[0]
    assert 'TAG="la\'test"' in found.notes[0]


def test_null_falls_back_to_the_dockerfile() -> None:
    found = read_bake(
        """
        variable "GO" { default = null }
        variable "NONE" {}
        function "dir" {
          params = [x]
          result = x
        }
        target "meta" { tags = ["m"] }
        target "a" {
          inherits = ["meta"]
          args = { GO = GO, N = null, ONE = 1 }
          target = GO
          tags = [GO != null && GO != "" ? "x:${GO}" : "x:local"]
          platforms = NONE == null ? ["local"] : []
          output = [dir("build")]
          contexts = GO != null ? { b = "target:meta" } : null
        }
        """,
        "docker-bake.hcl",
        keep=True,
    )
    (build,) = found.builds
    assert build.args == {"ONE": "1"}
    assert (build.stage, build.tags, build.platforms) == (None, ["x:local"], [])
    assert build.notes == [
        "not carried over: argument GO (where it is set: --build-arg GO)",
        "not carried over: platform local (this machine's is the default)",
        "not carried over: output = … (-o at the command line)",
    ]
    assert "meta is there to be inherited from, and is no target here" in found.notes


MISTAKES = {
    'target "a" {\n  tags = [upper("x")]\n}': ("the function upper() is not understood", 2, 11),
    'target "a" {\n  tags = [for t in x : t]\n}': ("'for' expressions", 2, 11),
    'target "a" {\n  tags = ["${NOPE}"]\n}': ("there is no variable 'NOPE'", 2, 14),
    'target "a" {\n  tag = ["x"]\n}': ("a target has no 'tag'", 2, 3),
    'target "a" {\n  inherits = ["b"]\n}': ("there is no target 'b' to inherit from", 2, 3),
    'target "a" { inherits = ["a"] }': ("inherits from itself", 1, 1),
    'target "a" {\n  context = "x\n}': ("this text has no end", 2, 13),
    'target "a" {\n  context = "x"': ("has no end", 1, 1),
    'target "a" {\n  context = 1 + 2\n}': ("the operator '+'", 2, 15),
    'target "a" {\n  args = { A = "\\q" }\n}': ("no escape sequence", 2, 17),
    'target "a" {\n  x = <<E\n  hm\n': ("nothing ends this text", 2, 7),
    'tarket "a" {}': ("a bake file has no 'tarket'", 1, 1),
    'target "a" { matrix = { x = ["1"] } }': ("a matrix needs 'name'", 1, 14),
    'target "a" {\n name = "n"\n matrix = { x = ["1", "2"] } }': ("names two targets 'n'", 3, 2),
    'variable "A" { default = "${B}" }\nvariable "B" { default = A }\ntarget "a" { context = A }': (
        "A -> B -> A is a circle",
        2,
        26,
    ),
    "%": ("'%'", 1, 1),
    "/* x": ("this comment has no end", 1, 1),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_have_a_place(text: str) -> None:
    message, line, column = MISTAKES[text]
    with pytest.raises(InputError) as caught:
        bake(text)
    assert message in caught.value.message
    assert caught.value.where is not None
    assert (caught.value.where.line, caught.value.where.column) == (line, column)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(InputErrors) as caught:
        bake('target "a" {\n tags = [f()]\n}\ntarget "b" {\n tags = [g()]\n}')
    assert len(caught.value.errors) == 2


@given(st.text(alphabet='abc"${}[]()=,:?!&|<\\\n #/*-.EOT%123 ', max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        parse_hcl(text, "x.hcl")
        read_bake(text, "x.hcl")
    except BuildgraphError as error:
        assert isinstance(error, InputError)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InputError, match="nested deeper"):
        parse_hcl("a = " + "[" * 5000, "x.hcl")
    with pytest.raises(InputError):
        parse_hcl("a = " + "!" * 5000 + "true", "x.hcl")
