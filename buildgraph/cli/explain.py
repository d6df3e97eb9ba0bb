"""Knows how to print why layers were or would be rebuilt; must not know how keys are made."""

from __future__ import annotations

import os
from typing import Any

import click

from buildgraph.cli.asked import settings_of
from buildgraph.cli.choose import choose
from buildgraph.cli.entry import guarded
from buildgraph.cli.escape import safe
from buildgraph.cli.flags import INPUT, BuildFlags, flags
from buildgraph.cli.options import store_option
from buildgraph.cli.session import Session
from buildgraph.engine.planning import Verdict, plan


@click.command("explain")
@flags(INPUT)
@store_option
@guarded
def command(**given: Any) -> int:
    """Say why a target's layers would be rebuilt now or, where all are known, why they last were.

    Names the file, argument, variable, instruction or base that changed, with old and new value.
    """
    asked = BuildFlags(**given)
    with Session(settings_of(asked, os.environ), os.environ, os.getcwd()) as session:
        workspace, chosen = choose(session, asked.targets, asked.file)
        prepared = session.prepare(workspace, chosen, lambda event: None)
        with session.open_graph(prepared) as graph:
            steps = plan(prepared, session.store, session.layers, graph.identifier)
    pending = [step for step in steps if step.verdict is not Verdict.HIT]
    if not pending:
        click.echo("nothing would be rebuilt; the layers there are were made because:")
    for step in pending or steps:
        where = step.node.where
        click.echo(f"{step.node.label}  {safe(step.node.title)}   ({where})")
        reasons = step.reasons if pending else step.last_reasons
        if step.verdict is Verdict.UNKNOWN:
            click.echo("    depends on a step above; known once that has run")
        for reason in reasons:
            click.echo(f"    {safe(str(reason))}")
        if not pending and not reasons:
            click.echo("    made as a step of another target")
    return 0
