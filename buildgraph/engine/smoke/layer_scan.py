"""Knows how to look through every layer of an image, what later layers delete included; must not
know what is forbidden.

What a layer holds never changes, so findings are remembered by its diff_id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from buildgraph.engine import records
from buildgraph.filetree import FileStat, Kind
from buildgraph.limits import MIB
from buildgraph.oci.dirtree import DirTree, is_whiteout
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Image, Layer
from buildgraph_cache.store import Store

VERSION: Final = 1  # of the rules below
_LARGEST: Final = (
    1 * MIB
)  # keys and tokens are small; a binary that has one inside is not looked at
_NAMES: Final = (
    (re.compile(r"(^|/)\.ssh/id_(rsa|dsa|ecdsa|ed25519)$"), "a private key of ssh"),
    (re.compile(r"(^|/)\.(netrc|git-credentials|pgpass)$"), "a file of passwords"),
    (re.compile(r"(^|/)\.aws/credentials$"), "credentials of AWS"),
)
_CONTENTS: Final = (
    (re.compile(rb"-----BEGIN ([A-Z]+ )?PRIVATE KEY( BLOCK)?-----\s"), "a private key"),
    (re.compile(rb"\bAKIA[0-9A-Z]{16}\b"), "an access key of AWS"),
    (re.compile(rb"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})"), "a token of GitHub"),
    (re.compile(rb"\bglpat-[\w-]{20,}"), "a token of GitLab"),
    (re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}"), "a token of Slack"),
    (re.compile(rb"_authToken=[^\s$]{8,}"), "a token of npm"),
)


class LayerScan:
    """Looks through layers; needs them as directories where it reads contents."""

    def __init__(self, store: Store, layers: LayerStore):
        self._store = store
        self._layers = layers

    def paths(self, image: Image) -> list[tuple[int, str]]:
        """Return (layer number from 1, path) of every entry of every layer."""
        return [
            (number, path)
            for number, layer in enumerate(image.chain.layers, 1)
            for path, _ in _walk(self._layers.tree(layer))
        ]

    def secrets(self, image: Image) -> list[tuple[int, str, str]]:
        """Return (layer number from 1, path, what it looks like) of what looks secret."""
        out: list[tuple[int, str, str]] = []
        for number, layer in enumerate(image.chain.layers, 1):
            out += [(number, path, what) for path, what in self._layer_secrets(layer)]
        return out

    def _layer_secrets(self, layer: Layer) -> list[tuple[str, str]]:
        key = records.question("secrets", VERSION, str(layer.diff_id))
        known = records.load_memo(self._store, key)
        if known is None:
            known = [list(found) for found in _secrets(self._layers.tree(layer))]
            records.save_memo(self._store, key, known)
        return [(str(path), str(what)) for path, what in known]


def _walk(tree: DirTree) -> Iterator[tuple[str, FileStat]]:
    todo = [""]
    while todo:
        directory = todo.pop()
        for name, stat in tree.list(directory):
            if is_whiteout(stat):
                continue
            path = f"{directory}/{name}" if directory else name
            yield path, stat
            if stat.kind is Kind.DIR:
                todo.append(path)


def _secrets(tree: DirTree) -> Iterator[tuple[str, str]]:
    for path, stat in _walk(tree):
        if stat.kind is not Kind.FILE:
            continue
        named = next((what for pattern, what in _NAMES if pattern.search(path)), None)
        if named is not None:
            yield path, named
        elif 0 < stat.size <= _LARGEST:
            with open(tree.open(path), "rb") as file:
                data = file.read(_LARGEST)
            found = next((what for pattern, what in _CONTENTS if pattern.search(data)), None)
            if found is not None:
                yield path, found
