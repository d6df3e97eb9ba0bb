"""`.dockerignore`: the meaning of every kind of line, and its cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph import limits
from buildgraph.context.glob import DeepPattern
from buildgraph.context.ignore import IgnoreRules, clean_pattern
from buildgraph.errors import InputError, InputErrors

# lines (by ";"), path, left out?
TABLE = [
    # names
    ("a", "a", True),
    ("a", "b", False),
    ("a", "a/x/y", True),
    ("a", "x/a", False),
    ("a/b", "a/b", True),
    ("a/b", "a", False),
    ("a/b", "a/bc", False),
    ("/a", "a", True),
    ("/a/b", "a/b/c", True),
    ("a/", "a", True),
    ("a/", "a/x", True),
    ("./a", "a", True),
    ("a//b", "a/b", True),
    ("a/./b", "a/b", True),
    ("a/../b", "b", True),
    ("a/../b", "a/b", False),
    ("../a", "a", False),
    ("..", "a", False),
    (".", "a", False),
    ("/", "a", False),
    ("//a", "a", True),
    ("A", "a", False),
    # blanks, comments, byte order mark
    ("  a  ", "a", True),
    ("\ta", "a", True),
    ("a\r", "a", True),
    ("#a", "#a", False),
    ("# a;b", "b", True),
    (" #a", "#a", True),
    ("\\#a", "#a", True),
    ("", "a", False),
    ("\ufeffa", "a", True),
    ("\ufeff#a", "#a", False),
    ("a b", "a b", True),
    # wildcards
    ("*", "a", True),
    ("*", "a/b", True),
    ("*.md", "a.md", True),
    ("*.md", "x/a.md", False),
    ("*.md", "a.md/x", True),
    ("*/*.md", "x/a.md", True),
    ("*/*.md", "a.md", False),
    ("*/temp*", "some/temporary.txt", True),
    ("*/*/temp*", "some/sub/temporary.txt", True),
    ("temp?", "tempa", True),
    ("temp?", "temp", False),
    ("temp?", "temp/", False),
    ("a?b", "a/b", False),
    ("[ab]", "a", True),
    ("[^ab]", "c", True),
    ("[^ab]", "a", False),
    ("[a-c]x", "bx", True),
    ("a[^x]b", "a/b", False),
    (r"a\*", "a*", True),
    (r"a\*", "ab", False),
    (r"\!a", "!a", True),
    (r"\[a]", "[a]", True),
    # **
    ("**", "a", True),
    ("**", "a/b/c", True),
    ("**/a", "a", True),
    ("**/a", "x/y/a", True),
    ("**/a", "x/a/y", True),
    ("**/a", "x/ab", False),
    ("**/*.go", "x/y/z.go", True),
    ("**/*.go", "z.go", True),
    ("a/**", "a", False),
    ("a/**", "a/b/c", True),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b/z", True),
    ("a/**/b", "b", False),
    ("a**", "ab/c", True),
    ("**a", "x/ya", True),
    ("a**b", "ax/b", True),
    # !
    ("*;!a", "a", False),
    ("*;!a", "a/x", False),
    ("*;!a", "b", True),
    ("!a;*", "a", True),
    ("a;!a/b", "a/b", False),
    ("a;!a/b", "a/c", True),
    ("a;!a/b", "a", True),
    ("a;!a/b;a/b/c", "a/b/c", True),
    ("a;!a/b;a/b/c", "a/b/d", False),
    ("a/b;!a", "a/b", False),
    ("*.md;!README.md", "README.md", False),
    ("*.md;!README*.md;README-secret.md", "README-secret.md", True),
    ("*.md;README-secret.md;!README*.md", "README-secret.md", False),
    ("! a;b", "b", True),
    ("*;! a", "a", False),
    ("*;!/a", "a", False),
    ("*;!a/", "a", False),
    ("*;!./a", "a", False),
    ("**;!**/*.go", "x/y.go", False),
    ("**;!**/*.go", "x/y.c", True),
    ("x;!x/**/keep", "x/1/2/keep", False),
    ("x;!x/**/keep", "x/1/2/drop", True),
    ("*;!*/", "a", False),
    ("*;!**", "a/b", False),
    ("node_modules;!node_modules/keep/**", "node_modules/keep/a", False),
    ("node_modules;!node_modules/keep/**", "node_modules/keep", True),
]


@pytest.mark.parametrize(("lines", "path", "expected"), TABLE)
def test_left_out(lines: str, path: str, expected: bool) -> None:
    rules = IgnoreRules.parse(lines.replace(";", "\n"))
    assert rules.excludes(path) is expected
    again = IgnoreRules(rules.patterns)  # cleaned patterns mean the same
    assert again.excludes(path) is expected


@pytest.mark.parametrize(
    ("lines", "directory", "expected"),
    [
        ("a", "a", False),
        ("a;!b", "a", False),
        ("a;!a/b", "a", True),
        ("a;!a/b/c", "a/b", True),
        ("a;!a/b/c", "a/x", False),
        ("!a/b;a", "a", False),  # the later line wins, nothing can come back
        ("a;!**/keep", "a/x/y", True),
        ("*;!src/*.c", "src", True),
        ("*;!src/*.c", "doc", False),
    ],
)
def test_may_reinclude_below(lines: str, directory: str, expected: bool) -> None:
    rules = IgnoreRules.parse(lines.replace(";", "\n"))
    assert rules.may_reinclude_below(directory) is expected


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ("a\n!\n", 2, "needs a pattern"),
        ("!  ", 1, "needs a pattern"),
        ("a\nb[", 2, "malformed pattern 'b['"),
        ("[]a]", 1, "malformed"),
        ("a\\", 1, "backslash"),
        ("![z-a]", 1, "wrong way round"),
    ],
)
def test_bad_lines(lines: str, line: int, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("[", r"\[")) as caught:
        IgnoreRules.parse(lines, "app/.dockerignore")
    assert caught.value.where is not None
    assert caught.value.where.path == "app/.dockerignore"
    assert caught.value.where.line == line
    assert caught.value.hint


def test_all_bad_lines_are_told_at_once() -> None:
    with pytest.raises(InputErrors) as caught:
        IgnoreRules.parse("!\nok\n[\n")
    assert [e.where.line for e in caught.value.errors if e.where] == [1, 3]


def test_the_number_of_patterns_is_capped() -> None:
    IgnoreRules(str(n) for n in range(limits.IGNORE_PATTERNS))
    with pytest.raises(InputError, match="more than the 10000 allowed"):
        IgnoreRules.parse("\n".join(str(n) for n in range(limits.IGNORE_PATTERNS + 1)))


def test_the_pattern_that_decides_is_named() -> None:
    rules = IgnoreRules.parse("*.md\nsecret\n!a.md")
    assert rules.excluded_by("b.md") == "*.md"
    assert rules.excluded_by("secret/x") == "secret"
    assert rules.excluded_by("a.md") is None
    assert rules.excluded_by("other") is None


def test_the_root_is_never_left_out() -> None:
    assert not IgnoreRules.parse("**\n*\n.").excludes("")


def test_a_path_of_two_thousand_components_is_answered() -> None:
    assert IgnoreRules(["**/x"]).excludes("/".join(["a"] * 2000 + ["x"]))


# --- against a reference: moby's own loop, with every rule asked ---------------------------------

PART = st.sampled_from(["a", "b", "*", "a*", "?", "**", "[ab]"])
LINE = st.tuples(st.booleans(), st.lists(PART, min_size=1, max_size=3)).map(
    lambda pair: ("!" if pair[0] else "") + "/".join(pair[1])
)
PATH = st.lists(st.sampled_from(["a", "b", "c", "ab"]), min_size=1, max_size=4)


def reference(lines: list[str], parts: list[str]) -> bool:
    left_out = False
    paths = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    for line in lines:
        back = line.startswith("!")
        if back == left_out and any(DeepPattern.read(line[back:]).matches(p) for p in paths):
            left_out = not back
    return left_out


@given(st.lists(LINE, max_size=6), PATH)
def test_rules_against_the_reference(lines: list[str], parts: list[str]) -> None:
    rules = IgnoreRules.parse("\n".join(lines))
    path = "/".join(parts)
    assert rules.excludes(path) is reference(lines, parts)
    if not rules.excludes(path):  # then nobody may have pruned a directory above it
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            assert not rules.excludes(above) or rules.may_reinclude_below(above)


@given(st.text("ab!#*/. \\", max_size=12))
def test_cleaning_twice_changes_nothing(line: str) -> None:
    if line.strip():
        once = clean_pattern(line)
        # `/!a` is `!a` once the slash is gone, and then brings back: moby reads it so
        if once not in ("", "!") and once[0] != "!":
            assert clean_pattern(once) == once


# --- cost (A09) ----------------------------------------------------------------------------------


def test_ten_thousand_files_against_twenty_patterns_are_cheap() -> None:
    patterns = [
        *("**/node_modules", "**/*.pyc", ".git", "dist", "*.log", "docs/*.md", "a/**/b"),
        *(f"x{n}/*.y" for n in range(8)),
        *("!keep/*.log", "tmp*", "**/.cache", "**/*.swp", "build/**"),
    ]
    rules = IgnoreRules(patterns)
    paths = [f"d{n // 500}/s{n // 100}/f{n}.txt" for n in range(10_000)]
    began = time.process_time()
    assert not any(rules.excludes(path) for path in paths)
    assert time.process_time() - began < 5  # processor time; 0.02 s of it here


def test_ten_thousand_literal_lines_cost_a_look_up() -> None:
    rules = IgnoreRules(f"dir{n}/file{n}" for n in range(10_000))
    began = time.process_time()
    assert rules.excludes("dir7/file7/x")
    assert not any(rules.excludes(f"dir{n}/other") for n in range(10_000))
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("/".join(["**/a"] * 40), "a" * 4000),
        ("**/" + "*a" * 40 + "b", "a" * 4000),
        ("**a" * 40 + "b", "a" * 4000),
    ],
)
def test_no_line_takes_long(line: str, path: str) -> None:
    began = time.process_time()
    assert not IgnoreRules.parse(line).excludes(path)
    assert time.process_time() - began < 20
