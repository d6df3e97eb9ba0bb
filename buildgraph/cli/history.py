"""Knows how past builds of a target, and the instructions of its image, are printed; must not know
how they are kept.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from typing import Any

import click

from buildgraph.cli.entry import guarded
from buildgraph.cli.escape import clip, no_commands, safe
from buildgraph.cli.image_sources import find_image
from buildgraph.cli.options import store_option
from buildgraph.cli.session import Session, Settings
from buildgraph.cli.words import seconds, size
from buildgraph.engine.history import PastBuild, load_builds
from buildgraph.errors import InputError
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.types import Image

_COLUMNS = 60  # of an instruction or a reason, unless --no-trunc


@click.command("history")
@click.argument("target", default=".")
@click.option("--image", "of_image", is_flag=True, help="The instructions that made its image.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--no-trunc", is_flag=True, help="Cut nothing off.")
@click.option("--platform", metavar="OS/ARCH", help="Of an image of several platforms.")
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@store_option
@guarded
def command(
    target: str,
    of_image: bool,
    as_json: bool,
    no_trunc: bool,
    platform: str | None,
    offline: bool,
    store: str | None,
) -> int:
    """Say when a target was built, what of it was known, and why the first step was not.

    Builds that made nothing new are not listed. With --image TARGET may be whatever `diff` takes.
    """
    with Session(Settings(store, offline=offline), os.environ, os.getcwd()) as session:
        if of_image:
            chosen = parse_platform(platform) if platform else session.host
            rows = list(_instructions(find_image(session, target, chosen).image))
        else:
            (label, *more) = session.workspace.expand([target], session.package)
            if more:
                raise InputError(f"{target} means {len(more) + 1} targets; history is of one")
            builds = load_builds(session.store, str(label))
            if not builds:
                raise InputError(
                    f"no build of {label.short} is written down",
                    hint=f"buildgraph build {label.short}",
                )
            rows = [_build(each) for each in builds]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return 0
    for line in _image_table(rows, no_trunc) if of_image else _build_table(rows, no_trunc):
        click.echo(no_commands(line))
    return 0


def _build(each: PastBuild) -> dict[str, Any]:
    when = datetime.datetime.fromtimestamp(each.when, datetime.UTC)
    return {
        "when": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "digest": each.digest,
        "built": each.built,
        "cached": each.cached,
        "seconds": each.seconds,
        "first_miss": each.first,
        "reason": each.reason,
        "size": each.size,
    }


def _build_table(rows: list[dict[str, Any]], no_trunc: bool) -> Iterator[str]:
    yield f"{'WHEN':<20}  {'DIGEST':<19}  {'BUILT':>5}  {'CACHED':>6}  {'TIME':>6}  WHY"
    for row in rows:
        digest = row["digest"] if no_trunc else row["digest"][:19]
        why = ": ".join(filter(None, (safe(row["first_miss"]), safe(row["reason"]))))
        why = why if no_trunc else clip(why, _COLUMNS)
        took = seconds(row["seconds"])
        yield (
            f"{row['when']:<20}  {digest}  {row['built']:>5}  {row['cached']:>6}  {took:>6}  {why}"
        ).rstrip()


def _instructions(image: Image) -> Iterator[dict[str, Any]]:
    """Yield the instructions, the last first, as docker does; layers nobody tells of as such."""
    layers = list(image.chain.layers)
    entries = image.config.history
    if sum(1 for entry in entries if not entry.empty_layer) != len(layers):
        for layer in reversed(layers):
            yield {"created": "", "created_by": "", "size": layer.size, "layer": layer.diff_id}
        return
    for entry in reversed(entries):
        made = None if entry.empty_layer else layers.pop()
        yield {
            "created": entry.created,
            "created_by": entry.created_by,
            "size": made.size if made else 0,
            "layer": made.diff_id if made else None,
            **({"comment": entry.comment} if entry.comment else {}),
        }


def _image_table(rows: list[dict[str, Any]], no_trunc: bool) -> Iterator[str]:
    yield f"{'LAYER':<19}  {'CREATED':<20}  {'SIZE':>9}  CREATED BY"
    for row in rows:
        layer = row["layer"] or "-"
        by = safe(row["created_by"])
        yield (
            f"{layer if no_trunc else layer[:19]:<19}  {row['created']:<20}  "
            f"{size(row['size']):>9}  {by if no_trunc else clip(by, _COLUMNS)}"
        ).rstrip()
