"""Knows how the engine's threads get containers run; must not know what a step means.

`SandboxHost` owns the zygote process and lends each running container one of its slots. Everything
it makes ends with it: processes by closed sockets, mounts and network namespaces with the
processes that hold them, control groups by `cgroup`.
"""

from __future__ import annotations

import array
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

from buildgraph.errors import HostError
from buildgraph.sandbox.seccomp import compile_filter
from buildgraph.sandbox.spec import Bind, FileMount, OverlayMount, SandboxSpec, Tmpfs

MAX_LAYERS: Final = 748  # 249 + an overlay of 499: what two levels of overlayfs can stack

_MESSAGE: Final = 1 << 16
_GRACE: Final = 10.0  # seconds between TERM and KILL
_TICK: Final = 0.1  # how long a cancel may go unseen
_MNT_DEFAULT_BASE: Final = 0x60000000
_MAPPED: Final = 65_536
_SELF_OVERFLOW: Final = 4_294_967_295


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a container ended. `signal` is 0 unless its main process was killed by one."""

    code: int  # as a shell counts: 128 + signal for a killed process
    signal: int = 0
    oom: bool = False
    timed_out: bool = False
    cancelled: bool = False
    pids_limit: bool = False
    log_truncated: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """True for exit code 0 and no limit that cut the run short."""
        return self.code == 0 and not (self.timed_out or self.cancelled)


Output = Callable[[bytes], None]


class _Slot:
    """One end of a slot's socket."""

    __slots__ = ("sock",)

    def __init__(self, sock: socket.socket):
        self.sock = sock


class SandboxHost:
    """Runs containers over one store; a context manager, used by many threads at once.

    `store_root` is the directory that holds every layer. Nothing is started before the first
    `run`. On leaving the context every process is dead.
    """

    def __init__(
        self,
        store_root: Path | str,
        *,
        jobs: int = 0,
        id_base: int = _MNT_DEFAULT_BASE,
    ):
        self.store = os.path.realpath(store_root)
        self.jobs = jobs or os.cpu_count() or 1
        self.id_base = id_base
        self.warnings: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._free: list[_Slot] = []
        self._all: list[_Slot] = []
        self._zygote: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._userns = False
        self._base = 0
        self._ids = _Ids.of_this_process(id_base)

    def __enter__(self) -> SandboxHost:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process. Idempotent; no `run` may be under way."""
        with self._start_lock, self._lock:
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

    # -- running -------------------------------------------------------------------------------

    def run(
        self,
        spec: SandboxSpec,
        output: Output,
        cancel: threading.Event | None = None,
        stdin: int | None = None,
        netns: int | None = None,
    ) -> ExitStatus:
        """Run a container to its end and return how it ended.

        `output` gets what it writes, in this thread, up to the limit of the log. When `run`
        returns, every process of the container is dead and nothing is mounted: `upper` is at
        rest. A set `cancel` ends it within a second. `stdin` is an fd (default /dev/null);
        `netns` the fd of a network namespace to join instead of the spec's. Raises HostError
        where the sandbox itself could not be made.
        """
        started = time.monotonic()
        plan = self._plan(spec, stdin is not None, netns)
        slot = self._take()
        healthy = False
        try:
            status = _Run(slot.sock, spec, output, cancel).run(plan, stdin, netns, started)
            healthy = True
            return status
        finally:
            if healthy:
                with self._lock:
                    self._free.append(slot)
            else:
                with self._lock:
                    self._all.remove(slot)
                slot.sock.close()

    def _plan(self, spec: SandboxSpec, stdin: bool, netns: int | None) -> dict[str, Any]:
        self._ensure_started()
        kind = "fd" if netns is not None else spec.network
        limits = spec.limits
        mask = spec.capability_mask
        machine = os.uname().machine
        soft, hard = limits.nofile
        return {
            "lowers": list(spec.lowers),
            "upper": spec.upper,
            "work": spec.work,
            "args": list(spec.args),
            "env": dict(spec.env),
            "cwd": spec.cwd,
            "uid": spec.uid,
            "gid": spec.gid,
            "groups": list(spec.groups),
            "setgroups": self._ids.setgroups,
            "hostname": spec.hostname,
            "mounts": [_mount(mount) for mount in spec.mounts],
            "files": self._files(spec),
            "netns": kind,
            "sysfs": True,
            "stdin": stdin,
            "capabilities": mask,
            "filter": compile_filter(machine, mask) if spec.seccomp else b"",
            "no_new_privs": spec.no_new_privs,
            "read_only_root": spec.read_only_root or spec.upper is None,
            "masked": list(spec.masked),
            "readonly": list(spec.readonly),
            "rlimits": [
                ("RLIMIT_NOFILE", soft, hard),
                ("RLIMIT_CORE", limits.core, limits.core),
            ],
            "shm": limits.shm,
            "mknod": self._ids.mknod,
            "tty_gid": self._ids.tty_gid(self._base),
            "userxattr": self._ids.userxattr,
            "legacy_overlay": False,
        }

    def _files(self, spec: SandboxSpec) -> list[tuple[str, bytes, int, int, int]]:
        own = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.0.1\t{spec.hostname}\n"
        hosts = own + "".join(f"{line}\n" for line in spec.hosts)
        dns = "".join(f"{line}\n" for line in spec.dns)
        if not spec.dns and spec.network == "host":
            dns = _read_text("/etc/resolv.conf")
        texts = (
            ("/etc/resolv.conf", dns),
            ("/etc/hosts", hosts),
            ("/etc/hostname", f"{spec.hostname}\n"),
        )
        taken = {os.path.normpath(mount.target) for mount in spec.mounts}
        return [(path, text.encode(), 0o644, 0, 0) for path, text in texts if path not in taken]

    # -- processes -------------------------------------------------------------------------------

    def _ensure_started(self) -> None:
        with self._start_lock:
            if self._zygote is None:
                self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        program = (
            f"import sys; sys.path.insert(0, {package!r}); "
            f"from buildgraph.sandbox.entry import main; main({theirs.fileno()})"
        )
        self._zygote = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            cwd="/",
        )
        theirs.close()
        self._sock = ours
        scratch = os.path.join(self.store, "sandbox")
        os.makedirs(scratch, 0o700, exist_ok=True)
        config = {"store": self.store, "scratch": scratch, "userns": self._ids.userns()}
        _send(ours, config)
        hello, _ = _receive(ours)
        if hello is None or "error" in hello:
            reason = hello["error"] if hello else "it ended at once"
            raise HostError(
                f"the sandbox cannot be made here: {reason}",
                hint="`buildgraph doctor` says what this machine lacks",
            )
        self._userns = hello["userns"]
        self._base = hello["base"]
        self.warnings = tuple(hello["warnings"])

    def _take(self) -> _Slot:
        with self._lock:
            if self._free:
                return self._free.pop()
            sock = self._sock
            if sock is None:
                raise HostError("the sandbox host is closed")
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            _send(sock, {"join": [], "cgroup": ""}, (theirs.fileno(),))
            theirs.close()
            slot = _Slot(ours)
            self._all.append(slot)
            return slot


@dataclass(frozen=True, slots=True)
class _Ids:
    """Which ids the containers of this process may have.

    `base` is 0 where the ids inside are those of this process's own user namespace.
    """

    base: int
    uids: str
    gids: str
    setgroups: bool
    mknod: bool
    userxattr: bool
    count: int

    @staticmethod
    def of_this_process(base: int) -> _Ids:
        """Decide by the id map of this process: the initial namespace maps everything."""
        uids = _id_map("/proc/self/uid_map")
        if uids == [(0, 0, _SELF_OVERFLOW)]:
            line = f"0 {base} {_MAPPED}"
            return _Ids(base, line, line, True, True, False, _MAPPED)
        gids = _id_map("/proc/self/gid_map")
        setgroups = _read_text("/proc/self/setgroups").strip() == "allow"
        same = [
            "\n".join(f"{first} {first} {count}" for first, _, count in ids) for ids in (uids, gids)
        ]
        count = max(first + count for first, _, count in uids)
        return _Ids(0, same[0], same[1], setgroups, False, True, count)

    def userns(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "uids": self.uids,
            "gids": self.gids,
            "setgroups": self.setgroups,
        }

    def tty_gid(self, base: int) -> int | None:
        return base + 5 if self.count > 5 else None


def _id_map(path: str) -> list[tuple[int, int, int]]:
    rows = [line.split() for line in _read_text(path).splitlines()]
    return [(int(row[0]), int(row[1]), int(row[2])) for row in rows]


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _mount(mount: Bind | Tmpfs | OverlayMount | FileMount) -> tuple[Any, ...]:
    match mount:
        case Bind(source, target, read_only):
            return ("bind", target, os.path.realpath(source), read_only)
        case Tmpfs(target, size, mode):
            return ("tmpfs", target, size, mode)
        case OverlayMount(lowers, target):
            return ("overlay", target, list(lowers))
        case FileMount(target, content, mode, uid, gid):
            return ("file", target, content, mode, uid, gid)


def _send(sock: socket.socket, message: object, fds: tuple[int, ...] = ()) -> None:
    data = marshal.dumps(message)
    if len(data) < _MESSAGE:
        _send_raw(sock, data, fds)
        return
    fd = os.memfd_create("request", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        _send_raw(sock, marshal.dumps("file"), (fd, *fds))
    finally:
        os.close(fd)


def _send_raw(sock: socket.socket, data: bytes, fds: tuple[int, ...]) -> None:
    ancillary = []
    if fds:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)))
    sock.sendmsg([data], ancillary)


def _receive(sock: socket.socket) -> tuple[Any, list[int]]:
    data, fds, _, _ = socket.recv_fds(sock, _MESSAGE, 4, socket.MSG_CMSG_CLOEXEC)
    return (marshal.loads(data) if data else None), fds


class _Run:
    """One container from request to result, in the thread that wants it."""

    def __init__(
        self,
        sock: socket.socket,
        spec: SandboxSpec,
        output: Output,
        cancel: threading.Event | None,
    ):
        self.sock = sock
        self.spec = spec
        self.output = output
        self.cancel = cancel
        self.pidfd = -1
        self.written = 0
        self.truncated = False
        self.stopping: Literal["", "timeout", "cancel"] = ""
        self.kill_at: float | None = None

    def run(
        self, plan: dict[str, Any], stdin: int | None, netns: int | None, started: float
    ) -> ExitStatus:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        os.set_blocking(writer, True)
        fds = [writer, *(fd for fd in (stdin, netns) if fd is not None)]
        try:
            try:
                _send(self.sock, plan, tuple(fds))
            finally:
                os.close(writer)
            line = self._follow(reader, started)
            self._drain(reader)
        finally:
            os.close(reader)
            if self.pidfd >= 0:
                os.close(self.pidfd)
        return self._status(line, time.monotonic() - started)

    def _follow(self, reader: int, started: float) -> str:
        """Pass on output until the container is gone; return its status line."""
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(self.sock, select.POLLIN)
        sock_fd = self.sock.fileno()
        while True:
            self._watch(started)
            for fd, _ in poll.poll(_TICK * 1000):
                if fd == sock_fd:
                    message, fds = _receive(self.sock)
                    if message is None:
                        raise HostError("the sandbox process died")
                    if message[0] == "done":
                        return str(message[1])
                    self.pidfd = fds[0]
                elif not self._read(reader):
                    poll.unregister(reader)

    def _watch(self, started: float) -> None:
        """Begin or go on with ending the container, where it is time to."""
        if self.pidfd < 0:
            return
        now = time.monotonic()
        limit = self.spec.limits.timeout
        if self.cancel is not None and self.cancel.is_set():
            if self.stopping != "cancel":
                self.stopping = "cancel"
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        elif not self.stopping and limit is not None and now - started > limit:
            self.stopping = "timeout"
            self.kill_at = now + _GRACE
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
        elif self.kill_at is not None and now > self.kill_at:
            self.kill_at = None
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def _read(self, reader: int) -> bool:
        """Pass on one piece; False at the end of the output."""
        try:
            data = os.read(reader, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        room = self.spec.limits.log - self.written
        if len(data) > room:
            self.truncated = True
            data = data[: max(room, 0)]
        if data:
            self.written += len(data)
            self.output(data)
        return True

    def _drain(self, reader: int) -> None:
        """Pass on what is left: nobody writes any more, so this ends."""
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        while poll.poll(0) and self._read(reader):
            pass

    def _status(self, line: str, seconds: float) -> ExitStatus:
        word, _, rest = line.partition(" ")
        if word == "error" and not self.stopping:
            raise HostError(f"the sandbox could not be started: {rest}")
        number = int(rest) if word == "signal" else 0
        code = int(rest) if word == "exit" else 128 + (number or signal.SIGKILL)
        return ExitStatus(
            code,
            number,
            timed_out=self.stopping == "timeout",
            cancelled=self.stopping == "cancel",
            log_truncated=self.truncated,
            seconds=seconds,
        )
