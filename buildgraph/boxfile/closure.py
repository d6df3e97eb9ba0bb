"""Knows how to put targets into the order of their dependencies; must not know where targets
come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from buildgraph.boxfile.target import Target
from buildgraph.errors import InputError, Location
from buildgraph.label import Label

Edge = tuple[Label, Location]  # what is needed, and where that is written


class _Visit(Struct):
    """A target on the way down; `entered` is where its user names it."""

    target: Target
    edges: Iterator[Edge]
    entered: Location | None


def dependency_order(
    roots: Iterable[Label],
    lookup: Callable[[Label, Location | None], Target | None],
    edges: Callable[[Target], Iterable[Edge]],
) -> tuple[list[Target], list[InputError]]:
    """Return all targets that `roots` need, each after what it needs, and the cycles as errors.

    `lookup` returns None for a target it has complained about. Order is stable: by the roots,
    then by where dependencies are written. Iterative, so depth costs no stack.
    """
    order: list[Target] = []
    errors: list[InputError] = []
    done: set[Label] = set()
    open_labels: set[Label] = set()
    for root in roots:
        stack: list[_Visit] = []
        _enter(root, None, stack, done, open_labels, lookup, edges)
        while stack:
            visit = stack[-1]
            edge = next(visit.edges, None)
            if edge is None:
                stack.pop()
                open_labels.discard(visit.target.label)
                done.add(visit.target.label)
                order.append(visit.target)
            elif edge[0] in open_labels:
                errors.append(_cycle(stack, edge))
            else:
                _enter(edge[0], edge[1], stack, done, open_labels, lookup, edges)
    return order, errors


def _enter(
    label: Label,
    where: Location | None,
    stack: list[_Visit],
    done: set[Label],
    open_labels: set[Label],
    lookup: Callable[[Label, Location | None], Target | None],
    edges: Callable[[Target], Iterable[Edge]],
) -> None:
    if label in done:
        return
    target = lookup(label, where)
    if target is None:
        done.add(label)
        return
    open_labels.add(label)
    stack.append(_Visit(target, iter(edges(target)), where))


def _cycle(stack: list[_Visit], closing: Edge) -> InputError:
    """Return the error for the path from `closing`'s target round to itself."""
    start = next(i for i, visit in enumerate(stack) if visit.target.label == closing[0])
    labels = [visit.target.label for visit in stack[start:]]
    places = [visit.entered for visit in stack[start + 1 :]] + [closing[1]]
    path = " -> ".join(str(label) for label in (*labels, closing[0]))
    steps = zip(labels, (*labels[1:], closing[0]), places, strict=True)
    told = "; ".join(f"{user} needs {used} at {place}" for user, used, place in steps)
    return InputError(f"targets need each other: {path}", places[0], told)
