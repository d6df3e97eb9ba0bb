"""Go's path.Match, and the patterns with `**`."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.context.glob import (
    BadPattern,
    DeepPattern,
    has_wildcards,
    match,
    unescape,
)

# Go's own table for path.Match (path/match_test.go), as facts, and rows of ours.
MATCHES = [
    ("abc", "abc", True),
    ("*", "abc", True),
    ("*c", "abc", True),
    ("a*", "a", True),
    ("a*", "abc", True),
    ("a*", "ab/c", False),
    ("a*/b", "abc/b", True),
    ("a*/b", "a/c/b", False),
    ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
    ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
    ("a*b?c*x", "abxbbxdbxebxczzx", True),
    ("a*b?c*x", "abxbbxdbxebxczzy", False),
    ("ab[c]", "abc", True),
    ("ab[b-d]", "abc", True),
    ("ab[e-g]", "abc", False),
    ("ab[^c]", "abc", False),
    ("ab[^b-d]", "abc", False),
    ("ab[^e-g]", "abc", True),
    (r"a\*b", "a*b", True),
    (r"a\*b", "ab", False),
    ("a?b", "a☺b", True),
    ("a[^a]b", "a☺b", True),
    ("a???b", "a☺b", False),
    ("a[^a][^a][^a]b", "a☺b", False),
    ("[a-ζ]*", "α", True),
    ("*[a-ζ]", "A", False),
    ("a?b", "a/b", False),
    ("a*b", "a/b", False),
    (r"[\]a]", "]", True),
    (r"[\-]", "-", True),
    (r"[x\-]", "x", True),
    (r"[x\-]", "-", True),
    (r"[x\-]", "z", False),
    (r"[\-x]", "x", True),
    (r"[\-x]", "-", True),
    (r"[\-x]", "a", False),
    ("*x", "xxx", True),
    ("[[]x", "[x", True),
    ("a[^b]c", "a/c", False),
    ("**", "ab", True),
    ("**", "a/b", False),
    ("a/*/c", "a/b/c", True),
    ("a/*/c", "a/c", False),
    ("?", "\udcff", True),
    ("[!a]", "!", True),
    ("", "", True),
    ("a", "", False),
    ("*.*", "a.b.c", True),
    ("*", "", True),
    ("?*", "", False),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), MATCHES)
def test_match(pattern: str, path: str, expected: bool) -> None:
    assert match(pattern, path) is expected


@pytest.mark.parametrize(
    "pattern",
    ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a[b", "\\", "a\\", "[\\"],
)
def test_malformed(pattern: str) -> None:
    for path in ("a", "ab", "zzz"):
        with pytest.raises(BadPattern):
            match(pattern, path)
    with pytest.raises(BadPattern):
        DeepPattern.read(pattern)


def test_a_range_the_wrong_way_round_is_malformed() -> None:
    with pytest.raises(BadPattern, match="wrong way round"):
        match("[z-a]", "b")


DEEP = [
    ("**", "a", True),
    ("**", "a/b/c", True),
    ("**/a", "a", True),
    ("**/a", "x/y/a", True),
    ("**/a", "x/ya", False),
    ("a/**", "a", False),
    ("a/**", "a/b", True),
    ("a/**", "a/b/c", True),
    ("a/**", "ab/c", False),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b", True),
    ("a/**/b", "a/xb", False),
    ("a/**/**/b", "a/b", True),
    ("**/**", "a", True),
    ("*/**", "a", False),
    ("*/**", "a/b", True),
    ("**/*.go", "a.go", True),
    ("**/*.go", "x/y/a.go", True),
    ("**/*.go", "x/a.go/b", False),
    ("a/**/*", "a/b", True),
    ("a/**/*", "a", False),
    ("**/a/**/b/**", "x/a/y/b/z", True),
    ("**/a/**/b/**", "a/b/z", True),
    ("**/a/**/b/**", "a/b", False),
    # glued: as moby's patternmatcher reads them
    ("**a", "a", True),
    ("**a", "xa", True),
    ("**a", "x/ya", True),
    ("**a/b", "x/ya/b", True),
    ("a**", "a", True),
    ("a**", "ab", True),
    ("a**", "ab/c", True),
    ("a**", "x/a", False),
    ("a**b", "ab", True),
    ("a**b", "a/b", True),
    ("a**b", "ax/y/b", True),
    ("a**b", "axb", False),
    ("a**/b", "ab", True),
    ("**a*", "x/ab", True),
    ("**a*", "xab", False),
    ("**a**", "x/ab/c", True),
    ("**a?c", "x/abc", True),
    ("a**[bc]", "a/c", True),
    ("***", "a", True),
    ("***", "a/b", True),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), DEEP)
def test_deep(pattern: str, path: str, expected: bool) -> None:
    assert DeepPattern.read(pattern).matches(path) is expected


@pytest.mark.parametrize(
    ("pattern", "directory", "expected"),
    [
        ("a/b", "a", True),
        ("a/b", "a/b", False),
        ("a/b", "b", False),
        ("a/*/c", "a/x", True),
        ("a/*/c", "x", False),
        ("**/c", "x/y", True),
        ("a/**", "a", True),
        ("a/**", "b", False),
        ("a/**", "a/b/c", True),
        ("a**b", "x", True),
        ("x/y", "", True),
    ],
)
def test_may_match_below(pattern: str, directory: str, expected: bool) -> None:
    assert DeepPattern.read(pattern).may_match_below(directory) is expected


# --- against a reference that is slow and plainly right ------------------------------------------


def naive_name(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(naive_name(pattern[1:], name[at:]) for at in range(len(name) + 1))
    if not name:
        return False
    return (pattern[0] == "?" or pattern[0] == name[0]) and naive_name(pattern[1:], name[1:])


def naive_deep(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return any(naive_deep(pattern[1:], path[at:]) for at in range(len(path) + 1))
    return bool(path) and naive_name(pattern[0], path[0]) and naive_deep(pattern[1:], path[1:])


NAME = st.text("ab", min_size=1, max_size=4)
GLOB = st.text("ab*?", min_size=1, max_size=5).filter(lambda text: "**" not in text)


@given(
    st.lists(st.one_of(GLOB, st.just("**")), min_size=1, max_size=5),
    st.lists(NAME, min_size=1, max_size=5),
)
def test_deep_against_the_reference(pattern: list[str], path: list[str]) -> None:
    read = DeepPattern.read("/".join(pattern))
    assert read.matches("/".join(path)) is naive_deep(pattern, path)


@given(
    st.lists(st.one_of(GLOB, st.just("**")), min_size=1, max_size=5),
    st.lists(NAME, min_size=2, max_size=5),
)
def test_nothing_that_matches_below_is_denied(pattern: list[str], path: list[str]) -> None:
    read = DeepPattern.read("/".join(pattern))
    if read.matches("/".join(path)):
        for count in range(1, len(path)):
            assert read.may_match_below("/".join(path[:count]))


@given(st.text("ab*?[]^-\\/", max_size=12), st.text("ab/*[", max_size=8))
def test_any_pattern_is_read_or_malformed(pattern: str, path: str) -> None:
    for read in (
        lambda: match(pattern, path),
        lambda: DeepPattern.read(pattern or "x").matches(path),
    ):
        try:
            assert read() in (True, False)
        except BadPattern:
            pass


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/".join(["**/a"] * 40), "a" * 4000),
        ("/".join(["**/a"] * 40), "/".join("a" * 2000) + "/b"),
        ("*a" * 40 + "b", "a" * 4000),
        ("**a" * 40 + "b", "a" * 4000),
        ("?*" * 40 + "b", "a" * 4000),
        ("a**" * 40 + "/b", "/".join("a" * 2000)),
    ],
)
def test_no_pattern_takes_long(pattern: str, path: str) -> None:
    began = time.process_time()
    assert not DeepPattern.read(pattern).matches(path)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("text", "wild", "plain"),
    [
        ("a", False, "a"),
        ("a*", True, ""),
        (r"a\*", False, "a*"),
        (r"\\*", True, ""),
        ("a[", True, ""),
    ],
)
def test_wildcards(text: str, wild: bool, plain: str) -> None:
    assert has_wildcards(text) is wild
    if not wild:
        assert unescape(text) == plain
