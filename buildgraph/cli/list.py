"""Knows how to print the targets of a workspace; must not know how they are built."""

from __future__ import annotations

import os

import click

from buildgraph.cli.entry import guarded, open_workspace


@click.command("list")
@click.argument("targets", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@guarded
def command(targets: tuple[str, ...], as_json: bool) -> None:
    """List targets: all of the workspace, or those that patterns name."""
    workspace, package = open_workspace(os.getcwd())
    for label in workspace.expand(targets or ["//..."], package):
        target = workspace.target(label)
        if as_json:
            import json

            row = {"label": str(label), "rule": target.rule, "doc": target.doc}
            click.echo(json.dumps(row))
        else:
            click.echo(
                f"{label.short:<48} {target.rule}" + (f"  {target.doc}" if target.doc else "")
            )
