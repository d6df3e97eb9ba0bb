"""Knows the words of a bake file and how two values of one word become one; must not know how a
value is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from buildgraph.boxfile import hcl_nodes as hcl
from buildgraph.boxfile.hcl_nodes import Expression
from buildgraph.errors import Location

Data = None | bool | int | float | str | list["Data"] | dict[str, "Data"]

PLACES: Final = frozenset(("context", "dockerfile", "dockerfile-inline", "target"))
MERGED: Final = ("args", "labels", "contexts")  # by name
APPENDED: Final = ("secret", "annotations", "ssh", "entitlements", "no-cache-filter")
# Words that have no place in a Boxfile, each with what to do instead.
LEFT_OUT: Final[Mapping[str, str]] = {
    "cache-from": "steps are found in the store",
    "cache-to": "steps are kept in the store",
    "output": "-o at the command line",
    "attest": "not written yet",
    "ssh": "--ssh at the command line",
    "no-cache": "--no-cache at the command line",
    "no-cache-filter": "--no-cache-filter at the command line",
    "pull": "--pull at the command line",
    "shm-size": "--shm-size at the command line",
    "ulimits": "--ulimit at the command line",
    "extra-hosts": "--add-host at the command line",
    "entitlements": "--allow at the command line",
    "call": "--call at the command line",
    "policy": "not understood here",
    "resource": "--memory at the command line",
    "resources": "--memory at the command line",
    "dockerfile-args": "",
}
KNOWN: Final = (
    *("args", "annotations", "context", "contexts", "description", "dockerfile", "inherits"),
    *("dockerfile-inline", "labels", "matrix", "name", "network", "platforms", "secret", "tags"),
    *("target", *LEFT_OUT),
)


def merge(into: dict[str, tuple[Data, Location]], new: Mapping[str, tuple[Data, Location]]) -> None:
    """Lay the attributes `new` over those that are there, as bake does it."""
    for key, (value, where) in new.items():
        old = into.get(key, (None, where))[0]
        if key in MERGED and isinstance(old, dict) and isinstance(value, dict):
            value = {**old, **value}
        elif key in APPENDED and isinstance(old, list) and isinstance(value, list):
            value = [*old, *value]
        elif value is None and key not in MERGED:
            continue
        into[key] = (value, where)


def literals(expression: Expression) -> set[str]:
    """Return the texts of a list that are no expressions."""
    items = expression.items if isinstance(expression, hcl.Items) else ()
    return {str(item.value) for item in items if isinstance(item, hcl.Literal)}


def truth(value: Data) -> bool:
    """Say whether a value is true."""
    return value is True or value == "true"


def text_of(value: Data) -> str:
    """Return a scalar as a text; null is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def shown(value: Data) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={shown(inner)}" for key, inner in value.items())
    return text_of(value)
