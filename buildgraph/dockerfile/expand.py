"""Knows how the builder expands a word; must not know which instruction the word belongs to.

This is the builder's own small shell lexer, not sh: quotes are removed, `$name` and `${name...}`
are replaced, nothing else of a shell exists. Source: shared reference, sections 1.2 and 1.7.

Hostile words stay cheap: a value is capped while it grows, nesting has a depth, and the characters
that patterns may look at in one word are counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

from buildgraph.dockerfile import pattern
from buildgraph.dockerfile.wording import cut, quote
from buildgraph.errors import InputError, Location
from buildgraph.limits import (
    DOCKERFILE_BYTES,
    EXPANDED_VALUE_BYTES,
    EXPANSION_DEPTH,
    EXPANSION_PATTERN_WORK,
)

_SPECIAL = re.compile(r"""[$'"\\`]""")
_NAME = re.compile(r"\d+|[^\W\d]\w*|[@*#?$!-]")


class Expansion(Struct, frozen=True):
    """What a word became, every name it looked up, and the unset ones used without a fallback."""

    text: str
    used: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


def expand(word: str, env: Mapping[str, str], escape: str = "\\", *, where: Location) -> str:
    """Expand variables and remove quotes; blanks in the result do not split it.

    Raises InputError for bad syntax, `${x:?}` that fails, and a result over 64 KiB.
    """
    if _SPECIAL.search(word) is None and len(word) <= EXPANDED_VALUE_BYTES // 4:
        return word
    return _Expander(word, env, escape, where).text()


def expand_traced(
    word: str, env: Mapping[str, str], escape: str = "\\", *, where: Location
) -> Expansion:
    """Expand like `expand` and say which names were looked up, in order of first use."""
    expander = _Expander(word, env, escape, where)
    text = expander.text()
    return Expansion(text, tuple(expander.used), tuple(expander.unset))


def expand_words(
    word: str, env: Mapping[str, str], escape: str = "\\", *, where: Location
) -> list[str]:
    """Expand, then split at blanks that are neither quoted nor escaped (EXPOSE)."""
    return _Expander(word, env, escape, where).words()


def heredoc_expand(body: str, env: Mapping[str, str], *, where: Location) -> str:
    r"""Expand the body of a COPY or ADD heredoc: quotes stay, the escape is always `\`.

    Raises InputError like `expand`, but the result may be as long as a whole file.
    """
    return heredoc_expand_traced(body, env, where=where).text


def heredoc_expand_traced(body: str, env: Mapping[str, str], *, where: Location) -> Expansion:
    """Expand like `heredoc_expand` and say which names were looked up."""
    expander = _Expander(
        body, env, "\\", where, quotes=False, limit=DOCKERFILE_BYTES, what="the heredoc"
    )
    text = expander.text()
    return Expansion(text, tuple(expander.used), tuple(expander.unset))


def referenced(
    word: str, escape: str = "\\", *, where: Location, is_heredoc: bool = False
) -> tuple[str, ...]:
    """Name the variables that a word looks up, whatever their values; a broken word names none."""
    if "$" not in word:
        return ()
    try:
        if is_heredoc:
            return heredoc_expand_traced(word, _AllSet(), where=where).used
        return expand_traced(word, _AllSet(), escape, where=where).used
    except InputError:
        return ()


class _AllSet(dict[str, str]):
    """An environment in which no `${x:?}` fails."""

    def get(self, key: str, default: object = None) -> str:
        return "x"


@lru_cache(maxsize=16)
def _plain_run(escape: str, stop: str, quotes: bool) -> re.Pattern[str]:
    special = "$" + escape + stop + ("'\"" if quotes else "")
    return re.compile("[^" + re.escape(special) + "]+")


class _Expander:
    """One pass over one word; `position` only moves forward."""

    __slots__ = (
        "depth",
        "end",
        "env",
        "escape",
        "limit",
        "position",
        "quotes",
        "source",
        "unset",
        "used",
        "what",
        "where",
        "work",
    )

    def __init__(
        self,
        source: str,
        env: Mapping[str, str],
        escape: str,
        where: Location,
        *,
        quotes: bool = True,
        limit: int = EXPANDED_VALUE_BYTES,
        what: str = "",
    ):
        self.source = source
        self.env = env
        self.escape = escape
        self.where = where
        self.quotes = quotes
        self.limit = limit
        self.what = what
        self.position = 0
        self.end = len(source)
        self.depth = 0
        self.work = 0
        self.used: dict[str, None] = {}  # a dict as an ordered set
        self.unset: dict[str, None] = {}

    def text(self) -> str:
        return "".join(piece for piece, _ in self._checked())

    def words(self) -> list[str]:
        words: list[str] = []
        current = ""
        for piece, splits in self._checked():
            if not splits or not piece:
                current += piece
                continue
            parts = piece.split()
            if current and (not parts or piece[0].isspace()):
                words.append(current)
                current = ""
            if not parts:
                continue
            parts[0] = current + parts[0]
            current = "" if piece[-1].isspace() else parts.pop()
            words += parts
        if current:
            words.append(current)
        return words

    def _checked(self) -> list[tuple[str, bool]]:
        pieces = self._walk("", keep_escapes=False)
        if self._size(pieces) > self.limit:
            raise self._too_long()
        return pieces

    def _size(self, pieces: list[tuple[str, bool]]) -> int:
        return sum(
            len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
            for piece, _ in pieces
        )

    def _walk(self, stop: str, *, keep_escapes: bool) -> list[tuple[str, bool]]:
        """Pieces up to `stop` (which is consumed), each with whether its blanks split words."""
        source, escape = self.source, self.escape
        plain = _plain_run(escape, stop, self.quotes).match
        pieces: list[tuple[str, bool]] = []
        size = 0
        while self.position < self.end:
            run = plain(source, self.position)
            if run is not None:
                piece, splits = run.group(), True
                self.position = run.end()
            else:
                character = source[self.position]
                if character == stop:
                    self.position += 1
                    return pieces
                if character == "$":
                    piece, splits = self._dollar(), True
                elif character == escape:
                    piece, splits = self._escaped(keep_escapes), False
                elif character == "'":
                    piece, splits = self._single_quoted(), False
                else:
                    piece, splits = self._double_quoted(keep_escapes), False
            size += len(piece)
            if size > self.limit:
                raise self._too_long()
            pieces.append((piece, splits))
        if stop:
            raise self._error(f"missing '{stop}' in ${{...}}")
        return pieces

    def _escaped(self, keep: bool) -> str:
        """The escape takes the next character literally; alone at the end it vanishes."""
        escaped = self.source[self.position + 1 : self.position + 2]
        self.position += 2
        return self.escape + escaped if keep else escaped

    def _single_quoted(self) -> str:
        close = self.source.find("'", self.position + 1)
        if close < 0:
            raise self._error("missing closing single quote")
        text = self.source[self.position + 1 : close]
        self.position = close + 1
        return text

    def _double_quoted(self, keep_escapes: bool) -> str:
        source, escape = self.source, self.escape
        plain = _plain_run(escape, '"', False).match
        pieces: list[str] = []
        size = 0
        self.position += 1
        while self.position < self.end:
            run = plain(source, self.position)
            if run is not None:
                piece = run.group()
                self.position = run.end()
            elif source[self.position] == '"':
                self.position += 1
                return "".join(pieces)
            elif source[self.position] == "$":
                piece = self._dollar()
            else:
                piece = self._escaped_in_quotes(keep_escapes)
            size += len(piece)
            if size > self.limit:
                raise self._too_long()
            pieces.append(piece)
        raise self._error("missing closing double quote")

    def _escaped_in_quotes(self, keep: bool) -> str:
        """Inside double quotes only `"`, `$` and the escape itself can be escaped."""
        following = self.source[self.position + 1 : self.position + 2]
        if following and following in ('"', "$", self.escape):
            self.position += 2
            return self.escape + following if keep else following
        self.position += 1
        return self.escape + self.escape if keep else self.escape

    def _dollar(self) -> str:
        self.position += 1
        if not self.source.startswith("{", self.position):
            name = self._name()
            return self._get(name, guarded=False) or "" if name else "$"
        self.position += 1
        if self.position >= self.end:
            raise self._error("missing '}' in ${...}")
        if self.source[self.position] in "{}:":
            raise self._error("bad substitution")
        name = self._name()
        if not name:
            raise self._error(
                f"bad substitution: {quote(self.source[self.position])} starts no variable name"
            )
        if self.position >= self.end:
            raise self._error("missing '}' in ${...}")
        self.depth += 1
        if self.depth > EXPANSION_DEPTH:
            raise self._error(f"variables nest more than {EXPANSION_DEPTH} deep")
        value = self._braced(name)
        self.depth -= 1
        return value

    def _braced(self, name: str) -> str:
        """What follows `${name`."""
        self.used[name] = None  # before the names inside its own word
        operator = self.source[self.position]
        self.position += 1
        if operator == "}":
            return self._get(name, guarded=False) or ""
        if operator == "/":
            return self._replacement(name)
        colon = operator == ":"
        if colon:
            operator = self.source[self.position : self.position + 1]
            self.position += 1
        if operator and operator in "-+?":
            return self._conditional(name, operator, colon)
        if operator and operator in "#%" and not colon:
            return self._stripped(name, operator)
        raise self._error(
            f"unsupported modifier ({':' if colon else ''}{operator}) in ${{{cut(name)}...}}"
        )

    def _conditional(self, name: str, operator: str, colon: bool) -> str:
        word = self._part("}")
        value = self._get(name, guarded=True)
        missing = value is None or (colon and not value)
        if operator == "-":
            return word if missing or value is None else value
        if operator == "+":
            return "" if missing else word
        if missing or value is None:
            default = "is not allowed to be " + ("unset" if value is None else "empty")
            raise InputError(f"{cut(name)}: {cut(word or default, 500)}", self.where)
        return value

    def _stripped(self, name: str, operator: str) -> str:
        word = self._part("}", keep_escapes=True)
        longest = word.startswith(operator)
        chunks = self._pattern(word[1:] if longest else word)
        value = self._get(name, guarded=False) or ""
        self._count_work(value)
        strip = pattern.strip_prefix if operator == "#" else pattern.strip_suffix
        return strip(chunks, value, longest=longest)

    def _replacement(self, name: str) -> str:
        everywhere = self.source.startswith("/", self.position)
        if everywhere:
            self.position += 1
        chunks = self._pattern(self._part("/", keep_escapes=True))
        replacement = self._part("}", keep_escapes=True)
        value = self._get(name, guarded=False) or ""
        self._count_work(value)
        try:
            return pattern.replace(
                chunks, value, replacement, everywhere=everywhere, limit=self.limit
            )
        except pattern.PatternTooLong:
            raise self._too_long() from None

    def _part(self, stop: str, *, keep_escapes: bool = False) -> str:
        return "".join(piece for piece, _ in self._walk(stop, keep_escapes=keep_escapes))

    def _pattern(self, text: str) -> list[pattern.Chunk]:
        self._count_work(text)
        try:
            return pattern.compile_pattern(text)
        except ValueError as error:
            raise self._error(str(error)) from None

    def _name(self) -> str:
        match = _NAME.match(self.source, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match.group()

    def _get(self, name: str, *, guarded: bool) -> str | None:
        self.used[name] = None
        value = self.env.get(name)
        if value is None and not guarded:
            self.unset[name] = None
        return value

    def _count_work(self, text: str) -> None:
        self.work += len(text)
        if self.work > EXPANSION_PATTERN_WORK:
            raise self._error("its patterns look at too much text")

    def _too_long(self) -> InputError:
        return self._error(
            f"the result is longer than {self.limit // 1024} KiB",
            hint="pass large text as a file, by COPY or by a heredoc",
        )

    def _error(self, reason: str, hint: str | None = None) -> InputError:
        return InputError(
            f"cannot expand {self.what or quote(self.source)}: {reason}", self.where, hint
        )
