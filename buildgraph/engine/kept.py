"""Knows which images of targets the store keeps, under their labels; must not know how an image is
made or who wants it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import InputError, StoreCorrupt
from buildgraph.graph.keys import canonical
from buildgraph.oci.config import parse_config, parse_manifest
from buildgraph.oci.image import Artifact
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.platforms import serves
from buildgraph.oci.types import MEDIA_MANIFEST, Chain, Image, Platform
from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_cache.objects import blob_ref
from buildgraph_cache.store import Store


class KeptImage(Struct, frozen=True):
    """The image that was last built for a target; `manifests` by platform."""

    manifests: Mapping[str, str]

    def for_platform(self, platform: Platform) -> str | None:
        """Return the manifest that serves a platform best; the only one serves every platform."""
        if len(self.manifests) == 1:
            return next(iter(self.manifests.values()))
        ranked = [
            (distance, digest)
            for name, digest in self.manifests.items()
            if (distance := serves(_platform(name), platform)) is not None
        ]
        return min(ranked)[1] if ranked else None


def _platform(text: str) -> Platform:
    system, _, rest = text.partition("/")
    machine, _, variant = rest.partition("/")
    return Platform(system, machine, variant)


def keep_image(store: Store, label: str, artifact: Artifact, manifests: Mapping[str, str]) -> None:
    """Remember the image of a target, so that its blobs stay and others find it.

    `manifests` are digests by platform.
    """
    refs = tuple(dict.fromkeys(blob_ref(blob.digest) for blob in artifact.blobs))
    value = canonical({"manifests": manifests})
    known = store.record("image", label)
    if known is not None and (known.value, known.refs) == (value, refs):
        if store.get_record("image", label) is not None:  # it stays, with all it leads to
            return
    store.put_record("image", label, value, refs=refs)


def kept_image(store: Store, label: str) -> KeptImage | None:
    """Return what was last built for a target, None where nothing is kept."""
    raw = store.get_record("image", label)
    if raw is None:
        return None
    return KeptImage(json.loads(raw)["manifests"])


def read_kept(layers: LayerStore, manifest: str, what: str) -> Image:
    """Return an image by the digest of its manifest, from what the store has.

    Raises InputError, with `what` in its words, where a part of it is gone.
    """
    store = layers.store
    parsed = parse_manifest(_document(store, manifest, what), MEDIA_MANIFEST, what)
    config, diff_ids = parse_config(_document(store, parsed.config.digest, what), what)
    found = []
    for diff_id, blob in zip(diff_ids, parsed.layers, strict=True):
        layer = layers.knows_blob(diff_id, blob.digest, blob.size)
        if layer is None:
            raise _gone(what)
        found.append(layer)
    return Image(config, Chain.of(tuple(found)))


def _document(store: Store, digest: str, what: str) -> bytes:
    name: Digest = parse_digest(digest)
    try:
        with open(store.open_verified(name), "rb") as file:
            data = file.read(limits.MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise _gone(what) from None
    if len(data) > limits.MANIFEST_BYTES:
        raise StoreCorrupt(f"the document {digest} is larger than any we write")
    return data


def _gone(what: str) -> InputError:
    return InputError(f"{what} is no longer whole in the store", hint="build it again")
