"""Knows which part of an image an annotation is meant for, and the language that says so; must not
know how any part is written.

The language is buildx's: `[TYPE[,TYPE...][[PLATFORM]]:]KEY=VALUE`, with the types `manifest` (the
default), `index`, `manifest-descriptor` and `index-descriptor`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

from buildgraph.errors import InputError, Location
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.types import Platform

Part = Literal["manifest", "index", "manifest-descriptor", "index-descriptor"]
_PARTS: Final[dict[str, Part]] = {
    "manifest": "manifest",
    "index": "index",
    "manifest-descriptor": "manifest-descriptor",
    "index-descriptor": "index-descriptor",
}
_TYPE: Final = re.compile(r"([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?\Z")
CREATED: Final = "org.opencontainers.image.created"

Pairs = tuple[tuple[str, str], ...]


class Annotation(Struct, frozen=True):
    """One annotation of one part; `platform` None = of every platform.

    `value` None stands for the time of the build's epoch, as `created` may have it.
    """

    name: str
    value: str | None
    part: Part = "manifest"
    platform: Platform | None = None


def parse_annotation(text: str, where: Location | None = None) -> tuple[Annotation, ...]:
    """Parse `[TYPE[PLATFORM]:]KEY=VALUE`, one annotation a type. Raises InputError."""
    key, equals, value = text.partition("=")
    return annotations_of(key, value if equals else None, where)


def annotations_of(
    key: str, value: str | None, where: Location | None = None
) -> tuple[Annotation, ...]:
    """Return the annotations that a key with its types and its value stand for."""
    types, colon, name = key.partition(":")
    if not colon:
        types, name = "", key
    if not name or (colon and not types):
        raise InputError(f"annotation {key!r}: the name is missing", where, _HINT)
    if value is None and name != CREATED:
        raise InputError(f"annotation {key!r} has no value", where, "write NAME=VALUE")
    if not colon:
        return (Annotation(name, value),)
    return tuple(_typed(key, one, name, value, where) for one in types.split(","))


_HINT: Final = "[manifest|index|manifest-descriptor|index-descriptor][[PLATFORM]]:NAME=VALUE"


def _typed(
    key: str, written: str, name: str, value: str | None, where: Location | None
) -> Annotation:
    found = _TYPE.match(written.strip())
    part = _PARTS.get(found[1]) if found else None
    if found is None or part is None:
        raise InputError(f"annotation {key!r}: there is no part {written!r}", where, _HINT)
    if found[2] and part in ("index", "index-descriptor"):
        raise InputError(f"annotation {key!r}: an index is of no platform", where)
    return Annotation(name, value, part, parse_platform(found[2], where) if found[2] else None)


def pairs_for(
    annotations: Iterable[Annotation], part: Part, platform: Platform | None, epoch: int
) -> Pairs:
    """Return the annotations of one part, sorted by name; the last of a name counts.

    What is said of one platform counts more than what is said of all.
    """
    mine = [a for a in annotations if a.part == part and a.platform in (None, platform)]
    mine.sort(key=lambda a: a.platform is not None)
    return tuple(sorted({a.name: _value(a, epoch) for a in mine}.items()))


def _value(annotation: Annotation, epoch: int) -> str:
    if annotation.value is not None:
        return annotation.value
    moment = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def check_parts(annotations: Iterable[Annotation], label: str, *, indexed: bool) -> None:
    """Refuse annotations of an index where there is none. Raises InputError."""
    for annotation in annotations:
        if annotation.part in ("index", "index-descriptor") and not indexed:
            raise InputError(
                f"{label} has one platform and no {annotation.part} that {annotation.name} could "
                "be written on",
                hint="leave the type out, build several platforms, or ask for an index: "
                "--build-arg BUILDKIT_MULTI_PLATFORM=1",
            )
