"""Knows our side of a test with a scripted registry: a store, a home without anything in it, a
clock that never waits; must not know what the registry does.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildgraph.oci.image import Artifact
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.registry.credentials import CredentialStore
from buildgraph.oci.registry.places import Places, RegistrySetting
from buildgraph.oci.registry.pull import Puller
from buildgraph.oci.registry.push import Pusher
from buildgraph.oci.registry.session import Registries
from buildgraph.oci.types import Descriptor, Platform
from buildgraph_cache.store import Store
from unit.oci.scripted_registry import MANIFEST, Registry

AMD64 = Platform("linux", "amd64")
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass
class Watch:
    """A clock that never waits and remembers how long it was asked to."""

    slept: list[float] = field(default_factory=list)

    def wall(self) -> float:
        return 1_700_000_000.0

    def sleep(self, seconds: float, cancel: threading.Event) -> None:
        self.slept.append(seconds)

    def jitter(self) -> float:
        return 0.5


@dataclass
class Here:
    """Our side."""

    store: Store
    layers: LayerStore
    home: Path
    clock: Watch = field(default_factory=Watch)
    settings: dict[str, RegistrySetting] = field(default_factory=dict)

    def registries(self, more: dict[str, str] | None = None) -> Registries:
        environ = {"HOME": str(self.home), **(more or {})}
        places = Places(environ, self.settings, etc=str(self.home / "etc"))
        return Registries(
            places, CredentialStore(environ), environ=environ, clock=self.clock, stall=2.0
        )

    def pull(self, registry: Registry, name: str = "a/b:1", *, layers: bool = True) -> Any:
        with self.registries() as registries:
            puller = Puller(registries, self.layers)
            try:
                resolved = puller.resolve(parse_reference(f"{registry.host}/{name}"))
                loaded = puller.image(resolved, AMD64)
                if layers:
                    for layer in loaded.image.chain.layers:
                        self.layers.ensure_directory(layer)
                return loaded
            finally:
                puller.close()

    def pull_from(self, name: str, environ: dict[str, str]) -> None:
        """Ask what a name means, with more variables."""
        with self.registries(environ) as registries:
            Puller(registries, self.layers).resolve(parse_reference(name))

    def push(self, registry: Registry, data: list[bytes], *tags: str, **more: Any) -> Any:
        artifact = self.artifact(data)
        with self.registries() as registries:
            return Pusher(registries, self.store).push(
                artifact, registry.host, "a/b", tags or ("1",), **more
            )

    def artifact(self, data: list[bytes]) -> Artifact:
        blobs = [Descriptor(LAYER, self.store.put_blob(one), len(one)) for one in data]
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": blobs[0].digest, "size": blobs[0].size},
            "layers": [
                {"mediaType": b.media_type, "digest": b.digest, "size": b.size} for b in blobs[1:]
            ],
        }
        text = json.dumps(value, separators=(",", ":")).encode()
        top = Descriptor(MANIFEST, self.store.put_blob(text), len(text))
        return Artifact(top, (*blobs, top))
