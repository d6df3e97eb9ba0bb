"""Knows how long `list`, `query` and `affected` take in a workspace of many targets, beside a bare
interpreter that reads the Boxfiles; must not know any builder but ours.

    python tests/bench/asking.py 1000      prints the lines as JSON

Each target has a package, a Dockerfile and one file of its own, and needs up to two others. Every
question is asked warm (what was read before is kept), after one edited Boxfile, and cold (nothing
is kept). The runs are interleaved, so that all meet the same machine, and medians count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Command, Cost, median, run
from report import BARE, OURS, Result

if TYPE_CHECKING:
    from peers import Ours

NAME = "asking"
_RATIO = 3  # at most so many times what the bare interpreter takes
_ROUNDS = 5
_BARE = """
import os
for directory, names, files in os.walk("."):
    if ".git" in names: names.remove(".git")
    if "Boxfile.yaml" in files:
        with open(directory + "/Boxfile.yaml", "rb") as file: file.read()
"""
_QUESTIONS = {
    "list": ("list",),
    "deps": ("query", "deps(//p0/t7)"),
    "rdeps": ("query", "rdeps(//..., //p0/t7)"),
    "somepath": ("query", "somepath(//..., //p0/t0)"),
    "affected": ("affected", "--since", "HEAD", "--why"),
}
# (key, question, what went before, in words): `file` is one that a step copies.
_ROWS = (
    ("list", "list", "", "warm"),
    ("deps", "deps", "", "warm"),
    ("rdeps", "rdeps", "", "warm"),
    ("somepath", "somepath", "", "warm"),
    ("affected", "affected", "file", "after one edited file"),
    ("list-edited", "list", "boxfile", "after one edited Boxfile"),
    ("deps-edited", "deps", "boxfile", "after one edited Boxfile"),
    ("affected-edited", "affected", "boxfile", "after one edited Boxfile"),
    ("list-cold", "list", "cold", "cold"),
    ("affected-cold", "affected", "cold", "cold"),
)


def generate(top: Path, count: int) -> None:
    """Write a workspace of `count` targets, committed to git."""
    (top / "Boxfile.yaml").write_text("workspace: {name: big}\n")
    for number in range(count):
        needs = sorted({number // 2, number - 1 if number % 10 else 0} - {number})
        here = top / f"p{number // 50}/t{number}"
        (here / "src").mkdir(parents=True)
        contexts = "".join(f'      dep{n}: "//p{n // 50}/t{n}"\n' for n in needs if n >= 0)
        (here / "Boxfile.yaml").write_text(
            f"targets:\n  image:\n    doc: Target number {number}.\n    args: {{N: '{number}'}}\n"
            f"    labels: {{org.opencontainers.image.title: t{number}}}\n"
            + (f"    contexts:\n{contexts}" if contexts else "")
        )
        copies = "".join(f"COPY --from=dep{n} /src/ /dep{n}/\n" for n in needs if n >= 0)
        (here / "Dockerfile").write_text(f"FROM scratch\nARG N\nCOPY src/ /src/\n{copies}")
        (here / "src/main.c").write_text(f"int main{number};\n")
    git = ["git", "-c", "user.name=b", "-c", "user.email=b@example.com", "-C", str(top)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)


class _Asking:
    """One workspace with its stores, and what each run cost."""

    def __init__(self, top: Path, count: int, ours: Ours):
        self.top = top
        self.work = top / "work"
        self.work.mkdir()
        self._ours = ours
        self._edits = 0
        self._edited = self.work / f"p0/t{min(count - 1, 40)}"
        generate(self.work, count)
        self._boxfile = self._edited / "Boxfile.yaml"
        self._written = self._boxfile.read_text()
        time.sleep(0.1)  # older than the clock's grain
        subprocess.run(["git", "-C", str(self.work), "status", "-s"], check=True)
        # A store must be there for anything to be kept.
        self.ask(("build", "//p0/t0"))
        shutil.copytree(self._store("store"), self._store("cold"))

    def _store(self, name: str) -> Path:
        return self.top / name

    def ask(self, words: Sequence[str], store: str = "store") -> Cost:
        """Ask once."""
        command = self._ours.command((*self._ours.argv, *words), self.work)
        mine = dict(command.env) | {"BUILDGRAPH_STORE": str(self._store(store))}
        return run(replace(command, env=mine), self.top / "last.log", settle=False)

    def bare(self) -> Cost:
        """Read the Boxfiles and do nothing else."""
        argv = (sys.executable, "-c", _BARE)
        return run(Command(argv, self.work, self._ours.env), self.top / "last.log", settle=False)

    def row(self, question: str, before: str) -> Cost:
        """Ask one question of the table."""
        words = _QUESTIONS[question]
        if before == "cold":
            shutil.rmtree(self._store("none"), ignore_errors=True)
            shutil.copytree(self._store("cold"), self._store("none"))
            return self.ask(words, "none")
        self._boxfile.write_text(self._written)
        self.ask(words)  # so that everything but the edit is kept
        self._edits += 1
        if before == "file":
            (self._edited / "src/main.c").write_text(f"int edited{self._edits};\n")
        if before == "boxfile":
            other = self._written.replace("image.title: t", "image.title: x")
            self._boxfile.write_text(f"{other}# {self._edits}\n")
        return self.ask(words)


def rows(
    directory: Path, count: int, quick: bool, ours: Ours, say: Callable[[str], None]
) -> list[Result]:
    """Return the lines of the table; the budget of each is what the bare interpreter takes."""
    rounds = 1 if quick else _ROUNDS
    taken: dict[str, list[Cost]] = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="asking-", dir=directory) as top:
        say(f"{NAME}: making {count:,} targets")
        asking = _Asking(Path(top), count, ours)
        for number in range(rounds):
            say(f"{NAME}: list, query, affected ({number + 1}/{rounds})")
            taken.setdefault(BARE, []).append(asking.bare())
            for key, question, before, _ in _ROWS:
                taken.setdefault(key, []).append(asking.row(question, before))
    bare = median(taken[BARE])
    return list(_results(taken, bare, count, quick, load))


def _results(
    taken: dict[str, list[Cost]], bare: Cost, count: int, quick: bool, load: float
) -> Iterator[Result]:
    for key, question, _, words in _ROWS:
        title = f"{question} of {count:,} targets, {words}"
        budget = None if quick else _RATIO * bare.seconds
        costs = {OURS: median(taken[key]), BARE: bare}
        yield Result(f"{NAME}/{key}", title, budget, costs, {}, len(taken[key]), load)


def main(count: int) -> None:
    """Print the lines as JSON."""
    from peers import Ours

    with tempfile.TemporaryDirectory(prefix="bench-") as top:
        home = Path(top, "home")
        home.mkdir()
        ours = Ours(home)
        ours.start()
        found = rows(Path(top), count, False, ours, lambda text: None)
    for result in found:
        cost, bare = result.costs[OURS], result.costs[BARE]
        row = {"key": result.key, **asdict(cost), "ratio": round(cost.seconds / bare.seconds, 2)}
        row["processor ratio"] = round(cost.cpu / bare.cpu, 2)
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
