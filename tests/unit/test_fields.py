"""Holds what is known of the fields of values, whichever way their class is written."""

from __future__ import annotations

import dataclasses

from msgspec import Struct

from buildgraph.fields import compared, field_names, told, with_changes


class _Plain(Struct, frozen=True, kw_only=True):
    name: str
    size: int = 3
    words: tuple[str, ...] = ()
    last: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Discreet:
    name: str
    secret: str = dataclasses.field(default="", repr=False)
    place: int = dataclasses.field(default=0, compare=False)


PLAIN = _Plain(name="a", last=1)


def test_names_of_fields() -> None:
    assert field_names(PLAIN) == ("name", "size", "words", "last")
    assert field_names(_Discreet("a")) == ("name", "secret", "place")
    assert all(field_names(other) is None for other in (_Plain, _Discreet, "text", (), None))


def test_fields_that_decide_about_equality() -> None:
    assert compared(PLAIN) == ("name", "size", "words", "last")
    assert compared(_Discreet("a", place=3)) == ("name", "secret")
    assert compared(3) is None


def test_what_is_not_as_by_default() -> None:
    assert told(PLAIN) == {"name": "a", "last": 1}
    assert told(_Plain(name="a", size=4, last=3)) == {"name": "a", "size": 4, "last": 3}
    assert told(_Discreet("a", "b")) == {"name": "a", "secret": "b"}
    assert told(("a",)) is None


def test_copies_with_other_fields() -> None:
    assert with_changes(PLAIN, {"size": 4}) == _Plain(name="a", size=4, last=1)
    assert with_changes(_Discreet("a"), {"secret": "b"}) == _Discreet("a", "b")
