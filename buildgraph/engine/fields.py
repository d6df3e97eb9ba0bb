"""Knows how one `key=value,key=value` flag is read, as docker reads it; must not know what any key
means.
"""

from __future__ import annotations

import csv

from buildgraph.errors import InputError

_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")


def split_csv(text: str, flag: str) -> list[str]:
    """Split one CSV record: a field in double quotes may hold commas and doubled quotes.

    Raises InputError for a quote that stays open and for more than one line.
    """
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InputError(
            f"{flag} {text}: {error}", hint="quote a whole field: 'type=local,\"dest=a,b\"'"
        ) from error
    return rows[0] if rows else []


def parse_fields(text: str, flag: str) -> dict[str, str]:
    """Parse `key=value,key=value`; keys are lower-cased, as docker does. `flag` is for errors.

    Raises InputError for a word without `=` and for a key that is given twice.
    """
    out: dict[str, str] = {}
    for part in split_csv(text, flag):
        written, equals, value = part.partition("=")
        key = written.strip().lower()
        if not equals or not key:
            raise InputError(f"{flag} {text}: expected key=value, found {part!r}")
        if key in out:
            raise InputError(f"{flag} {text}: {key} is given twice")
        out[key] = value
    return out


def parse_bool(text: str, flag: str) -> bool:
    """Parse a truth value as Go's strconv does. Raises InputError for anything else."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InputError(f"{flag}: {text!r} is neither true nor false")
