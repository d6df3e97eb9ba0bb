"""Knows how to ask this machine what a sandbox needs, in words; must not start one for good.

Every question is asked of the kernel in a child process that ends at once, so nothing is left and
nothing of the caller changes.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from buildgraph import kernel as k
from buildgraph.sandbox.binfmt import ARCHITECTURES, own_handlers
from buildgraph.sandbox.cgroup import hierarchies
from buildgraph.sandbox.emulation import Emulation
from buildgraph.sandbox.entry import new_userns
from buildgraph.sandbox.network import resolv_conf
from buildgraph.sandbox.network_agent import try_private_network
from buildgraph.sandbox.network_helper import find_user_program, try_root_network
from buildgraph.sandbox.plan import ID_BASE, ID_COUNT, ids_of_this_process
from buildgraph.sandbox.seccomp import compile_filter
from buildgraph.sandbox.userns import enter, mapped_here, subordinate_ranges

_ALL_IDS: Final = 2**32 - 1
_USUAL_COUNT: Final = 65_536  # what useradd grants, and most images need


class Finding(Struct, frozen=True):
    """One answer. `ok` False means something is weaker or impossible; `hint` says what to do."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def probe(store: Path | str | None = None) -> list[Finding]:
    """Return what this machine can do for a sandbox over `store`. Leaves nothing behind."""
    where = str(store) if store is not None else tempfile.gettempdir()
    while not os.path.isdir(where):
        where = os.path.dirname(where) or "/"
    root = os.geteuid() == 0 and mapped_here() == _ALL_IDS
    findings = [_kernel(), _user_namespace(root)]
    if not root:
        findings.append(_ranges())
    findings.append(_overlay(where, root))
    findings.append(_many_layers(where))
    if root:
        findings.append(_idmap(where))
    findings += [_namespaces(), _proc(), _seccomp(), _platforms(), *_cgroups(), _network(root)]
    findings += [_private_network(), _dns(), _memory()]
    return findings


def _in_child(question: Callable[[], str]) -> str:
    """Return the answer of `question` asked in a child, or "!" and why it failed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            answer = question()
        except BaseException as error:  # noqa: BLE001 (any failure is the answer)
            answer = f"!{error}"
        os.write(writer, answer.encode(errors="replace")[:4000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return answer or "!no answer"


def _finding(name: str, answer: str, hint: str) -> Finding:
    if answer.startswith("!"):
        return Finding(name, False, answer[1:], hint)
    return Finding(name, True, answer)


def _kernel() -> Finding:
    release = os.uname().release
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    return Finding(
        "kernel",
        version >= (5, 12),
        f"Linux {release}, {platform.machine()}",
        "" if version >= (5, 12) else "Linux 5.12 or newer: mount_setattr(2) is needed",
    )


def _user_namespace(root: bool) -> Finding:
    def question() -> str:
        if root:
            k.unshare(k.CLONE_NEWUSER)
            return "root: steps get a range of ids of their own"
        entered = enter()
        return f"as an ordinary user, {entered.ids} ids"

    return _finding(
        "user namespace",
        _in_child(question),
        "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, "
        "user.max_user_namespaces above 0",
    )


def _ranges() -> Finding:
    hint = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
    ranges = subordinate_ranges(os.geteuid())
    programs = [shutil.which(name, path="/usr/bin:/usr/local/bin") for name in _MAPPERS]
    if mapped_here() not in (_ALL_IDS, 1):
        return Finding("id ranges", True, f"{mapped_here()} ids in this namespace")
    if None in programs:
        return Finding(
            "id ranges", False, "newuidmap and newgidmap are missing", "apt install uidmap"
        )
    if not ranges.uids or not ranges.gids:
        return Finding("id ranges", False, "no range in /etc/subuid and /etc/subgid", hint)
    count = sum(number for _, number in ranges.uids)
    ok = count >= _USUAL_COUNT - 1
    return Finding("id ranges", ok, f"{count} ids by newuidmap", "" if ok else hint)


_MAPPERS: Final = ("newuidmap", "newgidmap")


def _enter_mounts() -> bool:
    """Be root of some mount namespace; say whether it is the machine's root."""
    root = os.geteuid() == 0 and mapped_here() == _ALL_IDS
    if root:
        k.unshare(k.CLONE_NEWNS)
        k.mount("none", "/", "none", k.MS_REC | k.MS_PRIVATE)
    else:
        enter()
    return root


def _try_overlay(where: str, lowers: int) -> str:
    """Mount an overlay on a directory of `where` and write a file through it."""
    root = _enter_mounts()
    with tempfile.TemporaryDirectory(dir=where, prefix="bg-probe-") as place:
        for name in ("upper", "work", *(f"l{n}" for n in range(lowers))):
            os.mkdir(f"{place}/{name}")
        Path(place, "l0/file").write_text("x")
        options: list[tuple[str, str | None]] = [
            ("lowerdir+", f"{place}/l{n}") for n in range(lowers)
        ]
        options += [("upperdir", f"{place}/upper"), ("workdir", f"{place}/work")]
        options += [] if root else [("userxattr", None)]
        fd = k.fsopen("overlay")
        for key, value in options:
            k.fsconfig(fd, key, value)
        k.fscreate(fd)
        tree = k.fsmount(fd, k.MOUNT_ATTR_NODEV)
        os.unlink("file", dir_fd=tree)
        mode = os.stat(f"{place}/upper/file").st_mode
        os.close(tree)
        os.close(fd)
        if not stat.S_ISCHR(mode):
            raise OSError("a deleted file left no whiteout")
    return f"{lowers} layers on {where}" + ("" if root else ", marks in user.* attributes")


def _overlay(where: str, root: bool) -> Finding:
    return _finding(
        "overlay",
        _in_child(lambda: _try_overlay(where, 2)),
        "the overlay module, and a store on ext4, xfs, btrfs or tmpfs"
        + ("" if root else "; as a user Linux 5.11 or newer"),
    )


def _many_layers(where: str) -> Finding:
    answer = _in_child(lambda: _try_overlay(where, 500))
    hint = "Linux 6.5 or newer; older ones take short names, which the sandbox uses then"
    return _finding("500 layers", answer, hint)


def _idmap(where: str) -> Finding:
    def question() -> str:
        _enter_mounts()
        line = f"0 {ID_BASE} {ID_COUNT}"
        userns = new_userns(line, line, True)
        tree = k.open_tree(k.AT_FDCWD, where, k.OPEN_TREE_CLONE)
        k.mount_setattr(tree, set_=k.MOUNT_ATTR_IDMAP, userns=userns)
        return f"{where} can be shown with shifted ids"

    return _finding(
        "id-mapped mounts",
        _in_child(question),
        "a store on ext4, xfs, btrfs (Linux 5.15) or tmpfs (6.3); without, steps run as the "
        "machine's root, held back by capabilities and the list of system calls alone",
    )


def _namespaces() -> Finding:
    def question() -> str:
        _enter_mounts()
        k.unshare(
            k.CLONE_NEWPID | k.CLONE_NEWIPC | k.CLONE_NEWUTS | k.CLONE_NEWCGROUP | k.CLONE_NEWNET
        )
        return "pid, ipc, uts, cgroup, net"

    hint = "a container that forbids namespaces: run buildgraph outside, or allow them"
    return _finding("namespaces", _in_child(question), hint)


def _proc() -> Finding:
    def question() -> str:
        _enter_mounts()
        k.unshare(k.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            try:
                k.new_filesystem("proc", {})
            except OSError as error:
                os._exit(error.errno or 1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            raise OSError(code, f"a fresh /proc is refused: {os.strerror(code)}")
        return "a fresh /proc can be mounted"

    hint = "inside docker: --security-opt systempaths=unconfined, as /proc must not be masked"
    return _finding("proc", _in_child(question), hint)


def _seccomp() -> Finding:
    def question() -> str:
        program = compile_filter(platform.machine(), 0)
        k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
        k.seccomp_filter(program)
        return f"allow-list of {len(program) // 8} instructions"

    hint = "a kernel with CONFIG_SECCOMP_FILTER on x86_64 or aarch64"
    return _finding("seccomp", _in_child(question), hint)


def _platforms() -> Finding:
    """Say which architectures' programs run, each having been tried."""

    def question() -> str:
        _enter_mounts()
        maps = ids_of_this_process().userns()
        userns = new_userns(maps["uids"], maps["gids"], maps["setgroups"])
        kept: list[int] = []  # handlers live as long as these

        def register(lines: Sequence[bytes], architecture: str) -> str:
            fd, error = own_handlers(userns, lines, architecture)
            kept.append(fd)
            return error

        emulation = Emulation(register)
        found: dict[str, list[str]] = {}
        for architecture in ARCHITECTURES:
            way = emulation.way(architecture)
            if way.possible:
                place = re.sub(r"qemu-\w+", "qemu-*", way.detail)  # one for each, alike
                found.setdefault(place, []).append(architecture)
        return "; ".join(f"{', '.join(names)} {how}" for how, names in found.items())

    hint = "apt install qemu-user-static, for RUN steps of other platforms"
    finding = _finding("architectures", _in_child(question), hint)
    if finding.ok and ";" not in finding.detail:
        return replace(finding, ok=False, hint=hint)
    return finding


def _cgroups() -> list[Finding]:
    hint = "limits are off; as a user: systemd-run --user --scope -p Delegate=yes buildgraph …"
    found = hierarchies()
    versions = sorted({one.version for one in found})
    name = {(1,): "version 1", (2,): "version 2", (1, 2): "hybrid"}.get(tuple(versions), "none")
    findings = []
    for controller in ("memory", "pids", "cpu"):
        having = [one for one in found if controller in one.controllers]
        if not having:
            findings.append(Finding(f"limit on {controller}", False, "no such controller", hint))
            continue
        own = having[0].own
        ok = os.access(own, os.W_OK)
        detail = f"cgroups {name}, {own}" + ("" if ok else " is not ours to write")
        findings.append(Finding(f"limit on {controller}", ok, detail, "" if ok else hint))
    return findings


def _network(root: bool) -> Finding:
    if root:
        return _finding("network", _in_child(try_root_network), "the veth and nf_tables modules")
    program = find_user_program()
    if program is None:
        return Finding(
            "network",
            False,
            "neither pasta nor slirp4netns is installed: steps have no way out",
            "apt install passt or slirp4netns; or --network=none or host",
        )
    usable = os.access("/dev/net/tun", os.R_OK | os.W_OK)
    return Finding(
        "network",
        usable,
        f"{program}" if usable else f"{program}, but /dev/net/tun is not ours to open",
        "" if usable else "chmod 666 /dev/net/tun (as udev does)",
    )


def _private_network() -> Finding:
    def question() -> str:
        _enter_mounts()
        return try_private_network()

    hint = "the bridge and veth modules; tests of several containers need them"
    return _finding("private networks", _in_child(question), hint)


def _dns() -> Finding:
    ok = "nameserver" in resolv_conf()
    return Finding(
        "name resolution",
        ok,
        "the host's resolvers" if ok else "the host's only resolver listens on its own loopback",
        "" if ok else "name a resolver that other networks reach in /etc/resolv.conf",
    )


def _memory() -> Finding:
    free = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text()
        free = int(text.split("MemAvailable:")[1].split()[0]) // 1024
    ok = free >= 512
    return Finding("memory", ok, f"{free} MiB available", "" if ok else "512 MiB at least")
