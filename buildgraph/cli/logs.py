"""Knows how to print the logs that the last run of a test left; must not know whence they are."""

from __future__ import annotations

import os
import sys

import click

from buildgraph.cli.console import wants_color
from buildgraph.cli.entry import guarded, open_workspace, own_store
from buildgraph.cli.escape import no_commands, safe_bytes
from buildgraph.cli.options import store_option
from buildgraph.engine.smoke.verdict import load_logs
from buildgraph.errors import InputError
from buildgraph_cache.store import Store


@click.command("logs")
@click.argument("target")
@click.argument("services", nargs=-1)
@click.option("--raw", is_flag=True, help="Every byte as it was written; of one service.")
@store_option
@guarded
def command(target: str, services: tuple[str, ...], raw: bool, store: str | None) -> int:
    """Print what the services of a test wrote when it last ran."""
    root = own_store(store)
    workspace, package = open_workspace(os.getcwd())
    (label, *more) = workspace.expand([target], package)
    if more:
        raise InputError(f"{target} means {len(more) + 1} targets; logs are of one")
    with Store.open(root, fall_back=True) as opened, opened.lease():
        kept = load_logs(opened, str(label))
        if kept is None:
            raise InputError(
                f"no logs of {label} are kept", hint=f"buildgraph test {label.short} --no-cache"
            )
        unknown = [name for name in services if name not in kept.services]
        if unknown:
            raise InputError(
                f"the test had no service {unknown[0]!r}", hint=", ".join(kept.services)
            )
        names = services or tuple(kept.services)
        if raw and len(names) != 1:
            raise InputError("--raw goes with one service", hint=", ".join(kept.services))
        for name in names:
            with open(opened.open_blob(kept.services[name]), "rb") as file:
                data = file.read()
            if raw:
                sys.stdout.buffer.write(data)
            else:
                _show(name, data, wants_color(sys.stdout, os.environ))
    return 0


def _show(name: str, data: bytes, color: bool) -> None:
    for line in data.removesuffix(b"\n").split(b"\n") if data else []:
        click.echo(no_commands(f"{name} | {safe_bytes(line, color=color)}"))
