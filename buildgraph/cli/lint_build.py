"""Knows what a build says about checks: how many there are in one line at its end, and no where a
file asks for that; must not know any check.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from buildgraph.cli.lint_report import Finding, merged
from buildgraph.cli.words import plural
from buildgraph.dockerfile.checks_findings import CHECK_ARG
from buildgraph.errors import BuildFailed, InputError
from buildgraph.graph.lower import TargetInput


def refuse(inputs: Sequence[TargetInput]) -> None:
    """Raise BuildFailed where `# check=error=true` stands and one of BuildKit's checks fires.

    Our own rules do not count: a file that `docker build` takes is built.
    """
    asking = [one for one in inputs if "error" in _asked(one)]
    found = [one for one in _found(asking, graph=False) if one.fatal]
    if found:
        names = ", ".join(sorted({one.rule for one in found}))
        raise BuildFailed(
            f"{plural(len(found), 'check')} failed, and the file asks for none to: {names}",
            found[0].where,
            "buildgraph lint says more; `# check=error=true` in the file is what asks",
        )


def last_line(found: Sequence[Finding]) -> str:
    """Return what a build says of findings at its end, "" for none."""
    count = len(found)
    return (
        f"{plural(count, 'warning')} found (buildgraph lint or --check shows them)" if count else ""
    )


def findings(inputs: Sequence[TargetInput]) -> tuple[Finding, ...]:
    """Return what the checks find in what is built."""
    return _found(inputs, graph=True)


def _asked(one: TargetInput) -> str:
    return one.build.args.get(CHECK_ARG) or one.dockerfile.directives.check or ""


def _found(inputs: Iterable[TargetInput], *, graph: bool) -> tuple[Finding, ...]:
    """Run the checks of text on what is built, and those of graphs; files are not looked at."""
    out: list[Finding] = []
    for one in inputs:
        try:
            out += _check(one, graph=graph)
        except InputError as error:
            if error.where is not None and CHECK_ARG in error.where.path:
                raise
    return merged(out)


def _check(one: TargetInput, *, graph: bool) -> list[Finding]:
    from buildgraph.dockerfile.checks import check
    from buildgraph.dockerfile.checks_findings import own_options
    from buildgraph.graph.lint import check_graph
    from buildgraph.graph.lint_stages import stage_graph, stage_index

    file, args = one.dockerfile, one.build.args
    options = own_options(file, args)
    stages = stage_graph(file, args, one.build.contexts)
    index = stage_index(file, one.stage)
    needed = stages.needed_by([] if index is None else [index])
    found = check(file, options=options, build_args=args, stages=needed)
    if graph:
        found += check_graph(
            file,
            stages,
            options=options,
            build_args=args,
            environments={},
            asked=[] if index is None else [index],
            stages=needed,
        )
    return found
