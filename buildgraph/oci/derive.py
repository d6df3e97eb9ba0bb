"""Knows how to find out which layer a directory of the store really is; must not know why somebody
asks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from buildgraph.oci.dirtree import DirTree, Scan
from buildgraph.oci.layerrecord import KIND, LayerRecord
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.tarstream import NO_EPOCH, HeaderWriter, canonical, tar_chunks, with_marks
from buildgraph_cache.digest import Digest


def snapshot_digest(layers: LayerStore) -> Callable[[str], Digest]:
    """Return what `Store.verify` needs: a function from a snapshot's path to its diff_id.

    A foreign layer's tar is not the canonical one, so its directory cannot be derived from its
    files; it is taken for what it is called. Raises OSError.
    """

    def digest(path: str) -> Digest:
        name = Digest("sha256:" + os.path.basename(path))
        known = layers.store.get_record(KIND, name)
        if known is not None and LayerRecord.parse(known).foreign:
            return name
        tree = DirTree(Path(path), user=layers.overlay == "user")
        # A snapshot's times are final: no epoch changes them any more.
        scan = Scan(tree, NO_EPOCH, fix=False, below=None)
        hasher = hashlib.sha256()
        for chunk in tar_chunks(
            with_marks(canonical(scan.run()), scan.opaque), HeaderWriter(NO_EPOCH)
        ):
            hasher.update(chunk)
        return Digest("sha256:" + hasher.hexdigest())

    return digest
