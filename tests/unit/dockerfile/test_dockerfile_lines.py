"""Lines, comments, continuations, directives and flags: section 1.1 of the language."""

from __future__ import annotations

from typing import Any

import pytest

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.directives import detect_syntax, parse_check_options
from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError, InputErrors, Location
from buildgraph.limits import DOCKERFILE_BYTES, DOCKERFILE_LINE_BYTES

HERE = Location("here")


def body(text: str) -> tuple[ast.Instruction, ...]:
    return parse(f"FROM scratch\n{text}", "Dockerfile").stages[0].body


def one(text: str) -> Any:
    (instruction,) = body(text)
    return instruction


def problem(text: str | bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(text, "Dockerfile")
    assert not isinstance(caught.value, InputErrors), caught.value
    return caught.value


def place(error: InputError) -> tuple[int, str]:
    """Line, and the text that the caret marks."""
    where = error.where
    assert where is not None
    return where.line, where.text[where.column - 1 : (where.end_column or where.column + 1) - 1]


def test_byte_order_mark_and_crlf() -> None:
    parsed = parse(b"\xef\xbb\xbfFROM scratch\r\nRUN a \\\r\n  b\r\n", "Dockerfile")
    (run,) = parsed.stages[0].body
    assert isinstance(run, ast.Run)
    assert run.shell == "a   b"
    assert parsed.stages[0].from_.where.column == 1
    assert run.where.text == "RUN a \\"


def test_line_length_cap() -> None:
    assert one("RUN " + "x" * (DOCKERFILE_LINE_BYTES - 4)).shell.startswith("xxx")
    error = problem("FROM scratch\nRUN " + "x" * (DOCKERFILE_LINE_BYTES - 3))
    assert "65535" in error.message
    assert error.where is not None
    assert error.where.line == 2
    assert "65535" in problem("FROM scratch\nRUN " + "é" * 33_000).message


def test_file_size_cap() -> None:
    comments = ("# " + "x" * 97 + "\n") * (DOCKERFILE_BYTES // 100)
    exact = "FROM scratch\n#".ljust(DOCKERFILE_BYTES - len(comments), "x")
    assert "1 MiB" in problem(exact + "x\n" + comments).message
    assert parse(exact[:-1] + "\n" + comments, "Dockerfile").stages


def test_keywords_in_any_case() -> None:
    assert one("rUn x").keyword == "rUn"
    assert one("run x  y").source == "RUN x  y"


def test_unknown_instruction_suggests() -> None:
    error = problem("FROM scratch\n\n  COPPY a b")
    assert error.message == "unknown instruction 'COPPY'"
    assert error.hint == "did you mean 'COPY'?"
    assert place(error) == (3, "COPPY")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        ("# only\n# comments", "the file has no instructions"),
        ("ARG A=1\nARG B", "no FROM"),
        ("RUN x", "RUN stands before the first FROM"),
        ("\\\n", "without an instruction"),
        (b"FROM scratch\nRUN \xff", "not UTF-8"),
        ("FROM scratch\nRUN a\0b", "NUL"),
        ('FROM scratch\nRUN ["a\\u0000"]', "NUL"),
    ],
)
def test_files_that_are_nothing(text: str | bytes, message: str) -> None:
    assert message in problem(text).message


def test_not_utf8_is_placed() -> None:
    error = problem("FROM scratch\n# é\nRUN é".encode() + b"\xff!")
    assert place(error) == (3, "\N{REPLACEMENT CHARACTER}")


def test_comments_only_where_first() -> None:
    assert one("RUN a # b").shell == "a # b"
    assert one("   # nothing\nRUN a \\\n  # dropped\n#dropped\n b").shell == "a  b"


def test_blank_lines_in_a_continuation_warn() -> None:
    parsed = parse("FROM scratch\nRUN a \\\n\n   \nb\nRUN c \\\n# d\n\n\n", "Dockerfile")
    assert [one.shell for one in parsed.stages[0].body if isinstance(one, ast.Run)] == ["a b", "c"]
    assert [(w.rule, w.where.line) for w in parsed.warnings] == [
        ("NoEmptyContinuation", 3),
        ("NoEmptyContinuation", 8),
    ]


@pytest.mark.parametrize(
    ("text", "shell"),
    [
        ("RUN a\\\nb", "ab"),
        ("RUN a\\  \t\nb", "ab"),
        ("RUN a \\\n   b", "a    b"),
        ("RUN a \\", "a"),
        ("RUN a \\\n", "a"),
        ("RUN a \\\n# c\n", "a"),
        ("\\\nRUN a", "a"),
        ("R\\\nUN a", "a"),
    ],
)
def test_continuations(text: str, shell: str) -> None:
    assert one(text).shell == shell


def test_escaped_escape_does_not_continue() -> None:
    first, second = body("RUN a\\\\\nRUN b")
    assert isinstance(first, ast.Run)
    assert first.shell == "a\\\\"
    assert isinstance(second, ast.Run)


def test_other_escape() -> None:
    parsed = parse("# escape=`\nFROM scratch\nRUN dir c:\\ `\n /s\nENV A=a`\n", "D")
    assert parsed.directives.escape == "`"
    run, env = parsed.stages[0].body
    assert isinstance(run, ast.Run)
    assert run.shell == "dir c:\\  /s"
    assert isinstance(env, ast.Env)
    assert env.pairs == (("A", "a"),)


def test_errors_are_placed_through_continuations() -> None:
    error = problem("FROM scratch\nENV A=1 \\\n  # comment\n    B=2 \\\n    oops C=3")
    assert place(error) == (5, "oops")
    error = problem("FROM scratch\nCOPY \\\n  --form=a \\\n x y")
    assert place(error) == (3, "--form=a")
    assert error.hint == "did you mean '--from'?"


def test_all_errors_at_once() -> None:
    with pytest.raises(InputErrors) as caught:
        parse("FROM scratch\nENV A\nRUNN x\nCOPY a\nRUN ok\nSHELL x", "Dockerfile")
    assert [error.where.line for error in caught.value.errors if error.where] == [2, 3, 4, 6]


def test_an_error_in_from_is_the_only_one() -> None:
    assert "invalid stage name" in problem("FROM a AS 1x\nRUN b\nRUN c").message
    assert "unknown instruction" in problem("FORM a\nRUN b").message


def test_where_and_end_line() -> None:
    run, copy = body("RUN a \\\n b\n  COPY <<E /x\nbody\nE\n")
    assert (run.where.line, run.end_line) == (2, 3)
    assert (copy.where.line, copy.where.column, copy.end_line) == (4, 3, 6)


# Directives


def test_directives() -> None:
    parsed = parse(
        "#syntax = docker/dockerfile:1 extra\n#  Escape=`\n# CHECK=skip=all\nFROM a", "Dockerfile"
    )
    assert parsed.directives.syntax == "docker/dockerfile:1"
    assert parsed.directives.escape == "`"
    assert parsed.directives.check == "skip=all"
    assert [key for key, _ in parsed.directives.where] == ["syntax", "escape", "check"]


@pytest.mark.parametrize(
    "above", ["# a comment\n", "\n", "# unknown=1\n", "FROM scratch\n", "#!/bin/x\n"]
)
def test_directives_end(above: str) -> None:
    parsed = parse(f"{above}# escape=`\nFROM scratch", "Dockerfile")
    assert parsed.directives.escape == "\\"


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("# escape=x\nFROM a", "escape is", "x"),
        ("# escape=\\\n# escape=\\\nFROM a", "twice", "\\"),
        ("# check=skp=all\nFROM a", "unknown check option", "skp=all"),
        ("# check=error=maybe\nFROM a", "true or false", "error=maybe"),
    ],
)
def test_bad_directives(text: str, message: str, marked: str) -> None:
    error = problem(text)
    assert message in error.message
    assert place(error)[1] == marked


@pytest.mark.parametrize(
    ("text", "syntax"),
    [
        ("# syntax=a/b:1\nFROM x", "a/b:1"),
        ("#!/usr/bin/env x\n# syntax = a b c\n", "a"),
        ("// syntax=a\nwhatever", "a"),
        ('{"syntax": "a", "x": 1}', "a"),
        ('{"syntax": 1}', None),
        ('{"syntax": ', None),
        ("# check=skip=all\n# syntax=a\n", "a"),
        ("FROM x\n# syntax=a", None),
        ("", None),
    ],
)
def test_detect_syntax(text: str, syntax: str | None) -> None:
    assert detect_syntax(text) == syntax


def test_a_file_for_another_frontend_says_so() -> None:
    assert "frontend 'a/b'" in problem("// syntax=a/b\nthing").message


def test_check_options() -> None:
    options = parse_check_options("skip=A, B;error=TRUE;experimental=all", HERE)
    assert options.skip == {"A", "B"}
    assert not options.skip_all
    assert options.error
    assert options.experimental_all
    assert parse_check_options("skip=all", HERE).skip_all


def test_check_comment_above_one_instruction() -> None:
    parsed = parse(
        "FROM scratch\n# check=skip=A,B;error=true\nRUN a\nRUN b\n# check=skip=C\n\nRUN c\n",
        "Dockerfile",
    )
    assert [one.skip_checks for one in parsed.stages[0].body] == [("A", "B"), (), ()]


def test_descriptions() -> None:
    text = "# ver which one\nARG ver=1\n\n# old\n#\n# x nothing\n# app the app\nFROM a AS app\n"
    parsed = parse(text, "Dockerfile")
    assert parsed.global_args[0].comment == "which one"
    assert parsed.stages[0].from_.comment == "the app"
    assert parsed.stages[0].from_.comments == ("x nothing", "app the app")


# Flags


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("COPY --link a b", "link", True),
        ("COPY --link=TRUE a b", "link", True),
        ("COPY --link=False a b", "link", False),
        ("COPY --chown='a b' x y", "chown", "a b"),
        ('COPY --ch"own=a b" x y', "chown", "a b"),
        ("COPY --chown=a\\ b x y", "chown", "a b"),
        ("COPY --exclude=*.a --exclude=*.b x y", "exclude", ("*.a", "*.b")),
        ("COPY -- --x y", "sources", ("--x",)),
        ("COPY a --link b", "sources", ("a", "--link")),
        ("COPY --chown= x y", "chown", None),
        ("COPY --from= x y", "from_", None),
        ("ADD --unpack=false x y", "unpack", False),
        ("ADD x y", "unpack", None),
    ],
)
def test_flags(text: str, attribute: str, value: object) -> None:
    assert getattr(one(text), attribute) == value


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("COPY --lnk a b", "unknown flag '--lnk'", "did you mean '--link'?"),
        ("WORKDIR --x=1 /a", "unknown flag '--x'", "WORKDIR takes no flags"),
        ("COPY --chown=1 --chown=2 a b", "twice", None),
        ("COPY --chown a b", "needs a value", "write --chown=VALUE"),
        ("COPY --link= a b", "true or false", None),
        ("COPY --link=1 a b", "true or false", None),
        ("ADD --from=a b c", "unknown flag", None),
        ("ADD --parents b c", "unknown flag", None),
        ("ONBUILD --x RUN a", "unknown flag", None),
        ("CMD --x=1 a", "unknown flag", None),
    ],
)
def test_flag_errors(text: str, message: str, hint: str | None) -> None:
    error = problem(f"FROM scratch\n{text}")
    assert message in error.message
    assert hint is None or error.hint == hint
    assert place(error)[1].startswith("--")


def test_arg_and_stopsignal_ignore_flags() -> None:
    assert one("ARG --what A=1").pairs == (("A", "1"),)
    assert one("STOPSIGNAL --what=1 9").signal == "9"
