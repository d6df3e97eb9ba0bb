"""Knows what somebody who wants to build a Dockerfile is told of it: its stages, and the arguments,
secrets and caches of one; must not know how that is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct, field

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.mounts import secret_name
from buildgraph.dockerfile.scope import PLATFORM_ARGS, global_scope
from buildgraph.errors import Location
from buildgraph.graph.lint_stages import stage_graph


class OutlineArg(Struct, frozen=True):
    """An argument that a build takes; `value` is what it is without or with `--build-arg`."""

    name: str
    description: str
    value: str | None
    where: Location


class OutlineMount(Struct, frozen=True):
    """A secret, an SSH agent or a cache that a step asks for."""

    name: str
    required: bool
    where: Location


class Outline(Struct, frozen=True):
    """What building one stage takes."""

    name: str
    description: str
    args: tuple[OutlineArg, ...]
    mounts: Mapping[str, tuple[OutlineMount, ...]] = field(default_factory=dict)  # by type


class StageLine(Struct, frozen=True):
    """A stage that can be asked for."""

    name: str
    default: bool
    description: str
    base: str
    platform: str
    where: Location


def list_stages(dockerfile: ast.Dockerfile) -> list[StageLine]:
    """Return the stages with a name, and the last one, in the order of the file."""
    last = len(dockerfile.stages) - 1
    out = []
    for index, stage in enumerate(dockerfile.stages):
        from_ = stage.from_
        if from_.name is None and index != last:
            continue
        out.append(
            StageLine(
                from_.name_as_written or from_.name or "",
                index == last,
                from_.comment,
                from_.image,
                from_.platform or "",
                from_.where,
            )
        )
    return out


def outline(
    dockerfile: ast.Dockerfile,
    index: int,
    build_args: Mapping[str, str],
    contexts: Collection[str] = (),
) -> Outline:
    """Return what building the stage `index` takes: arguments, secrets, agents, caches."""
    needed = stage_graph(dockerfile, build_args, contexts).needed_by([index])
    scope = global_scope(dockerfile, build_args)
    args: dict[str, OutlineArg] = {}
    for arg in dockerfile.global_args:
        for name, _ in arg.pairs:
            args[name] = OutlineArg(name, _described(arg, name), scope.values.get(name), arg.where)
    mounts: dict[str, dict[str, OutlineMount]] = {"secret": {}, "ssh": {}, "cache": {}}
    for at in sorted(needed):
        for one in dockerfile.stages[at].body:
            if isinstance(one, ast.Arg):
                _take_arg(one, build_args, args)
            elif isinstance(one, ast.Run):
                for kind, mount in _mounts(one):
                    mounts[kind].setdefault(mount.name, mount)
    from_ = dockerfile.stages[index].from_
    return Outline(
        from_.name_as_written or from_.name or "",
        from_.comment,
        tuple(args.values()),
        {kind: tuple(found.values()) for kind, found in mounts.items()},
    )


def _take_arg(arg: ast.Arg, build_args: Mapping[str, str], args: dict[str, OutlineArg]) -> None:
    for name, default in arg.pairs:
        known = args.get(name)
        if name in PLATFORM_ARGS and known is None:
            continue  # the builder gives these
        value = build_args.get(name, default)
        if value is None and known is not None:
            value = known.value
        description = _described(arg, name) or (known.description if known else "")
        args[name] = OutlineArg(name, description, value, known.where if known else arg.where)


def _described(arg: ast.Arg, name: str) -> str:
    """A comment describes the argument whose name it begins with, or the only one there is."""
    for comment in reversed(arg.comments):
        first, _, rest = comment.partition(" ")
        if first == name:
            return rest.strip()
    return arg.comment if len(arg.pairs) == 1 else ""


def _mounts(run: ast.Run) -> Iterator[tuple[str, OutlineMount]]:
    for mount in run.mounts:
        options = dict(mount.options)
        target = options.get("target", "")
        required = options.get("required") == "true"
        if mount.type == "secret":
            yield "secret", OutlineMount(secret_name(mount), required, mount.where)
        elif mount.type == "ssh":
            yield "ssh", OutlineMount(options.get("id") or "default", required, mount.where)
        elif mount.type == "cache":
            yield "cache", OutlineMount(options.get("id") or target, False, mount.where)
