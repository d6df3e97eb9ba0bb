"""Knows the options of `buildgraph lint` and prints its report; must not know any check."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from buildgraph.cli.entry import guarded
from buildgraph.cli.lint_report import Report
from buildgraph.cli.options import parse_pairs
from buildgraph.errors import InputError, raise_all

if TYPE_CHECKING:
    from buildgraph.cli.flags import BuildFlags
    from buildgraph.cli.session import Settings

FORMATS = ("text", "json", "sarif", "github")


@click.command("lint")
@click.argument("targets", nargs=-1)
@click.option("-f", "--file", metavar="FILE", help="A Dockerfile, for a PATH; - is stdin.")
@click.option("--target", "stage", metavar="STAGE", help="Only what this stage needs.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]")
@click.option("--skip", "skip", multiple=True, metavar="RULE", help="As `# check=skip=` does.")
@click.option("--strict", is_flag=True, help="Every warning is an error.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--list", "listing", is_flag=True, help="List the rules.")
@click.option("--explain", metavar="RULE", help="Say what a rule is for, with examples.")
@guarded
def command(
    targets: tuple[str, ...],
    file: str | None,
    stage: str | None,
    build_args: tuple[str, ...],
    skip: tuple[str, ...],
    strict: bool,
    form: str,
    listing: bool,
    explain: str | None,
) -> int:
    """Check Dockerfiles and Boxfiles: BuildKit's checks, and what only a graph can know.

    TARGETS are labels, patterns, directories, Dockerfiles or Boxfiles; none means everything in
    and below the current directory. Nothing is built or fetched. Exits with 2 for a file that
    cannot be read, with 1 where a warning is an error (--strict, or `# check=error=true` in the
    file), else with 0.
    """
    from buildgraph.cli.lint_explain import KNOWN, explain_rule, list_rules

    if listing or explain is not None:
        list_rules() if explain is None else explain_rule(explain)
        return 0
    names = tuple(name.strip() for text in skip for name in text.split(",") if name.strip())
    for name in names:
        if name not in KNOWN and name != "all":
            from buildgraph.errors import did_you_mean

            hint = did_you_mean(name, KNOWN) or "buildgraph lint --list shows all"
            raise InputError(f"--skip: there is no rule {name!r}", hint=hint)
    report = _look(targets, file, stage, parse_pairs(build_args, "--build-arg", os.environ), names)
    print_report(report, form, strict=strict)
    return report.exit_code(strict=strict)


def _look(
    targets: tuple[str, ...],
    file: str | None,
    stage: str | None,
    build_args: tuple[tuple[str, str], ...],
    skip: tuple[str, ...],
) -> Report:
    from buildgraph.cli.lint_inputs import Reader, read_words, workspace_of
    from buildgraph.cli.lint_run import run_lint
    from buildgraph.cli.session import host_platform
    from buildgraph.engine.prepare import Overrides

    workspace, package = workspace_of(targets if file is None else (), os.getcwd())
    reader = Reader(workspace, host_platform(), Overrides(args=build_args, stage=stage))
    return run_lint(reader, read_words(reader, package, targets, file), skip=skip, stage=stage)


def call_instead(text: str, asked: BuildFlags, settings: Settings) -> int | None:
    """Do what `build --call` asks for and return the exit code; None: it asks for a build."""
    from buildgraph.cli.choose import choose
    from buildgraph.cli.lint_call import BUILD, CHECK, parse_call, show_call
    from buildgraph.cli.lint_inputs import Reader
    from buildgraph.cli.lint_run import run_lint
    from buildgraph.cli.session import Session

    name, form = parse_call(text)
    if name == BUILD:
        return None
    with Session(settings, os.environ, os.getcwd()) as session:
        workspace, chosen = choose(session, asked.targets, asked.file)
        reader = Reader(workspace, session.host, session.settings.overrides)
        subjects = reader.labels(chosen)
        if name != CHECK:
            raise_all(subjects.errors)
            inputs = {one.input.label: one.input for one in reversed(subjects.found)}
            show_call(name, form, [*reversed(inputs.values())])
            return 0
        report = run_lint(reader, subjects, stage=asked.stage)
    print_report(report, form, strict=False)
    return report.exit_code(strict=False)


def print_report(report: Report, form: str, *, strict: bool) -> None:
    """Print a report to stdout in one of the `FORMATS`."""
    if form == "json":
        from buildgraph.cli.report_json import write_json

        text = write_json(report, strict=strict)
    elif form == "sarif":
        from buildgraph.cli.lint_explain import KNOWN
        from buildgraph.cli.report_github import prefix_of
        from buildgraph.cli.report_sarif import write_sarif

        text = write_sarif(report, KNOWN, strict=strict, prefix=prefix_of(report.root, os.environ))
    elif form == "github":
        from buildgraph.cli.report_github import prefix_of, write_github

        text = write_github(report, strict=strict, prefix=prefix_of(report.root, os.environ))
    else:
        from buildgraph.cli.console import wants_color
        from buildgraph.cli.report_text import write_text

        color = wants_color(sys.stdout, os.environ)
        text = write_text(report, strict=strict, color=color, env=os.environ)
    click.echo(text, nl=False, color=True)
