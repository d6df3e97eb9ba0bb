"""Knows the part of HCL that bake files use: text -> blocks with expressions that remember where
they stand; must not know what a block means.

Blocks, attributes, strings with `${}`, heredocs, lists, objects, comments, references, `?:`, `==`,
`!=`, `&&`, `||`, `!`. Calls are read, so that whoever evaluates can refuse one by its name; `for`
expressions, splats and arithmetic are refused here. Source: HCL Native Syntax Specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.boxfile.hcl_nodes import (
    Attribute,
    Block,
    Call,
    Choice,
    Expression,
    Items,
    Literal,
    Object,
    Operation,
    Reference,
    Template,
)
from buildgraph.errors import InputError, Location

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*|//[^\n]*|/\*.*?\*/)
    |(?P<newline>\n)
    |(?P<heredoc><<-?[A-Za-z_][\w-]*[ \t]*\r?\n)
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<name>[A-Za-z_][\w-]*)
    |(?P<string>")
    |(?P<sign>==|!=|&&|\|\||\.\.\.|=>|<=|>=|[{}\[\]()=:,.?!<>+*/%-])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_DEPTH: Final = 64


def parse_hcl(text: str, path: str) -> Block:
    """Return the file as a block without a kind. Raises InputError with line and column."""
    if len(text) > limits.BOXFILE_BYTES:
        raise InputError(f"larger than {limits.BOXFILE_BYTES // limits.MIB} MiB", Location(path))
    return _Parser(text, path).file()


def parse_template(text: str, where: Location) -> Expression:
    """Return a text of bake's JSON form, in which `${}` means what it means in HCL."""
    parser = _Parser(text, where.path)
    parser.fixed = where
    return parser.template(0, len(text), escapes=False)


class _Token(Struct, frozen=True):
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path
        self._at = 0
        self._depth = 0
        self.fixed: Location | None = None
        self._starts = [0, *(m.end() for m in re.finditer("\n", text))]

    # --- places ---------------------------------------------------------------------------

    def _where(self, start: int, end: int = 0) -> Location:
        if self.fixed is not None:
            return self.fixed
        import bisect

        line = bisect.bisect_right(self._starts, start)
        begin = self._starts[line - 1]
        source = self._text[begin:].partition("\n")[0].rstrip("\r")
        column = start - begin + 1
        stop = min(end - begin + 1, len(source) + 1) if end else 0
        return Location(self._path, line, column, stop if stop > column else 0, source)

    def _error(self, message: str, token: _Token, hint: str | None = None) -> InputError:
        return InputError(message, self._where(token.start, token.end), hint)

    # --- tokens ---------------------------------------------------------------------------

    def _peek(self, *, newlines: bool = False) -> _Token:
        at = self._at
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None or (match[0] == "/" and self._text.startswith("/*", at)):
                bad = _Token("bad", self._text[at], at, at + 1)
                if self._text.startswith("/*", at):
                    raise self._error("this comment has no end", bad)
                raise self._error(f"{self._text[at]!r} cannot stand here", bad)
            kind = match.lastgroup or ""
            if kind == "space" or (kind == "newline" and not newlines):
                at = match.end()
                continue
            return _Token(kind, match[0], at, match.end())
        return _Token("end", "", len(self._text), len(self._text))

    def _next(self, *, newlines: bool = False) -> _Token:
        token = self._peek(newlines=newlines)
        self._at = token.end
        return token

    def _expect(self, sign: str) -> _Token:
        token = self._next()
        if token.text != sign or token.kind != "sign":
            raise self._error(f"expected {sign!r}, found {_told(token)}", token)
        return token

    def _is(self, sign: str, *, newlines: bool = False) -> bool:
        token = self._peek(newlines=newlines)
        return token.kind == "sign" and token.text == sign

    # --- blocks ---------------------------------------------------------------------------

    def file(self) -> Block:
        return self._body("", (), self._where(0), "end")

    def _body(self, kind: str, labels: tuple[str, ...], where: Location, until: str) -> Block:
        self._deeper()
        attributes: list[Attribute] = []
        blocks: list[Block] = []
        while True:
            token = self._next()
            if (token.kind == "end" and until == "end") or token.text == until:
                break
            if token.kind == "end":
                raise InputError(f"this block {kind!r} has no end", where)
            if token.kind != "name":
                raise self._error(
                    f"expected the name of a block or an attribute, found {_told(token)}", token
                )
            if self._is("="):
                self._next()
                value = self.expression()
                self._line_ends()
                attributes.append(Attribute(token.text, value, self._where(token.start, token.end)))
            else:
                blocks.append(self._block(token))
        self._depth -= 1
        return Block(kind, labels, tuple(attributes), tuple(blocks), where)

    def _block(self, name: _Token) -> Block:
        labels: list[str] = []
        while not self._is("{"):
            token = self._next()
            if token.kind == "name":
                labels.append(token.text)
            elif token.kind == "string":
                label = self._string()
                if not isinstance(label, Literal):
                    raise self._error("a block's name holds no variables", token)
                labels.append(str(label.value))
            else:
                raise self._error(
                    f"expected '=' or a block after {name.text!r}, found {_told(token)}", token
                )
        self._expect("{")
        where = self._where(name.start, name.end)
        return self._body(name.text, tuple(labels), where, "}")

    def _line_ends(self) -> None:
        token = self._peek(newlines=True)
        if token.kind not in ("newline", "end") and token.text != "}":
            raise self._error(f"expected the end of the line, found {_told(token)}", token)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _DEPTH:
            raise InputError(f"nested deeper than {_DEPTH} levels", self._where(self._at))

    # --- expressions ----------------------------------------------------------------------

    def expression(self) -> Expression:
        self._deeper()
        condition = self._either()
        if self._is("?", newlines=True):
            sign = self._next()
            yes = self.expression()
            self._expect(":")
            no = self.expression()
            condition = Choice(condition, yes, no, self._where(sign.start, sign.end))
        self._depth -= 1
        return condition

    def _either(self) -> Expression:
        return self._chain(("||",), lambda: self._chain(("&&",), self._compared))

    def _compared(self) -> Expression:
        left = self._chain(("==", "!="), self._unary)
        token = self._peek(newlines=True)
        if token.kind == "sign" and token.text in ("+", "-", "*", "/", "%", "<", ">", "<=", ">="):
            raise self._error(f"the operator {token.text!r} is not understood here", token, RESOLVE)
        return left

    def _chain(self, signs: tuple[str, ...], inner: Callable[[], Expression]) -> Expression:
        left = inner()
        while any(self._is(sign, newlines=True) for sign in signs):
            token = self._next()
            left = Operation(token.text, left, inner(), self._where(token.start, token.end))
        return left

    def _unary(self) -> Expression:
        if self._is("!"):
            token = self._next()
            self._deeper()
            inner = self._unary()
            self._depth -= 1
            return Operation("!", None, inner, self._where(token.start, token.end))
        return self._term()

    def _term(self) -> Expression:
        token = self._next()
        where = self._where(token.start, token.end)
        if token.kind == "string":
            return self._string()
        if token.kind == "heredoc":
            return self._heredoc(token)
        if token.kind == "number":
            number = float(token.text)
            return Literal(int(number) if number.is_integer() else number, where)
        if token.kind == "name":
            return self._named(token, where)
        if token.text == "-" and self._peek().kind == "number":
            inner = self._term()
            assert isinstance(inner, Literal)
            return Literal(f"-{inner.value}", where)
        if token.text == "[":
            return self._list(where)
        if token.text == "{":
            return self._object(where)
        if token.text == "(":
            value = self.expression()
            self._expect(")")
            return value
        raise self._error(f"expected a value, found {_told(token)}", token)

    def _named(self, token: _Token, where: Location) -> Expression:
        if token.text in ("true", "false", "null"):
            return Literal({"true": True, "false": False, "null": None}[token.text], where)
        if self._is("(", newlines=True):
            self._next()
            self._skip_arguments()
            return Call(token.text, where)
        path: list[str | int] = []
        while True:
            if self._is(".", newlines=True):
                self._next()
                part = self._next()
                if part.kind not in ("name", "number"):
                    raise self._error(
                        f"{_told(part)} after '.' is not understood here", part, RESOLVE
                    )
                path.append(part.text if part.kind == "name" else int(part.text))
            elif self._is("[", newlines=True):
                self._next()
                index = self.expression()
                self._expect("]")
                if not isinstance(index, Literal) or isinstance(index.value, float | bool | None):
                    raise InputError("an index is a text or a number here", where, RESOLVE)
                path.append(index.value)
            else:
                return Reference(token.text, tuple(path), where)

    def _skip_arguments(self) -> None:
        while not self._is(")"):
            self.expression()
            if self._is("..."):
                self._next()
            if not self._is(")"):
                self._expect(",")
        self._next()

    def _list(self, where: Location) -> Expression:
        items: list[Expression] = []
        while not self._is("]"):
            self._no_for()
            items.append(self.expression())
            if not self._is("]"):
                self._expect(",")
        self._next()
        return Items(tuple(items), where)

    def _object(self, where: Location) -> Expression:
        entries: list[tuple[Expression, Expression]] = []
        while not self._is("}"):
            self._no_for()
            key: Expression = self._unary()
            if isinstance(key, Reference) and not key.path:
                key = Literal(key.name, key.where)  # a bare key is its own name
            sign = self._next()
            if sign.text not in ("=", ":"):
                raise self._error(f"expected '=' after a key, found {_told(sign)}", sign)
            entries.append((key, self.expression()))
            token = self._peek(newlines=True)
            if token.text == ",":
                self._next()
            elif token.kind != "newline" and token.text != "}":
                raise self._error(f"expected ',' or a new line, found {_told(token)}", token)
        self._next()
        return Object(tuple(entries), where)

    def _no_for(self) -> None:
        token = self._peek()
        if token.kind == "name" and token.text == "for":
            raise self._error("'for' expressions are not understood here", token, RESOLVE)

    # --- texts ----------------------------------------------------------------------------

    def _string(self) -> Expression:
        """Read a string whose quote was taken; leaves the place behind its end."""
        start = self._at
        end = self._string_end(start)
        value = self.template(start, end, escapes=True)
        self._at = end + 1
        return value

    def _string_end(self, start: int) -> int:
        at, depth = start, 0
        text = self._text
        while at < len(text):
            if text[at] == "\\" and not depth:
                at += 2
            elif text.startswith(("$${", "%%{"), at) and not depth:
                at += 3
            elif text.startswith(("${", "%{"), at) and not depth:
                depth, at = 1, at + 2
            elif depth and text[at] == "{":
                depth, at = depth + 1, at + 1
            elif depth and text[at] == "}":
                depth, at = depth - 1, at + 1
            elif depth and text[at] == '"':
                at = self._string_end(at + 1) + 1
            elif text[at] == '"':
                return at
            elif text[at] == "\n" and not depth:
                break
            else:
                at += 1
        raise InputError("this text has no end", self._where(start - 1), "close the quote")

    def template(self, start: int, end: int, *, escapes: bool) -> Expression:
        where = self._where(max(start - 1, 0), end + 1)
        parts: list[Expression] = []
        literal: list[str] = []
        at = start
        text = self._text
        while at < end:
            if text.startswith(("$${", "%%{"), at):
                literal.append(text[at + 1 : at + 3])
                at += 3
            elif text.startswith("${", at):
                if literal:
                    parts.append(Literal("".join(literal), where))
                    literal = []
                self._at = at + 2
                if self._text.startswith("~", self._at):
                    self._at += 1
                parts.append(self.expression())
                self._expect("}")
                at = self._at
            elif text.startswith("%{", at):
                raise self._error(
                    "'%{' is not understood here", _Token("sign", "%{", at, at + 2), RESOLVE
                )
            elif escapes and text[at] == "\\":
                value, at = self._escape(at)
                literal.append(value)
            else:
                literal.append(text[at])
                at += 1
        if not parts:
            return Literal("".join(literal), where)
        if literal:
            parts.append(Literal("".join(literal), where))
        return Template(tuple(parts), where)

    def _escape(self, at: int) -> tuple[str, int]:
        sign = self._text[at + 1 : at + 2]
        if sign in _ESCAPES:
            return _ESCAPES[sign], at + 2
        width = {"u": 4, "U": 8}.get(sign, 0)
        digits = self._text[at + 2 : at + 2 + width]
        if width and re.fullmatch(r"[0-9A-Fa-f]+", digits) and len(digits) == width:
            code = int(digits, 16)
            if code < 0x110000 and not 0xD800 <= code < 0xE000:
                return chr(code), at + 2 + width
        token = _Token("sign", f"\\{sign}", at, at + 2)
        raise self._error(f"'\\{sign}' is no escape sequence", token, "a backslash is written \\\\")

    def _heredoc(self, opening: _Token) -> Expression:
        word = opening.text.strip("<- \t\r\n")
        stripped = opening.text.startswith("<<-")
        end = re.compile(rf"^[ \t]*{re.escape(word)}[ \t]*\r?$", re.MULTILINE)
        match = end.search(self._text, self._at)
        if match is None:
            raise self._error(f"nothing ends this text: a line {word!r} is missing", opening)
        body = self._text[self._at : match.start()].replace("\r\n", "\n")
        if stripped:
            body = _dedented(body)
        inner = _Parser(body, self._path)
        inner.fixed = self._where(opening.start, opening.end - 1)
        value = inner.template(0, len(body), escapes=False)
        self._at = match.end()
        return value


def _dedented(text: str) -> str:
    lines = text.split("\n")
    indents = [len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()]
    cut = min(indents, default=0)
    return "\n".join(line[cut:] if line.strip() else line.strip(" \t") for line in lines)


def _told(token: _Token) -> str:
    return {
        "end": "the end of the file",
        "newline": "the end of the line",
        "heredoc": "a text",
    }.get(token.kind, repr(token.text))


RESOLVE: Final = "have bake resolve it: docker buildx bake --print > bake.json, and import that"
