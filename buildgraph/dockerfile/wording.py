"""Knows how text of a Dockerfile is quoted in a message; must not know the messages."""

from __future__ import annotations

_SHOWN = 60  # characters: a message stays one line on a terminal


def quote(text: str) -> str:
    """Quote text for a message: escaped, and cut where it is long."""
    if len(text) > _SHOWN:
        text = text[:_SHOWN] + "…"
    return repr(text)
