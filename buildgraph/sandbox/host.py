"""Knows how the engine's threads get containers run; must not know what a step means.

`SandboxHost` owns the zygote process and lends each running container one of its slots. Everything
it makes ends with it: processes by closed sockets, mounts and network namespaces with the
processes that hold them, control groups by `cgroup`, ways out by `network`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from buildgraph import kernel as k
from buildgraph.closing import Closing
from buildgraph.errors import BuildgraphError, HostError, NoEmulator
from buildgraph.sandbox.cgroup import ControlGroups, SlotGroup
from buildgraph.sandbox.container import Container, window_of
from buildgraph.sandbox.emulation import Emulation
from buildgraph.sandbox.network import NetworkPool, resolv_conf
from buildgraph.sandbox.plan import ID_BASE, Machine, ids_of_this_process, make_plan, make_rights
from buildgraph.sandbox.running import ExitStatus, Output, Running, Streams
from buildgraph.sandbox.spec import Limits, SandboxSpec
from buildgraph.sandbox.syscalls import MACHINES
from buildgraph.sandbox.wire import receive, send

if TYPE_CHECKING:
    from buildgraph.sandbox.network_private import PrivateNetwork

__all__ = ["MAX_LAYERS", "Container", "ExitStatus", "Output", "SandboxHost"]

MAX_LAYERS: Final = 990  # what two stacked overlays hold, less a few of our own

_MEMORY_SHARE: Final = 0.8  # of the machine's memory, where a spec names no limit


class _Slot(Struct, frozen=True):
    """One end of a slot's socket, and its control groups."""

    sock: socket.socket
    group: SlotGroup


class SandboxHost(Closing):
    """Runs containers over one store; a context manager, used by many threads at once.

    `store_root` is the directory that holds every layer, upper and work. Nothing is started
    before the first `run` or `prepare`. On leaving the context nothing is left. `network_program`
    is the pasta or slirp4netns an ordinary user's steps go out by (None: what is installed).
    """

    def __init__(
        self,
        store_root: Path | str,
        *,
        jobs: int = 0,
        id_base: int = ID_BASE,
        network_program: str | None = None,
    ):
        self.store = os.path.realpath(store_root)
        self.jobs = jobs or os.cpu_count() or 1
        self._ids = ids_of_this_process(id_base)
        self._machine = Machine(False, 0, False)
        self._warnings: list[str] = []
        self._lock = threading.Lock()  # slots and the zygote's socket
        self._start_lock = threading.Lock()
        self._free: list[_Slot] = []
        self._all: list[_Slot] = []
        self._groups = ControlGroups()
        self._network = NetworkPool(self._new_netns, root=self._ids.root, program=network_program)
        self._emulation = Emulation(self._register)
        self._zygote: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._preparing: threading.Thread | None = None
        self._closed = False
        self.memory = int(_host_memory() * _MEMORY_SHARE)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say in words what is weaker here than it should be; complete after the first run."""
        return (*self._warnings, *self._groups.warnings)

    @property
    def id_shift(self) -> int:
        """What is added to the ids of containers, as seen from here; complete after a start."""
        return self._machine.base

    def prepare(self, *, network: bool = False, slots: int = 0) -> None:
        """Begin, in the background, what the first steps would wait for. Never raises.

        `slots` says how many containers will run at once, 0 = as many as jobs.
        """
        earlier = self._preparing

        def work() -> None:
            if earlier is not None:
                earlier.join()
            try:
                if network:
                    self._network.start()
                self._ensure_started()
                for _ in range((slots or self.jobs) - len(self._all)):
                    self._give(self._new_slot())
            except (BuildgraphError, OSError):
                pass  # the first run meets it again and has somebody to tell

        self._preparing = threading.Thread(target=work, name="sandbox-prepare", daemon=True)
        self._preparing.start()

    def require(self, architecture: str) -> None:
        """Raise NoEmulator where programs of an architecture (Go's name) cannot run here."""
        self._ensure_started()
        way = self._emulation.way(architecture)
        if not way.possible:
            raise NoEmulator(way.detail, hint=way.hint)

    def close(self) -> None:
        """End and remove everything. Idempotent; nothing may be running."""
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None
        with self._start_lock, self._lock:
            self._closed = True
            for slot in self._all:
                slot.sock.close()
            self._all.clear()
            self._free.clear()
            if self._sock is not None:
                self._sock.close()
                self._sock = None
            if self._zygote is not None:
                self._zygote.wait()
                self._zygote = None
            self._network.close()
            self._groups.close()

    # -- running -------------------------------------------------------------------------------

    def run(
        self,
        spec: SandboxSpec,
        output: Output,
        cancel: threading.Event | None = None,
        stdin: int | None = None,
        netns: int | None = None,
        *,
        errors: Output | None = None,
    ) -> ExitStatus:
        """Run a container to its end and return how it ended.

        As `start` and `wait`, but `output` and `errors` are called in this thread. When `run`
        returns, every process of the container is dead and nothing is mounted: `upper` is at
        rest. A set `cancel` ends it within a second. Raises HostError where the sandbox itself
        could not be made.
        """
        running, release = self._begin(spec, Streams(output, errors, stdin), netns, cancel)
        status = None
        try:
            status = running.finish()
        finally:
            status = release(status)
        assert status is not None
        return status

    def start(
        self,
        spec: SandboxSpec,
        output: Output,
        *,
        errors: Output | None = None,
        stdin: int | None = None,
        netns: int | None = None,
        tty: int | None = None,
        cancel: threading.Event | None = None,
    ) -> Container:
        """Start a container and return it once its command has been exec'd, or has ended.

        `output` gets what it writes, in a thread of the container's own, up to the limit of the
        log; `errors` what it writes to standard error, where that is wanted apart. `stdin` is an
        fd (default /dev/null), with `spec.tty` what is typed at its terminal; `tty` is the fd of
        a terminal whose size its own takes. `netns` is the fd of a network namespace to join
        instead of the spec's. Raises HostError where the sandbox itself could not be made.
        """
        window = (0, 0) if tty is None else window_of(tty)
        streams = Streams(output, None if spec.tty else errors, stdin, window)
        running, release = self._begin(spec, streams, netns, cancel)
        rights = make_rights(
            spec, self._ids, self._machine, count_processes=not self._groups.limits("pids")
        )

        def join(
            plan: dict[str, Any],
            streams: Streams,
            limits: Limits,
            cancel: threading.Event | None,
        ) -> Running:
            self._check_who(plan["uid"], plan["gid"], plan["groups"])
            return _join(running.sock, {**rights, **plan}, streams, limits, cancel)

        return Container(spec, running, join=join, release=release)

    def _begin(
        self,
        spec: SandboxSpec,
        streams: Streams,
        netns: int | None,
        cancel: threading.Event | None,
    ) -> tuple[Running, Callable[[ExitStatus | None], ExitStatus | None]]:
        """Start a container; return it and what is to be called once it has ended."""
        self._check_who(spec.uid, spec.gid, spec.groups)
        _check_machine(spec)
        self._ensure_started()
        spec = self._emulation.ready(spec)
        borrowed = self._network.take() if netns is None and spec.network == "default" else None
        joined = borrowed if netns is None else netns
        slot: _Slot | None = None
        running: Running | None = None

        def release(status: ExitStatus | None) -> ExitStatus | None:
            if slot is not None and running is not None and running.answered:
                oom, pids = slot.group.events()
                if status is not None:
                    status = replace(status, oom=oom, pids_limit=pids)
                self._give(slot)
            elif slot is not None:
                self._drop(slot)
            if borrowed is not None:
                self._network.give_back(borrowed)
            return status

        try:
            slot = self._take()
            try:
                slot.group.apply(spec.limits, spec.limits.memory or self.memory)
            except OSError as error:
                raise HostError(f"the limits of the step cannot be set: {error}") from error
            plan = make_plan(
                spec,
                self._ids,
                self._machine,
                dns=_dns(spec),
                stdin=streams.stdin is not None and not spec.tty,
                errors=streams.errors is not None,
                netns=spec.network if joined is None else "fd",
                count_processes=not self._groups.limits("pids"),
            )
            running = Running(slot.sock, spec.limits, streams, tty=spec.tty, cancel=cancel)
            extra = () if joined is None else (joined,)
            sock = slot.sock
            running.begin(lambda fds: send(sock, ("run", plan), (*fds, *extra)))
        except BaseException:
            release(None)
            raise
        return running, release

    def _check_who(self, uid: int, gid: int, groups: Sequence[int]) -> None:
        """Refuse ids that no container has here, before the kernel does so without a word."""
        if not self._ids.has(uid=uid) or not self._ids.has(gid=gid):
            hint = None
            if not self._ids.root:
                hint = "give your user a range in /etc/subuid and /etc/subgid (`buildgraph doctor`)"
            raise HostError(f"user {uid}:{gid} does not exist in the sandbox", hint=hint)
        missing = [group for group in groups if not self._ids.has(gid=group)]
        if missing and self._ids.root:
            raise HostError(f"group {missing[0]} does not exist in the sandbox")
        if missing or (groups and not self._ids.setgroups):
            text = "supplementary groups are left out: this user has no range of group ids"
            if text not in self._warnings:
                self._warnings.append(text)

    def private_network(self, *, outside: bool = False, ipv6: bool = False) -> PrivateNetwork:
        """Return a network whose members reach each other by name, and with `outside` the internet.

        It gets ready in the background; close it, or it ends with this host.
        """
        with self._start_lock:
            if self._closed:
                raise HostError("the sandbox host is closed")
        return self._network.private(outside=outside, ipv6=ipv6)

    # -- processes -------------------------------------------------------------------------------

    def _ensure_started(self) -> None:
        with self._start_lock:
            if self._closed:
                raise HostError("the sandbox host is closed")
            if self._sock is None:
                self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        program = (
            f"import sys; sys.path.insert(0, {package!r}); "
            f"from buildgraph.sandbox.entry import main; main({theirs.fileno()})"
        )
        interpreter = self._read_only_interpreter()
        zygote = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            executable=sys.executable if interpreter < 0 else f"/proc/self/fd/{interpreter}",
            pass_fds=(theirs.fileno(), *([interpreter] if interpreter >= 0 else [])),
            stdin=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            cwd="/",
        )
        theirs.close()
        if interpreter >= 0:
            os.close(interpreter)
        self._groups.open()
        scratch = os.path.join(self.store, "sandbox")
        os.makedirs(scratch, 0o700, exist_ok=True)
        send(ours, {"store": self.store, "scratch": scratch, "userns": self._ids.userns()})
        hello, _ = receive(ours)
        if hello is None or "error" in hello:
            ours.close()
            zygote.wait()
            reason = hello["error"] if hello else "its process ended at once"
            raise HostError(
                f"the sandbox cannot be made here: {reason}",
                hint="`buildgraph doctor` says what this machine lacks",
            )
        self._machine = Machine(hello["userns"], hello["base"], hello["legacy_overlay"])
        self._warnings += hello["warnings"]
        self._zygote = zygote
        self._sock = ours

    def _read_only_interpreter(self) -> int:
        """Return the interpreter on a mount of its own that nobody can write to; -1 = none.

        A command of `#!/proc/self/exe` makes the kernel run the program that was about to become
        it, which the image's loader then holds open (A44): it must not be the host's own file.
        That a running program cannot be written to is no answer on Linux 6.11 and 6.12.
        """
        try:
            fd = k.open_tree(k.AT_FDCWD, os.path.realpath(sys.executable), k.OPEN_TREE_CLONE)
            k.mount_setattr(fd, set_=k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID)
        except OSError as error:
            self._warnings.append(f"the interpreter cannot be shielded from containers: {error}")
            return -1
        return fd

    def _take(self) -> _Slot:
        with self._lock:
            if self._free:
                return self._free.pop()
        return self._new_slot()

    def _new_slot(self) -> _Slot:
        with self._lock:
            if self._sock is None:
                raise HostError("the sandbox host is closed")
            group = self._groups.new_slot()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            config = {"join": list(group.join), "cgroup": group.into}
            send(self._sock, config, (theirs.fileno(),))
            theirs.close()
            slot = _Slot(ours, group)
            self._all.append(slot)
            return slot

    def _give(self, slot: _Slot) -> None:
        with self._lock:
            self._free.append(slot)

    def _drop(self, slot: _Slot) -> None:
        with self._lock:
            if slot in self._all:
                self._all.remove(slot)
        slot.sock.close()

    def _register(self, lines: Sequence[bytes], architecture: str) -> str:
        with self._lock:
            if self._sock is None:
                return "the sandbox host is closed"
            send(self._sock, {"emulators": list(lines), "architecture": architecture})
            answer, _ = receive(self._sock)
        return "the sandbox process died" if answer is None else str(answer)

    def _new_netns(self) -> list[int]:
        self._ensure_started()
        with self._lock:
            if self._sock is None:
                raise HostError("the sandbox host is closed")
            send(self._sock, {})
            answer, fds = receive(self._sock)
        if answer is None or "error" in answer:
            reason = answer["error"] if answer else "the sandbox process died"
            raise HostError(f"no network namespace: {reason}")
        return fds


def _join(
    slot: socket.socket,
    plan: dict[str, Any],
    streams: Streams,
    limits: Limits,
    cancel: threading.Event | None,
) -> Running:
    """Start one more process in the container that `slot` runs."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    running = Running(ours, limits, streams, tty=plan["tty"], cancel=cancel, own=True)
    with theirs:
        running.begin(lambda fds: send(slot, ("exec", plan), (theirs.fileno(), *fds)))
    return running


def _check_machine(spec: SandboxSpec) -> None:
    machine = os.uname().machine
    if spec.filtered and machine not in MACHINES:
        raise HostError(
            f"there is no list of system calls for {machine}",
            hint=f"containers run on {' and '.join(MACHINES)}",
        )


def _dns(spec: SandboxSpec) -> str:
    if spec.dns:
        return "".join(f"{line}\n" for line in spec.dns)
    if spec.network == "none":
        return ""
    if spec.network == "host":
        try:
            return Path("/etc/resolv.conf").read_text(errors="replace")
        except OSError:
            return ""
    return resolv_conf()


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
