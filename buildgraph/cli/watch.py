"""Knows the course of `buildgraph watch`: build, wait, build again; must not know how a build is
done or how changes are found.

Each cycle runs in a child of this process, so that it begins as any command does, as an ordinary
user too, and leaves nothing behind; the child tells what it has looked at.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import click

from buildgraph.boxfile.files import find_root
from buildgraph.cli.build import catch_signals, run_build
from buildgraph.cli.entry import EXIT_INTERRUPT, Terminated, guarded, open_workspace
from buildgraph.cli.escape import no_commands, safe
from buildgraph.cli.options import progress_option, store_option
from buildgraph.cli.session import OpenGraph, Session, Settings
from buildgraph.cli.words import plural, seconds
from buildgraph.engine.deliver import DeliveryOptions
from buildgraph.engine.looked import LookedAt
from buildgraph.engine.prepare import Prepared
from buildgraph.engine.watching import (
    Baseline,
    Change,
    Waiter,
    as_json,
    baseline,
    changes,
    from_json,
)
from buildgraph.errors import InputError

_NAMED = 3  # changed files in a line
_PATIENCE = 10.0  # seconds that an interrupted build has to end


@click.command("watch")
@click.argument("targets", nargs=-1)
@click.option("--test", is_flag=True, help="Run the smoke tests of what was built, too.")
@click.option("--poll", is_flag=True, help="Look every second, where the kernel does not tell.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="How many steps run at once.")
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, build what can be.")
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@progress_option
@store_option
@guarded
def command(
    targets: tuple[str, ...],
    test: bool,
    poll: bool,
    jobs: int | None,
    keep_going: bool,
    offline: bool,
    progress: str,
    store: str | None,
) -> int:
    """Build TARGETS, and again whatever a change affects, until Ctrl-C.

    Files that no step reads are not looked at, nor are those that the context ignores.
    """
    catch_signals()
    open_workspace(os.getcwd())  # what is wrong with it from the start is said once
    settings = Settings(store, jobs or 0, keep_going, offline=offline)

    def cycle(told: _Told) -> int:
        return _cycle(targets, settings, progress, test, told)

    with Waiter(poll=poll) as waiter:
        return _watch(cycle, waiter)


def _watch(cycle: Callable[[_Told], int], waiter: Waiter) -> int:
    found: list[Change] = []
    base = Baseline()
    while True:
        _say(_opening(found))
        begun = time.monotonic()
        child, reading = _start(cycle)
        try:
            with open(reading, encoding="ascii") as pipe:
                text = pipe.read()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except (KeyboardInterrupt, Terminated):
            _end(child)
            raise
        if code == EXIT_INTERRUPT:
            return code
        if text:
            base = from_json(json.loads(text))
        was = waiter.polling
        count = waiter.watch(base)
        verdict = "done" if code == 0 else f"failed (exit code {code})"
        how = "looking every second at" if waiter.polling else "watching"
        if waiter.polling and not was:
            _say("the kernel gives no more watches (fs.inotify.max_user_watches)")
        what = "1 directory" if count == 1 else f"{count:,} directories"
        files = plural(len(base.files), "file")
        took = seconds(time.monotonic() - begun)
        _say(f"{verdict} in {took}; {how} {what}, {files}; Ctrl-C ends it")
        found = changes(base)
        base.stale.clear()
        while not found:
            waiter.wait()
            found = changes(base)
            if not found:
                waiter.watch(base)  # a directory may have come back as another one


def _opening(found: Sequence[Change]) -> str:
    if not found:
        return "building"
    here = os.getcwd()
    names = [
        f"{os.path.relpath(one.path, here)}" + ("" if one.what == "changed" else f" ({one.what})")
        for one in found[:_NAMED]
    ]
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return f"changed: {', '.join(names)}{more}"


def _say(text: str) -> None:
    stamp = time.strftime("%H:%M:%S")
    try:
        sys.stderr.write(no_commands(safe(f"[{stamp}] {text}")) + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass


# --- one cycle --------------------------------------------------------------------------------


class _Told:
    """Collects what a cycle has looked at."""

    def __init__(self) -> None:
        self.began = time.time_ns()
        self.base: Baseline | None = None

    def seen(self, session: Session, prepared: Prepared, graph: OpenGraph) -> None:
        """Take in what a graph was made of."""
        looked_at = LookedAt()
        looked_at.add_contexts(graph.sources)
        found = baseline(
            session.workspace.root,
            prepared.observed,
            looked_at,
            prepared.graph.contexts,
            self.began,
        )
        if self.base is not None:  # of the build that went before the tests
            found.files = {**self.base.files, **found.files}
            found.names = {**self.base.names, **found.names}
            found.contexts = [*self.base.contexts, *found.contexts]
            found.packages |= self.base.packages
            found.stale = [*self.base.stale, *found.stale]
        self.base = found


def _start(cycle: Callable[[_Told], int]) -> tuple[int, int]:
    """Run a cycle in a child; returns its id and where it writes what it has seen."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    code = 70
    try:
        os.close(reading)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        told = _Told()
        try:
            guarded(lambda: cycle(told))()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        base = told.base or _fallback(told.began)
        with open(writing, "w", encoding="ascii") as pipe:
            json.dump(as_json(base), pipe)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _cycle(
    targets: tuple[str, ...], settings: Settings, progress: str, test: bool, told: _Told
) -> int:
    images, tests = _sorted_out(targets, test)
    code = 0
    if images:
        code = run_build(images, None, settings, DeliveryOptions(), progress, seen=told.seen)
    if code or not tests:
        return code
    from buildgraph.cli.test import exit_code, run_tests, tell
    from buildgraph.engine.smoke.runner import SmokeOptions

    result, reports = run_tests(tests, settings, SmokeOptions(), progress, seen=told.seen)
    in_order = [reports[label] for label in sorted(reports)]
    tell(in_order, quiet=progress == "quiet")
    return exit_code(result.errors, in_order)


def _sorted_out(targets: tuple[str, ...], test: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is to be built and which tests are to be run."""
    workspace, package = open_workspace(os.getcwd())
    chosen = workspace.expand(targets or ["."], package)
    asked = [label for label in chosen if workspace.target(label).rule == "smoke"]
    images = tuple(str(label) for label in chosen if label not in set(asked))
    tests = list(asked)
    if test:
        wanted = set(chosen)
        for label in workspace.expand(["//..."], package):
            target = workspace.target(label)
            if target.rule == "smoke" and label not in tests:
                needed = {one.label for one in workspace.closure([label])}
                if needed & wanted:
                    tests.append(label)
    elif asked and not images:
        raise InputError("these are tests", hint="watch --test runs them")
    return images, tuple(str(label) for label in tests) if test else ()


def _fallback(began: int) -> Baseline:
    """Return what to look at where the workspace could not be read: all that describes it."""
    root = find_root(os.getcwd()) or os.getcwd()
    try:
        workspace, _ = open_workspace(os.getcwd())
        packages = workspace.discover()
    except InputError:
        packages = [""]
    observed = [f"{package or '.'}/" for package in packages]
    for package in packages:
        for name in ("Boxfile.yaml", "Dockerfile", "Containerfile"):
            path = os.path.join(package, name)
            if os.path.lexists(os.path.join(root, path)):
                observed.append(path)
    return baseline(root, observed, (), (), began)


def _end(child: int) -> None:
    """Let an interrupted cycle end: a terminal has told it already."""

    def gone(within: float) -> bool:
        end = time.monotonic() + within
        while time.monotonic() < end:
            if os.waitpid(child, os.WNOHANG)[0]:
                return True
            time.sleep(0.02)
        return False

    if gone(0.3):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.kill(child, number)
        if gone(_PATIENCE):
            return
