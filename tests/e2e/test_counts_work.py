"""Holds the work of a small workspace to what changed in it: nodes, bytes, files, processes and
modules are counted (`counting.py`), so that no clock can make these fail.

Eight packages in two rows of four, each FROM the one before it, with ten files of ten thousand
bytes that nothing can compress.
"""

from __future__ import annotations

import collections
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import SOURCES, clean_environment, me

DRIVER = Path(__file__).with_name("counting.py")
PACKAGES, FILES, SIZE = 8, 10, 10_000
PACKAGE = FILES * SIZE
NODES = 2 * PACKAGES  # COPY and WORKDIR
HEAVY = {"networkx", "jinja2", "pyroute2", "rich", "urllib3"}
ELSEWHERE = "buildgraph.engine.identify:Identifier.key"
NAMES = {
    "keyed": ELSEWHERE,
    "lowered": "buildgraph.graph.lower:Lowering._node",
    "scheduled": "buildgraph.engine.scheduler:Scheduler._try",
    "selected": "buildgraph.engine.selecting:select",
    "scanned": "buildgraph.context.tree:ContextTree._scan",
    "layers": "buildgraph.oci.layers:LayerStore.create",
    "packages": "buildgraph.boxfile.loader:load",
    "dockerfiles": "buildgraph.dockerfile.parser:parse",
    "recorded": "buildgraph_cache.records:Records.put",
    "transactions": "buildgraph_cache.index:Index.write",
}


@dataclass(frozen=True, slots=True)
class Counted:
    """What one run did."""

    calls: dict[str, int]
    hashed: int
    opened: list[str]
    started: list[str]
    read: int
    written: int
    modules: list[str]

    def of(self, *names: str) -> dict[str, int]:
        """Return how often functions were called, by their names here."""
        return {name: self.calls.get(NAMES[name], 0) for name in names}

    @property
    def data(self) -> collections.Counter[str]:
        """How often each file of a context was opened."""
        names = (os.path.basename(path) for path in self.opened)
        return collections.Counter(name for name in names if name.endswith(".data"))


class Repository:
    """A workspace with a store beside it."""

    def __init__(self, top: Path):
        self.top = top
        self.work = top / "work"
        self._chance = random.Random(1)
        self.work.mkdir()
        (self.work / "Boxfile.yaml").write_text("workspace: {name: work}\n")
        for number in range(PACKAGES):
            here = self.work / f"p{number}"
            (here / "src").mkdir(parents=True)
            for file in range(FILES):
                self.fill(number, file)
            base = f'    contexts: {{base: "//p{number - 1}"}}\n' if number % 4 else ""
            (here / "Boxfile.yaml").write_text(f"targets:\n  image:\n    args: {{N: '1'}}\n{base}")
            first = "FROM base" if base else "FROM scratch"
            lines = (first, "ARG N", f"COPY src /s{number}", f"WORKDIR /w{number}")
            (here / "Dockerfile").write_text("\n".join(lines) + "\n")

    def fill(self, package: int, file: int) -> None:
        """Give a file other bytes."""
        path = self.work / f"p{package}/src/{package}-{file}.data"
        path.write_bytes(self._chance.randbytes(SIZE))

    def run(self, *words: str, store: str = "store") -> Counted:
        """Run the program and count."""
        time.sleep(0.15)  # files younger than the clock's grain are looked at twice
        out = self.top / "counted.json"
        environment = clean_environment(me()) | {
            "BUILDGRAPH_STORE": str(self.top / store),
            "PYTHONPATH": os.pathsep.join(map(str, SOURCES)),
            "PYTHONPYCACHEPREFIX": str(self.top / "compiled"),
        }
        del environment["PYTHONDONTWRITEBYTECODE"]
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(out), *words],
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        value: dict[str, Any] = json.loads(out.read_text())
        return Counted(**value)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counted]:
    """Return what each of a row of runs did."""
    repository = Repository(tmp_path_factory.mktemp("counts"))
    build = ("build", "//...")
    for words in (build, build, ("plan", "//..."), ("list",), ("list",)):
        repository.run(*words, store="other")  # compiles the modules
    out = {"cold": repository.run(*build)}
    out["same"] = repository.run(*build)
    repository.fill(5, 3)
    out["file"] = repository.run(*build)
    out["plan"] = repository.run("plan", "//...")
    out["one"] = repository.run("build", "//p2")
    repository.run("list")
    out["list"] = repository.run("list")
    with (repository.work / "p5/Boxfile.yaml").open("a") as file:
        file.write("# a comment\n")
    out["list-edited"] = repository.run("list")
    return out


def test_a_cold_build_does_everything_once(runs: dict[str, Counted]) -> None:
    cold = runs["cold"]
    assert cold.of("lowered", "keyed", "layers") == {
        "lowered": NODES,
        "keyed": NODES,
        "layers": NODES,
    }
    assert cold.of("selected", "scanned") == {"selected": PACKAGES, "scanned": 2 * PACKAGES}
    assert cold.of("packages", "dockerfiles") == {"packages": PACKAGES + 1, "dockerfiles": PACKAGES}
    assert cold.of("scheduled")["scheduled"] == NODES + PACKAGES  # and what is delivered
    assert len(cold.data) == PACKAGES * FILES
    assert max(cold.data.values()) <= 2  # for the digest, and for the layer
    content = PACKAGES * PACKAGE
    assert content <= cold.hashed <= 3.3 * content  # the file, the tar, what it is packed to
    assert content <= cold.written <= content + 130_000 * NODES
    assert cold.of("recorded")["recorded"] <= 8 * NODES


def test_nothing_changed_reads_no_file_and_visits_no_node(runs: dict[str, Counted]) -> None:
    same = runs["same"]
    assert {name: count for name, count in same.of(*NAMES).items() if count} == {}
    assert same.hashed < 1000  # what was asked
    assert not same.data
    assert same.written < 2000  # the answer
    assert same.read < 400_000  # modules, and the record
    assert len(same.opened) <= 30
    assert len(same.modules) <= 110
    assert sum(same.calls.values()) <= 60


def test_one_changed_file_costs_its_own_package(runs: dict[str, Counted]) -> None:
    file = runs["file"]
    # The package of the file is put together anew; of the two that stand on it, it is looked up
    # where their files go.
    assert file.of("keyed", "layers", "selected", "scanned") == {
        "keyed": NODES,
        "layers": 1,
        "selected": 3,
        "scanned": 6,
    }
    assert file.data.keys() == {f"5-{n}.data" for n in range(FILES)}
    assert all(count <= (2 if n == "5-3.data" else 1) for n, count in file.data.items())
    assert PACKAGE <= file.hashed <= 2 * PACKAGE + SIZE + 70_000
    assert file.written <= PACKAGE + 80_000 * NODES
    # An image that came out the same is not written again.
    assert file.of("recorded")["recorded"] <= 25
    assert file.of("transactions")["transactions"] <= 30


def test_a_plan_walks_no_context_and_hashes_no_file(runs: dict[str, Counted]) -> None:
    plan = runs["plan"]
    assert plan.of("keyed", "selected", "scanned", "layers", "recorded") == {
        "keyed": NODES,
        "selected": 0,
        "scanned": 0,
        "layers": 0,
        "recorded": 0,
    }
    assert not plan.data
    assert plan.hashed <= 2000 * NODES


def test_one_target_costs_what_it_stands_on(runs: dict[str, Counted]) -> None:
    one = runs["one"]
    assert one.of("lowered", "keyed", "packages", "dockerfiles", "selected") == {
        "lowered": 6,
        "keyed": 6,
        "packages": 4,
        "dockerfiles": 3,
        "selected": 0,
    }
    assert not one.data


def test_a_question_reads_what_changed_since_the_last(runs: dict[str, Counted]) -> None:
    assert runs["list"].of("packages", "dockerfiles") == {"packages": 0, "dockerfiles": 0}
    assert runs["list-edited"].of("packages", "dockerfiles") == {"packages": 2, "dockerfiles": 0}
    boxfiles = [path for path in runs["list"].opened if path.endswith("Boxfile.yaml")]
    assert boxfiles == []
    assert "yaml" not in runs["list"].modules
    assert len(runs["list"].modules) <= 160
    assert len(runs["list-edited"].modules) <= 250


@pytest.mark.parametrize("name", ["cold", "same", "file", "plan", "one", "list", "list-edited"])
def test_no_process_is_started_and_nothing_heavy_is_loaded(
    runs: dict[str, Counted], name: str
) -> None:
    assert runs[name].started == []
    assert not HEAVY & {module.partition(".")[0] for module in runs[name].modules}
    assert len(runs[name].modules) <= 440
