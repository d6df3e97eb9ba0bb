"""Knows how a Boxfile is laid out: indentation, blanks, quotes; must not know what its keys mean.

Works on the tokens of the text, so comments and the order of things stay. Two columns a level,
lists indented below their key, no blanks inside brackets, double quotes, one empty line at most.
A layout never changes meaning, for what comes out is read again and compared; where the two
differ, the text stays as it is.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct, field

from buildgraph.boxfile import yaml as nodes
from buildgraph.errors import InputError, raise_all

_STEP: Final = 2
_BLANK: Final = " \t"
_NO_BLANK_AFTER: Final = ("FlowMappingStartToken", "FlowSequenceStartToken")
_NO_BLANK_BEFORE: Final = ("FlowMappingEndToken", "FlowSequenceEndToken", "FlowEntryToken")
_ONE_BLANK_AFTER: Final = ("FlowEntryToken", "ValueToken", "BlockEntryToken")
_OPEN: Final = ("FlowMappingStartToken", "FlowSequenceStartToken")
_CLOSE: Final = ("FlowMappingEndToken", "FlowSequenceEndToken")
_BLOCK: Final = ("BlockMappingStartToken", "BlockSequenceStartToken")
_REQUOTED: Final = re.compile(r"[^\\\"'\x00-\x1f\x7f]*")  # the same text in either kind of quotes


class _Token(Struct, frozen=True):
    """One token; lines and columns count from 0."""

    kind: str
    line: int
    column: int
    end_line: int
    end_column: int
    style: str = ""

    @property
    def empty(self) -> bool:
        return (self.line, self.column) == (self.end_line, self.end_column)


class _Level(Struct):
    """A block collection: its column in the text, and the one it gets."""

    old: int
    new: int
    sequence: bool
    implied: bool = False  # a list at the column of its key, which has no token of its own


class _Layout(Struct):
    """What becomes of each line: the column it starts at, or how far it moves."""

    starts: dict[int, int] = field(default_factory=dict)
    moves: dict[int, int] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)  # lines inside a text: not a blank is touched


def format_boxfile(text: str, path: str = "Boxfile.yaml") -> str:
    """Return a Boxfile laid out anew; idempotent. Raises InputError for what is no YAML."""
    errors: list[InputError] = []
    before = nodes.compose(text, path, errors)
    raise_all(errors)
    normal = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for attempt in (_laid_out, _tidied):
        try:
            out = attempt(normal)
            if _meaning(nodes.compose(out, path, errors)) == _meaning(before) and not errors:
                return out
        except InputError:
            pass
        errors.clear()
    return text


def _meaning(node: nodes.Node | None) -> Any:
    """Return what a text says, without places; a number in quotes is not one without."""
    match node:
        case None:
            return None
        case nodes.Scalar():
            return (node.text, node.plain, node.style == "|")
        case nodes.Sequence():
            return [_meaning(item) for item in node.items]
        case _:
            return {entry.key.text: _meaning(entry.value) for entry in node.entries}


def _laid_out(text: str) -> str:
    tokens = _tokens(text)
    lines = text.split("\n")
    layout = _layout(tokens, lines)
    respaced = _respaced(tokens, lines, layout.kept)
    out: list[str] = []
    for number, line in enumerate(respaced):
        body = line.lstrip(_BLANK)
        old = len(lines[number]) - len(lines[number].lstrip(_BLANK))
        if number in layout.starts and body:
            line = " " * layout.starts[number] + body
        elif number in layout.moves and body:
            line = " " * max(0, old + layout.moves[number]) + body
        out.append(line if number in layout.kept else line.rstrip(_BLANK))
    return _without_gaps(out, layout.kept)


def _tidied(text: str) -> str:
    """Return a text without trailing blanks and gaps, where more would change its meaning."""
    tokens = _tokens(text)
    lines = text.split("\n")
    kept = _texts(tokens)
    tidy = [line if i in kept else line.rstrip(_BLANK) for i, line in enumerate(lines)]
    return _without_gaps(tidy, kept)


def _without_gaps(lines: list[str], kept: set[int]) -> str:
    out: list[str] = []
    for number, line in enumerate(lines):
        if not line and number not in kept and (not out or not out[-1]):
            continue
        out.append(line)
    while out and not out[-1]:
        out.pop()
    return "\n".join(out) + "\n" if out else ""


def _tokens(text: str) -> list[_Token]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    lines = [*text.split("\n"), ""]
    out = []
    for token in yaml.scan(text, Loader=loader):
        start, end = token.start_mark, token.end_mark
        style = getattr(token, "style", None) or ""
        kind = type(token).__name__
        end_line, end_column = end.line, end.column
        if (
            style in ("|", ">")
            and end_line > start.line
            and not lines[end_line][:end_column].strip()
        ):
            # The end of a block is where the next thing begins.
            end_line, end_column = end_line - 1, len(lines[end_line - 1])
        out.append(_Token(kind, start.line, start.column, end_line, end_column, style))
    return out


def _texts(tokens: list[_Token]) -> set[int]:
    """Return the lines that are inside a text of several lines, all but its first."""
    return {
        line
        for token in tokens
        if token.kind == "ScalarToken"
        for line in range(token.line + 1, token.end_line + 1)
    }


# -- where lines start -----------------------------------------------------------------


def _layout(tokens: list[_Token], lines: list[str]) -> _Layout:
    walk = _Walk(lines)
    for token in tokens:
        walk.take(token)
    _place_comments(walk.layout, lines, walk.seen)
    return walk.layout


class _Walk:
    """Goes through the tokens and says of each line where it starts."""

    def __init__(self, lines: list[str]):
        self.layout = _Layout()
        self.seen: set[int] = set()  # lines that have begun
        self._lines = lines
        self._levels: list[_Level] = []
        self._depth = 0  # of brackets
        self._shift = 0  # of the line that began last

    def take(self, token: _Token) -> None:
        """Take the next token."""
        inside = self._depth - (token.kind in _CLOSE)
        self._depth += (token.kind in _OPEN) - (token.kind in _CLOSE)
        if token.kind in _BLOCK and not inside:
            # A mapping behind its dash is one step in, as one below a key is.
            new = self._levels[-1].new + _STEP if self._levels else 0
            sequence = token.kind == "BlockSequenceStartToken"
            self._levels.append(_Level(token.column, new, sequence))
        elif token.kind == "BlockEndToken":
            while self._levels and self._levels.pop().implied:
                pass
        elif not token.empty:
            self._place(token, bool(inside))

    def _place(self, token: _Token, inside: bool) -> None:
        if not inside:
            self._change_level(token)
        if token.line not in self.seen:
            if inside or not self._levels:
                self.layout.moves[token.line] = self._shift
            else:
                new = self._levels[-1].new
                self.layout.starts[token.line] = new
                self._shift = new - token.column
        self.seen.update(range(token.line, token.end_line + 1))
        if token.kind == "ScalarToken" and token.end_line > token.line:
            above = self._levels[-1].new if self._levels else 0
            _move_text(token, above, self._lines, self.layout, self._shift)

    def _change_level(self, token: _Token) -> None:
        """Open and close the level of a list whose dashes stand below the key itself."""
        levels = self._levels
        dash = token.kind == "BlockEntryToken"
        if dash and levels and not levels[-1].sequence:
            levels.append(_Level(token.column, levels[-1].new + _STEP, True, implied=True))
        while levels and levels[-1].implied and not dash and token.column <= levels[-1].old:
            levels.pop()


def _move_text(token: _Token, above: int, lines: list[str], layout: _Layout, shift: int) -> None:
    """Say how far the lines of a text of several lines move."""
    numbers = range(token.line + 1, token.end_line + 1)
    if token.style not in ("|", ">"):
        for number in numbers:
            layout.moves[number] = shift
        return
    layout.kept.update(numbers)
    header = lines[token.line][token.column :].partition("#")[0]
    columns = [_indent(lines[n]) for n in numbers if lines[n].strip(" ")]
    move = shift
    if columns and not re.search(r"[0-9]", header):
        move = above + _STEP - columns[0]
    for number in numbers:
        if lines[number].strip(" ") or _indent(lines[number]) > (columns or [0])[0]:
            layout.moves[number] = move


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _place_comments(layout: _Layout, lines: list[str], seen: set[int]) -> None:
    """Give a comment the column of what it stands with: what is below it, else above it."""
    below = 0
    for number in reversed(range(len(lines))):
        if number in seen and (number in layout.starts or number in layout.moves):
            below = number
        elif lines[number].lstrip(_BLANK).startswith("#") and number not in layout.kept:
            column = _indent(lines[number])
            found = below if below > number else None
            if found is None or _indent(lines[found]) != column:
                above = _beside(layout, lines, number, column)
                found = above if above is not None else found
            if found is None:
                layout.starts[number] = 0
            elif found in layout.starts:
                layout.starts[number] = layout.starts[found]
            else:
                layout.moves[number] = layout.moves[found]


def _beside(layout: _Layout, lines: list[str], number: int, column: int) -> int | None:
    """Return the nearest line above that starts at a column, in the block that is open there."""
    for line in range(number - 1, -1, -1):
        if line in layout.starts and not lines[line].lstrip(_BLANK).startswith("#"):
            if _indent(lines[line]) == column:
                return line
            if _indent(lines[line]) < column:
                return None
    return None


# -- blanks and quotes within a line ---------------------------------------------------


def _respaced(tokens: list[_Token], lines: list[str], kept: set[int]) -> list[str]:
    """Return the lines with the blanks between tokens, and the quotes, as they should be."""
    pieces: dict[int, list[str]] = {}
    at: dict[int, int] = {}
    last: dict[int, _Token] = {}
    for token in tokens:
        if token.empty or token.kind in _BLOCK:
            continue
        line = lines[token.line]
        start = at.get(token.line, 0)
        gap = line[start : token.column]
        before = last.get(token.line)
        pieces.setdefault(token.line, []).append(_gap(gap, before, token))
        if token.end_line != token.line:
            pieces[token.line].append(line[token.column :])
            at[token.line] = len(line)
            at[token.end_line] = token.end_column
            pieces.setdefault(token.end_line, []).append(lines[token.end_line][: token.end_column])
            last[token.end_line] = token
        else:
            pieces[token.line].append(_requoted(line[token.column : token.end_column], token))
            at[token.line] = token.end_column
        last[token.line] = token
    out = list(lines)
    for number, parts in pieces.items():
        if number not in kept:
            out[number] = "".join(parts) + lines[number][at[number] :]
    return out


def _gap(gap: str, before: _Token | None, token: _Token) -> str:
    if before is None or gap.strip(" "):
        return gap
    if before.kind in _NO_BLANK_AFTER or token.kind in _NO_BLANK_BEFORE:
        return ""
    if token.kind == "ValueToken":
        # Behind an alias the colon would be part of its name.
        return "" if before.kind == "ScalarToken" else gap
    if before.kind in _ONE_BLANK_AFTER:
        return " "
    return gap and " "


def _requoted(written: str, token: _Token) -> str:
    if token.kind == "ScalarToken" and token.style == "'":
        body = written[1:-1]
        if _REQUOTED.fullmatch(body):
            return f'"{body}"'
    return written
