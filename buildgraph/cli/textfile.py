"""Knows how a text is put into a file that the command line names; must not know the text."""

from __future__ import annotations

from typing import Literal

from buildgraph.errors import HostError


def write_text(path: str, text: str, mode: Literal["w", "a"] = "w") -> None:
    """Replace a file's text, or append; bytes that are no UTF-8 are written as \\xNN.

    Where it lies, for it may be a pipe. Raises HostError.
    """
    try:
        with open(path, mode, encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
