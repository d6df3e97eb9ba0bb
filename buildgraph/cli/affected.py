"""Knows how the question "what do these changes affect?" is asked and its answer printed; must not
know how it is found.
"""

from __future__ import annotations

import os
import tempfile
import time

import click

from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.answers import affected_text
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.cli.known import keep
from buildgraph.cli.opening import workspace_at
from buildgraph.cli.options import store_option
from buildgraph.cli.outside import known_images
from buildgraph.engine.affected import (
    Affected,
    Causes,
    add_content,
    downstream,
    reach_of,
)
from buildgraph.engine.earlier import Earlier
from buildgraph.engine.outline import Outline
from buildgraph.engine.redefined import Pins, Redefined
from buildgraph.graph.dag import Dag
from buildgraph.label import parse_label


@click.command("affected")
@click.option(
    "--since",
    metavar="REF",
    required=True,
    help="Compare with the commit where REF and HEAD part (origin/main, HEAD~1, a tag).",
)
@click.option("--why", is_flag=True, help="Say which file reaches a target, and by which way.")
@click.option(
    "--targets",
    metavar="PATTERN",
    multiple=True,
    help="List these targets only; may be given more than once.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with reasons.")
@store_option
@guarded
def command(
    since: str, why: bool, targets: tuple[str, ...], as_json: bool, store: str | None
) -> None:
    """List the targets that changes since a commit can change.

    Changes are what was committed since, and what is staged, edited or new in the working tree.
    Followed are files that steps copy or mount, Dockerfiles, ignore files, Boxfiles, rules, pins
    in the lock file, and what needs an affected target. What is needed comes first.
    """
    began = time.time_ns()
    workspace, package = open_workspace(os.getcwd())
    found = find_affected(workspace, since, store, (package, began))
    wanted = [str(label) for label in workspace.expand(targets, package)] if targets else None

    def rule_of(name: str) -> str:
        return workspace.target(parse_label(name, "")).kind

    click.echo(affected_text(found, wanted, rule_of, why=why, as_json=as_json), nl=False)


def find_affected(
    workspace: Workspace, since: str, store: str | None, keeping: tuple[str, int] | None = None
) -> list[Affected]:
    """Return what the changes since a revision affect, each after what it needs.

    With `keeping` (the package we are in, the clock before anything was read) what was read is
    kept for the next question.
    """
    earlier = Earlier(workspace.root, since)
    changes = earlier.changes()
    causes = Causes()
    with (
        known_images(workspace, store) as images,
        tempfile.TemporaryDirectory(prefix="buildgraph-") as scratch,
    ):
        outline = Outline(workspace, images)
        outline.add(workspace.expand(["//..."]))
        reading = outline.reading()
        reach = reach_of(workspace.root, reading)
        redefined = Redefined(workspace, earlier, images, _pins, workspace_at, scratch)
        redefined.add(causes, changes, outline, reading, reach)
    if keeping is not None and outline.lasts:
        keep(workspace, *keeping, store, reading, outline.observed)
    add_content(causes, workspace.root, changes, reach)
    return downstream(causes, Dag(reading.needs))


def _pins(text: str) -> Pins:
    from buildgraph_rules.debian.lock import FILE_NAME, read_images, read_lock

    targets: dict[str, list[object]] = {}
    for (label, _), resolution in sorted(read_lock(text, FILE_NAME).items()):
        targets.setdefault(label, []).append(resolution)
    return Pins(targets, dict(read_images(text, FILE_NAME)))
