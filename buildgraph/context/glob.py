"""Knows what a file name pattern means, as Go's path.Match and moby's ignore files have it; must
not know which files there are.

A pattern is read into tokens once and then matched by code of our own whose time is bounded by
the product of both lengths (A09): no regular expression is ever made from somebody's text.
Inside one component `*` is matched by going back to the last star only, which is enough for
globs; the same holds for `**` among components. A `**` glued to other characters (`a**b`) is an
oddity of moby's patternmatcher and is matched by a set of states.

Different from moby on purpose: a class such as `[^a]` never matches a slash.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from msgspec import Struct

NameMatcher = Callable[[str], bool]


class BadPattern(ValueError):
    """A pattern that Go's path.Match calls malformed; the text says what is wrong with it."""


class Wild(enum.Enum):
    """A token that stands for any text."""

    ANY = "?"  # one character but a slash
    STAR = "*"  # any characters but slashes
    DEEP = "**"  # any components, also none; at the end of a pattern, at least one


class CharClass(Struct, frozen=True):
    """`[a-z]` or `[^a-z]`; never a slash."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def has(self, char: str) -> bool:
        """Say whether the class has `char`."""
        return char != "/" and any(low <= char <= high for low, high in self.ranges) != self.negated


class Lit(Struct, frozen=True):
    """One character that means itself; an escaped one too."""

    char: str


Token = Lit | CharClass | Wild
_SLASH = Lit("/")


def has_wildcards(text: str) -> bool:
    """Say whether `text` has an unescaped `*`, `?` or `[`."""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in "*?[":
            return True
    return False


def unescape(text: str) -> str:
    r"""Return `text` with `\x` read as `x`, as path.Match reads it."""
    out: list[str] = []
    chars = iter(text)
    for char in chars:
        out.append(next(chars, "\\") if char == "\\" else char)
    return "".join(out)


def tokens(pattern: str, *, deep: bool) -> tuple[Token, ...]:
    """Read a pattern; `**` is a token of its own where `deep`, else two stars in a row.

    Raises BadPattern.
    """
    out: list[Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if deep and pattern[at : at + 1] == "*":
                at += 1
                out.append(Wild.DEEP)
            elif not out or out[-1] is not Wild.STAR:
                out.append(Wild.STAR)
        elif char == "?":
            out.append(Wild.ANY)
        elif char == "[":
            token, at = _char_class(pattern, at)
            out.append(token)
        elif char == "\\":
            if at == len(pattern):
                raise BadPattern("it ends with a lone backslash")
            out.append(Lit(pattern[at]))
            at += 1
        else:
            out.append(Lit(char))
    return tuple(out)


def _char_class(pattern: str, at: int) -> tuple[CharClass, int]:
    """Read a class whose `[` is behind us; return it and the position after its `]`."""
    negated = pattern[at : at + 1] == "^"
    at += negated
    ranges: list[tuple[str, str]] = []
    while not (ranges and pattern[at : at + 1] == "]"):
        low, at = _class_char(pattern, at)
        high = low
        if pattern[at : at + 1] == "-":
            high, at = _class_char(pattern, at + 1)
        if low > high:
            raise BadPattern(f"the range {low}-{high} is the wrong way round")
        ranges.append((low, high))
    return CharClass(tuple(ranges), negated), at + 1


def _class_char(pattern: str, at: int) -> tuple[str, int]:
    if at >= len(pattern):
        raise BadPattern("a '[' is not closed")
    char = pattern[at]
    if char in "-]":
        raise BadPattern(f"{char!r} stands where a character of a class should be")
    if char == "\\":
        at += 1
        if at >= len(pattern):
            raise BadPattern("it ends with a lone backslash")
        char = pattern[at]
    return char, at + 1


# --- one component -----------------------------------------------------------------------------


def name_matcher(token_row: Sequence[Token]) -> NameMatcher:
    """Return a function that says whether a name (without slashes) matches the tokens.

    The shapes that nearly every pattern has are done by a string method.
    """
    literal = _literal(token_row)
    if literal is not None:
        return literal.__eq__
    stars = [at for at, token in enumerate(token_row) if token is Wild.STAR]
    if len(stars) == 1:
        head = _literal(token_row[: stars[0]])
        tail = _literal(token_row[stars[0] + 1 :])
        if head is not None and tail is not None:
            return _around(head, tail)
    row = tuple(token_row)
    return lambda name: _match_name(row, name)


def _around(head: str, tail: str) -> NameMatcher:
    if not head and not tail:
        return lambda name: True
    if not head:
        return lambda name: name.endswith(tail)
    if not tail:
        return lambda name: name.startswith(head)
    least = len(head) + len(tail)
    return lambda name: len(name) >= least and name.startswith(head) and name.endswith(tail)


def _literal(token_row: Sequence[Token]) -> str | None:
    chars = []
    for token in token_row:
        if not isinstance(token, Lit):
            return None
        chars.append(token.char)
    return "".join(chars)


def _takes(token: Token, char: str) -> bool:
    """Say whether a one-character token takes `char`."""
    if isinstance(token, Lit):
        return token.char == char
    if isinstance(token, CharClass):
        return token.has(char)
    return token is Wild.ANY and char != "/"


def _match_name(row: tuple[Token, ...], name: str) -> bool:
    at = where = 0
    star, star_where = -1, 0
    while where < len(name):
        if at < len(row) and row[at] is Wild.STAR:
            star, star_where = at, where
            at += 1
        elif at < len(row) and _takes(row[at], name[where]):
            at += 1
            where += 1
        elif star >= 0 and name[star_where] != "/":
            star_where += 1
            at, where = star + 1, star_where
        else:
            return False
    return all(token is Wild.STAR for token in row[at:])


def match(pattern: str, path: str) -> bool:
    """Say whether `path` matches, component by component, as Go's path.Match has it.

    Raises BadPattern, also where a mismatch was already clear.
    """
    return Components.read(pattern).matches(path.split("/"))


class Components(Struct, frozen=True):
    """A pattern without `**`, cut at its slashes."""

    names: tuple[NameMatcher, ...]
    literals: tuple[str | None, ...]  # the text of a component without wildcards

    @classmethod
    def read(cls, pattern: str) -> Components:
        """Read a pattern of path.Match. Raises BadPattern."""
        rows = _rows(tokens(pattern, deep=False))
        return cls(
            tuple(name_matcher(row) for row in rows),
            tuple(_literal(row) for row in rows),
        )

    def matches(self, path: Sequence[str]) -> bool:
        """Say whether a path, given as its components, matches."""
        return len(path) == len(self.names) and all(
            matcher(name) for matcher, name in zip(self.names, path, strict=True)
        )


def _rows(token_row: Sequence[Token]) -> list[list[Token]]:
    rows: list[list[Token]] = [[]]
    for token in token_row:
        if token == _SLASH:
            rows.append([])
        else:
            rows[-1].append(token)
    return rows


# --- with `**` ---------------------------------------------------------------------------------


class DeepPattern(Struct, frozen=True):
    """A pattern of an ignore file, of `--exclude` or of `--parents`.

    `steps` are its components, None for `**`; they are None as a whole where a `**` is glued to
    other characters, and then `glued` has the tokens.
    """

    text: str
    steps: tuple[NameMatcher | None, ...] | None
    literals: tuple[str | None, ...]
    glued: tuple[Token | _Loop, ...]

    @classmethod
    def read(cls, text: str) -> DeepPattern:
        """Read a cleaned pattern. Raises BadPattern."""
        row = tokens(text, deep=True)
        parts = _rows(row)
        if any(Wild.DEEP in part and len(part) > 1 for part in parts):
            return cls(text, None, (), _glued(row))
        steps = [None if part == [Wild.DEEP] else name_matcher(part) for part in parts]
        literals = [_literal(part) for part in parts]
        if steps[-1] is None:  # `a/**` is what lies below a, not a itself
            steps.append(_anything)
            literals.append(None)
        return cls(text, tuple(steps), tuple(literals), ())

    def matches(self, path: str) -> bool:
        """Say whether the path itself matches; its parents are the caller's to ask about."""
        if self.steps is None:
            return _match_glued(self.glued, path)
        return _match_steps(self.steps, path.split("/"))

    def may_match_below(self, path: str) -> bool:
        """Say whether something below the directory `path` ("" = the root) could match."""
        if self.steps is None or not path:
            return True
        live = {0}
        for name in path.split("/"):
            after: set[int] = set()
            for at in _reached(self.steps, live):
                step = self.steps[at]
                if step is None:
                    after.add(at)
                elif step(name):
                    after.add(at + 1)
            live = {at for at in after if at < len(self.steps)}
            if not live:
                return False
        return True


def _anything(name: str) -> bool:
    return True


def _reached(steps: tuple[NameMatcher | None, ...], live: set[int]) -> set[int]:
    """Return the steps that may take the next name, a `**` being free to take none."""
    out: set[int] = set()
    for at in live:
        out.add(at)
        while steps[at] is None:  # the last step is never a `**`
            at += 1
            out.add(at)
    return out


def _match_steps(steps: tuple[NameMatcher | None, ...], path: list[str]) -> bool:
    at = where = 0
    deep, deep_where = -1, 0
    while where < len(path):
        step = steps[at] if at < len(steps) else _nothing
        if step is None:
            deep, deep_where = at, where
            at += 1
        elif step(path[where]):
            at += 1
            where += 1
        elif deep >= 0:
            deep_where += 1
            at, where = deep + 1, deep_where
        else:
            return False
    return at == len(steps)


def _nothing(name: str) -> bool:
    return False


class _Loop(enum.Enum):
    """What a glued `**` becomes: states that take characters and stay."""

    ALL = ".*"
    DIRS = "(.*/)?"  # entered or passed over
    INSIDE = "within DIRS"


def _glued(row: tuple[Token, ...]) -> tuple[Token | _Loop, ...]:
    """Return states for a pattern with a glued `**`, each as moby's patternmatcher reads it.

    A trailing `**` takes anything; a leading one before plain text makes a suffix of the whole
    path; everywhere else, with the slash behind it, it takes whole components or nothing.
    """
    if row[0] is Wild.DEEP and _literal(row[1:]) is not None:
        return (_Loop.ALL, *row[1:])
    out: list[Token | _Loop] = []
    at = 0
    while at < len(row):
        token = row[at]
        at += 1
        if token is not Wild.DEEP:
            out.append(token)
        elif at == len(row):
            out.append(_Loop.ALL)
        else:
            out += (_Loop.DIRS, _Loop.INSIDE)
            at += row[at] == _SLASH
            if at == len(row):
                out.append(_Loop.ALL)
    return tuple(out)


def _match_glued(row: tuple[Token | _Loop, ...], path: str) -> bool:
    live = _spread(row, {0})
    for char in path:
        after: set[int] = set()
        for at in live:
            if at == len(row):
                continue
            token = row[at]
            if token is _Loop.ALL or (token is Wild.STAR and char != "/"):
                after.add(at)
            elif token is _Loop.INSIDE:
                after.update((at, at + 1) if char == "/" else (at,))
            elif not isinstance(token, _Loop) and _takes(token, char):
                after.add(at + 1)
        live = _spread(row, after)
        if not live:
            return False
    return len(row) in live


def _spread(row: tuple[Token | _Loop, ...], live: set[int]) -> set[int]:
    """Return all states that are reached from `live` without taking a character."""
    out: set[int] = set()
    todo = list(live)
    while todo:
        at = todo.pop()
        if at in out:
            continue
        out.add(at)
        if at == len(row):
            continue
        if row[at] is _Loop.DIRS:
            todo += (at + 1, at + 2)
        elif row[at] is Wild.STAR or row[at] is _Loop.ALL:
            todo.append(at + 1)
    return out
