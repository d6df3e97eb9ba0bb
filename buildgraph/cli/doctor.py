"""Knows how to print what this machine offers; must not know how that is found out."""

from __future__ import annotations

import os

import click

from buildgraph.cli.entry import guarded
from buildgraph.cli.options import store_option
from buildgraph.cli.places import default_store


@click.command("doctor")
@store_option
@guarded
def command(store: str | None) -> None:
    """Say what this machine offers and lacks, in words."""
    from buildgraph.sandbox.probe import probe

    place = store or default_store(os.environ, os.geteuid())
    findings = probe(place)
    for finding in findings:
        mark = "ok  " if finding.ok else "LACKS"
        click.echo(f"{mark:<6} {finding.name}: {finding.detail}")
        if finding.hint and not finding.ok:
            click.echo(f"       hint: {finding.hint}")
    click.echo(f"store  {place}")
