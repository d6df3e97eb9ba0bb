"""Knows the order of the suite: which tool runs which workload when, and where results go; must
not know how any of it is done.

    make bench                                everything
    make bench BENCH="40-run copy-many"       these workloads
    make bench BENCH="--quick"                scaled down: seconds instead of minutes
    make bench BENCH="--add copy-large"       keep the other lines of out/bench.json
    make bench BENCH="--fresh"                on a new ext4 in a file: what others removed from the
                                              disk just now does not slow anybody's new files down

Tools take turns (A B A B), cold, unchanged, then with one file changed, and a line shows medians.
No absolute time fails anything: the machine may be shared. What fails the suite is a build of ours
that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import asking
import containers
import registries
import shelves
from chart import draw
from measure import Cost, RunFailed, median, run
from peers import PEERS, ROOT, TRASH, Ours, Tool, tools
from report import BARE, OURS, Result, cost_table, read, speed_table, write
from workloads import FULL, QUICK, WORKLOADS, Job, Phase, Row, Scale, Workload

PLAN = "plan"
_PLAN_BUDGET = 50.0  # microseconds a node
_DISK = 24 << 30  # bytes, sparse: of --fresh
_INODE = 8192  # bytes of the disk for each: a store of a million has as many files


_Way = Callable[[Tool, Job], tuple[str, ...] | None]
_BUILD: _Way = lambda tool, job: tool.build(job)  # noqa: E731 - beside the others
_WAYS: Mapping[Phase, _Way] = {
    "start": lambda tool, job: tool.container(job),
    "plan": lambda tool, job: tool.planned(job),
    "one": lambda tool, job: tool.single(job),
}


class Suite:
    """One run of the suite below one temporary directory."""

    def __init__(self, top: Path, usable: Sequence[Tool], scale: Scale, rounds: int | None):
        self.top = top
        self.usable = usable
        self.scale = scale
        self.rounds = rounds
        self.quick = scale is not FULL
        self.failed_ours = False
        self.results: list[Result] = []
        self._edits = 0

    def everything(self, names: Sequence[str], slow: bool) -> None:
        """Measure these workloads into `results`, with those peers too that take minutes if `slow`.

        What was measured before something fails is there.
        """
        results = self.results
        for workload in WORKLOADS:
            if workload.name in names:
                asked = replace(workload, without=frozenset()) if slow else workload
                results += self.measure(asked)
        ours = next(tool for tool in self.usable if isinstance(tool, Ours))
        if registries.NAME in names and not registries.lacks():
            rounds = self.rounds or (1 if self.quick else 3)
            results += registries.measure(self.top, self.scale, ours, rounds, say)
        if containers.NAME in names and not containers.lacks():
            results += containers.measure(self.quick, say)
        if asking.NAME in names:
            results += asking.rows(self.top, self.scale.asked, self.quick, ours, say)
        if shelves.NAME in names:
            results += shelves.rows(self.top, self.scale.records, self.quick, say)
        if PLAN in names:
            results += self.plans()

    def measure(self, workload: Workload) -> list[Result]:
        """Measure one workload with every tool and remove its files again."""
        directory = self.top / "work" / workload.name
        directory.mkdir(parents=True)
        say(f"{workload.name}: making its files")
        job = workload.make(directory, self.scale)
        taken: dict[tuple[str, str], list[Cost]] = {}
        failed: dict[str, str] = {}
        load = os.getloadavg()[0]
        rounds = self.rounds or (1 if self.quick else workload.rounds)
        for number in range(rounds):
            for tool in self._tools(workload):
                tool.forget()
            for row in self._phases(workload):
                for tool in self._tools(workload):
                    if tool.name not in failed and (row.phase == "cold" or not tool.only_files):
                        say(f"{workload.name}: {row.phase}, {tool.name} ({number + 1}/{rounds})")
                        with self._noted(tool, failed):
                            taken.setdefault((row.phase, tool.name), []).extend(
                                self._row(row, job, tool)
                            )
        for tool in self._tools(workload):
            tool.forget()
        os.rename(directory, self.top / TRASH / workload.name)
        self._drop_large()
        return [self._result(workload, row, taken, failed, load) for row in workload.rows]

    def _drop_large(self) -> None:
        """Make room: few files are nearly all of the bytes, and their removal is soon forgotten."""
        for where, _, names in os.walk(self.top / TRASH):
            for name in names:
                path = os.path.join(where, name)
                if os.path.isfile(path) and os.lstat(path).st_size > 4_000_000:
                    os.unlink(path)

    def _phases(self, workload: Workload) -> list[Row]:
        # A container is started from what a build left.
        first = workload.rows[0]
        return (
            [Row("cold", "", None), *workload.rows] if first.phase == "start" else [*workload.rows]
        )

    def _tools(self, workload: Workload) -> list[Tool]:
        starts = workload.rows[0].phase == "start"
        return [
            tool
            for tool in self.usable
            if tool.name not in workload.without
            and (workload.files if tool.only_files else tool.builds or starts)
        ]

    @contextlib.contextmanager
    def _noted(self, tool: Tool, failed: dict[str, str]) -> Iterator[None]:
        try:
            yield
        except (RunFailed, OSError, subprocess.SubprocessError) as error:
            failed[tool.name] = str(error)
            say(f"  {tool.name} failed: {error}")
            self.failed_ours |= isinstance(tool, Ours)

    def _row(self, row: Row, job: Job, tool: Tool) -> list[Cost]:
        out = []
        for _ in range(1 if self.quick else row.repeat):
            if row.phase in ("changed", "one") and job.edit is not None:
                self._edits += 1
                job.edit.write_text(f"edited {self._edits}\n")
            argv = _WAYS.get(row.phase, _BUILD)(tool, job)
            if argv is not None:
                out.append(run(tool.command(argv, job.directory), self.top / "last.log"))
        return out

    def _result(
        self,
        workload: Workload,
        row: Row,
        taken: dict[tuple[str, str], list[Cost]],
        failed: dict[str, str],
        load: float,
    ) -> Result:
        of_row = {t.name: taken.get((row.phase, t.name), []) for t in self.usable}
        costs = {name: median(costs) for name, costs in of_row.items() if costs}
        missing = {name: text for name, text in failed.items() if name not in costs}
        budget = None if self.quick else row.budget
        runs = max((len(costs) for costs in of_row.values()), default=0)
        key = f"{workload.name}/{row.phase}"
        return Result(key, row.title, budget, costs, missing, runs, load)

    def plans(self) -> list[Result]:
        """Measure planning by itself, a process for each size."""
        out = []
        for nodes in self.scale.nodes:
            say(f"plan: {nodes:,} nodes")
            load = os.getloadavg()[0]
            argv = [sys.executable, str(Path(__file__).with_name("planning.py")), str(nodes)]
            every = [
                json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
                for _ in range(1 if self.quick else 3)
            ]
            mine = sorted(every, key=lambda one: one["seconds"])[len(every) // 2]
            cost = Cost(mine["seconds"], mine["cpu"], mine["peak"], 0)
            parts = ", ".join(
                f"{name.removesuffix('_microseconds')} {mine[name]:.1f}"
                for name in mine
                if name.endswith("_microseconds")
            )
            out.append(
                Result(
                    f"{PLAN}/{nodes}",
                    f"a node of a plan of {nodes:,} ({parts})",
                    None if self.quick else _PLAN_BUDGET,
                    {OURS: cost},
                    {},
                    len(every),
                    load,
                    mine["microseconds"],
                    "us",
                )
            )
        return out


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """Return what the command line and the environment ask for."""
    names = [workload.name for workload in WORKLOADS]
    names += [registries.NAME, containers.NAME, asking.NAME, shelves.NAME, PLAN]
    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    parser = argparse.ArgumentParser(
        prog="make bench", description="Measure us beside the builders that are installed."
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", default=quick, help="scaled down")
    parser.add_argument("--rounds", type=int, help="how often each tool has its turn")
    parser.add_argument(
        "--peers", help=f"some of {','.join(p.name for p in PEERS)}; 'none' for us alone"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where results go")
    parser.add_argument("--dir", default="/var/tmp", help="where to work; a real disk")
    parser.add_argument("--fresh", action="store_true", help="work on a new file system; as root")
    parser.add_argument("--add", action="store_true", help="keep earlier lines of the results")
    parser.add_argument("--slow", action="store_true", help="the peers that take minutes, too")
    chosen = parser.parse_args()
    for name in chosen.workloads:
        if name not in names:
            parser.error(f"no workload {name}; there are {', '.join(names)}")
    chosen.workloads = chosen.workloads or names
    return chosen


@contextlib.contextmanager
def workplace(directory: str, fresh: bool) -> Iterator[Path]:
    """Yield an empty directory, on a file system of its own if asked; it goes afterwards."""
    top = Path(tempfile.mkdtemp(prefix="bgbench-", dir=directory))  # podman allows 50 characters
    try:
        if not fresh:
            yield top
            return
        image, mounted = top / "image", top / "m"
        mounted.mkdir()
        with image.open("wb") as out:
            out.truncate(_DISK)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-i", str(_INODE), image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", mounted], check=True)
    finally:
        shutil.rmtree(top, ignore_errors=True)


def about(versions: dict[str, str], scale: Scale, fresh: bool) -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": scale is not FULL,
        "fresh": fresh,
        "processors": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": versions,
        "written": "file pages made dirty above a disk (ru_oublock, write_bytes of daemons)",
    }


def main() -> int:
    """Run the suite; return the exit code."""
    asked = arguments()
    scale = QUICK if asked.quick else FULL
    wanted = None if asked.peers is None else frozenset(asked.peers.split(","))
    with (
        workplace(asked.dir, asked.fresh) as top,
        tools(top, wanted) as (usable, absent),
    ):
        versions = {tool.name: tool.version() for tool in usable}
        suite = Suite(top, usable, scale, asked.rounds)
        try:
            suite.everything(asked.workloads, asked.slow)
        finally:
            results = suite.results
            if asked.add:
                new = {result.key for result in results}
                results = [r for r in read(asked.out / "bench.json") if r.key not in new] + results
            publish(results, about(versions, scale, asked.fresh), absent, asked.out)
    return 1 if suite.failed_ours else 0


def publish(
    results: Sequence[Result], facts: dict[str, object], absent: dict[str, str], out: Path
) -> None:
    """Print the tables and write the files."""
    order = [OURS, *(peer.name for peer in PEERS), "skopeo", BARE]
    shown = [name for name in order if any(name in r.costs or name in r.failed for r in results)]
    size = "SCALED DOWN, the titles' sizes do not hold; " if facts["quick"] else ""
    caption = f"{size}{facts['date']}, {facts['processors']} processors, Linux {facts['kernel']}"
    print(caption)
    print(speed_table(results, shown))
    print()
    print(cost_table(results, shown))
    for name, reason in absent.items():
        print(f"{name} took no part: {reason}")
    write(out / "bench.json", results, facts, absent)
    (out / "bench.svg").write_text(draw(results, shown, caption))


if __name__ == "__main__":
    sys.exit(main())
