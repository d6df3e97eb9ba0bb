"""Knows what a store costs that holds a million things; must not know any builder.

A program of its own, so that its memory is its own: `shelves.py PHASE DIRECTORY COUNT` prints one
JSON object. `fill` makes a store with COUNT records and as many blobs, each record with the blob it
leads to: records by the store's own calls in bulk, files by themselves, since a million calls
measure the disk. `use` opens it as a build does and asks, writes and publishes a few hundred
times; `du` measures it; `gc` takes a few objects away. What `use` costs must not grow with COUNT;
`du` and `gc` may be linear.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "cache")]

from measure import Cost  # noqa: E402
from report import OURS, Result  # noqa: E402

from buildgraph_cache.digest import Digest  # noqa: E402
from buildgraph_cache.objects import blob_ref  # noqa: E402
from buildgraph_cache.store import Store  # noqa: E402

NAME = "store"
_CALLS = 300
_BATCH = 5000
_REMOVED = 10
# What builds do with a store, and at most how many microseconds it may take.
_USES = {
    "open": ("opening the store", 10_000.0),
    "get_record": ("a record looked up under a lease", 100.0),
    "put_record": ("a record written", 200.0),
    "put_blob": ("a small blob stored", 500.0),
}


def _blob(number: int) -> tuple[bytes, Digest]:
    data = b"blob %d\n" % number
    return data, Digest("sha256:" + hashlib.sha256(data).hexdigest())


def fill(top: str, count: int) -> dict[str, float]:
    """Make the store. Rows of objects are written as publishing would, but thousands at once."""
    began = time.process_time()
    with Store.open(top) as store, store.lease():
        for number in range(256):
            os.makedirs(f"{top}/blobs/sha256/{number:02x}", mode=0o700, exist_ok=True)
        for start in range(0, count, _BATCH):
            numbers = range(start, min(count, start + _BATCH))
            blobs = [_blob(number) for number in numbers]
            for data, digest in blobs:
                path = store.layout.blob(digest[7:])
                fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
                os.write(fd, data)
                os.close(fd)
            names = [blob_ref(digest) for _, digest in blobs]
            _vouch(store, names)
            store.put_records(
                "layer",
                [
                    (n, b"{}" * 50, (name,))
                    for n, name in zip(map(str, numbers), names, strict=True)
                ],
            )
            store._session.soft.records.clear()  # a build has hundreds, not a million
    return {"seconds": time.process_time() - began}


def _vouch(store: Store, names: list[str]) -> None:
    session = store._session
    sql = "INSERT OR IGNORE INTO objects VALUES(?,?,1,?,4096,NULL)"
    rows = [(name, session.stamp, session.boot) for name in names]

    def change(connection: sqlite3.Connection) -> None:
        connection.executemany(sql, rows)

    session.index.write(change)


def _each(calls: int, call: Callable[[int], Any]) -> float:
    """Return the median microseconds of a call."""
    took = []
    for number in range(calls):
        began = time.perf_counter()
        call(number)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def use(top: str, count: int) -> dict[str, float]:
    """Return the microseconds of what builds do with a store."""
    opened = _each(20, lambda _: Store.open(top).close())
    with Store.open(top) as store, store.lease():
        step = max(1, count // _CALLS)
        found = _each(_CALLS, lambda n: store.get_record("layer", str(n * step)))
        missed = _each(_CALLS, lambda n: store.get_record("layer", f"none{n}"))
        wrote = _each(_CALLS, lambda n: store.put_record("step", f"{os.getpid()}.{n}", b"{}" * 50))
        stored = _each(_CALLS, lambda n: store.put_blob(b"%d.%d" % (os.getpid(), n)))
        began = time.perf_counter()
        store.sync()
        synced = time.perf_counter() - began
    return {
        "open": opened,
        "get_record": found,
        "miss": missed,
        "put_record": wrote,
        "put_blob": stored,
        "sync": synced * 1e6,
    }


def du(top: str, count: int) -> dict[str, float]:
    """Measure the store as `cache du` does."""
    with Store.open(top) as store:
        began = time.perf_counter()
        report = store.du()
        seconds = time.perf_counter() - began
        assert sum(part.count for part in report.parts if part.kind == "blobs") >= count
    return {"seconds": seconds}


def collect(top: str, count: int) -> dict[str, float]:
    """Take a few objects away that nothing refers to, as the next `cache gc` would."""
    with Store.open(top) as store:
        for number in range(_REMOVED):
            store.delete_record("layer", str(number))
        began = time.perf_counter()
        report = store.gc()
        seconds = time.perf_counter() - began
        assert report.objects >= _REMOVED, report
    return {"seconds": seconds, "objects": report.objects}


_PHASES = {"fill": fill, "use": use, "du": du, "gc": collect}


def rows(top: Path, count: int, quick: bool, say: Callable[[str], None]) -> list[Result]:
    """Return the lines of the table for a store of `count` records and blobs."""
    out: list[Result] = []
    load = os.getloadavg()[0]
    told = f"{count:,} records and blobs"
    with tempfile.TemporaryDirectory(prefix="store-", dir=top) as directory:
        store = f"{directory}/store"
        for phase in _PHASES:
            say(f"store of {told}: {phase}")
            argv = [sys.executable, str(Path(__file__)), phase, store, str(count)]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            figures = json.loads(done.stdout)
            cost = Cost(figures.get("seconds", 0.0), figures["cpu"], figures["peak"], 0)
            key = f"{NAME}/{phase}"
            if phase == "use":
                out += (
                    Result(
                        f"{NAME}/{name}",
                        f"{words}, among {told}",
                        None if quick else budget,
                        {OURS: Cost(figures[name] / 1e6, 0.0, figures["peak"], 0)},
                        {},
                        _CALLS,
                        load,
                        figures[name],
                        "us",
                    )
                    for name, (words, budget) in _USES.items()
                )
            elif phase != "fill":
                title = f"cache {phase}, {told}"
                out.append(Result(key, title, None, {OURS: cost}, {}, 1, load))
    return out


if __name__ == "__main__":
    gc.set_threshold(50_000, 20, 50)  # as buildgraph/__main__.py
    answer = _PHASES[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    answer |= {"cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}
    sys.stdout.write(json.dumps(answer) + "\n")
