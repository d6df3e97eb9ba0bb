"""Knows how a text is put into a file that the command line names; must not know the text."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
from collections.abc import Iterable
from typing import Literal

from buildgraph.errors import HostError


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

    A pipe or a device is written where it lies. Bytes that are no UTF-8 become \\xNN. Raises
    HostError.
    """
    try:
        whole = not os.path.exists(path) or os.path.isfile(path)
        real = os.path.realpath(path) if whole else path
        beside = f"{real}.{secrets.token_hex(4)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(beside, flags, 0o666) if whole else -1
        except PermissionError:  # a file that is ours in a directory that is not
            descriptor = -1
        if descriptor < 0:
            with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(parts)
            return
        try:
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(parts)
            os.replace(beside, real)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error
