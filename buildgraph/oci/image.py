"""Knows how an image becomes a manifest and a config in the store; must not know where it goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.oci.compress import Compression
from buildgraph.oci.config import config_json, image_index, image_manifest
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import MEDIA_CONFIG, MEDIA_INDEX, MEDIA_MANIFEST, Descriptor, Image
from buildgraph_cache.digest import Digest


class ManifestResult(Struct, frozen=True):
    """A manifest whose blobs are all in the store."""

    manifest: bytes
    descriptor: Descriptor  # of the manifest, with its platform
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> Digest:
        """The manifest's digest: what names the image."""
        return self.descriptor.digest

    @property
    def config_digest(self) -> Digest:
        """The config's digest: docker's image id."""
        return self.config.digest

    @property
    def size(self) -> int:
        """Bytes of all layers as they are stored and sent."""
        return sum(layer.size for layer in self.layers)

    @property
    def artifact(self) -> Artifact:
        """The manifest with everything it needs."""
        return Artifact(self.descriptor, _unique((*self.layers, self.config, self.descriptor)))


class Artifact(Struct, frozen=True):
    """A manifest or index and every blob it leads to, itself included, each once."""

    top: Descriptor
    blobs: tuple[Descriptor, ...]


def _unique(descriptors: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    return tuple({descriptor.digest: descriptor for descriptor in descriptors}.values())


def write_index(
    results: Sequence[ManifestResult],
    layer_store: LayerStore,
    annotations: Sequence[tuple[str, str]] = (),
) -> Artifact:
    """Store the index over images of several platforms; idempotent."""
    data = image_index([result.descriptor for result in results], annotations)
    top = Descriptor(MEDIA_INDEX, layer_store.store.put_blob(data), len(data))
    blobs = [blob for result in results for blob in result.artifact.blobs]
    return Artifact(top, _unique((*blobs, top)))


def write_image(
    image: Image,
    layer_store: LayerStore,
    compression: Compression,
    annotations: Sequence[tuple[str, str]] = (),
    *,
    force_compression: bool = False,
) -> ManifestResult:
    """Store the manifest, the config and every layer's blob of an image; idempotent.

    Foreign layers keep the blob they came as unless `force_compression`. The result is a function
    of its arguments, the library versions in `Compression.id` included.
    """
    layers = tuple(
        layer_store.blob(layer, compression, force=force_compression)
        for layer in image.chain.layers
    )
    data = config_json(image.config, [layer.diff_id for layer in image.chain.layers])
    store = layer_store.store
    config = Descriptor(MEDIA_CONFIG, store.put_blob(data), len(data))
    manifest = image_manifest(config, layers, annotations)
    digest = store.put_blob(manifest)
    described = Descriptor(MEDIA_MANIFEST, digest, len(manifest))
    return ManifestResult(
        manifest, replace(described, platform=image.config.platform), config, layers
    )
