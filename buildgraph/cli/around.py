"""Knows the words by which a command line limits steps and tells them of other machines; must not
know how a step is run.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from buildgraph.errors import InputError, Location
from buildgraph.sandbox.spec import ULIMITS

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"-1|[0-9]{1,18}", re.ASCII)


def parse_hosts(texts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Parse `--add-host NAME:ADDRESS` (or NAME=ADDRESS) to addresses by name. Raises InputError."""
    out: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, address = re.sub("[:=]", "\0", text, count=1).partition("\0")
        if address == "host-gateway":
            raise InputError(
                f"--add-host {text}: steps cannot reach this machine",
                hint="--network host shares its network with them",
            )
        try:
            at = str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
        except ValueError:
            at = ""
        if not at or not _NAME.fullmatch(name):
            raise InputError(f"--add-host {text}: expected NAME:ADDRESS")
        out[name] = (*out.get(name, ()), at)
    return out


def parse_ulimits(texts: tuple[str, ...]) -> tuple[tuple[str, int, int], ...]:
    """Parse `--ulimit NAME=SOFT[:HARD]`, the last of a name counts; sorted. Raises InputError."""
    out: dict[str, tuple[str, int, int]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        soft, colon, hard = value.partition(":")
        hard = hard if colon else soft
        if not equals or not _NUMBER.fullmatch(soft) or not _NUMBER.fullmatch(hard):
            raise InputError(f"--ulimit {text}: expected NAME=SOFT[:HARD]")
        if name not in ULIMITS:
            raise InputError(
                f"--ulimit {text}: unknown limit {name!r}", hint="one of " + " ".join(ULIMITS)
            )
        if hard != "-1" and (soft == "-1" or int(soft) > int(hard)):
            raise InputError(f"--ulimit {text}: the soft limit is above the hard one")
        out[name] = (name, int(soft), int(hard))
    return tuple(sorted(out.values()))


def parse_bytes(text: str | None, flag: str) -> int | None:
    """Parse a size such as 64m; None stays None. Raises InputError."""
    if text is None:
        return None
    from buildgraph.dockerfile.mounts import parse_size

    return parse_size(text, Location(flag))
