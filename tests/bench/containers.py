"""Knows how long a container takes from start to end in a process that already runs, beside `runc
run` of the same root in turns with it; must not know any builder.

The work is `true` over one layer: namespaces, mounts, rights, exec, end. Ours is what a test or the
second RUN of a build pays; runc has to start itself, which is part of what it costs everybody who
uses it. A program of its own: `containers.py TIMES` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from measure import Cost
from report import OURS, Result

ROOT = Path(__file__).resolve().parents[2]
NAME = "container"
_SHARE = 3  # at most this part of runc's time
_APPLETS = ("true", "sh")


def lacks() -> str:
    """Return why this cannot be measured here, or nothing."""
    missing = [name for name in ("runc", "busybox") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    return "" if os.geteuid() == 0 else "needs root"


def measure(quick: bool, say: Callable[[str], None]) -> list[Result]:
    """Return the line of the table; its budget is a third of what runc took beside it."""
    say("container: starting `true` in turns with runc")
    load = os.getloadavg()[0]
    times = 3 if quick else 40
    argv = [sys.executable, str(Path(__file__)), str(times)]
    took = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    costs = {
        OURS: Cost(took["ours"], took["cpu"], took["peak"], 0),
        "runc": Cost(took["runc"], took["runc_cpu"], 0, 0),
    }
    budget = None if quick else took["runc"] / _SHARE
    title = "`true` in a container, in a process that runs"
    return [Result(f"{NAME}/again", title, budget, costs, {}, times, load)]


def _make_root(top: Path) -> Path:
    root = top / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    for name in _APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    return root


def _make_bundle(top: Path, root: Path) -> Path:
    bundle = top / "bundle"
    bundle.mkdir()
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/true"]}
    config["root"]["path"] = str(root)
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def main() -> None:
    """Measure in turns and print medians in seconds."""
    sys.path[:0] = [str(ROOT), str(ROOT / "cache")]
    from buildgraph.sandbox.host import SandboxHost
    from buildgraph.sandbox.spec import SandboxSpec

    top = Path(tempfile.mkdtemp(prefix="bgbench-", dir="/var/tmp"))
    ours, runc = [], []
    try:
        root = _make_root(top)
        bundle = _make_bundle(top, root)
        words = ["runc", "--root", str(top / "state"), "run", "-b", str(bundle)]
        with SandboxHost(top) as host:
            for number in range(int(sys.argv[1]) + 1):
                place = top / f"c{number}"
                began = time.perf_counter()
                for name in ("", "up", "work"):
                    os.mkdir(place / name)
                spec = SandboxSpec(
                    lowers=(str(root),),
                    args=("/bin/true",),
                    upper=str(place / "up"),
                    work=str(place / "work"),
                    network="none",
                    no_new_privs=True,
                    init=False,
                )
                with host.start(spec, lambda _: None) as container:
                    status = container.wait()
                    assert status is not None
                    assert status.ok
                ours.append(time.perf_counter() - began)
                began = time.perf_counter()
                subprocess.run(
                    [*words, f"bgbench-{os.getpid()}"], stdin=subprocess.DEVNULL, check=True
                )
                runc.append(time.perf_counter() - began)
        mine, theirs = (
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
    finally:
        shutil.rmtree(top, ignore_errors=True)
    count = len(ours)
    answer = {
        "ours": median(ours[1:]),  # the first one starts the zygote
        "runc": median(runc[1:]),
        "cpu": (mine.ru_utime + mine.ru_stime) / count,
        "runc_cpu": (theirs.ru_utime + theirs.ru_stime) / count,
        "peak": mine.ru_maxrss * 1024,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
