"""Knows what an attempt at a check says; must not know how it was made."""

from __future__ import annotations

from msgspec import Struct


class Attempt(Struct, frozen=True):
    """What one attempt came to: what is wrong (nothing: it holds), what was asked, the answer."""

    complaints: tuple[str, ...] = ()
    request: str = ""
    answer: str = ""
    final: bool = False  # trying again cannot change it

    @property
    def ok(self) -> bool:
        """Say whether the check holds."""
        return not self.complaints
