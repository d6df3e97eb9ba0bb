"""Knows how a text is put into a file that the command line names; must not know the text."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from buildgraph.errors import HostError
from buildgraph.oci.publish import new_file


def cannot_write(path: str, error: OSError) -> HostError:
    """Return the error for a file that cannot be written, and what to do where that is known."""
    above = os.path.dirname(path)
    missing = bool(above) and not os.path.lexists(above)
    hint = f"mkdir -p {shlex.quote(above)}" if missing else None
    return HostError(f"cannot write {path}: {error.strerror}", hint=hint)


def write_text(path: str, text: str, mode: Literal["w", "a"] = "w") -> None:
    """Replace a file's text, or append; bytes that are no UTF-8 are written as \\xNN.

    Where it lies, for it may be a pipe. Raises HostError.
    """
    try:
        with open(path, mode, encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise cannot_write(path, error) from error


def check_writable(path: str) -> None:
    """Raise HostError where `replace_text` could not write, before anything else is done."""
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.exists(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        elif not os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # says why
            os.close(descriptor)
            os.unlink(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def replace_text(path: str, parts: Iterable[str]) -> None:
    """Put text into a file at once: whoever reads it finds the old text or all of the new.

    A pipe or a device is written where it lies, and so is a file that is ours in a directory that
    is not. Bytes that are no UTF-8 become \\xNN. Raises HostError.
    """
    check_writable(path)  # directories are not made on the way
    real = Path(path).resolve() if os.path.isfile(path) else Path(path)
    in_place = real.is_file() and not os.access(real.parent, os.W_OK | os.X_OK)
    try:
        with real.open("wb") if in_place else new_file(real) as file:
            file.writelines(part.encode("utf-8", "backslashreplace") for part in parts)
    except OSError as error:
        raise cannot_write(path, error) from error
