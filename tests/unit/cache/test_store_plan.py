"""Plans of what has to go, as a pure function."""

from __future__ import annotations

import tracemalloc
from array import array
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from buildgraph_cache import plan as plans
from buildgraph_cache.plan import RecordRow


class Reach:
    """A reach that can be asked by name."""

    def __init__(self, records: list[RecordRow], objects: dict[str, int]):
        self.reach = plans.Reach(records, objects.items())
        self.records = records
        self.names = {*objects, *(ref for row in records for ref in row.refs)}

    def used(self, name: str) -> int:
        number = self.reach.number(name)
        return 0 if number < 0 else self.reach.used[number]


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan by names."""

    objects: list[str]
    records: set[str]
    freed: int


def plan_removal(
    reach: Reach, sizes: dict[str, int], floor: int, aged: int, excess: int | None
) -> Plan:
    inner = reach.reach
    by_number = array("q", [-1]) * len(inner.marks)
    for name, size in sizes.items():
        by_number[inner.number(name)] = size
    found = plans.plan_removal(inner, by_number, floor, aged, excess, set())
    names = {inner.number(name): name for name in reach.names}
    return Plan(
        [names[number] for number in found.objects],
        {row.name for place, row in enumerate(reach.records) if found.records[place]},
        found.freed,
    )


def row(key: str, used: int, *refs: str) -> RecordRow:
    return RecordRow("node", key, used, refs, 100)


def test_a_plan_has_no_python_object_for_each_record() -> None:
    count = 50_000
    tracemalloc.start()
    try:
        records = (row(str(number), number % 9 + 1, f"x{number}") for number in range(count))
        reach = plans.Reach(records, ((f"x{number}", 1) for number in range(count)))
        built = tracemalloc.get_traced_memory()[1]
        sizes = array("q", (1 if known else -1 for known in reach.known))
        tracemalloc.reset_peak()
        plan = plans.plan_removal(reach, sizes, floor=99, aged=0, excess=count // 9, mounts=set())
        planned = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(plan.objects) == count // 9
    assert built / count < 125
    assert planned / count < 180


def test_the_least_used_object_goes_first_and_alone() -> None:
    reach = Reach([row("a", 1, "x"), row("b", 2, "y")], {"x": 1, "y": 1})
    plan = plan_removal(reach, {"x": 10, "y": 10}, floor=9, aged=0, excess=5)
    assert plan.objects == ["x"]
    assert plan.records == {"record:node/a"}
    assert plan.freed == 10


def test_a_use_of_a_record_is_a_use_of_all_it_leads_to() -> None:
    records = [row("top", 5, "record:node/mid"), row("mid", 1, "x"), row("other", 2, "y")]
    reach = Reach(records, {"x": 1, "y": 2})
    plan = plan_removal(reach, {"x": 10, "y": 10}, floor=9, aged=0, excess=1)
    assert plan.objects == ["y"]


def test_records_go_with_what_they_lead_to_and_free_the_rest() -> None:
    records = [row("top", 1, "record:node/mid"), row("mid", 1, "x", "y")]
    reach = Reach(records, {"x": 1, "y": 1})
    plan = plan_removal(reach, {"x": 10, "y": 10}, floor=9, aged=0, excess=5)
    assert sorted(plan.objects) == ["x", "y"]
    assert plan.records == {"record:node/top", "record:node/mid"}


def test_chains_of_any_length_are_followed() -> None:
    count = 50_000
    records = [row("0", 1, "x")] + [row(f"{n}", 1, f"record:node/{n - 1}") for n in range(1, count)]
    plan = plan_removal(Reach(records, {"x": 1}), {"x": 1}, floor=9, aged=0, excess=1)
    assert len(plan.records) == count


def test_records_in_a_circle_do_not_hang() -> None:
    records = [row("a", 1, "record:node/b"), row("b", 1, "record:node/a", "x")]
    plan = plan_removal(Reach(records, {"x": 1}), {"x": 1}, floor=9, aged=0, excess=1)
    assert plan.records == {"record:node/a", "record:node/b"}


NAMES = [f"o{n}" for n in range(6)]


@st.composite
def stores(draw: st.DrawFn) -> tuple[list[RecordRow], dict[str, int], dict[str, int]]:
    count = draw(st.integers(0, 6))
    refs = [f"record:node/{n}" for n in range(count)] + NAMES
    records = [
        row(f"{n}", draw(st.integers(1, 9)), *draw(st.lists(st.sampled_from(refs), max_size=3)))
        for n in range(count)
    ]
    objects = {name: draw(st.integers(1, 9)) for name in NAMES}
    sizes = {name: draw(st.integers(0, 50)) for name in NAMES if draw(st.booleans())}
    return records, objects, sizes


@given(stores(), st.integers(1, 11), st.integers(0, 9), st.none() | st.integers(0, 400))
def test_a_plan_keeps_its_promises(
    made: tuple[list[RecordRow], dict[str, int], dict[str, int]],
    floor: int,
    aged: int,
    excess: int | None,
) -> None:
    records, objects, sizes = made
    reach = Reach(records, objects)
    plan: Plan = plan_removal(reach, sizes, floor, aged, excess)
    gone = set(plan.objects)
    assert len(gone) == len(plan.objects)
    # Nothing that is used now, or that something used now leads to.
    assert all(reach.used(name) < floor for name in gone)
    kept = [record for record in records if record.name not in plan.records]
    assert all(record.used_seq < floor for record in records if record.name in plan.records)
    # Whatever stays leads to nothing that goes.
    for record in kept:
        assert not gone & set(record.refs)
        assert not plan.records & set(record.refs)
    # The cap is met, or nothing that may go is left.
    if excess is not None and plan.freed < excess:
        assert all(reach.used(name) >= floor for name in sizes if name not in gone)
