"""Knows how a question is answered when a few packages changed since the last: which workspace is
opened for it and what is asked of it; must not know the command line.

Imports no click: it is on the quick way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.opening import workspace_at
from buildgraph.engine.renew import renewed
from buildgraph.errors import InputError

if TYPE_CHECKING:
    from buildgraph.engine.affected import Causes
    from buildgraph.engine.earlier import Changes, Earlier
    from buildgraph.engine.outline import Outline
    from buildgraph.engine.reach import Reach
    from buildgraph.engine.reads import Reading


def renew(
    value: Mapping[str, Any], moved: Collection[str], began_ns: int, store: str
) -> dict[str, Any] | None:
    """Return an index brought up to date; see `renewed`."""
    with ExitStack() as stack:

        def outline_of(workspace: Workspace) -> Outline:
            from buildgraph.cli.outside import known_images
            from buildgraph.engine.outline import Outline

            return Outline(workspace, stack.enter_context(known_images(workspace, store)))

        return renewed(value, moved, began_ns, workspace_at, outline_of)


def add_redefined(
    causes: Causes,
    root: str,
    earlier: Earlier,
    changes: Changes,
    reading: Reading,
    reach: Reach,
    store: str,
) -> bool:
    """Add what changed definitions mean, reading only what those stand on.

    Returns False where the whole workspace must be read for that. Raises HostError.
    """
    from buildgraph.cli.outside import known_images
    from buildgraph.engine.outline import Outline
    from buildgraph.engine.redefined import Pins, Redefined

    workspace = workspace_at(root)

    def no_pins(text: str) -> Pins:
        raise AssertionError("pins are compared with the whole workspace at hand")

    with (
        known_images(workspace, store) as images,
        tempfile.TemporaryDirectory(prefix="buildgraph-") as scratch,
    ):
        redefined = Redefined(workspace, earlier, images, no_pins, workspace_at, scratch)
        try:
            outline = Outline(workspace, images)
            return redefined.add_few(causes, changes, outline, reading, reach)
        except InputError:
            return False
