"""Knows how what a workspace takes from outside is pinned in its lock file; must not know how
packages or images are found.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from buildgraph.boxfile.target import Target
from buildgraph.cli.entry import guarded
from buildgraph.cli.options import store_option
from buildgraph.cli.session import Session, Settings
from buildgraph.errors import InputError
from buildgraph.label import Label
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.types import Platform
from buildgraph_cache.digest import Digest

if TYPE_CHECKING:
    from buildgraph_rules.debian.lock import Pins


@click.command("lock")
@click.argument("targets", nargs=-1)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 where pins are out of date.")
@click.option(
    "--update",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Bring only these up to date: image names or labels, with * and ?.",
)
@store_option
@guarded
def command(
    targets: tuple[str, ...], check: bool, patterns: tuple[str, ...], store: str | None
) -> int:
    """Pin what targets take from outside in Boxfile.lock: images and Debian packages.

    An image is pinned to its digest, a package to its version and hash; Dockerfiles stay as they
    are. Without TARGETS the whole workspace. Asks registries and archives. A build then takes what
    is pinned and nothing else, until the lock is made anew.
    """
    from buildgraph_rules.locking import lock, read_workspace_pins

    whole = not targets
    with Session(Settings(store=store, pull=True), os.environ, os.getcwd()) as session:
        workspace = session.workspace
        labels = workspace.expand(targets or ["//..."], session.package)
        closure = workspace.closure(labels)
        chosen = [t for t in closure if t.rule == "debian" and _matches(str(t.label), patterns)]
        old = read_workspace_pins(workspace.root)
        images = _images(session, labels, patterns, old, chosen, whole=whole)
        if not chosen and not images and not old.images:
            raise InputError(
                "there is nothing to pin: no image from a registry and no packages"
                if not patterns
                else f"nothing from outside is called {' or '.join(patterns)}"
            )
        found = [
            session.rules.resolve(target, platform)
            for target in chosen
            for platform in _platforms(target, session.host)
        ]
        result = lock(workspace.root, old, found, images, write=not check)
        session.store.sync()
    for line in result.lines:
        click.echo(line)
    if not result.changed:
        click.echo(f"{result.path}: nothing has changed")
    elif check:
        click.echo(f"{result.path} is out of date", err=True)
    return 1 if check and result.changed else 0


def _images(
    session: Session,
    labels: Sequence[Label],
    patterns: Sequence[str],
    old: Pins,
    chosen: Sequence[Target],
    *,
    whole: bool,
) -> dict[str, Digest]:
    """Return all image pins the lock is to have, asking registries for those that are meant.

    What is to be brought up to date counts as not pinned meanwhile.
    """
    from buildgraph_rules.debian.lock import Pins

    renewed = {str(target.label) for target in chosen}
    packages = {k: v for k, v in (old.packages or {}).items() if k[0] not in renewed}
    images = {n: d for n, d in old.images.items() if patterns and not _matches(n, patterns)}
    pins = Pins(packages, images)
    session.prepare(session.workspace, labels, lambda event: None, pins=pins)
    found = session.images.resolved()
    # Names that nothing uses any more go, where the whole workspace was looked at.
    return found if whole else {**old.images, **found}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a name is meant; a pattern may leave the registry out."""
    return not patterns or any(
        fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*/{pattern}")
        for pattern in patterns
    )


def _platforms(target: Target, host: Platform) -> tuple[Platform, ...]:
    """Return the platforms to pin: those the target names, else this machine's."""
    return tuple(parse_platform(text) for text in target.texts("platforms")) or (host,)
