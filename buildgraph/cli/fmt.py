"""Knows which Boxfiles `fmt` lays out and how they are written; must not know what good layout
is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import click

from buildgraph import limits
from buildgraph.boxfile import yaml
from buildgraph.boxfile.loader import BOXFILE, in_package
from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.errors import InputError, raise_all
from buildgraph.oci.publish import new_file


@click.command("fmt")
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--check", is_flag=True, help="Change nothing; exit 1 where something would be.")
@guarded
def command(paths: tuple[str, ...], check: bool) -> int:
    """Lay Boxfiles out anew: all of the workspace, or those in PATHS. What they say stays."""
    from buildgraph.boxfile.format import format_boxfile

    workspace, _ = open_workspace(os.getcwd())
    changed = 0
    problems: list[InputError] = []
    for name in dict.fromkeys(_files(workspace, paths)):
        shown = os.path.relpath(os.path.join(workspace.root, name))
        try:
            data = workspace.read(name, limits.BOXFILE_BYTES)
            text = yaml.decode(data, name)
            out = format_boxfile(text, name)
        except InputError as error:
            problems.append(error)
            continue
        if out.encode() == data:
            continue
        changed += 1
        if check:
            click.echo(f"{shown} is not laid out; run: buildgraph fmt {shown}")
        else:
            _write(os.path.join(workspace.root, name), out)
            click.echo(shown)
    raise_all(problems)
    return int(check and changed > 0)


def _files(workspace: Workspace, paths: tuple[str, ...]) -> Iterator[str]:
    """Yield Boxfiles from the workspace's root; a directory means all below it."""
    for path in paths or (workspace.root,):
        if os.path.isdir(path):
            for package in workspace.discover(workspace.package_of(os.path.abspath(path))):
                name = in_package(package, BOXFILE)
                if os.path.isfile(os.path.join(workspace.root, name)):
                    yield name
            continue
        directory, _, name = os.path.abspath(path).rpartition("/")
        yield in_package(workspace.package_of(directory), name)


def _write(path: str, text: str) -> None:
    """Replace a file at once, its mode kept. Raises HostError."""
    place = Path(path).resolve()
    with new_file(place) as file:
        os.fchmod(file.fileno(), stat.S_IMODE(place.stat().st_mode))
        file.write(text.encode())
