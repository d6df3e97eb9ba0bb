from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.cli.escape import (
    LINE_BYTES,
    LastLine,
    LineSplitter,
    clip,
    decode,
    no_commands,
    safe,
    safe_bytes,
    width,
)

SGR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text", "plain text"),
        ("tab\tstays", "tab\tstays"),
        ("\x1b[2J\x1b[H", "^[[2J^[[H"),
        ("\x1b]0;title\x07", "^[]0;title^G"),
        ("\x1b]8;;file:///etc\x1b\\link", "^[]8;;file:///etc^[\\link"),
        ("\x1bP+q544e\x1b\\", "^[P+q544e^[\\"),
        ("\x9b2J", "\\x9b2J"),
        ("a\x00b\x7f", "a^@b^?"),
        ("two\nlines\rback", "two^Jlines^Mback"),
        ("user\u202etxt.exe", "user<U+202E>txt.exe"),
        ("a\u2066b\u2069", "a<U+2066>b<U+2069>"),
        ("in\u200bvisible\ufeff", "in<U+200B>visible<U+FEFF>"),
        ("\U000e0041tag", "<U+E0041>tag"),
        ("name\udcff", "name\\xff"),
        ("\ud800", "<U+D800>"),
        ("日本語 é ✓", "日本語 é ✓"),
        ("done\x1b[K\x1b[0K", "done"),
    ],
)
def test_what_a_terminal_could_obey_is_shown(raw: str, shown: str) -> None:
    assert safe(raw) == shown
    assert safe(raw, color=True) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[1;32mok", "\x1b[1;32mok\x1b[0m"),  # closed, so that it does not leak
        ("\x1b[8mhidden", "hidden"),
        ("\x1b[1;8;31mx", "\x1b[1;31mx\x1b[0m"),
        ("\x1b[5mblink", "blink"),
        ("\x1b[38;5;200mx\x1b[m", "\x1b[38;5;200mx\x1b[m"),
        ("\x1b[38;2;1;2;3mx\x1b[0m", "\x1b[38;2;1;2;3mx\x1b[0m"),
        ("\x1b[38;5mx", "x"),
        ("\x1b[" + "1;" * 100 + "1mx", "x"),
        ("\x1b[31mred\x1b[2Jx", "\x1b[31mred^[[2Jx\x1b[0m"),
    ],
)
def test_colours_are_kept_where_wanted(raw: str, shown: str) -> None:
    assert safe(raw, color=True) == shown
    assert "\x1b" not in safe(raw)


def test_line_feeds_are_kept_where_wanted() -> None:
    assert safe("a\n\x1b[31mb\n\rc", newlines=True) == "a\nb\n^Mc"


def test_bytes_that_are_no_utf8_are_shown() -> None:
    assert decode(b"\xff\xfe ok \xc3\xa9") == "\\xff\\xfe ok é"
    assert safe_bytes(b"\x80\x1b[2K\x1b[1A") == "\\x80^[[1A"


@given(st.text(), st.booleans())
def test_nothing_but_colours_is_left(text: str, color: bool) -> None:
    shown = SGR.sub("", safe(text, color=color))
    assert shown.isprintable() or not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", shown)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert safe(shown) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("::error::bad", "\\::error::bad"),
        ("  ::set-output name=x::y", "  \\::set-output name=x::y"),
        ("first\n::add-mask::x", "first\n\\::add-mask::x"),
        ("##[group]x", "#\\#[group]x"),
        ("text ##vso[task.setvariable]x", "text #\\#vso[task.setvariable]x"),
        ("##teamcity[x]", "#\\#teamcity[x]"),
        ("std::string and a::b", "std::string and a::b"),
        ("# comment", "# comment"),
    ],
)
def test_commands_of_ci_systems_are_defused(line: str, shown: str) -> None:
    assert no_commands(line) == shown


def test_lines_are_cut_as_they_come() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.feed(b"o\r") == []
    assert splitter.feed(b"\nthree") == [b"two"]
    assert splitter.flush() == [b"three"]
    assert splitter.flush() == []


@pytest.mark.parametrize(
    "pieces",
    [
        [b"10%\r20%\r100%\n"],
        [b"10%\r", b"20%\r", b"100%\r\n"],
        [b"10%", b"\r2", b"0%\r", b"100%", b"\n"],
    ],
)
def test_a_progress_bar_leaves_its_last_state(pieces: list[bytes]) -> None:
    splitter = LineSplitter()
    assert [line for piece in pieces for line in splitter.feed(piece)] == [b"100%"]


def test_long_lines_are_cut_in_bounded_memory() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert splitter.feed(b"x" * 1000) == []
        assert len(splitter._kept) <= LINE_BYTES
    (line,) = splitter.feed(b"\nnext")
    assert line == b"x" * LINE_BYTES + b" [%d more bytes]" % (100_000 - LINE_BYTES)
    assert splitter.flush() == [b"next"]


def test_a_long_line_that_starts_over_is_not_counted() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"x" * 9000 + b"\rshort\n") == [b"short"]
    splitter.feed(b"x" * 9000)
    splitter.feed(b"\r")
    assert splitter.feed(b"short\n") == [b"short"]


@given(st.binary(), st.integers(1, 7))
def test_where_output_is_cut_makes_no_difference(data: bytes, step: int) -> None:
    whole, pieces = LineSplitter(), LineSplitter()
    expected = [*whole.feed(data), *whole.flush()]
    found = [line for at in range(0, len(data), step) for line in pieces.feed(data[at : at + step])]
    assert [*found, *pieces.flush()] == expected


def test_last_line_is_the_last_with_something_in_it() -> None:
    last = LastLine()
    assert last.text() == ""
    last.feed(b"one\ntw")
    last.feed(b"o\n\n")
    assert last.text() == "two"
    last.feed(b"10%\r50%\x1b[31m")
    assert last.text() == "50%"
    last.feed(b"y" * 1_000_000)
    assert len(last.text()) == LINE_BYTES


def test_wide_characters_take_two_columns() -> None:
    assert width("日本") == 4
    assert width("e\u0301") == 1
    assert clip("日本語", 5) == "日本…"
    assert clip("abc", 3) == "abc"
    assert clip("abcd", 3) == "ab…"
    assert clip("abc", 0) == ""
