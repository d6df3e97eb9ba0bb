"""Knows how the documents of an image lead from a name's entries to its config and layers; must not
know where documents are read from, nor what is done with the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.oci.config import INDEXES, MANIFESTS, parse_config, parse_index, parse_manifest
from buildgraph.oci.platforms import serves
from buildgraph.oci.types import Descriptor, ImageConfig, Platform
from buildgraph_cache.digest import Digest

Read = Callable[[Descriptor], bytes]


class ImageParts(Struct, frozen=True):
    """What a manifest and its config say together; `layers` are (diff_id, blob), bottom first."""

    config: ImageConfig
    layers: tuple[tuple[Digest, Descriptor], ...]


def image_parts(manifest: Descriptor, read: Read) -> ImageParts:
    """Return the parts of an image. Raises InputError where manifest and config do not agree."""
    what = f"manifest {manifest.digest}"
    parsed = parse_manifest(read(manifest), manifest.media_type, what)
    config, diff_ids = parse_config(read(parsed.config), f"image config {parsed.config.digest}")
    if len(diff_ids) != len(parsed.layers):
        raise InputError(
            f"{what} has {len(parsed.layers)} layers, its config {len(diff_ids)} diff_ids"
        )
    return ImageParts(config, tuple(zip(diff_ids, parsed.layers, strict=True)))


def choose_manifest(
    entries: Iterable[Descriptor], platform: Platform, read: Read, what: str
) -> Descriptor:
    """Return the manifest that serves a platform best; `what` names the image in errors.

    The first index that has one decides. Artifacts beside images are passed over. Raises
    InputError where nothing serves the platform, with those there are.
    """
    seen: set[str] = set()
    found = _search(entries, platform, read, what, limits.INDEX_DEPTH, seen)
    if found is None:
        raise InputError(
            f"{what} has no image for {platform}",
            hint=f"it has {', '.join(sorted(seen))}" if seen else None,
        )
    return found


def _search(
    entries: Iterable[Descriptor],
    platform: Platform,
    read: Read,
    what: str,
    depth: int,
    seen: set[str],
) -> Descriptor | None:
    best: tuple[int, Descriptor] | None = None
    for entry in entries:
        if entry.media_type in INDEXES:
            if not depth:
                raise InputError(f"{what}: indexes nested too deep")
            inner = parse_index(read(entry), entry.media_type, f"index {entry.digest}").manifests
            found = _search(inner, platform, read, what, depth - 1, seen)
            if found is not None:
                return found
        elif entry.media_type not in MANIFESTS:
            continue
        elif entry.platform is None:
            return entry
        elif (distance := serves(entry.platform, platform)) is not None:
            if best is None or distance < best[0]:
                best = (distance, entry)
        elif not is_attestation(entry):
            seen.add(str(entry.platform))
    return best[1] if best else None


def is_attestation(entry: Descriptor) -> bool:
    """Say whether an entry speaks about an image instead of being one (BuildKit's provenance)."""
    notes = dict(entry.annotations)
    unknown = entry.platform is not None and entry.platform.os == "unknown"
    return unknown or notes.get("vnd.docker.reference.type") == "attestation-manifest"
