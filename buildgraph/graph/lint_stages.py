"""Knows what a Dockerfile's stages are to each other, and which of them and of its ARGs nobody
needs; must not know files or images.

All of it is read off the text, so that a file whose bases are nowhere near can be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.checks_findings import Findings
from buildgraph.dockerfile.scope import PLATFORM_ARGS, global_scope
from buildgraph.graph.stage_ir import KNOBS, PROXY_ARGS
from buildgraph.graph.stage_refs import mentions, stage_number

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\$(?:\{[^}]*\}?|[A-Za-z0-9_]+)")
OWN_MEANING = KNOBS | PROXY_ARGS | PLATFORM_ARGS.keys()  # these work without being used


class StageGraph(Struct, frozen=True):
    """Which stage is built on which (`parents`), and which ones a stage copies or mounts from."""

    parents: tuple[int | None, ...]
    reads: tuple[frozenset[int], ...]
    eligible: frozenset[int]  # what a FROM with a variable could mean for other build arguments

    def used(self) -> frozenset[int]:
        """Return the stages that another one needs."""
        return frozenset(
            {parent for parent in self.parents if parent is not None}.union(*self.reads)
        )

    def bases_of(self, stages: Iterable[int]) -> frozenset[int]:
        """Return some stages with all that they are built on: whose layers are in the images."""
        seen: set[int] = set()
        for index in stages:
            at: int | None = index
            while at is not None and at not in seen:
                seen.add(at)
                at = self.parents[at]
        return frozenset(seen)

    def needed_by(self, stages: Iterable[int]) -> frozenset[int]:
        """Return some stages with everything that has to run for them."""
        seen: set[int] = set()
        waiting = list(stages)
        while waiting:
            index = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            parent = self.parents[index]
            waiting += [*self.reads[index], *(() if parent is None else (parent,))]
        return frozenset(seen)


def stage_graph(
    dockerfile: ast.Dockerfile, build_args: Mapping[str, str], contexts: Collection[str] = ()
) -> StageGraph:
    """Read off how the stages of a file hang together; `contexts` are names that hide stages."""
    outer = global_scope(dockerfile, build_args)
    last: dict[str, int] = {
        stage.from_.name: index
        for index, stage in enumerate(dockerfile.stages)
        if stage.from_.name is not None
    }
    count = len(dockerfile.stages)
    earlier: dict[str, int] = {}
    parents: list[int | None] = []
    reads: list[frozenset[int]] = []
    patterns: list[str] = []
    for index, stage in enumerate(dockerfile.stages):
        written = stage.from_.image
        expansion = outer.expand(written, stage.from_)
        image = written if expansion is None else expansion.text
        parents.append(None if image in contexts else earlier.get(image))
        if "$" in written:
            patterns.append(".*".join(map(re.escape, _VARIABLE.split(written))))
        found = {_index_of(name, last, count) for name in _mentioned(stage.body, contexts)}
        reads.append(frozenset(at for at in found if at is not None and at < index))
        if stage.from_.name is not None:
            earlier[stage.from_.name] = index
    could = {at for name, at in last.items() if any(re.fullmatch(p, name) for p in patterns[:100])}
    return StageGraph(tuple(parents), tuple(reads), frozenset(could))


def stage_index(dockerfile: ast.Dockerfile, name: str | None) -> int | None:
    """Return the index of the stage that is asked for: the last without a name, None for none."""
    if name is None:
        return len(dockerfile.stages) - 1
    for index in range(len(dockerfile.stages) - 1, -1, -1):
        if dockerfile.stages[index].from_.name == name.lower():
            return index
    return None


def _index_of(name: str, last: Mapping[str, int], count: int) -> int | None:
    found = last.get(name.lower())
    if found is None and (number := stage_number(name)) is not None and number < count:
        return number
    return found


def mentions_of_trigger(text: str) -> list[str]:
    """Return what looks like a `from=` in the text of a trigger; none of it is expanded yet."""
    return re.findall(r"\bfrom=([^\s,\"']+)", text)


def _mentioned(body: Iterable[ast.Instruction], contexts: Collection[str]) -> Iterable[str]:
    for one in body:
        trigger = one.trigger if isinstance(one, ast.OnBuild) else None
        names = mentions(one) if trigger is None else mentions_of_trigger(trigger)
        yield from (name for name in names if name.lower() not in contexts)


# --- stages ------------------------------------------------------------------------------------


def check_unused_stages(
    dockerfile: ast.Dockerfile,
    graph: StageGraph,
    asked: Collection[int],
    *,
    chosen: bool,
    findings: Findings,
) -> None:
    """Report stages that cannot be wanted.

    A named stage that no other needs may be what somebody builds with --target. It is reported
    where it does nothing, where a later stage has its name, and where targets of the workspace
    choose their stages (`chosen`) and none chooses this one.
    """
    used = graph.used() | graph.eligible | set(asked)
    names = [stage.from_.name for stage in dockerfile.stages]
    later = {name: index for index, name in enumerate(names) if name is not None}
    for index, stage in enumerate(dockerfile.stages):
        name = names[index]
        if index in used or index == len(names) - 1:
            continue
        if name is None:
            why = "it has no name to ask for it by"
        elif later[name] != index:
            why = f"--target {name} means a later stage of that name"
        elif not any(not isinstance(one, ast.Arg) for one in stage.body):
            why = "it adds nothing to its base"
        elif chosen:
            why = "no target of the workspace builds it"
        else:
            continue
        shown = f"{name!r}" if name else str(index)
        message = f"Stage {shown} is used by no other stage, and {why}"
        findings.add("UnusedStage", message, stage.from_, word=stage.from_.name_as_written or "")


# --- arguments ---------------------------------------------------------------------------------


def check_unused_args(dockerfile: ast.Dockerfile, graph: StageGraph, findings: Findings) -> None:
    """Report ARGs that change nothing.

    An ARG of a stage is a variable of every RUN below it, and who knows what a program reads: it
    is reported only where no RUN follows.
    """
    _check_global_args(dockerfile, findings)
    words = [[_words(one) for one in stage.body] for stage in dockerfile.stages]
    below: list[set[str]] = [set() for _ in dockerfile.stages]  # in stages built on this one
    runs: list[bool] = [False] * len(below)
    for index in range(len(below) - 1, -1, -1):
        seen, run = set(below[index]), runs[index]
        body = dockerfile.stages[index].body
        for position in range(len(body) - 1, -1, -1):
            one = body[position]
            if isinstance(one, ast.Arg) and not run:
                _check_stage_arg(one, seen, findings)
            seen |= words[index][position]
            run = run or _runs(one)
        parent = graph.parents[index]
        if parent is not None:
            below[parent] |= seen
            runs[parent] = runs[parent] or run


def _check_stage_arg(arg: ast.Arg, seen: Collection[str], findings: Findings) -> None:
    for name, _ in arg.pairs:
        others = {word for n, d in arg.pairs if n != name for word in _WORD.findall(d or "")}
        if name not in seen and name not in others and name not in OWN_MEANING:
            message = f"ARG {name} is not used in its stage"
            findings.add("UnusedArg", message, arg, word=name, fix="remove it")


def _check_global_args(dockerfile: ast.Dockerfile, findings: Findings) -> None:
    used: set[str] = set()
    for arg in dockerfile.global_args:
        used |= _words(arg)
    places: dict[str, int] = {}  # where a stage writes $NAME and has no such name
    for stage in dockerfile.stages:
        used.update(_WORD.findall(f"{stage.from_.image} {stage.from_.platform}"))
        used |= _stage_names(stage, places)
    for arg in dockerfile.global_args:
        for name, _ in arg.pairs:
            if name in used or name in OWN_MEANING:
                continue
            message, fix = f"ARG {name} is used by no FROM, and no stage declares it", "remove it"
            if name in places:
                message += f", so ${name} in line {places[name]} is not set by it"
                fix = f"repeat `ARG {name}` in the stage that uses it"
            findings.add("UnusedArg", message, arg, word=name, fix=fix)


def _stage_names(stage: ast.StageText, places: dict[str, int]) -> set[str]:
    """Return the names that a stage imports; note in `places` what it uses and does not have."""
    imported: set[str] = set()
    declared: set[str] = set()
    for one in stage.body:
        if isinstance(one, ast.Arg | ast.Env):
            declared.update(name for name, _ in one.pairs)
        if isinstance(one, ast.Arg):
            imported.update(name for name, _ in one.pairs)
        elif isinstance(one, ast.OnBuild):
            imported.update(_WORD.findall(one.trigger))
        for name in set(_dollars(one)) - declared:
            places.setdefault(name, one.where.line)
    return imported


def _runs(one: ast.Instruction) -> bool:
    return isinstance(one, ast.Run) or (
        isinstance(one, ast.OnBuild) and one.trigger[:3].upper() == "RUN"
    )


def _text(one: ast.Instruction) -> str:
    if isinstance(one, ast.Run):
        return f"{one.source}\n{one.shell or ''}"
    if isinstance(one, ast.Transfer):
        return "\n".join([one.source, *(doc.body for doc in one.heredocs)])
    return one.source


def _words(one: ast.Instruction) -> set[str]:
    if isinstance(one, ast.Arg):
        return {word for _, default in one.pairs for word in _WORD.findall(default or "")}
    return set(_WORD.findall(_text(one)))


def _dollars(one: ast.Instruction) -> list[str]:
    return re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", _text(one))
