"""Each case of tests/golden parses to its recorded tree; `--update-golden` rewrites the trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildgraph.dockerfile.dump import dump
from buildgraph.dockerfile.parser import parse

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/Dockerfile"))


def test_there_are_cases() -> None:
    assert len(CASES) >= 36


@pytest.mark.parametrize("case", CASES)
def test_tree(case: str, request: pytest.FixtureRequest) -> None:
    tree = dump(parse((GOLDEN / case / "Dockerfile").read_bytes(), "Dockerfile"))
    recorded = GOLDEN / case / "ast.json"
    if request.config.getoption("--update-golden", default=False):
        recorded.write_text(tree)
    assert recorded.exists(), "record it with --update-golden"
    assert tree == recorded.read_text()
