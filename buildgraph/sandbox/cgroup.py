"""Knows control groups, version 1, 2 and both at once; must not know what runs in them.

One parent directory `bg-<pid>-<start>` a builder in each hierarchy, one child of it a slot. A slot
serves container after container: attaching a process to a version 1 group costs up to 20 ms (it
waits for an RCU grace period), so it is done once a slot, and the containers are born inside.
Killing is not done here: the end of a pid namespace's first process kills the rest.

Owners hold a `flock` on the parent directory, so the kernel itself says who is dead: a group whose
lock can be had belongs to nobody and is swept. A reboot removes all of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from buildgraph.sandbox.spec import Limits

_WANTED: Final = ("memory", "pids", "cpu")
_PREFIX: Final = "bg-"
_PERIOD: Final = 100_000  # microseconds, the kernel's default
_UNLIMITED: Final = 1 << 62


class Hierarchy(Struct, frozen=True):
    """A mounted hierarchy: where this process is in it, and which of our controllers it has."""

    version: int
    mount: str
    own: str
    controllers: tuple[str, ...]


def hierarchies() -> list[Hierarchy]:
    """Return the mounted hierarchies that have a controller of use to us. Reads /proc only."""
    paths = {}  # controller or "" for version 2 -> own path
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    found = []
    for root, mount, kind, options in _cgroup_mounts():
        if kind == "cgroup2":
            own = _own(mount, root, paths.get("", "/"))
            try:
                available = Path(own, "cgroup.controllers").read_text().split()
            except OSError:
                continue
        else:
            available = [name for name in options if name in _WANTED]
            own = _own(mount, root, paths.get(available[0], "/")) if available else mount
        controllers = tuple(name for name in _WANTED if name in available)
        if controllers:
            found.append(Hierarchy(2 if kind == "cgroup2" else 1, mount, own, controllers))
    return found


def _own(mount: str, root: str, path: str) -> str:
    """Return where `path` of a hierarchy is, of which `root` is mounted on `mount`."""
    below = path[len(root) :] if root != "/" and path.startswith(root) else path
    return os.path.normpath(f"{mount}/{below}") if not path.startswith("/..") else mount


def _cgroup_mounts() -> list[tuple[str, str, str, list[str]]]:
    """Return (root, mount point, kind, super options) from proc_pid_mountinfo(5)."""
    rows = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = left.split(" ")
            rows.append((fields[3], fields[4], kind, options.split(",")))
    return rows


class SlotGroup(Struct):
    """The control groups of one slot. Not thread-safe: one container at a time."""

    directories: dict[str, str]  # controller -> directory
    versions: dict[str, int]
    join: tuple[str, ...]  # files to write "0" to, version 1
    into: str  # directory to be born into, version 2, or ""
    overhead: int  # processes of ours inside
    written: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def apply(self, limits: Limits, memory: int | None) -> None:
        """Set the limits of the next container; writes only what differs from the last.

        `memory` is the limit in bytes. Raises OSError.
        """
        if "memory" in self.directories:
            self._apply_memory(memory, limits.memory_swap, explicit=limits.memory is not None)
        if "pids" in self.directories:
            pids = "max" if limits.pids is None else str(limits.pids + self.overhead)
            self._write("pids", "pids.max", pids)
        if "cpu" in self.directories:
            quota = -1 if limits.cpus is None else max(1000, int(limits.cpus * _PERIOD))
            if self.versions["cpu"] == 2:
                value = f"{'max' if quota < 0 else quota} {_PERIOD}"
                self._write("cpu", "cpu.max", value)
            elif quota >= 0 or "cpu.cfs_quota_us" in self.written:
                self._write("cpu", "cpu.cfs_quota_us", str(quota))

    def _apply_memory(self, memory: int | None, both: int | None, *, explicit: bool) -> None:
        if both is None and memory is not None and explicit:
            both = 2 * memory  # docker's default: as much swap again
        if self.versions["memory"] == 2:
            swap = "max" if both is None or memory is None else str(max(0, both - memory))
            self._write("memory", "memory.max", "max" if memory is None else str(memory))
            self._write("memory", "memory.swap.max", swap, optional=True)
            self._write("memory", "memory.oom.group", "1", optional=True)
            return
        # memory.limit may never be above memory.memsw.limit, not even for a moment.
        wanted = memory if memory is not None else _UNLIMITED
        total = str(max(both, wanted)) if both is not None else str(_UNLIMITED)
        if self.written.get("memory.limit_in_bytes") == str(wanted) and (
            self.written.get("memory.memsw.limit_in_bytes") == total
        ):
            return
        if "memory.memsw.limit_in_bytes" in self.written:
            self._write("memory", "memory.memsw.limit_in_bytes", "-1", optional=True)
        self._write("memory", "memory.limit_in_bytes", str(wanted))
        if both is not None:
            self._write("memory", "memory.memsw.limit_in_bytes", total, optional=True)

    def _write(self, controller: str, name: str, value: str, *, optional: bool = False) -> None:
        if self.written.get(name) == value:
            return
        try:
            Path(self.directories[controller], name).write_text(value)
        except FileNotFoundError:
            if not optional:
                raise
        self.written[name] = value

    def events(self) -> tuple[bool, bool]:
        """Return (a process was killed for memory, a fork was refused) since the last call."""
        oom = self._grown("memory", "memory.oom_control", "memory.events", "oom_kill")
        pids = self._grown("pids", "pids.events", "pids.events", "max")
        return oom, pids

    def kills(self) -> int:
        """Return how many processes were killed for memory so far, `events` apart."""
        return self._count("memory", "memory.oom_control", "memory.events", "oom_kill")

    def _grown(self, controller: str, name_v1: str, name_v2: str, key: str) -> bool:
        count = self._count(controller, name_v1, name_v2, key)
        before = self.counts.get(controller, 0)
        self.counts[controller] = count
        return count > before

    def _count(self, controller: str, name_v1: str, name_v2: str, key: str) -> int:
        directory = self.directories.get(controller)
        if directory is None:
            return 0
        name = name_v2 if self.versions[controller] == 2 else name_v1
        count = 0
        with contextlib.suppress(OSError):
            for line in Path(directory, name).read_text().splitlines():
                word, _, number = line.partition(" ")
                if word == key:
                    count = int(number)
        return count


class ControlGroups:
    """The groups of one builder. `warnings` says in words what cannot be limited here."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._parents: list[tuple[Hierarchy, str, int]] = []  # hierarchy, directory, lock fd
        self._moved: list[tuple[str, str]] = []  # own group, leaf this process was moved to
        self._slots = 0

    def open(self) -> None:
        """Make the parents and sweep those of dead builders. Never raises for want of rights."""
        missing = list(_WANTED)
        for hierarchy in hierarchies():
            try:
                self._open_parent(hierarchy)
            except OSError as error:
                self.warnings.append(
                    f"no limit on {', '.join(hierarchy.controllers)}: {error.strerror} "
                    f"({hierarchy.own}){_instead(hierarchy.controllers)}"
                )
            missing = [name for name in missing if name not in hierarchy.controllers]
        if missing:
            what = ", ".join(missing)
            self.warnings.append(f"no limit on {what}: no such controller{_instead(missing)}")

    def _open_parent(self, hierarchy: Hierarchy) -> None:
        base = hierarchy.own
        if hierarchy.version == 2:
            base = self._base_v2(hierarchy)
        sweep(base)
        path, lock = _make_locked(base)
        try:
            if hierarchy.version == 2:
                _enable(path, hierarchy.controllers)
        except OSError:
            os.close(lock)
            os.rmdir(path)
            raise
        self._parents.append((hierarchy, path, lock))

    def _base_v2(self, hierarchy: Hierarchy) -> str:
        """Return a group whose children have our controllers, cgroups(7) "no internal processes".

        Ours, where it is the root or holds nobody but us (then we move into a leaf of it); for
        root otherwise the top of the mount.
        """
        own = hierarchy.own
        try:
            _enable(own, hierarchy.controllers)
            return own
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        if Path(own, "cgroup.procs").read_text().split() == [str(os.getpid())]:
            leaf = f"{own}/{_PREFIX}{os.getpid()}-builder"
            os.mkdir(leaf)
            Path(leaf, "cgroup.procs").write_text(str(os.getpid()))
            self._moved.append((own, leaf))
            _enable(own, hierarchy.controllers)
            return own
        _enable(hierarchy.mount, hierarchy.controllers)
        return hierarchy.mount

    def limits(self, controller: str) -> bool:
        """Say whether `controller` can be limited here. Complete after `open`."""
        return any(controller in hierarchy.controllers for hierarchy, _, _ in self._parents)

    def new_slot(self) -> SlotGroup:
        """Make the groups of one more slot. Call it under a lock."""
        self._slots += 1
        directories, versions, join, into = {}, {}, [], ""
        for hierarchy, parent, _ in self._parents:
            path = f"{parent}/s{self._slots}"
            os.mkdir(path)
            for name in hierarchy.controllers:
                directories[name] = path
                versions[name] = hierarchy.version
            if hierarchy.version == 2:
                into = path
            else:
                join.append(f"{path}/cgroup.procs")
        # The container's first process is ours; on version 1 so is the slot that sits inside.
        overhead = 1 if versions.get("pids") == 2 else 2
        return SlotGroup(directories, versions, tuple(join), into, overhead)

    def close(self) -> None:
        """Remove everything made here; every process in it is dead. Idempotent."""
        for hierarchy, path, lock in self._parents:
            _remove(path)
            os.close(lock)
            for own, leaf in self._moved:
                with contextlib.suppress(OSError):
                    _enable(own, hierarchy.controllers, sign="-")
                    Path(own, "cgroup.procs").write_text(str(os.getpid()))
                    os.rmdir(leaf)
        self._parents.clear()
        self._moved.clear()


def _instead(controllers: Sequence[str]) -> str:
    """Name the weaker thing that stands in for a controller."""
    if "pids" not in controllers:
        return ""
    return "; instead RLIMIT_NPROC counts the processes of all of a user's containers together"


def _enable(directory: str, controllers: tuple[str, ...], sign: str = "+") -> None:
    file = Path(directory, "cgroup.subtree_control")
    if sign == "+" and set(controllers) <= set(file.read_text().split()):
        return
    file.write_text(" ".join(f"{sign}{name}" for name in controllers))


def _start_time(pid: int) -> str:
    """Return when a process began, in ticks since boot, proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _make_locked(base: str) -> tuple[str, int]:
    """Make our directory in `base` and lock it; a sweeper may take it away in between."""
    name = f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}"
    for attempt in range(20):
        path = f"{base}/{name}" if not attempt else f"{base}/{name}.{attempt}"
        try:
            os.mkdir(path)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileExistsError, FileNotFoundError):
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path):
                return path, lock
        except BlockingIOError:
            pass
        os.close(lock)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), base)


def sweep_dead() -> int:
    """Remove the groups of dead builders wherever this one would make its own; return how many.

    For the start of a program: one directory is listed a hierarchy. Never raises.
    """
    swept = 0
    with contextlib.suppress(OSError):
        for hierarchy in hierarchies():
            for base in {hierarchy.own, hierarchy.mount}:
                swept += sweep(base)
                _remove_leaves(base)
    return swept


def _remove_leaves(base: str) -> None:
    """Remove the leaves that dead builders had moved into; a number used again keeps one longer."""
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            pid = name.removeprefix(_PREFIX).removesuffix("-builder")
            if name == f"{_PREFIX}{pid}-builder" and not os.path.exists(f"/proc/{pid}"):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{base}/{name}")


def sweep(base: str) -> int:
    """Remove the groups in `base` whose builder is dead; return how many. Never raises."""
    swept = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            if not name.startswith(_PREFIX) or name.endswith("-builder"):
                continue
            path = f"{base}/{name}"
            with contextlib.suppress(OSError):
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _kill(path)
                    _remove(path)
                    swept += 1
                finally:
                    os.close(lock)
    return swept


def _kill(directory: str) -> None:
    """Kill what is left inside: slots end with their builder, so at most for a moment."""
    for path in [directory, *_children(directory)]:
        with contextlib.suppress(OSError):
            Path(path, "cgroup.kill").write_text("1")


def _children(directory: str) -> list[str]:
    return [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]


def _remove(directory: str) -> None:
    """Remove a parent and its slots; a group stays busy until its last process is reaped."""
    import time

    for path in [*_children(directory), directory]:
        for _ in range(100):
            try:
                os.rmdir(path)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.01)
