"""Knows which variables a line can see, as far as the text alone tells; must not know the checks.

This is what a linter sees: nothing here decides a build. Source: shared reference, section 1.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.expand import Expansion, expand_traced, referenced
from buildgraph.errors import InputError

# Values stand in for those of the real build; lint only needs them to be set and well formed.
PLATFORM_ARGS: Mapping[str, str] = MappingProxyType(
    {
        "TARGETPLATFORM": "linux/amd64",
        "TARGETOS": "linux",
        "TARGETOSVERSION": "",
        "TARGETARCH": "amd64",
        "TARGETVARIANT": "",
        "TARGETSTAGE": "default",
        "BUILDPLATFORM": "linux/amd64",
        "BUILDOS": "linux",
        "BUILDOSVERSION": "",
        "BUILDARCH": "amd64",
        "BUILDVARIANT": "",
    }
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Scope:
    """The variables at one line of a stage: their names, and values where the text gives them."""

    __slots__ = ("complete", "escape", "names", "values")

    def __init__(self, escape: str, values: Mapping[str, str], *, complete: bool):
        self.escape = escape
        self.complete = complete  # False when the base image may set more
        self.values = dict(values)
        self.names = set(values)

    def copy(self) -> Scope:
        """Give a scope that can change apart from this one."""
        scope = Scope(self.escape, self.values, complete=self.complete)
        scope.names = set(self.names)
        return scope

    def expand(self, word: str, instruction: ast.Base) -> Expansion | None:
        """Expand a word, or None where its syntax is wrong, which the build reports."""
        try:
            return expand_traced(word, self.values, self.escape, where=instruction.where)
        except InputError:
            return None

    def decided(self, word: str, instruction: ast.Base) -> str | None:
        """Expand a word whose variables all have values here, else None."""
        expansion = self.expand(word, instruction)
        if expansion is None or not all(name in self.values for name in expansion.used):
            return None
        return expansion.text

    def enter(
        self,
        instruction: ast.Instruction,
        global_values: Mapping[str, str],
        build_args: Mapping[str, str],
    ) -> None:
        """Take up what an ARG or ENV declares; one snapshot serves all its pairs."""
        if isinstance(instruction, ast.Arg):
            self.declare(instruction, global_values, build_args)
        elif isinstance(instruction, ast.Env):
            fresh: dict[str, str | None] = {}
            for key, value in instruction.pairs:
                fresh[key] = self.decided(value, instruction)
                self.names.add(key)
            self._assign(fresh)

    def declare(
        self, arg: ast.Arg, global_values: Mapping[str, str], build_args: Mapping[str, str]
    ) -> None:
        """Take up an ARG: a build argument beats its default, which beats the global value."""
        for name, default in arg.pairs:
            self.names.add(name)
            if name in build_args:
                value: str | None = build_args[name]
            elif default is not None:
                value = self.decided(default, arg)
            elif name in global_values:
                value = global_values[name]
            else:
                continue
            self._assign({name: value})

    def _assign(self, values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                self.values.pop(name, None)
            else:
                self.values[name] = value


def global_scope(dockerfile: ast.Dockerfile, build_args: Mapping[str, str]) -> Scope:
    """Give the scope of the FROM lines."""
    scope = Scope(dockerfile.directives.escape, PLATFORM_ARGS, complete=True)
    for arg in dockerfile.global_args:
        scope.declare(arg, {}, build_args)
    return scope


def stage_scope(escape: str, environment: Mapping[str, str] | None) -> Scope:
    """Give the scope below a FROM; None means that the base image's environment is not known."""
    return Scope(escape, {"PATH": _PATH, **(environment or {})}, complete=environment is not None)


def expanded_words(instruction: ast.Instruction) -> list[str]:
    """List the words that the builder expands, heredoc bodies left out (section 1.2)."""
    match instruction:
        case ast.Copy() | ast.Add():
            return _transfer_words(instruction)
        case ast.Env() | ast.LabelInstruction() | ast.Arg():
            return [word or "" for pair in instruction.pairs for word in pair]
        case ast.Run():
            return [
                value
                for mount in instruction.mounts
                for key, value in (("type", mount.type), *mount.options)
                if key != "from"
            ]
        case ast.Expose():
            return [*instruction.ports]
        case ast.Volume():
            return [*instruction.paths]
        case ast.User():
            return [instruction.user]
        case ast.Workdir():
            return [instruction.path]
        case ast.StopSignal():
            return [instruction.signal]
        case _:
            return []


def _transfer_words(instruction: ast.Copy | ast.Add) -> list[str]:
    words = [*instruction.sources, instruction.dest]
    words += filter(None, (instruction.chown, instruction.chmod))
    if isinstance(instruction, ast.Add) and instruction.checksum:
        words.append(instruction.checksum)
    return words


def used_variables(instruction: ast.Instruction, escape: str) -> tuple[str, ...]:
    """Name every variable that the builder looks up for an instruction, in order of first use."""
    names: dict[str, None] = {}
    for word in expanded_words(instruction):
        names.update(dict.fromkeys(referenced(word, escape, where=instruction.where)))
    for body in expandable_bodies(instruction):
        names.update(dict.fromkeys(referenced(body, where=instruction.where, is_heredoc=True)))
    return tuple(names)


def expandable_bodies(instruction: ast.Instruction) -> Iterator[str]:
    """Yield the heredoc bodies of COPY and ADD that the builder expands."""
    if isinstance(instruction, ast.Transfer):
        for heredoc in instruction.heredocs:
            if heredoc.expand:
                yield heredoc.body
