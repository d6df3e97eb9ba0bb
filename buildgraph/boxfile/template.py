"""Knows templates: Jinja's syntax, what of it there is here, and where each part of it stands in
the text; must not know what it comes to (`evaluate.py`) or what a Boxfile is.

The only door to jinja2, opened for a text that has `{{` or `{%` in it. Jinja's lexer and parser
read; nothing of Jinja's is ever compiled or run, so no template becomes Python code. What may
follow is a short list: a call, an import, a macro or a power is refused before anything is
evaluated (A67 in the bar of reliability).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from buildgraph import limits

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

_MARK: Final = re.compile(r"\{\{|\{%")
_NAME: Final = re.compile(r"[\w.]+")

# What a template may be made of, by the names of Jinja's nodes.
_ALLOWED: Final = frozenset(
    "Template Output TemplateData If For Assign Name Getattr Getitem Const List Tuple Dict Pair "
    "CondExpr Filter Test Compare Operand And Or Not Add Sub Mul FloorDiv Mod Neg Pos "
    "Concat".split()
)
_STATEMENTS: Final = frozenset("Template Output If For Assign".split())
_REFUSED: Final = {
    "Call": ("a template calls nothing", "filters do: {{ name | lower }}"),
    "Pow": ("there are no powers in templates", None),
    "Div": ("there are no fractions in templates", "// divides whole numbers"),
    "Slice": ("there are no slices in templates", None),
    "Keyword": ("filters take no named arguments here", "write them in order"),
}


class TemplateError(Exception):
    """Something is wrong with a template; `start` and `end` are offsets into its text."""

    def __init__(self, message: str, start: int, end: int = 0, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.start = start
        self.end = end
        self.hint = hint


class Template(Struct, frozen=True):
    """A text that was read and may be evaluated; `root` is Jinja's tree of it.

    `lineno` of every node in the tree is an offset into `source`, not a line.
    """

    source: str
    root: nodes.Template
    names: frozenset[str]  # all first names in it: `git` of `git.sha`

    def place_of(self, name: str) -> int:
        """Return the offset of the first use of a name, 0 where there is none."""
        from jinja2 import nodes

        found = (one.lineno for one in self.root.find_all(nodes.Name) if one.name == name)
        return min(found, default=0)

    def members_of(self, name: str) -> list[tuple[str, int]]:
        """Return what is asked of a name behind a dot, and the offset of the name."""
        from jinja2 import nodes

        return [
            (one.attr, one.node.lineno)
            for one in self.root.find_all(nodes.Getattr)
            if isinstance(one.node, nodes.Name) and one.node.name == name
        ]


def is_template(text: str) -> bool:
    """Say whether there is anything to evaluate in a text; a plain one costs next to nothing."""
    return "{" in text and _MARK.search(text) is not None


def parse_template(source: str) -> Template:
    """Return the template of a text. Raises TemplateError for what it may not have."""
    from jinja2 import TemplateSyntaxError

    if len(source) > limits.DOCKERFILE_BYTES:
        raise TemplateError("the template is too long", 0)
    try:
        root = _environment().parse(source)
        return Template(source, root, frozenset(_checked(root, source)))
    except TemplateSyntaxError as error:
        message = (error.message or "unreadable").partition(". ")[0].removesuffix(".")
        at = min(error.lineno, max(0, len(source) - 1))
        raise TemplateError(
            f"not a template: {message}", at, _word_end(source, at), _syntax_hint(message)
        ) from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of 5,000 digits
        deep = isinstance(error, RecursionError)
        raise TemplateError("nested too deep" if deep else "not a template", 0) from None


def extent(node: nodes.Node, source: str) -> tuple[int, int]:
    """Return where the expression of a node begins and ends: the dotted name, else one word."""
    start = first = node.lineno
    if type(node).__name__ in _STATEMENTS:  # as long as a file may be
        return start, _word_end(source, start)
    waiting: list[Any] = [node]
    while waiting:
        one = waiting.pop()
        start = min(start, one.lineno or first)
        waiting.extend(one.iter_child_nodes())
    return start, _word_end(source, start)


def _word_end(source: str, start: int) -> int:
    word = _NAME.match(source, start)
    return word.end() if word else start + 1


def _syntax_hint(message: str) -> str | None:
    if "expected token 'end of print statement'" in message:
        return "an expression ends with }}"
    if message.startswith("Unexpected end of template") or "unexpected end of template" in message:
        return "close it with }} or %}"
    if "Encountered unknown tag" in message:
        return "there are if, for, set and raw"
    return None


def _checked(root: nodes.Template, source: str) -> Iterator[str]:
    """Yield the names of a tree once every node of it is one of the allowed."""
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        kind = type(node).__name__
        if kind not in _ALLOWED and not _is_range(node, kind):
            start, end = extent(node, source)
            message, hint = _REFUSED.get(kind, (f"templates have no {kind.lower()}", None))
            raise TemplateError(message, start, end, hint)
        if kind == "For" and node.recursive:
            raise TemplateError("a loop cannot call itself", node.lineno)
        if kind in ("Filter", "Test") and (node.kwargs or node.dyn_args or node.dyn_kwargs):
            raise TemplateError(*_REFUSED["Keyword"][:1], *extent(node, source))
        if kind == "Name" and node.ctx == "load":
            yield node.name
        waiting.extend(node.iter_child_nodes())


def _is_range(node: Any, kind: str) -> bool:
    return (
        kind == "Call"
        and type(node.node).__name__ == "Name"
        and node.node.name == "range"
        and not (node.kwargs or node.dyn_args or node.dyn_kwargs)
    )


@cache
def _environment() -> Environment:
    """Return Jinja's settings, sandboxed although nothing is run; made once, never changed."""
    from jinja2.lexer import TokenStream
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        """Jinja's own, with offsets for line numbers, so that every node knows its place."""

        def _tokenize(
            self, source: str, name: Any, filename: Any = None, state: Any = None
        ) -> TokenStream:
            tokens = _placed(self.lexer.tokeniter(source, name, filename, state), source)
            return TokenStream(self.lexer.wrap(tokens, name, filename), name, filename)

    return Environment(
        keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True, extensions=()
    )


def _placed(tokens: Iterator[tuple[int, str, str]], source: str) -> Iterator[tuple[int, str, str]]:
    """Replace the line of every token by its offset; blanks that Jinja strips are passed over."""
    from jinja2 import TemplateSyntaxError

    at = 0
    while True:
        try:
            _, kind, value = next(tokens)
        except StopIteration:
            return
        except TemplateSyntaxError as error:  # of the lexer, which counts lines
            raise TemplateSyntaxError(error.message or "", at) from None
        found = source.find(value, at)
        at = found if found >= 0 else at
        yield at, kind, value
        at += len(value)
