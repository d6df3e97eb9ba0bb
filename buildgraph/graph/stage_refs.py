"""Knows what the names in a Dockerfile stand for (FROM, --from, a mount's from), and so which
stages a target needs; must not know what any instruction does.
"""

from __future__ import annotations

from collections.abc import Mapping

from buildgraph.dockerfile import instructions as ins
from buildgraph.dockerfile.expand import expand
from buildgraph.dockerfile.wording import cut
from buildgraph.errors import InputError, Location, did_you_mean, raise_all
from buildgraph.graph.stage_ir import (
    BuildArgs,
    ContextRef,
    ImageRef,
    ScratchRef,
    SourceRef,
    StageRef,
    platform_args,
)
from buildgraph.limits import STAGES
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.types import Platform

Base = tuple[SourceRef, Platform]


class References:
    """The names of one Dockerfile under one set of build arguments.

    `globals` are the variables that FROM lines see; `consumed` the build arguments used for them.
    """

    def __init__(self, file: ins.Dockerfile, build: BuildArgs):
        self._file = file
        self._build = build
        self._escape = file.directives.escape
        self._names = [(s.from_.name or "").lower() for s in file.stages]
        self.globals: dict[str, str] = {}
        self.consumed: set[str] = set()

    def target_index(self, stage: str | None) -> int:
        """Return the index of the requested stage: by name, else the last."""
        if stage is None:
            return len(self._file.stages) - 1
        for index in range(len(self._names) - 1, -1, -1):
            if self._names[index] == stage.lower():
                return index
        names = [n for n in self._names if n]
        where = Location(self._file.path)
        raise InputError(f"no stage named {stage!r}", where, did_you_mean(stage.lower(), names))

    def read_globals(self, stage: str) -> None:
        """Fill `globals`; `stage` is what TARGETSTAGE says."""
        self.globals = platform_args(self._build, stage)
        for name in list(self.globals):
            if name in self._build.args:
                self.globals[name] = self._build.args[name]
                self.consumed.add(name)
        for arg in self._file.global_args:
            for name, default in arg.pairs:
                name = self._text(name, self.globals, arg.where)
                if name in self._build.args:
                    self.globals[name] = self._build.args[name]
                    self.consumed.add(name)
                elif default is not None:
                    self.globals[name] = self._text(default, self.globals, arg.where)

    def bases(self) -> list[Base]:
        """Return what each stage is built on and for which platform. Raises InputError."""
        out: list[Base] = []
        errors: list[InputError] = []
        for index, stage in enumerate(self._file.stages):
            try:
                ref, platform = self._base(index, stage.from_)
                # A stage has the platform of the one it stands on, whatever its own FROM says.
                out.append((ref, out[ref.index][1] if isinstance(ref, StageRef) else platform))
            except InputError as error:
                errors.append(error)
                out.append((ScratchRef(), self._build.target))
        raise_all(errors)
        return out

    def _base(self, index: int, from_: ins.From) -> Base:
        image = self._text(from_.image, self.globals, from_.where)
        if not image:
            raise InputError(
                f"the base image {from_.image!r} is empty once its variables are expanded",
                from_.where,
                "give the ARG a default, or pass --build-arg",
            )
        platform = self._build.target
        if from_.platform is not None:
            text = self._text(from_.platform, self.globals, from_.where)
            if not text:
                raise InputError(f"the platform {from_.platform!r} is empty", from_.where)
            platform = parse_platform(text, from_.where)
        if image == "scratch":
            return ScratchRef(), platform
        if _context_name(image) in self._build.contexts:
            return ContextRef(_context_name(image)), platform
        for earlier in range(index - 1, -1, -1):
            if self._names[earlier] and self._names[earlier] == image:
                return StageRef(earlier), platform
        return ImageRef(image), platform

    def source(self, name: str, index: int, where: Location) -> SourceRef:
        """Return what `--from=name` means inside stage `index`.

        A named context stands for the stage of its name (1.9), a stage for an image; the last of
        duplicate names is meant (1.5).
        """
        if "$" in name:
            raise InputError(
                f"--from={name} holds a variable, and --from is not expanded",
                where,
                "name a stage instead: FROM <image> AS <name>, where FROM is expanded",
            )
        lower = name.lower()
        if lower == "scratch":
            return ScratchRef()
        if _context_name(lower) in self._build.contexts:
            return ContextRef(_context_name(lower))
        for position in range(len(self._names) - 1, -1, -1):
            if self._names[position] == lower and lower:
                return self._earlier(position, index, name, where)
        number = stage_number(name)
        if number is None:
            return ImageRef(name)
        if number >= len(self._names):
            count = f"{len(self._names)} stages exist"
            raise InputError(f"there is no stage {cut(name)}", where, count)
        return self._earlier(number, index, name, where)

    def _earlier(self, position: int, index: int, name: str, where: Location) -> SourceRef:
        if position < index:
            return StageRef(position)
        here = self._file.stages[index].from_.name or f"number {index}"
        if position == index:
            raise InputError(f"stage {here!r} cannot copy from itself", where)
        raise InputError(
            f"stage {name!r} is used in stage {here!r} but must be defined before it",
            where,
            f"{name!r} begins at line {self._file.stages[position].from_.where.line}",
        )

    def reachable(
        self,
        target: int,
        bases: list[Base],
        triggers: Mapping[int, list[ins.Instruction]],
    ) -> frozenset[int]:
        """Return the stages that a target needs; `triggers` are ONBUILD's, by stage."""
        seen: set[int] = set()
        work = [target]
        errors: list[InputError] = []
        while work:
            index = work.pop()
            if index in seen:
                continue
            seen.add(index)
            refs: list[SourceRef] = [bases[index][0]]
            for item in (*triggers.get(index, ()), *self._file.stages[index].body):
                for name in mentions(item):
                    try:
                        refs.append(self.source(name, index, item.where))
                    except InputError as error:
                        errors.append(error)
            work.extend(ref.index for ref in refs if isinstance(ref, StageRef))
        raise_all(errors)
        return frozenset(seen)

    def _text(self, word: str, env: Mapping[str, str], where: Location) -> str:
        return expand(word, env, self._escape, where=where)


def stage_number(name: str) -> int | None:
    """Return the index that a name of digits means, too large where no file has so many stages.

    None for what is no number, as Go's Atoi has it: ASCII digits alone.
    """
    if not (name.isascii() and name.isdecimal()):
        return None
    return int(name) if len(name) < 10 else STAGES


def _context_name(image: str) -> str:
    """Named contexts are matched without the implied tag: `name` and `name:latest` are one."""
    return image.removesuffix(":latest").lower()


def mentions(item: ins.Instruction) -> list[str]:
    """Return the names an instruction reads from: `--from` and mounts' `from`."""
    if isinstance(item, ins.Copy):
        return [item.from_] if item.from_ is not None else []
    if isinstance(item, ins.Run):
        return [v for m in item.mounts for k, v in m.options if k == "from"]
    return []
