"""Knows what is done to all layers of a chain at once; must not know how a layer is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain, Layer

_UNPACKERS: Final = 2  # at once: unpacking is processor time


def directories(store: LayerStore, layers: Sequence[Layer]) -> list[Path]:
    """Return the directory of each layer; several that are missing are made side by side.

    So those of a registry's image are unpacked while others still come. Raises as
    `LayerStore.ensure_directory`.
    """
    missing = [layer for layer in layers if not store.has_directory(layer)]
    if len(missing) > 1:
        # The lowest first: it is the largest, as a rule, and the first whose download begins.
        from concurrent.futures import ThreadPoolExecutor  # brings logging along

        with ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="unpack") as pool:
            list(pool.map(store.ensure_directory, reversed(missing)))
    return [store.ensure_directory(layer) for layer in layers]


def sized(store: LayerStore, chain: Chain) -> Chain:
    """Return a chain whose layers' sizes are all known; see `LayerStore.size`."""
    if all(layer.size for layer in chain.layers):
        return chain
    return Chain.of(tuple(Layer(one.diff_id, store.size(one)) for one in chain.layers))
