"""Knows how a COPY, an ADD or a WORKDIR becomes a layer; must not know which files it means or
where they go (selecting, placing).

A layer that somebody will run on or read from is written as a directory, any other straight into
a compressed blob: what is only shipped is never unpacked.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from buildgraph.context.tree import ContextTree
from buildgraph.engine.identify import Identifier
from buildgraph.engine.placing import DestFacts, entries, mkdir_entries
from buildgraph.engine.selecting import Selection
from buildgraph.engine.sources import Sources, write_entries
from buildgraph.engine.treewalk import follow
from buildgraph.engine.work import Work
from buildgraph.errors import InputError
from buildgraph.filetree import Entry, FileTree, FromTree, Kind
from buildgraph.graph.ops import CopyOp, MkdirOp
from buildgraph.oci.compress import Compression, decompress
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.tarread import Member, TarReader
from buildgraph.oci.types import Layer
from buildgraph.oci.unpack import Unpacker
from buildgraph_cache.store import Store

_CHUNK = 1 << 20


class FileExecutor:
    """Executes `CopyOp`s and `MkdirOp`s."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        identifier: Identifier,
        sources: Sources,
        compression: Compression,
    ):
        """`compression` is what blobs are written with when nobody needs the directory."""
        self._store = store
        self._layers = layers
        self._keeping = layers.keeping_times()
        self._identifier = identifier
        self._sources = sources
        self._compression = compression

    def execute(self, work: Work) -> Layer | None:
        """Write the layer; None where there is nothing to write."""
        op = work.node.op
        if isinstance(op, MkdirOp):
            facts = self._identifier.mkdir(work.node, op, work.parent)
            return self._create(work, mkdir_entries(facts), self._layers)
        assert isinstance(op, CopyOp)
        with self._sources.tree(op.source, work.sources):
            selection = self._identifier.selection(work.node, op, work.sources)
            place = self._identifier.destination(work.node, op, work.parent, work.sources)
            found, layers = entries(op, selection, place), self._layers
            if op.preserve_times:
                layers, epoch = self._keeping, layers.epoch
                found = [e if e.mtime is not None else replace(e, mtime=epoch) for e in found]
            if isinstance(selection.tree, ContextTree):
                files = (e.content for e in found if isinstance(e.content, FromTree))
                selection.tree.expect(file.path for file in files)
            if selection.archives:
                return self._unpack(work, op, selection, place, found, layers)
            return self._create(work, found, layers)

    def _create(self, work: Work, found: list[Entry], layers: LayerStore) -> Layer | None:
        if not found:
            return None
        if work.want_directory:
            return layers.create(found, "directory")
        return layers.create(found, "blob", self._compression)

    def _unpack(
        self,
        work: Work,
        op: CopyOp,
        selection: Selection,
        place: DestFacts,
        found: list[Entry],
        layers: LayerStore,
    ) -> Layer | None:
        """ADD of archives: plain entries first, then each archive's members over them."""
        below = self._identifier.below(op, work.parent)
        epoch, overlay = self._layers.epoch, self._layers.overlay
        with self._store.new_scratch() as scratch:
            write_entries(layers, found, str(scratch.upper))
            placed = _Placing(below, place)
            for path in selection.archives:
                tar = TarReader(decompress(_chunks(selection.tree, path)))
                with Unpacker(scratch.upper, epoch, overlay) as unpacker:
                    unpacker.unpack(placed.members(tar), tar)
            view = self._identifier.view(work.parent)
            return layers.commit(Path(scratch.upper), view)


class _Placing:
    """Puts an archive's members below the destination, through the links of the image.

    A directory of the image that the archive only implies keeps its mode and owner.
    """

    def __init__(self, below: FileTree, place: DestFacts):
        self._below = below
        self._place = place
        self._parents: dict[str, str] = {}
        self._told = {"", *(parent.path for parent in place.parents)}

    def members(self, tar: Iterable[Member]) -> Iterator[Member]:
        """Yield the members under the paths they have in the layer, after directories above."""
        for member in tar:
            member.path = self._path(member.path)
            if member.flag == b"1":
                member.link = self._path(member.link)
            if self._place.owner is not None:
                member.uid, member.gid = self._place.owner
            path = os.fsdecode(member.path)
            yield from self._above(path)
            if member.flag == b"5":
                self._told.add(path)
            yield member

    def _above(self, path: str) -> Iterator[Member]:
        """Yield the directories above `path` that are there below and were not told yet."""
        names = path.split("/")[:-1]
        for count in range(1, len(names) + 1):
            directory = "/".join(names[:count])
            if directory in self._told:
                continue
            self._told.add(directory)
            stat = self._below.stat(directory)
            if stat is None or stat.kind is not Kind.DIR:
                return
            yield Member(
                os.fsencode(directory),
                b"5",
                stat.mode,
                stat.uid,
                stat.gid,
                0,
                stat.mtime_ns,
                b"",
                0,
                0,
                self._below.xattrs(directory),
            )

    def _path(self, raw: bytes) -> bytes:
        inside = posixpath.normpath(os.fsdecode(raw).lstrip("/"))
        if inside == ".." or inside.startswith("../"):
            raise InputError(f"the archive has a path that leaves its root: {raw[:200]!r}")
        if inside == ".":
            return os.fsencode(self._place.path)
        parent, name = posixpath.split(posixpath.join(self._place.path, inside))
        if parent not in self._parents:
            self._parents[parent] = follow(self._below, parent).path
        return os.fsencode(posixpath.join(self._parents[parent], name))


def _chunks(tree: FileTree, path: str) -> Iterator[bytes]:
    with open(tree.open(path), "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            yield data
