"""Knows header fields; must not know what any of them means.

Source: RFC 9110, 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


class Headers:
    """Header fields in their order; names in any case. Immutable."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] | Mapping[str, str] = ()):
        pairs = items.items() if isinstance(items, Mapping) else items
        self._items = tuple((name, value) for name, value in pairs)

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first field of this name."""
        lower = name.lower()
        return next((v for n, v in self._items if n.lower() == lower), default)

    def all(self, name: str) -> list[str]:
        """Return every field of this name."""
        lower = name.lower()
        return [v for n, v in self._items if n.lower() == lower]

    def number(self, name: str) -> int | None:
        """Return a field as a whole number, or None where it is none."""
        text = (self.get(name) or "").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"Headers({[n for n, _ in self._items]})"  # values may be secret
