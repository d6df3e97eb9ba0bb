"""Knows which checks are run on what was read and puts together what they say; must not know how
any check decides, nor how a report is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from buildgraph import limits
from buildgraph.boxfile.lint import lint_targets, skips
from buildgraph.cli.lint_bases import Bases
from buildgraph.cli.lint_explain import KNOWN
from buildgraph.cli.lint_files import check_files
from buildgraph.cli.lint_inputs import Reader, Subject, Subjects
from buildgraph.cli.lint_report import Finding, Report, flattened, merged
from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.checks import base_platform_mismatch, check
from buildgraph.dockerfile.checks_findings import Findings, own_options, unknown_rules
from buildgraph.dockerfile.directives import CheckOptions
from buildgraph.errors import InputError, Location, did_you_mean
from buildgraph.graph.lint import check_graph
from buildgraph.graph.lint_facts import facts_of
from buildgraph.graph.lint_stages import StageGraph, stage_graph, stage_index
from buildgraph.graph.lower import TargetInput
from buildgraph.oci.types import ImageConfig


def run_lint(
    reader: Reader, subjects: Subjects, *, skip: Sequence[str] = (), stage: str | None = None
) -> Report:
    """Run every check on what was read.

    `skip` names rules beside those of the files; with `stage`, only what that one needs is
    looked at. Never raises for what is wrong in a file.
    """
    runner = _Runner(reader, subjects, frozenset(skip), stage)
    findings: list[Finding] = []
    errors = list(subjects.errors)
    for subject in subjects.found:
        try:
            findings += runner.dockerfile(subject)
        except InputError as error:
            errors.append(error)
    errors += runner.unknown_stages()
    findings += runner.boxfiles()
    kept = merged(findings)
    paths = {subject.input.dockerfile.path for subject in subjects.found} | {*subjects.boxfiles}
    sources = _sources(reader, subjects, paths)
    files = len({subject.input.dockerfile.path for subject in subjects.found})
    return Report(kept, flattened(errors), sources, files, reader.workspace.root)


class _Runner:
    """One run of all checks."""

    def __init__(self, reader: Reader, subjects: Subjects, skip: frozenset[str], stage: str | None):
        self._reader = reader
        self._subjects = subjects
        self._skip = skip
        self._stage = stage
        self._bases = Bases(reader.base)

    def dockerfile(self, subject: Subject) -> list[Finding]:
        """Run what looks at a Dockerfile. Raises InputError for `check` options that are wrong."""
        made = subject.input
        file, args = made.dockerfile, made.build.args
        own = own_options(file, args)
        options = replace(
            own, skip=own.skip | self._skip, skip_all=own.skip_all or "all" in self._skip
        )
        graph = stage_graph(file, args, made.build.contexts)
        stages = self._needed(made, graph)
        bases = self._bases.of(made)
        environments = {index: dict(config.env) for index, config in bases.items()}
        found = check(
            file, options=options, build_args=args, base_environments=environments, stages=stages
        )
        found += check_graph(
            file,
            graph,
            options=options,
            build_args=args,
            environments=environments,
            asked=self._asked(made),
            chosen=self._subjects.whole and self._chosen(made),
            stages=stages,
        )
        found += unknown_rules(file, options, KNOWN)
        found += _platforms(made, bases, options)
        if subject.knows_context:
            findings = Findings(options, _REASONS)
            check_files(file, made.context, args, environments, findings)
            found += findings.sorted()
        return found

    def boxfiles(self) -> list[Finding]:
        """Run what looks at Boxfiles."""
        pairs = [
            (one.target, facts_of(one.input.dockerfile, one.input.build.args))
            for one in self._subjects.found
            if one.target is not None
        ]
        texts: dict[str, str] = {}
        out: list[Finding] = []
        for one in lint_targets(pairs):
            path = one.where.path
            if os.path.isabs(path):
                continue  # in a rule of the library: nobody who uses it can change that
            if path not in texts:
                data = self._reader.workspace.read(path, limits.BOXFILE_BYTES)
                texts[path] = data.decode("utf-8", "replace")
            if self._skip & {one.rule, "all"} or skips(texts[path], one.rule, one.where.line):
                continue
            out.append(ast.Warning(one.rule, one.message, one.where, one.reason, fix=one.fix))
        return out

    def unknown_stages(self) -> Iterator[InputError]:
        """Yield an error for each stage that a Boxfile asks for and a Dockerfile does not have."""
        for one in self._subjects.found:
            wanted = one.target.stage if one.target is not None else None
            if wanted is None or self._stage is not None:
                continue
            if stage_index(one.input.dockerfile, wanted.text) is None:
                yield _no_stage(one.input.dockerfile, wanted.text, wanted.where)

    def _needed(self, made: TargetInput, graph: StageGraph) -> frozenset[int] | None:
        if self._stage is None:
            return None
        index = stage_index(made.dockerfile, self._stage)
        if index is None:
            raise _no_stage(made.dockerfile, self._stage, None)
        return graph.needed_by([index])

    def _asked(self, made: TargetInput) -> set[int]:
        """Return the stages that targets ask for: what `--target` may mean nobody knows."""
        indices = {
            stage_index(made.dockerfile, one.input.stage)
            for one in self._subjects.found
            if one.input.dockerfile.path == made.dockerfile.path
        }
        return {index for index in indices if index is not None}

    def _chosen(self, made: TargetInput) -> bool:
        return any(
            one.input.stage is not None and one.input.dockerfile.path == made.dockerfile.path
            for one in self._subjects.found
        )


_REASONS = {name: rule.reason for name, rule in KNOWN.items()}


def _no_stage(file: ast.Dockerfile, name: str, where: Location | None) -> InputError:
    names = [stage.from_.name for stage in file.stages if stage.from_.name]
    return InputError(
        f"{file.path} has no stage {name!r}", where, did_you_mean(name.lower(), names)
    )


def _platforms(
    made: TargetInput, bases: dict[int, ImageConfig], options: CheckOptions
) -> list[Finding]:
    findings = Findings(options)
    for index, config in bases.items():
        from_ = made.dockerfile.stages[index].from_
        if from_.platform is not None:
            continue  # what a variable makes of it is the build's to say
        have, want = str(config.platform), str(made.build.target)
        warning = base_platform_mismatch(from_, from_.image, want, have)
        if warning is not None:
            findings.add(warning.rule, warning.message, from_, word=from_.image)
    return findings.sorted()


def _sources(reader: Reader, subjects: Subjects, paths: set[str]) -> dict[str, bytes]:
    given = {one.input.dockerfile.path: one.text for one in subjects.found if one.text is not None}
    given |= [reader.given] if reader.given is not None else []
    out: dict[str, bytes] = {}
    for path in sorted(paths):
        try:
            text = given.get(path)
            out[path] = (
                reader.workspace.read(path, limits.DOCKERFILE_BYTES) if text is None else text
            )
        except InputError:
            continue  # it came over the network or stdin
    return out
