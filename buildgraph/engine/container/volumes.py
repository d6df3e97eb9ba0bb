"""Knows how volumes come to be and what is in them at first; must not know who mounts them.

Both kinds are directories of the store, so that the container sees them with the same ids as its
layers. A new one is filled with what the image has at its place, owners and modes kept, as docker
does. A named one is a cache mount of the store: listed by `cache du`, removed by `cache gc`.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from typing import Final

from msgspec.structs import replace

from buildgraph.engine.container.options import Volume
from buildgraph.engine.sources import write_entries
from buildgraph.errors import HostError, InputError
from buildgraph.filetree import Entry, FileStat, Kind
from buildgraph.oci.export import flatten
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.tarstream import canonical
from buildgraph.rootpath import clean
from buildgraph.sandbox.spec import Bind
from buildgraph_cache.scratch import Scratch
from buildgraph_cache.store import Store

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}", re.ASCII)


def is_volume_name(text: str) -> bool:
    """Say whether a volume can be called that: docker's grammar."""
    return _NAME.fullmatch(text) is not None


class Volumes:
    """Makes the volumes of one container; what it takes is held until `stack` closes."""

    def __init__(self, store: Store, layers: LayerStore, view: RootView, stack: ExitStack):
        self._store = store
        self._layers = layers
        self._view = view
        self._stack = stack

    def open(self, volume: Volume, scratch: Scratch, number: int) -> Bind:
        """Return the mount of a volume. Raises InputError for a name that is none, HostError."""
        if volume.name is None:
            path = scratch.directory(f"volume{number}")
            self._fill(path, volume)
            return Bind(path, volume.target, volume.read_only)
        if not is_volume_name(volume.name):
            raise InputError(
                f"{volume.name!r} cannot be the name of a volume",
                hint="letters, digits, _ . and - ; a directory begins with ./ or /",
            )
        about = {"kind": "volume", "name": volume.name}
        identity = f"volume:{volume.name}"
        path = self._stack.enter_context(self._store.cache_mount(identity, "shared", about))
        with self._store.key_lock(f"new-{identity}"):
            if not os.listdir(path):  # filled once, and again where it was emptied, as docker does
                self._fill(path, volume)
        return Bind(path, volume.target, volume.read_only)

    def _fill(self, path: str, volume: Volume) -> None:
        try:
            top = self._view.resolve(clean(volume.target)) if volume.copy else ""
            stat = self._view.stat(top) if top else None
            if stat is None or stat.kind is not Kind.DIR:
                return
            if self._view.list(top):
                write_entries(self._layers, _below(self._view, top), path)
            _own(path, stat)
        except OSError as error:
            raise HostError(f"cannot fill the volume on {volume.target}: {error}") from error


def _below(view: RootView, top: str) -> list[Entry]:
    """Return what the image has below a directory, with paths relative to that."""
    start = len(top) + 1
    return canonical(
        replace(
            entry,
            path=entry.path[start:],
            link=entry.link[start:] if entry.kind is Kind.HARDLINK else entry.link,
        )
        for entry in flatten(view, top)
    )


def _own(path: str, stat: FileStat) -> None:
    os.chown(path, stat.uid, stat.gid)
    os.chmod(path, stat.mode)
