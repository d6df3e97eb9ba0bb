"""Knows which way an image goes to which engine of this machine; must not know how any takes it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import assert_never

from buildgraph.oci.compress import Compression
from buildgraph.oci.handover.handed import Engine, Handed
from buildgraph.oci.handover.outside import Outside
from buildgraph.oci.image import Artifact, ManifestResult
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.reference import Reference, parse_reference
from buildgraph.oci.types import Image


class Handover:
    """Hands images to engines; threads may share it."""

    def __init__(
        self,
        layers: LayerStore,
        environ: Mapping[str, str],
        outside: Outside,
        cancel: threading.Event,
    ):
        self._layers = layers
        self._environ = environ
        self._outside = outside
        self._cancel = cancel

    def give(
        self,
        engine: Engine,
        image: Image,
        result: ManifestResult,
        artifact: Artifact,
        names: Sequence[Reference],
        fallback: str,
        compression: Compression,
        annotations: Sequence[tuple[str, str]],
    ) -> str:
        """Bring an image there and say so in words; `fallback` names it where a name must be.

        Raises HostError, InputError, Interrupted.
        """
        match engine:
            case "docker":
                # http.client takes longer to import than a build with nothing to do.
                from buildgraph.oci.handover.docker import hand_to_docker

                handed = hand_to_docker(
                    image,
                    self._layers,
                    names,
                    self._environ,
                    self._cancel,
                    compression,
                    annotations,
                )
            case "podman":
                from buildgraph.oci.handover.podman import hand_to_podman

                handed = hand_to_podman(result, self._layers.store, names, self._outside)
            case "containerd":
                from buildgraph.oci.handover.containerd import hand_to_containerd

                names = names or (parse_reference(f"localhost/{fallback}").with_default_tag(),)
                handed = hand_to_containerd(
                    artifact, self._layers, names, self._environ, self._outside
                )
            case _:
                assert_never(engine)
        return _told(handed, names)


def _told(handed: Handed, names: Sequence[Reference]) -> str:
    called = ", ".join(name.with_default_tag().familiar for name in names) or handed.id
    if handed.layers < 0:
        return f"{handed.engine}: {called}"
    return (
        f"{handed.engine}: {called} ({handed.layers} of {handed.of} layers sent, "
        f"{handed.size:,} bytes)"
    )
