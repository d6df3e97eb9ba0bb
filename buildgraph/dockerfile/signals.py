"""Knows the names of Linux signals; must not send any.

Source: signal(7), the numbers of x86 and ARM; glibc keeps 32 and 33 for itself.
"""

from __future__ import annotations

import re

from buildgraph.dockerfile.wording import quote
from buildgraph.errors import InputError, Location, did_you_mean

# fmt: off
_NAMES = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
)
# fmt: on
_RT_MIN, _RT_MAX = 34, 64
_REAL_TIME = r"RTMIN\+([0-9]{1,2})|RTMAX-([0-9]{1,2})"
_NUMBERS = {name: number for number, name in enumerate(_NAMES, 1)}
_NUMBERS |= {"IOT": 6, "CLD": 17, "POLL": 29, "RTMIN": _RT_MIN, "RTMAX": _RT_MAX}


def parse_signal(text: str, where: Location) -> int:
    """Read `SIGTERM`, `term`, `RTMIN+3` or `15` as a signal's number.

    Raises InputError for anything else.
    """
    if text.isascii() and text.isdigit():
        number = int(text[:9])
        if 1 <= number <= _RT_MAX:
            return number
        raise InputError(f"no signal has the number {quote(text)}", where)
    name = text.upper().removeprefix("SIG")
    known = _NUMBERS.get(name) or _real_time(name)
    if known is None:
        names = [f"SIG{one}" for one in _NUMBERS]
        raise InputError(
            f"unknown signal {quote(text)}", where, did_you_mean(text.upper()[:60], names)
        )
    return known


def _real_time(name: str) -> int | None:
    match = re.fullmatch(_REAL_TIME, name)
    if match is None:
        return None
    minimum, maximum = match.groups()
    number = _RT_MIN + int(minimum) if minimum else _RT_MAX - int(maximum)
    return number if _RT_MIN <= number <= _RT_MAX else None
