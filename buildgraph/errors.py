"""Knows every way a build can end badly and whose move it is then.

Must not know how an error is printed: only `cli` prints and exits.

    BuildgraphError            exit code
    ├── InputError              2   Boxfile, Dockerfile, label, flag: the author's move
    │   └── InputErrors         2   several of them, reported at once
    ├── BuildFailed             1   a command in a step said no
    ├── SmokeFailed             1   a check on a running container said no
    ├── HostError               3   kernel, disk, network: the machine's move
    └── StoreCorrupt            4   the store's own bytes are damaged

Anything else that escapes is our bug: traceback, exit 70.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct


class Location(Struct, frozen=True, order=True):
    """A place in a text the user wrote; lines and columns count from 1, 0 means unknown."""

    path: str
    line: int = 0
    column: int = 0
    end_column: int = 0  # exclusive; 0 = the caret marks one column
    text: str = ""  # the source line, kept so that the caret can be drawn without rereading

    def __str__(self) -> str:
        parts = [self.path]
        if self.line:
            parts.append(str(self.line))
            if self.column:
                parts.append(str(self.column))
        return ":".join(parts)


class BuildgraphError(Exception):
    """Base of everything that is reported to the user in words."""

    exit_code = 70

    def __init__(self, message: str, where: Location | None = None, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class InputError(BuildgraphError):
    """Something the user wrote is wrong."""

    exit_code = 2


class InputErrors(InputError):
    """Several input errors, in the order of their positions."""

    def __init__(self, errors: Iterable[InputError]):
        flat: list[InputError] = []
        for error in errors:
            flat.extend(error.errors if isinstance(error, InputErrors) else [error])
        self.errors: tuple[InputError, ...] = tuple(flat)
        super().__init__(f"{len(flat)} errors", flat[0].where if flat else None)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class BuildFailed(BuildgraphError):
    """A command of a build step failed; `log` holds its last lines, `replay` a command line."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        where: Location | None = None,
        hint: str | None = None,
        *,
        label: str = "",
        log: tuple[str, ...] = (),
        replay: str = "",
    ):
        super().__init__(message, where, hint)
        self.label = label
        self.log = log
        self.replay = replay


class SmokeFailed(BuildgraphError):
    """A check on a running container failed."""

    exit_code = 1


class HostError(BuildgraphError):
    """The machine could not do it: kernel, disk, network, a missing program."""

    exit_code = 3


class NoEmulator(HostError):
    """A step is of an architecture that nothing here runs; steps of others may go on."""


class StoreCorrupt(BuildgraphError):
    """Bytes in the store are not what their name says."""

    exit_code = 4


class Interrupted(BuildgraphError):
    """The user or the system asked us to stop."""

    exit_code = 130


def raise_all(errors: list[InputError]) -> None:
    """Raise nothing, the one error, or all of them as `InputErrors`."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputErrors(errors)


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """Return `did you mean 'x'?` for the nearest candidate, or None where none is near."""
    import difflib  # most commands end without asking

    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else None
