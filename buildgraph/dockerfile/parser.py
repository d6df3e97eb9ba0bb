"""Knows how a whole file becomes stages of instructions; must not know what a stage is built on.

All errors of a file are collected and raised together. Source: shared reference, section 1.
"""

from __future__ import annotations

import re

from buildgraph.dockerfile import instructions
from buildgraph.dockerfile.directives import detect_syntax, read_directives
from buildgraph.dockerfile.flags import Flag, split_flags
from buildgraph.dockerfile.heredoc import Marker, find_markers
from buildgraph.dockerfile.instructions import Arg, Dockerfile, From, Instruction, StageText
from buildgraph.dockerfile.lexer import LogicalLine, Source, decode
from buildgraph.dockerfile.rules import REASONS
from buildgraph.dockerfile.statement import Statement, json_strings
from buildgraph.dockerfile.statements import KEYWORDS, build
from buildgraph.dockerfile.wording import quote
from buildgraph.errors import InputError, Location, did_you_mean, raise_all
from buildgraph.limits import DOCKERFILE_ERRORS, STAGES

_HEREDOC_KEYWORDS = ("ADD", "COPY", "RUN")
_JSON_KEYWORDS = (*_HEREDOC_KEYWORDS, "CMD", "ENTRYPOINT", "SHELL", "VOLUME")
_WORD = re.compile(r"[^\t\v\f\r ]+")
_NOT_TRIGGERS = {
    "ONBUILD": "ONBUILD cannot be chained",
    "FROM": "FROM cannot be an ONBUILD trigger",
    "MAINTAINER": "MAINTAINER cannot be an ONBUILD trigger",
}


def parse(text: str | bytes, path: str) -> Dockerfile:
    """Parse a Dockerfile; variables stay unexpanded.

    Linear in the size of the text. Raises InputError, or InputErrors with all that is wrong, each
    with line, column and source line; the caps of `limits` hold.
    """
    lines = decode(text, path)
    _refuse_other_frontends(lines, path)
    directives, first, errors = read_directives(lines, path)
    source = Source(lines, path, first, directives.escape)
    stages = _Stages(path)
    seen = False
    while (line := source.read()) is not None:
        seen = True
        try:
            stages.add(_instruction(line, source))
        except InputError as error:
            errors.append(error)
            stages.lost = True  # the failed one may have been the FROM
            if stages.full or len(errors) >= DOCKERFILE_ERRORS:
                break
    if not errors and (problem := _missing(lines, path, seen, stages)) is not None:
        errors.append(problem)
    raise_all(errors)
    return Dockerfile(
        path=path,
        directives=directives,
        global_args=tuple(stages.global_args),
        stages=stages.finished(),
        warnings=tuple(
            instructions.Warning(
                "NoEmptyContinuation",
                "Empty continuation line",
                where,
                REASONS["NoEmptyContinuation"],
            )
            for where in source.blank_continuations
        ),
    )


def parse_onbuild(trigger: str, path: str, where: Location, escape: str = "\\") -> Instruction:
    """Parse the trigger of an ONBUILD; everything in the result is placed at `where`.

    Raises InputError when the trigger is not exactly one instruction that may be a trigger.
    """
    source = Source(decode(trigger, path), path, 0, escape)
    source.fixed = where
    line = source.read()
    if line is None:
        raise InputError("the ONBUILD trigger is empty", where)
    instruction = _instruction(line, source, trigger=True)
    if source.read() is not None:
        raise InputError(
            f"the ONBUILD trigger {quote(trigger)} is more than one instruction", where
        )
    return instruction


class _Stages:
    """The stages found so far."""

    __slots__ = ("_body", "_from", "_stages", "full", "global_args", "lost", "path")

    def __init__(self, path: str):
        self.path = path
        self.global_args: list[Arg] = []
        self.full = False
        self.lost = False  # no further word about instructions before the first FROM
        self._stages: list[StageText] = []
        self._from: From | None = None
        self._body: list[Instruction] = []

    def add(self, instruction: Instruction) -> None:
        if isinstance(instruction, From):
            self._finish()
            if len(self._stages) >= STAGES:
                self.full = True
                raise InputError(f"more than {STAGES} stages", instruction.where)
            self._from = instruction
        elif self._from is not None:
            self._body.append(instruction)
        elif isinstance(instruction, Arg):
            self.global_args.append(instruction)
        elif not self.lost:
            self.lost = True
            raise InputError(
                f"{instruction.keyword.upper()} stands before the first FROM",
                instruction.where,
                "only ARG may stand before FROM",
            )

    def finished(self) -> tuple[StageText, ...]:
        self._finish()
        return tuple(self._stages)

    def any(self) -> bool:
        return self._from is not None or bool(self._stages)

    def _finish(self) -> None:
        if self._from is not None:
            self._stages.append(StageText(self._from, tuple(self._body)))
            self._from, self._body = None, []


def _missing(lines: list[str], path: str, seen: bool, stages: _Stages) -> InputError | None:
    if not seen:
        empty = not any(line.strip() for line in lines)
        return InputError(
            "the file is empty" if empty else "the file has no instructions", Location(path)
        )
    if not stages.any():
        return InputError(
            "the file has no FROM, so it defines no stage",
            stages.global_args[-1].where if stages.global_args else Location(path),
            "begin a stage with FROM image, or FROM scratch",
        )
    return None


def _instruction(line: LogicalLine, source: Source, *, trigger: bool = False) -> Instruction:
    """Parse the instruction of a line and take its heredocs from the source."""
    statement, flags = _take_apart(line, source, 0, trigger=trigger)
    statement.comments = line.comments
    if statement.name == "ONBUILD" and statement.rest:
        inner, inner_flags = _take_apart(line, source, statement.rest_start, trigger=True)
        statement.markers, statement.bodies = inner.markers, inner.bodies
        # A trigger that cannot work in any child is an error here, where it is written.
        inner.take_flags(inner_flags)
        build(inner)
    statement.take_flags(flags)
    return build(statement)


def _take_apart(
    line: LogicalLine, source: Source, start: int, *, trigger: bool
) -> tuple[Statement, list[Flag]]:
    """Split an instruction and read its heredocs, so that what follows them is found."""
    text = line.text
    keyword, after = _keyword(text, start)
    end = len(text.rstrip())
    statement = Statement(line, start, end, keyword, source.escape)
    if not keyword:
        raise InputError("a continued line without an instruction", line.where())
    if statement.name not in KEYWORDS:
        _skip_heredocs(text, source)
        raise _unknown(statement)
    if trigger and statement.name in _NOT_TRIGGERS:
        raise InputError(_NOT_TRIGGERS[statement.name], statement.where())
    flags, statement.rest_start = split_flags(line, after, source.escape)
    statement.rest = text[statement.rest_start : end]
    if statement.name in _JSON_KEYWORDS and statement.rest.startswith("["):
        statement.json = json_strings(statement.rest, statement.rest_where())
    if statement.name in _HEREDOC_KEYWORDS and statement.json is None:
        statement.markers = find_markers(statement.rest, statement.rest_start)
        statement.bodies = [_body(line, source, marker) for marker in statement.markers]
    line.end_line = max(line.end_line, source.next if statement.markers else 0)
    return statement, flags


def _keyword(text: str, start: int) -> tuple[str, int]:
    match = _WORD.match(text, start)
    return ("", start) if match is None else (match.group(), match.end())


def _body(line: LogicalLine, source: Source, marker: Marker) -> str:
    body = source.read_heredoc(marker.name, chomp=marker.chomp)
    if body is None:
        name = marker.name
        hint = f"end it with a line that is just {name[:60]}"
        if any(sign in name for sign in "<>|&;()"):
            hint = "put a blank after the name of the heredoc"
        raise InputError(
            f"the heredoc {quote(name)} does not end", line.where(marker.start, marker.end), hint
        )
    return body


def _skip_heredocs(text: str, source: Source) -> None:
    """Keep the bodies after a misspelt RUN or COPY from being taken for instructions."""
    for marker in find_markers(text):
        before = source.next
        if source.read_heredoc(marker.name, chomp=marker.chomp) is None:
            source.next = before


def _unknown(statement: Statement) -> InputError:
    return InputError(
        f"unknown instruction {quote(statement.keyword)}",
        statement.where(),
        did_you_mean(statement.name[:60], KEYWORDS),
    )


def _refuse_other_frontends(lines: list[str], path: str) -> None:
    """Files in the forms that only upstream's syntax detection knows are no Dockerfiles."""
    if not lines[0].startswith(("//", "{")):
        return
    syntax = detect_syntax("\n".join(lines))
    if syntax is not None:
        raise InputError(
            f"the file is written for the frontend {quote(syntax)}, not as a Dockerfile",
            Location(path, 1, 1, 0, lines[0].rstrip("\r")),
        )
