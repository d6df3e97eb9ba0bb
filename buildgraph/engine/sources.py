"""Knows where the files are that a node reads: contexts of the workspace and root file systems of
other nodes; must not know what they are read for.

A context is walked and hashed once in a build, however many nodes read from it, so all threads
share its tree behind one lock.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from buildgraph.context.ignore import IgnoreRules
from buildgraph.context.observation import Found
from buildgraph.context.remembered import Room
from buildgraph.context.tree import ContextTree
from buildgraph.engine import records
from buildgraph.engine.placing import DestFacts, entries
from buildgraph.engine.seen import KIND, SeenContext
from buildgraph.engine.selecting import mount_source, mounted_as_copy, select
from buildgraph.engine.treewalk import EmptyTree, follow
from buildgraph.errors import InputError, Location
from buildgraph.filetree import Entry, FileStat, FileTree, FromTree, Kind
from buildgraph.graph.ops import (
    ContextSource,
    ContextSpec,
    Op,
    RunMount,
    StageSource,
    contexts_read,
)
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Chain
from buildgraph.oci.write import EntryWriter
from buildgraph_cache.statcache import StatCache
from buildgraph_cache.store import Store

_NOBODY: Final[Mapping[int, int]] = MappingProxyType({})


class Sources:
    """The files that the nodes of one build can read. Close it when the build is over."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        contexts: tuple[ContextSpec, ...],
        readers: Mapping[int, int] = _NOBODY,
    ):
        """`readers` says how many nodes read each context, so that it can be let go after them."""
        self._store = store
        self._layers = layers
        self._contexts = contexts
        self._trees: dict[int, ContextTree] = {}
        self._old: list[ContextTree] = []
        self._caches: dict[str, StatCache] = {}
        self._seen: dict[int, SeenContext] = {}
        self._room = Room()
        self._readers = dict(readers)
        self._roots = Counter(contexts[context].root for context in readers)
        self._found: list[tuple[str, Found]] = []  # root and what was there, of trees let go
        self._to_keep: list[tuple[str, bytes, tuple[str, ...]]] = []
        self._locks = [threading.RLock() for _ in contexts]
        self._guard = threading.Lock()

    def close(self) -> None:
        """Close every tree and save what was learnt of unchanged files."""
        for context in tuple(self._trees):
            self._let_go(context)
        if self._to_keep and not self._store.read_only:
            self._store.put_records(KIND, self._to_keep)
        for tree in self._old:
            tree.close()
        for cache in self._caches.values():
            cache.save()
        for known in (self._seen, self._old, self._caches, self._to_keep, self._found):
            known.clear()

    def done(self, op: Op) -> None:
        """Take note that a node has its result; what no other node reads is let go.

        A tree of a context takes nearly a kilobyte a file, and a workspace has a thousand trees.
        """
        for context in contexts_read(op):
            with self._guard:
                self._readers[context] = left = self._readers.get(context, 0) - 1
            if left == 0:
                with self._locks[context]:
                    self._let_go(context)
                self._save_cache(self._contexts[context].root)

    def _let_go(self, context: int) -> None:
        """Close a tree, and keep of it what was there and what the next build should know."""
        tree = self._trees.pop(context, None)
        if tree is None:
            return
        found = tree.found()
        seen = self._seen.get(context)
        kept = None if seen is None else seen.to_keep(tree, found)
        tree.close()
        with self._guard:
            self._found.append((tree.root, found))
            if seen is not None and kept is not None:
                self._to_keep.append((seen.key, kept, ()))

    def _save_cache(self, root: str) -> None:
        """Save the stat cache of a root once the last context of it was let go."""
        with self._guard:
            self._roots[root] -= 1
            cache = None if self._roots[root] else self._caches.pop(root, None)
        if cache is not None:
            cache.save()

    def look_again(self, context: int) -> None:
        """Read a context anew from now on; what was taken from the old look stays usable."""
        with self._locks[context]:
            tree = self._trees.pop(context, None)
            if tree is not None:
                self._old.append(tree)
            if context in self._seen:
                self._seen[context].forget()

    def answer(self, context: int, question: str) -> str | None:
        """Return what was found out about a context's files in an earlier build, if it holds."""
        with self._locks[context]:
            seen = self._seen_context(context)
            return None if seen is None else seen.answer(question)

    def learn(self, context: int, question: str, answer: str) -> None:
        """Keep for later builds what was found out about a context's files."""
        with self._locks[context]:
            seen = self._seen_context(context)
            if seen is not None:
                seen.learn(question, answer)

    def _seen_context(self, context: int) -> SeenContext | None:
        spec = self._contexts[context]
        if spec.fleeting:
            return None
        found = self._seen.get(context)
        if found is None:
            found = self._seen[context] = SeenContext(self._store, spec)
        return found

    def found(self) -> Iterator[tuple[str, Found]]:
        """Yield (absolute path, what was there) of every context that was looked at."""
        for index, seen in self._seen.items():
            yield from ((self._contexts[index].root, found) for found in seen.found())
        yield from self._found
        for index, tree in self._trees.items():
            yield self._contexts[index].root, tree.found()

    @contextmanager
    def tree(
        self, source: ContextSource | StageSource, chains: tuple[Chain, ...]
    ) -> Iterator[FileTree]:
        """Yield the tree of a source; a context's is ours alone meanwhile."""
        if isinstance(source, StageSource):
            yield root_files(self._layers, chains[source.input])
            return
        with self._locks[source.context]:
            yield self._context(source.context)

    def _context(self, index: int) -> ContextTree:
        tree = self._trees.get(index)
        if tree is None:
            spec = self._contexts[index]
            rules = IgnoreRules.parse("\n".join(spec.ignore), spec.ignore_name or spec.name)
            with self._guard:
                cache = self._caches.get(spec.root)
                if cache is None and spec.fleeting:
                    cache = StatCache(self._store, spec.root, 0, None)  # and not to be saved
                elif cache is None:
                    cache = self._caches[spec.root] = StatCache.load(self._store, spec.root)
            tree = ContextTree(spec.root, rules, cache, owners=spec.owners, room=self._room)
            self._trees[index] = tree
        return tree

    # -- mounts ------------------------------------------------------------------------

    def mounted(self, mount: RunMount, chains: tuple[Chain, ...], where: Location) -> str:
        """Return the digest of the files that a bind mount, or the base of a cache mount, shows."""
        op = mounted_as_copy(mount)
        chain = Chain() if mount.input is None else chains[mount.input]
        key = records.question("mounted", chain.id, op.paths)
        if mount.input is not None and (known := records.load_memo(self._store, key)):
            return str(known)
        with self.tree(op.source, chains) as tree:
            digest = select(op, tree, where).tree_digest()
        if mount.input is not None:
            records.save_memo(self._store, key, digest)
        return digest

    def directory(
        self, mount: RunMount, chains: tuple[Chain, ...], where: Location
    ) -> tuple[str, ...]:
        """Return directories that, merged, show the source of a mount; or one file."""
        if mount.input is None:
            return self._context_directory(mount, chains, where)
        path = mount_source(mount)
        chain = chains[mount.input]
        found = follow(root_files(self._layers, chain), path)
        if found.stat is None:
            raise InputError(f"the mount's source /{path} does not exist", where)
        layers = list(reversed(chain.layers))
        directories = [str(self._layers.ensure_directory(layer)) for layer in layers]
        if found.stat.kind is Kind.DIR:
            if not found.path:
                return tuple(directories)
            return merged_below(self._layers, chain, found.path)
        for directory in directories:
            place = os.path.join(directory, found.path)
            if os.path.isfile(place) and not os.path.islink(place):
                return (place,)
        raise InputError(f"the mount's source /{path} is no file or directory", where)

    def top(self, mount: RunMount, chains: tuple[Chain, ...], where: Location) -> FileStat | None:
        """Return the directory of another node that a cache mount begins as; None: a context's.

        Raises InputError where there is no such directory.
        """
        if mount.input is None:
            return None
        view = root_files(self._layers, chains[mount.input])
        stat = follow(view, mount_source(mount)).stat
        if stat is not None and stat.kind is Kind.DIR:
            return stat
        wrong = "does not exist" if stat is None else "is no directory"
        raise InputError(f"the source /{mount_source(mount)} of a cache mount {wrong}", where)

    def copy_to(
        self, mount: RunMount, chains: tuple[Chain, ...], where: Location, directory: str
    ) -> None:
        """Write the files of a mount's source into an empty directory."""
        op = mounted_as_copy(mount)
        with self.tree(op.source, chains) as tree:
            found = entries(op, select(op, tree, where), DestFacts("", True, (), None))
            write_entries(self._layers, found, directory)

    def _context_directory(
        self, mount: RunMount, chains: tuple[Chain, ...], where: Location
    ) -> tuple[str, ...]:
        """Copy the visible part of a context into a layer of the store and show that."""
        op = mounted_as_copy(mount)
        with self.tree(op.source, chains) as tree:
            selection = select(op, tree, where)
            made: list[Entry] = []
            single = ""
            for group in selection.groups:
                for item in group.items:
                    name = item.name or group.name
                    if not group.is_dir:
                        single = name
                    if not name:
                        continue
                    made.append(
                        Entry(
                            name,
                            item.stat.kind,
                            item.stat.mode,
                            size=item.stat.size if item.stat.kind is Kind.FILE else 0,
                            link=item.stat.target,
                            content=FromTree(tree, item.path, item.stat)
                            if item.stat.kind is Kind.FILE
                            else None,
                        )
                    )
            layer = self._layers.create(made, "directory")
        directory = str(self._layers.ensure_directory(layer))
        return (os.path.join(directory, single),) if single else (directory,)


def root_files(layers: LayerStore, chain: Chain) -> FileTree:
    """Return the root file system that a chain of layers makes, for reading."""
    return RootView(layers, chain) if chain.layers else EmptyTree()


def write_entries(layers: LayerStore, found: Iterable[Entry], directory: str) -> None:
    """Make entries, in the order of their paths, in an empty directory."""
    with EntryWriter(directory, layers.epoch, layers.overlay) as writer:
        for entry in writer.passing(found):
            if entry.kind is Kind.FILE and entry.size:
                for _ in writer.read(entry):
                    pass
        writer.finish()


def merged_below(layers: LayerStore, chain: Chain, path: str) -> tuple[str, ...]:
    """Return the layers' own versions of the directory `path`, top first.

    The list ends where a layer hides those below: an opaque directory, or something else than a
    directory, at `path` or above it.
    """
    out: list[str] = []
    parts = path.split("/")
    for layer in reversed(chain.layers):
        tree = layers.tree(layer)
        hidden = False
        reached = True
        for depth in range(1, len(parts) + 1):
            at = "/".join(parts[:depth])
            stat = tree.stat(at)
            if stat is None:
                reached = False
                break
            if stat.kind is not Kind.DIR:
                reached, hidden = False, True
                break
            hidden = hidden or tree.opaque(at)
        if reached:
            out.append(os.path.join(str(layers.ensure_directory(layer)), path))
        if hidden:
            break
    return tuple(out)
