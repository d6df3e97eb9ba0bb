"""Regular expressions in linear time: they say what Python's `re` says, and never take long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from buildgraph.graph.query_regex import BadRegex, Regex

_ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", r"\.", "^", "$", "(?:ab)", "c-d"])


def _whole(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    groups = inner.map(lambda text: f"({text})")
    repeated = st.tuples(groups, st.sampled_from(["*", "+", "?", "*?", "{0,2}", "{2}", "{1,}"]))
    return st.one_of(
        groups,
        repeated.map("".join),
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join),
    )


_REGEXES = st.recursive(_ATOMS, _whole, max_leaves=8)


@settings(max_examples=300, deadline=None)
@example("$^", "a")
@example(r"[\t-\r]", "d")
@example(r"[\t-\r]", "\n")
@given(_REGEXES, st.text("abc.-d", max_size=8))
def test_linear_regexes_agree_with_python(pattern: str, text: str) -> None:
    try:
        expected = re.search(pattern.replace("$", r"\Z"), text) is not None
    except re.error:
        return
    assert Regex(pattern).search(text) is expected


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(a|aa)+$", "a*a*a*a*a*a*b", "(.*a){25}"])
def test_no_expression_takes_long(pattern: str) -> None:
    regex = Regex(pattern)
    began = time.process_time()
    regex.search("a" * 2000 + "c")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", "'(' without ')'"),
        ("a)", "')' without '('"),
        ("[a", "'[' without ']'"),
        ("*a", "nothing to repeat"),
        ("a**", "one repetition after another"),
        ("a++", "possessive"),
        (r"(a)\1", "is not known here"),
        ("(?=a)", "look around"),
        ("[z-a]", "is empty"),
        (r"[a-\w]", "is no end of a range"),
        (r"[a-\q]", "is not known here"),
        ("a\\", "a backslash at the end"),
        ("a{3,2}", "counts up"),
        ("((a{1000}){1000}){1000}", "too large"),
        ("a" * 1001, "longer than"),
        ("(" * 200 + ")" * 200, "deeper"),
    ],
)
def test_what_is_no_expression_is_said_in_words(pattern: str, message: str) -> None:
    with pytest.raises(BadRegex, match=re.escape(message)):
        Regex(pattern)
