"""Knows which steps could see that a path of the workspace has changed; must not know whether it
has, or what follows from it.

A path counts for a COPY if it lies at or below one of its sources, under the ignore rules, and no
`--exclude` leaves it out; what a link in a source leads to counts as well. Cost per path is its
depth plus what it reaches, not the number of steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from msgspec import Struct, field

from buildgraph.context.glob import BadPattern, Components, DeepPattern, has_wildcards, unescape
from buildgraph.context.ignore import IgnoreRules, clean_pattern
from buildgraph.engine.reads import IGNORE_FILE, ContextAt, ContextRead, PathRead
from buildgraph.errors import InputError
from buildgraph.limits import LINK_BUDGET
from buildgraph.rootpath import clean

Seen = Callable[[str], bool]  # says of a path below a source whether it counts


class _Source(Struct, frozen=True):
    """One source of one step: a path, and what below it counts."""

    prefix: str
    seen: Seen


class _Context(Struct):
    """One context under one set of ignore rules, with the steps that read from it."""

    of: ContextAt
    waiting: list[tuple[str, ContextRead]] = field(default_factory=list)
    at: dict[str, list[tuple[str, ContextRead, Seen]]] = field(default_factory=dict)
    above: dict[str, list[tuple[str, ContextRead]]] = field(default_factory=dict)
    rules: IgnoreRules | None = None

    def ready_rules(self) -> IgnoreRules:
        """Return the rules, read once. Raises InputError."""
        if self.rules is None:
            self.rules = self.of.rules()
        return self.rules


class Reach:
    """An index from paths to what reads them; paths are from the workspace's root.

    A context is looked into when the first path in it is asked for.
    """

    def __init__(self, root: str):
        self._root = os.path.realpath(root)
        self._contexts: dict[int, _Context] = {}
        self._bases: dict[str, list[_Context]] = {}
        self._paths: dict[str, list[tuple[str, PathRead]]] = {}
        self.steps = 0  # comparisons so far: what the work is measured by

    def add_path(self, label: str, read: PathRead) -> None:
        """Add a file or a directory that a target reads."""
        self._paths.setdefault(read.path, []).append((label, read))
        full = os.path.join(self._root, read.path)
        if read.role != IGNORE_FILE and os.path.islink(full):
            real = _below(self._root, os.path.realpath(full))
            if real is not None:
                self._paths.setdefault(real, []).append((label, read))

    def add_context(self, label: str, read: ContextRead) -> None:
        """Add what a step takes from a context."""
        at = read.context
        found = self._contexts.get(id(at))
        if found is None:
            found = self._contexts[id(at)] = _Context(at)
            for base in {at.root, at.real}:
                if base is not None:
                    self._bases.setdefault(base, []).append(found)
        found.waiting.append((label, read))

    def _ready(self, context: _Context) -> _Context:
        """Sort the steps of a context by what they take. Raises InputError for bad patterns."""
        if not context.waiting:
            return context
        rules = context.ready_rules()
        root = os.path.join(self._root, context.of.root)
        for label, read in context.waiting:
            for source in _sources(root, read, rules):
                self.steps += 1
                context.at.setdefault(source.prefix, []).append((label, read, source.seen))
                parent = source.prefix
                while parent:
                    parent = parent.rpartition("/")[0]
                    if parent:
                        context.above.setdefault(parent, []).append((label, read))
        context.waiting.clear()
        return context

    def paths(self, path: str) -> Iterator[tuple[str, PathRead]]:
        """Yield who reads a path beside contexts: it, or a directory that it is in."""
        for above in _upwards(path):
            self.steps += 1
            yield from self._paths.get(above, ())

    def contexts(self, path: str) -> Iterator[tuple[str, ContextRead]]:
        """Yield the steps that could see a change of a path."""
        for base in _upwards(path):
            self.steps += 1
            for context in self._bases.get(base, ()):
                yield from self._within(self._ready(context), path[len(base) :].lstrip("/"))
        full = os.path.join(self._root, path)
        if os.path.islink(full) or os.path.isdir(full):  # a repository, or a link to a context
            for base, contexts in self._bases.items():
                self.steps += 1
                if base.startswith(path + "/"):
                    for context in contexts:
                        yield from self._within(self._ready(context), "")

    def hides(self, path: str) -> bool:
        """Say whether some context leaves a path out by its ignore rules."""
        for base in _upwards(path):
            for context in self._bases.get(base, ()):
                rest = path[len(base) :].lstrip("/")
                if rest and context.ready_rules().excludes(rest):
                    return True
        return False

    def _within(self, context: _Context, path: str) -> Iterator[tuple[str, ContextRead]]:
        if path and context.ready_rules().excludes(path):
            return
        if not path:  # the context itself
            for found in context.at.values():
                yield from ((label, read) for label, read, _ in found)
            return
        for above in _upwards(path):
            self.steps += 1
            below = path[len(above) :].lstrip("/")
            for label, read, seen in context.at.get(above, ()):
                self.steps += 1
                if seen(below):
                    yield label, read
        yield from context.above.get(path, ())


def _upwards(path: str) -> Iterator[str]:
    """Yield a path, the directories it is in, and "" for the root."""
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""


def _below(root: str, directory: str) -> str | None:
    if directory == root:
        return ""
    prefix = root.rstrip("/") + "/"
    return directory[len(prefix) :] if directory.startswith(prefix) else None


def _everything(path: str) -> bool:
    return True


def _sources(root: str, read: ContextRead, rules: IgnoreRules) -> Iterator[_Source]:
    if read.sources is None:
        yield _Source("", _everything)
        return
    for written in read.sources:
        text = clean(written.replace("/./", "/"))
        try:
            if has_wildcards(text):
                yield from _of_pattern(root, read, text, rules)
            else:
                yield from _of_path(root, read, text)
        except BadPattern:  # an error of the build; until then nobody knows what is meant
            yield _Source("", _everything)


def _of_path(root: str, read: ContextRead, text: str) -> Iterator[_Source]:
    seen = _everything if read.parents else _unless_excluded(read.exclude)
    for name in {text, unescape(text)}:
        yield _Source(name, seen)
        for place in _trail(root, name):
            yield _Source(place, seen)


def _of_pattern(root: str, read: ContextRead, text: str, rules: IgnoreRules) -> Iterator[_Source]:
    names = text.split("/")
    fixed = next(at for at, name in enumerate(names) if has_wildcards(name))
    prefix = unescape("/".join(names[:fixed]))
    rest = "/".join(names[fixed:])
    seen = _deep(rest) if read.parents else _shallow(rest)
    for place in (prefix, *_trail(root, prefix)):
        yield _Source(place, seen)
    if read.parents:
        return
    # A link that matches is followed, so what it leads to counts.
    for link in _matching_links(root, prefix, rest, rules):
        for place in _trail(root, link):
            yield _Source(place, _everything)


def _matching_links(root: str, prefix: str, pattern: str, rules: IgnoreRules) -> list[str]:
    from buildgraph.context.remembered import NoStatCache
    from buildgraph.context.tree import ContextTree
    from buildgraph.engine.selecting import glob_below
    from buildgraph.filetree import Kind

    try:
        with ContextTree(root, rules, NoStatCache()) as tree:
            stat = tree.stat(prefix)
            if stat is None or stat.kind is not Kind.DIR:
                return []
            found = glob_below(tree, prefix, Components.read(pattern))
            return [p for p in found if (s := tree.stat(p)) and s.kind is Kind.SYMLINK]
    except (InputError, OSError):
        return []


def _shallow(text: str) -> Seen:
    pattern = Components.read(text)

    def seen(path: str) -> bool:
        parts = path.split("/") if path else []
        return all(
            matches(part) for matches, part in zip(pattern.names, parts, strict=False)
        )  # shorter: a directory on the way to what matches; longer: something inside it

    return seen


def _deep(text: str) -> Seen:
    pattern = DeepPattern.read(text)

    def seen(path: str) -> bool:
        return (
            not path
            or pattern.may_match_below(path)
            or any(pattern.matches(above) for above in _upwards(path) if above)
        )

    return seen


def _unless_excluded(texts: tuple[str, ...]) -> Seen:
    patterns = [clean_pattern(text) for text in texts if text.strip()]
    if not patterns:
        return _everything
    exclude = IgnoreRules(patterns, "--exclude")
    return lambda path: not path or not exclude.excludes(path)


def _trail(root: str, path: str) -> Iterator[str]:
    """Yield the links on the way of a path below `root`, and where it leads in the end."""
    todo = [part for part in path.split("/") if part][::-1]
    at: list[str] = []
    followed = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = at[:-1]
            continue
        here = "/".join([*at, part])
        try:
            target = os.readlink(os.path.join(root, here))
        except OSError:
            at.append(part)  # no link, or nothing there
            continue
        yield here
        followed += 1
        if followed > LINK_BUDGET:
            return
        if target.startswith("/"):
            at = []
        todo.extend(target.split("/")[::-1])
    if followed:
        yield "/".join(at)
