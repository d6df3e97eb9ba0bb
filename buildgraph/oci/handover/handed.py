"""Knows what is told of an image that was handed over; must not know how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from buildgraph_cache.digest import Digest

Engine = Literal["docker", "podman", "containerd"]
ENGINES: tuple[Engine, ...] = ("docker", "podman", "containerd")


@dataclass(frozen=True, slots=True)
class Handed:
    """An image that an engine has and called by its id; -1 = the engine alone knows."""

    engine: Engine
    id: Digest
    layers: int  # that were sent
    of: int
    size: int  # bytes that were sent
