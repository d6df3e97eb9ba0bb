"""Knows how a name of an image from outside the workspace becomes layers and a config; must not
know who asks for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from buildgraph.boxfile.workspace import Workspace
from buildgraph.errors import BuildgraphError, HostError, Interrupted, Location
from buildgraph.graph.lower import ResolvedImage
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.load import LoadedImage, load_image
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.types import Chain, Platform
from buildgraph_cache.digest import Digest

if TYPE_CHECKING:
    from buildgraph.oci.registry.places import RegistrySetting
    from buildgraph.oci.registry.pull import Puller
    from buildgraph.oci.registry.push import Pusher
    from buildgraph.oci.registry.session import Registries

LAYOUT = "oci-layout://"

Notice = Callable[[str], None]


class OutsideImages:
    """Images from OCI layouts and registries, for one command; a context manager.

    Nothing of the registry client is loaded before the first name that only a registry knows.
    Threads may share it.
    """

    def __init__(
        self,
        layers: LayerStore,
        environ: Mapping[str, str],
        *,
        offline: bool = False,
        cancel: threading.Event | None = None,
        notice: Notice = lambda text: None,
        progress: Callable[[str, int, int], None] = lambda text, done, total: None,
    ):
        """Setting `cancel` ends what is being transferred."""
        self._layers = layers
        self._environ = environ
        self._offline = offline
        self._cancel = cancel or threading.Event()
        self._progress = progress
        self.notice = notice
        self._pins: Mapping[str, Digest] = {}
        self._settings: Mapping[str, RegistrySetting] = {}
        self._registries: Registries | None = None
        self._puller: Puller | None = None
        self._told: set[str] = set()
        self._resolved: dict[str, Digest] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._puller is not None:
            self._puller.close()
        if self._registries is not None:
            self._registries.close()

    @property
    def registries(self) -> Registries:
        """The registries as this user and this workspace know them."""
        if self._registries is None:
            from buildgraph.oci.registry.credentials import CredentialStore
            from buildgraph.oci.registry.places import Places
            from buildgraph.oci.registry.session import Registries

            self._registries = Registries(
                Places(self._environ, self._settings),
                CredentialStore(self._environ),
                environ=self._environ,
                cancel=self._cancel,
            )
        return self._registries

    @property
    def puller(self) -> Puller:
        """What pulls from them."""
        if self._puller is None:
            from buildgraph.oci.registry.pull import Puller

            self._puller = Puller(
                self.registries,
                self._layers,
                offline=self._offline,
                pins=self._pins,
                progress=self._progress,
            )
        return self._puller

    def resolved(self) -> dict[str, Digest]:
        """Return what each name of a registry that was asked for means, by canonical name."""
        return dict(self._resolved)

    def follow(self, workspace: Workspace, pins: Mapping[str, Digest]) -> None:
        """Take what a workspace says of images: what names mean, and how to speak to registries."""
        self._pins = pins
        self._settings = registry_settings(workspace)

    def pusher(self) -> Pusher:
        """Return what pushes to them. Raises HostError where nothing may be sent."""
        from buildgraph.oci.registry.push import Pusher

        if self._offline:
            raise HostError("--offline sends nothing", hint="push without --offline")
        return Pusher(self.registries, self._layers.store, progress=self._progress)

    def load(
        self, reference: str, platform: Platform, where: Location | None
    ) -> tuple[ResolvedImage, Chain]:
        """Return what an image is; its layers are in the store, or come when they are needed.

        Raises InputError where the name leads nowhere, or to something that is no image.
        """
        try:
            loaded = self._load(reference, platform)
        except BuildgraphError as error:
            error.where = error.where or where
            if "/" not in reference and not isinstance(error, Interrupted):
                # One word is as likely a stage or a target that nobody has named.
                name = reference.partition(":")[0].partition("@")[0]
                named = (
                    f"if {name} is a target: `contexts: {{{name}: //base:image}}` in the Boxfile"
                )
                error.hint = f"{error.hint}; {named}" if error.hint else named
            raise
        image = loaded.image
        return ResolvedImage(reference, loaded.manifest.digest, image.config), image.chain

    def _load(self, reference: str, platform: Platform) -> LoadedImage:
        if reference.startswith(LAYOUT):
            path, selector = split_layout(reference[len(LAYOUT) :])
            return load_image(Path(path), selector, platform, self._layers)
        name = parse_reference(reference).with_default_tag()
        resolved = self.puller.resolve(name)
        if not name.digest:
            self._resolved[str(name)] = resolved.digest
        if resolved.stale and not self._offline:
            self._tell(f"{name.familiar} is what it was last time: {resolved.stale}")
        if resolved.moved:
            self._tell(f"{name.familiar} has moved: {resolved.moved} -> {resolved.digest}")
        return self.puller.image(resolved, platform)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.notice(text)


def split_layout(text: str) -> tuple[str, str]:
    """Split `dir[:tag|@digest]` into the directory and the selector; a tag holds no slash."""
    path, at, digest = text.partition("@")
    if at:
        return path, digest
    head, colon, tag = text.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (text, "")


def registry_settings(workspace: Workspace) -> dict[str, RegistrySetting]:
    """Return what a workspace's Boxfile says of registries, by `host[:port]`."""
    if not workspace.registries:
        return {}
    from buildgraph.oci.registry.places import RegistrySetting

    return {
        host: RegistrySetting(
            entry.mirrors,
            entry.insecure,
            os.path.join(workspace.root, entry.ca) if entry.ca else None,
        )
        for host, entry in workspace.registries.items()
    }
