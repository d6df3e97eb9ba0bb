"""Knows what a well laid out Boxfile looks like, and that laying one out changes nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.boxfile import yaml
from buildgraph.boxfile.format import _meaning, format_boxfile
from buildgraph.errors import InputError

ROOT = Path(__file__).resolve().parents[3]

UNTIDY = """

# top
workspace:  {  name :  shop,   vars: { A: 'b',B: "c" } }   # trailing
targets:
    # about image
    image:
        contexts: {base: ':base'}\t
        tags:
        - 'a:1'
        -   b:2
        # not yet: - c:3
        args:
            A: 'it''s'
            # inside
            B: |
                one
                  two

                three
            C: "x
              y"
            # the last of args
        secrets:
          - id: a
            env: B
          -
            id: c
            src: d



    smoke: &x
      rule: smoke
      checks: [
        {a: b},
          # c
        {c: d}
      ]
    y: *x
# end

"""
TIDY = """\
# top
workspace: {name: shop, vars: {A: "b", B: "c"}}   # trailing
targets:
  # about image
  image:
    contexts: {base: ":base"}
    tags:
      - "a:1"
      - b:2
    # not yet: - c:3
    args:
      A: 'it''s'
      # inside
      B: |
        one
          two

        three
      C: "x
        y"
      # the last of args
    secrets:
      - id: a
        env: B
      -
        id: c
        src: d

  smoke: &x
    rule: smoke
    checks: [
      {a: b},
        # c
      {c: d}
    ]
  y: *x
# end
"""


def test_what_it_looks_like() -> None:
    assert format_boxfile(UNTIDY) == TIDY
    assert format_boxfile(TIDY) == TIDY


@pytest.mark.parametrize(
    ("text", "laid_out"),
    [
        ("", ""),
        ("\n\n", ""),
        ("a: b", "a: b\n"),
        ("a:   b   # c  \r\nd: 1\r\n", "a: b   # c\nd: 1\n"),
        ("a: [ b , c,d ]\n", "a: [b, c, d]\n"),
        ("a: 'x\\y'\nb: '\"'\n", "a: 'x\\y'\nb: '\"'\n"),
        ("a: {b: c,\n    d: e}\n", "a: {b: c,\n    d: e}\n"),
        ("a:\n    b: >-\n        folded\n        text\n", "a:\n  b: >-\n    folded\n    text\n"),
        ("a: |2\n   x\n", "a: |2\n   x\n"),
        ("a: |+\n  x\n\n\nb: 1\n", "a: |+\n  x\n\n\nb: 1\n"),
        ("a:\n\n\n\n    b: 1\n", "a:\n\n  b: 1\n"),
        ("a: &x {b: 1}\nc : *x\n", "a: &x {b: 1}\nc: *x\n"),
        ("- a\n-   b: 1\n    c: 2\n", "- a\n- b: 1\n  c: 2\n"),
    ],
)
def test_small_texts(text: str, laid_out: str) -> None:
    assert format_boxfile(text) == laid_out


def test_what_is_no_yaml_is_told() -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        format_boxfile("a: [b")
    with pytest.raises(InputError, match="there twice"):
        format_boxfile("a: 1\na: 2\n")


def test_the_boxfiles_of_this_repository_are_laid_out() -> None:
    for path in [*ROOT.glob("Boxfile.yaml"), *ROOT.glob("examples/**/Boxfile.yaml")]:
        assert format_boxfile(path.read_text()) == path.read_text(), path


SCALARS = st.one_of(
    st.text(alphabet="ab:#'\"{}[],&*!|>%@` -?\\.0\n", max_size=12), st.integers(), st.booleans()
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(alphabet="abc -:#", min_size=1, max_size=5), inner, max_size=3),
    ),
    max_leaves=12,
)


@given(TREES, st.integers(2, 7), st.sampled_from([True, False, None]), st.integers(10, 80))
def test_meaning_stays(tree: object, indent: int, flow: bool | None, width: int) -> None:
    text = pyyaml.safe_dump(tree, indent=indent, default_flow_style=flow, width=width)
    _holds(text)


@given(st.lists(st.sampled_from([
    "a:", "  b: c", "    d: 'e'", "- f", "  - g: h", "    i: |", "      j", "        k", "", "  ",
    "# l", "   # m", "  n: {o: p,", "     q: r}", "s: [t , 'u']", "  v: \"w", "      x\"", "    y: >-",
    "  z:", "      - 1", "\t", "  - - 2", "? 3", ": 4", "  &A aa: *A", "---", "  'b b' : 5 # c",
]), max_size=9))  # fmt: skip
def test_any_lines_keep_their_meaning(lines: list[str]) -> None:
    _holds("\n".join(lines))


def _holds(text: str) -> None:
    errors: list[InputError] = []
    before = yaml.compose(text, "B", errors)
    if errors:
        with pytest.raises(InputError):
            format_boxfile(text)
        return
    out = format_boxfile(text)
    assert _meaning(yaml.compose(out, "B", errors)) == _meaning(before)
    assert not errors
    assert format_boxfile(out) == out
    assert re.findall("# [lmc]", out) == re.findall("# [lmc]", text)
