"""Knows where things are when nobody says; must not know what they hold.

Imports nothing, because a build with nothing to do asks here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def default_store(environ: Mapping[str, str], uid: int) -> str:
    """Return the directory of the store when none is named."""
    if found := environ.get("BUILDGRAPH_STORE"):
        return found
    if cache := environ.get("XDG_CACHE_HOME"):
        return os.path.join(cache, "buildgraph")
    if uid == 0:
        return "/var/lib/buildgraph"
    return os.path.join(os.path.expanduser("~"), ".cache", "buildgraph")
