"""Runs the program as `python -m buildgraph` does and writes down what it did, in things that can be
counted. A program of its own: `counting.py OUT WORDS...`; the product knows nothing of it.

Counted are calls of every function of ours, bytes that went into sha256, files that Python opened,
processes that Python started, bytes that went through read(2) and write(2) and the like
(proc(5), io), and the modules that are loaded at the end.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import runpy
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_ROOTS = ("buildgraph", "buildgraph_cache", "buildgraph_rules")
_STARTS = ("os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen")


class _Sha256:
    """hashlib.sha256, and how much went into all of them."""

    made = hashlib.sha256
    guard = threading.Lock()
    bytes = 0

    def __init__(self, data: Any = b"", **more: Any):
        self._hash = self.made(**more)
        self.update(data)

    def update(self, data: Any) -> None:
        with self.guard:
            type(self).bytes += memoryview(data).nbytes
        self._hash.update(data)

    def copy(self) -> _Sha256:
        other = _Sha256()
        other._hash = self._hash.copy()
        return other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hash, name)


class _Calls:
    """How often each function of ours was called, by `module:qualified name`."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._all: list[collections.Counter[Any]] = []

    def start(self) -> None:
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        counts = getattr(self._mine, "counts", None)
        if counts is None:
            counts = self._mine.counts = collections.Counter()
            self._all.append(counts)
        counts[frame.f_code] += 1

    def named(self) -> dict[str, int]:
        sys.setprofile(None)
        out: collections.Counter[str] = collections.Counter()
        for counts in self._all:
            for code, count in counts.items():
                parts = Path(code.co_filename).with_suffix("").parts
                at = [n for n, part in enumerate(parts) if part in _ROOTS]
                if at:
                    out[f"{'.'.join(parts[at[-1] :])}:{code.co_qualname}"] += count
        return out


def main(out: str, words: list[str]) -> None:
    """Run, and write what was counted to `out` whatever happens."""
    opened: list[str] = []
    started: list[str] = []

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            opened.append(os.fsdecode(arguments[0]))
        elif event in _STARTS:
            started.append(event)

    hashlib.sha256 = _Sha256  # type: ignore[assignment, misc]
    sys.addaudithook(audit)
    before = _through()
    calls = _Calls()
    sys.argv = ["buildgraph", *words]
    calls.start()
    try:
        runpy.run_module("buildgraph", run_name="__main__", alter_sys=True)
    finally:
        named = calls.named()
        after = _through()
        counted = {
            "calls": named,
            "hashed": _Sha256.bytes,
            "opened": list(opened),
            "started": list(started),
            "read": after["rchar"] - before["rchar"],
            "written": after["wchar"] - before["wchar"],
            "modules": sorted(sys.modules),
        }
        Path(out).write_text(json.dumps(counted))


def _through() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, _, value in (line.partition(":") for line in lines)}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
