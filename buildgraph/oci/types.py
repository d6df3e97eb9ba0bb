"""Knows the values of the OCI image specification; must not know where they are stored.

Source: image-spec v1.1 (config.md, manifest.md, image-index.md, descriptor.md).
"""

from __future__ import annotations

import hashlib

from msgspec import Struct

from buildgraph_cache.digest import Digest

MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


class Platform(Struct, frozen=True, order=True):
    """What an image runs on, in Go's words; `str()` gives `os/arch[/variant]`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class Descriptor(Struct, frozen=True):
    """A reference to a blob by what it contains."""

    media_type: str
    digest: Digest
    size: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: Platform | None = None


class Layer(Struct, frozen=True):
    """A change set; its identity is the sha256 of its uncompressed tar."""

    diff_id: Digest
    size: int  # bytes of the uncompressed tar


class Chain(Struct, frozen=True):
    """Layers on top of each other, bottom first; `id` is OCI's ChainID ("" for no layers)."""

    layers: tuple[Layer, ...] = ()
    id: str = ""

    def push(self, layer: Layer) -> Chain:
        """Return this chain with one more layer on top (config.md, "Layer ChainID")."""
        above = (
            f"sha256:{hashlib.sha256(f'{self.id} {layer.diff_id}'.encode()).hexdigest()}"
            if self.id
            else str(layer.diff_id)
        )
        return Chain((*self.layers, layer), above)

    @staticmethod
    def of(layers: tuple[Layer, ...]) -> Chain:
        """Return the chain of these layers, bottom first."""
        chain = Chain()
        for layer in layers:
            chain = chain.push(layer)
        return chain


class Healthcheck(Struct, frozen=True):
    """HEALTHCHECK; times in nanoseconds, 0 = inherit."""

    test: tuple[str, ...]  # ("NONE",), ("CMD", ...), ("CMD-SHELL", text); () = inherit
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class HistoryEntry(Struct, frozen=True):
    """One instruction that made the image."""

    created_by: str
    empty_layer: bool = False
    created: str = ""  # RFC 3339
    author: str = ""
    comment: str = ""


class ImageConfig(Struct, frozen=True):
    """The JSON config of an image as a value; pairs keep their order, None = not set."""

    platform: Platform
    env: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    working_dir: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    author: str = ""
    created: str = ""
    history: tuple[HistoryEntry, ...] = ()
    os_version: str = ""


class Image(Struct, frozen=True):
    """A complete image: its layers and how to run it."""

    config: ImageConfig
    chain: Chain
