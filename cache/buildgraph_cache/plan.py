"""Knows which objects and records have to go for a store to keep its limits.

Must not know a disk or an index: a pure function of what is there, how it refers to each other, and
when it was last used.

A store may hold a million of each, so nothing here is a Python object for each of them. A name is
its xxh3-64, a *mark*; marks are sorted, and the place of one is the *number* of what it names. Two
names with one mark count as one thing, which then stays, or goes with all that leads to either.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import chain

import xxhash
from msgspec import Struct, field

FOREVER = 1 << 62
NOT_THERE = -1
_PIECE = 1 << 14  # numbers sorted at once: as long as they are sorted they are Python objects


class RecordRow(Struct, frozen=True):
    """What a plan needs to know of a record."""

    kind: str
    key: str
    used_seq: int
    refs: tuple[str, ...]
    size: int
    rowid: int = 0

    @property
    def name(self) -> str:
        """The reference to this record."""
        return f"record:{self.kind}/{self.key}"


def mark_of(name: str) -> int:
    """Return the mark of a name."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


class Marks:
    """Sorted marks, each once."""

    def __init__(self, *many: Iterable[int]) -> None:
        # Spread by their first bits, for few of them to be Python objects while they are sorted.
        heaps = [array("Q") for _ in range(64)]
        for mark in chain.from_iterable(many):
            heaps[mark >> 58].append(mark)
        heaps.reverse()
        self.all = array("Q")
        while heaps:
            self.all.extend(sorted(set(heaps.pop())))

    def __len__(self) -> int:
        return len(self.all)

    def find(self, mark: int) -> int:
        """Return the number of a mark, -1 where it is none of these."""
        at = bisect_left(self.all, mark)
        return at if at < len(self.all) and self.all[at] == mark else NOT_THERE


class _Lists:
    """A list of numbers for each number, in two arrays."""

    def __init__(self, count: int, pairs: Callable[[], Iterable[tuple[int, int]]]) -> None:
        """`pairs` gives (number, what is in its list), the same each time."""
        starts = array("i", bytes(4 * (count + 1)))
        total = 0
        for number, _ in pairs():
            starts[number] += 1
            total += 1
        end = 0
        for number in range(count + 1):
            end += starts[number]
            starts[number] = end
        self._items = array("i", bytes(4 * total))
        for number, item in pairs():
            starts[number] -= 1
            self._items[starts[number]] = item
        self._starts = starts

    def of(self, number: int) -> array[int]:
        return self._items[self._starts[number] : self._starts[number + 1]]

    def count(self, number: int) -> int:
        return self._starts[number + 1] - self._starts[number]


class Plan(Struct):
    """What is to go, oldest first, with the records that lead to it."""

    objects: array[int] = field(default_factory=lambda: array("i"))  # numbers
    records: bytearray = field(default_factory=bytearray)  # a flag for each record, by its place
    freed: int = 0


class Reach:
    """Who refers to whom, and when each thing was last used by itself or through a record.

    Records have a *place*, in the order they were given; they and the objects have a number.
    """

    def __init__(
        self,
        records: Iterable[RecordRow],
        objects: Iterable[tuple[str, int]],  # name, used_seq
        keep: Callable[[RecordRow], bool] | None = None,
    ) -> None:
        marks, refs, kept = array("Q"), array("Q"), array("i")
        self.last_use, self.sizes, self.rowids = array("q"), array("I"), array("q")
        ends = array("i", [0])
        for row in records:
            if keep is not None and keep(row):
                kept.append(len(marks))
            marks.append(mark_of(row.name))
            self.last_use.append(min(row.used_seq, FOREVER))
            self.sizes.append(row.size)
            self.rowids.append(row.rowid)
            refs.extend(map(mark_of, row.refs))
            ends.append(len(refs))
        theirs, used = array("Q"), array("q")
        for name, seq in objects:
            theirs.append(mark_of(name))
            used.append(min(seq, FOREVER))
        self.marks = Marks(marks, refs, theirs)
        find = self.marks.find
        self.known = bytearray(len(self.marks))  # objects that were given
        self.used = array("q", bytes(8 * len(self.marks)))
        for mark, seq in zip(theirs, used, strict=True):
            number = find(mark)
            self.known[number] = 1
            self.used[number] = max(seq, self.used[number])
        del theirs, used  # each of these has eight bytes for each object or record
        self.numbers = array("i", map(find, marks))  # of records, by place
        del marks
        leads = array("i", map(find, refs))
        del refs
        self._ends, self._leads = ends, leads
        self.places = array("i", [NOT_THERE]) * len(self.marks)  # of records, by number
        for place, number in enumerate(self.numbers):
            self.places[number] = place
        places = range(len(self.numbers))
        self.owners = _Lists(
            len(self.marks),
            lambda: ((n, p) for p in places for n in leads[ends[p] : ends[p + 1]]),
        )
        self._use(kept)

    def number(self, name: str) -> int:
        """Return the number of a name, -1 where nobody knows it."""
        return self.marks.find(mark_of(name))

    def refs(self, place: int) -> array[int]:
        """Return the numbers that a record refers to."""
        return self._leads[self._ends[place] : self._ends[place + 1]]

    def by_use(self) -> Iterator[int]:
        """Yield the places of records, those used last first."""
        ages: dict[int, array[int]] = {}
        for place, seq in enumerate(self.last_use):
            ages.setdefault(seq, array("i")).append(place)
        for seq in sorted(ages, reverse=True):
            yield from ages[seq]

    def _use(self, kept: Iterable[int]) -> None:
        """Say of all that records lead to when it was used; the latest uses come first."""
        seen = bytearray(len(self.marks))
        for place in kept:
            self._spread(place, FOREVER, seen)
        for place in self.by_use():
            self._spread(place, self.last_use[place], seen)

    def _spread(self, place: int, used: int, seen: bytearray) -> None:
        pending = [self.numbers[place]]
        while pending:
            current = pending.pop()
            if not seen[current]:
                seen[current] = 1
                self.used[current] = max(used, self.used[current])
                if self.places[current] != NOT_THERE:
                    pending.extend(self.refs(self.places[current]))

    def leading_to(self, numbers: Iterable[int]) -> set[int]:
        """Return the places of the records that refer to one of these, also by way of others."""
        found: set[int] = set()
        for number in numbers:
            pending = [number]
            while pending:
                for place in self.owners.of(pending.pop()):
                    if place not in found:
                        found.add(place)
                        pending.append(self.numbers[place])
        return found

    def held(self, floor: int) -> bytearray:
        """Return a flag for each number: used at `floor` or later, or led to by what is."""
        out = bytearray(len(self.marks))
        for number in range(len(self.marks)):
            place = self.places[number]
            mine = self.known[number] and self.used[number] >= floor
            if not mine and (place == NOT_THERE or self.last_use[place] < floor):
                continue
            pending = [number]
            while pending:
                current = pending.pop()
                if not out[current]:
                    out[current] = 1
                    if self.places[current] != NOT_THERE:
                        pending.extend(self.refs(self.places[current]))
        return out


def plan_removal(
    reach: Reach, sizes: array[int], floor: int, aged: int, excess: int | None, mounts: set[int]
) -> Plan:
    """Return what has to go: the unreferenced, the aged, and the least used until `excess` is met.

    `sizes` has bytes by number, -1 for what cannot be removed. `aged`: what was last used at or
    before this generation goes. `excess`: bytes too many, None where there is no limit. `mounts`
    have a reason to be there without a record. Nothing used at `floor` or later is in the plan.
    """
    plan = Plan(records=bytearray(len(reach.numbers)))
    removal = _Removal(reach, sizes, floor, plan)
    used = reach.used
    order = array("i", (n for n, size in enumerate(sizes) if size >= 0 and used[n] < floor))
    for number in order:
        owned = number in mounts or reach.owners.count(number)
        if not owned or used[number] <= aged:
            removal.take(number)
    for place, number in enumerate(reach.numbers):
        if used[number] <= aged and used[number] < floor:
            removal.take_record(place)
    if excess is not None and plan.freed < excess:
        # Of two that were used together the larger one goes first.
        large = max(sizes, default=0)
        for number in _sorted(order, lambda n: (used[n] << 48) + large - sizes[n]):
            if plan.freed >= excess:
                break
            removal.take(number)
        _take_bare_records(reach, removal, floor, excess)
    return plan


def _sorted(numbers: array[int], key: Callable[[int], int]) -> Iterator[int]:
    """Yield numbers in the order of their keys; only as many as are asked for are merged.

    They are sorted piece by piece where they are.
    """
    pieces = [range(at, at + _PIECE) for at in range(0, len(numbers), _PIECE)]
    for piece in pieces:
        part = slice(piece.start, piece.stop)
        numbers[part] = array("i", sorted(numbers[part], key=key))
    places = (range(piece.start, min(piece.stop, len(numbers))) for piece in pieces)
    return merge(*(map(numbers.__getitem__, part) for part in places), key=key)


def _take_bare_records(reach: Reach, removal: _Removal, floor: int, excess: int) -> None:
    """When no object is left to give, let go of the oldest records too."""
    if removal.plan.freed >= excess:
        return
    for place in reversed(array("i", reach.by_use())):
        if removal.plan.freed >= excess:
            return
        if reach.used[reach.numbers[place]] < floor and not removal.plan.records[place]:
            removal.take_record(place)
            removal.plan.freed += reach.sizes[place]


class _Removal:
    """Adds to a plan what follows from one removal."""

    def __init__(self, reach: Reach, sizes: array[int], floor: int, plan: Plan) -> None:
        self.plan = plan
        self._reach = reach
        self._sizes = sizes
        self._floor = floor
        self._taken = bytearray(len(reach.marks))
        self._left = array("i", (reach.owners.count(n) for n in range(len(reach.marks))))

    def take(self, number: int) -> None:
        """Remove an object, the records that lead to it, and what only they led to."""
        self._work([number], [])

    def take_record(self, place: int) -> None:
        """Remove a record, those that lead to it, and objects it was the last to refer to."""
        self._work([], [place])

    def _work(self, objects: list[int], records: list[int]) -> None:
        while objects or records:
            if objects:
                records.extend(self._object(objects.pop()))
            else:
                place = records.pop()
                if not self.plan.records[place]:
                    records.extend(self._reach.owners.of(self._reach.numbers[place]))
                    objects.extend(self._record(place))

    def _object(self, number: int) -> Iterable[int]:
        if self._taken[number]:
            return ()
        self._taken[number] = 1
        self.plan.objects.append(number)
        self.plan.freed += self._sizes[number]
        return self._reach.owners.of(number)

    def _record(self, place: int) -> list[int]:
        """Remove one record; return the objects that nothing refers to any more."""
        self.plan.records[place] = 1
        orphans = []
        for number in self._reach.refs(place):
            self._left[number] -= 1
            if self._left[number] == 0 and self._reach.used[number] < self._floor:
                if self._sizes[number] >= 0:
                    orphans.append(number)
        return orphans
