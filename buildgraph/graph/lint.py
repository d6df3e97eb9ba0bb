"""Knows which checks look at a whole Dockerfile's graph, and runs them; must not know files or
images.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.checks_findings import Findings
from buildgraph.dockerfile.directives import CheckOptions
from buildgraph.graph.lint_layers import check_layers
from buildgraph.graph.lint_rules import REASONS
from buildgraph.graph.lint_stages import StageGraph, check_unused_args, check_unused_stages


def check_graph(
    dockerfile: ast.Dockerfile,
    graph: StageGraph,
    *,
    options: CheckOptions,
    build_args: Mapping[str, str],
    environments: Mapping[int, Mapping[str, str]],
    asked: Collection[int] = (),
    chosen: bool = False,
    stages: Collection[int] | None = None,
) -> list[ast.Warning]:
    """Run the checks that look at more than one line, and give what fired, by position.

    `asked` are the stages that somebody builds beside the last one, `chosen` says that targets
    choose stages at all; `environments` are those of base images, as for `checks.check`. With
    `stages`, only these are looked at. Never raises.
    """
    findings = Findings(options, REASONS)
    if stages is None:
        check_unused_stages(dockerfile, graph, asked, chosen=chosen, findings=findings)
    check_unused_args(dockerfile, graph, findings)
    check_layers(dockerfile, graph, asked, build_args, environments, findings)
    found = findings.sorted()
    if stages is None:
        return found
    begins = [stage.from_.where.line for stage in dockerfile.stages]
    kept = []
    for warning in found:
        index = bisect_right(begins, warning.where.line) - 1
        if index < 0 or index in stages:
            kept.append(warning)
    return kept
