"""Knows which files define targets by their names alone; must not know what they say."""

from __future__ import annotations

from typing import Final

LOCK: Final = "Boxfile.lock"
_NAMES: Final = frozenset(("Boxfile.yaml", "Dockerfile", "Containerfile", "dockerfile"))


def defines(path: str) -> bool:
    """Say whether a file can define targets; `path` is from the workspace's root."""
    base = path.rpartition("/")[2]
    return base in _NAMES or path == LOCK or base.endswith(".dockerignore")
