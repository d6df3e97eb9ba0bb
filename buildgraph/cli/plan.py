"""Knows how to print what a build would do; must not know how it would be done.

A plan goes as far as the results are known: what stands on a step that would run cannot be keyed
before that step has run, so it is shown as depending on it.
"""

from __future__ import annotations

import json
import os
from typing import Any

import click

from buildgraph.cli.asked import settings_of
from buildgraph.cli.choose import choose
from buildgraph.cli.entry import guarded
from buildgraph.cli.escape import safe
from buildgraph.cli.flags import INPUT, BuildFlags, flags
from buildgraph.cli.options import store_option
from buildgraph.cli.session import Session, Settings
from buildgraph.engine.planning import Step, Verdict, plan


@click.command("plan")
@flags(INPUT)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@store_option
@guarded
def command(as_json: bool, **given: Any) -> int:
    """Say what would be built, and why, without building."""
    asked = BuildFlags(**given)
    settings = settings_of(asked, os.environ)
    return show_plan(asked.targets, asked.file, settings, as_json=as_json)


def show_plan(
    targets: tuple[str, ...], file: str | None, settings: Settings, *, as_json: bool
) -> int:
    """Print the plan of some targets."""
    with Session(settings, os.environ, os.getcwd()) as session:
        workspace, chosen = choose(session, targets, file)
        prepared = session.prepare(workspace, chosen, lambda event: None)
        with session.open_graph(prepared) as graph:
            steps = plan(
                prepared,
                session.store,
                session.layers,
                graph.identifier,
                no_cache=settings.no_cache,
            )
    for step in steps:
        click.echo(_json(step) if as_json else _line(step))
    if not as_json:
        click.echo(_totals(steps))
    return 0


def _line(step: Step) -> str:
    expected = f"  ~{step.expected:.1f}s" if step.expected and step.verdict is Verdict.MISS else ""
    head = f"{step.verdict.value:<8} {step.node.label}  {safe(step.node.title)}{expected}"
    return head + "".join(f"\n           {safe(str(reason))}" for reason in step.reasons[:5])


def _json(step: Step) -> str:
    return json.dumps(
        {
            "verdict": step.verdict.value,
            "label": step.node.label,
            "title": step.node.title,
            "slot": step.node.slot,
            "expected_seconds": step.expected,
            "reasons": [{"what": r.what, "old": r.old, "new": r.new} for r in step.reasons],
            "file": step.node.where.path,
            "line": step.node.where.line,
        }
    )


def _totals(steps: list[Step]) -> str:
    counts = {v: sum(1 for s in steps if s.verdict is v) for v in Verdict}
    seconds = sum(s.expected or 0.0 for s in steps if s.verdict is not Verdict.HIT)
    text = ", ".join(f"{count} {v.value}" for v, count in counts.items() if count) or "nothing"
    known = f", about {seconds:.1f}s of work" if seconds else ""
    return f"{text}{known}"
