"""The benchmark suite runs: scaled down, with whatever peers are there, and no look at a clock."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from e2e.harness import ROOT, clean_environment, me

_BENCH = ROOT / "tests" / "bench"


def _bench(out: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, _BENCH, "--out", out, *args],
        env=clean_environment(me()) | {"BENCH_QUICK": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.skipif(not shutil.which("busybox"), reason="machine: no static busybox")
def test_every_workload_is_measured_with_every_tool_that_is_there(tmp_path: Path) -> None:
    done = _bench(tmp_path)
    assert done.returncode == 0, done.stderr
    results = {r["key"]: r for r in json.loads((tmp_path / "bench.json").read_text())["results"]}
    assert {key.split("/")[0] for key in results} == {
        "40-run", "32-stages", "copy-many", "copy-large", "copy-run-copy", "200-images", "start",
        "container", "plan", "asking", "store", "1000-images", "1000-targets", *(["registry"] if shutil.which("docker-registry") else []),
    }  # fmt: skip
    for key, result in results.items():
        assert result["ours"] > 0, key
        assert result["title"] in done.stdout
    ET.parse(tmp_path / "bench.svg")


def test_lines_are_added_to_those_of_an_earlier_run(tmp_path: Path) -> None:
    for workload in ("plan", "plan"):
        assert _bench(tmp_path, "--add", "--peers", "none", workload).returncode == 0
    results = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert [r["key"] for r in results] == ["plan/300"]


def test_an_unknown_workload_is_refused_with_those_there_are(tmp_path: Path) -> None:
    done = _bench(tmp_path, "copy-mny")
    assert done.returncode == 2
    assert "copy-many" in done.stderr
