"""Knows how what is wrong in a workspace is gathered and said; must not know how it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from buildgraph.boxfile.files import Files
from buildgraph.boxfile.loader import BOXFILE
from buildgraph.errors import InputError, InputErrors, Location, did_you_mean, raise_all


def no_package(
    files: Files, discover: Callable[[], Iterable[str]], path: str, where: Location | None
) -> InputError:
    """Return the error for a directory that is no package."""
    if files.kind(path) == "directory":
        names = f"{BOXFILE} or Dockerfile"
        return InputError(f"there is no {names} in {path or '.'}/", where)
    parent, _, name = path.rpartition("/")
    hint = did_you_mean(path, discover())
    if hint is None:
        hint = did_you_mean(name, files.directories(parent))
    return InputError(f"there is no directory {path!r}", where, hint)


class Problems:
    """Collects errors, each once, and raises them in the order of their places."""

    def __init__(self, first: InputError | None = None):
        self._errors: dict[tuple[str, Location | None], InputError] = {}
        if first is not None:
            self.add(first)

    def add(self, error: InputError) -> None:
        """Take an error, or each of several."""
        for single in error.errors if isinstance(error, InputErrors) else (error,):
            self._errors.setdefault((single.message, single.where), single)

    def raise_all(self) -> None:
        """Raise what was collected, if anything; what has no place comes first."""
        nowhere = Location("")
        raise_all(sorted(self._errors.values(), key=lambda error: error.where or nowhere))
