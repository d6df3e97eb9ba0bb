"""Knows what the root file system of a chain of layers looks like, without mounting it.

Must not know who asks. Layers are merged as overlayfs does it: the topmost layer that has a name
wins, directories merge downwards until a whiteout, another kind of entry or an opaque mark. A
layer is read from its directory where it has one, else from its table of contents, so that a COPY
which only ends up in an image is never unpacked for a look at its names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.filetree import FileStat, Kind, name_order
from buildgraph.oci.dirtree import DirTree, is_whiteout
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain, Layer
from buildgraph.rootpath import clean, components
from buildgraph_cache.digest import Digest

_ROOT: Final = FileStat(Kind.DIR, 0o755)


class _LayerTree(Protocol):
    """What one layer says of a path whose parents are directories in it."""

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path`, a whiteout as a character device 0:0."""

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """Return a directory's entries, whiteouts too."""

    def opaque(self, path: str) -> bool:
        """Say whether the directory hides what is below."""

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return the kept attributes."""


class RootView:
    """A FileTree over a chain of layers; cheap to make, caches what it has seen.

    Methods may be called from several threads. Stats of files seen through a table of contents
    have no inode. Nothing may collect the layers meanwhile: hold a lease.
    """

    def __init__(self, layer_store: LayerStore, chain: Chain) -> None:
        self.chain = chain
        self._store = layer_store
        self._layers = chain.layers[::-1]  # topmost first
        self._trees: list[_LayerTree | None] = [None] * len(self._layers)
        # directory -> the layers (indexes, topmost first) whose directory of this path is merged
        self._directories: dict[str, tuple[int, ...]] = {"": tuple(range(len(self._layers)))}
        # directory that was listed -> name -> what `_find` says of it
        self._listed: dict[str, dict[str, tuple[int, FileStat]]] = {}
        self._bare: set[str] = set()  # files that are known to have no attributes

    # --- FileTree -----------------------------------------------------------------------------

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path`, or None where nothing is."""
        found = self._find(path)
        return found[1] if found else None

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """Return the entries of a directory as (name, stat), in `name_order`.

        Raises FileNotFoundError or NotADirectoryError.
        """
        merged: dict[str, tuple[int, FileStat]] = {}
        for index in self._directory(path):
            for name, stat in self._tree(index).list(path):
                merged.setdefault(name, (index, stat))
        shown = {name: found for name, found in merged.items() if not is_whiteout(found[1])}
        self._listed[path] = shown
        out = [(name, stat) for name, (_, stat) in shown.items()]
        out.sort(key=lambda item: name_order(item[0]))
        return out

    def open(self, path: str) -> int:
        """Return a file descriptor for reading a regular file; the caller closes it.

        Unpacks the layer that has it where that was not done yet. Raises FileNotFoundError.
        """
        index, stat = self._must_find(path)
        if stat.kind is not Kind.FILE:
            raise InputError(f"/{path} is not a regular file")
        return self._unpacked(index).open(path)

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return the extended attributes a layer keeps, sorted."""
        if not path:
            return ()
        index, _ = self._must_find(path)
        return self._tree(index).xattrs(path)

    def digest(self, path: str, stat: FileStat) -> Digest:  # FileTree's signature
        """Return the sha256 of a regular file's bytes, by reading them."""
        index, found = self._must_find(path)
        return self._unpacked(index).digest(path, found)

    def hash_many(self, paths: Iterable[str]) -> dict[str, Digest]:
        """Return the digests of regular files, opening each directory once."""
        groups: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for path in paths:
            index, stat = self._must_find(path)
            parent, _, name = path.rpartition("/")
            groups.setdefault((parent, index), []).append((name, stat.size))
        out: dict[str, Digest] = {}
        for (parent, index), files in groups.items():
            prefix = f"{parent}/" if parent else ""
            for name, digest, bare in self._unpacked(index).hash_in(parent, files):
                out[prefix + name] = digest
                if bare:
                    self._bare.add(prefix + name)
        return out

    def xattrs_many(self, paths: Iterable[str]) -> dict[str, tuple[tuple[str, bytes], ...]]:
        """Return `xattrs` of those paths that have any; ask for digests first."""
        found = ((path, self.xattrs(path)) for path in paths if path not in self._bare)
        return {path: xattrs for path, xattrs in found if xattrs}

    # --- more ---------------------------------------------------------------------------------

    def resolve(self, path: str) -> str:
        """Return the real path, symbolic links followed inside this root, relative.

        Where a component is missing the rest stays as it is. `..` never leaves the root. Raises
        InputError for more than LINK_BUDGET links.
        """
        todo = components(path)[::-1]
        done: list[str] = []
        budget = limits.LINK_BUDGET
        while todo:
            name = todo.pop()
            if name == "..":
                if done:
                    done.pop()
                continue
            here = "/".join([*done, name])
            stat = self.stat(here)
            if stat is None:
                return clean("/".join([here, *reversed(todo)]))
            if stat.kind is Kind.SYMLINK:
                budget -= 1
                if budget < 0:
                    raise InputError(f"too many symbolic links in /{clean(path)}")
                if stat.target.startswith("/"):
                    done = []
                todo.extend(components(stat.target)[::-1])
                continue
            done.append(name)
        return "/".join(done)

    def read_file(self, path: str, cap: int) -> bytes | None:
        """Return the bytes of the file that `path` leads to, links followed; None where none is.

        Raises InputError for a file of more than `cap` bytes.
        """
        real = self.resolve(path)
        stat = self.stat(real)
        if stat is None or stat.kind is not Kind.FILE:
            return None
        if stat.size > cap:
            raise InputError(f"/{real} of the image has {stat.size} bytes, more than {cap}")
        with open(self.open(real), "rb") as file:
            data = file.read(cap + 1)
        if len(data) > cap:
            raise InputError(f"/{real} of the image has more than {cap} bytes")
        return data

    def layers_at(self, directory: str) -> tuple[Digest, ...]:
        """Return the layers whose directories of this path are merged, topmost first.

        Two roots with the same answer have the same tree there, however they came by it. Raises
        FileNotFoundError or NotADirectoryError.
        """
        return tuple(self._layers[index].diff_id for index in self._directory(directory))

    def layer_of(self, path: str) -> Digest | None:
        """Return the layer that what is visible at `path` comes from, None where nothing is."""
        found = self._find(path)
        return None if found is None or not path else self._layers[found[0]].diff_id

    def unpack(self) -> None:
        """Make every layer a directory, so that stats have inodes and links can be told."""
        self._listed.clear()
        for index, layer in enumerate(self._layers):
            self._trees[index] = self._store.tree(layer)

    # --- merging ------------------------------------------------------------------------------

    def _tree(self, index: int) -> _LayerTree:
        tree = self._trees[index]
        if tree is None:
            tree = self._open_tree(self._layers[index])
            self._trees[index] = tree
        return tree

    def _open_tree(self, layer: Layer) -> _LayerTree:
        if not self._store.has_directory(layer):
            toc = self._store.toc(layer)
            if toc is not None:
                return toc
        return self._store.tree(layer)

    def _unpacked(self, index: int) -> DirTree:
        return self._store.tree(self._layers[index])

    def _must_find(self, path: str) -> tuple[int, FileStat]:
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(f"the image has no /{path}")
        return found

    def _find(self, path: str) -> tuple[int, FileStat] | None:
        """Return (layer, stat) of what is visible at `path`."""
        if not path:
            return (0, _ROOT)
        parent, _, name = path.rpartition("/")
        listed = self._listed.get(parent)
        if listed is not None:
            return listed.get(name)
        try:
            layers = self._directory(parent)
        except (FileNotFoundError, NotADirectoryError):
            return None
        for index in layers:
            stat = self._tree(index).stat(path)
            if stat is not None:
                return None if is_whiteout(stat) else (index, stat)
        return None

    def _directory(self, path: str) -> tuple[int, ...]:
        """Return the layers that make up a directory, topmost first."""
        known = self._directories.get(path)
        if known is not None:
            return known
        merged: list[int] = []
        for index in self._directory(path.rpartition("/")[0]):
            tree = self._tree(index)
            stat = tree.stat(path)
            if stat is None:
                continue
            if stat.kind is not Kind.DIR:
                if not merged and not is_whiteout(stat):
                    raise NotADirectoryError(f"/{path} is no directory")
                break
            merged.append(index)
            if tree.opaque(path):
                break
        if not merged:
            raise FileNotFoundError(f"the image has no /{path}")
        self._directories[path] = tuple(merged)
        return self._directories[path]
