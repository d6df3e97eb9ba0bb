"""Knows the build checks that a Dockerfile's text decides; must not know images or contexts.

`check` runs them all. What needs more is a function of plain values: `base_platform_mismatch`
for a pulled image, `ignored_source` for the ignore file. Source: shared reference, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.checks_findings import SILENT, Findings, all_instructions, own_options
from buildgraph.dockerfile.directives import CheckOptions
from buildgraph.dockerfile.expand import expand_words, heredoc_expand_traced
from buildgraph.dockerfile.ports import parse_port_spec
from buildgraph.dockerfile.rules import REASONS
from buildgraph.dockerfile.scope import (
    PLATFORM_ARGS,
    Scope,
    expandable_bodies,
    expanded_words,
    global_scope,
    stage_scope,
)
from buildgraph.errors import InputError, Location

# Patterns that few files need stay text: `re` compiles and keeps them at first use.
_SECRET = r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)"
_NOT_SECRET = r"(?:_|^)(?:public|file|version)(?:_|$)"
_IMAGE = (
    # host[:port]/path:tag@digest, loosely; possessive, so that nothing backtracks
    r"(?:[a-zA-Z0-9.-]++(?::[0-9]++)?+/)?+[a-z0-9]++(?:[._/-]++[a-z0-9]++)*+"
    r"(?::[\w][\w.-]{0,127}+)?+(?:@[a-z0-9+._-]++:[0-9a-fA-F]++)?+"
)
_DRIVE = r"[A-Za-z]:[\\/]"  # absolute where it means anything
_TARGET_PLATFORM = ("$TARGETPLATFORM", "${TARGETPLATFORM}")
_RESERVED = ("scratch", "context")
_ONCE = (ast.Cmd, ast.Entrypoint, ast.HealthcheckInstruction)


def check(
    dockerfile: ast.Dockerfile,
    *,
    options: CheckOptions | None = None,
    build_args: Mapping[str, str] | None = None,
    base_environments: Mapping[int, Mapping[str, str]] | None = None,
    stages: Collection[int] | None = None,
) -> list[ast.Warning]:
    """Run every check on a file and give what fired, by position.

    `options` replaces the file's own `# check=` directive. `base_environments` says, per index of
    a stage that is built on an image, what that image's environment is; a stage whose base is not
    known there is not checked for undefined variables. `stages` limits the checks to some stages.

    Raises InputError when the `# check=` directive does not parse.
    """
    findings = Findings(options or own_options(dockerfile, build_args))
    for warning in dockerfile.warnings:
        findings.add_at(warning.rule, warning.message, warning.where, fix="remove the line")
    _check_casing(dockerfile, findings)
    _check_global(dockerfile, findings)
    _check_names(dockerfile, findings)
    outer = global_scope(dockerfile, build_args or {})
    defaults = global_scope(dockerfile, {})
    silent = Findings(SILENT)
    for index, chain, instruction in _walk(dockerfile, build_args or {}, base_environments or {}):
        reporter = findings if stages is None or index in stages else silent
        if isinstance(instruction, ast.From):
            _check_from(instruction, outer, defaults, reporter)
            _check_once(dockerfile.stages[index], reporter)
        else:
            _check_instruction(instruction, chain, reporter)
    return findings.sorted()


def scopes(
    dockerfile: ast.Dockerfile,
    build_args: Mapping[str, str],
    base_environments: Mapping[int, Mapping[str, str]],
) -> Iterator[tuple[int, ast.Instruction, Scope]]:
    """Yield every instruction of every stage with its stage's index and what it can see.

    The arguments are those of `check`. A scope is true until the next one is asked for.
    """
    for index, chain, instruction in _walk(dockerfile, build_args, base_environments):
        yield index, instruction, chain.scope


def base_platform_mismatch(
    from_: ast.From, image: str, wanted: str, actual: str
) -> ast.Warning | None:
    """Say that a pulled base image is of another platform; both as `os/arch[/variant]`."""
    if wanted.split("/")[:2] == actual.split("/")[:2]:
        return None
    message = f"Base image {image} was pulled with platform {actual!r}, expected {wanted!r}"
    return _warning("InvalidBaseImagePlatform", message, from_.where)


def ignored_source(
    instruction: ast.Copy | ast.Add, source: str, is_ignored: Callable[[str], bool]
) -> ast.Warning | None:
    """Say that an expanded source of COPY or ADD is excluded by the ignore file.

    Only for sources from a build context, and only when the ignore file has no `!` lines.
    """
    path = source.strip("/")
    if not path or not is_ignored(path):
        return None
    verb = "COPY" if isinstance(instruction, ast.Copy) else "ADD"
    message = f'Attempting to {verb} file "{source}" that is excluded by .dockerignore'
    return _warning("CopyIgnoredFile", message, instruction.where)


def undefined_variables(
    instruction: ast.Instruction, scope: Scope, bodies: bool = True
) -> Iterable[str]:
    """Name the variables that an instruction uses without a fallback and nothing declared."""
    names: dict[str, None] = {}
    for word in expanded_words(instruction):
        expansion = scope.expand(word, instruction)
        if expansion is not None:
            names.update(dict.fromkeys(expansion.unset))
    if bodies:
        for body in expandable_bodies(instruction):
            try:
                expansion = heredoc_expand_traced(body, scope.values, where=instruction.where)
            except InputError:
                continue
            names.update(dict.fromkeys(expansion.unset))
    return [name for name in names if name not in scope.names]


def _warning(rule: str, message: str, where: Location) -> ast.Warning:
    return ast.Warning(rule, message, where, REASONS[rule])


class _Chain:
    """What a stage has from the stages it is built on, and what it has set itself."""

    __slots__ = ("scope", "shell", "workdir")

    def __init__(self, scope: Scope, *, shell: bool = False, workdir: bool = False):
        self.scope = scope
        self.shell = shell  # an explicit SHELL was seen
        self.workdir = workdir  # an absolute WORKDIR was seen

    @classmethod
    def enter(
        cls,
        from_: ast.From,
        parent: _Chain | None,
        dockerfile: ast.Dockerfile,
        environment: Mapping[str, str] | None,
    ) -> _Chain:
        if parent is not None:
            return cls(parent.scope.copy(), shell=parent.shell, workdir=parent.workdir)
        if environment is None and from_.image == "scratch":
            environment = {}
        return cls(stage_scope(dockerfile.directives.escape, environment))

    def take(
        self,
        instruction: ast.Instruction,
        global_values: Mapping[str, str],
        build_args: Mapping[str, str],
    ) -> None:
        if isinstance(instruction, ast.Shell):
            self.shell = True
        elif isinstance(instruction, ast.Workdir):
            self.workdir = True
        else:
            self.scope.enter(instruction, global_values, build_args)


def _walk(
    dockerfile: ast.Dockerfile,
    build_args: Mapping[str, str],
    base_environments: Mapping[int, Mapping[str, str]],
) -> Iterator[tuple[int, _Chain, ast.Instruction]]:
    """Yield every instruction with what stands above it; FROM with what its stage begins with."""
    outer = global_scope(dockerfile, build_args)
    latest: dict[str, _Chain] = {}
    for index, stage in enumerate(dockerfile.stages):
        parent = latest.get(stage.from_.image)
        chain = _Chain.enter(stage.from_, parent, dockerfile, base_environments.get(index))
        if stage.from_.name is not None:
            latest[stage.from_.name] = chain
        for instruction in (stage.from_, *stage.body):
            yield index, chain, instruction
            chain.take(instruction, outer.values, build_args)


def _check_casing(dockerfile: ast.Dockerfile, findings: Findings) -> None:
    everything = list(all_instructions(dockerfile))
    lower = sum(one.keyword.islower() for one in everything)
    upper = sum(one.keyword.isupper() for one in everything)
    right, casing = (str.lower, "lowercase") if lower > upper else (str.upper, "uppercase")
    for one in everything:
        if one.keyword != right(one.keyword):
            message = (
                f"Command '{one.keyword}' should match the case of the command majority ({casing})"
            )
            findings.add("ConsistentInstructionCasing", message, one, fix=right(one.keyword))


def _check_global(dockerfile: ast.Dockerfile, findings: Findings) -> None:
    for arg in dockerfile.global_args:
        _check_secrets("ARG", (name for name, _ in arg.pairs), arg, findings)
        _check_description("ARG", [name for name, _ in arg.pairs], arg, findings)


def _check_names(dockerfile: ast.Dockerfile, findings: Findings) -> None:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        from_ = stage.from_
        if from_.name is None:
            continue
        written = from_.name_as_written or from_.name
        if written != from_.name:
            message = f"Stage name '{written}' should be lowercase"
            findings.add("StageNameCasing", message, from_, word=written)
        if from_.name in _RESERVED:
            message = f"Stage name should not use the same name as reserved stage '{from_.name}'"
            findings.add("ReservedStageName", message, from_, word=written)
        if from_.name in seen:
            message = f"Duplicate stage name '{from_.name}', stage names should be unique"
            findings.add("DuplicateStageName", message, from_, word=written)
        seen.add(from_.name)
        for one in (str.islower, str.isupper):
            if one(from_.keyword) and not one(from_.as_keyword):
                message = (
                    f"'{from_.as_keyword}' and '{from_.keyword}' keywords' casing do not match"
                )
                findings.add("FromAsCasing", message, from_)
        _check_description("FROM", [written], from_, findings)


def _check_from(from_: ast.From, outer: Scope, defaults: Scope, findings: Findings) -> None:
    for word in filter(None, (from_.image, from_.platform)):
        expansion = outer.expand(word, from_)
        for name in expansion.unset if expansion else ():
            if name not in outer.names:
                near = findings.suggestion(name, outer.names)
                message = f"FROM argument '{name}' is not declared{near}"
                findings.add("UndefinedArgInFrom", message, from_, word=word)
    image = defaults.expand(from_.image, from_)
    if image is not None and image.used and re.fullmatch(_IMAGE, image.text, re.ASCII) is None:
        message = f"Default value for ARG {from_.image} results in empty or invalid base image name"
        findings.add("InvalidDefaultArgInFrom", message, from_, word=from_.image)
    if from_.platform in _TARGET_PLATFORM:
        message = (
            f"Setting platform to predefined {from_.platform} in FROM is redundant as this is "
            "the default behavior"
        )
        findings.add("RedundantTargetPlatform", message, from_, word=_flag(from_))
    elif from_.platform and "$" not in from_.platform:
        parts = from_.platform.lower().split("/")[:2]
        if not any(part and part in (from_.name or "") for part in parts):
            message = f'FROM --platform flag should not use constant value "{from_.platform}"'
            findings.add("FromPlatformFlagConstDisallowed", message, from_, word=_flag(from_))


def _flag(from_: ast.From) -> str:
    return f"--platform={from_.platform}"


def _check_once(stage: ast.StageText, findings: Findings) -> None:
    for kind in _ONCE:
        found = [one for one in stage.body if isinstance(one, kind)]
        for one in found[:-1]:
            message = (
                f"Multiple {one.keyword.upper()} instructions should not be used in the same "
                "stage because only the last one will be used"
            )
            findings.add("MultipleInstructionsDisallowed", message, one)


def _check_instruction(instruction: ast.Instruction, chain: _Chain, findings: Findings) -> None:
    match instruction:
        case ast.Maintainer():
            message = "Maintainer instruction is deprecated in favor of using label"
            findings.add("MaintainerDeprecated", message, instruction)
        case ast.Cmd() | ast.Entrypoint():
            if instruction.shell is not None and not chain.shell:
                message = (
                    f"JSON arguments recommended for {instruction.keyword.upper()} to prevent "
                    "unintended behavior related to OS signals"
                )
                findings.add("JSONArgsRecommended", message, instruction)
        case ast.Workdir():
            _check_workdir(instruction, chain, findings)
        case ast.Expose():
            _check_expose(instruction, chain.scope, findings)
        case ast.Env() | ast.LabelInstruction():
            _check_pairs(instruction, findings)
        case ast.Arg():
            names = [name for name, _ in instruction.pairs]
            _check_secrets("ARG", names, instruction, findings)
            _check_description("ARG", names, instruction, findings)
        case _:
            pass
    if chain.scope.complete:
        for name in undefined_variables(instruction, chain.scope):
            message = (
                f"Usage of undefined variable '${name}'"
                f"{findings.suggestion(name, chain.scope.names - set(PLATFORM_ARGS), '$')}"
            )
            findings.add("UndefinedVar", message, instruction, word=name)


def _check_pairs(instruction: ast.Env | ast.LabelInstruction, findings: Findings) -> None:
    name = "ENV" if isinstance(instruction, ast.Env) else "LABEL"
    if instruction.legacy:
        message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
        findings.add("LegacyKeyValueFormat", message, instruction)
    if isinstance(instruction, ast.Env):
        _check_secrets("ENV", (key for key, _ in instruction.pairs), instruction, findings)


def _check_secrets(
    keyword: str, names: Iterable[str], instruction: ast.Base, findings: Findings
) -> None:
    for name in names:
        if re.search(_SECRET, name, re.IGNORECASE) and not re.search(
            _NOT_SECRET, name, re.IGNORECASE
        ):
            message = f'Do not use ARG or ENV instructions for sensitive data ({keyword} "{name}")'
            findings.add("SecretsUsedInArgOrEnv", message, instruction, word=name)


def _check_description(
    keyword: str, names: list[str], instruction: ast.From | ast.Arg, findings: Findings
) -> None:
    """A comment block above a definition describes it when its last line begins with the name."""
    if not instruction.comments or instruction.comments[-1].split(" ")[0] in names:
        return
    what = "build stage" if keyword == "FROM" else "argument"
    example = names[0] if len(names) == 1 else "<arg_key>"
    message = (
        f"Comment for {what} should follow the format: `# {example} <description>`. If this is "
        "not intended to be a description comment, add an empty line or comment between the "
        "instruction and the comment."
    )
    findings.add("InvalidDefinitionDescription", message, instruction)


def _check_workdir(instruction: ast.Workdir, chain: _Chain, findings: Findings) -> None:
    if chain.workdir:
        return
    path = chain.scope.decided(instruction.path, instruction)
    if path is not None and not path.startswith("/") and not re.match(_DRIVE, path):
        message = f'Relative workdir "{path}" can have unexpected results if the base image changes'
        findings.add("WorkdirRelativePath", message, instruction, word=instruction.path)


def _check_expose(instruction: ast.Expose, scope: Scope, findings: Findings) -> None:
    for word in instruction.ports:
        if scope.decided(word, instruction) is None:
            continue
        for port in expand_words(word, scope.values, scope.escape, where=instruction.where):
            try:
                spec = parse_port_spec(port, instruction.where)
            except InputError:
                continue  # the build reports it
            if spec.host is not None:
                message = (
                    "EXPOSE instruction should not define an IP address or host-port mapping, "
                    f"found '{port}'"
                )
                fix = f"EXPOSE {port.rpartition(':')[2]}"
                findings.add("ExposeInvalidFormat", message, instruction, word=word, fix=fix)
            if spec.protocol_as_written and spec.protocol_as_written != spec.protocol:
                message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                fix = f"EXPOSE {port.lower()}"
                findings.add("ExposeProtoCasing", message, instruction, word=word, fix=fix)
