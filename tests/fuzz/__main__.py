"""Knows how all readers are fuzzed side by side in a bounded time: `python tests/fuzz [SECONDS]
[READER...]`; must not know what any reader is held to.

An input that breaks a reader is left in build/fuzz/READER (or `$FUZZ_KEPT`), is printed, and
belongs into a test once it is understood.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = (
    "atheris is not installed (it has no wheel for every Python and machine), so inputs are made at "
    "random, not by coverage\n"
)


def main() -> int:
    sys.path[:0] = [str(ROOT / part) for part in ("", "cache", "rules", "tests")]
    from fuzz.targets import TARGETS

    words = argparse.ArgumentParser(prog="tests/fuzz", description="Fuzz what reads foreign bytes.")
    words.add_argument("seconds", nargs="?", type=int, default=60, help="for all readers together")
    words.add_argument("readers", nargs="*", metavar="READER", help=" ".join(TARGETS))
    asked = words.parse_args()
    readers = asked.readers or list(TARGETS)
    if unknown := sorted({*readers} - {*TARGETS}):
        words.error(f"no such reader: {', '.join(unknown)}; there are {' '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write(WITHOUT)
    jobs = min(len(readers), os.cpu_count() or 1)
    each = max(1, asked.seconds * jobs // len(readers))
    with tempfile.TemporaryDirectory(prefix="bg-fuzz-") as directory:
        with ThreadPoolExecutor(jobs) as pool:
            done = list(pool.map(lambda name: fuzz(name, each, Path(directory) / name), readers))
    return int(any(done))


def fuzz(name: str, seconds: int, directory: Path) -> bool:
    """Fuzz one reader; say whether something is wrong with it."""
    path = os.pathsep.join(str(ROOT / part) for part in ("", "cache", "rules", "tests"))
    command = [sys.executable, str(Path(__file__).with_name("one.py")), name, str(seconds)]
    try:
        ended = subprocess.run(
            [*command, str(directory)],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=seconds + 60,
        )
        code, said = ended.returncode, (ended.stdout + ended.stderr).decode(errors="replace")
    except subprocess.TimeoutExpired:
        code, said = 1, "it did not end\n"
    if code == 0:
        sys.stdout.write(f"{name}: well, after {seconds} s\n")
        return False
    lines = [line for line in said.splitlines() if not line.startswith(("INFO: ", "WARNING: "))]
    sys.stdout.write(f"{name}: FAILED\n" + "\n".join(lines)[-6000:] + "\n")
    kept = Path(os.environ.get("FUZZ_KEPT", ROOT / "build" / "fuzz")) / name
    for path in directory.glob("*-*"):
        data = path.read_bytes()
        kept.mkdir(parents=True, exist_ok=True)
        (kept / path.name).write_bytes(data)
        sys.stdout.write(f"{name}: {data[:2000]!r} is in {kept / path.name}\n")
    return True


if __name__ == "__main__":
    sys.exit(main())
