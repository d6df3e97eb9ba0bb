"""Knows how to run one command and what it cost: seconds, processor, memory, bytes written; must
not know whose command it is or why it is run.

Where the figures come from, all of them the kernel's own accounts:

- wall seconds: the monotonic clock round start and end of the command;
- CPU seconds: user and system time of the command and all descendants that were waited for
  (wait4(2)), plus what the daemons that work for it spent meanwhile (/proc/PID/stat);
- peak memory: the largest resident set of any one process (ru_maxrss; VmHWM of a daemon, which is
  reset before the run). A process starts with the peak of the one that forked it, so this process
  has to stay small: files are made in pieces of a megabyte;
- bytes written: pages that were made dirty on a file system with a disk below it (ru_oublock, the
  same account as write_bytes in /proc/PID/io). A file that is removed before it reaches the disk
  counts; what a kernel thread writes back later is not counted twice.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_BLOCK = 512  # getrusage(2): ru_oublock
_TIMEOUT = 600.0


class RunFailed(Exception):
    """A measured command failed; the message holds the end of what it said."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, where, and the daemons that do its work."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    daemons: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run cost, or the medians of several; bytes and seconds."""

    seconds: float
    cpu: float
    peak: int
    written: int


def run(command: Command, log: Path, *, settle: bool = True) -> Cost:
    """Run a command to its end and return its cost; raises RunFailed unless it exits with 0.

    `settle` first waits for the disk: what the last run left to be written must not be paid by
    this one. What writes nothing need not wait.
    """
    if settle:
        os.sync()
    for pid in command.daemons:
        _forget_peak(pid)
    before = [_daemon_cost(pid) for pid in command.daemons]
    with log.open("wb") as out:
        started = time.monotonic()
        child = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env=dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status, usage = _wait(child)
        seconds = time.monotonic() - started
    after = [_daemon_cost(pid) for pid in command.daemons]
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RunFailed(f"{' '.join(command.argv)[:300]} exited with {status}:\n{tail}")
    return Cost(
        seconds,
        usage.ru_utime
        + usage.ru_stime
        + sum(b.cpu - a.cpu for a, b in zip(before, after, strict=True)),
        max([usage.ru_maxrss * 1024, *(cost.peak for cost in after)]),
        usage.ru_oublock * _BLOCK
        + sum(b.written - a.written for a, b in zip(before, after, strict=True)),
    )


def _wait(child: subprocess.Popen[bytes]) -> tuple[int, os.struct_rusage]:  # type: ignore[name-defined]
    late = threading.Timer(_TIMEOUT, os.killpg, (child.pid, signal.SIGKILL))
    late.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:
        os.killpg(child.pid, signal.SIGTERM)
        raise
    finally:
        late.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure by itself."""
    return Cost(
        statistics.median(c.seconds for c in costs),
        statistics.median(c.cpu for c in costs),
        int(statistics.median(c.peak for c in costs)),
        int(statistics.median(c.written for c in costs)),
    )


# -- daemons -----------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """Return a process and everything below it that lives."""
    out = [pid]
    for one in out:
        try:
            tasks = os.listdir(f"/proc/{one}/task")
            for task in tasks:
                text = Path(f"/proc/{one}/task/{task}/children").read_text()
                out.extend(int(word) for word in text.split())
        except OSError:
            continue  # it has ended
    return out


def _daemon_cost(pid: int) -> Cost:
    cpu, peak, written = 0, 0, 0
    for one in descendants(pid):
        try:
            # proc(5): the name may hold anything, so count from its closing bracket; utime, stime,
            # and both of the children that were waited for.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            cpu += sum(int(field) for field in fields[11:15])
            peak = max(peak, _field(one, "status", "VmHWM:") * 1024)
            written += _field(one, "io", "write_bytes:")
        except OSError:
            continue
    return Cost(0.0, cpu / _TICKS, peak, written)


def _field(pid: int, file: str, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _forget_peak(pid: int) -> None:
    for one in descendants(pid):
        try:
            Path(f"/proc/{one}/clear_refs").write_text("5")  # proc(5): resets VmHWM
        except OSError:
            continue
