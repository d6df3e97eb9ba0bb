"""Knows how to find out what a node's inputs *are*, and makes its key from that; must not know
whether a record exists for the key.

What has to be read for it is remembered: a question about layers has one answer for ever, since
layers never change (`memo` records).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from buildgraph.context.reading import changed
from buildgraph.engine import records
from buildgraph.engine.mounts import MountSources
from buildgraph.engine.placing import DestFacts, destination, mkdir_facts
from buildgraph.engine.remote import Progress, Remotes, silent
from buildgraph.engine.selecting import Selection, select
from buildgraph.engine.sources import Sources, root_files
from buildgraph.engine.treewalk import EmptyTree
from buildgraph.filetree import FileTree
from buildgraph.graph.keys import NodeKey, copy_key, exec_key, mkdir_key, packages_key
from buildgraph.graph.ops import (
    ContextSource,
    CopyOp,
    ExecOp,
    GitOp,
    HttpOp,
    ImageOp,
    MkdirOp,
    Node,
    PackagesOp,
    StageSource,
)
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain
from buildgraph_cache.store import Store

# A different meaning of the same answer needs a different question.
MEMO_VERSION = 2


class Identifier:
    """Makes the keys of one build's nodes."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        sources: Sources,
        mounts: MountSources,
        remotes: Remotes,
        *,
        epoch: int,
        profile: str,
    ):
        """`profile` names the version of the sandbox's rules, which a RUN can notice."""
        self._store = store
        self._layers = layers
        self._sources = sources
        self._mounts = mounts
        self._remotes = remotes
        self._epoch = epoch
        self._profile = profile
        self._selections: dict[int, Selection] = {}
        self._destinations: dict[int, DestFacts] = {}
        self._promised: dict[int, str] = {}  # tree digests that no selection was made for
        self._guard = threading.Lock()

    def key(
        self,
        node: Node,
        parent: Chain,
        sources: tuple[Chain, ...],
        progress: Progress = silent,
    ) -> NodeKey:
        """Return the key of a node whose inputs are these chains.

        What comes from another machine is asked for, and downloaded where it is new; `progress`
        is told how far that is.

        Raises InputError for files that are missing or in each other's way.
        """
        op = node.op
        match op:
            case ExecOp():
                shown = self._mounts.identities(node, op, sources)
                return exec_key(op, node.platform, self._epoch, parent.id, shown, self._profile)
            case PackagesOp():
                return packages_key(op, node.platform, self._epoch, self._profile)
            case MkdirOp():
                return self._mkdir(node, op, parent)
            case CopyOp():
                return self._copy(node, op, parent, sources)
            case HttpOp() | GitOp():
                return self._remotes.key(node, progress)
            case ImageOp():
                raise AssertionError("an outside image is known by its digest")

    def unknown(self, node: Node) -> str | None:
        """Return why a node has no key before something is downloaded; None: it has one."""
        return self._remotes.unknown(node)

    def selection(self, node: Node, op: CopyOp, sources: tuple[Chain, ...]) -> Selection:
        """Return the files of a COPY; its tree may be a context's, see `Sources.tree`."""
        found = self._selections.get(node.id)
        if found is None:
            with self._sources.tree(op.source, sources) as tree:
                found = select(op, tree, node.where)
                promised = self._promised.get(node.id)
                # What is copied must be what the key was made from (R34).
                if promised is not None and found.tree_digest() != promised:
                    raise changed(op.paths[0] if op.paths else "", "it is not what it was just now")
            with self._guard:
                self._selections[node.id] = found
        return found

    def destination(
        self, node: Node, op: CopyOp, parent: Chain, sources: tuple[Chain, ...]
    ) -> DestFacts:
        """Return where the files of a COPY go."""
        found = self._destinations.get(node.id)
        if found is None:
            found = destination(
                op, self.selection(node, op, sources), self.below(op, parent), node.where
            )
            with self._guard:
                self._destinations[node.id] = found
        return found

    def mkdir(self, node: Node, op: MkdirOp, parent: Chain) -> DestFacts:
        """Return what a WORKDIR makes."""
        return mkdir_facts(op, self.view(parent), node.where)

    def done(self, node: Node) -> None:
        """Let go of what was selected for a node; thousands of nodes would add up."""
        with self._guard:
            self._selections.pop(node.id, None)
            self._destinations.pop(node.id, None)
            self._promised.pop(node.id, None)
        self._sources.done(node.op)

    def look_again(self, node: Node) -> None:
        """Forget what was seen of a node's context: its files have changed since."""
        with self._guard:
            self._selections.pop(node.id, None)
            self._destinations.pop(node.id, None)
            self._promised.pop(node.id, None)
        if isinstance(node.op, CopyOp) and isinstance(node.op.source, ContextSource):
            self._sources.look_again(node.op.source.context)

    def view(self, chain: Chain) -> FileTree:
        """Return a root file system for reading."""
        return root_files(self._layers, chain)

    def below(self, op: CopyOp, parent: Chain) -> FileTree:
        """Return what a COPY sees of the files below: `--link` sees nothing."""
        return EmptyTree() if op.link else self.view(parent)

    def _copy(self, node: Node, op: CopyOp, parent: Chain, sources: tuple[Chain, ...]) -> NodeKey:
        files = self._files(node, op, sources)
        below = "" if op.link else parent.id
        question = records.question(
            "destination", MEMO_VERSION, below, op.dest, op.chown, op.chmod, files
        )
        known: Mapping[str, Any] | None = records.load_memo(self._store, question)
        if known is None:
            with self._sources.tree(op.source, sources):
                facts = self.destination(node, op, parent, sources).as_json()
                if self.selection(node, op, sources).archives:
                    facts["below"] = below  # members go through links and directories of the base
                known = facts
            records.save_memo(self._store, question, known)
        return copy_key(op, self._epoch, files, known)

    def _files(self, node: Node, op: CopyOp, sources: tuple[Chain, ...]) -> str:
        """Return the tree digest of what a COPY selects."""
        asked = (
            op.paths,
            op.exclude,
            op.parents,
            op.unpack,
            op.chown is not None,
            op.chmod,
            op.preserve_times,
            [[f.name, f.mode, f.content.decode("latin-1")] for f in op.inline],
        )
        if isinstance(op.source, ContextSource):
            return self._files_of_context(node, op, op.source, sources, asked)
        assert isinstance(op.source, StageSource)
        question = records.question("files", MEMO_VERSION, sources[op.source.input].id, *asked)
        known = records.load_memo(self._store, question)
        if known is None:
            selection = self.selection(node, op, sources)
            listing = selection.listing_text()
            known = selection.tree_digest(listing)
            records.save_listing(self._store, known, listing)
            records.save_memo(self._store, question, known)
        return str(known)

    def _files_of_context(
        self,
        node: Node,
        op: CopyOp,
        source: ContextSource,
        sources: tuple[Chain, ...],
        asked: Sequence[Any],
    ) -> str:
        question = records.question("selected", MEMO_VERSION, *asked)
        known = self._sources.answer(source.context, question)
        if known is not None and records.has_listing(self._store, known):
            with self._guard:
                self._promised[node.id] = known
            return known
        with self._sources.tree(source, sources):
            selection = self.selection(node, op, sources)
            listing = selection.listing_text()
            digest = selection.tree_digest(listing)
            records.save_listing(self._store, digest, listing)
            self._sources.learn(source.context, question, digest)
        return digest

    def _mkdir(self, node: Node, op: MkdirOp, parent: Chain) -> NodeKey:
        question = records.question("mkdir", MEMO_VERSION, parent.id, op.path, op.user)
        known = records.load_memo(self._store, question)
        if known is None:
            known = self.mkdir(node, op, parent).as_json()
            records.save_memo(self._store, question, known)
        return mkdir_key(op, self._epoch, known)
