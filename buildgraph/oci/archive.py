"""Knows the two archives of a whole image, OCI's and docker's; must not know what a layer holds.

An OCI archive is the OCI layout as a tar. A docker archive is the same tar with `manifest.json`
beside it, whose paths lead to the same blobs: docker load of any version, podman and containerd
read the one file, each in its own way.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from buildgraph.filetree import Entry, Kind
from buildgraph.oci.compress import Compression
from buildgraph.oci.config import image_index
from buildgraph.oci.documents import canonical_json
from buildgraph.oci.image import Artifact, ManifestResult, write_image
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.layout import LAYOUT_FILE, named
from buildgraph.oci.publish import copy_bytes, new_file
from buildgraph.oci.reference import Reference
from buildgraph.oci.tarstream import BLOCK, END, HeaderWriter
from buildgraph.oci.types import Image
from buildgraph_cache.digest import Digest, hex_of
from buildgraph_cache.store import Store

_DOCKER: Final = "manifest.json"


def write_oci_archive(
    artifact: Artifact,
    layer_store: LayerStore,
    dest: Path | BinaryIO,
    names: Sequence[Reference] = (),
    *,
    omit: Container[Digest] = (),
) -> None:
    """Write the artifact as an OCI archive; atomic where `dest` is a path.

    The bytes depend on the artifact and the names alone; blobs to `omit` are for a reader that has
    them. Raises HostError.
    """
    _write(dest, layer_store, artifact, {"index.json": _index(artifact, names)}, omit)


def write_docker_archive(
    image: Image,
    layer_store: LayerStore,
    dest: Path | BinaryIO,
    names: Sequence[Reference] = (),
    compression: Compression | None = None,
    annotations: Sequence[tuple[str, str]] = (),
) -> ManifestResult:
    """Write an image as a docker archive, gzip or uncompressed; atomic where `dest` is a path.

    docker before 25 knows no zstd, so such layers are packed anew. Raises HostError.
    """
    result = docker_form(image, layer_store, compression, annotations)
    write_docker_form(result, layer_store, dest, names)
    return result


def docker_form(
    image: Image,
    layer_store: LayerStore,
    compression: Compression | None = None,
    annotations: Sequence[tuple[str, str]] = (),
) -> ManifestResult:
    """Store an image with layers that every docker reads: gzip or uncompressed; idempotent."""
    compression = compression or Compression("gzip")
    if compression.name == "zstd":
        compression = Compression("gzip")
    result = write_image(image, layer_store, compression, annotations)
    if any(layer.media_type.endswith("zstd") for layer in result.layers):
        result = write_image(image, layer_store, compression, annotations, force_compression=True)
    return result


def write_docker_form(
    result: ManifestResult,
    layer_store: LayerStore,
    dest: Path | BinaryIO,
    names: Sequence[Reference] = (),
    *,
    omit: Container[Digest] = (),
) -> None:
    """Write what `docker_form` made as a docker archive; atomic where `dest` is a path.

    Blobs to `omit` are for a reader that has them. Raises HostError.
    """
    artifact = result.artifact
    legacy = {
        "Config": _place(result.config_digest),
        "Layers": [_place(layer.digest) for layer in result.layers],
        "RepoTags": [name.with_default_tag().familiar for name in names] or None,
    }
    documents = {
        "index.json": _index(artifact, names),
        _DOCKER: canonical_json([legacy]),
    }
    _write(dest, layer_store, artifact, documents, omit)


def _index(artifact: Artifact, names: Sequence[Reference]) -> bytes:
    return image_index(named(artifact.top, names))


def _place(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _write(
    dest: Path | BinaryIO,
    layer_store: LayerStore,
    artifact: Artifact,
    documents: dict[str, bytes],
    omit: Container[Digest],
) -> None:
    if isinstance(dest, Path):
        with new_file(dest) as file:
            _write_tar(file, layer_store, artifact, documents, omit)
    else:
        _write_tar(dest, layer_store, artifact, documents, omit)


def _write_tar(
    file: BinaryIO,
    layer_store: LayerStore,
    artifact: Artifact,
    documents: dict[str, bytes],
    omit: Container[Digest],
) -> None:
    """Write oci-layout, index.json, other documents, then the blobs in the order of digests."""
    headers = HeaderWriter(layer_store.epoch)
    for name, data in {"oci-layout": LAYOUT_FILE, **documents}.items():
        file.write(headers.header(Entry(name, Kind.FILE, 0o644, size=len(data))))
        file.write(data + bytes(-len(data) % BLOCK))
    for name in ("blobs", "blobs/sha256"):
        file.write(headers.header(Entry(name, Kind.DIR, 0o755)))
    for blob in sorted(artifact.blobs, key=lambda one: one.digest):
        if blob.digest in omit:
            continue
        file.write(headers.header(Entry(_place(blob.digest), Kind.FILE, 0o644, size=blob.size)))
        _append(file, layer_store.store, blob.digest, blob.size)
        file.write(bytes(-blob.size % BLOCK))
    file.write(END)
    file.flush()


def _append(file: BinaryIO, store: Store, digest: Digest, size: int) -> None:
    source = store.open_verified(digest)
    try:
        file.flush()
        copy_bytes(source, file.fileno(), size)
    finally:
        os.close(source)
