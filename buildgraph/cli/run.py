"""Knows the options of `buildgraph run` and how its container's output reaches the terminal; must
not know how a container is made.
"""

from __future__ import annotations

import os
import sys
import threading

import click

from buildgraph import events as ev
from buildgraph.cli.build import catch_signals
from buildgraph.cli.choose import choose
from buildgraph.cli.entry import guarded, report
from buildgraph.cli.options import parse_pairs, progress_mode, progress_option, store_option
from buildgraph.cli.screen import make_listener
from buildgraph.cli.session import Session, Settings
from buildgraph.engine.deliver import Deliverer, DeliveryOptions, assemble
from buildgraph.engine.launch import RunOptions, launch
from buildgraph.errors import BuildgraphError, InputError


@click.command("run", context_settings={"ignore_unknown_options": True})
@click.argument("target", default=".")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("-e", "--env", "variables", multiple=True, metavar="NAME[=VALUE]")
@click.option("-u", "--user", metavar="USER[:GROUP]")
@click.option("-w", "--workdir", metavar="DIR")
@click.option("--entrypoint", metavar="COMMAND")
@click.option(
    "--network",
    type=click.Choice(["none", "default", "host"]),
    default="none",
    show_default=True,
    help="What the container can reach.",
)
@progress_option
@store_option
@guarded
def command(
    target: str,
    arguments: tuple[str, ...],
    variables: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    entrypoint: str | None,
    network: str,
    progress: str,
    store: str | None,
) -> int:
    """Build a target's image if need be and run it in a sandbox; what it writes is thrown away.

    ARGUMENTS after -- replace the image's CMD. Exits with the command's own code.
    """
    options = RunOptions(
        arguments,
        parse_pairs(variables, "--env", os.environ),
        user,
        workdir,
        entrypoint,
        network,  # type: ignore[arg-type]  # click holds it to the three words
    )
    return build_and_run(target, options, Settings(store=store), progress_mode(progress))


def build_and_run(target: str, options: RunOptions, settings: Settings, progress: str) -> int:
    """Build what is missing of one target, run its image, and return the command's exit code."""
    catch_signals()
    screen = make_listener(progress, sys.stderr, sys.stderr, os.environ)
    listener = Quiet(screen)
    try:
        with Session(settings, os.environ, os.getcwd()) as session:
            workspace, chosen = choose(session, (target,), None)
            prepared = session.prepare(workspace, chosen, listener)
            if len(prepared.plans) != 1:
                raise InputError(f"{target} means {len(prepared.plans)} images; run needs one")
            with session.open_graph(prepared) as graph:
                deliverer = Deliverer(
                    session.store, session.layers, DeliveryOptions(), session.epoch
                )
                result = graph.build(deliverer.deliveries(prepared), listener)
            if not session.store.read_only:
                session.store.sync()
            screen.close()
            for failure in result.errors:
                if not screen.has_shown(failure):
                    report(failure)
                return failure.exit_code
            ((plan, *_),) = prepared.plans.values()
            image = assemble(plan, result.outcomes, session.epoch)
            cancel = threading.Event()
            store, layers, sandbox = session.store, session.layers, session.sandbox
            return launch(store, layers, sandbox, image, options, _write, cancel).code
    except BuildgraphError as error:
        screen.close()
        if screen.has_shown(error):
            return error.exit_code
        raise
    finally:
        screen.close()


class Quiet:
    """Passes events on once something is really built: hits are no news before a run."""

    def __init__(self, listener: ev.Listener):
        self._listener = listener
        self._held: list[ev.Event] | None = []

    def __call__(self, event: ev.Event) -> None:
        """Take one event."""
        if self._held is None:
            self._listener(event)
            return
        self._held.append(event)
        if isinstance(event, ev.NodeStarted | ev.NodeFailed | ev.Notice):
            held, self._held = self._held, None
            for old in held:
                self._listener(old)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
