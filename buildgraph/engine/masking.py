"""Knows how to keep the values of secrets out of a stream of output; must not know what the output
says (reliability A57).
"""

from __future__ import annotations

from collections.abc import Iterable

MASK = b"***"
_SHORTEST = 4  # hiding every "1" of a log would say more than it hides


class Masker:
    """Replaces secrets in a stream that comes in pieces; a secret may be cut anywhere.

    Lines of a secret of several lines are hidden one by one as well, since that is how they are
    printed.
    """

    def __init__(self, secrets: Iterable[bytes]):
        values = {part.strip() for value in secrets for part in (value, *value.split(b"\n"))}
        # Longest first: what contains another one is replaced whole.
        self._values = sorted((v for v in values if len(v) >= _SHORTEST), key=len, reverse=True)
        self._kept = b""

    def feed(self, data: bytes) -> bytes:
        """Take a piece and return what can be shown by now."""
        if not self._values:
            return data
        data = self._kept + data
        for value in self._values:
            data = data.replace(value, MASK)
        keep = self._beginning(data)
        self._kept = data[len(data) - keep :]
        return data[: len(data) - keep]

    def finish(self) -> bytes:
        """Return what was held back; nothing more will come."""
        kept, self._kept = self._kept, b""
        return kept

    def _beginning(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a secret."""
        longest = 0
        for value in self._values:
            most = min(len(value) - 1, len(data))
            # Only positions where the first byte of the secret stands can begin it.
            at = data.find(value[:1], len(data) - most)
            while at >= 0:
                if value.startswith(data[at:]):
                    longest = max(longest, len(data) - at)
                    break
                at = data.find(value[:1], at + 1)
        return longest
