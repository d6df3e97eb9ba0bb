"""Knows what a query means: expression -> set of names, over any universe of things that need each
other; must not know what the things are or where they come from.

Functions: deps, rdeps, allpaths, somepath, kind, attr, filter. Sets: union +, intersect ^,
except -, set(...), let. What a word names, the universe says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol, assert_never

from buildgraph.errors import InputError, did_you_mean
from buildgraph.graph.dag import Dag
from buildgraph.graph.query_regex import BadRegex, Regex
from buildgraph.graph.query_syntax import (
    Call,
    Chain,
    Expression,
    Let,
    SetOf,
    Source,
    Span,
    Variable,
    Word,
    parse_query,
)

Names = frozenset[str]


class Universe(Protocol):
    """The things that can be asked about."""

    def find(self, pattern: str) -> Names:
        """Return what a word of the query names. Raises InputError."""

    def graph(self, names: Names) -> Dag:
        """Return a graph that holds these names and everything they need. Raises InputError."""

    def kind(self, name: str) -> tuple[str, ...]:
        """Return the words for what sort of thing it is."""

    def attribute(self, name: str, attribute: str) -> tuple[str, ...] | None:
        """Return the values of an attribute as text; None where the thing has no such one."""


class Evaluation:
    """One query over one universe; keeps the graph of the answer for those who print it."""

    def __init__(self, text: str, universe: Universe):
        """Read the query. Raises InputError that points into it."""
        self._expression = parse_query(text)
        self._source = Source(text)
        self._universe = universe

    def run(self) -> Names:
        """Return the answer. Raises InputError."""
        return self._eval(self._expression, {})

    def order(self, names: Names) -> list[str]:
        """Return names each after what it needs; equals are sorted as text."""
        return self._universe.graph(names).order(names)

    # -- expressions -------------------------------------------------------------------------

    def _eval(self, expression: Expression, bound: Mapping[str, Names]) -> Names:
        match expression:
            case Word(text, span):
                return self._find(text, span)
            case SetOf(words, _):
                return frozenset().union(*(self._find(w.text, w.span) for w in words))
            case Variable(name, span):
                if name not in bound:
                    hint = did_you_mean(name, bound) or "bind it first: let x = ... in ..."
                    raise self._source.error(f"there is no variable ${name}", span, hint)
                return bound[name]
            case Let(name, value, body, _):
                return self._eval(body, {**bound, name: self._eval(value, bound)})
            case Chain():
                return self._chain(expression, bound)
            case Call():
                return self._call(expression, bound)
            case _:
                assert_never(expression)

    def _chain(self, chain: Chain, bound: Mapping[str, Names]) -> Names:
        found = set(self._eval(chain.first, bound))
        for operator, operand in chain.rest:
            other = self._eval(operand, bound)
            if operator == "union":
                found |= other
            elif operator == "intersect":
                found &= other
            else:
                found -= other
        return frozenset(found)

    def _find(self, text: str, span: Span) -> Names:
        try:
            return self._universe.find(text)
        except InputError as error:
            if error.where is not None:
                raise  # of a Boxfile: it has a better place
            raise self._source.error(error.message, span, error.hint) from error

    # -- functions ---------------------------------------------------------------------------

    def _call(self, call: Call, bound: Mapping[str, Names]) -> Names:
        function = _FUNCTIONS.get(call.name)
        if function is None:
            hint = did_you_mean(call.name, _FUNCTIONS) or "functions: " + ", ".join(_FUNCTIONS)
            raise self._source.error(f"there is no function {call.name!r}", call.span, hint)
        least, most, shape, run = function
        if not least <= len(call.arguments) <= most:
            raise self._source.error(
                f"{call.name} takes {_count(least, most)}, {len(call.arguments)} given",
                call.span,
                f"write {call.name}({shape})",
            )
        return run(self, call, bound)

    def _deps(self, call: Call, bound: Mapping[str, Names]) -> Names:
        start = self._eval(call.arguments[0], bound)
        return frozenset(self._universe.graph(start).below(start, self._depth(call, 1)))

    def _rdeps(self, call: Call, bound: Mapping[str, Names]) -> Names:
        universe = self._eval(call.arguments[0], bound)
        names = self._eval(call.arguments[1], bound)
        graph = self._universe.graph(universe)
        within = graph.below(universe)  # Bazel: the transitive closure of the universe
        return frozenset(graph.above(names, self._depth(call, 2), within))

    def _all_paths(self, call: Call, bound: Mapping[str, Names]) -> Names:
        starts, ends = (self._eval(argument, bound) for argument in call.arguments)
        return frozenset(self._universe.graph(starts).between(starts, ends))

    def _some_path(self, call: Call, bound: Mapping[str, Names]) -> Names:
        starts, ends = (self._eval(argument, bound) for argument in call.arguments)
        return frozenset(self._universe.graph(starts).some_path(starts, ends))

    def _kind(self, call: Call, bound: Mapping[str, Names]) -> Names:
        regex = self._regex(call.arguments[0])
        kind = self._universe.kind
        return frozenset(
            name
            for name in self._eval(call.arguments[1], bound)
            if any(regex.search(text) for text in kind(name))
        )

    def _filter(self, call: Call, bound: Mapping[str, Names]) -> Names:
        regex = self._regex(call.arguments[0])
        return frozenset(n for n in self._eval(call.arguments[1], bound) if regex.search(n))

    def _attr(self, call: Call, bound: Mapping[str, Names]) -> Names:
        attribute = self._text(call.arguments[0], "the name of an attribute")
        regex = self._regex(call.arguments[1])
        out: list[str] = []
        for name in self._eval(call.arguments[2], bound):
            values = self._universe.attribute(name, attribute)
            if values is not None and any(regex.search(text) for text in values):
                out.append(name)
        return frozenset(out)

    # -- arguments that are no sets ------------------------------------------------------------

    def _depth(self, call: Call, index: int) -> int | None:
        if len(call.arguments) <= index:
            return None
        text = self._text(call.arguments[index], "a number")
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise self._source.error(
                f"a depth is a whole number, not {text!r}", call.arguments[index].span
            )
        return int(text)

    def _regex(self, expression: Expression) -> Regex:
        text = self._text(expression, "a regular expression")
        try:
            return Regex(text)
        except BadRegex as error:
            span = expression.span
            quoted = span.end - span.start > len(text)
            at = min(span.start + quoted + error.at, span.end - 1)
            raise self._source.error(str(error), Span(at, at + 1)) from error

    def _text(self, expression: Expression, wanted: str) -> str:
        if isinstance(expression, Word):
            return expression.text
        raise self._source.error(f"expected {wanted}, in quotes", expression.span)


def _count(least: int, most: int) -> str:
    count = str(least) if least == most else f"{least} to {most}"
    return f"{count} argument{'s' if most > 1 else ''}"


_Function = tuple[int, int, str, Callable[[Evaluation, Call, Mapping[str, Names]], Names]]
_FUNCTIONS: Final[Mapping[str, _Function]] = {
    "deps": (1, 2, "x, depth", Evaluation._deps),
    "rdeps": (2, 3, "universe, x, depth", Evaluation._rdeps),
    "allpaths": (2, 2, "from, to", Evaluation._all_paths),
    "somepath": (2, 2, "from, to", Evaluation._some_path),
    "kind": (2, 2, "'regex', x", Evaluation._kind),
    "attr": (3, 3, "name, 'regex', x", Evaluation._attr),
    "filter": (2, 2, "'regex', x", Evaluation._filter),
}
