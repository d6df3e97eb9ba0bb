"""Knows regular expressions that are matched in time proportional to the text, whatever they are;
must not know what is searched with them.

Python's `re` tries one way after the other, so that `(a+)+$` takes ages on a short text. Here all
ways are followed at once (Thompson 1968): literals, `.`, classes, `\\d \\w \\s` and their
opposites, groups, `|`, `* + ? {m,n}` (lazy ones too: the answer is the same), `^`, `$`. What needs
more (backreferences, look-around) is refused in words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

CHARACTERS: Final = 1000
STATES: Final = 20_000
_DEPTH: Final = 50
_CACHE: Final = 4096

Test = Callable[[str], bool]
_SETS: Final[dict[str, Test]] = {
    "d": lambda c: c.isdecimal(),
    "w": lambda c: c.isalnum() or c == "_",
    "s": lambda c: c.isspace(),
    "D": lambda c: not c.isdecimal(),
    "W": lambda c: not (c.isalnum() or c == "_"),
    "S": lambda c: not c.isspace(),
}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}


class BadRegex(ValueError):
    """The text is no expression of this kind; `at` is where it goes wrong."""

    def __init__(self, message: str, at: int):
        super().__init__(message)
        self.at = at


class _Char(Struct, frozen=True):
    test: Test


class _Anchor(Struct, frozen=True):
    end: bool


class _Sequence(Struct, frozen=True):
    parts: tuple[_Part, ...]


class _Either(Struct, frozen=True):
    parts: tuple[_Part, ...]


class _Repeat(Struct, frozen=True):
    part: _Part
    low: int
    high: int | None


_Part = _Char | _Anchor | _Sequence | _Either | _Repeat


class Regex:
    """One expression, ready to search with."""

    def __init__(self, text: str):
        """Read an expression. Raises BadRegex."""
        if len(text) > CHARACTERS:
            raise BadRegex(f"the expression is longer than {CHARACTERS} characters", CHARACTERS)
        # A state is (test, next) or (anchor, next) or (None, nexts).
        self._tests: list[Test | None] = []
        self._anchors: list[bool | None] = []
        self._next: list[tuple[int, ...]] = []
        self._final = self._state(None, None, ())
        self._start = self._build(_Parser(text).whole(), self._final)
        self._moves: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        self._first = self._closed({self._start}, at_start=True)
        self._later = self._closed({self._start}, at_start=False)

    def search(self, text: str) -> bool:
        """Say whether it matches anywhere in `text`."""
        live = self._first
        if self._final in live:
            return True
        for char in text:
            live = self._move(live, char)
            if self._final in live:
                return True
        return self._at_end(live, at_start=not text)

    # -- running -----------------------------------------------------------------------------

    def _move(self, live: frozenset[int], char: str) -> frozenset[int]:
        found = self._moves.get((live, char))
        if found is None:
            reached: set[int] = set()
            for state in live:
                test = self._tests[state]
                if test is not None and test(char):
                    reached.update(self._next[state])
            found = self._closed(reached, at_start=False) | self._later
            if len(self._moves) < _CACHE:
                self._moves[live, char] = found
        return found

    def _closed(self, states: set[int], *, at_start: bool, at_end: bool = False) -> frozenset[int]:
        seen = set(states)
        work = list(states)
        while work:
            state = work.pop()
            if self._tests[state] is not None:
                continue
            anchor = self._anchors[state]
            if anchor is None or (at_end if anchor else at_start):
                for other in self._next[state]:
                    if other not in seen:
                        seen.add(other)
                        work.append(other)
        return frozenset(seen)

    def _at_end(self, live: frozenset[int], *, at_start: bool) -> bool:
        return self._final in self._closed(set(live), at_start=at_start, at_end=True)

    # -- building ----------------------------------------------------------------------------

    def _state(self, test: Test | None, anchor: bool | None, after: tuple[int, ...]) -> int:
        if len(self._next) >= STATES:
            raise BadRegex("the expression is too large once its repetitions are written out", 0)
        self._tests.append(test)
        self._anchors.append(anchor)
        self._next.append(after)
        return len(self._next) - 1

    def _build(self, part: _Part, after: int) -> int:
        match part:
            case _Char(test):
                return self._state(test, None, (after,))
            case _Anchor(end):
                return self._state(None, end, (after,))
            case _Sequence(parts):
                for single in reversed(parts):
                    after = self._build(single, after)
                return after
            case _Either(parts):
                return self._state(None, None, tuple(self._build(p, after) for p in parts))
            case _Repeat(single, low, high):
                return self._repeat(single, low, high, after)

    def _repeat(self, part: _Part, low: int, high: int | None, after: int) -> int:
        if high is None:
            loop = self._state(None, None, ())
            self._next[loop] = (self._build(part, loop), after)
            after = loop
        else:
            leave = after
            for _ in range(high - low):
                after = self._state(None, None, (self._build(part, after), leave))
        for _ in range(low):
            after = self._build(part, after)
        return after


class _Parser:
    """Reads one expression from left to right."""

    def __init__(self, text: str):
        self.text = text
        self.at = 0

    def whole(self) -> _Part:
        part = self.either(0)
        if self.at < len(self.text):
            raise BadRegex("')' without '('", self.at)
        return part

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def either(self, depth: int) -> _Part:
        if depth > _DEPTH:
            raise BadRegex(f"groups are nested deeper than {_DEPTH}", self.at)
        branches = [self.sequence(depth)]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.sequence(depth))
        return branches[0] if len(branches) == 1 else _Either(tuple(branches))

    def sequence(self, depth: int) -> _Part:
        parts: list[_Part] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated(self.atom(depth)))
        return _Sequence(tuple(parts))

    def repeated(self, part: _Part) -> _Part:
        bounds = self.bounds()
        if bounds is None:
            return part
        if isinstance(part, _Anchor):
            raise BadRegex("there is nothing to repeat", self.at - 1)
        if self.peek() == "+":
            raise BadRegex("possessive repetitions are not known here", self.at)
        if self.peek() == "?":
            self.at += 1  # lazy: says how much matches, never whether
        if self.bounds() is not None:
            raise BadRegex("one repetition after another", self.at - 1)
        return _Repeat(part, *bounds)

    def bounds(self) -> tuple[int, int | None] | None:
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self.peek())
        if simple is not None:
            self.at += 1
            return simple
        if self.peek() != "{":
            return None
        end = self.text.find("}", self.at)
        inside = self.text[self.at + 1 : end] if end > 0 else ""
        low, comma, high = inside.partition(",")
        if not inside or not all((n.isdecimal() and n.isascii()) or not n for n in (low, high)):
            return None
        if not low and not high:
            return None
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
        if least > CHARACTERS or (most is not None and (most < least or most > CHARACTERS)):
            raise BadRegex("a repetition counts up, to a thousand at most", self.at)
        self.at = end + 1
        return least, most

    def atom(self, depth: int) -> _Part:
        char = self.peek()
        start = self.at
        self.at += 1
        match char:
            case "(":
                return self.group(depth, start)
            case "[":
                return self.char_class(start)
            case ".":
                return _Char(lambda c: c != "\n")
            case "^":
                return _Anchor(end=False)
            case "$":
                return _Anchor(end=True)
            case "\\":
                return _Char(self.escape(start))
            case "*" | "+" | "?":
                raise BadRegex("there is nothing to repeat", start)
            case _:
                return _Char(_is(char))

    def group(self, depth: int, start: int) -> _Part:
        if self.peek() == "?":
            if self.text[self.at : self.at + 2] != "?:":
                raise BadRegex("groups that look around or have a name are not known here", start)
            self.at += 2
        part = self.either(depth + 1)
        if self.peek() != ")":
            raise BadRegex("'(' without ')'", start)
        self.at += 1
        return part

    def escape(self, start: int) -> Test:
        char = self.peek()
        if not char:
            raise BadRegex("a backslash at the end", start)
        self.at += 1
        if char in _SETS:
            return _SETS[char]
        if char in _ESCAPES:
            return _is(_ESCAPES[char])
        if char.isalnum():
            raise BadRegex(f"'\\{char}' is not known here", start)
        return _is(char)

    def char_class(self, start: int) -> _Part:
        negated = self.peek() == "^"
        self.at += negated
        tests: list[Test] = []
        first = True
        while first or self.peek() != "]":
            if not self.peek():
                raise BadRegex("'[' without ']'", start)
            tests.append(self.class_item())
            first = False
        self.at += 1
        found = tuple(tests)
        return _Char(lambda c: any(test(c) for test in found) is not negated)

    def class_item(self) -> Test:
        start = self.at
        low = self.peek()
        self.at += 1
        if low == "\\":
            char = self.peek()
            test = self.escape(start)
            if char in _SETS:
                return test
            low = _ESCAPES.get(char, char)
        if self.peek() != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return _is(low)
        self.at += 1
        high = self.peek()
        self.at += 1
        if high == "\\":
            char = self.peek()
            self.escape(self.at - 1)
            if char in _SETS:
                raise BadRegex(f"'\\{char}' is no end of a range", start)
            high = _ESCAPES.get(char, char)
        if high < low:
            raise BadRegex(f"the range {low}-{high} is empty", start)
        return lambda c: low <= c <= high


def _is(char: str) -> Test:
    return lambda c: c == char
