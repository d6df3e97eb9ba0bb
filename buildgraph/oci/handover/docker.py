"""Knows how an image gets into a docker daemon with only the layers it lacks; must not know how
the daemon is spoken to.

docker's loader opens the file of a layer only where it does not know the chain up to it (moby,
image/tarexport/load.go), so those of chains that an image of the daemon has are left out of the
archive. Where it then misses one after all, since somebody removed that image meanwhile, it gets
everything. A daemon that keeps images in containerd's store, and podman's socket, read every
layer, so they get everything at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from buildgraph.errors import HostError
from buildgraph.oci.archive import docker_form, write_docker_form
from buildgraph.oci.compress import Compression
from buildgraph.oci.handover.archiving import written_to_pipe
from buildgraph.oci.handover.docker_api import DaemonSaid, DockerApi, socket_of
from buildgraph.oci.handover.handed import Handed
from buildgraph.oci.image import ManifestResult
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.reference import Reference
from buildgraph.oci.types import Image
from buildgraph_cache.digest import Digest

_IMAGES: Final = 300  # that are looked at for layers in common
_READ: Final = 1 << 20
_LOAD: Final = "/images/load?quiet=1"


def hand_to_docker(
    image: Image,
    layer_store: LayerStore,
    names: Sequence[Reference],
    environ: Mapping[str, str],
    cancel: threading.Event,
    compression: Compression | None = None,
    annotations: Sequence[tuple[str, str]] = (),
) -> Handed:
    """Bring an image into the daemon of this machine under its names; idempotent.

    Memory does not grow with the image. Raises HostError, InputError, Interrupted.
    """
    api = DockerApi(socket_of(environ), cancel)
    try:
        info = api.ask("GET", "/info") or {}
        result = docker_form(image, layer_store, compression, annotations)
        omit = frozenset[Digest]()
        if not _reads_every_layer(api, info):
            omit = _there(api, image, result, names)
        try:
            sent = _send(api, result, layer_store, names, omit)
        except DaemonSaid:
            if not omit:
                raise
            omit = frozenset()
            sent = _send(api, result, layer_store, names, omit)
        _verify(api, result)
    finally:
        api.close()
    count = sum(1 for layer in result.layers if layer.digest not in omit)
    return Handed("docker", result.config_digest, count, len(result.layers), sent)


def _there(
    api: DockerApi, image: Image, result: ManifestResult, names: Sequence[Reference]
) -> frozenset[Digest]:
    """Return the blobs of layers that the daemon needs no file of."""
    known = _longest(api, image, names)
    needed = {layer.digest for layer in result.layers[known:]}
    return frozenset(layer.digest for layer in result.layers[:known]) - needed


def _reads_every_layer(api: DockerApi, info: Mapping[str, Any]) -> bool:
    """Say whether it is podman, or images are kept in containerd's store."""
    status = info.get("DriverStatus")
    pairs = status if isinstance(status, list) else []
    kept = any(isinstance(p, list) and "io.containerd.snapshotter.v1" in p for p in pairs)
    return kept or "libpod" in api.server.lower()


def _longest(api: DockerApi, image: Image, names: Sequence[Reference]) -> int:
    """Return how many layers from the bottom an image of the daemon has in common with ours."""
    ours = [str(layer.diff_id) for layer in image.chain.layers]
    best = 0
    for name in _candidates(api, names):
        if best == len(ours):
            break
        found = api.ask("GET", f"/images/{quote(name, safe=':')}/json") or {}
        rootfs = found.get("RootFS") or {}
        theirs = rootfs.get("Layers") or []
        common = 0
        for mine, other in zip(ours, theirs, strict=False):
            if mine != other:
                break
            common += 1
        best = max(best, common)
    return best


def _candidates(api: DockerApi, names: Sequence[Reference]) -> Iterable[str]:
    """Return the ids of the daemon's images, those with our names first."""
    called = {name.with_default_tag().familiar for name in names}
    listed = [one for one in api.ask("GET", "/images/json") or [] if isinstance(one, dict)]
    listed.sort(key=lambda one: not called & set(one.get("RepoTags") or ()))
    return [str(one.get("Id")) for one in listed[:_IMAGES]]


def _send(
    api: DockerApi,
    result: ManifestResult,
    layer_store: LayerStore,
    names: Sequence[Reference],
    omit: frozenset[Digest],
) -> int:
    """Load the image and return how many bytes were sent."""
    sent = 0

    def write(file: BinaryIO) -> None:
        write_docker_form(result, layer_store, file, names, omit=omit)

    def pieces(fd: int) -> Iterator[bytes]:
        nonlocal sent
        while data := os.read(fd, _READ):
            sent += len(data)
            yield data

    with written_to_pipe(write) as fd:
        api.send(_LOAD, "application/x-tar", pieces(fd))
    return sent


def _verify(api: DockerApi, result: ManifestResult) -> None:
    """See that the daemon has the image; its id is the config, in containerd's store a manifest."""
    for digest in (result.config_digest, result.digest):
        if api.ask("GET", f"/images/{quote(digest, safe=':')}/json") is not None:
            return
    raise HostError(f"docker took the image and does not know {result.config_digest}")
