"""Knows where the store is when nobody says, and how to print; must not know what either holds.

Imports next to nothing, because every quick answer begins here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence


def default_store(environ: Mapping[str, str], uid: int) -> str:
    """Return the directory of the store when none is named."""
    if found := environ.get("BUILDGRAPH_STORE"):
        return found
    if cache := environ.get("XDG_CACHE_HOME"):
        return os.path.join(cache, "buildgraph")
    if uid == 0:
        return "/var/lib/buildgraph"
    return os.path.join(os.path.expanduser("~"), ".cache", "buildgraph")


def store_of(arguments: Sequence[str]) -> str:
    """Return the store a command line names, or the default one."""
    for index, word in enumerate(arguments):
        if word == "--store" and index + 1 < len(arguments):
            return arguments[index + 1]
        if word.startswith("--store="):
            return word.partition("=")[2]
    return default_store(os.environ, os.geteuid())


def index_of(store: str) -> str | None:
    """Return the path of a store's index, None where there is no store yet."""
    index = os.path.join(store, "index.sqlite")
    return index if os.path.exists(index) else None


def say(text: str) -> None:
    """Write to stdout; that nobody reads it is no failure."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain again at shutdown; give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
