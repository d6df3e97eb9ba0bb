"""Knows lines, continuations, comments and words; must not know any instruction.

Source: shared reference, section 1.1.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache

from msgspec import Struct

from buildgraph.errors import InputError, Location
from buildgraph.limits import DOCKERFILE_BYTES, DOCKERFILE_LINE_BYTES, MIB


@lru_cache(maxsize=2)
def _continuation(escape: str) -> re.Pattern[str]:
    """The escape ends the line (blanks may follow), unless another escape stands before it."""
    one = re.escape(escape)
    return re.compile(rf"(?:^|(?<=[^{one}])){one}[ \t]*$")


@lru_cache(maxsize=2)
def _word(escape: str) -> re.Pattern[str]:
    """Possessive, so that no input makes it backtrack. A quote may stay open up to the end."""
    one = re.escape(escape)
    return re.compile(
        rf"""(?:[^\s'"{one}]++|{one}.|'[^']*+(?:'|\Z)"""
        rf"""|"(?:[^"{one}]++|{one}.)*+(?:"|{one}?\Z))++""",
        re.DOTALL,
    )


class Word(Struct, frozen=True):
    """A word of a logical line, quotes kept, with its place in the joined text."""

    text: str
    start: int
    end: int


class LogicalLine:
    """One instruction's text, continuations joined, that can tell where each character was."""

    __slots__ = ("comments", "end_line", "line", "pieces", "source", "text")

    def __init__(self, source: Source, line: int, comments: list[str]):
        self.source = source
        self.line = line  # counted from 1
        self.end_line = line
        self.comments = comments
        self.text = ""
        self.pieces: list[tuple[int, int, int]] = []  # offset in text, line, column before it

    def where(self, start: int = 0, end: int | None = None) -> Location:
        """Give the place of `text[start:end]`; of a range over several lines, the first one's."""
        if self.source.fixed is not None:
            return self.source.fixed
        index = max(0, bisect_right(self.pieces, (start, len(self.source.lines), 0)) - 1)
        offset, line, column = self.pieces[index]
        text = self.source.lines[line - 1].rstrip("\r")
        first = min(start - offset + column, len(text)) + 1
        last = 0 if end is None else min(end - offset + column, len(text)) + 1
        return Location(self.source.path, line, first, last if last > first else 0, text)


class Source:
    """The lines of one file and how far they have been read."""

    __slots__ = (
        "blank_continuations",
        "continued",
        "escape",
        "fixed",
        "lines",
        "next",
        "noted",
        "path",
    )

    def __init__(self, lines: list[str], path: str, first: int = 0, escape: str = "\\"):
        self.lines = lines
        self.path = path
        self.next = first
        self.escape = escape
        self.fixed: Location | None = None  # where everything is said to be, if not in this text
        self.continued = _continuation(escape).search
        self.noted = 0  # the line of the last blank that was noted
        self.blank_continuations: list[Location] = []

    def whole_line(self, index: int) -> Location:
        """Give the place of a physical line, counted from 0."""
        text = self.lines[index].rstrip("\r")
        start = len(text) - len(text.lstrip())
        end = len(text.rstrip())
        return Location(self.path, index + 1, start + 1, end + 1 if end > start else 0, text)

    def read(self) -> LogicalLine | None:
        """Read the next instruction's logical line, or None at the end of the file."""
        lines, count = self.lines, len(self.lines)
        comments: list[str] = []
        while self.next < count:
            raw = lines[self.next].rstrip("\r")
            text = raw.lstrip()
            if not text:
                comments = []
            elif text.startswith("#"):
                comment = text[1:].strip()
                if comment:
                    comments.append(comment)
                else:  # an empty comment line cuts the block: what stands above describes nothing
                    comments = []
            else:
                return self._join(raw, text, comments)
            self.next += 1
        return None

    def _join(self, raw: str, text: str, comments: list[str]) -> LogicalLine:
        logical = LogicalLine(self, self.next + 1, comments)
        indent = len(raw) - len(text)
        joined: list[str] = []
        length = 0
        while True:
            self.next += 1
            end = self._continuation(text)
            logical.pieces.append((length, self.next, indent))
            joined.append(text if end is None else text[:end])
            length += len(joined[-1])
            logical.end_line = self.next
            if end is None:
                break
            following = self._next_continued(logical.line)
            if following is None:
                break
            text, indent = following, 0
        logical.text = "".join(joined)
        return logical

    def _continuation(self, text: str) -> int | None:
        if self.escape not in text[-1:] and not text[-1:].isspace():
            return None
        match = self.continued(text)
        return None if match is None else match.start()

    def _next_continued(self, first: int) -> str | None:
        """Skip comments and blank lines inside a continued instruction; note the first blank."""
        while self.next < len(self.lines):
            text = self.lines[self.next].rstrip("\r")
            stripped = text.lstrip()
            if stripped and not stripped.startswith("#"):
                return text
            # The text after a final line break is no line. One blank line per instruction is
            # noted, so that a file of blank lines does not become a file of warnings.
            if not stripped and self.noted < first and self.next + 1 < len(self.lines):
                self.noted = self.next + 1
                self.blank_continuations.append(self.whole_line(self.next))
            self.next += 1
        return None

    def read_heredoc(self, terminator: str, *, chomp: bool) -> str | None:
        """Read up to the line that is `terminator`; None when the file ends before it."""
        start = self.next
        while self.next < len(self.lines):
            line = self.lines[self.next].rstrip("\r")
            self.next += 1
            if (line.lstrip("\t") if chomp else line) == terminator:
                body = self.lines[start : self.next - 1]
                return "\n".join([*body, ""]) if body else ""
        return None


def split_words(text: str, escape: str, offset: int = 0) -> list[Word]:
    """Split at blanks outside quotes; quotes and escapes are kept for the expansion.

    `offset` is where `text` stands in its logical line.
    """
    return [
        Word(match.group(), match.start() + offset, match.end() + offset)
        for match in _word(escape).finditer(text)
    ]


def decode(text: str | bytes, path: str) -> list[str]:
    """Cut a file into its physical lines, the byte order mark removed.

    Raises InputError for a file or a line over its cap, and for what is not UTF-8 text.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if len(text) > DOCKERFILE_BYTES:
        raise InputError(
            f"the file has {len(text)} bytes; a Dockerfile may have {DOCKERFILE_BYTES // MIB} MiB",
            Location(path),
        )
    text = text.removeprefix(b"\xef\xbb\xbf")
    raw_lines = text.split(b"\n")
    longest = max(map(len, raw_lines))
    if longest > DOCKERFILE_LINE_BYTES:
        number = next(
            index for index, line in enumerate(raw_lines, 1) if len(line) > DOCKERFILE_LINE_BYTES
        )
        raise InputError(
            f"the line is longer than {DOCKERFILE_LINE_BYTES} bytes",
            Location(path, number),
            "put large text into a file and COPY it",
        )
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        before = text[: error.start]
        line_index = before.count(b"\n")
        shown = raw_lines[line_index].decode("utf-8", "replace").rstrip("\r")
        column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
        raise InputError(
            "the file is not UTF-8 text",
            Location(path, line_index + 1, column, 0, shown),
            "convert it, for instance with iconv",
        ) from None
    lines = decoded.split("\n")
    if "\0" in decoded:
        number, line_text = next(
            (index, line) for index, line in enumerate(lines, 1) if "\0" in line
        )
        column = line_text.index("\0") + 1
        shown = line_text.replace("\0", "\N{REPLACEMENT CHARACTER}").rstrip("\r")
        raise InputError("a NUL character", Location(path, number, column, 0, shown))
    return lines
