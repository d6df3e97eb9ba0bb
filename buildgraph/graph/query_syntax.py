"""Knows how a query is written: text -> expression as data, every part with its place; must not
know what any word or function stands for.

Source: Bazel's query language ("The Bazel Query Reference", grammar): all operators bind equally
and to the left, `let` reaches as far to the right as it can, words that hold other characters are
quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

from buildgraph.errors import InputError, Location

CHARACTERS: Final = 100_000
_DEPTH: Final = 100

# `=` and `,` belong to a word behind `@`: //app:compat@py=3.12; a comma must be followed by a pair.
_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<quoted>"[^"]*"|'[^']*')
      | (?P<mark>[()+^=,|-])
      | (?P<word>[A-Za-z0-9_*/.:$~\[\]%][A-Za-z0-9_*/.:$~\[\]%-]*
                 (?:@[A-Za-z0-9_*/.:$~=%-]*(?:,[A-Za-z_][A-Za-z0-9_-]*=[A-Za-z0-9_.~-]+)*)*)
    """,
    re.VERBOSE,
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Operator = Literal["union", "intersect", "except"]
_OPERATORS: Final[dict[str, Operator]] = {
    "+": "union",
    "|": "union",
    "union": "union",
    "^": "intersect",
    "intersect": "intersect",
    "-": "except",
    "except": "except",
}
_KEYWORDS: Final = frozenset(("union", "intersect", "except", "let", "in", "set"))


class Span(Struct, frozen=True):
    """Where a part stands: characters `start` to `end` (exclusive), counted from 0."""

    start: int
    end: int


class Word(Struct, frozen=True):
    """A label, a pattern, a number, a regular expression: what it is depends on where it stands."""

    text: str
    span: Span


class Variable(Struct, frozen=True):
    """`$name`, bound by a `let` around it."""

    name: str
    span: Span


class Let(Struct, frozen=True):
    """`let name = value in body`."""

    name: str
    value: Expression
    body: Expression
    span: Span


class Chain(Struct, frozen=True):
    """`first op x op y ...`, taken from left to right."""

    first: Expression
    rest: tuple[tuple[Operator, Expression], ...]
    span: Span


class SetOf(Struct, frozen=True):
    """`set(a b c)`."""

    words: tuple[Word, ...]
    span: Span


class Call(Struct, frozen=True):
    """`name(argument, ...)`; `span` is the name's."""

    name: str
    arguments: tuple[Expression, ...]
    span: Span


Expression = Word | Variable | Let | Chain | SetOf | Call


class Source:
    """The text of a query; makes errors that point into it."""

    def __init__(self, text: str):
        self.text = text

    def error(self, message: str, span: Span, hint: str | None = None) -> InputError:
        """Return the error for a part of the text, with its line and columns."""
        before = self.text[: span.start]
        line = before.count("\n") + 1
        start = before.rfind("\n") + 1
        end = self.text.find("\n", start)
        shown = self.text[start : len(self.text) if end < 0 else end]
        column = span.start - start + 1
        last = min(max(span.end - start + 1, column + 1), len(shown) + 2)
        return InputError(message, Location("query", line, column, last, shown), hint)


def parse_query(text: str) -> Expression:
    """Return the expression that `text` is. Raises InputError that points into the text."""
    if len(text) > CHARACTERS:
        raise InputError(f"the query is longer than {CHARACTERS} characters")
    source = Source(text)
    return _Parser(source, _tokens(source)).whole()


def words_of(expression: Expression) -> Iterator[str]:
    """Yield every word of an expression, whatever it stands for."""
    match expression:
        case Word(text, _):
            yield text
        case SetOf(words, _):
            yield from (word.text for word in words)
        case Let(_, value, body, _):
            yield from words_of(value)
            yield from words_of(body)
        case Chain(first, rest, _):
            yield from words_of(first)
            for _, operand in rest:
                yield from words_of(operand)
        case Call(_, arguments, _):
            for argument in arguments:
                yield from words_of(argument)
        case Variable():
            return


class _Token(Struct, frozen=True):
    kind: Literal["word", "quoted", "mark", "end"]
    text: str
    span: Span


def _tokens(source: Source) -> list[_Token]:
    out: list[_Token] = []
    at = 0
    text = source.text
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            span = Span(at, at + 1)
            if text[at] in "\"'":
                raise source.error("the quote is not closed", span)
            raise source.error(
                f"{text[at]!r} cannot stand here", span, "put words with other characters in quotes"
            )
        span = Span(at, found.end())
        at = found.end()
        kind = found.lastgroup
        if kind == "quoted":
            out.append(_Token("quoted", found.group()[1:-1], span))
        elif kind == "mark":
            out.append(_Token("mark", found.group(), span))
        elif kind == "word":
            out.append(_Token("word", found.group(), span))
    out.append(_Token("end", "", Span(len(text), len(text))))
    return out


class _Parser:
    """Recursive descent with a limit to how deep."""

    def __init__(self, source: Source, tokens: list[_Token]):
        self._source = source
        self._tokens = tokens
        self._at = 0

    def whole(self) -> Expression:
        if self._ended():
            raise self._source.error("the query is empty", self._here.span, "try: deps(//...)")
        found = self._expression(0)
        if not self._ended():
            raise self._unexpected("an operator (+ - ^, union except intersect) or the end")
        return found

    @property
    def _here(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _ended(self) -> bool:
        return self._tokens[self._at].kind == "end"

    def _is(self, text: str) -> bool:
        return self._here.text == text and self._here.kind in ("word", "mark")

    def _expect(self, text: str) -> _Token:
        if not self._is(text):
            raise self._unexpected(repr(text))
        return self._take()

    def _unexpected(self, wanted: str) -> InputError:
        token = self._here
        found = "the query ends" if token.kind == "end" else f"found {token.text!r}"
        return self._source.error(f"expected {wanted}, {found}", token.span)

    def _expression(self, depth: int) -> Expression:
        if depth > _DEPTH:
            raise self._source.error(f"nested deeper than {_DEPTH}", self._here.span)
        first = self._operand(depth)
        rest: list[tuple[Operator, Expression]] = []
        while self._here.kind != "quoted" and (op := _OPERATORS.get(self._here.text)):
            self._take()
            rest.append((op, self._operand(depth)))
        if not rest:
            return first
        return Chain(first, tuple(rest), Span(first.span.start, rest[-1][1].span.end))

    def _operand(self, depth: int) -> Expression:
        token = self._here
        if token.kind == "quoted":
            self._take()
            return Word(token.text, token.span)
        if self._is("("):
            self._take()
            found = self._expression(depth + 1)
            self._expect(")")
            return found
        if token.kind != "word" or (token.text in _KEYWORDS and token.text not in ("let", "set")):
            raise self._unexpected("a label, a pattern or a function")
        self._take()
        if token.text == "let":
            return self._let(token, depth)
        if token.text.startswith("$"):
            return Variable(token.text[1:], token.span)
        if self._is("(") and _NAME.fullmatch(token.text):
            self._take()
            return self._set(token) if token.text == "set" else self._call(token, depth)
        if token.text == "set":
            raise self._unexpected("'('")
        return Word(token.text, token.span)

    def _let(self, start: _Token, depth: int) -> Let:
        name = self._take()
        if name.kind != "word" or not _NAME.fullmatch(name.text) or name.text in _KEYWORDS:
            raise self._source.error("expected the name of a variable", name.span)
        self._expect("=")
        value = self._expression(depth + 1)
        self._expect("in")
        body = self._expression(depth + 1)
        return Let(name.text, value, body, Span(start.span.start, body.span.end))

    def _set(self, start: _Token) -> SetOf:
        words: list[Word] = []
        while self._here.kind in ("word", "quoted"):
            token = self._take()
            words.append(Word(token.text, token.span))
        end = self._expect(")")
        return SetOf(tuple(words), Span(start.span.start, end.span.end))

    def _call(self, name: _Token, depth: int) -> Call:
        arguments: list[Expression] = []
        while not self._is(")"):
            arguments.append(self._expression(depth + 1))
            if not self._is(","):
                break
            self._take()
        self._expect(")")
        return Call(name.text, tuple(arguments), name.span)
