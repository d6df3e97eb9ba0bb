"""Knows which variants a `matrix` makes of a target, and what they are called; must not know what
differs between them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from buildgraph import limits
from buildgraph.boxfile.schema import MATRIX_VALUE
from buildgraph.boxfile.target import Value, text_of
from buildgraph.errors import InputError, Location, did_you_mean

Variant = Mapping[str, str]


def suffix(variant: Variant) -> str:
    """Return what follows a target's name in the label of a variant."""
    return "@" + ",".join(f"{key}={value}" for key, value in variant.items())


def variants(
    axes: Mapping[str, Value],
    exclude: Sequence[Value],
    include: Sequence[Value],
    where: Location,
    errors: list[InputError],
) -> list[Variant]:
    """Return the variants in order: the last key changes fastest, then what is included.

    An `exclude` takes away all variants that have its pairs; an `include` names every key.
    """
    lists = {name: [text_of(item) for item in _items(value)] for name, value in axes.items()}
    counts = (math.prod(map(len, lists.values())), len(exclude), len(include))
    if max(counts) > limits.MATRIX_TARGETS:
        errors.append(InputError(f"a matrix makes at most {limits.MATRIX_TARGETS} targets", where))
        return []
    taken = list(_entries(exclude, lists, "exclude", errors))
    found: list[Variant] = []
    for values in itertools.product(*lists.values()):
        variant = dict(zip(lists, values, strict=True))
        if not any(pairs.items() <= variant.items() for pairs, _ in taken):
            found.append(variant)
    for pairs, place in _entries(include, lists, "include", errors):
        if pairs.keys() != lists.keys():
            missing = next((key for key in lists if key not in pairs), "")
            errors.append(InputError(f"include: {missing!r} is missing", place))
            continue
        variant = {key: pairs[key] for key in lists}
        if variant not in found:
            found.append(variant)
    if not found and not errors:
        errors.append(InputError("nothing is left of the matrix", where))
    return found


def _entries(
    written: Sequence[Value], lists: Mapping[str, list[str]], name: str, errors: list[InputError]
) -> Iterator[tuple[dict[str, str], Location]]:
    for value in written:
        data = value.data
        assert isinstance(data, Mapping)
        pairs = {key: text_of(item) for key, item in data.items()}
        if not pairs:
            errors.append(InputError(f"{name}: there is nothing in it", value.where))
        for key, text in pairs.items():
            item = data[key]
            if key not in lists:
                hint = did_you_mean(key, lists)
                errors.append(InputError(f"{name}: the matrix has no key {key!r}", item.key, hint))
            elif name == "exclude" and text not in lists[key]:
                hint = did_you_mean(text, lists[key]) or f"{key}: {', '.join(lists[key])}"
                errors.append(InputError(f"exclude: {key} is never {text!r}", item.where, hint))
            elif not re.fullmatch(MATRIX_VALUE, text):
                errors.append(InputError(f"{name}: {text!r} cannot be in a label", item.where))
        if pairs and pairs.keys() <= lists.keys():
            yield pairs, value.where


def _items(value: Value) -> tuple[Value, ...]:
    return value.data if isinstance(value.data, tuple) else ()
