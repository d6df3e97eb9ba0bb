"""Knows what a template comes to: its tree, node by node, over plain data; must not know how it
was read or where its names come from.

Values are text, whole numbers, true and false, nothing, lists and mappings: no attribute of a
Python object is ever read and nothing is called but the filters below, so there is nothing to
break out to. Every step costs, and so does every character that is made: a template that goes on
for long ends with an error after at most about a second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from msgspec import Struct, field

from buildgraph import limits
from buildgraph.boxfile.filters import FILTERS, FilterError
from buildgraph.boxfile.operators import ARITHMETIC, COMPARISONS, TESTS
from buildgraph.boxfile.template import Template, TemplateError, extent
from buildgraph.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

_T = TypeVar("_T")
Plain = Any  # None | bool | int | float | str | list[Plain] | dict[str, Plain] | Lookup


class Lookup(Protocol):
    """Names behind a dot that are found when they are asked for; `git`, `env`."""

    def look(self, name: str) -> str:
        """Return the text of this name. Raises LookupError with words for what is not there."""


class Missing(TemplateError):
    """A name that is not there; `default` and `is defined` live with it."""


class Rendered(Struct, frozen=True):
    """What a template came to; line n of `text` was made from line `lines[n - 1]` of its source.

    Lines count from 1.
    """

    text: str
    lines: tuple[int, ...]


class Budget(Struct):
    """The steps that are left for many templates together."""

    left: int = limits.TEMPLATE_TOTAL


def render(
    template: Template, names: Mapping[str, Plain], budget: Budget | None = None
) -> Rendered:
    """Evaluate a template over `names`, at the cost of `budget`. Raises TemplateError."""
    run = _Run(template.source, [dict(names)])
    _spending(run, budget or Budget(), lambda: run.body(template.root.body))
    return run.finish()


def listed(
    template: Template, names: Mapping[str, Plain], budget: Budget | None = None
) -> list[str] | None:
    """Return the items of a template that is nothing but one expression and comes to a list.

    None where it is another template or comes to something else. Raises TemplateError.
    """
    nodes = [item for one in template.root.body for item in getattr(one, "nodes", (None,))]
    if len(nodes) != 1 or type(nodes[0]).__name__ in ("NoneType", "TemplateData"):
        return None
    run = _Run(template.source, [dict(names)])

    def items() -> list[str] | None:
        found = run.value(nodes[0])
        if not isinstance(found, list):
            return None
        return [run.printed(item, nodes[0]) for item in found]

    return _spending(run, budget or Budget(), items)


def _spending(run: _Run, budget: Budget, work: Callable[[], _T]) -> _T:
    run.left = granted = min(limits.TEMPLATE_STEPS, budget.left)
    try:
        return work()
    except RecursionError:
        raise TemplateError("nested too deep", 0) from None
    finally:
        budget.left -= granted - max(0, run.left)


class _Run(Struct):
    """One evaluation; `scopes` are names, the innermost last."""

    source: str
    scopes: list[dict[str, Plain]]
    left: int = 0  # steps
    pieces: list[tuple[int, str]] = field(default_factory=list)  # (offset of its source, text)
    size: int = 0

    # -- statements ----------------------------------------------------------------------

    def body(self, items: Sequence[Any]) -> None:
        for item in items:
            self.spend(item)
            _STATEMENTS[type(item).__name__](self, item)

    def output(self, node: Any) -> None:
        for item in node.nodes:
            if type(item).__name__ == "TemplateData":
                self.write(item.lineno, item.data, item)
            else:
                self.write(item.lineno, self.text(item), item)

    def write(self, offset: int, text: str, node: Any) -> None:
        self.size += len(text)
        self.charge(1 + len(text) // 16, node)
        if self.size > limits.TEMPLATE_OUTPUT:
            raise self.failure(
                node, f"the template makes more than {limits.TEMPLATE_OUTPUT} characters"
            )
        self.pieces.append((offset, text))

    def choose(self, node: Any) -> None:
        if self.truth(node.test):
            return self.body(node.body)
        for other in node.elif_:
            if self.truth(other.test):
                return self.body(other.body)
        return self.body(node.else_)

    def loop(self, node: Any) -> None:
        found = self.value(node.iter)
        if not isinstance(found, list | dict):
            raise self.failure(
                node.iter, f"a loop goes over a list or a mapping, not over {_kind(found)}"
            )
        items = list(found)
        if node.test is not None:
            items = [item for item in items if self.inside(node, item, {}, self.truth, node.test)]
        for index, item in enumerate(items):
            told = {
                "index": index + 1,
                "index0": index,
                "first": index == 0,
                "last": index == len(items) - 1,
                "length": len(items),
            }
            self.inside(node, item, {"loop": told}, self.body, node.body)
        if not items:
            self.body(node.else_)

    def inside(
        self,
        node: Any,
        item: Plain,
        names: dict[str, Plain],
        work: Callable[[Any], Any],
        what: Any,
    ) -> Any:
        """Do `work` with the names of one turn of a loop."""
        self.spend(node)
        self.scopes.append(names)
        try:
            self.bind(node.target, item)
            return work(what)
        finally:
            self.scopes.pop()

    def assign(self, node: Any) -> None:
        self.bind(node.target, self.value(node.node))

    def bind(self, target: Any, value: Plain) -> None:
        kind = type(target).__name__
        if kind == "Name":
            self.scopes[-1][target.name] = value
        elif kind == "Tuple" and isinstance(value, list) and len(value) == len(target.items):
            for name, item in zip(target.items, value, strict=True):
                self.bind(name, item)
        else:
            raise self.failure(target, f"{_kind(value)} does not go into these names")

    # -- expressions ---------------------------------------------------------------------

    def value(self, node: Any) -> Plain:
        """Return what an expression comes to; a thing with names of its own is none of it."""
        self.spend(node)
        found = _EXPRESSIONS[type(node).__name__](self, node)
        if isinstance(found, str):
            self.charge(len(found) // 64, node)
            if len(found) > limits.TEMPLATE_OUTPUT:
                raise self.failure(node, f"a text of more than {limits.TEMPLATE_OUTPUT} characters")
        elif isinstance(found, list | dict):
            self.charge(len(found) // 16, node)
        elif isinstance(found, int) and abs(found) >= 2**63:
            raise self.failure(node, "the number is too large")
        return found

    def text(self, node: Any) -> str:
        """Return an expression as what is printed."""
        return self.printed(self.value(node), node)

    def printed(self, found: Plain, node: Any) -> str:
        """Return a value as what is printed."""
        if isinstance(found, bool):
            return "true" if found else "false"
        if isinstance(found, str | int):
            return str(found)
        if found is None:
            raise self.failure(
                node, "there is nothing to print", "say what instead: | default('…', true)"
            )
        hint = "a list is printed with | join(' ')" if isinstance(found, list) else ""
        raise self.failure(node, f"expected a text, found {_kind(found)}", hint or None)

    def truth(self, node: Any) -> bool:
        return bool(self.value(node))

    def name(self, node: Any) -> Plain:
        for scope in reversed(self.scopes):
            if node.name in scope:
                return scope[node.name]
        names = sorted({name for scope in self.scopes for name in scope})
        raise self.missing(node, f"there is no {node.name!r} here", node.name, names)

    def attribute(self, node: Any) -> Plain:
        return self.member(node, self.value(node.node), node.attr)

    def item(self, node: Any) -> Plain:
        owner, key = self.value(node.node), self.value(node.arg)
        if isinstance(owner, list) and isinstance(key, int):
            if -len(owner) <= key < len(owner):
                return owner[key]
            raise self.missing(node, f"the list has {len(owner)} items, no [{key}]", "", ())
        return self.member(node, owner, key)

    def member(self, node: Any, owner: Plain, key: Plain) -> Plain:
        if not isinstance(key, str):
            raise self.failure(node, f"a name is a text, not {_kind(key)}")
        if isinstance(owner, dict):
            if key in owner:
                return owner[key]
            words = f"there is no {_dotted(node, key)!r}"
            raise self.missing(node, words, key, owner)
        if hasattr(type(owner), "look"):
            try:
                return owner.look(key)
            except LookupError as error:
                hint = error.args[1] if len(error.args) > 1 else None
                start, end = extent(node, self.source)
                raise Missing(error.args[0], start, end, hint) from None
        raise self.failure(node, f"{_kind(owner)} has nothing called {key!r}")

    def constant(self, node: Any) -> Plain:
        if isinstance(node.value, float):
            raise self.failure(node, "there are no fractions in templates")
        return node.value

    def sequence(self, node: Any) -> Plain:
        return [self.simple(item) for item in node.items]

    def mapping(self, node: Any) -> Plain:
        pairs = [(self.simple(pair.key), self.simple(pair.value)) for pair in node.items]
        return {str(key): value for key, value in pairs}

    def simple(self, node: Any) -> Plain:
        """Lists made here are flat: of a nest that names itself, a walk would never end."""
        found = self.value(node)
        if not isinstance(found, str | int | None):
            raise self.failure(
                node, f"a list in a template holds texts and numbers, not {_kind(found)}"
            )
        return found

    def range(self, node: Any) -> Plain:
        numbers = [self.value(arg) for arg in node.args]
        if not 1 <= len(numbers) <= 3 or not all(type(n) is int for n in numbers):
            raise self.failure(node, "range takes up to three whole numbers")
        try:
            found = range(*numbers)
        except ValueError:
            raise self.failure(node, "the step of a range is not 0") from None
        if len(found) > limits.TEMPLATE_RANGE:
            raise self.failure(node, f"a range has at most {limits.TEMPLATE_RANGE} numbers")
        return list(found)

    def conditional(self, node: Any) -> Plain:
        if self.truth(node.test):
            return self.value(node.expr1)
        return self.value(node.expr2) if node.expr2 is not None else ""

    def filter(self, node: Any) -> Plain:
        if node.name in ("default", "d"):
            return self.default(node)
        entry = FILTERS.get(node.name)
        if entry is None:
            near = did_you_mean(node.name, FILTERS)
            raise self.failure(node, f"there is no filter {node.name!r}", near)
        if node.node is None:
            raise self.failure(node, "filters stand behind an expression")
        found = self.value(node.node)
        arguments = [self.value(arg) for arg in node.args]
        self.charge(10, node)
        try:
            return entry(found, *arguments)
        except FilterError as error:
            raise self.failure(node, f"{node.name}: {error}") from None
        except TypeError:  # the count of arguments, for filters check what they are given
            words = f"{node.name}: it does not take {len(arguments)} arguments"
            raise self.failure(node, words) from None

    def default(self, node: Any) -> Plain:
        arguments = [self.value(arg) for arg in node.args] or [""]
        try:
            found = self.value(node.node)
        except Missing:
            return arguments[0]
        empty = found is None or (len(arguments) > 1 and arguments[1] and not found)
        return arguments[0] if empty else found

    def test(self, node: Any) -> Plain:
        if node.name in ("defined", "undefined"):
            try:
                self.value(node.node)
            except Missing:
                return node.name == "undefined"
            return node.name == "defined"
        if node.name not in TESTS:
            near = did_you_mean(node.name, (*TESTS, "defined", "undefined"))
            raise self.failure(node, f"there is no test {node.name!r}", near)
        return TESTS[node.name](self.value(node.node))

    def compare(self, node: Any) -> Plain:
        left = self.value(node.expr)
        for operand in node.ops:
            right = self.value(operand.expr)
            try:
                if not COMPARISONS[operand.op](left, right):
                    return False
            except TypeError:
                words = f"{_kind(left)} and {_kind(right)} do not compare"
                raise self.failure(node, words) from None
            left = right
        return True

    def both(self, node: Any) -> Plain:
        left = self.value(node.left)
        return self.value(node.right) if left else left

    def either(self, node: Any) -> Plain:
        left = self.value(node.left)
        return left if left else self.value(node.right)

    def negated(self, node: Any) -> Plain:
        return not self.truth(node.node)

    def joined(self, node: Any) -> Plain:
        return "".join(self.text(item) for item in node.nodes)

    def add(self, node: Any) -> Plain:
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(left, str) and isinstance(right, str):
            return left + right
        if isinstance(left, list) and isinstance(right, list):
            self.charge(len(left) + len(right), node)
            return left + right
        return self.number(node, left) + self.number(node, right)

    def arithmetic(self, node: Any) -> Plain:
        left, right = (self.number(node, self.value(n)) for n in (node.left, node.right))
        try:
            return ARITHMETIC[type(node).__name__](left, right)
        except ZeroDivisionError:
            raise self.failure(node, "division by 0") from None

    def sign(self, node: Any) -> Plain:
        number = self.number(node, self.value(node.node))
        return -number if type(node).__name__ == "Neg" else number

    def number(self, node: Any, found: Plain) -> int:
        if not isinstance(found, int) or isinstance(found, bool):
            raise self.failure(
                node, f"expected a number, found {_kind(found)}", "| int makes one of a text"
            )
        return found

    # -- what it costs, and what is wrong ------------------------------------------------

    def spend(self, node: Any) -> None:
        self.charge(1, node)

    def charge(self, steps: int, node: Any) -> None:
        self.left -= steps
        if self.left < 0:
            raise self.failure(node, "the template goes on for too long")

    def failure(self, node: Any, message: str, hint: str | None = None) -> TemplateError:
        return TemplateError(message, *extent(node, self.source), hint)

    def missing(self, node: Any, words: str, name: str, near: Any) -> Missing:
        return Missing(words, *extent(node, self.source), did_you_mean(name, near))

    def finish(self) -> Rendered:
        """Return the text, with the line of the source for each of its lines."""
        breaks = list(_breaks(self.source))
        starts: list[int | None] = [None]
        for offset, text in self.pieces:
            verbatim = self.source.startswith(text, offset)
            at = 0
            for index, part in enumerate(text.split("\n")):
                if index:
                    starts.append(None)
                if starts[-1] is None and (word := part.lstrip()):
                    starts[-1] = offset + at + len(part) - len(word) if verbatim else offset
                at += len(part) + 1
        lines: list[int] = []
        for start in starts:  # an empty line is of the line before it
            last = lines[-1] if lines else 1
            lines.append(last if start is None else bisect_left(breaks, start) + 1)
        return Rendered("".join(text for _, text in self.pieces), tuple(lines))


def _breaks(text: str) -> Iterator[int]:
    at = text.find("\n")
    while at >= 0:
        yield at
        at = text.find("\n", at + 1)


def _dotted(node: Any, key: str) -> str:
    owner = getattr(node.node, "name", "")
    return f"{owner}.{key}" if owner else key


def _kind(value: Plain) -> str:
    """Return words for what a value is."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    for kind, words in ((str, "a text"), (int, "a number"), (list, "a list"), (dict, "a mapping")):
        if isinstance(value, kind):
            return words
    return "several values, of which one is named behind a dot"


_STATEMENTS: Final[dict[str, Callable[[_Run, Any], None]]] = {
    "Output": _Run.output,
    "If": _Run.choose,
    "For": _Run.loop,
    "Assign": _Run.assign,
}
_EXPRESSIONS: Final[dict[str, Callable[[_Run, Any], Plain]]] = {
    "Name": _Run.name,
    "Getattr": _Run.attribute,
    "Getitem": _Run.item,
    "Const": _Run.constant,
    "TemplateData": lambda run, node: node.data,
    "List": _Run.sequence,
    "Tuple": _Run.sequence,
    "Dict": _Run.mapping,
    "Call": _Run.range,
    "CondExpr": _Run.conditional,
    "Filter": _Run.filter,
    "Test": _Run.test,
    "Compare": _Run.compare,
    "And": _Run.both,
    "Or": _Run.either,
    "Not": _Run.negated,
    "Concat": _Run.joined,
    "Add": _Run.add,
    "Sub": _Run.arithmetic,
    "Mul": _Run.arithmetic,
    "FloorDiv": _Run.arithmetic,
    "Mod": _Run.arithmetic,
    "Neg": _Run.sign,
    "Pos": _Run.sign,
}
