"""Knows the course of `buildgraph build`; must not know how any part of it is done."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import click

from buildgraph import events as ev
from buildgraph.cli.asked import delivery_of, settings_of
from buildgraph.cli.choose import choose
from buildgraph.cli.docker_flags import DOCKER, DockerCommand, said
from buildgraph.cli.entry import Terminated, guarded
from buildgraph.cli.flags import CONDUCT, INPUT, LOOKUP, RESULT, RUNNING, BuildFlags, flags
from buildgraph.cli.lint_build import findings, last_line, refuse
from buildgraph.cli.options import store_option
from buildgraph.cli.readers import ReaderFiles, Readers, open_readers
from buildgraph.cli.remember import remember
from buildgraph.cli.screen import make_listener, report_rest
from buildgraph.cli.session import OpenGraph, Session, Settings
from buildgraph.engine.build import BuildResult
from buildgraph.engine.deliver import Deliverer, DeliveryOptions, image_id
from buildgraph.engine.handover import Handover
from buildgraph.engine.history import Chronicle
from buildgraph.engine.prepare import Prepared
from buildgraph.errors import BuildgraphError, InputError
from buildgraph.oci.handover.outside import Outside, outside

# Told what a build has looked at, also where it failed.
Seen = Callable[[Session, Prepared, OpenGraph], None]

_HELP = """Build targets, or a directory with a Dockerfile.

TARGETS are labels (//app:image, //app, :image), patterns (//..., //app/...), or what `docker
build` takes: a PATH that holds a Dockerfile, - for a Dockerfile or an archive on stdin, a git
repository (URL.git[#REF:DIRECTORY]), or the URL of an archive. Without any, the target of the
current directory.
"""


@click.command("build", help=_HELP, cls=DockerCommand)
@flags(INPUT, RUNNING, LOOKUP, RESULT, CONDUCT, DOCKER)
@store_option
@guarded
def command(**given: Any) -> int:
    """Parse the options and build."""
    asked = BuildFlags(**given)
    notes = said(click.get_current_context())
    settings = settings_of(asked, os.environ)
    progress = "quiet" if asked.quiet else asked.progress
    files = ReaderFiles(asked.events, asked.junit, asked.profile, asked.report)
    if files.named and (asked.dry_run or asked.check or asked.call != "build"):
        flag = files.named[0]
        raise InputError(f"{flag} tells of a build, and nothing is to be built")
    if asked.check or asked.call != "build":
        from buildgraph.cli.lint import call_instead

        code = call_instead("check" if asked.check else asked.call, asked, settings)
        if code is not None:
            return code
    if asked.dry_run:
        from buildgraph.cli.plan import show_plan

        return show_plan(asked.targets, asked.file, settings, as_json=progress == "json")
    delivery = delivery_of(asked)
    return run_build(asked.targets, asked.file, settings, delivery, progress, notes, files=files)


def run_build(
    targets: tuple[str, ...],
    file: str | None,
    settings: Settings,
    delivery: DeliveryOptions,
    progress: str,
    notes: Sequence[str] = (),
    *,
    files: ReaderFiles = ReaderFiles(),  # noqa: B008 - a frozen value
    seen: Seen | None = None,
) -> int:
    """Build and return the exit code; every failure has been shown by then.

    Raises what kept it from building at all.
    """
    catch_signals()
    screen = open_readers(
        make_listener(progress, sys.stdout, sys.stderr, os.environ),
        os.environ,
        sys.stderr,
        files,
    )
    try:
        with (
            outside(
                any(o.type == "load" and o.engine != "docker" for o in delivery.outputs)
            ) as programs,
            Session(settings, os.environ, os.getcwd()) as session,
        ):
            # Not before: a screen starts a thread, and the session may enter a user namespace.
            for note in notes:
                screen(ev.Notice(session.now(), note))
            result = _build(session, screen, targets, file, delivery, progress, programs, seen)
    except BuildgraphError as error:
        screen.failed(error)
        raise
    finally:
        screen.close()
        screen.finish()
    return report_rest(screen, result.errors)


def _build(
    session: Session,
    screen: Readers,
    targets: tuple[str, ...],
    file: str | None,
    delivery: DeliveryOptions,
    progress: str,
    programs: Outside,
    seen: Seen | None,
) -> BuildResult:
    """Build in an open session, and say what came of it."""
    workspace, chosen = choose(session, targets, file)
    prepared = session.prepare(workspace, chosen, screen)
    refuse(prepared.inputs)
    with session.open_graph(prepared) as graph:
        deliverer = Deliverer(
            session.store,
            session.layers,
            delivery,
            session.epoch,
            session.images.pusher,
            Handover(session.layers, session.environ, programs, session.cancel),
        )
        chronicle = Chronicle(screen)
        try:
            result = graph.build(deliverer.deliveries(prepared), chronicle)
        finally:
            if seen is not None:
                seen(session, prepared, graph)
        chronicle.write(session.store, prepared, result.outcomes, result.images)
        if not session.store.read_only:
            session.store.sync()
        news = result.built > 0 and not result.errors
        found = findings(prepared.inputs) if news or screen.want_findings else ()
        if news and (line := last_line(found)):
            screen(ev.Notice(session.now(), line, "info"))
        screen.findings(found)
        screen.close()
        _offer_shell(session)
        for failure in result.errors:
            screen.failed(failure)
        if not result.errors:
            deliverer.finish(result.images)
            text = last_words(result.images, progress)
            remember(session, prepared, graph, result.images, delivery, text)
            if not any(output.dest == "-" for output in delivery.outputs):
                click.echo(text, nl=False)
    return result


def _offer_shell(session: Session) -> None:
    """Open a shell where a step failed, if that was asked for."""
    if session.settings.keep_failed:
        from buildgraph.cli.failed_shell import shell_after_failure

        shell_after_failure(session)


def last_words(images: Sequence[ev.ImageBuilt], progress: str) -> str:
    """Return what a build says at its end: a line an image; nothing where events say it."""
    if progress == "json":
        return ""
    in_order = sorted(images, key=lambda image: image.label)
    if progress == "quiet":
        return "".join(f"{image_id(image)}\n" for image in in_order)
    return "".join(summary(image) + "\n" for image in in_order)


def summary(image: ev.ImageBuilt) -> str:
    """Return the line that says what was built."""
    platform = f" ({image.platform})" if image.platform else ""
    where = "".join(f"\n  -> {output}" for output in image.outputs)
    return f"{image.label}{platform} {image.digest}{where}"


def catch_signals() -> None:
    """Turn SIGTERM and SIGHUP into an orderly end: what runs is stopped and cleaned up."""

    def terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGHUP, terminated)
