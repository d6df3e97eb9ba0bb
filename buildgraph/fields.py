"""Knows which fields a value of ours has; must not know any value.

Values are msgspec structs: a class of them is made, and a value of it, in a tenth of the time that
a dataclass takes, and a command defines hundreds of classes before it does anything. A dataclass
is where a field must not be shown or not be compared (`field(repr=False, compare=False)`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from msgspec import Struct, structs

_NOTHING = object()  # equal to no value


def field_names(value: object) -> tuple[str, ...] | None:
    """Return the names of a value's fields in their order; None for what has none, or a class."""
    if isinstance(value, Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(field.name for field in dataclasses.fields(value))
    return None


def compared(value: object) -> tuple[str, ...] | None:
    """Return the names of the fields that decide about equality; None as in `field_names`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(field.name for field in dataclasses.fields(value) if field.compare)
    return field_names(value)


def told(value: object) -> dict[str, Any] | None:
    """Return the fields that are not as they are by default; None as in `field_names`."""
    names = field_names(value)
    if names is None:
        return None
    found = {name: getattr(value, name) for name in names}
    defaults = _defaults(value)
    return {name: item for name, item in found.items() if item != defaults.get(name, _NOTHING)}


def with_changes(value: Any, changes: dict[str, Any]) -> Any:
    """Return a copy of a value with other fields."""
    if isinstance(value, Struct):
        return structs.replace(value, **changes)
    return dataclasses.replace(value, **changes)


def _defaults(value: Any) -> dict[str, Any]:
    if isinstance(value, Struct):
        # They belong to the last fields.
        names, defaults = value.__struct_fields__, value.__struct_defaults__
        return dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    return {field.name: field.default for field in dataclasses.fields(value)}
