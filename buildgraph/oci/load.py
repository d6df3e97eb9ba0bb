"""Knows how an image from an OCI layout becomes layers in the store; must not know who wants it.

Nothing of a stranger's image is used before it is verified: documents by their digest, layers by
digest, size and diff_id (A23, A24). What was verified once is not read again.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import InputError, did_you_mean
from buildgraph.oci.config import INDEXES, parse_index
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.layout import IMAGE_NAME, REF_NAME, Layout
from buildgraph.oci.manifests import choose_manifest, image_parts, is_attestation
from buildgraph.oci.types import Chain, Descriptor, Image, Layer, Platform
from buildgraph_cache.digest import Digest

_READERS = 2


class LoadedImage(Struct, frozen=True):
    """An image whose layers are in the store, with the descriptors it came by."""

    image: Image
    manifest: Descriptor
    layers: tuple[Descriptor, ...]


def load_image(
    path: Path, selector: str, platform: Platform, layer_store: LayerStore
) -> LoadedImage:
    """Load an image from an OCI layout directory.

    `selector` is a tag, a full name, a `sha256:` digest, or "" for the only image there is.
    Raises InputError for a missing image or platform and for anything that is not what its
    digest promised.
    """
    with Layout(path) as layout:
        manifest = resolve_manifest(layout, selector, platform)
        return _load(layout, manifest, layer_store)


def resolve_manifest(layout: Layout, selector: str, platform: Platform) -> Descriptor:
    """Return the descriptor of the image manifest that is meant. Raises InputError."""
    found = _select(layout, selector)
    if len(found) == 1 and found[0].media_type not in INDEXES:
        return found[0]
    return choose_manifest(found, platform, layout.document, str(layout.directory))


def _select(layout: Layout, selector: str) -> list[Descriptor]:
    entries = [entry for entry in layout.index().manifests if not is_attestation(entry)]
    if selector.startswith("sha256:"):
        found = [entry for entry in entries if entry.digest == selector]
        # a digest may name what stands in an index of the layout
        return found[:1] or _nested(layout, entries, Digest(selector), limits.INDEX_DEPTH)
    names: dict[str, list[Descriptor]] = {}
    for entry in entries:
        notes = dict(entry.annotations)
        for key in (REF_NAME, IMAGE_NAME):
            if key in notes:
                names.setdefault(notes[key], []).append(entry)
    if selector:
        if selector not in names:
            raise InputError(
                f"{layout.directory} has no image named {selector!r}",
                hint=did_you_mean(selector, names) or _listing(names),
            )
        return names[selector]
    if len({entry.digest for entry in entries}) != 1:
        several = len({entry.platform for entry in entries}) == len(entries) and entries
        if several:
            return entries  # one image for each platform, without an index of their own
        raise InputError(
            f"{layout.directory} has {len(entries)} images; say which",
            hint=_listing(names),
        )
    return entries[:1]


def _listing(names: dict[str, list[Descriptor]]) -> str | None:
    return "it has " + ", ".join(sorted(names)[:10]) if names else None


def _nested(
    layout: Layout, entries: list[Descriptor], digest: Digest, depth: int
) -> list[Descriptor]:
    for entry in entries:
        if entry.media_type in INDEXES and depth:
            inner = list(parse_index(layout.document(entry), entry.media_type).manifests)
            found = [one for one in inner if one.digest == digest]
            found = found[:1] or _nested(layout, inner, digest, depth - 1)
            if found:
                return found
    if depth == limits.INDEX_DEPTH:
        raise InputError(f"{layout.directory} has no image {digest}")
    return []


def _load(layout: Layout, manifest: Descriptor, layer_store: LayerStore) -> LoadedImage:
    parts = image_parts(manifest, layout.document)

    def one(pair: tuple[Digest, Descriptor]) -> Layer:
        diff_id, blob = pair
        return layer_store.import_blob(diff_id, blob.digest, blob.size, lambda: layout.chunks(blob))

    from concurrent.futures import ThreadPoolExecutor  # brings logging along

    with ThreadPoolExecutor(_READERS, thread_name_prefix="import") as pool:
        layers = tuple(pool.map(one, parts.layers))
    blobs = tuple(blob for _, blob in parts.layers)
    return LoadedImage(Image(parts.config, Chain.of(layers)), manifest, blobs)
