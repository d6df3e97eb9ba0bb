"""The scheduler: order, limits, failure, cancellation."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildgraph.engine.scheduler import Scheduler, State, critical_path, ranks
from buildgraph.errors import BuildFailed, Interrupted


def dag(sizes: list[list[int]]) -> list[list[int]]:
    return [[n % i for n in needs] if i else [] for i, needs in enumerate(sizes)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=4), max_size=30),
    st.integers(1, 4),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_every_node_runs_once_after_its_inputs(
    sizes: list[list[int]], jobs: int, fast: list[bool]
) -> None:
    inputs = dag(sizes)
    order: list[int] = []
    guard = threading.Lock()

    def slow(node: int) -> None:
        with guard:
            assert all(need in order for need in inputs[node])
            order.append(node)

    def quick(node: int) -> bool:
        if fast[node]:
            slow(node)
        return fast[node]

    scheduler = Scheduler(inputs, [0.0] * len(inputs), jobs=jobs)
    scheduler.run(quick, slow)
    assert sorted(order) == list(range(len(inputs)))
    assert scheduler.counts[State.DONE] == len(inputs)


def test_no_more_than_jobs_run_at_once() -> None:
    running = 0
    most = 0
    guard = threading.Lock()

    def slow(node: int) -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with guard:
            running -= 1

    Scheduler([[] for _ in range(20)], [0.0] * 20, jobs=3).run(lambda n: False, slow)
    assert most == 3


def test_workers_have_numbers_and_who_decides_has_none() -> None:
    seen: dict[int, set[int | None]] = {}

    def slow(node: int) -> None:
        seen.setdefault(threading.get_ident(), set()).add(scheduler.worker)
        time.sleep(0.005)

    scheduler = Scheduler([[] for _ in range(20)], [0.0] * 20, jobs=3)
    scheduler.run(lambda n: False, slow)
    assert sorted(str(*numbers) for numbers in seen.values()) == ["0", "1", "2"]
    assert scheduler.worker is None


def test_the_longest_path_goes_first() -> None:
    # 0 and 1 are free; 1 leads to a long chain.
    inputs = [[], [], [1], [2]]
    order: list[int] = []
    scheduler = Scheduler(inputs, ranks(inputs, [1.0, 1.0, 5.0, 5.0]), jobs=1)
    scheduler.run(lambda n: False, order.append)
    assert order == [1, 2, 3, 0]


def fail_at(bad: int, seen: list[int]) -> object:
    def slow(node: int) -> None:
        seen.append(node)
        if node == bad:
            raise BuildFailed("no")

    return slow


def test_a_failure_stops_the_build_and_skips_what_depends_on_it() -> None:
    seen: list[int] = []
    scheduler = Scheduler([[], [0], [1], []], [3.0, 2.0, 1.0, 0.0], jobs=1)
    scheduler.run(lambda n: False, fail_at(0, seen))  # type: ignore[arg-type]
    assert seen == [0]
    assert scheduler.states == [State.FAILED, State.SKIPPED, State.SKIPPED, State.SKIPPED]
    assert [n for n, _ in scheduler.errors] == [0]


def test_keep_going_builds_what_does_not_depend_on_the_failure() -> None:
    seen: list[int] = []
    scheduler = Scheduler([[], [0], [1], []], [3.0, 2.0, 1.0, 0.0], jobs=1, keep_going=True)
    scheduler.run(lambda n: False, fail_at(0, seen))  # type: ignore[arg-type]
    assert seen == [0, 3]
    assert scheduler.states[3] is State.DONE


def test_a_quick_failure_counts_too() -> None:
    def quick(node: int) -> bool:
        raise BuildFailed("no")

    scheduler = Scheduler([[], [0]], [0.0, 0.0], jobs=1)
    scheduler.run(quick, lambda n: None)
    assert scheduler.states == [State.FAILED, State.SKIPPED]


def test_a_cancel_from_elsewhere_interrupts() -> None:
    cancel = threading.Event()

    def slow(node: int) -> None:
        cancel.set()
        cancel.wait(5)

    with pytest.raises(Interrupted):
        Scheduler([[], [0]], [0.0, 0.0], jobs=2, cancel=cancel).run(lambda n: False, slow)


def test_a_bug_in_a_worker_is_not_swallowed() -> None:
    def slow(node: int) -> None:
        raise ZeroDivisionError

    scheduler = Scheduler([[]], [0.0], jobs=1)
    scheduler.run(lambda n: False, slow)
    assert isinstance(scheduler.errors[0][1], ZeroDivisionError)


def test_the_critical_path_is_the_longest_chain() -> None:
    assert critical_path([[], [], [0, 1], [2]], [1.0, 4.0, 1.0, 2.0]) == [1, 2, 3]
    assert critical_path([], []) == []
