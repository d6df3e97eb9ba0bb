"""Knows what this machine can say of images from outside without asking anybody; must not know who
wants it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from buildgraph.cli.places import default_store
from buildgraph.engine.outline import FindImage
from buildgraph.errors import BuildgraphError, Location

if TYPE_CHECKING:
    from buildgraph.boxfile.workspace import Workspace
    from buildgraph.engine.images import OutsideImages
    from buildgraph.graph.lower import ResolvedImage
    from buildgraph.oci.types import Platform


@contextmanager
def known_images(workspace: Workspace, store: str | None) -> Iterator[FindImage]:
    """Yield what finds images: in OCI layouts, and among what was pulled before.

    The store is opened at the first question. An image that is not known is None, never an error.
    """
    with ExitStack() as stack:
        opened: list[OutsideImages] = []

        def find(reference: str, platform: Platform, where: Location) -> ResolvedImage | None:
            try:
                if not opened:
                    opened.append(_open(stack, workspace, store))
                return opened[0].load(reference, platform, where)[0]
            except (BuildgraphError, OSError):
                return None

        yield find


def _open(stack: ExitStack, workspace: Workspace, store: str | None) -> OutsideImages:
    from buildgraph.engine.images import OutsideImages
    from buildgraph.engine.prepare import DEFAULT_EPOCH
    from buildgraph.oci.layers import LayerStore
    from buildgraph_cache.store import Store
    from buildgraph_rules.locking import read_workspace_pins

    path = store or default_store(os.environ, os.geteuid())
    opened = stack.enter_context(Store.open(path, fall_back=True))
    stack.enter_context(opened.lease())
    layers = LayerStore(opened, DEFAULT_EPOCH)
    images = stack.enter_context(OutsideImages(layers, os.environ, offline=True))
    images.follow(workspace, read_workspace_pins(workspace.root).images)
    return images
