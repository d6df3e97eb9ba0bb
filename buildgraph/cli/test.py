"""Knows the options of `buildgraph test` and what is printed of its verdicts; must not know how a
test is run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence

import click

from buildgraph.cli.build import Seen, catch_signals
from buildgraph.cli.choose import choose
from buildgraph.cli.console import wants_color
from buildgraph.cli.entry import guarded
from buildgraph.cli.escape import no_commands, safe
from buildgraph.cli.hold import Holder
from buildgraph.cli.options import afterwards_options, progress_option, store_option
from buildgraph.cli.readers import ReaderFiles, open_readers
from buildgraph.cli.screen import make_listener, report_rest
from buildgraph.cli.session import Session, Settings
from buildgraph.cli.textfile import write_text
from buildgraph.cli.words import plural, seconds
from buildgraph.engine.build import BuildResult
from buildgraph.engine.smoke.report import SmokeReport, as_json, as_junit, failure_lines, rate
from buildgraph.engine.smoke.runner import SmokeOptions
from buildgraph.errors import BuildgraphError, HostError, InputError


@click.command("test")
@click.argument("targets", nargs=-1)
@click.option("--junit", metavar="FILE", help="Write JUnit's XML there.")
@click.option("--json", "as_json_file", metavar="FILE", help="Write a report there; - is stdout.")
@click.option("--keep", is_flag=True, help="Leave the containers of one test up until Ctrl-C.")
@click.option("--filter", "filters", multiple=True, metavar="TEXT", help="Checks so called alone.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Most time of a test.")
@click.option("--runs", type=click.IntRange(1, 1000), default=1, metavar="N", help="Run N times.")
@click.option("--no-cache", is_flag=True, help="Run tests that passed before, too.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="How many steps and tests run at once.")
@click.option("-k", "--keep-going", is_flag=True, help="After a failed build, test what can be.")
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@progress_option
@afterwards_options
@store_option
@guarded
def command(
    targets: tuple[str, ...],
    junit: str | None,
    as_json_file: str | None,
    keep: bool,
    filters: tuple[str, ...],
    timeout: float | None,
    runs: int,
    no_cache: bool,
    jobs: int | None,
    keep_going: bool,
    offline: bool,
    progress: str,
    profile: str | None,
    report: str | None,
    store: str | None,
) -> int:
    """Build what is missing and run smoke tests: labels, or patterns such as //... .

    A test that passed before is not run again while its images, services and checks are the same.
    With --runs it must pass every time. Exits with 1 where a test fails.
    """
    settings = Settings(store, jobs or 0, keep_going, offline=offline)
    holder = Holder(sys.stderr) if keep else None
    options = SmokeOptions(runs, no_cache, filters, timeout, holder.hold if holder else None)
    if keep and runs > 1:
        raise InputError("--keep goes with one run", hint="leave --runs out")
    if as_json_file == "-" and progress == "json":
        raise InputError("--json - and --progress json both want stdout")
    files = ReaderFiles(profile=profile, report=report)
    result, reports = run_tests(targets, settings, options, progress, holder, files=files)
    in_order = [reports[label] for label in sorted(reports)]
    if junit is not None:
        write_text(junit, as_junit(in_order))
    if as_json_file is not None:
        text = json.dumps({"tests": [as_json(each) for each in in_order]}, indent=2) + "\n"
        if as_json_file == "-":
            click.echo(text, nl=False)
        else:
            write_text(as_json_file, text)
    if progress != "json" and as_json_file != "-":
        tell(in_order, quiet=progress == "quiet")
    return exit_code(result.errors, in_order)


def exit_code(errors: Iterable[BuildgraphError], reports: Iterable[SmokeReport]) -> int:
    """Return the exit code of a build and its tests: that of the worst error, or of a test."""
    failed = 0 if all(each.ok for each in reports) else 1
    return max((error.exit_code for error in errors), default=failed)


def run_tests(
    targets: tuple[str, ...],
    settings: Settings,
    options: SmokeOptions,
    progress: str,
    holder: Holder | None = None,
    seen: Seen | None = None,
    *,
    files: ReaderFiles = ReaderFiles(),  # noqa: B008 - a frozen value
) -> tuple[BuildResult, dict[str, SmokeReport]]:
    """Build and test; every failure has been shown by then. Returns what came of it.

    Raises what kept it from building at all.
    """
    catch_signals()
    view = make_listener(progress, sys.stdout, sys.stderr, os.environ)
    screen = open_readers(view, os.environ, sys.stderr, files)
    try:
        with Session(settings, os.environ, os.getcwd()) as session:
            if session.store.read_only:
                raise HostError("the store is read only, so no container can be run")
            workspace, chosen = choose(session, targets, None)
            prepared = session.prepare(workspace, chosen, screen, smokes=True)
            if holder is not None and len(prepared.smokes) != 1:
                raise InputError(
                    f"--keep goes with one test, not with {len(prepared.smokes)}",
                    hint="name one label",
                )
            runner = session.smoke_runner(options, screen)
            if holder is not None:
                holder.open(session.store, session.cancel)
            with session.open_graph(prepared) as graph:
                try:
                    result = graph.build(runner.deliveries(prepared), screen)
                finally:
                    if seen is not None:
                        seen(session, prepared, graph)
            screen.tests(runner.reports.values())
            session.store.sync()
    except BuildgraphError as error:
        screen.failed(error)
        raise
    finally:
        if holder is not None:
            holder.close()
        screen.close()
        screen.finish()
    report_rest(screen, result.errors)
    return result, runner.reports


def tell(reports: Sequence[SmokeReport], *, quiet: bool) -> None:
    """Print a report for each failed test, then a line for each test."""
    color = wants_color(sys.stdout, os.environ)
    for each in reports:
        if not each.ok:
            click.echo("\n".join([*shown(failure_lines(each), color), ""]))
    if quiet:
        return
    for each in reports:
        click.echo(_summary(each))


def shown(lines: Iterable[str], color: bool) -> Iterable[str]:
    """Yield lines so that no terminal and no CI system obeys anything in them."""
    for line in lines:
        yield no_commands(safe(line, color=color))


def _summary(each: SmokeReport) -> str:
    verdict = "passed" if each.ok else "FAILED"
    if each.cached:
        return f"{each.label} {verdict} (cached)"
    count = plural(len(each.findings), "check")
    rates = f", {rate(each)}" if rate(each) else ""
    return f"{each.label} {verdict} in {seconds(each.seconds)} ({count}{rates})"
