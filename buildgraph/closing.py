"""Knows what it means that an object ends by being closed; must not know what is closed."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A context manager that yields itself and closes itself, whatever happens."""

    __slots__ = ()

    def close(self) -> None:
        """End it; idempotent where the class says so."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
