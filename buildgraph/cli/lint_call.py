"""Knows what `build --call` prints instead of building: checks, an outline, the stages; must not
know how any of them comes about.

The JSON forms are those of buildx: `--call=outline,format=json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

from buildgraph.cli.escape import safe
from buildgraph.errors import InputError, Location, did_you_mean
from buildgraph.graph.lint_outline import Outline, StageLine, list_stages, outline
from buildgraph.graph.lint_stages import stage_index
from buildgraph.graph.lower import TargetInput

BUILD: Final = "build"
CHECK: Final = "check"
_CALLS: Final = {
    BUILD: "build, as without --call",
    CHECK: "check the Dockerfiles: warnings and errors",
    "outline": "show the arguments, secrets and caches of the stage that would be built",
    "targets": "list the stages that can be asked for with --target",
    "subrequests.describe": "show this list",
}
_OTHER_NAMES: Final = {"lint": CHECK, "list": "targets", "describe": "subrequests.describe"}


def parse_call(text: str) -> tuple[str, str]:
    """Return which call is meant, and its format: "text" or "json". Raises InputError."""
    name, *options = text.split(",")
    form = "text"
    for option in options:
        key, _, value = option.partition("=")
        if key != "format" or value not in ("text", "json"):
            raise InputError(f"--call {text}: expected format=text or format=json")
        form = value
    name = _OTHER_NAMES.get(name, name)
    if name not in _CALLS:
        hint = did_you_mean(name, _CALLS) or f"it is one of {', '.join(_CALLS)}"
        raise InputError(f"--call: there is no call {name!r}", hint=hint)
    return name, form


def show_call(name: str, form: str, inputs: Sequence[TargetInput]) -> None:
    """Print what a call says of some targets; with several, each below its label."""
    if name == "subrequests.describe":
        _print_table(("NAME", "DESCRIPTION"), _CALLS.items())
        return
    values = []
    for number, one in enumerate(inputs):
        value, print_it = _targets(one) if name == "targets" else _outline(one)
        values.append(value)
        if form == "text":
            if len(inputs) > 1:
                click.echo(("\n" if number else "") + f"{one.label}:")
            print_it()
    if form == "json":
        click.echo(json.dumps(values[0] if len(values) == 1 else values, indent=2))


def _targets(one: TargetInput) -> tuple[dict[str, Any], Any]:
    stages = list_stages(one.dockerfile)
    value = {"targets": [_target_value(stage) for stage in stages]}

    def print_it() -> None:
        rows = []
        for stage in stages:
            mark = " (default)" if stage.default else ""
            rows.append((f"{stage.name}{mark}".strip(), stage.description))
        _print_table(("TARGET", "DESCRIPTION"), rows)

    return value, print_it


def _outline(one: TargetInput) -> tuple[dict[str, Any], Any]:
    index = stage_index(one.dockerfile, one.stage)
    if index is None:
        names = [stage.from_.name for stage in one.dockerfile.stages if stage.from_.name]
        hint = did_you_mean((one.stage or "").lower(), names)
        where = Location(one.dockerfile.path)
        raise InputError(f"no stage named {one.stage!r}", where, hint)
    made = outline(one.dockerfile, index, one.build.args, one.build.contexts)
    return _outline_value(made), lambda: _print_outline(made)


def _print_outline(made: Outline) -> None:
    if made.name:
        click.echo(f"TARGET:      {safe(made.name)}")
    if made.description:
        click.echo(f"DESCRIPTION: {safe(made.description)}")
    if made.args:
        rows = [(arg.name, arg.value or "", arg.description) for arg in made.args]
        _print_table(("BUILD ARG", "VALUE", "DESCRIPTION"), rows, gap=True)
    for kind, title in (("secret", "SECRET"), ("ssh", "SSH")):
        found = made.mounts[kind]
        if found:
            rows_2 = [(mount.name, "true" if mount.required else "") for mount in found]
            _print_table((title, "REQUIRED"), rows_2, gap=True)
    if made.mounts["cache"]:
        _print_table(("CACHE",), [(mount.name,) for mount in made.mounts["cache"]], gap=True)


def _print_table(
    head: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, gap: bool = False
) -> None:
    lines = [head, *(tuple(safe(cell) for cell in row) for row in rows)]
    room = [max(len(line[column]) for line in lines) for column in range(len(head))]
    if gap:
        click.echo()
    for line in lines:
        cells = (f"{cell:<{width}}" for cell, width in zip(line, room, strict=True))
        click.echo("  ".join(cells).rstrip())


def _target_value(stage: StageLine) -> dict[str, Any]:
    value = {
        "name": stage.name,
        "default": stage.default,
        "description": stage.description,
        "base": stage.base,
        "platform": stage.platform,
        "location": _location(stage.where),
    }
    return {key: item for key, item in value.items() if item not in ("", False)}


def _outline_value(made: Outline) -> dict[str, Any]:
    value: dict[str, Any] = {"name": made.name, "description": made.description}
    value["args"] = [
        {
            "name": arg.name,
            **({"description": arg.description} if arg.description else {}),
            **({"value": arg.value} if arg.value is not None else {}),
            "location": _location(arg.where),
        }
        for arg in made.args
    ]
    for kind, key in (("secret", "secrets"), ("ssh", "ssh"), ("cache", "cache")):
        value[key] = [
            {
                ("id" if kind == "cache" else "name"): mount.name,
                **({"required": True} if mount.required else {}),
                "location": _location(mount.where),
            }
            for mount in made.mounts[kind]
        ]
    return {key: item for key, item in value.items() if item}


def _location(where: Location) -> dict[str, Any]:
    start = max(where.column - 1, 0)
    end = max(where.end_column - 1, start)
    places = ({"line": where.line, "character": at} for at in (start, end))
    return {"ranges": [dict(zip(("start", "end"), places, strict=True))]}
