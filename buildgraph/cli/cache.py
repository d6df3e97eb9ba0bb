"""Knows how to print what the store holds and to have it shrunk or checked; must not know how it
keeps anything.
"""

from __future__ import annotations

import json
import os

import click

from buildgraph.cli.entry import guarded
from buildgraph.cli.options import store_option
from buildgraph.cli.places import default_store
from buildgraph.cli.words import plural
from buildgraph.cli.words import size as shown_size
from buildgraph.dockerfile.durations import parse_duration
from buildgraph.dockerfile.mounts import parse_size
from buildgraph.errors import Location
from buildgraph.oci.derive import snapshot_digest
from buildgraph.oci.layers import LayerStore
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
    if os.geteuid() != 0:
        from buildgraph.sandbox.userns import enter

        place = path or default_store(os.environ, os.geteuid())
        enter()
    else:
        place = path or default_store(os.environ, 0)
    return Store.open(place, reclaiming=reclaiming)


@command.command("du")
@click.option("--json", "as_json", is_flag=True)
@store_option
@guarded
def du(as_json: bool, store: str | None) -> None:
    """Say how much room the store takes, and what for."""
    with _open(store) as opened:
        report = opened.du()
    if as_json:
        parts = [{"kind": p.kind, "count": p.count, "bytes": p.size} for p in report.parts]
        click.echo(json.dumps({"total": report.total, "parts": parts}))
        return
    for part in report.parts:
        if part.count and part.size:
            name = _NAMES.get(part.kind, part.kind)
            click.echo(f"{name:<28} {part.count:>8} {shown_size(part.size):>10}")
    click.echo(f"{'in all':<28} {'':>8} {shown_size(report.total):>10}")


@command.command("gc")
@click.option("--max-size", metavar="SIZE", help="Shrink to this, as 20g; oldest use goes first.")
@click.option("--max-age", metavar="TIME", help="Drop what was not used for this long, as 168h.")
@store_option
@guarded
def gc(max_size: str | None, max_age: str | None, store: str | None) -> None:
    """Shrink the store; safe beside running builds."""
    where = Location("command line")
    with _open(store, reclaiming=True) as opened:
        report = opened.gc(
            max_bytes=None if max_size is None else parse_size(max_size, where),
            max_age=None if max_age is None else parse_duration(max_age, where) / 1e9,
        )
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
