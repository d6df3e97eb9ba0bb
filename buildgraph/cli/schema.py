"""Knows how to print the JSON Schema of Boxfiles; must not know what is in it."""

from __future__ import annotations

import json
import os

import click

from buildgraph.cli.entry import guarded, open_workspace


@click.command("schema")
@guarded
def command() -> None:
    """Print a JSON Schema of Boxfile.yaml, for editors, with the rules of this workspace.

    An editor with the YAML language server takes it from the first line of a Boxfile:
    # yaml-language-server: $schema=FILE
    """
    from buildgraph.boxfile.json_schema import boxfile_schema

    workspace, _ = open_workspace(os.getcwd())
    found = boxfile_schema(workspace.rules)
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))
