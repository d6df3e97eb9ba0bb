"""Knows how a list of names becomes a set of packages that can be installed together; must not
know how archives are read or packages unpacked.

The way is apt's: the newest version of everything, the first alternative that works. Where that
ends in a conflict, the nearest package that was one choice out of several is banned and all starts
again, so the answer depends on the input alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from buildgraph.errors import InputError, Location, did_you_mean
from buildgraph_rules.debian.control import BinaryPackage, Universe
from buildgraph_rules.debian.relation import Group, Relation, show_group

_RESTARTS: Final = 200

# Our roots have a merged /usr from the first file on, so nothing is left to be merged: without
# this, `usrmerge | usr-is-merged` would pull in perl for nothing. debootstrap does the same.
_PREFERRED: Final = frozenset({"usr-is-merged"})


class Request(Struct, frozen=True):
    """A package that was asked for, and where."""

    relation: Relation
    where: Location


class _Reason(Struct, frozen=True):
    """Why a package was selected: for whom, and by which clause."""

    parent: str = ""  # "" = asked for, or part of the base system
    group: Group = ()  # () = asked for, so there is no choice


class _Stuck(Exception):
    """Nothing can be selected for a clause; `suspects` may be banned, the best one first."""

    def __init__(self, message: str, root: str, suspects: Sequence[BinaryPackage]):
        super().__init__(message)
        self.message = message
        self.root = root
        self.suspects = suspects


def resolve(
    universe: Universe,
    requests: Sequence[Request],
    where: Location,
    *,
    essential: bool = True,
    recommends: bool = False,
) -> tuple[BinaryPackage, ...]:
    """Return the packages to install, sorted by name.

    `essential` adds what is Essential or of priority required. Raises InputError with the place
    of the request for unknown names, versions and conflicts; `where` stands for the base system.
    """
    roots = [(_root(universe, request), request) for request in requests]
    base = universe.required() if essential else []
    banned: set[tuple[str, str]] = set()
    places = {package.name: request.where for package, request in roots}
    for _ in range(_RESTARTS):
        solver = _Solver(universe, banned, recommends)
        try:
            return solver.solve([package for package, _ in roots], base)
        except _Stuck as stuck:
            suspects = [(p.name, p.version) for p in stuck.suspects]
            fresh = next((suspect for suspect in suspects if suspect not in banned), None)
            if fresh is None:
                raise InputError(stuck.message, places.get(stuck.root, where)) from None
            banned.add(fresh)
    raise InputError("the packages cannot be installed together: too many conflicts", where)


def _root(universe: Universe, request: Request) -> BinaryPackage:
    relation = request.relation
    candidates = universe.candidates(relation.name)
    found = next((c for c in candidates if relation.admits(c.version)), None)
    if found is not None:
        return found
    if candidates:
        there = ", ".join(dict.fromkeys(c.version for c in candidates))
        raise InputError(
            f"package {relation.name} has no version {relation.version}",
            request.where,
            hint=f"the archive has {there}",
        )
    providers = universe.providers(relation.name)
    if providers:
        names = ", ".join(p.name for p in providers[:8])
        raise InputError(
            f"{relation.name} is a virtual package", request.where, hint=f"provided by {names}"
        )
    raise InputError(
        f"unknown package {relation.name}",
        request.where,
        hint=did_you_mean(relation.name, _near(relation.name, universe.names())),
    )


def _near(name: str, names: Iterable[str]) -> list[str]:
    """Thin out the names: difflib over 60,000 of them would take seconds."""
    return [n for n in names if abs(len(n) - len(name)) <= 3 and n[:1] == name[:1]]


class _Solver:
    """One attempt. Selected packages never change; a dead end raises `_Stuck`."""

    def __init__(self, universe: Universe, banned: set[tuple[str, str]], recommends: bool):
        self._universe = universe
        self._banned = banned
        self._fields = ("pre-depends", "depends", *(("recommends",) if recommends else ()))
        self._selected: dict[str, BinaryPackage] = {}
        self._provided: dict[str, list[tuple[str, str | None]]] = {}
        self._refused: dict[str, list[tuple[str, str, Relation]]] = {}
        self._reasons: dict[str, _Reason] = {}
        self._queue: deque[BinaryPackage] = deque()

    def solve(
        self, roots: Sequence[BinaryPackage], base: Sequence[str]
    ) -> tuple[BinaryPackage, ...]:
        for package in roots:
            same = self._selected.get(package.name)
            if same is not None and same.version != package.version:
                message = (
                    f"{package.name} is asked for in versions {same.version} and {package.version}"
                )
                raise _Stuck(message, package.name, ())
            self._select(package, _Reason())
        for name in base:
            if name not in self._selected:
                self._satisfy("", (Relation(name),), "")
        while self._queue:
            package = self._queue.popleft()
            for field in self._fields:
                for group in package.relations(field):
                    self._satisfy(package.name, group, field, optional=field == "recommends")
        return tuple(self._selected[name] for name in sorted(self._selected))

    def _satisfy(self, parent: str, group: Group, field: str, *, optional: bool = False) -> None:
        if any(self._is_met(relation) for relation in group):
            return
        for option in self._options(group):
            if self._obstacle(option) is None:
                self._select(option, _Reason(parent, group))
                return
        if not optional:
            raise self._stuck(parent, group, field)

    def _options(self, group: Group) -> Iterator[BinaryPackage]:
        """Yield what satisfies the clause, best first and lazily: most clauses need only one."""
        preferred = [r for r in group if r.name in _PREFERRED]
        for relation in (*preferred, *(r for r in group if r not in preferred)):
            for option in self._satisfying(relation):
                if (option.name, option.version) not in self._banned:
                    yield option

    def _satisfying(self, relation: Relation) -> Iterator[BinaryPackage]:
        for candidate in self._universe.candidates(relation.name):
            if relation.admits(candidate.version):
                yield candidate
        for provider in self._universe.providers(relation.name):
            if any(
                name == relation.name and relation.admits_provided(version)
                for name, version in provider.provides
            ):
                yield provider

    def _is_met(self, relation: Relation) -> bool:
        package = self._selected.get(relation.name)
        if package is not None and relation.admits(package.version):
            return True
        return any(
            relation.admits_provided(version)
            for _, version in self._provided.get(relation.name, ())
        )

    def _select(self, package: BinaryPackage, reason: _Reason) -> None:
        if package.name in self._selected:
            return
        obstacle = self._obstacle(package)
        if obstacle is not None:
            other, words = obstacle
            raise _Stuck(words, reason.parent or package.name, self._choices(other))
        self._selected[package.name] = package
        self._reasons[package.name] = reason
        for name, version in package.provides:
            self._provided.setdefault(name, []).append((package.name, version))
        for field, relation in package.refuses:
            self._refused.setdefault(relation.name, []).append((package.name, field, relation))
        self._queue.append(package)

    def _obstacle(self, package: BinaryPackage) -> tuple[str, str] | None:
        """Return (selected package, words) that keeps `package` out, or None."""
        same = self._selected.get(package.name)
        if same is not None:
            return same.name, f"{same.name} {same.version} is needed as well"
        for field, relation in package.refuses:
            other = self._hit(package.name, relation)
            if other:
                return other, _words(package.name, field, relation, other)
        names = (
            (package.name, package.version, True),
            *((n, v, False) for n, v in package.provides),
        )
        for name, version, real in names:
            for other, field, relation in self._refused.get(name, ()):
                admits = (
                    relation.admits(version or "") if real else relation.admits_provided(version)
                )
                if admits and other != package.name:
                    return other, _words(other, field, relation, package.name)
        return None

    def _hit(self, own: str, relation: Relation) -> str:
        """Return the selected package other than `own` that `relation` speaks of, or ""."""
        package = self._selected.get(relation.name)
        if package is not None and package.name != own and relation.admits(package.version):
            return package.name
        for name, version in self._provided.get(relation.name, ()):
            if name != own and relation.admits_provided(version):
                return name
        return ""

    def _stuck(self, parent: str, group: Group, field: str) -> _Stuck:
        clause = show_group(group)
        suspects: list[BinaryPackage] = []
        option = next(self._options(group), None)
        if option is not None:
            other, words = self._obstacle(option) or ("", "")
            suspects += self._choices(other)
            problem = f"cannot install {option.name}: {words}"
        else:
            problem = f"no package satisfies {clause}"
        if parent:
            title = field.title().replace("-d", "-D")
            problem += f" ({self._chain(parent)} {title}: {clause})"
        suspects += self._choices(parent)
        return _Stuck(problem, self._origin(parent), suspects)

    def _ancestors(self, name: str) -> Iterator[str]:
        while name in self._reasons:
            yield name
            name = self._reasons[name].parent

    def _choices(self, name: str) -> list[BinaryPackage]:
        """Return `name` and those it was selected for that were one choice out of several."""
        chosen = [(self._selected[n], self._reasons[n].group) for n in self._ancestors(name)]
        return [p for p, group in chosen if any(o != p for o in self._options(group))]

    def _chain(self, name: str) -> str:
        return " -> ".join(reversed(list(self._ancestors(name))))

    def _origin(self, name: str) -> str:
        return next(reversed(list(self._ancestors(name))), "")


def _words(package: str, field: str, relation: Relation, other: str) -> str:
    return f"{package} {field} {relation}, and {other} is needed as well"


# --- order -----------------------------------------------------------------------------------


def closure(packages: Mapping[str, BinaryPackage], names: Iterable[str]) -> set[str]:
    """Return `names` and all that they need, as far as it is among `packages`."""
    edges = _edges(packages, ("pre-depends", "depends"))
    found: set[str] = set()
    todo = [name for name in names if name in packages]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(edges[name])
    return found


def bootstrap_set(packages: Mapping[str, BinaryPackage]) -> set[str]:
    """Return what must work before any other package's script may run: no package names these
    in its dependencies, since they are taken for granted (Debian policy 3.8)."""
    essential = [p.name for p in packages.values() if p.essential]
    return closure(packages, [*essential, "dpkg", "base-passwd"])


def configure_order(packages: Mapping[str, BinaryPackage]) -> tuple[str, ...]:
    """Return all names in an order in which they can be configured, the bootstrap set first.

    Dependencies come before those that need them. A cycle is entered where no Pre-Depends is
    broken and the fewest Depends are, the first name in the alphabet where that is a tie.
    """
    strict = _edges(packages, ("pre-depends",))
    edges = _edges(packages, ("pre-depends", "depends"))
    first = bootstrap_set(packages)
    order: list[str] = []
    for names in (first, set(packages) - first):
        inner = {name: [e for e in edges[name] if e in names] for name in sorted(names)}
        for component in _components(inner):
            order.extend(_break_cycle(component, strict, edges))
    return tuple(order)


def pre_depends(packages: Mapping[str, BinaryPackage]) -> dict[str, list[str]]:
    """Return for every name which of `packages` must be configured before it is unpacked."""
    return _edges(packages, ("pre-depends",))


def _edges(packages: Mapping[str, BinaryPackage], fields: Sequence[str]) -> dict[str, list[str]]:
    providers: dict[str, list[tuple[str, str | None]]] = {}
    for name in sorted(packages):
        for provided, version in packages[name].provides:
            providers.setdefault(provided, []).append((name, version))
    edges: dict[str, list[str]] = {}
    for name in sorted(packages):
        found: dict[str, None] = {}
        for field in fields:
            for group in packages[name].relations(field):
                for relation in group:
                    for target in _targets(relation, packages, providers):
                        found[target] = None
        found.pop(name, None)
        edges[name] = list(found)
    return edges


def _targets(
    relation: Relation,
    packages: Mapping[str, BinaryPackage],
    providers: Mapping[str, list[tuple[str, str | None]]],
) -> Iterator[str]:
    package = packages.get(relation.name)
    if package is not None and relation.admits(package.version):
        yield package.name
    for name, version in providers.get(relation.name, ()):
        if relation.admits_provided(version):
            yield name


def _break_cycle(
    component: Sequence[str], strict: Mapping[str, list[str]], edges: Mapping[str, list[str]]
) -> Iterator[str]:
    left = set(component)
    while left:
        # The sum is never 0 in a cycle; Pre-Depends count first, then Depends, then the name.
        name = min(
            left,
            key=lambda n: (sum(e in left for e in strict[n]), sum(e in left for e in edges[n]), n),
        )
        left.remove(name)
        yield name


def _components(edges: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Yield strongly connected components, each after all that it points to (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    for root in edges:
        if root in index:
            continue
        work: list[tuple[str, Iterator[str]]] = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            below = next(rest, None)
            if below is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = _pop_component(stack, node)
                    on_stack.difference_update(component)
                    yield component
            elif below not in index:
                index[below] = low[below] = len(index)
                stack.append(below)
                on_stack.add(below)
                work.append((below, iter(edges[below])))
            elif below in on_stack:
                low[node] = min(low[node], index[below])


def _pop_component(stack: list[str], node: str) -> list[str]:
    place = stack.index(node)
    component = sorted(stack[place:])
    del stack[place:]
    return component
