"""Any text parses or is refused, in time that grows with its size (A02, A65)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from buildgraph.dockerfile.checks import check
from buildgraph.dockerfile.dump import dump
from buildgraph.dockerfile.expand import expand_traced, expand_words, heredoc_expand
from buildgraph.dockerfile.parser import parse, parse_onbuild
from buildgraph.errors import InputError, InputErrors, Location
from buildgraph.graph.stage_ir import BuildArgs, ImageRef, Unfolded
from buildgraph.graph.stages import Unfolder
from buildgraph.limits import DOCKERFILE_ERRORS, STAGES
from buildgraph.oci.types import ImageConfig, Platform

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


def unfold(text: str) -> Unfolded:
    """Read the stages of a file on bases of nothing."""
    here = Platform("linux", "amd64")
    args = BuildArgs({}, here, here, 7)
    return Unfolder(parse(text, "Dockerfile"), args, lambda *_: ImageConfig(here)).unfold(None)


def numbered(line: str) -> Callable[[int], str]:
    return lambda n: "FROM a\n" + "".join(line.format(i) for i in range(n))


GROWING: dict[str, Callable[[int], str]] = {
    "steps": lambda n: "FROM a\n" + "RUN x\n" * n,
    "comments": lambda n: "FROM a\n" + "# c\n" * n,
    "continuations": lambda n: "FROM a\nRUN x \\\n" + "  y \\\n" * n,
    "blank continuations": lambda n: "FROM a\nRUN x \\\n" + "\n" * n,
    "a heredoc": lambda n: "FROM a\nRUN <<E\n" + "line\n" * n + "E\n",
    "an expanded heredoc": lambda n: "FROM a\nCOPY <<E /\n" + "$PATH ${x:-y}\n" * n + "E\n",
    "heredocs": lambda n: "FROM a\nRUN " + "<<E" * 1 + "\nE\n" + "RUN <<E\nE\n" * (n // 2),
    "one ENV": lambda n: "FROM a\nENV " + "".join(f"A{i}='x y' \\\n" for i in range(n)) + "B=1",
    "sources": lambda n: "FROM a\nCOPY " + "a \\\n" * n + " b\n",
    "escapes": lambda n: "FROM a\nRUN " + "\\ \\\n" * n,
    "expansions": lambda n: "FROM a\n" + "ARG A=${B:-$C}\n" * n,
    "ENV": numbered("ENV A{}=1\n"),
    "ARG": numbered("ARG A{}=1\n"),
    "LABEL": numbered("LABEL A{}=1\n"),
    "EXPOSE": numbered("EXPOSE {}\n"),
    "VOLUME": numbered("VOLUME /{}\n"),
    "ONBUILD": numbered("ONBUILD RUN {}\n"),
    "WORKDIR": numbered("WORKDIR /{}\n"),
    "global ARG": lambda n: "".join(f"ARG A{i}=1\n" for i in range(n)) + "FROM a\n",
    "mounts": lambda n: "FROM a AS b\nFROM a\nRUN " + "--mount=from=b,target=/x \\\n" * n + "x\n",
    "copies": lambda n: "FROM a AS b\nFROM a\n" + "COPY --from=b x y\n" * n,
}


@pytest.mark.parametrize("kind", GROWING)
def test_reading_is_linear(kind: str) -> None:
    """Twice the text is about twice the work, counted in calls and lines that are run.

    A quadratic step would be four times; work inside C is what the times of the next test hold.
    """
    small, large = (lines_run(GROWING[kind](n)) for n in (300, 600))
    assert large < 2.6 * small


def lines_run(text: str) -> int:
    """Count the lines of Python that parsing, unfolding and checking a file take."""
    count = 0

    def each(frame: FrameType, event: str, arg: object) -> Callable[..., object]:
        nonlocal count
        count += 1
        return each

    before = sys.gettrace()
    sys.settrace(each)
    try:
        check(parse(text, "Dockerfile"))
        unfold(text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("kind", GROWING)
def test_big_files_are_read_in_a_moment(kind: str) -> None:
    """A quarter of the largest file there may be, whatever it is full of."""
    text = GROWING[kind](12_000)
    start = time.process_time()
    check(parse(text, "Dockerfile"))
    unfold(text)
    assert time.process_time() - start < 8


def test_steps_and_stages_with_many_variables_end() -> None:
    many = "FROM a AS s0\n" + "".join(f"ENV A{i}=1\n" for i in range(20_000))
    for rest in ("RUN x\n" * 20_000, "".join(f"FROM s{i} AS s{i + 1}\n" for i in range(900))):
        with pytest.raises(InputError, match="more than 1000000 variables"):
            unfold(many + rest)


def test_a_chain_of_all_stages_there_may_be() -> None:
    chain = "".join(f"FROM s{i} AS s{i + 1}\nENV A{i}=1\n" for i in range(STAGES - 1))
    assert len(unfold("FROM a AS s0\n" + chain).stages) == STAGES
    with pytest.raises(InputError, match="more than 1000 stages"):
        unfold("FROM a AS s0\n" + chain + f"FROM s{STAGES - 1}\n")


def test_stages_stand_on_earlier_ones_only_so_there_is_no_circle() -> None:
    for text in ("FROM b AS a\nFROM a AS b\n", "FROM a AS a\n"):
        first = unfold(text).stages[0].base
        assert isinstance(first, ImageRef)
    with pytest.raises(InputError, match="cannot copy from itself"):
        unfold("FROM x AS a\nCOPY --from=a / /\n")


def test_values_and_bodies_one_over_their_caps() -> None:
    value = "x" * 1024
    lines = "".join(f"ARG A{n}=${{A{n - 1}}}${{A{n - 1}}}\n" for n in range(1, 7))
    assert unfold(f"FROM a\nARG A0={value}\n{lines}")  # 64 KiB
    with pytest.raises(InputError, match="longer than 64 KiB"):
        unfold(f"FROM a\nARG A0={value}\n{lines}ENV B=${{A6}}x\n")
    body = "$A$A$A$A\n" * 1_000
    with pytest.raises(InputError, match="longer than 1024 KiB"):
        unfold(f"FROM a\nARG A={'x' * 300}\nCOPY <<E /\n{body}E\n")
    with pytest.raises(InputError, match="may have 1 MiB"):
        parse("FROM a\n" + "#" * 60_000 + "\n" + "RUN x\n" * 170_000, "Dockerfile")


def test_errors_of_unfolding_are_capped() -> None:
    with pytest.raises(InputErrors) as caught:
        unfold("FROM a\n" + "ENV A=${x:?}\n" * 1_000)
    assert len(caught.value.errors) == DOCKERFILE_ERRORS


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
