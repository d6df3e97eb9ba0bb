"""Knows how long `list`, `query` and `affected` take in a workspace of many targets, beside a bare
interpreter that reads the Boxfiles; must not know any builder.

A program of its own: `asking.py TARGETS` prints one JSON object. Each target has a package, a
Dockerfile and one file of its own, and needs up to two others. The runs are interleaved, so that
all meet the same machine; the least of several counts, in seconds that passed and in seconds of
the processor (git's included). `first` is the question when nothing was kept of the workspace,
`edited` the one after a change of one file that a step copies, `redefined` the one after a change
of one Boxfile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ROUNDS = 9
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
    "edited": ("affected", "--since", "HEAD", "--why"),
}


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


def timed(words: tuple[str, ...], top: Path, store: Path) -> tuple[float, float]:
    """Run a program of ours and return the seconds that passed, and those of the processor."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "cache", ROOT / "rules")))
    environment = {**os.environ, "PYTHONPATH": paths, "BUILDGRAPH_STORE": str(store)}
    before, began = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, *words], cwd=top, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    passed, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system
    return passed, used - before.children_user - before.children_system


def measure(count: int) -> dict[str, dict[str, float]]:
    """Return seconds by question."""
    programs: dict[str, tuple[str, ...]] = {"bare": ("-c", _BARE)}
    programs |= {name: ("-m", "buildgraph", *words) for name, words in _QUESTIONS.items()}
    out: dict[str, dict[str, float]] = {}

    def note(name: str, passed: float, used: float) -> None:
        best = out.setdefault(name, {"seconds": passed, "processor": used})
        best["seconds"] = min(best["seconds"], passed)
        best["processor"] = min(best["processor"], used)

    with tempfile.TemporaryDirectory(prefix="bench-asking-") as directory:
        top, store = Path(directory, "work"), Path(directory, "store")
        top.mkdir()
        generate(top, count)
        time.sleep(0.1)  # older than the clock's grain
        subprocess.run(["git", "-C", str(top), "status", "-s"], check=True)
        # Makes the store; what is kept is kept in one that is there.
        timed(("-m", "buildgraph", "build", "//p0/t0"), top, store)
        note("first list", *timed(programs["list"], top, store))
        note("first affected", *timed(programs["edited"], top, store))
        with (top / f"p0/t{min(count - 1, 40)}/src/main.c").open("a") as file:
            file.write("\n")
        for _ in range(_ROUNDS):
            for name, words in programs.items():
                note(name, *timed(words, top, store))
        boxfile = top / "p0/t5/Boxfile.yaml"
        boxfile.write_text(boxfile.read_text().replace("title: t5", "title: five"))
        note("redefined", *timed(programs["edited"], top, store))
    bare = out["bare"]
    for row in out.values():
        row["ratio"] = round(row["seconds"] / bare["seconds"], 2)
        row["processor ratio"] = round(row["processor"] / bare["processor"], 2)
        row["seconds"], row["processor"] = round(row["seconds"], 4), round(row["processor"], 4)
    return out


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    sys.stdout.write(json.dumps({"targets": size, **measure(size)}) + "\n")
