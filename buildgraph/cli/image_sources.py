"""Knows the ways a command line names an image that is there already, and opens it; must not know
what is done with it.

    //app:image            the image last built for a target, as the store keeps it
    //app:image@previous   the one before that, as the history has it
    oci-layout://DIR[:TAG|@DIGEST], a directory with an OCI layout
    oci-archive:FILE[:TAG], a file: an OCI archive
    docker-image://NAME, NAME   an image of a registry
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.cli.session import Session
from buildgraph.engine.history import past_manifest
from buildgraph.engine.images import LAYOUT
from buildgraph.engine.kept import kept_image, read_kept
from buildgraph.errors import InputError
from buildgraph.label import Label
from buildgraph.oci.load import load_image
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.types import Image, Platform

ARCHIVE: Final = "oci-archive:"
REGISTRY: Final = "docker-image://"
PREVIOUS: Final = "@previous"


class Found(Struct, frozen=True):
    """An image and what it is called; `digest` names its manifest."""

    title: str
    digest: str
    image: Image


def find_image(session: Session, text: str, platform: Platform) -> Found:
    """Return the image that `text` names; its layers are in the store or come when needed.

    Nothing is built. Raises InputError, HostError.
    """
    if text.startswith(LAYOUT):
        return _outside(session, text, platform)
    if text.startswith(REGISTRY):
        return _outside(session, text.removeprefix(REGISTRY), platform)
    if text.startswith(ARCHIVE):
        path, _, tag = text.removeprefix(ARCHIVE).partition(":")
        return _archive(session, path, tag, platform)
    if os.path.isfile(os.path.join(text, "oci-layout")):
        return _outside(session, f"{LAYOUT}{text}", platform)
    if os.path.isfile(text) and os.path.basename(text) not in ("Dockerfile", "Containerfile"):
        return _archive(session, text, "", platform)
    label = _label(session, text.removesuffix(PREVIOUS))
    if label is None:
        return _outside(session, text, platform)
    return _kept(session, label, platform, previous=text.endswith(PREVIOUS))


def _label(session: Session, text: str) -> Label | None:
    """Return the target that is meant, None where it can only be the name of a registry's image."""
    try:
        labels = session.workspace.expand([text], session.package)
    except InputError:
        if text.startswith(("/", ":", ".")) or not any(sign in text for sign in "/:@"):
            raise
        try:
            parse_reference(text)
        except InputError:
            pass
        else:
            return None
        raise
    if len(labels) != 1:
        raise InputError(f"{text} means {len(labels)} targets; one image is wanted here")
    return labels[0]


def _kept(session: Session, label: Label, platform: Platform, *, previous: bool) -> Found:
    if previous:
        digest = past_manifest(session.store, str(label))
        if digest is None:
            raise InputError(
                f"no image of {label.short} before the last one is known",
                hint=f"buildgraph history {label.short}",
            )
        title = f"{label}{PREVIOUS}"
        return Found(title, digest, read_kept(session.layers, digest, title))
    kept = kept_image(session.store, str(label))
    if kept is None:
        raise InputError(
            f"{label.short} has no image in the store", hint=f"buildgraph build {label.short}"
        )
    manifest = kept.for_platform(platform)
    if manifest is None:
        raise InputError(
            f"{label.short} was not built for {platform}",
            hint=f"it has {', '.join(kept.manifests)}",
        )
    return Found(str(label), manifest, read_kept(session.layers, manifest, str(label)))


def _outside(session: Session, text: str, platform: Platform) -> Found:
    resolved, chain = session.images.load(text, platform, None)
    return Found(text, resolved.digest, Image(resolved.config, chain))


def _archive(session: Session, path: str, tag: str, platform: Platform) -> Found:
    directory = session.hold(session.store.new_scratch()).directory("archive")
    _extract(path, directory)
    try:
        loaded = load_image(Path(directory), tag, platform, session.layers)
    except InputError as error:
        # The directory is ours and gone before anybody could look into it.
        raise InputError(error.message.replace(directory, path), error.where, error.hint) from error
    return Found(path, loaded.manifest.digest, loaded.image)


def _extract(path: str, directory: str) -> None:
    """Lay out the documents and blobs of an OCI archive; nothing else of it is looked at."""
    os.makedirs(f"{directory}/blobs/sha256", exist_ok=True)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                parent, _, base = name.rpartition("/")
                blob = parent == "blobs/sha256" and len(base) == 64 and base.isalnum()
                if not member.isreg() or not (blob or name in ("index.json", "oci-layout")):
                    continue
                if member.size > limits.LAYER_BYTES:
                    raise InputError(f"{path}: {name} has {member.size} bytes")
                source = archive.extractfile(member)
                assert source is not None
                with source, open(f"{directory}/{name}", "wb") as file:
                    while data := source.read(1 << 20):
                        file.write(data)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is no OCI archive: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not os.path.exists(f"{directory}/index.json"):
        raise InputError(
            f"{path} is no OCI archive: it has no index.json",
            hint="write one: buildgraph build -o type=oci,dest=FILE",
        )
