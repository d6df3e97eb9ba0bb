"""`doctor` shows the registries of a workspace, whatever else its Boxfile has."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildgraph.cli.doctor import _registries

_BOXFILE = """
workspace: {name: w, registries: {example.test: {mirrors: [mirror.test]}}}
targets: {base: {rule: debian, suite: bookworm, packages: [bash]}}
"""


def test_registries_beside_a_target_of_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Boxfile.yaml").write_text(_BOXFILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = list(_registries())
    assert "registry example.test" in lines
    assert any("mirror.test/NAME, mirror, pull" in line for line in lines)
