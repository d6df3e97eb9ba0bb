"""Knows how Go writes a duration; must not know what lasts that long.

Source: Go's time.ParseDuration.
"""

from __future__ import annotations

import re

from buildgraph.dockerfile.wording import quote
from buildgraph.errors import InputError, Location

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\N{MICRO SIGN}s": 1_000,
    "\N{GREEK SMALL LETTER MU}s": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = r"([0-9]{0,19})(?:\.([0-9]{0,30}))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)"
_MOST = 2**63 - 1


def parse_duration(text: str, where: Location) -> int:
    """Read `1m30s`, `-1.5h`, `300ms` or `0` as nanoseconds.

    Raises InputError for anything else and for what does not fit into 64 bits.
    """
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = position = 0
    part = re.compile(_PART)
    while position < len(rest) and total <= _MOST:
        match = part.match(rest, position)
        if match is None or not (match.group(1) or match.group(2)):
            total = -1
            break
        whole, fraction, unit = match.groups()
        factor = _UNITS[unit]
        total += int(whole or "0") * factor
        if fraction:
            total += int(fraction) * factor // 10 ** len(fraction)
        position = match.end()
    if not rest or not 0 <= total <= _MOST:
        raise InputError(
            f"{quote(text)} is no duration", where, "write for instance 30s, 1m30s or 500ms"
        )
    return sign * total
