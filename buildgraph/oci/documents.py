"""Knows how to read a JSON document of the image specification without trusting it.

Must not know which documents there are. Every reader says where it is (`config.Env[3]`), so that
an error can name the field; nothing is converted, a wrong type is refused (A26, A27).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph_cache.digest import Digest, parse_digest


def load_document(data: bytes, what: str) -> Fields:
    """Return the one JSON object in `data`. `what` names it in errors.

    Raises InputError over MANIFEST_BYTES, for anything but one object in UTF-8, and for a key
    that comes twice: readers differ in which of the two they believe.
    """
    if len(data) > limits.MANIFEST_BYTES:
        raise InputError(f"{what} has {len(data)} bytes, more than {limits.MANIFEST_BYTES}")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            raise InputError(f"{what} has a key twice")
        return out

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{what} is not a JSON object")
    return Fields(value, what)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")


class Fields:
    """One object of a document."""

    def __init__(self, value: Mapping[str, Any], where: str) -> None:
        self._value = value
        self.where = where

    def has(self, key: str) -> bool:
        """Say whether the field is there and not null."""
        return self._value.get(key) is not None

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return list(self._value)

    def wrong(self, key: str, wanted: str) -> InputError:
        """Return the error for a field that is not what it should be."""
        return InputError(f"{self.where}: {key} is not {wanted}")

    def text(self, key: str, default: str | None = "") -> str:
        """Return a string; `default` None makes it required."""
        value = self._value.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def number(self, key: str, default: int | None = 0) -> int:
        """Return an integer of at least 0; `default` None makes it required."""
        value = self._value.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise self.wrong(key, "a number of at least 0")
        return value

    def flag(self, key: str) -> bool:
        """Return a boolean, False where it is absent."""
        value = self._value.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def digest(self, key: str) -> Digest:
        """Return a required digest."""
        return _digest(self.text(key, None), f"{self.where}: {key}")

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings, None where it is absent."""
        value = self._value.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of strings")
        return tuple(value)

    def digests(self, key: str) -> tuple[Digest, ...]:
        """Return a list of digests."""
        found = self.texts(key) or ()
        return tuple(_digest(text, f"{self.where}: {key}") for text in found)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """Return an object whose values are strings, sorted by key."""
        value = self._value.get(key)
        if value is None:
            return ()
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self.wrong(key, "an object of strings")
        return tuple(sorted(value.items()))

    def names(self, key: str) -> tuple[str, ...]:
        """Return the keys of an object whose values say nothing (Go's map[string]struct{})."""
        value = self._value.get(key)
        if value is None:
            return ()
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return tuple(sorted(value))

    def object(self, key: str) -> Fields:
        """Return an object, empty where it is absent."""
        value = self._value.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(value, f"{self.where}: {key}")

    def objects(self, key: str) -> list[Fields]:
        """Return a list of objects, empty where it is absent."""
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, "a list of objects")
        return [Fields(item, f"{self.where}: {key}[{at}]") for at, item in enumerate(value)]


def _digest(text: str, where: str) -> Digest:
    try:
        return parse_digest(text)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def canonical_json(value: object) -> bytes:
    """Return JSON with sorted keys, no spaces, in UTF-8.

    Text that came from bytes which are not UTF-8 gets U+FFFD for them: JSON has no other way.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode("utf-8")
