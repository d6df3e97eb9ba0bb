"""Knows how targets' packages are pinned in the workspace's lock file; must not know how packages
are found.
"""

from __future__ import annotations

import os

import click

from buildgraph.boxfile.target import Target
from buildgraph.cli.entry import guarded
from buildgraph.cli.options import store_option
from buildgraph.cli.session import Session, Settings
from buildgraph.errors import InputError
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.types import Platform


@click.command("lock")
@click.argument("targets", nargs=-1)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 where pins are out of date.")
@store_option
@guarded
def command(targets: tuple[str, ...], check: bool, store: str | None) -> int:
    """Pin the Debian packages of targets in Boxfile.lock: versions, hashes and archives.

    Without TARGETS every `debian` target of the workspace. Asks the archives. A build then takes
    the pinned packages and no others, until the lock is made anew.
    """
    from buildgraph_rules.locking import lock

    with Session(Settings(store=store, pull=True), os.environ, os.getcwd()) as session:
        workspace = session.workspace
        labels = workspace.expand(targets or ["//..."], session.package)
        chosen = [t for t in workspace.closure(labels) if t.rule == "debian"]
        if not chosen:
            raise InputError("none of these targets is made from packages")
        result = lock(
            workspace.root,
            chosen,
            lambda target: _platforms(target, session.host),
            session.store,
            write=not check,
            progress=lambda text, done, total: None,
        )
        session.store.sync()
    for line in result.lines:
        click.echo(line)
    if not result.changed:
        click.echo(f"{result.path}: nothing has changed")
    elif check:
        click.echo(f"{result.path} is out of date", err=True)
    return 1 if check and result.changed else 0


def _platforms(target: Target, host: Platform) -> tuple[Platform, ...]:
    """Return the platforms to pin: those the target names, else this machine's."""
    return tuple(parse_platform(text) for text in target.texts("platforms")) or (host,)
