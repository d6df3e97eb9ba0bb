"""Knows the course of `buildgraph push`: build, test, then push what passed; must not know how any
of it is done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

import click
from msgspec import Struct, field

from buildgraph import events as ev
from buildgraph.cli.build import catch_signals
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.cli.options import progress_option, store_option
from buildgraph.cli.screen import Screen, make_listener, report_rest
from buildgraph.cli.session import Session, Settings
from buildgraph.cli.test import exit_code, tell
from buildgraph.cli.words import size
from buildgraph.engine.build import BuildResult
from buildgraph.engine.deliver import Deliverer, DeliveryOptions
from buildgraph.engine.history import Chronicle
from buildgraph.engine.push_plan import PushPlan, push_plans, untested
from buildgraph.engine.pushing import push_names
from buildgraph.engine.smoke.report import SmokeReport
from buildgraph.engine.smoke.runner import SmokeOptions
from buildgraph.errors import BuildgraphError, HostError
from buildgraph.oci.image import Artifact
from buildgraph.oci.registry.push import Pushed, Pusher


class _Done(Struct):
    """What came of it."""

    result: BuildResult = field(default_factory=BuildResult)
    reports: Mapping[str, SmokeReport] = field(default_factory=dict)
    pushed: list[tuple[PushPlan, Pushed]] = field(default_factory=list)
    held: list[PushPlan] = field(default_factory=list)


@click.command("push")
@click.argument("targets", nargs=-1, required=True)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be pushed where.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="How many steps and tests run at once.")
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, push what can be.")
@progress_option
@store_option
@guarded
def command(
    targets: tuple[str, ...],
    dry_run: bool,
    jobs: int | None,
    keep_going: bool,
    progress: str,
    store: str | None,
) -> int:
    """Build what is missing, run the smoke tests that are required, and push what passed.

    TARGETS are labels of push targets, or of images with tags; in patterns such as //... only push
    targets count. Without -k one failure is enough that nothing is pushed. What a test passed is
    what is pushed, to the digest.
    """
    if dry_run:
        workspace, package = open_workspace(os.getcwd())
        for plan in push_plans(workspace, package, targets):
            click.echo("\n".join(_described(plan)))
        return 0
    catch_signals()
    screen = make_listener(progress, sys.stdout, sys.stderr, os.environ)
    try:
        done = _run(targets, Settings(store, jobs or 0, keep_going), screen)
    finally:
        screen.close()
    report_rest(screen, done.result.errors)
    _tell(done, progress)
    return exit_code(done.result.errors, done.reports.values())


def _tell(done: _Done, progress: str) -> None:
    if progress == "json":
        for plan, pushed in done.pushed:
            click.echo(json.dumps(_as_json(plan, pushed)))
    else:
        tell([done.reports[label] for label in sorted(done.reports)], quiet=progress == "quiet")
        for plan, pushed in done.pushed:
            click.echo(_line(plan, pushed))
    for plan in done.held:
        click.echo(f"{plan.label}: not pushed", err=True)


def _run(targets: tuple[str, ...], settings: Settings, screen: Screen) -> _Done:
    done = _Done()
    with Session(settings, os.environ, os.getcwd()) as session:
        if session.store.read_only:
            raise HostError("the store is read only, so nothing can be built to be pushed")
        workspace = session.workspace
        plans = push_plans(workspace, session.package, targets)
        prepared = session.prepare(
            workspace,
            list(dict.fromkeys(plan.image for plan in plans)),
            screen,
            tests=list(dict.fromkeys(test for plan in plans for test in plan.requires)),
        )
        for plan in plans:
            if text := untested(plan, prepared, session.host):
                screen(ev.Notice(session.now(), text, "warning", plan.where))
        deliverer = Deliverer(session.store, session.layers, DeliveryOptions(), session.epoch)
        runner = session.smoke_runner(SmokeOptions(), screen)
        with session.open_graph(prepared) as graph:
            deliveries = [*deliverer.deliveries(prepared), *runner.deliveries(prepared)]
            chronicle = Chronicle(screen)
            done.result = graph.build(deliveries, chronicle)
        chronicle.write(session.store, prepared, done.result.outcomes, done.result.images)
        session.store.sync()
        done.reports = runner.reports
        ready = _ready(plans, deliverer.artifacts, done, keep_going=settings.keep_going)
        _push(ready, deliverer.artifacts, session.images.pusher(), settings, done)
    pushed_plans = [plan for plan, _ in done.pushed]
    done.held = [plan for plan in plans if plan not in pushed_plans]
    return done


def _push(
    ready: Sequence[PushPlan],
    artifacts: Mapping[str, Artifact],
    pusher: Pusher,
    settings: Settings,
    done: _Done,
) -> None:
    """Push one after the other; the first failure is the last without -k."""
    for plan in ready:
        try:
            found = push_names(pusher, artifacts[str(plan.image)], plan.names, plan.if_exists)
        except BuildgraphError as error:
            error.where = error.where or plan.where
            done.result.errors.append(error)
            if not settings.keep_going:
                return
        else:
            done.pushed += [(plan, pushed) for pushed in found]


def _ready(
    plans: Sequence[PushPlan], artifacts: Mapping[str, Artifact], done: _Done, *, keep_going: bool
) -> list[PushPlan]:
    """Return what may be pushed: the image is there, and every test of it has passed.

    A test and the push of its image stand on the same nodes of one graph, so that what passed is
    what is pushed.
    """

    def passed(plan: PushPlan) -> bool:
        verdicts = [done.reports.get(str(test)) for test in plan.requires]
        return str(plan.image) in artifacts and all(v is not None and v.ok for v in verdicts)

    ready = [plan for plan in plans if passed(plan)]
    whole = len(ready) == len(plans) and not done.result.errors
    return ready if whole or keep_going else []


def _described(plan: PushPlan) -> list[str]:
    after = f" after {', '.join(map(str, plan.requires))}" if plan.requires else ""
    what = f" ({plan.image})" if plan.image != plan.label else ""
    lines = [f"{plan.label}{what}{after}"]
    return lines + [f"  -> {name} (if it exists: {plan.if_exists})" for name in plan.names]


def _line(plan: PushPlan, pushed: Pushed) -> str:
    sent = f", {size(pushed.sent)} sent" if pushed.sent else ""
    return f"{plan.label} -> {pushed.name} {pushed.digest} ({pushed.state}{sent})"


def _as_json(plan: PushPlan, pushed: Pushed) -> dict[str, object]:
    return {
        "event": "image_pushed",
        "label": str(plan.label),
        "image": str(plan.image),
        "name": pushed.name,
        "digest": pushed.digest,
        "state": pushed.state,
        "sent": pushed.sent,
    }
