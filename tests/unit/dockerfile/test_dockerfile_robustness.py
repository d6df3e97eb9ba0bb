"""Any text parses or is refused, in time that grows with its size (A02, A65)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from buildgraph.dockerfile.checks import check
from buildgraph.dockerfile.dump import dump
from buildgraph.dockerfile.expand import expand_traced, expand_words, heredoc_expand
from buildgraph.dockerfile.parser import parse, parse_onbuild
from buildgraph.errors import InputError, InputErrors, Location
from buildgraph.limits import DOCKERFILE_ERRORS, STAGES

HERE = Location("here", 1, 1)
PIECES = st.sampled_from(
    [
        "FROM a AS b\n", "RUN ", "COPY ", "--from=b ", "--mount=type=cache,target=/x ", "ENV A=$B ",
        "ONBUILD ", "<<EOF", "<<-'E'", "EOF", "\tE", "\n", "\r\n", " ", "\\\n", "\\", "`", "'", '"',
        "#", "# escape=`\n", "# check=skip=all\n", "[", '"a"', "]", ",", "=", "--", "$", "${",
        "}", ":-", "//", "*", "HEALTHCHECK CMD ", "EXPOSE 80 ", "ARG X\n", "\ufeff", "\x00", "é",
        "LABEL ", "STOPSIGNAL 9\n", "\u2028", "\x0b",
    ]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map("FROM a\n{}".format)
)


@given(TEXTS)
@example("FROM a\nRUN [" + "[" * 50_000)
@example("FROM a\nRUN [" + "[" * 50_000 + "]" * 50_000 + "]")
@example("FROM a\nRUN <<A <<B\nA\n")
@example("FROM a\nCOPY <<a '")
@example("\ud800")
def test_only_input_errors_come_out(text: str) -> None:
    try:
        parsed = parse(text, "Dockerfile")
    except InputError as error:
        for one in error.errors if isinstance(error, InputErrors) else [error]:
            assert one.where is not None
            assert len(one.message) < 500
        return
    dump(parsed)
    check(parsed)
    lines = text.removeprefix("\ufeff").split("\n")
    for stage in parsed.stages:
        for instruction in (stage.from_, *stage.body):
            where = instruction.where
            assert where.text == lines[where.line - 1].rstrip("\r")
            assert instruction.end_line >= where.line


@given(st.binary())
def test_any_bytes(text: bytes) -> None:
    try:
        parse(text, "Dockerfile")
    except InputError:
        pass


@given(st.one_of(st.text("ab$\\'\"{}:-+?#%/* `_1"), st.text()), st.sampled_from("\\`"))
def test_expansion_of_anything(word: str, escape: str) -> None:
    env = {"a": "aab", "b": "", "_": "x y"}
    for expanding in (expand_traced, expand_words):
        try:
            expanding(word, env, escape, where=HERE)
        except InputError:
            pass
    try:
        heredoc_expand(word, env, where=HERE)
    except InputError:
        pass


@given(st.text("abc ", min_size=1))
def test_words_without_signs_stay(word: str) -> None:
    assert expand_traced(word, {"a": "x"}, where=HERE).text == word
    assert expand_words(word, {}, where=HERE) == word.split()


@given(TEXTS)
def test_any_trigger(text: str) -> None:
    try:
        parse_onbuild(text, "image", HERE)
    except InputError as error:
        first = error.errors[0] if isinstance(error, InputErrors) else error
        assert first.where is not None


def test_error_count_is_capped() -> None:
    with pytest.raises(InputErrors) as caught:
        parse("FROM a\n" + "NOPE x\n" * 100_000, "Dockerfile")
    assert len(caught.value.errors) == DOCKERFILE_ERRORS


def test_stages_are_capped() -> None:
    assert len(parse("FROM a\n" * STAGES, "Dockerfile").stages) == STAGES
    with pytest.raises(InputError, match="more than 1000 stages"):
        parse("FROM a\n" * (STAGES + 1), "Dockerfile")


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "FROM a\n" + "RUN x\n" * n,
        lambda n: "FROM a\n" + "# c\n" * n,
        lambda n: "FROM a\nRUN x \\\n" + "  y \\\n" * n,
        lambda n: "FROM a\nRUN x \\\n" + "\n" * n,
        lambda n: "FROM a\nRUN <<E\n" + "line\n" * n + "E\n",
        lambda n: "FROM a\nRUN " + "<<E" * 1 + "\nE\n" + "RUN <<E\nE\n" * (n // 2),
        lambda n: "FROM a\nENV " + "".join(f"A{i}='x y' \\\n" for i in range(n)),
        lambda n: "FROM a\nCOPY " + "a \\\n" * n + " b\n",
        lambda n: "FROM a\nRUN " + "\\ \\\n" * n,
        lambda n: "FROM a\n" + "ARG A=$A$A\n" * n,
    ],
)
def test_parsing_is_linear(make: Callable[[int], str]) -> None:
    """Four times the text takes about four times as long; a quadratic step would take sixteen."""

    def best(text: str) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            parse(text, "Dockerfile")
            times.append(time.process_time() - start)
        return min(times)

    small, large = make(2_000), make(8_000)
    for _ in range(3):  # a busy machine gets a second and a third chance
        if best(large) < 10 * best(small) + 0.01:
            return
    pytest.fail("parse time grows faster than the text")


def test_quotes_and_markers_on_one_long_line() -> None:
    for text in ("'" * 60_000, '"\\' * 30_000, "<< " * 20_000, "((<<a " * 10_000, "--a " * 15_000):
        try:
            parse(f"FROM a\nRUN {text}\n", "Dockerfile")
        except InputError:
            continue


def test_long_directives_and_comments() -> None:
    blanks = " " * 60_000
    for text in (f"# check=a{blanks}b", f"#{blanks}escape={blanks}x", f"# syntax{blanks}x"):
        for above in ("", "FROM a\n"):
            try:
                parse(f"{above}{text}\nFROM a\n", "Dockerfile")
            except InputError:
                continue


def test_messages_quote_little_of_the_file() -> None:
    with pytest.raises(InputError) as caught:
        parse("FROM a\n" + "x" * 60_000, "Dockerfile")
    assert len(caught.value.message) < 200
