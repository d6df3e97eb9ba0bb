"""Knows how a step that failed is run again; must not know how it was made."""

from __future__ import annotations

import os

import click
from msgspec.structs import replace

from buildgraph.cli.entry import guarded, own_store
from buildgraph.cli.options import store_option
from buildgraph.errors import InputError, did_you_mean
from buildgraph.sandbox.spec import describe, from_json


@click.command("replay")
@click.argument("step", metavar="ID")
@click.option("--describe", "only_describe", is_flag=True, help="Print the sandbox in words.")
@click.option("-c", "--command", "text", metavar="TEXT", help="Run this by /bin/sh instead.")
@click.option("--shell", is_flag=True, help="Open a shell instead, before the step has run.")
@store_option
@guarded
def command(
    step: str, only_describe: bool, text: str | None, shell: bool, store: str | None
) -> int:
    """Run a failed step again, in the same sandbox; what it writes is thrown away.

    ID is what the failure printed. Secrets of the step are not kept, so they are empty here.
    """
    place = own_store(store)
    from buildgraph.cli.failed_shell import run_step
    from buildgraph.sandbox.host import SandboxHost
    from buildgraph_cache.store import Store

    with Store.open(place) as opened, opened.lease():
        directory = os.path.join(opened.root, "failed")
        names = (
            [n.removesuffix(".json") for n in os.listdir(directory)]
            if os.path.isdir(directory)
            else []
        )
        if step not in names:
            raise InputError(f"there is no failed step {step!r}", hint=did_you_mean(step, names))
        with open(os.path.join(directory, f"{step}.json"), encoding="utf-8") as file:
            spec = from_json(file.read())
        if text is not None or shell:
            args = ("/bin/sh",) if text is None else ("/bin/sh", "-c", text)
            spec = replace(spec, args=args)
        if only_describe:
            click.echo("\n".join(describe(spec)))
            return 0
        missing = [path for path in spec.lowers if not os.path.isdir(path)]
        if missing:
            raise InputError(
                f"{len(missing)} layers of the step are no longer in the store",
                hint="build again: the failure prints a new id",
            )
        with opened.new_scratch() as scratch, SandboxHost(opened.root) as sandbox:
            spec = replace(spec, upper=scratch.upper, work=scratch.work)
            return run_step(sandbox, spec, tty=shell and os.isatty(0))
