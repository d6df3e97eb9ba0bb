"""Knows how one mapping of a Boxfile is written over another; must not know what its keys mean.

Mappings merge, key by key and all the way down; lists and scalars replace. What was inherited
keeps its place in the file, so that an error in it points to where it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from buildgraph import limits
from buildgraph.boxfile.yaml import Entry
from buildgraph.boxfile.yaml import Mapping as Node
from buildgraph.boxfile.yaml import Sequence as Items
from buildgraph.errors import InputError, Location

# Of these one is enough, so that writing one takes the inherited other away.
_EITHER = ({"dockerfile": "dockerfile_inline"}, {"dockerfile_inline": "dockerfile"})
# What a target says of itself alone.
OWN = ("extends", "doc")

Named = tuple[str, Location]  # a target that is extended, and where that is written


def merge(base: Sequence[Entry], own: Sequence[Entry]) -> list[Entry]:
    """Return `own` written over `base`: in the order of `base`, what is new behind it."""
    taken = {other for entry in own for pair in _EITHER if (other := pair.get(entry.key.text))}
    out = {entry.key.text: entry for entry in base if entry.key.text not in taken}
    for entry in own:
        below = out.get(entry.key.text)
        if below and isinstance(below.value, Node) and isinstance(entry.value, Node):
            entries = merge(below.value.entries, entry.value.entries)
            entry = Entry(entry.key, Node(tuple(entries), entry.value.where))
        out[entry.key.text] = entry
    return list(out.values())


def size(entries: Iterable[Entry]) -> int:
    """Return how many values there are in entries, all the way down."""
    count = 0
    waiting = [entry.value for entry in entries]
    while waiting:
        node = waiting.pop()
        count += 1
        if isinstance(node, Node):
            waiting.extend(entry.value for entry in node.entries)
        elif isinstance(node, Items):
            waiting.extend(node.items)
    return count


class Inheritance:
    """The targets of one file as they are once everything they extend is written below them."""

    def __init__(
        self,
        written: Mapping[str, Sequence[Entry]],
        bases: Callable[[str], Iterable[Named]],
        errors: list[InputError],
    ):
        """`bases` returns what a target extends, and complains of what is not there."""
        self._written = written
        self._bases = bases
        self._errors = errors
        self._done: dict[str, list[Entry]] = {}
        self._depth: dict[str, int] = {}

    def of(self, name: str) -> list[Entry]:
        """Return all entries of a target. A target that extends itself is an error, told once."""
        return self._resolve(name, [])

    def _resolve(self, name: str, path: list[Named]) -> list[Entry]:
        if name in self._done:
            return self._done[name]
        entries: list[Entry] = []
        depth = 0
        for base, where in self._bases(name):
            names = [*(one for one, _ in path), name]
            if base in names:
                round_ = [*names[names.index(base) :], base]
                self._errors.append(
                    InputError(f"targets extend each other: {' -> '.join(round_)}", where)
                )
                continue
            if len(path) >= limits.EXTENDS_DEPTH:
                self._too_deep(where)
                continue
            found = self._resolve(base, [*path, (name, where)])
            depth = max(depth, self._depth.get(base, 0) + 1)
            if depth > limits.EXTENDS_DEPTH:
                self._too_deep(where)
            entries = merge(entries, [e for e in found if e.key.text not in OWN])
        self._depth[name] = depth
        self._done[name] = merge(entries, self._written[name])
        return self._done[name]

    def _too_deep(self, where: Location) -> None:
        message = f"extends goes deeper than {limits.EXTENDS_DEPTH} targets"
        self._errors.append(InputError(message, where))
