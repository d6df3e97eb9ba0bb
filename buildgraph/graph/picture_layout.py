"""Knows where the boxes of a layered drawing go, and the ways of the lines between them; must not
know what is drawn.

Sugiyama's steps, each in its simplest form: a column is the longest way from what needs nothing,
long lines get a place in each column they cross, columns are sorted by the middle of what they
are joined to, and boxes sit as near to that as the column lets them. All of it is proportional to
the lines, a fixed number of times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from msgspec import Struct

_SWEEPS: Final = 6
# A line longer than this many columns is drawn straight: its bends would cost more than they help.
_LONGEST: Final = 12

_Slot = tuple[str, str, int]  # a box: (name, "", 0); a place of a line: (user, needed, column)


class Layout(Struct, frozen=True):
    """Boxes by name with the upper left corner; lines (needed, user) with the points they pass."""

    width: float
    height: float
    boxes: Mapping[str, tuple[float, float]]
    lines: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]


def layered(
    order: Sequence[str],
    needs: Mapping[str, Sequence[str]],
    *,
    box: tuple[float, float],
    gap: tuple[float, float],
) -> Layout:
    """Place the boxes of `order`, in which each comes after what it needs; left is needed first."""
    column: dict[str, int] = {}
    for name in order:
        column[name] = max((column[other] + 1 for other in needs[name]), default=0)
    columns: list[list[_Slot]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    before: dict[_Slot, list[_Slot]] = {}
    after: dict[_Slot, list[_Slot]] = {}
    chains: dict[tuple[str, str], list[_Slot]] = {}
    for name in order:
        columns[column[name]].append((name, "", 0))
    for name in order:
        for other in needs[name]:
            chain: list[_Slot] = [(other, "", 0)]
            if column[name] - column[other] <= _LONGEST:
                between = range(column[other] + 1, column[name])
                chain += [(name, other, number) for number in between]
            chain.append((name, "", 0))
            for slot in chain[1:-1]:
                columns[slot[2]].append(slot)
            for left, right in pairwise(chain):
                after.setdefault(left, []).append(right)
                before.setdefault(right, []).append(left)
            chains[other, name] = chain
    _sort(columns, before, after)
    tall, space = box[1], gap[1]
    top = _align(columns, before, after, tall, space)
    xs = [number * (box[0] + gap[0]) for number in range(len(columns))]
    boxes = {name: (xs[column[name]], top[name, "", 0]) for name in order}
    lines: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {}
    for (other, name), chain in chains.items():
        points = [(boxes[other][0] + box[0], boxes[other][1] + tall / 2)]
        for slot in chain[1:-1]:
            middle = top[slot] + tall / 8
            points += [(xs[slot[2]], middle), (xs[slot[2]] + box[0], middle)]
        points.append((boxes[name][0], boxes[name][1] + tall / 2))
        lines[other, name] = tuple(points)
    height = max((y + tall for y in top.values()), default=0)
    return Layout(xs[-1] + box[0] if xs else 0, height, boxes, lines)


_Joined = Mapping[_Slot, Sequence[_Slot]]


def _sort(columns: list[list[_Slot]], before: _Joined, after: _Joined) -> None:
    """Sort each column by the middle of its neighbours, from the left and from the right."""
    place = {slot: float(i) for slots in columns for i, slot in enumerate(slots)}
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        joined = before if forward else after
        for slots in columns if forward else reversed(columns):
            middle = {slot: _middle([place[s] for s in joined.get(slot, ())]) for slot in slots}
            slots.sort(key=lambda s: (place[s] if (m := middle[s]) is None else m, place[s]))
            for number, slot in enumerate(slots):
                place[slot] = float(number)


def _middle(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _align(
    columns: list[list[_Slot]], before: _Joined, after: _Joined, tall: float, space: float
) -> dict[_Slot, float]:
    """Return the top of each slot: near its neighbours, in the column's order, none overlapping."""
    top: dict[_Slot, float] = {}
    for slots in columns:
        at = 0.0
        for slot in slots:
            top[slot] = at
            at += _height(slot, tall) + space
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        joined = before if forward else after
        for slots in columns if forward else reversed(columns):
            _settle(slots, joined, top, tall, space)
    least = min(top.values(), default=0.0)
    return {slot: y - least for slot, y in top.items()}


def _height(slot: _Slot, tall: float) -> float:
    return tall / 4 if slot[1] else tall


def _settle(
    slots: list[_Slot], joined: _Joined, top: dict[_Slot, float], tall: float, space: float
) -> None:
    wanted: list[float] = []
    for slot in slots:
        centre = _middle([top[s] + _height(s, tall) / 2 for s in joined.get(slot, ())])
        wanted.append(top[slot] if centre is None else centre - _height(slot, tall) / 2)
    # Pushed down from the top and up from the bottom; the middle of both keeps order and distance.
    down: list[float] = []
    for want in wanted:
        least = down[-1] + _height(slots[len(down) - 1], tall) + space if down else want
        down.append(max(want, least))
    up = list(wanted)
    for number in range(len(slots) - 2, -1, -1):
        most = up[number + 1] - space - _height(slots[number], tall)
        up[number] = min(wanted[number], most)
    for slot, low, high in zip(slots, down, up, strict=True):
        top[slot] = (low + high) / 2
