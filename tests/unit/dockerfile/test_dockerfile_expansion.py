"""Expansion by the builder: section 1.2, with upstream's vectors and the traps of 1.10."""

from __future__ import annotations

import pytest

from buildgraph.dockerfile.expand import (
    expand,
    expand_traced,
    expand_words,
    heredoc_expand,
    referenced,
)
from buildgraph.errors import InputError, Location
from buildgraph.limits import DOCKERFILE_BYTES, EXPANDED_VALUE_BYTES, EXPANSION_DEPTH

HERE = Location("here", 1, 1)
ENV = {
    "PWD": "/home",
    "SHELL": "bash",
    "KOREAN": "한국어",
    "NULL": "",
    "FOO": "xxyy",
    "B": "a b  c",
    "URL": "http://x.y/z",
}


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he\\'llo", "he'llo"),
        ("he\\\\'llo'", "he\\llo"),
        ("abc\\tdef", "abctdef"),
        ("'abc\\tdef'", "abc\\tdef"),
        ('"abc\\tdef"', "abc\\tdef"),
        ('"a\\"b\\$c\\\\d"', 'a"b$c\\d'),
        ("abc\\", "abc"),
        ('""', ""),
        ("$", "$"),
        ("$$PWD", "PWD"),
        ("$.x", "$.x"),
        ("a$ b", "a$ b"),
        ("$PWD", "/home"),
        ("he$PWD.", "he/home."),
        ("'he$PWD'", "he$PWD"),
        ('"he$PWD"', "he/home"),
        ("\\$PWD", "$PWD"),
        ("he${PWD}x", "he/homex"),
        ("he$nothing.", "he."),
        ("$KOREAN", "한국어"),
        ("안녕$KOREAN", "안녕한국어"),
        ("$1x", "x"),
        ("$12x", "x"),
        ("$0 $@ $* $# $? $- $! .", "       ."),
        ("${1}${@}${#}", ""),
        ("a b", "a b"),
        ("$B", "a b  c"),
        # defaults and alternatives
        ("${NULL-d}", ""),
        ("${NULL:-d}", "d"),
        ("${XXX-d}", "d"),
        ("${XXX:-}", ""),
        ("${PWD:-d}", "/home"),
        ("${PWD+alt}", "alt"),
        ("${NULL+alt}", "alt"),
        ("${NULL:+alt}", ""),
        ("${XXX+alt}", ""),
        ("${XXX:-$PWD:}x", "/home:x"),
        ("${XXX:-${YYY:-z$PWD}}", "z/home"),
        ("${XXX:-'a}b'}", "a}b"),
        ('${XXX:-"a}b"}', "a}b"),
        ("${XXX:-a\\}b}", "a}b"),
        ("${PWD:?oops}${NULL?oops}", "/home"),
        # prefixes and suffixes
        ("${FOO#*}", "xxyy"),
        ("${FOO##*}", ""),
        ("${FOO#x}", "xyy"),
        ("${FOO#*x*y}", "y"),
        ("${FOO##*x}", "yy"),
        ("${FOO##*x*y}", ""),
        ("${FOO#?x}", "yy"),
        ("${FOO%y}", "xxy"),
        ("${FOO%y*}", "xxy"),
        ("${FOO%%y*}", "xx"),
        ("${FOO%?}", "xxy"),
        ("${FOO#nope}${FOO%nope}", "xxyyxxyy"),
        ("${FOO#}${FOO##}${FOO%}", "xxyyxxyyxxyy"),
        ("${FOO#[x]}", "xxyy"),
        ("busy${image#idle}", "busy"),
        # replacement
        ("${FOO/x/z}", "zxyy"),
        ("${FOO//x/z}", "zzyy"),
        ("${FOO/x*y/z}", "z"),
        ("${FOO//?/z}", "zzzz"),
        ("${FOO/#x/z}", "xxyy"),
        ("${FOO/x/}", "xyy"),
        ("${FOO///}", "xxyy"),
        ("${XXX//x/y}", ""),
        ("${URL//\\//_}", "http:__x.y_z"),
        ("${URL/:*/!}", "http!"),
        ("${FOO/x/${PWD}}", "/homexyy"),
    ],
)
def test_expand(word: str, result: str) -> None:
    assert expand(word, ENV, where=HERE) == result


@pytest.mark.parametrize(
    ("word", "env", "result"),
    [
        ("${V#()[]{\\}^$.\\*\\?|\\\\}", {"V": "()[]{}^$.*?|\\x"}, "x"),
        ("${V%%\\**}", {"V": "xx**"}, "xx"),
        ("${V%%\\**\\*}", {"V": "a***yy*"}, "a"),
        ("${V#?\\?}", {"V": "???y"}, "?y"),
        ("${V#$P}", {"V": "xxyy", "P": "x"}, "xyy"),
        ("${V%%$P}", {"V": "xxyy", "P": ""}, "xxyy"),
        (
            "${V/$N/.} - ${V//$N/.}",
            {"V": "/foo*/*/*.txt", "N": "\\*/"},
            "/foo.*/*.txt - /foo..*.txt",
        ),
        ("${V/$N/} - ${V//$N/}", {"V": "/tmp/tmp/bar.txt", "N": "/tmp"}, "/tmp/bar.txt - /bar.txt"),
        (
            "${V/$N/$R} - ${V//$N/$R}",
            {"V": "/a/foo/b/c.txt", "N": "/?/", "R": "/"},
            "/foo/b/c.txt - /foo/c.txt",
        ),
        ("${V//\\//\\/}", {"V": "/tmp/foo.txt"}, "\\/tmp\\/foo.txt"),
        ("${V/$N/ww}", {"V": "xxyy", "N": ""}, "wwxxyy"),
        ("${ABC:-.}${V%x}${ABC:-.}", {"V": "xxyy"}, ".xxyy."),
        ("v${V}.tar${T:+-${T}}", {"V": "1", "T": "v7"}, "v1.tar-v7"),
        ("v${V}.tar${T:+-${T}}", {"V": "1"}, "v1.tar"),
        ("busy${image#idle}", {"image": "idlebox"}, "busybox"),
    ],
)
def test_expand_vectors(word: str, env: dict[str, str], result: str) -> None:
    assert expand(word, env, where=HERE) == result


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("'open", "single quote"),
        ('"open', "double quote"),
        ("${PWD", "missing '}'"),
        ("${", "missing '}'"),
        ("${}", "bad substitution"),
        ("${:}", "bad substitution"),
        ("${{x}", "bad substitution"),
        ("${ x}", "bad substitution"),
        ("${x:-a", "missing '}'"),
        ("${x=a}", "unsupported modifier (=)"),
        ("${x:=a}", "unsupported modifier (:=)"),
        ("${x:1:2}", "unsupported modifier (:1)"),
        ("${x:#a}", "unsupported modifier (:#)"),
        ("${x:%a}", "unsupported modifier (:%)"),
        ("${x^}", "unsupported modifier (^)"),
        ("${#x}", "unsupported modifier (x)"),
        ("${x:}", "unsupported modifier (:})"),
        ("${FOO//ww}", "missing '/'"),
        ("${FOO//}", "missing '/'"),
        ("${FOO/a/b", "missing '}'"),
        ("${FOO#\\x}", "invalid escape"),
        ("${FOO/\\x/}", "invalid escape"),
    ],
)
def test_expand_errors(word: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        expand(word, ENV, where=HERE)
    assert message in caught.value.message
    assert caught.value.where == HERE


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ('${Y:?"no y"}', "Y: no y"),
        ("${Y?}", "Y: is not allowed to be unset"),
        ("${NULL:?}", "NULL: is not allowed to be empty"),
        ("${NULL:?no $PWD}", "NULL: no /home"),
    ],
)
def test_required_variables(word: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        expand(word, ENV, where=HERE)
    assert caught.value.message == message


def test_other_escape_token() -> None:
    assert expand("c:\\x`$PWD`` $PWD", ENV, "`", where=HERE) == "c:\\x$PWD` /home"
    assert expand('"a`"b\\$PWD"', ENV, "`", where=HERE) == 'a"b\\/home'


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("hello", ["hello"]),
        ("hello $B", ["hello", "a", "b", "c"]),
        ('hello "$B"', ["hello", "a b  c"]),
        ("x$B", ["xa", "b", "c"]),
        ("${B}x", ["a", "b", "cx"]),
        ("$B$B", ["a", "b", "ca", "b", "c"]),
        ("a$NULL", ["a"]),
        ("$NULL", []),
        ('""', []),
        ("a\\ b", ["a b"]),
        ("'a b' c", ["a b", "c"]),
        ("${XXX:-1 2}", ["1", "2"]),
        (" a  b ", ["a", "b"]),
    ],
)
def test_words(word: str, words: list[str]) -> None:
    assert expand_words(word, ENV, where=HERE) == words


@pytest.mark.parametrize(
    ("word", "used", "unset"),
    [
        ("x", (), ()),
        ("x ${UNUSED} $FOO $FOO", ("UNUSED", "FOO"), ("UNUSED",)),
        ("${A-a}${FOO:-b}${C:+$D}", ("A", "FOO", "C", "D"), ("D",)),
        ("'$A'", (), ()),
        ("${A#x}${E/$G/h}", ("A", "E", "G"), ("A", "G", "E")),
    ],
)
def test_names_are_told(word: str, used: tuple[str, ...], unset: tuple[str, ...]) -> None:
    expansion = expand_traced(word, ENV, where=HERE)
    assert (expansion.used, expansion.unset) == (used, unset)


def test_referenced() -> None:
    assert referenced("$A ${B:?no} ${C:-$D}", where=HERE) == ("A", "B", "C", "D")
    assert referenced("${A", where=HERE) == ()


# Hostile words


def test_values_are_capped() -> None:
    half = {"A": "x" * (EXPANDED_VALUE_BYTES // 2)}
    assert len(expand("$A$A", half, where=HERE)) == EXPANDED_VALUE_BYTES
    for word in ("$A$A.", '"$A$A."', "${N:-$A$A.}", "${A//x/xyz}", "${A//?/xyz}"):
        with pytest.raises(InputError, match="longer than 64 KiB"):
            expand(word, half, where=HERE)
    with pytest.raises(InputError, match="longer than 64 KiB"):
        expand("é" * (EXPANDED_VALUE_BYTES // 2 + 1), {}, where=HERE)
    with pytest.raises(InputError, match="longer than 64 KiB"):
        expand("$A" * 30_000, half, where=HERE)


def test_heredocs_may_be_as_long_as_a_file() -> None:
    body = "x" * (EXPANDED_VALUE_BYTES + 1)
    assert heredoc_expand(body, {}, where=HERE) == body
    with pytest.raises(InputError, match="longer than 1024 KiB"):
        heredoc_expand("$A" * 17, {"A": "x" * (DOCKERFILE_BYTES // 16)}, where=HERE)


def test_nesting_is_capped() -> None:
    nested = "${A:-" * EXPANSION_DEPTH + "}" * EXPANSION_DEPTH
    assert expand(nested, {}, where=HERE) == ""
    with pytest.raises(InputError, match="nest"):
        expand("${A:-" + nested + "}", {}, where=HERE)
    with pytest.raises(InputError, match="nest"):
        expand("${A:-" * 20_000 + "}" * 20_000, {}, where=HERE)


def test_pattern_work_is_capped() -> None:
    with pytest.raises(InputError, match="too much text"):
        expand("${N+${A#?b}}" * 1_000, {"A": "a" * 60_000}, where=HERE)


def test_one_word_of_many_parts() -> None:
    assert expand("${A-}" * 10_000, {}, where=HERE) == ""
