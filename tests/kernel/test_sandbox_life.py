"""How containers begin and end: limits, cancelling, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from buildgraph.sandbox.spec import Bind, Limits, to_json


class Traces:
    """What one builder has made on this machine; others may be building beside us."""

    def __init__(self, pid: int):
        self.pid = pid
        self.processes = {child: start_time(child) for child in descendants(pid)}
        self.known = {start_time(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
        mine = [namespaces(child) for child in self.processes]
        self.namespaces = set().union(*mine) - namespaces(os.getpid())
        self.records = set()
        self.helpers = set()
        for child in self.processes:
            with contextlib.suppress(OSError):
                for fd in Path(f"/proc/{child}/fd").iterdir():
                    self._look_at(child, fd)
        self.versions = {version(record) for record in self.records}
        self.links = links(self.records)

    def _look_at(self, process: int, fd: Path) -> None:
        with contextlib.suppress(OSError):
            target = Path(os.readlink(fd))
            if target.parent == Path("/run/buildgraph") and target.name != "lock":
                self.records.add(target)
                self.helpers.add(process)

    def left_records(self) -> set[Any]:
        """Ours that are still there; others may have taken the name since."""
        return {version(record) for record in self.records} & self.versions - {None}

    def living(self) -> dict[str, Any]:
        processes = {pid for pid, start in self.processes.items() if start_time(pid) == start}
        held = set()
        for process in Path("/proc").iterdir():
            # The kernel gives numbers of namespaces out again: younger processes do not count.
            if process.name.isdigit() and start_time(int(process.name)) in self.known:
                held |= namespaces(int(process.name)) & self.namespaces
        found = {"processes": processes, "namespaces": held, "links": links(self.records)}
        return {key: value for key, value in found.items() if value}

    def groups(self) -> set[str]:
        found = set()
        for where, directories, _ in os.walk("/sys/fs/cgroup"):
            found |= {f"{where}/{name}" for name in directories if f"bg-{self.pid}-" in name}
        return found

    def wait_for_death(self, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while self.living() and time.monotonic() < end:
            time.sleep(0.05)
        assert self.living() == {}


def version(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    return info.st_ino, info.st_mtime_ns


def start_time(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "dead"
    return "dead" if fields[0] in "ZX" else fields[19]


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += (task / "children").read_text().split()
    except OSError:
        return []
    out = [pid]
    for child in sorted(set(children)):
        out += descendants(int(child))
    return out


def namespaces(pid: int) -> set[str]:
    found = set()
    for kind in ("net", "mnt", "user", "pid", "ipc", "uts"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found


def links(records: set[Path]) -> set[str]:
    names = re.findall(r"\bbg-[0-9]+-[0-9]+", Path("/proc/net/dev").read_text())
    return {name for name in names for record in records if name.startswith(f"{record.name}-")}


def fresh(box: Any, directory: Path) -> Any:
    """A driver of its own, of the same user."""
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    return type(box)(directory, box.user)


def test_fork_bomb_is_bounded(box: Any) -> None:
    bomb = "f() { f | f & }; f; sleep 2; for i in $(seq 400); do sleep 5 & done; wait"
    result = box.run(bomb, limits=Limits(pids=50, timeout=5))
    if not box.user:
        assert result.status["pids_limit"]
        assert (
            "pids limit"
            in box.run(
                "for i in $(seq 99); do sleep 1 & done; exit 1", limits=Limits(pids=20)
            ).answer["words"]
        )
    assert box.run("echo fine").out == "fine\n"


def test_out_of_memory_is_said(rootbox: Any) -> None:
    hog = "a=x; while true; do a=$a$a; done"
    result = rootbox.run(hog, limits=Limits(memory=32 << 20, memory_swap=32 << 20))
    assert result.code != 0
    assert result.status["oom"]
    assert "out of memory (limit 32 MiB)" in result.answer["words"]
    after = rootbox.run("head -c 20000000 /dev/zero | wc -c", limits=Limits())
    assert after.out.strip() == "20000000"
    assert not after.status["oom"]


def test_limits_that_cannot_be_had_are_said(userbox: Any) -> None:
    warnings = userbox.run("true").answer["warnings"]
    assert any("no limit on" in warning for warning in warnings) or all(
        os.access(path, os.W_OK) for path in ("/sys/fs/cgroup",)
    )


def test_timeout(box: Any) -> None:
    started = time.monotonic()
    result = box.run("sleep 60", limits=Limits(timeout=0.5))
    assert result.status["timed_out"]
    assert time.monotonic() - started < 30  # far from the 60 of the command
    assert "did not end within 0.5 s" in result.answer["words"]


@pytest.mark.slow
def test_timeout_kills_what_ignores_the_first_signal(rootbox: Any) -> None:
    started = time.monotonic()
    result = rootbox.run("trap '' TERM; sleep 60 & sleep 60; sleep 60", limits=Limits(timeout=0.5))
    assert result.status["timed_out"]
    assert 10 < time.monotonic() - started < 40


def test_signals_are_passed_on(box: Any) -> None:
    command = "trap 'echo got it; exit 3' TERM; while true; do sleep 0.05; done"
    result = box.run(command, limits=Limits(timeout=0.5))
    assert (result.out, result.code) == ("got it\n", 3)


def test_cancel_within_a_second(box: Any) -> None:
    started = time.monotonic()
    result = box.run("trap '' TERM; sleep 60", cancel_after=0.3)
    assert result.status["cancelled"]
    assert time.monotonic() - started < 9  # no grace of ten seconds


def test_daemons_die_before_run_returns(box: Any) -> None:
    result = box.run(
        "setsid sh -c 'while true; do date > /late; done' >/dev/null 2>&1 & "
        "(setsid sleep 100 &) ; sleep 0.2; echo done"
    )
    assert result.out == "done\n"
    before = {path.name: path.stat().st_mtime_ns for path in result.upper.iterdir()}
    time.sleep(0.3)
    assert before == {path.name: path.stat().st_mtime_ns for path in result.upper.iterdir()}


def test_log_flood_is_cut(box: Any) -> None:
    result = box.run("yes | head -c 300000000", limits=Limits(log=1 << 20))
    assert result.status["log_truncated"]
    assert result.answer["size"] == 1 << 20
    assert result.answer["rss"] < 150 << 20


def test_output_held_open_by_nobody_ends(box: Any) -> None:
    assert box.run("exec 1>&- 2>&-; sleep 0.3").code == 0


def test_zombies_are_reaped(box: Any) -> None:
    out = box.run(
        "for i in 1 2 3; do sh -c 'sleep 0.05 &'; done; sleep 0.5; cat /proc/[0-9]*/stat"
    ).out
    assert " Z " not in out


def test_many_at_once(box: Any) -> None:
    results = box.run_many([f"sleep 0.2; echo {n}" for n in range(8)])
    assert [result.out.strip() for result in results] == [str(n) for n in range(8)]
    times = [result.status["seconds"] for result in results]
    assert sum(times) > 2 * max(times), "side by side, not one after the other"


@pytest.mark.parametrize("count", [130, 500, 600])
def test_many_layers(box: Any, count: int) -> None:
    layers = [box.lower({f"f{n}": "", "top": f"{n}\n"}) for n in range(count - 1)]
    result = box.run("cat /top; ls / | grep -c ^f; rm /f3 /top", lowers=(*layers, box.image))
    assert result.out.split() == ["0", str(count - 1)]
    assert result.code == 0
    info = (result.upper / "f3").lstat()
    assert (info.st_mode & 0o170000, info.st_rdev) == (0o020000, 0), "a whiteout"


def test_more_layers_than_can_be_stacked(box: Any) -> None:
    many = tuple(box.lower({}) for _ in range(1000))  # the same one twice is stacked once
    assert "flatten" in box.run("true", lowers=(*many, box.image)).error


def test_opaque_directories_are_marked(box: Any) -> None:
    layer = box.lower({"d/old": "old"})
    result = box.run("rm -r /d; mkdir /d; touch /d/new", lowers=(layer, box.image))
    name = "user.overlay.opaque" if box.user else "trusted.overlay.opaque"
    assert os.getxattr(result.upper / "d", name) == b"y"


def test_file_capabilities_are_stored_as_on_any_host(rootbox: Any) -> None:
    """A capability set inside the shifted namespace reads back as version 2 outside."""
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("machine: no /usr/bin/python3 to run inside")
    caps = "b'\\x01\\x00\\x00\\x02' + b'\\x00\\x04\\x00\\x00' + b'\\x00' * 12"
    binds = tuple(Bind(path, path) for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path))
    code = f"import os; open('/f','w'); os.setxattr('/f', 'security.capability', {caps})"
    result = rootbox.run(["/usr/bin/python3", "-S", "-c", code], mounts=binds)
    assert result.code == 0, result.out
    value = os.getxattr(result.upper / "f", "security.capability")
    assert value == b"\x01\x00\x00\x02\x00\x04\x00\x00" + b"\0" * 12


def start_canaries(other: Any, networks: list[str]) -> Traces:
    """Start steps that do not end, and return what is there once all of them run."""
    for number, network in enumerate(networks):
        spec = other.spec("exec sleep 1000", network=network)
        request = {"id": number, "spec": to_json(spec)}
        other.process.stdin.write(json.dumps(request) + "\n")
    other.process.stdin.flush()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        traces = Traces(other.hello["pid"])
        running = [pid for pid in traces.processes if is_canary(pid)]
        if len(running) == len(networks):
            return traces
        time.sleep(0.05)
    pytest.fail("the steps did not start")


def mounts_of(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(directory) in line]


def is_canary(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
    return False


def test_nothing_is_left(box: Any, open_tmp: Path) -> None:
    other = fresh(box, open_tmp).start()
    networks = ["none", "none", "host"] + ([] if box.user else ["default", "default"])
    results = other.run_many([other.spec("setsid sleep 50 & true", network=n) for n in networks])
    assert [result.code for result in results] == [0] * len(networks)
    traces = Traces(other.hello["pid"])
    assert len(traces.processes) >= 3
    assert box.user or len(traces.links) == 2
    other.stop()
    assert traces.living() == {}, "at once: the builder waits for it"
    assert traces.groups() == set()
    assert mounts_of(open_tmp) == []
    assert traces.left_records() == set()


def test_nothing_is_left_after_kill_9(box: Any, open_tmp: Path) -> None:
    other = fresh(box, open_tmp / "first").start()
    traces = start_canaries(other, ["none"] + ([] if box.user else ["default"]))
    os.kill(other.hello["pid"], signal.SIGKILL)
    other.process.stdin.close()
    other.process.stdout.close()
    other.process.wait(10)
    traces.wait_for_death()
    assert mounts_of(open_tmp) == []
    # Control groups go with the next start, as does a record whose helper was killed too.
    second = fresh(box, open_tmp / "second").start()
    second.run("true")
    second.stop()
    assert traces.groups() == set()
    assert traces.left_records() == set()


def test_everything_killed_at_once_is_swept(rootbox: Any, open_tmp: Path) -> None:
    other = fresh(rootbox, open_tmp / "first").start()
    traces = start_canaries(other, ["default"])
    # The helper first: it would clean up when it sees the builder die.
    for pid in [*traces.helpers, *traces.processes]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    other.process.stdin.close()
    other.process.stdout.close()
    other.process.wait(10)
    traces.wait_for_death()
    # It was written to until the end: places for networks are made ahead of need.
    traces.versions = {version(record) for record in traces.records} - {None}
    assert traces.left_records(), "nobody was left to remove it"
    second = fresh(rootbox, open_tmp / "second").start()
    assert second.run("true", network="default").code == 0
    second.stop()
    assert traces.groups() == set()
    assert traces.left_records() == set()
