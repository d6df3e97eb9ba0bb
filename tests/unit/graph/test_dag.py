"""What a graph of names answers, and that it takes work in proportion to the edges."""

from __future__ import annotations

import pytest

from buildgraph.graph.dag import Dag

DIAMOND = Dag({"top": ["left", "right"], "left": ["bottom"], "right": ["bottom"]})


def test_order_puts_what_is_needed_first_and_equals_by_name() -> None:
    assert DIAMOND.order() == ["bottom", "left", "right", "top"]
    assert DIAMOND.order({"top", "bottom"}) == ["bottom", "top"]
    assert Dag({"b": [], "a": [], "c": ["b"]}).order() == ["a", "b", "c"]


def test_waves_need_earlier_waves_only_through_what_is_left_out_too() -> None:
    assert DIAMOND.waves(DIAMOND.names) == [["bottom"], ["left", "right"], ["top"]]
    assert DIAMOND.waves({"top", "bottom"}) == [["bottom"], ["top"]]
    assert DIAMOND.waves({"left", "right"}) == [["left", "right"]]
    assert DIAMOND.waves(()) == []


def test_circles_are_found_and_never_hang() -> None:
    ring = Dag({"a": ["b"], "b": ["c"], "c": ["a"], "d": []})
    assert sorted(ring.circle()) == ["a", "b", "c"]
    assert DIAMOND.circle() == []
    assert ring.order() == ["d", "a", "b", "c"]
    assert ring.below(["a"]) == {"a", "b", "c"}
    for ask in (lambda: ring.waves(ring.names), lambda: ring.longest_path(lambda name: 1)):
        with pytest.raises(ValueError, match="circle"):
            ask()


def test_longest_path_weighs_names() -> None:
    weights = {"top": 1.0, "left": 5.0, "right": 2.0, "bottom": 1.0}
    assert DIAMOND.longest_path(weights.__getitem__) == ["bottom", "left", "top"]
    assert Dag({}).longest_path(lambda name: 1) == []


def _chain_of(count: int) -> Dag:
    # Each needs the one before it and one in the middle: few edges, deep, with a busy name.
    return Dag({f"n{i:04}": [f"n{max(i - 1, 0):04}"] * (i > 0) + ["base"] for i in range(count)})


def test_work_grows_with_edges_and_not_with_their_square() -> None:
    counts = []
    for size in (500, 1000):
        dag = _chain_of(size)
        dag.order()
        dag.below([f"n{size - 1:04}"])
        dag.above(["base"])
        dag.between([f"n{size - 1:04}"], ["base"])
        counts.append(dag.steps)
    assert counts[1] < 2.2 * counts[0]
