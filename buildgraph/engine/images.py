"""Knows how a name of an image from outside the workspace becomes layers and a config; must not
know who asks for it.
"""

from __future__ import annotations

from pathlib import Path

from buildgraph.errors import InputError, Location
from buildgraph.graph.lower import ResolvedImage
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.load import load_image
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.types import Chain, Platform

LAYOUT = "oci-layout://"


def load_outside(
    layers: LayerStore, reference: str, platform: Platform, where: Location | None
) -> tuple[ResolvedImage, Chain]:
    """Bring an image into the store and return what it is; idempotent.

    Raises InputError where the name leads nowhere, or to something that is no image.
    """
    try:
        if not reference.startswith(LAYOUT):
            raise _unknown(reference)
        path, selector = split_layout(reference[len(LAYOUT) :])
        loaded = load_image(Path(path), selector, platform, layers)
    except InputError as error:
        error.where = error.where or where
        raise
    image = loaded.image
    return ResolvedImage(reference, loaded.manifest.digest, image.config), image.chain


def _unknown(reference: str) -> InputError:
    """Return the error for a name that only a registry could know; raises one for no name."""
    name = parse_reference(reference).familiar
    return InputError(
        f"the image {name!r} is neither a stage nor a target of this workspace, and pulling "
        "from registries is not supported yet",
        hint=f"bind the name: `contexts: {{{name.partition(':')[0]}: //base:image}}` in the "
        "Boxfile, or --build-context NAME=oci-layout://DIR",
    )


def split_layout(text: str) -> tuple[str, str]:
    """Split `dir[:tag|@digest]` into the directory and the selector; a tag holds no slash."""
    path, at, digest = text.partition("@")
    if at:
        return path, digest
    head, colon, tag = text.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (text, "")
