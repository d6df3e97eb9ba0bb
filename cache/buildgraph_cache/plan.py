"""Knows which objects and records have to go for a store to keep its limits.

Must not know a disk or an index: a pure function of what is there, how it refers to each other, and
when it was last used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

FOREVER = 1 << 62


@dataclass(frozen=True, slots=True)
class RecordRow:
    """What a plan needs to know of a record."""

    kind: str
    key: str
    used_seq: int
    refs: tuple[str, ...]
    size: int

    @property
    def name(self) -> str:
        """The reference to this record."""
        return f"record:{self.kind}/{self.key}"


@dataclass(slots=True)
class Plan:
    """What is to go, oldest first, with the records that lead to it."""

    objects: list[str] = field(default_factory=list)
    records: set[str] = field(default_factory=set)  # names
    freed: int = 0


class Reach:
    """Who refers to whom, and when each thing was last used by itself or through a record."""

    def __init__(
        self,
        records: Iterable[RecordRow],
        objects: dict[str, int],  # name -> used_seq
        keep: Callable[[RecordRow], bool] | None = None,
    ) -> None:
        self.records = {record.name: record for record in records}
        self.used: dict[str, int] = {}
        self.owners: dict[str, list[str]] = {}
        kept = {name for name, row in self.records.items() if keep is not None and keep(row)}
        for record in self.records.values():
            for ref in record.refs:
                self.owners.setdefault(ref, []).append(record.name)
        by_use = sorted(self.records.values(), key=lambda row: -row.used_seq)
        for name in kept:
            self._spread(name, FOREVER)
        for record in by_use:
            self._spread(record.name, record.used_seq)
        for name, used in objects.items():
            self.used[name] = max(used, self.used.get(name, 0))

    def _spread(self, name: str, used: int) -> None:
        """Say of all that `name` leads to that it was used then; the latest uses come first."""
        pending = [name]
        while pending:
            current = pending.pop()
            if current in self.used:
                continue
            self.used[current] = used
            record = self.records.get(current)
            if record is not None:
                pending.extend(record.refs)

    def owned(self, name: str) -> bool:
        """Return whether the object has a reason to be there: a record, or its own use."""
        return name in self.owners or name.startswith("mount:")

    def leading_to(self, names: Iterable[str]) -> set[str]:
        """Return the records that refer to one of the names, also by way of others."""
        found: set[str] = set()
        pending = list(names)
        while pending:
            for owner in self.owners.get(pending.pop(), ()):
                if owner not in found:
                    found.add(owner)
                    pending.append(owner)
        return found


def plan_removal(
    reach: Reach, sizes: dict[str, int], floor: int, aged: int, excess: int | None
) -> Plan:
    """Return what has to go: the unreferenced, the aged, and the least used until `excess` is met.

    `aged`: what was last used at or before this generation goes. `excess`: bytes too many, None
    where there is no limit. Nothing used at `floor` or later is in the plan.
    """
    plan = Plan()
    removal = _Removal(reach, sizes, floor, plan)
    order = sorted(
        (name for name in sizes if reach.used.get(name, 0) < floor),
        key=lambda name: (reach.used.get(name, 0), -sizes[name]),
    )
    for name in order:
        if not reach.owned(name) or reach.used.get(name, 0) <= aged:
            removal.take(name)
    for row in reach.records.values():
        if reach.used[row.name] <= aged and reach.used[row.name] < floor:
            removal.take_record(row.name)
    for name in order:
        if excess is None or plan.freed >= excess:
            break
        removal.take(name)
    _take_bare_records(reach, removal, floor, excess)
    return plan


def _take_bare_records(reach: Reach, removal: _Removal, floor: int, excess: int | None) -> None:
    """When no object is left to give, let go of the oldest records too."""
    if excess is None:
        return
    for row in sorted(reach.records.values(), key=lambda row: row.used_seq):
        if removal.plan.freed >= excess:
            return
        if reach.used[row.name] < floor and row.name not in removal.plan.records:
            removal.take_record(row.name)
            removal.plan.freed += row.size


class _Removal:
    """Adds to a plan what follows from one removal."""

    def __init__(self, reach: Reach, sizes: dict[str, int], floor: int, plan: Plan) -> None:
        self.plan = plan
        self._reach = reach
        self._sizes = sizes
        self._floor = floor
        self._taken: set[str] = set()
        self._left = {name: len(owners) for name, owners in reach.owners.items()}

    def take(self, name: str) -> None:
        """Remove an object, the records that lead to it, and what only they led to."""
        self._work([name], [])

    def take_record(self, name: str) -> None:
        """Remove a record, those that lead to it, and objects it was the last to refer to."""
        self._work([], [name])

    def _work(self, objects: list[str], records: list[str]) -> None:
        while objects or records:
            if objects:
                records.extend(self._object(objects.pop()))
            else:
                name = records.pop()
                if name not in self.plan.records:
                    records.extend(self._reach.owners.get(name, ()))
                    objects.extend(self._record(name))

    def _object(self, name: str) -> list[str]:
        if name in self._taken:
            return []
        self._taken.add(name)
        self.plan.objects.append(name)
        self.plan.freed += self._sizes[name]
        return self._reach.owners.get(name, [])

    def _record(self, name: str) -> list[str]:
        """Remove one record; return the objects that nothing refers to any more."""
        self.plan.records.add(name)
        orphans = []
        for ref in self._reach.records[name].refs:
            self._left[ref] -= 1
            if self._left[ref] == 0 and self._reach.used.get(ref, 0) < self._floor:
                if ref in self._sizes:
                    orphans.append(ref)
        return orphans
