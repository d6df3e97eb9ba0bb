"""Knows the order of dependencies as a property of any graph; needs no disk."""

from __future__ import annotations

import itertools
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from buildgraph.boxfile.closure import Edge, dependency_order
from buildgraph.boxfile.target import Target
from buildgraph.errors import Location
from buildgraph.label import Label

GRAPHS = st.lists(st.lists(st.integers(0, 11), max_size=4), min_size=1, max_size=12)


def label(number: int) -> Label:
    return Label("", f"t{number}")


def order_of(graph: list[list[int]], roots: list[int]) -> tuple[list[int], list[str]]:
    def lookup(wanted: Label, where: Location | None) -> Target | None:
        number = int(wanted.name[1:])
        if number >= len(graph):
            return None
        return Target(wanted, "image", Location("f", number + 1), MappingProxyType({}))

    def edges(target: Target) -> list[Edge]:
        number = int(target.label.name[1:])
        return [(label(used), Location("f", number + 1, used + 1)) for used in graph[number]]

    order, errors = dependency_order([label(root) for root in roots], lookup, edges)
    return [int(target.label.name[1:]) for target in order], [e.message for e in errors]


def reachable(graph: list[list[int]], roots: list[int]) -> set[int]:
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        number = waiting.pop()
        if number not in seen and number < len(graph):
            seen.add(number)
            waiting.extend(graph[number])
    return seen


@given(GRAPHS)
def test_every_target_once_and_after_what_it_needs(graph: list[list[int]]) -> None:
    roots = list(range(len(graph)))
    downhill = [[used for used in uses if used < i] for i, uses in enumerate(graph)]
    order, errors = order_of(downhill, roots[::-1])
    assert errors == []
    assert sorted(order) == roots
    for number in roots:
        for used in downhill[number]:
            assert order.index(used) < order.index(number)


@given(GRAPHS, st.integers(0, 11))
def test_cycles_are_told_just_where_there_are_some(graph: list[list[int]], root: int) -> None:
    root %= len(graph)
    order, errors = order_of(graph, [root])
    reached = reachable(graph, [root])
    assert set(order) == reached
    cyclic = any(number in reachable(graph, graph[number]) for number in reached)
    assert bool(errors) == cyclic
    for message in errors:
        path = message.removeprefix("targets need each other: ").split(" -> ")
        assert path[0] == path[-1]
        steps = [int(text.removeprefix("//:t")) for text in path]
        assert all(b in graph[a] for a, b in itertools.pairwise(steps))


def test_depth_costs_no_stack() -> None:
    deep = [[number + 1] for number in range(50_000)] + [[]]
    order, errors = order_of(deep, [0])
    assert not errors
    assert order == list(range(50_000, -1, -1))
