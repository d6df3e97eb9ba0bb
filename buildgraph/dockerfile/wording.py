"""Knows how text of a Dockerfile is quoted in a message; must not know the messages."""

from __future__ import annotations

_SHOWN = 60  # characters: a message stays one line on a terminal


def quote(text: str) -> str:
    """Quote text for a message: escaped, and cut where it is long."""
    return repr(cut(text))


def cut(text: str, shown: int = _SHOWN) -> str:
    """Return the beginning of a text that may be long."""
    return text if len(text) <= shown else text[:shown] + "…"
