"""Knows how the question "what do these changes affect?" is asked and its answer printed; must not
know how it is found.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import click

from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.cli.escape import safe
from buildgraph.cli.options import store_option
from buildgraph.cli.outside import known_images
from buildgraph.engine.affected import (
    Affected,
    Cause,
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

_SHOWN = 5


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
    workspace, package = open_workspace(os.getcwd())
    found = find_affected(workspace, since, store)
    wanted = {str(label) for label in workspace.expand(targets, package)} if targets else None
    chosen = [one for one in found if wanted is None or one.label in wanted]
    by_label = {one.label: one for one in found}
    for one in chosen:
        if as_json:
            click.echo(json.dumps(_row(one, by_label, workspace)))
        else:
            click.echo(safe(one.label))
            if why:
                for line in _reasons(one, by_label):
                    click.echo(f"    {line}")


def find_affected(workspace: Workspace, since: str, store: str | None) -> list[Affected]:
    """Return what the changes since a revision affect, each after what it needs."""
    from buildgraph_rules.registry import rule_specs

    def open_at(root: str) -> Workspace:
        return Workspace.open(root, rules=rule_specs())

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
        redefined = Redefined(workspace, earlier, images, _pins, open_at, scratch)
        redefined.add(causes, changes, outline, reach)
    add_content(causes, workspace.root, changes, reach)
    return downstream(causes, Dag(reading.needs))


def _pins(text: str) -> Pins:
    from buildgraph_rules.debian.lock import FILE_NAME, read_images, read_lock

    targets: dict[str, list[object]] = {}
    for (label, _), resolution in sorted(read_lock(text, FILE_NAME).items()):
        targets.setdefault(label, []).append(resolution)
    return Pins(targets, dict(read_images(text, FILE_NAME)))


def _chain(one: Affected, by_label: Mapping[str, Affected]) -> list[Affected]:
    """Return the targets from one to that whose own files changed."""
    out = [one]
    while out[-1].via is not None:
        out.append(by_label[out[-1].via])
    return out


def _reasons(one: Affected, by_label: Mapping[str, Affected]) -> list[str]:
    chain = _chain(one, by_label)
    way = ", which ".join(f"needs {other.label}" for other in chain[1:])
    causes = [_cause(cause) for cause in chain[-1].causes[:_SHOWN]]
    more = len(chain[-1].causes) - _SHOWN
    if more > 0:
        causes.append(f"and {more} more")
    return [way, *(f"    {text}" for text in causes)] if way else causes


def _cause(cause: Cause) -> str:
    where = cause.where
    place = f" ({safe(str(where))})" if where is not None and where.path != cause.path else ""
    line = f":{where.line}" if where is not None and not place and where.line else ""
    return f"{safe(cause.path)}{line}: {safe(cause.text)}{place}"


def _row(one: Affected, by_label: Mapping[str, Affected], workspace: Workspace) -> dict[str, Any]:
    chain = _chain(one, by_label)
    return {
        "label": one.label,
        "rule": workspace.target(parse_label(one.label, "")).rule,
        "via": [other.label for other in chain[1:]],
        "causes": [
            {
                "path": cause.path,
                "what": cause.text,
                "file": cause.where.path if cause.where else None,
                "line": cause.where.line or None if cause.where else None,
            }
            for cause in chain[-1].causes
        ],
    }
