from __future__ import annotations

import io

import pytest

from buildgraph.cli.console import columns, render_error, wants_color
from buildgraph.errors import BuildFailed, HostError, InputError, InputErrors, Location

WIDE = {"COLUMNS": "100"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("env", "terminal", "pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),  # no-color.org: empty does not count
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"CLICOLOR_FORCE": "1"}, True, True),
        ({"CLICOLOR": "0"}, False, False),
        ({"CLICOLOR": "0", "FORCE_COLOR": "1"}, True, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_when_colour_is_wanted(env: dict[str, str], terminal: bool, pipe: bool) -> None:
    assert wants_color(Terminal(), env) is terminal
    assert wants_color(io.StringIO(), env) is pipe


def test_a_closed_stream_wants_no_colour() -> None:
    stream = io.StringIO()
    stream.close()
    assert wants_color(stream, {}) is False


def test_columns_come_from_the_environment_first() -> None:
    assert columns({"COLUMNS": "77"}) == 77
    assert columns({"COLUMNS": "x"}) > 0
    assert columns({}, descriptor=-1) > 0


def test_an_input_error_is_drawn_with_a_caret() -> None:
    where = Location("app/Boxfile.yaml", 12, 7, 16, "      dokerfile: Dockerfile")
    error = InputError("unknown key 'dokerfile'", where, "did you mean 'dockerfile'?")
    assert render_error(error, env=WIDE) == (
        "error: unknown key 'dokerfile'\n"
        "  --> app/Boxfile.yaml:12:7\n"
        "   |\n"
        "12 |       dokerfile: Dockerfile\n"
        "   |       ^^^^^^^^^\n"
        "hint: did you mean 'dockerfile'?\n"
    )


def test_without_a_line_only_the_place_is_named() -> None:
    assert render_error(InputError("gone", Location("a/b")), env=WIDE) == (
        "error: gone\n  --> a/b\n"
    )
    assert render_error(HostError("no space left"), env=WIDE) == "error: no space left\n"


def test_without_a_column_the_whole_line_is_marked() -> None:
    text = render_error(InputError("x", Location("f", 3, text="  RUN y\n")), env=WIDE)
    assert text.splitlines()[-2:] == [" 3 |   RUN y", "   |   ^^^^^"]


def test_carets_stay_true_behind_tabs_and_wide_characters() -> None:
    text = render_error(InputError("x", Location("f", 3, 5, 7, "\t日本ab")), env=WIDE)
    *_, line, marks = text.splitlines()
    assert line == " 3 |     日本ab"
    assert marks == "   |          ^"  # the mark ends with the line

    text = render_error(InputError("x", Location("f", 3, 2, 4, "\t日本ab")), env=WIDE)
    assert text.splitlines()[-1] == "   |     ^^^^"


def test_a_column_behind_the_end_is_marked_there() -> None:
    text = render_error(InputError("unexpected end", Location("f", 3, 99, 0, "abc")), env=WIDE)
    assert text.splitlines()[-1] == "   |    ^"


def test_a_long_line_is_cut_around_its_place() -> None:
    where = Location("f", 1, 30_001, 30_004, "x" * 30_000 + "BAD" + "y" * 30_000)
    *_, line, marks = render_error(InputError("x", where), env=WIDE).splitlines()
    assert len(line) <= 100
    assert line[marks.index("^") : marks.rindex("^") + 1] == "BAD"


def test_all_input_errors_are_drawn_and_counted() -> None:
    errors = [InputError(f"problem {n}", Location("Boxfile.yaml", n)) for n in (1, 2, 3)]
    text = render_error(InputErrors(errors), env=WIDE)
    assert text.count("error: problem") == 3
    assert text.endswith("\n\n3 errors\n")


def test_a_failed_step_shows_its_last_lines_and_how_to_replay() -> None:
    error = BuildFailed(
        "RUN make ended with exit code 2",
        Location("app/Dockerfile", 7, 1, 9, "RUN make"),
        label="//app:image",
        log=tuple(f"line {n}" for n in range(30)),
        replay="buildgraph replay 5f2c",
    )
    lines = render_error(error, env=WIDE).splitlines()
    assert lines[0] == "error: //app:image: RUN make ended with exit code 2"
    assert " 7 | RUN make" in lines
    assert "   | ^^^^^^^^" in lines
    assert "  line 9" not in lines
    assert [line for line in lines if line.startswith("  line")] == [
        f"  line {n}" for n in range(10, 30)
    ]
    assert lines[-1] == "replay: buildgraph replay 5f2c"


def test_the_label_is_not_said_twice() -> None:
    error = BuildFailed("//app:image: no", label="//app:image")
    assert render_error(error, env=WIDE) == "error: //app:image: no\n"


def test_text_of_strangers_plays_no_tricks() -> None:
    error = BuildFailed(
        "cannot run \x1b[2J'x'\n::error::second line",
        Location("a\x1b]0;x\x07b", 1, 1, 2, "\x1b[8mRUN \u202e"),
        hint="\x9b31m",
        log=("\x1b[31mred\x1b[0m \x1b[5A", "::set-env name=PATH::x", "##[error]x"),
        replay="x\x1b[6n",
    )
    plain = render_error(error, env=WIDE)
    assert "\x1b" not in plain
    assert "\x9b" not in plain
    assert "\u202e" not in plain
    assert not [line for line in plain.splitlines() if line.lstrip().startswith("::")]
    assert "##[" not in plain
    colored = render_error(error, color=True, env=WIDE)
    assert "\x1b[31mred\x1b[0m ^[[5A" in colored
    assert "\x1b[2J" not in colored
