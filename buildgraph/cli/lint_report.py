"""Knows what came of looking at files, as a value; must not know how it was found nor how it is
written down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from buildgraph.dockerfile import instructions as ast
from buildgraph.errors import InputError, InputErrors, Location

_NOWHERE = Location("")
Finding = ast.Warning


class Report(Struct, frozen=True):
    """Findings and errors by place; `sources` are the bytes of the files they speak of."""

    findings: tuple[Finding, ...]
    errors: tuple[InputError, ...] = ()
    sources: Mapping[str, bytes] = field(default_factory=dict)
    files: int = 0  # that were looked at
    root: str = ""  # absolute: what paths are relative to

    def exit_code(self, *, strict: bool) -> int:
        """Return 2 for input that cannot be read, 1 where a finding is an error, else 0."""
        if self.errors:
            return 2
        return int(any(one.fatal or strict for one in self.findings))


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by place, each once: several targets may be made of one file."""
    found: dict[tuple[str, Location, str], Finding] = {}
    for one in findings:
        found.setdefault((one.rule, one.where, one.message), one)
    return tuple(sorted(found.values(), key=lambda one: (one.where, one.rule)))


def flattened(errors: Iterable[InputError]) -> tuple[InputError, ...]:
    """Return errors one by one and by place, each once."""
    found: dict[tuple[str, Location | None], InputError] = {}
    for error in errors:
        for one in error.errors if isinstance(error, InputErrors) else (error,):
            found.setdefault((one.message, one.where), one)
    return tuple(sorted(found.values(), key=lambda one: one.where or _NOWHERE))
