"""Knows what is told of an image that was handed over; must not know how."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from buildgraph_cache.digest import Digest

Engine = Literal["docker", "podman", "containerd"]
ENGINES: tuple[Engine, ...] = ("docker", "podman", "containerd")


class Handed(Struct, frozen=True):
    """An image that an engine has and called by its id; -1 = the engine alone knows."""

    engine: Engine
    id: Digest
    layers: int  # that were sent
    of: int
    size: int  # bytes that were sent
