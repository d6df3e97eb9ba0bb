"""Knows YAML: text -> nodes that remember where they stand; must not know what a Boxfile is.

The only door to PyYAML, opened when a text is really read. Only libyaml's event stream is used,
so no object is ever constructed: scalars keep their text (`3.10` stays "3.10"), and what is a
boolean or a number is decided by whoever wanted one. What we refuse and YAML 1.2 has: tags,
duplicate keys, keys that are no text, a second document. What we count: bytes, depth, aliases,
and values with every alias expanded (so that a "billion laughs" ends early). Merge keys (`<<`)
work one level deep, as everywhere: a key that is written beside `<<` wins, then the first mapping.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import InputError, Location

if TYPE_CHECKING:
    from yaml import MarkedYAMLError

# What libyaml takes for a line break, and what it takes for a character at all (YAML 1.1, 5.1).
_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]"
)
_BY_PROBLEM: Final = (
    ("found unexpected end of stream", "close the quote"),
    ("mapping values are not allowed", "quote a text that has ': ' in it"),
    ("block sequence entries", "start the list on its own line, or write [a, b]"),
)
_WORD: Final = re.compile(r"""[^\s,\]}"']+""")


@dataclasses.dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar as written; `style` is "", "'", '"', "|" or ">".

    A literal block (`|`) has its first line of text on line `body_line` of the file, shifted
    right by `body_indent` columns. `source` are the lines it was read from. A text that a template
    came to has in `lines` the line of the block that each of its lines was made from.
    """

    text: str
    where: Location
    style: str = ""
    body_line: int = 0
    body_indent: int = 0
    source: Source | None = dataclasses.field(default=None, compare=False, repr=False)
    lines: tuple[int, ...] = ()

    @property
    def plain(self) -> bool:
        """Return whether it stands there without quotes, so that it may be more than text."""
        return self.style == ""

    @property
    def empty(self) -> bool:
        """Return whether this is YAML's null: nothing, `~` or `null`."""
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


class Sequence(Struct, frozen=True):
    """A list."""

    items: tuple[Node, ...]
    where: Location


class Entry(Struct, frozen=True):
    """One `key: value`."""

    key: Scalar
    value: Node


class Mapping(Struct, frozen=True):
    """A mapping; keys are unique, in the order they are written, merged ones last."""

    entries: tuple[Entry, ...]
    where: Location

    def get(self, key: str) -> Entry | None:
        """Return the entry of this key, or None."""
        return next((entry for entry in self.entries if entry.key.text == key), None)


Node = Scalar | Sequence | Mapping


class _Mark(Protocol):
    """A place as PyYAML has it; counts from 0."""

    line: int
    column: int


# PyYAML's events; each kind has attributes of its own, so a class for them would promise too much.
_Event = Any


def decode(data: bytes, path: str) -> str:
    """Return the text of a file (UTF-8, byte order mark dropped). Raises InputError."""
    if len(data) > limits.BOXFILE_BYTES:
        raise InputError(f"larger than {limits.BOXFILE_BYTES // limits.MIB} MiB", Location(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        where = Source(path, before).end()
        raise InputError("not UTF-8", where, hint="save the file as UTF-8") from None


def compose(text: str, path: str, errors: list[InputError]) -> Node | None:
    """Return the root node of the one document in `text`, None if it is empty or unreadable.

    Appends what is wrong to `errors`; a second duplicate key is found after the first, a syntax
    error ends the reading.
    """
    import yaml  # 13 ms that a build with nothing to do must not pay

    if len(text) > limits.BOXFILE_BYTES:
        raise InputError(f"larger than {limits.BOXFILE_BYTES // limits.MIB} MiB", Location(path))
    source = Source(path, text)
    bad = _UNPRINTABLE.search(text)
    if bad:
        where = Source(path, text[: bad.start()]).end()
        line = source.at(where.line - 1, where.column - 1)
        errors.append(InputError(f"a control character (U+{ord(bad[0]):04X})", line))
        return None
    try:
        return _Composer(text, source, errors).document()
    except yaml.MarkedYAMLError as error:
        errors.append(_syntax_error(error, source))
    except _Fatal as fatal:
        errors.append(fatal.error)
    return None


class Source:
    """The lines of a text, to make locations from marks that count from 0."""

    def __init__(self, path: str, text: str):
        self.path = path
        self.lines = _BREAK.split(text)

    def line(self, number: int) -> str:
        """Return a line by its number from 0, "" behind the last."""
        return self.lines[number] if number < len(self.lines) else ""

    def at(self, line: int, column: int, end: int = 0) -> Location:
        """Return the location of a line and a column (and an exclusive end column), from 0."""
        return Location(self.path, line + 1, column + 1, end + 1 if end else 0, self.line(line))

    def span(self, start: _Mark, end: _Mark) -> Location:
        """Return the location of what stands between two marks, cut at the end of the line."""
        line, column = start.line, start.column
        text = self.line(line)
        stop = end.column if end.line == line else len(text.rstrip())
        end_column = stop + 1 if stop > column else 0
        return Location(self.path, line + 1, column + 1, end_column, text)

    def end(self) -> Location:
        """Return the location right behind the last character."""
        return self.at(len(self.lines) - 1, len(self.lines[-1]))


class _Fatal(Exception):
    """Reading cannot go on."""

    def __init__(self, error: InputError):
        super().__init__()
        self.error = error


def _events(text: str) -> Callable[[], _Event]:
    import yaml

    # Without libyaml (`__with_libyaml__` is False) the same events come, forty times slower.
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    return cast(Callable[[], _Event], parser.get_event)


class _Composer:
    """Makes nodes from events; one per text."""

    def __init__(self, text: str, source: Source, errors: list[InputError]):
        import yaml

        self._kinds = yaml
        self._alias_event = yaml.AliasEvent
        self._scalar_event = yaml.ScalarEvent
        self._next = _events(text)
        self._source = source
        self._errors = errors
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._open_anchors: set[str] = set()
        self._aliases = 0
        self._values = 0
        self._broken = False  # what was read says something else than its author meant

    def document(self) -> Node | None:
        self._next()  # start of the stream
        event = self._next()
        if not isinstance(event, self._kinds.DocumentStartEvent):
            return None
        root = self._node(self._next(), 0)
        self._next()  # end of the document
        event = self._next()
        if isinstance(event, self._kinds.DocumentStartEvent):
            self._fail("a second document starts here; a Boxfile is one", event)
        return None if self._broken else root

    def _node(self, event: _Event, depth: int) -> Node:
        self._values += 1
        if self._values > limits.YAML_VALUES:
            self._count(0, event)
        if isinstance(event, self._alias_event):
            return self._alias(event)
        anchor, tag = event.anchor, event.tag
        if tag is not None:
            self._refuse_tag(event, tag)
        if anchor is None:
            if isinstance(event, self._scalar_event):
                return self._scalar(event)
            return self._collection(event, depth)
        before = self._values - 1
        self._open_anchors.add(anchor)
        if isinstance(event, self._kinds.ScalarEvent):
            node: Node = self._scalar(event)
        else:
            node = self._collection(event, depth)
        self._open_anchors.discard(anchor)
        self._anchors[anchor] = node, self._values - before
        return node

    def _scalar(self, event: _Event) -> Scalar:
        where = self._source.span(event.start_mark, event.end_mark)
        style = event.style or ""
        if style != "|":
            return Scalar(event.value, where, style, 0, 0, self._source)
        indent = self._indent(event, where)
        return Scalar(event.value, where, style, where.line + 1, indent, self._source)

    def _indent(self, event: _Event, where: Location) -> int:
        """Return how far a literal block's text is shifted right in the file."""
        for offset, text in enumerate(event.value.split("\n")):
            if text.strip(" "):
                # Leading spaces of the text itself are there with an indentation such as `|2`.
                return max(0, self._source.line(where.line + offset).find(text))
        return 0

    def _collection(self, event: _Event, depth: int) -> Node:
        if depth == limits.YAML_DEPTH:
            self._fail(_too_deep(), event)
        if isinstance(event, self._kinds.SequenceStartEvent):
            return self._sequence(event, depth + 1)
        return self._mapping(event, depth + 1)

    def _sequence(self, start: _Event, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := self._next(), self._kinds.SequenceEndEvent):
            items.append(self._node(event, depth))
        return Sequence(tuple(items), self._extent(start, event))

    def _mapping(self, start: _Event, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        merges: list[Entry] = []
        while not isinstance(event := self._next(), self._kinds.MappingEndEvent):
            key = self._node(event, depth)
            value = self._node(self._next(), depth)
            if not isinstance(key, Scalar):
                self._refuse_key(key)
            elif key.plain and key.text == "<<":
                merges.append(Entry(key, value))
            elif key.text in entries:
                first = entries[key.text].key.where
                self._error(f"key {key.text!r} is there twice", key.where, f"first at {first}")
            else:
                entries[key.text] = Entry(key, value)
        for merge in merges:
            for merged in self._merged(merge):
                entries.setdefault(merged.key.text, merged)
        return Mapping(tuple(entries.values()), self._extent(start, event))

    def _merged(self, merge: Entry) -> list[Entry]:
        sources = merge.value.items if isinstance(merge.value, Sequence) else (merge.value,)
        found: list[Entry] = []
        for source in sources:
            if isinstance(source, Mapping):
                found.extend(source.entries)
            else:
                self._error("'<<' takes a mapping or a list of mappings", source.where)
        self._count(len(found), None, merge.key.where)
        return found

    def _alias(self, event: _Event) -> Node:
        name = event.anchor or ""
        self._aliases += 1
        if self._aliases > limits.YAML_ALIASES:
            self._fail(f"more than {limits.YAML_ALIASES} aliases", event)
        where = self._source.span(event.start_mark, event.end_mark)
        if name in self._open_anchors:
            self._fail(f"alias '*{name}' stands inside what it repeats", event)
        if name not in self._anchors:
            hint = f'quote the text: "*{name}"'
            self._error(f"no anchor '&{name}' before this alias", where, hint)
            self._broken = True
            return Scalar("", where)
        node, values = self._anchors[name]
        self._count(values - 1, event)
        return node

    def _extent(self, start: _Event, end: _Event) -> Location:
        if start.flow_style:
            return self._source.span(start.start_mark, end.end_mark)
        return self._source.at(start.start_mark.line, start.start_mark.column)

    def _count(self, values: int, event: _Event | None, where: Location | None = None) -> None:
        self._values += values
        if self._values > limits.YAML_VALUES:
            message = f"more than {limits.YAML_VALUES} values, aliases expanded"
            if event is None:
                raise _Fatal(InputError(message, where))
            self._fail(message, event)

    def _refuse_tag(self, event: _Event, tag: str) -> None:
        where = self._source.span(event.start_mark, event.end_mark)
        word = _WORD.match(where.text, where.column - 1)
        written = word[0] if word else tag
        hint = None if written.startswith("!!") else f'quote the text: "{written}"'
        self._error(f"YAML tags such as {written!r} are not used here", where, hint)

    def _refuse_key(self, key: Node) -> None:
        before = key.where.text[: key.where.column - 1]
        template = before.endswith("{") and isinstance(key, Mapping)
        hint = 'quote the text: "{{ … }}"' if template else None
        self._error("a key must be a text", key.where, hint)
        self._broken = True

    def _error(self, message: str, where: Location, hint: str | None = None) -> None:
        self._errors.append(InputError(message, where, hint))

    def _fail(self, message: str, event: _Event) -> NoReturn:
        mark = event.start_mark
        raise _Fatal(InputError(message, self._source.at(mark.line, mark.column)))


def _syntax_error(error: MarkedYAMLError, source: Source) -> InputError:
    """Return libyaml's complaint in our form, with a hint for the well-known traps."""
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "unreadable"
    if mark is None:
        return InputError(f"not valid YAML: {problem}", Location(source.path))
    if "nesting depth" in problem:
        # libyaml from 0.2.6 on has a limit of its own, far above ours, and reads ahead of us.
        return InputError(_too_deep(), source.at(mark.line, mark.column))
    line, column = mark.line, mark.column
    opened = error.context_mark
    if opened is not None and not source.line(line)[column:].strip():
        # The text ended inside a quote or bracket: where that began says more than the end.
        line, column = opened.line, opened.column
    while line and not source.line(line)[column:].strip():
        line, column = line - 1, 0
        if source.line(line).strip():
            column = len(source.line(line).rstrip()) - 1  # the last thing that is written
    text = source.line(line)
    hint, end = _trap(problem, text, column)
    return InputError(f"not valid YAML: {problem}", source.at(line, column, end), hint)


def _too_deep() -> str:
    return f"nested deeper than {limits.YAML_DEPTH} levels"


def _trap(problem: str, line: str, column: int) -> tuple[str | None, int]:
    """Return the hint for a well-known trap and the exclusive end column of the culprit (0: one).

    Tried with libyaml 0.2: `[:a]`, `{x: :a}`, `{r: ${v}}`, `[//x:y[k=v]]`, `@x`, `%x`, tabs.
    """
    at = line[column : column + 1]
    word = _WORD.match(line, column)
    end = word.end() if word else 0
    if at == "\t":
        return "indent with spaces: YAML forbids tabs there", 0
    for start, hint in _BY_PROBLEM:
        if problem.startswith(start):
            return hint, 0
    if at == ":" and word:
        return f'quote the label: "{word[0]}"', end
    if at in ("@", "`", "%") and word:
        return f'quote the text: "{word[0]}"', end
    if at == "{" and line[column - 1 : column] == "$":
        return "quote a text that has '{' in it", 0
    if at in ("[", "{", ",") and not line[column + 1 :].strip():
        return "close the bracket", 0
    if at == "[" and column and not line[column - 1].isspace():
        return "quote a label or text that has '[' in it", 0
    if problem.startswith("did not find expected ',' or"):
        return "close the bracket, or put a comma here", 0
    return None, 0
