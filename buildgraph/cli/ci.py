"""Knows how CI systems want to be told what to run, and in which order; must not know how it is
found out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import click
from msgspec import Struct

from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.affected import find_affected
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.cli.options import store_option
from buildgraph.label import Label, parse_label

FORMATS = ("github", "gitlab", "json")
JOBS = 256  # as many as a matrix of GitHub takes
_NAME_LENGTH = 60
_RESERVED = frozenset(
    "after_script before_script cache default false image include nil null pages services spec "
    "stages true types variables workflow".split()
)


class Job(Struct, frozen=True):
    """Targets of one wave that one job works on; `name` is fit for a job's id everywhere."""

    name: str
    command: str
    targets: tuple[str, ...]


@click.group("ci")
def command() -> None:
    """Write what a CI system is to run."""


@command.command("matrix")
@click.option(
    "--since",
    metavar="REF",
    required=True,
    help="What changes since REF affect; see buildgraph affected.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="json",
    show_default=True,
    help="github: one line for fromJSON; gitlab: a child pipeline; json: readable.",
)
@click.option("--targets", metavar="PATTERN", multiple=True, help="Of these targets only.")
@click.option(
    "--max-jobs",
    type=click.IntRange(1, 10_000),
    default=JOBS,
    show_default=True,
    help="Jobs of one wave at most: several targets share one then.",
)
@store_option
@guarded
def matrix(
    since: str, form: str, targets: tuple[str, ...], max_jobs: int, store: str | None
) -> None:
    """Write the affected targets in waves: a wave needs the results of earlier waves only.

    Groups are left out (their members are there), and pushes: what is pushed, and when, is for the
    pipeline to say.
    """
    workspace, package = open_workspace(os.getcwd())
    found = [parse_label(one.label, "") for one in find_affected(workspace, since, store)]
    if targets:
        wanted = set(workspace.expand(targets, package))
        found = [label for label in found if label in wanted]
    waves = [jobs_of(wave, workspace, max_jobs) for wave in waves_of(found, workspace)]
    if form == "gitlab":
        click.echo(gitlab(waves))
    else:
        value = {"count": len(waves), "waves": [{"include": [_row(j) for j in w]} for w in waves]}
        click.echo(json.dumps(value, indent=None if form == "github" else 1))


def waves_of(labels: Sequence[Label], workspace: Workspace) -> list[list[Label]]:
    """Return targets in waves: each needs targets of earlier waves only, and as early as can be."""
    from buildgraph.engine.asking import TargetUniverse

    universe = TargetUniverse(workspace, "")
    by_name = {
        str(label): label
        for label in labels
        if workspace.target(label).rule not in ("group", "push")
    }
    waves = universe.graph(by_name).waves(by_name)
    return [[by_name[name] for name in wave] for wave in waves]


def jobs_of(labels: Sequence[Label], workspace: Workspace, most: int) -> list[Job]:
    """Return the jobs of one wave, at most `most` (one for each command at least)."""
    commands: dict[str, list[Label]] = {}
    for label in labels:
        verb = "test" if workspace.target(label).rule == "smoke" else "build"
        commands.setdefault(verb, []).append(label)
    room = max(most - len(commands) + 1, 1)
    out: list[Job] = []
    taken: set[str] = set()
    for verb, some in commands.items():
        share = max(room * len(some) // len(labels), 1)
        for part in _parts(some, share):
            texts = tuple(str(label) for label in part)
            name = job_name(texts, taken)
            taken.add(name.lower())
            out.append(Job(name, verb, texts))
    return out


def _parts(labels: Sequence[Label], count: int) -> Iterable[Sequence[Label]]:
    count = min(count, len(labels))
    for number in range(count):
        yield labels[len(labels) * number // count : len(labels) * (number + 1) // count]


def job_name(targets: Sequence[str], taken: Iterable[str] = ()) -> str:
    """Return an id for a job: letters, digits, `-` and `_`, begun by a letter, not yet taken."""
    first = targets[0].removeprefix("//").removesuffix(":image")
    name = re.sub(r"[^A-Za-z0-9_]+", "-", first).strip("-")
    if len(targets) > 1:
        name += f"-and-{len(targets) - 1}"
    if not name or not name[0].isalpha() or name.lower() in _RESERVED:
        name = f"target-{name}".rstrip("-")
    if name.lower() in taken or len(name) > _NAME_LENGTH:
        digest = hashlib.sha256("\0".join(targets).encode()).hexdigest()[:10]
        name = f"{name[: _NAME_LENGTH - 11]}-{digest}"
    return name


def _row(job: Job) -> dict[str, Any]:
    return {"name": job.name, "command": job.command, "targets": " ".join(job.targets)}


def gitlab(waves: Sequence[Sequence[Job]]) -> str:
    """Return a child pipeline: a stage for each wave, a job for each job.

    Values are written as JSON, which is YAML. With nothing to do there is one job that does
    nothing, since a pipeline must have one.
    """
    lines = [f"stages: {json.dumps([f'wave-{n}' for n in range(max(len(waves), 1))])}"]
    taken: set[str] = set()
    for number, wave in enumerate(waves):
        for job in wave:
            name = job.name
            if name.lower() in taken:
                name = job_name((*job.targets, str(number)), taken)
            taken.add(name.lower())
            lines += [
                "",
                f"{json.dumps(name)}:",
                f"  stage: {json.dumps(f'wave-{number}')}",
                f"  script: {json.dumps([' '.join(['buildgraph', job.command, *job.targets])])}",
            ]
    if not waves:
        lines += ["", '"nothing-is-affected":', '  stage: "wave-0"', '  script: ["true"]']
    return "\n".join(lines)
