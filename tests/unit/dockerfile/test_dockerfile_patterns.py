"""Shell patterns, checked against regular expressions and against hostile sizes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.dockerfile.pattern import (
    PatternTooLong,
    compile_pattern,
    replace,
    strip_prefix,
    strip_suffix,
)

PATTERNS = st.text("ab*?", max_size=6)
VALUES = st.text("abc", max_size=10)


def regex(pattern: str, star: str) -> str:
    return "".join(
        star if character == "*" else "." if character == "?" else character
        for character in pattern
    )


@given(PATTERNS, VALUES, st.booleans())
def test_prefix_is_what_a_regex_says(pattern: str, value: str, longest: bool) -> None:
    match = re.match(regex(pattern, ".*" if longest else ".*?"), value)
    expected = value[match.end() :] if match else value
    assert strip_prefix(compile_pattern(pattern), value, longest=longest) == expected


@given(PATTERNS, VALUES, st.booleans())
def test_suffix_is_the_mirrored_prefix(pattern: str, value: str, longest: bool) -> None:
    mirrored = strip_prefix(compile_pattern(pattern[::-1]), value[::-1], longest=longest)[::-1]
    assert strip_suffix(compile_pattern(pattern), value, longest=longest) == mirrored


@given(PATTERNS, VALUES)
def test_first_replacement_is_what_a_regex_says(pattern: str, value: str) -> None:
    expected = re.sub(regex(pattern, ".*"), "-", value, count=1)
    chunks = compile_pattern(pattern)
    assert replace(chunks, value, "-", everywhere=False, limit=1000) == expected


@given(PATTERNS, VALUES)
def test_replacement_everywhere_is_what_a_regex_says(pattern: str, value: str) -> None:
    # Python would also replace the empty match right behind another match; Go does not.
    expected = ""
    position = last = 0
    for match in re.finditer(regex(pattern, ".*"), value):
        if match.end() == match.start() == last and last > 0:
            continue
        expected += value[position : match.start()] + "-"
        position = last = match.end()
    expected += value[position:]
    chunks = compile_pattern(pattern)
    assert replace(chunks, value, "-", everywhere=True, limit=1000) == expected


@pytest.mark.parametrize("pattern", ["\\", "\\x", "\\\\\\"])
def test_bad_escapes(pattern: str) -> None:
    with pytest.raises(ValueError, match="invalid escape"):
        compile_pattern(pattern)


def test_hostile_patterns_end() -> None:
    value = "a" * 60_000
    for pattern in ("*a" * 2_000 + "b", "?" * 20_000 + "b", "a" * 30_000 + "?b", "*?a" * 500 + "b"):
        chunks = compile_pattern(pattern)
        assert strip_prefix(chunks, value, longest=True) == value
        assert strip_suffix(chunks, value, longest=False) == value
        assert replace(chunks, value, "x", everywhere=True, limit=1 << 20) == value


def test_replacement_does_not_grow_past_the_limit() -> None:
    for pattern in ("a", "?", ""):
        with pytest.raises(PatternTooLong):
            replace(compile_pattern(pattern), "a" * 100, "x" * 100, everywhere=True, limit=5_000)
