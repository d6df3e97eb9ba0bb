"""Knows how an ordinary user's process becomes root of a user namespace; must not know why.

Called once, before any thread is started and before the store is opened. With a range of
subordinate ids (/etc/subuid, /etc/subgid, newuidmap, newgidmap) files of an image keep all their
owners; without one there is a single id, and packages that need others cannot be installed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from buildgraph import kernel as k
from buildgraph.errors import HostError

_PROGRAMS: Final = "/usr/bin:/usr/local/bin:/bin:/usr/sbin:/sbin"
_WANTED: Final = 65_536


class Entered(Struct, frozen=True):
    """What `enter` obtained. `detail` says in words what is missing, "" where nothing is."""

    mode: Literal["root", "already", "ranges", "single"]
    ids: int
    detail: str = ""


class Ranges(Struct, frozen=True):
    """Subordinate ids of a user: (first, count) pairs."""

    uids: tuple[tuple[int, int], ...]
    gids: tuple[tuple[int, int], ...]


def subordinate_ranges(uid: int, uids: str = "/etc/subuid", gids: str = "/etc/subgid") -> Ranges:
    """Return what subuid(5) and subgid(5) grant to a user, by name or number."""
    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    return Ranges(_ranges(uids, names), _ranges(gids, names))


def _ranges(path: str, names: set[str]) -> tuple[tuple[int, int], ...]:
    found = []
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(errors="replace").splitlines():
            parts = line.strip().split(":")
            if len(parts) == 3 and parts[0] in names and parts[1].isdigit() and parts[2].isdigit():
                found.append((int(parts[1]), int(parts[2])))
    return tuple(found)


def mapped_here() -> int:
    """Return how many user ids this process's namespace has; 2**32 - 1 = the first one."""
    rows = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return sum(int(row[2]) for row in rows)


def enter() -> Entered:
    """Make this process root of a user and mount namespace, unless it already has the rights.

    Raises HostError where the kernel forbids it. Must be called while there is one thread.
    """
    if os.geteuid() == 0 and _can_administer():
        ids = mapped_here()
        return Entered("root" if ids == 2**32 - 1 else "already", ids)
    uid, gid = os.geteuid(), os.getegid()
    ranges = subordinate_ranges(uid)
    helper = _Mapper(uid, gid, ranges)
    try:
        k.unshare(k.CLONE_NEWUSER | k.CLONE_NEWNS)
    except OSError as error:
        helper.cancel()
        raise _refused(error) from error
    detail = helper.run()
    if not detail:
        return Entered("ranges", mapped_here())
    if not Path("/proc/self/uid_map").read_text().strip():
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    if not Path("/proc/self/gid_map").read_text().strip():
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    return Entered("single", mapped_here(), detail)


def _can_administer() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)  # CAP_SYS_ADMIN
    return False


def _refused(error: OSError) -> HostError:
    hints = {
        errno.EPERM: "the kernel forbids user namespaces to you: see the settings "
        "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns",
        errno.ENOSPC: "no user namespaces are left: see the setting user.max_user_namespaces",
        errno.EINVAL: "it was called with threads running; please report this",
        errno.ENOSYS: "this kernel has no user namespaces",
    }
    return HostError(
        f"an ordinary user needs a user namespace here: {error}",
        hint=hints.get(error.errno or 0, "run `buildgraph doctor`"),
    )


class _Mapper:
    """A child outside the new namespace that has its ids mapped by the setuid programs.

    Forked before: afterwards nothing started from here would have rights in the old namespace.
    """

    def __init__(self, uid: int, gid: int, ranges: Ranges):
        self._commands = _commands(os.getpid(), uid, gid, ranges)
        self._go_reader, self._go = os.pipe()
        self._answer, answer_writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._go)
            os.close(self._answer)
            try:
                if os.read(self._go_reader, 1):
                    os.write(answer_writer, self._map().encode()[:1000])
            finally:
                os._exit(0)
        os.close(self._go_reader)
        os.close(answer_writer)

    def _map(self) -> str:
        """Run the programs; return "" or why not, in words."""
        if isinstance(self._commands, str):
            return self._commands
        for command in self._commands:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            if done.returncode:
                return f"{os.path.basename(command[0])}: {done.stderr.strip()[:500]}"
        return ""

    def run(self) -> str:
        """Let the child map and return "" or why it could not."""
        os.write(self._go, b"+")
        self.cancel()
        with open(self._answer, "rb") as file:
            return file.read().decode(errors="replace")

    def cancel(self) -> None:
        """Let the child end. `run` has been called, or nothing is mapped."""
        os.close(self._go)
        os.waitpid(self._pid, 0)


def _commands(pid: int, uid: int, gid: int, ranges: Ranges) -> list[list[str]] | str:
    """Return the two command lines, or why there are none."""
    programs = [shutil.which(name, path=_PROGRAMS) for name in ("newuidmap", "newgidmap")]
    if None in programs:
        return "newuidmap and newgidmap are not installed (package uidmap)"
    commands = []
    for program, own, given, file in (
        (programs[0], uid, ranges.uids, "/etc/subuid"),
        (programs[1], gid, ranges.gids, "/etc/subgid"),
    ):
        if not given:
            return f"no range of ids for this user in {file}"
        command, inside = [str(program), str(pid), "0", str(own), "1"], 1
        for first, count in given:
            count = min(count, _WANTED - inside)
            if count > 0:
                command += [str(inside), str(first), str(count)]
                inside += count
        commands.append(command)
    return commands
