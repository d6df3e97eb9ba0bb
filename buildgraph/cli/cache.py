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
from buildgraph.cli.words import size as shown_size
from buildgraph.dockerfile.durations import parse_duration
from buildgraph.dockerfile.mounts import parse_size
from buildgraph.errors import Location
from buildgraph.oci.layers import LayerStore
from buildgraph_cache.store import Store


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
    rows = report.rows()
    if as_json:
        click.echo(json.dumps([{"kind": k, "count": c, "bytes": b} for k, c, b in rows]))
        return
    for kind, count, used in rows:
        click.echo(f"{kind:<20} {count:>8} {shown_size(used):>10}")


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
    click.echo(report.text())


@command.command("verify")
@click.option("--deep", is_flag=True, help="Hash every byte anew; take directories apart.")
@store_option
@guarded
def verify(deep: bool, store: str | None) -> int:
    """Check every record and every object; damage is set aside and will be rebuilt."""
    with _open(store) as opened:
        layers = LayerStore(opened)
        damages = opened.verify(deep=deep, snapshot_digest=layers.digest_directory)
    for damage in damages:
        click.echo(str(damage))
    click.echo(f"{len(damages)} damaged" if damages else "everything is in order")
    return 4 if damages else 0
