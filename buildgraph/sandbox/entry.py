"""Knows how sandboxes are started without starting an interpreter for each; must not know why.

Three generations, all single-threaded, all forks of one interpreter started with `-I -S`:

    zygote   one a builder: makes the private mount namespace, the user namespace of the containers
             and the shifted view of the store, then forks a slot whenever the host asks for one
    slot     runs one container at a time; its control group and isolated network namespace serve
             one container after another, so that none of them is made or removed in a step
    init     process 1 of a container (step.py)

Each generation ends when its socket closes, so nothing outlives a killed builder. Standard library
and buildgraph.kernel alone.
"""

from __future__ import annotations

import _socket
import fcntl
import gc
import os
import select
import signal
import struct
from typing import Any, Final, NoReturn

from buildgraph import kernel as k
from buildgraph.sandbox.rootfs import RootBuilder
from buildgraph.sandbox.step import Init
from buildgraph.sandbox.wire import receive, send

_NAMESPACES: Final = (
    k.CLONE_NEWNS | k.CLONE_NEWPID | k.CLONE_NEWIPC | k.CLONE_NEWUTS | k.CLONE_NEWCGROUP
)
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


# -- zygote ------------------------------------------------------------------------------------


class Zygote:
    """The state that every slot inherits."""

    def __init__(self, config: dict[str, Any]):
        self.store: str = config["store"]
        self.scratch: str = config["scratch"]
        self.base: int = 0
        self.userns = -1
        self.warnings: list[str] = []
        k.unshare(k.CLONE_NEWNS)
        k.mount("none", "/", "none", k.MS_REC | k.MS_PRIVATE)
        if config["userns"] is not None:
            self._enter_plan(config["userns"])
        # Files that containers own are made with their root's id; the bit keeps the rights of
        # this process when its file id is not 0.
        if self.base:
            k.prctl(k.PR_SET_SECUREBITS, k.SECBIT_NO_SETUID_FIXUP)
            k.setfsuid(self.base, self.base)

    def _enter_plan(self, userns: dict[str, Any]) -> None:
        """Make the containers' user namespace and, where ids are shifted, the view of the store."""
        fd = new_userns(userns["uids"], userns["gids"], userns["setgroups"])
        base: int = userns["base"]
        if base:
            try:
                view = k.open_tree(k.AT_FDCWD, self.store, k.OPEN_TREE_CLONE)
                k.mount_setattr(view, set_=k.MOUNT_ATTR_IDMAP, userns=fd)
                k.move_mount(view, k.AT_FDCWD, self.store)
            except OSError as error:
                os.close(fd)
                self.warnings.append(f"no user namespace: the store cannot be id-mapped: {error}")
                return
            os.close(view)
        self.userns = fd
        self.base = base

    def serve(self, sock: _socket.socket) -> NoReturn:
        """Fork a slot for each socket that arrives, until the host is gone.

        A message without a socket asks for a network namespace, to be given a way out.
        """
        send(
            sock,
            {
                "userns": self.userns >= 0,
                "base": self.base,
                "warnings": self.warnings,
                "legacy_overlay": not _new_overlay_options(),
            },
        )
        while True:
            message, fds = receive(sock)
            if message is None:
                self._wait_for_slots()
                os._exit(0)
            if not fds:
                self._send_netns(sock)
                continue
            if os.fork() == 0:
                sock.close()
                Slot(self, _socket.socket(fileno=fds[0]), message).serve()
            os.close(fds[0])

    def _wait_for_slots(self) -> None:
        """Return when all are gone: the host takes our end for that of everything."""
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            pass

    def _send_netns(self, sock: _socket.socket) -> None:
        try:
            netns = new_netns(self.userns)
        except OSError as error:
            send(sock, {"error": str(error)})
            return
        fds = (netns,) if self.userns < 0 else (netns, self.userns)
        send(sock, {}, fds)
        os.close(netns)


def new_userns(uids: str, gids: str, setgroups: bool) -> int:
    """Return an fd of a new user namespace with these maps (lines of user_namespaces(7))."""
    reader, writer = os.pipe()
    pid, pidfd = k.clone(k.CLONE_NEWUSER)
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        os.close(reader)
        if not setgroups:
            _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/gid_map", gids)
        _write(f"/proc/{pid}/uid_map", uids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        os.close(writer)
        os.close(pidfd)
        os.waitpid(pid, 0)


def _new_overlay_options() -> bool:
    """Say whether overlayfs takes layers one by one (`lowerdir+`, since 6.5)."""
    fd = -1
    try:
        fd = k.fsopen("overlay")
        k.fsconfig(fd, "lowerdir+", "/")
        return True
    except OSError:
        return False
    finally:
        if fd >= 0:
            os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


# -- slot --------------------------------------------------------------------------------------


class Slot:
    """Runs one container at a time for one thread of the host."""

    def __init__(self, zygote: Zygote, sock: _socket.socket, config: dict[str, Any]):
        self.zygote = zygote
        self.sock = sock
        for path in config["join"]:
            _write(path, "0")
        self.cgroup = -1
        if config["cgroup"]:
            self.cgroup = os.open(config["cgroup"], os.O_PATH | os.O_DIRECTORY)
        self.isolated = -1
        gc.freeze()  # the collector would touch, and so copy, every page in each child

    def serve(self) -> NoReturn:
        """Run what is asked until the host is gone."""
        while True:
            plan, fds = receive(self.sock)
            if plan is None:
                os._exit(0)
            try:
                line = self._run(plan, fds)
            except OSError as error:
                line = f"error starting the sandbox: {error}"
            try:
                send(self.sock, ("done", line))
            except OSError:
                os._exit(0)  # the host is gone

    def _run(self, plan: dict[str, Any], fds: list[int]) -> str:
        status_reader, status_writer = os.pipe()
        output, rest = fds[0], fds[1:]
        stdin = rest.pop(0) if plan["stdin"] else -1
        netns = rest.pop(0) if plan["netns"] == "fd" else self._own_netns(plan["netns"])
        zygote = self.zygote
        try:
            pid, pidfd = k.clone(_NAMESPACES, cgroup=self.cgroup)
            if pid == 0:
                builder = RootBuilder(
                    plan, zygote.scratch, zygote.store, zygote.base, zygote.userns
                )
                init = Init(plan, builder, stdin=stdin, output=output, status=status_writer)
                init.run(netns)
        finally:
            os.close(status_writer)
            for fd in fds:
                os.close(fd)
        try:
            send(self.sock, ("started", pid), (pidfd,))
            return self._wait(pid, pidfd, status_reader)
        except OSError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # not reaped yet, so it is the same one
            os.waitpid(pid, 0)
            raise
        finally:
            os.close(status_reader)
            os.close(pidfd)

    def _wait(self, pid: int, pidfd: int, status: int) -> str:
        """Return the status line once every process of the container is gone."""
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        ready = poll.poll()
        if not any(fd == pidfd for fd, _ in ready):
            os.kill(pid, signal.SIGKILL)  # the host is gone: it sends nothing in the meantime
        # Returns only when the last process of the pid namespace is dead, pid_namespaces(7).
        _, code = os.waitpid(pid, 0)
        line = os.read(status, 4096).decode(errors="surrogateescape")
        if line:
            return line
        if os.WIFSIGNALED(code):
            return f"signal {os.WTERMSIG(code)}"
        return "error the sandbox ended without a word"

    def _own_netns(self, kind: str) -> int:
        """Return this slot's isolated network namespace, made at its first use; -1 = the host's."""
        if kind == "host":
            return -1
        if self.isolated < 0:
            self.isolated = new_netns(self.zygote.userns)
        return self.isolated


def new_netns(userns: int) -> int:
    """Return an fd of a new network namespace, loopback up, owned by `userns` (-1 = ours)."""
    ready_reader, ready_writer = os.pipe()
    hold_reader, hold_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(hold_writer)
            if userns >= 0:
                k.setns(userns, k.CLONE_NEWUSER)
            k.unshare(k.CLONE_NEWNET)
            _loopback_up()
            os.write(ready_writer, b"+")
            os.read(hold_reader, 1)
        finally:
            os._exit(0)
    os.close(ready_writer)
    os.close(hold_reader)
    try:
        if os.read(ready_reader, 1) != b"+":
            raise OSError("the kernel gave no network namespace")
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    finally:
        os.close(ready_reader)
        os.close(hold_writer)
        os.waitpid(pid, 0)


def _loopback_up() -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    request = struct.pack("16sh22x", b"lo", 0)
    flags = struct.unpack_from("16sh", fcntl.ioctl(sock.fileno(), _SIOCGIFFLAGS, request))[1]
    fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    sock.close()


def main(fd: int) -> NoReturn:
    """Be the zygote for the host at the other end of the socket `fd`."""
    sock = _socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    # The terminal's Ctrl-C is for the builder, which then ends the steps in order.
    os.setsid()
    gc.disable()
    config, _ = receive(sock)
    if config is None:
        os._exit(0)
    try:
        zygote = Zygote(config)
    except OSError as error:
        send(sock, {"error": str(error)})
        os._exit(1)
    zygote.serve(sock)
