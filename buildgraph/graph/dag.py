"""Knows what can be asked of a graph of names without circles: what needs what, in which order, by
which way; must not know what a name stands for. The only door to networkx.

Reaching and ordering are written here, over plain dictionaries: they answer every query, and
importing networkx alone costs several times what they cost for a thousand names. Circles, waves and
longest ways are networkx's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import networkx


class Dag:
    """A graph of names; an edge leads from a name to one that it needs. Does not change."""

    def __init__(self, needs: Mapping[str, Iterable[str]]):
        """Take what each name needs; what is needed and has no entry needs nothing."""
        self._needs: dict[str, tuple[str, ...]] = {}
        self._users: dict[str, list[str]] = {}
        for name, wanted in needs.items():
            unique = tuple(dict.fromkeys(wanted))
            self._needs[name] = unique
            self._users.setdefault(name, [])
            for other in unique:
                self._users.setdefault(other, []).append(name)
        for name in self._users:
            self._needs.setdefault(name, ())
        self._library: networkx.DiGraph[str] | None = None
        self.steps = 0  # edges followed so far: what the work is measured by

    @property
    def names(self) -> Collection[str]:
        """Return every name."""
        return self._needs.keys()

    def needs(self, name: str) -> tuple[str, ...]:
        """Return what a name needs directly, in the order it was given."""
        return self._needs.get(name, ())

    def users(self, name: str) -> tuple[str, ...]:
        """Return what needs a name directly."""
        return tuple(self._users.get(name, ()))

    # -- reaching and ordering -------------------------------------------------------------

    def below(self, names: Iterable[str], depth: int | None = None) -> set[str]:
        """Return the names and what they need, down to `depth` edges."""
        return self._reach(names, self._needs, depth, None)

    def above(
        self, names: Iterable[str], depth: int | None = None, within: Collection[str] | None = None
    ) -> set[str]:
        """Return the names and what needs them, up to `depth` edges, never leaving `within`."""
        return self._reach(names, self._users, depth, within)

    def _reach(
        self,
        names: Iterable[str],
        edges: Mapping[str, Iterable[str]],
        depth: int | None,
        within: Collection[str] | None,
    ) -> set[str]:
        seen = {name for name in names if within is None or name in within}
        frontier = sorted(seen)
        while frontier and depth != 0:
            found: list[str] = []
            for name in frontier:
                for other in edges.get(name, ()):
                    self.steps += 1
                    if other not in seen and (within is None or other in within):
                        seen.add(other)
                        found.append(other)
            frontier = found
            depth = None if depth is None else depth - 1
        return seen

    def between(self, starts: Iterable[str], ends: Iterable[str]) -> set[str]:
        """Return what lies on any way from `starts` down to `ends`, both ends included."""
        reached = self.below(starts)
        return self.above((name for name in ends if name in reached), within=reached)

    def order(self, names: Iterable[str] | None = None) -> list[str]:
        """Return names (all by default) each after what it needs; equals are sorted as text.

        A way that leaves `names` and comes back counts as well. Names on a circle come last.
        """
        chosen = set(self._needs) if names is None else set(names)
        scope = self.below(chosen)
        waiting = {name: len(self._needs.get(name, ())) for name in scope}
        ready = [name for name, count in waiting.items() if count == 0]
        heapq.heapify(ready)
        out: list[str] = []
        while ready:
            name = heapq.heappop(ready)
            out.append(name)
            for user in self._users.get(name, ()):
                self.steps += 1
                if user in waiting:
                    waiting[user] -= 1
                    if waiting[user] == 0:
                        heapq.heappush(ready, user)
        if len(out) < len(scope):
            out.extend(sorted(scope.difference(out)))
        return [name for name in out if name in chosen]

    def some_path(self, starts: Iterable[str], ends: Iterable[str]) -> list[str]:
        """Return a shortest way from one of `starts` down to one of `ends`; [] if there is none.

        Always the same one, whatever order they come in.
        """
        wanted = set(ends)
        frontier = sorted(set(starts) & self._needs.keys())
        came_from: dict[str, str | None] = dict.fromkeys(frontier)
        while frontier:
            reached = sorted(wanted.intersection(frontier))
            if reached:
                way: list[str] = []
                name: str | None = reached[0]
                while name is not None:
                    way.append(name)
                    name = came_from[name]
                return way[::-1]
            found: list[str] = []
            for name in frontier:
                for other in self._needs[name]:
                    self.steps += 1
                    if other not in came_from:
                        came_from[other] = name
                        found.append(other)
            frontier = found
        return []

    # -- what networkx carries ---------------------------------------------------------------

    def waves(self, names: Iterable[str]) -> list[list[str]]:
        """Return `names` in waves, each sorted: a wave needs earlier waves only.

        Needing by way of names that are left out counts as well. Raises ValueError on a circle.
        """
        import networkx

        chosen = set(names)
        graph = self._graph().subgraph(self.below(chosen))
        height: dict[str, int] = {}
        out: list[list[str]] = []
        try:
            for generation in networkx.topological_generations(graph.reverse(copy=False)):
                for name in generation:
                    under = max((height[other] for other in self._needs[name]), default=0)
                    height[name] = under + (name in chosen)
                    if name in chosen:
                        while len(out) < height[name]:
                            out.append([])
                        out[height[name] - 1].append(name)
        except networkx.NetworkXUnfeasible as error:
            raise ValueError("the names need each other in a circle") from error
        return [sorted(wave) for wave in out]

    def longest_path(self, weight: Callable[[str], float]) -> list[str]:
        """Return the way whose names weigh most together, what is needed first.

        Raises ValueError on a circle.
        """
        import networkx

        weighted: networkx.DiGraph[str] = networkx.DiGraph()
        start = "\0start"
        for name in self.order():
            weighted.add_edge(start, name, weight=weight(name))
            for other in self._needs[name]:
                weighted.add_edge(other, name, weight=weight(name))
        if not weighted:
            return []
        try:
            found: list[str] = networkx.dag_longest_path(weighted, weight="weight")
        except networkx.NetworkXUnfeasible as error:
            raise ValueError("the names need each other in a circle") from error
        return found[1:]

    def circle(self) -> list[str]:
        """Return names that need each other in a circle, each once; [] if there are none."""
        import networkx

        try:
            return [edge[0] for edge in networkx.find_cycle(self._graph())]
        except networkx.NetworkXNoCycle:
            return []

    def _graph(self) -> Any:
        if self._library is None:
            import networkx

            graph: networkx.DiGraph[str] = networkx.DiGraph()
            graph.add_nodes_from(sorted(self._needs))
            graph.add_edges_from(
                (name, other) for name in sorted(self._needs) for other in self._needs[name]
            )
            self._library = graph
        return self._library
