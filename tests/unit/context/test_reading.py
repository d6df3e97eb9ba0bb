"""A reader opens what belongs to somebody else, whichever of its threads finds that out."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from buildgraph.context.reading import Reader


def test_two_threads_find_out_at_once_that_the_access_time_is_not_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"x")
    directory = os.open(tmp_path, os.O_RDONLY)
    reader = Reader()
    real = os.open

    def somebody_elses(name: Any, flags: int, **more: Any) -> int:
        if flags & os.O_NOATIME:
            reader._no_atime = 0  # the other thread was quicker
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(name, flags, **more)

    monkeypatch.setattr(os, "open", somebody_elses)
    try:
        reader.read_ahead(directory, "f")
    finally:
        os.close(directory)
