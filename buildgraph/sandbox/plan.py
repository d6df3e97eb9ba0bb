"""Knows how a spec and this machine's abilities become a plan for the child; must not run it.

A plan is a dict of plain values (wire.py): the child imports neither dataclasses nor this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, assert_never

from msgspec import Struct

from buildgraph.kernel import PER_LINUX32
from buildgraph.sandbox.seccomp import compile_filter
from buildgraph.sandbox.spec import (
    CAPABILITIES,
    ULIMITS,
    Bind,
    FileMount,
    Limits,
    Mount,
    OverlayMount,
    SandboxSpec,
)
from buildgraph.sandbox.spec import Tmpfs as TmpfsMount

ID_BASE: Final = 0x60000000  # far above what user databases and container tools hand out
# Not the usual 65536: archives unpacked in a RUN and images made elsewhere hold ids of user
# directories far above, which `docker build` keeps.
ID_COUNT: Final = 1 << 30
_EVERYTHING: Final = (0, 0, 2**32 - 1)
_TTY_GROUP: Final = 5
_MKNOD: Final = 1 << CAPABILITIES.index("MKNOD")
_SYS_ADMIN: Final = 1 << CAPABILITIES.index("SYS_ADMIN")


class Ids(Struct, frozen=True):
    """Which ids containers of this process have.

    As root of the machine: a range that starts at `base`. In a user namespace (`root` False): the
    ids that this process itself sees, in a namespace below it.
    """

    root: bool
    base: int
    uids: tuple[tuple[int, int, int], ...]  # inside, here, count
    gids: tuple[tuple[int, int, int], ...]
    setgroups: bool

    def userns(self) -> dict[str, Any]:
        """Return what the zygote needs to make the namespace."""
        text = [
            "\n".join(" ".join(map(str, row)) for row in rows) for rows in (self.uids, self.gids)
        ]
        return {"base": self.base, "uids": text[0], "gids": text[1], "setgroups": self.setgroups}

    def has(self, *, uid: int | None = None, gid: int | None = None) -> bool:
        """Say whether an id exists inside."""
        rows, number = (self.uids, uid) if uid is not None else (self.gids, gid)
        return any(first <= (number or 0) < first + count for first, _, count in rows)


def ids_of_this_process(base: int = ID_BASE) -> Ids:
    """Decide by the id maps of this process; the first user namespace maps everything."""
    uids, gids = _id_map("/proc/self/uid_map"), _id_map("/proc/self/gid_map")
    if uids == (_EVERYTHING,):
        rows = ((0, base, ID_COUNT),)
        return Ids(True, base, rows, rows, True)
    setgroups = _read("/proc/self/setgroups").strip() == "allow"
    same_uids = tuple((first, first, count) for first, _, count in uids)
    same_gids = tuple((first, first, count) for first, _, count in gids)
    return Ids(False, 0, same_uids, same_gids, setgroups)


def _id_map(path: str) -> tuple[tuple[int, int, int], ...]:
    rows = (line.split() for line in _read(path).splitlines())
    return tuple((int(row[0]), int(row[1]), int(row[2])) for row in rows)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


class Machine(Struct, frozen=True):
    """What the containers' zygote found out: `base` is 0 where ids are not shifted."""

    userns: bool
    base: int
    legacy_overlay: bool


def make_plan(
    spec: SandboxSpec,
    ids: Ids,
    machine: Machine,
    *,
    dns: str,
    stdin: bool,
    netns: str,
    count_processes: bool,
    errors: bool = False,
) -> dict[str, Any]:
    """Return the plan. `netns` is none, host or fd; `dns` the text of /etc/resolv.conf.

    `count_processes` asks for a limit on processes without a control group: the kernel then counts
    those of all containers of one user together. `stdin` and `errors` say which fds come along.
    """
    rights = make_rights(spec, ids, machine, count_processes=count_processes)
    return {
        **rights,
        **process_plan(spec.args, dict(spec.env), spec.cwd, spec.uid, spec.gid),
        "groups": [group for group in spec.groups if ids.has(gid=group)],
        "stdin": stdin,
        "errors": errors,
        "tty": spec.tty,
        "lowers": _stack(spec.lowers),
        "upper": spec.upper,
        "work": spec.work,
        "hostname": spec.hostname,
        "mounts": [_mount(mount) for mount in sorted(spec.mounts, key=_depth)],
        "files": _files(spec, dns),
        "netns": netns,
        "read_only_root": spec.read_only_root or spec.upper is None,
        "masked": [] if spec.insecure else list(spec.masked),
        "readonly": [] if spec.insecure else list(spec.readonly),
        "writable_sys": spec.insecure,
        "shm": spec.limits.shm,
        "mknod": ids.root,
        "userxattr": not ids.root,
        "legacy_overlay": machine.legacy_overlay,
        "init": spec.init,
        "make_cwd": spec.make_cwd and spec.upper is not None,
    }


def make_rights(
    spec: SandboxSpec, ids: Ids, machine: Machine, *, count_processes: bool
) -> dict[str, Any]:
    """Return what every process of the container may do, its first and those that join it."""
    mask = spec.capability_mask
    if ids.root and not machine.userns and not spec.insecure:
        mask &= ~_MKNOD  # void in a user namespace; here it would open the host's devices
    return {
        "setgroups": ids.setgroups,
        "capabilities": mask,
        "filter": _filter(spec, mask),
        "no_new_privs": spec.no_new_privs,
        # So that uname(1) answers as on the machine that such programs are made for
        "personality": PER_LINUX32 if spec.architecture == "386" else 0,
        "rlimits": _rlimits(spec.limits, count_processes=count_processes),
        "tty_gid": machine.base + _TTY_GROUP if ids.has(gid=_TTY_GROUP) else None,
        # mount(2) and sethostname(2) ask for rights over the namespace that owns what they change
        "own_namespaces": bool(mask & _SYS_ADMIN),
    }


def _filter(spec: SandboxSpec, mask: int) -> bytes:
    if not spec.filtered:
        return b""
    return compile_filter(os.uname().machine, mask, socketcall=spec.architecture == "386")


def process_plan(
    args: Sequence[str], env: Mapping[str, str], cwd: str, uid: int, gid: int
) -> dict[str, Any]:
    """Return what one process is."""
    return {"args": list(args), "env": dict(env), "cwd": cwd, "uid": uid, "gid": gid}


def _rlimits(limits: Limits, *, count_processes: bool) -> list[tuple[int, int, int]]:
    """Return (number, soft, hard), -1 = none, getrlimit(2)."""
    wanted = {"nofile": limits.nofile, "core": (limits.core, limits.core)}
    if count_processes and limits.pids is not None:
        wanted["nproc"] = (limits.pids, limits.pids)
    wanted |= {name: (soft, hard) for name, soft, hard in limits.ulimits}
    return [(ULIMITS[name], soft, hard) for name, (soft, hard) in wanted.items()]


def _depth(mount: Mount) -> int:
    """Outer mount points come first, whatever the order they were written in."""
    return mount.target.rstrip("/").count("/")


def _stack(lowers: Iterable[str]) -> list[str]:
    """Return layers, the top first, each once: two steps may have made the same one.

    Overlayfs refuses a directory twice (ELOOP). Whatever the lower one says is said by the same
    layer above it, its deletions too, so leaving it out changes nothing.
    """
    return list(dict.fromkeys(lowers))


def _mount(mount: Mount) -> tuple[Any, ...]:
    match mount:
        case Bind(source, target, read_only, beneath):
            return ("bind", target, os.path.realpath(source), read_only, beneath)
        case TmpfsMount(target, size, mode, uid, gid, noexec, read_only):
            return ("tmpfs", target, size, mode, uid, gid, noexec, read_only)
        case OverlayMount(lowers, target, read_only):
            return ("overlay", target, _stack(lowers), read_only)
        case FileMount(target, content, mode, uid, gid):
            return ("file", target, content, mode, uid, gid)
        case _:
            assert_never(mount)


def _files(spec: SandboxSpec, dns: str) -> list[tuple[str, bytes, int, int, int]]:
    """Return the files docker binds too; a mount of the spec at the same place wins."""
    own = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.0.1\t{spec.hostname}\n"
    texts = (
        ("/etc/resolv.conf", dns),
        ("/etc/hosts", own + "".join(f"{line}\n" for line in spec.hosts)),
        ("/etc/hostname", f"{spec.hostname}\n"),
    )
    taken = {os.path.normpath(mount.target) for mount in spec.mounts}
    return [(path, text.encode(), 0o644, 0, 0) for path, text in texts if path not in taken]
