"""Knows how podman takes an image; must not know how the image was made.

podman is given an OCI layout whose blobs are further names of the store's own files. It leaves out
layers that its storage has, and checks the digests of the rest. Some versions of `podman pull` name
an image by the path of its layout, which need not be a name at all; so it is a short path, and the
names are given afterwards and that one is taken away.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from buildgraph.errors import HostError
from buildgraph.oci.config import image_index
from buildgraph.oci.handover.handed import Handed
from buildgraph.oci.handover.outside import Done, Outside
from buildgraph.oci.image import ManifestResult
from buildgraph.oci.layout import LAYOUT_FILE
from buildgraph.oci.reference import Reference
from buildgraph.oci.types import Descriptor
from buildgraph_cache.digest import hex_of
from buildgraph_cache.store import Store

_INSTEAD: Final = "write a file instead, for `podman load`: -o type=docker,dest=FILE"


def hand_to_podman(
    result: ManifestResult, store: Store, names: Sequence[Reference], outside: Outside
) -> Handed:
    """Bring an image into podman's storage under its names; idempotent. Raises HostError."""
    identity = hex_of(result.config_digest)
    directory = f"buildgraph-{identity[:16]}"
    with store.new_scratch() as scratch:
        _write_layout(Path(scratch.directory(directory)), result, store)
        _podman(outside, "pull", "--quiet", f"oci:{directory}", cwd=scratch.path)
    if names:
        _podman(outside, "tag", identity, *(str(name.with_default_tag()) for name in names))
    outside.run(["podman", "untag", identity, f"localhost/{directory}:latest"])
    found = _podman(outside, "image", "inspect", "--format", "{{.Id}}", identity).out.strip()
    if found != identity:
        raise HostError(f"podman took the image and calls it {found[:80]}, not {identity}")
    return Handed("podman", result.config_digest, -1, len(result.layers), -1)


def _write_layout(layout: Path, result: ManifestResult, store: Store) -> None:
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for blob in result.artifact.blobs:
        # Under the store's own scratch directory, so it is the same file system.
        os.link(store.blob_path(blob.digest), blobs / hex_of(blob.digest))
    (layout / "oci-layout").write_bytes(LAYOUT_FILE)
    top = result.descriptor
    entry = Descriptor(top.media_type, top.digest, top.size)
    (layout / "index.json").write_bytes(image_index([entry]))


def _podman(outside: Outside, *words: str, cwd: str | None = None) -> Done:
    try:
        done = outside.run(["podman", *words], cwd=cwd)
    except FileNotFoundError as error:
        raise HostError("podman is not installed", hint=_INSTEAD) from error
    if done.code:
        raise HostError(f"podman {words[0]}: {done.why}", hint=_INSTEAD)
    return done
