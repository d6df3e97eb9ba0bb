"""Knows the shape of one unit of work and of its outcome; must not know who does it or where.

An executor takes an op and what its inputs are as plain values and gives a layer back, so that
another machine could do it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from buildgraph.graph.keys import NodeKey
from buildgraph.graph.ops import Node
from buildgraph.oci.types import Chain, Layer


class Outcome(Struct, frozen=True):
    """What a node came to: the file system after it, and the layer it added (None: none)."""

    chain: Chain
    layer: Layer | None
    cached: bool
    key: str
    seconds: float


class Work(Struct):
    """A node to execute, with its inputs as values.

    `sources[i]` is the chain of `node.inputs[i]`; `output` takes raw bytes of the command's
    output; `progress` takes (text, done, total).
    """

    node: Node
    key: NodeKey
    parent: Chain
    sources: tuple[Chain, ...]
    want_directory: bool
    output: Callable[[bytes], None]
    progress: Callable[[str, int, int], None]
    cancel: threading.Event = field(default_factory=threading.Event)


class Executor(Protocol):
    """Does one kind of op."""

    def execute(self, work: Work) -> Layer | None:
        """Do the work and return the layer it made, published in the store; None for no change.

        Raises BuildFailed when a command said no, HostError when the machine could not.
        Nothing is left behind but the layer.
        """
