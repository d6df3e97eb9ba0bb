"""Knows which findings somebody wants to hear of, by the `check` lines of a file and of a single
instruction; must not know why a check fires.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec.structs import replace

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.checks_fixes import fix_of
from buildgraph.dockerfile.directives import CheckOptions, parse_check_options
from buildgraph.dockerfile.rules import EXPERIMENTAL, REASONS
from buildgraph.errors import Location, did_you_mean

CHECK_ARG = "BUILDKIT_DOCKERFILE_CHECK"
UNKNOWN_RULE = "UnknownRule"
SILENT = CheckOptions(skip_all=True)
_MOST_SUGGESTIONS = 50


def own_options(
    dockerfile: ast.Dockerfile, build_args: Mapping[str, str] | None = None
) -> CheckOptions:
    """Return what a file's `# check=` line asks for; a build argument replaces it altogether.

    Raises InputError where either does not parse.
    """
    given = (build_args or {}).get(CHECK_ARG)
    if given is not None:
        return parse_check_options(given, Location(f"--build-arg {CHECK_ARG}"))
    text = dockerfile.directives.check
    if text is None:
        return CheckOptions()
    return parse_check_options(text, _place_of_check(dockerfile))


def _place_of_check(dockerfile: ast.Dockerfile) -> Location:
    return dict(dockerfile.directives.where).get("check", Location(dockerfile.path))


def at(where: Location, word: str) -> Location:
    """Return the place of `word` in the line of an instruction, or `where` if it is not in it."""
    column = where.text.find(word, max(where.column - 1, 0)) if word else -1
    if column < 0 or not where.column:
        return where
    return replace(where, column=column + 1, end_column=column + 1 + len(word))


class Findings:
    """What fired so far, as far as the options want to hear of it.

    `reasons` says why each rule exists, by its id.
    """

    __slots__ = ("_options", "_reasons", "_suggestions", "_warnings")

    def __init__(self, options: CheckOptions, reasons: Mapping[str, str] = REASONS):
        self._options = options
        self._reasons = reasons
        self._suggestions = 0
        self._warnings: list[ast.Warning] = []

    def add(
        self, rule: str, message: str, instruction: ast.Base, *, word: str = "", fix: str = ""
    ) -> None:
        """Take in a finding about an instruction; the caret goes to `word` where it is in sight."""
        skip, experimental = instruction.skip_checks, instruction.experimental_checks
        if "all" in skip or rule in skip:
            return
        self.add_at(
            rule,
            message,
            at(instruction.where, word),
            experimental="all" in experimental or rule in experimental,
            fix=fix or fix_of(rule, instruction),
            end_line=instruction.end_line,
        )

    def add_at(
        self,
        rule: str,
        message: str,
        where: Location,
        *,
        experimental: bool = False,
        fix: str = "",
        end_line: int = 0,
    ) -> None:
        """Take in a finding about a place."""
        options = self._options
        if options.skip_all or rule in options.skip:
            return
        experimental |= options.experimental_all or rule in options.experimental
        if rule in EXPERIMENTAL and not experimental:
            return
        reason = self._reasons.get(rule, "")
        self._warnings.append(
            ast.Warning(rule, message, where, reason, options.error, fix, end_line)
        )

    def suggestion(self, name: str, candidates: Iterable[str], sign: str = "") -> str:
        """Word the nearest name; a file full of typos gets this for the first of them only."""
        self._suggestions += 1
        if self._suggestions > _MOST_SUGGESTIONS:
            return ""
        near = did_you_mean(name[:60], sorted(candidates))
        if near is None:
            return ""
        return " (" + near.replace("'", "").replace("mean ", f"mean {sign}") + ")"

    def sorted(self) -> list[ast.Warning]:
        """Return what fired, by position."""
        return sorted(self._warnings, key=lambda one: (one.where.line, one.where.column))


def unknown_rules(
    dockerfile: ast.Dockerfile, options: CheckOptions, known: Collection[str]
) -> list[ast.Warning]:
    """Name the rules of `check` lines that do not exist, with the one that is perhaps meant."""
    findings = Findings(options, {UNKNOWN_RULE: "a rule that is misspelt is not skipped"})
    names_of_file = tuple(sorted(options.skip | options.experimental))
    places = [(names_of_file, _place_of_check(dockerfile))]
    for one in all_instructions(dockerfile):
        names = (*one.skip_checks, *one.experimental_checks)
        places.append((names, one.where))
    for names, where in places:
        for name in names:
            if name not in known and name != "all":
                near = findings.suggestion(name, known)
                message = f"There is no rule {name!r} to skip or to ask for{near}"
                findings.add_at(UNKNOWN_RULE, message, at(where, name))
    return findings.sorted()


def all_instructions(dockerfile: ast.Dockerfile) -> Iterable[ast.Instruction]:
    """Yield every instruction of a file, the ARGs above the first FROM too, in its order."""
    yield from dockerfile.global_args
    for stage in dockerfile.stages:
        yield stage.from_
        yield from stage.body
