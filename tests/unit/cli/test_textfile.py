"""Holds what is said of a file that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildgraph.cli.textfile import check_writable, replace_text, write_text
from buildgraph.errors import HostError


def test_a_directory_that_is_not_there_is_to_be_made(tmp_path: Path) -> None:
    place = tmp_path / "not here"
    for write in (
        lambda path: write_text(path, ""),
        lambda path: replace_text(path, [""]),
        check_writable,
    ):
        with pytest.raises(HostError, match="No such file or directory") as caught:
            write(str(place / "f"))
        assert caught.value.hint == f"mkdir -p '{place}'"
    with pytest.raises(HostError, match="Is a directory") as caught:
        write_text(str(tmp_path), "")
    assert caught.value.hint is None
