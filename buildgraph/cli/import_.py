"""Knows the course of `buildgraph import`; must not know the other tools' files.

A Boxfile that is there is never overwritten.
"""

from __future__ import annotations

import os
from typing import Final

import click

from buildgraph import limits
from buildgraph.boxfile import yaml
from buildgraph.boxfile.draft import Draft, write_boxfile
from buildgraph.boxfile.files import begins_workspace, find_root
from buildgraph.boxfile.imported import draft_of
from buildgraph.boxfile.loader import BOXFILE
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.cli.escape import no_commands, safe
from buildgraph.cli.words import plural
from buildgraph.errors import HostError, InputError

_KINDS: Final = ("compose", "bake")


@click.command("import")
@click.argument("file")
@click.option("--out", metavar="DIR", help="Where the Boxfile goes [default: beside FILE].")
@click.option("-n", "--dry-run", is_flag=True, help="Print the Boxfile, write nothing.")
@click.option("--kind", type=click.Choice(_KINDS), help="Where the name of FILE does not tell.")
@guarded
def command(file: str, out: str | None, dry_run: bool, kind: str | None) -> int:
    """Write a Boxfile for what a compose file or a bake file (HCL, JSON) builds.

    What a Boxfile cannot say stands in its comments and is printed. FILE stays as it is.
    """
    text = _read(file)
    here = os.path.dirname(os.path.abspath(file))
    target = os.path.abspath(out) if out else here
    name = workspace_name(target)
    draft = _draft(file, text, here, target, kind, own=name is not None)
    draft.workspace = name
    written = write_boxfile(draft)
    if dry_run:
        click.echo(written, nl=False)
    else:
        place = write_new(target, written)
        click.echo(f"wrote {safe(os.path.relpath(place))}: {_summary(draft)}")
    for note in notes_of(draft):
        click.echo(no_commands(safe(note)), err=True)
    if not dry_run:
        tell_problems(target)
    return 0


def _draft(file: str, text: str, here: str, target: str, kind: str | None, *, own: bool) -> Draft:
    if kind is None:
        name = os.path.basename(file).lower()
        kind = "bake" if name.endswith((".hcl", ".json")) else "compose"
        if not name.endswith((".hcl", ".json", ".yml", ".yaml")):
            raise InputError(f"{file}: is this compose or bake?", hint="--kind compose|bake")
    origin = f"From {os.path.relpath(file, target)} by buildgraph import."
    if kind == "bake":
        from buildgraph.boxfile.bake import read_bake

        found = read_bake(text, file, keep=own)
        return draft_of(
            found.builds,
            found.groups,
            here=here,
            out=target,
            notes=[origin, *found.notes],
            variables=found.variables,
        )
    from buildgraph.boxfile.compose_import import read_builds

    dotenv = os.path.join(here, ".env")
    said = read_builds(text, file, _read(dotenv) if os.path.isfile(dotenv) else "", keep=own)
    notes = [origin, *said.notes]
    notes += [f"the service {name} builds nothing: {image}" for name, image in said.images.items()]
    return draft_of(
        said.builds,
        {},
        here=here,
        out=target,
        notes=notes,
        variables=said.variables,
        empty_is_none=True,
    )


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(limits.BOXFILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return yaml.decode(data, path)


def workspace_name(directory: str, *, inside: bool = False) -> str | None:
    """Return the name of the workspace that must begin in a directory, None where it is in one.

    With `inside` it begins there although a repository begins above.
    """
    root = find_root(directory)
    if root is not None and root != os.path.realpath(directory) and not inside:
        return None
    if begins_workspace(directory):
        return None
    name = os.path.basename(os.path.realpath(directory))
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in name)
    return kept.lstrip("_.-") or "root"


def write_new(directory: str, text: str) -> str:
    """Write a Boxfile where none is; returns its path. Raises InputError where one is."""
    place = os.path.join(directory, BOXFILE)
    try:
        os.makedirs(directory, exist_ok=True)
        with open(place, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            f"{place} is there already", hint="--out DIR for another place, --dry-run to print it"
        ) from None
    except OSError as error:
        raise HostError(f"cannot write {place}: {error.strerror}") from error
    return place


def notes_of(draft: Draft) -> list[str]:
    """Return what a user should know of a draft, a line each."""
    out = [f"note: {note}" for note in draft.notes[1:]]
    for target in draft.targets:
        out += [f"warning: {target.name}: {note}" for note in target.notes]
    return out


def tell_problems(directory: str, pattern: str = ":all") -> None:
    """Print what is wrong with Boxfiles that were just written; they stay."""
    from buildgraph.cli.console import render_error

    try:
        workspace, package = open_workspace(directory)
        workspace.closure(workspace.expand([pattern], package))
    except InputError as error:
        click.echo(render_error(error, color=False), err=True, nl=False)


def _summary(draft: Draft) -> str:
    kept = [target for target in draft.targets if not target.disabled]
    return plural(len(kept), "target")
