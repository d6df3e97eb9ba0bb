"""Knows how to print what the store holds and to have it shrunk, checked or carried elsewhere; must
not know how it keeps anything.
"""

from __future__ import annotations

import json
import os
import time

import click

from buildgraph.cli.entry import guarded, own_store
from buildgraph.cli.mounts import (
    mount_as_json,
    mount_id,
    mount_lines,
    parse_filters,
    reading,
    written_whole,
)
from buildgraph.cli.options import store_option
from buildgraph.cli.words import plural
from buildgraph.cli.words import size as shown_size
from buildgraph.dockerfile.durations import parse_duration
from buildgraph.dockerfile.mounts import parse_size
from buildgraph.engine.mount_archive import export_mounts, import_mounts
from buildgraph.errors import InputError, Location
from buildgraph.oci.derive import snapshot_digest
from buildgraph.oci.layers import LayerStore
from buildgraph_cache.mount_care import Pruned
from buildgraph_cache.store import Store

# What the parts of a store are, in a user's words.
_NAMES = {
    "blobs": "compressed layers, packages",
    "snapshots": "unpacked layers",
    "mounts": "cache mounts",
    "tmp": "steps under way",
    "partial": "unfinished downloads",
    "index": "records",
    "frame": "directories",
}


@click.group("cache")
def command() -> None:
    """Look at, shrink or check the store."""


def _open(path: str | None, *, reclaiming: bool = False) -> Store:
    return Store.open(own_store(path), reclaiming=reclaiming)


@command.command("du")
@click.option("--json", "as_json", is_flag=True)
@store_option
@guarded
def du(as_json: bool, store: str | None) -> None:
    """Say how much room the store takes, and what for; list the cache mounts."""
    with _open(store) as opened:
        report = opened.du()
        mounts = opened.cache_mounts()
    if as_json:
        parts = [{"kind": p.kind, "count": p.count, "bytes": p.size} for p in report.parts]
        found = [mount_as_json(mount) for mount in mounts]
        click.echo(json.dumps({"total": report.total, "parts": parts, "mounts": found}))
        return
    for part in report.parts:
        if part.count and part.size:
            name = _NAMES.get(part.kind, part.kind)
            click.echo(f"{name:<28} {part.count:>8} {shown_size(part.size):>10}")
    click.echo(f"{'in all':<28} {'':>8} {shown_size(report.total):>10}")
    for line in mount_lines(mounts, time.time()):
        click.echo(line)


@command.command("gc")
@click.option(
    "--max-size",
    "--max-used-space",
    "max_size",
    metavar="SIZE",
    help="Shrink to this, as 20g; oldest use goes first.",
)
@click.option("--max-age", metavar="TIME", help="Drop what was not used for this long, as 168h.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only cache mounts: type=exec.cachemount, id=ID, target=//LABEL; until=TIME is --max-age.",
)
@store_option
@guarded
def gc(
    max_size: str | None, max_age: str | None, filters: tuple[str, ...], store: str | None
) -> None:
    """Shrink the store; safe beside running builds.

    With a filter for cache mounts, only those count and go: all of them, or, with a size or an
    age, what is over it.
    """
    where = Location("command line")
    chosen = parse_filters(filters)
    age = max_age or chosen.until
    most = None if max_size is None else parse_size(max_size, where)
    oldest = None if age is None else parse_duration(age, where) / 1e9
    with _open(store, reclaiming=True) as opened:
        if chosen.mounts:
            pruned = opened.prune_cache_mounts(chosen.takes, most, oldest)
            _say_pruned(pruned)
            return
        report = opened.gc(max_bytes=most, max_age=oldest)
    freed = report.before - report.after
    click.echo(
        f"freed {shown_size(max(0, freed))}: {plural(report.objects, 'object')}, "
        f"{plural(report.records, 'record')}; {shown_size(report.after)} are left"
    )
    if report.over_limit:
        why = (
            f"{shown_size(report.pinned_size)} are in use by running builds"
            if report.pinned
            else "what is left cannot be removed"
        )
        click.echo(f"still over the limit: {why}")
    for path in report.stuck:
        click.echo(f"could not delete {path}", err=True)


def _say_pruned(pruned: Pruned) -> None:
    freed = sum(mount.size for mount in pruned.removed)
    click.echo(f"freed {shown_size(freed)}: {plural(len(pruned.removed), 'cache mount')}")
    for mount in pruned.busy:
        click.echo(f"{mount_id(mount)} is in use by a running build")
    for path in pruned.stuck:
        click.echo(f"could not delete {path}", err=True)


@command.command("export-mounts")
@click.argument("file")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only mounts of this id.")
@store_option
@guarded
def export(file: str, ids: tuple[str, ...], store: str | None) -> None:
    """Write cache mounts to FILE (- is stdout), so that another machine starts warm."""
    target = os.path.abspath(file)
    with _open(store) as opened:
        mounts = [m for m in opened.cache_mounts() if not ids or m.about.get("id") in ids]
        known = {m.about.get("id") for m in mounts}
        if missing := [identity for identity in ids if identity not in known]:
            raise InputError(
                f"there is no cache mount {missing[0]!r}", hint="`buildgraph cache du` lists them"
            )
        with written_whole(None if file == "-" else target) as out:
            export_mounts(opened, mounts, out.write)
    click.echo(f"exported {plural(len(mounts), 'cache mount')}", err=file == "-")


@command.command("import-mounts")
@click.argument("file")
@store_option
@guarded
def import_(file: str, store: str | None) -> int:
    """Take in the cache mounts of FILE (- is stdin); those of the same identity are replaced."""
    with reading(None if file == "-" else file) as source, _open(store) as opened:
        done = import_mounts(opened, source)
    click.echo(f"imported {plural(len(done.names), 'cache mount')}")
    for _ in done.busy:
        click.echo("a cache mount is in use by a running build and was left as it is", err=True)
    return 3 if done.busy else 0


@command.command("verify")
@click.option("--deep", is_flag=True, help="Hash every byte anew; take directories apart.")
@store_option
@guarded
def verify(deep: bool, store: str | None) -> int:
    """Check every record and every object; damage is set aside and will be rebuilt."""
    with _open(store) as opened:
        layers = LayerStore(opened)
        damages = opened.verify(deep=deep, snapshot_digest=snapshot_digest(layers))
    for damage in damages:
        click.echo(str(damage))
    click.echo(f"{len(damages)} damaged" if damages else "everything is in order")
    return 4 if damages else 0
