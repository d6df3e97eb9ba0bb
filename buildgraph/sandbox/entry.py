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
from buildgraph.sandbox.step import Init, Joined
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
        self.handlers: list[int] = []
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

        A message without a socket asks for a network namespace, to be given a way out, or for
        emulators of other architectures.
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
            if "emulators" in message:
                self._register(sock, message["emulators"], message["architecture"])
                continue
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

    def _register(self, sock: _socket.socket, lines: list[bytes], architecture: str) -> None:
        from buildgraph.sandbox.binfmt import own_handlers  # few builds need it

        if self.userns < 0:
            send(sock, "containers have no user namespace of their own here")
            return
        fd, error = own_handlers(self.userns, lines, architecture)
        if fd >= 0:
            self.handlers.append(fd)  # they live as long as this process
        send(sock, error)

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


class Joining:
    """A process that joined a container: whom to tell, and what is known of it."""

    def __init__(self, sock: _socket.socket, pid: int, pidfd: int, status: int):
        self.sock = sock
        self.pid = pid
        self.pidfd = pidfd
        self.status = status
        self.line = ""

    def close(self) -> None:
        """Let go of everything; the process has been reaped."""
        self.sock.close()
        os.close(self.pidfd)
        if self.status >= 0:
            os.close(self.status)


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
        self.joined: dict[int, Joining] = {}  # by pidfd
        gc.freeze()  # the collector would touch, and so copy, every page in each child

    def serve(self) -> NoReturn:
        """Run what is asked until the host is gone."""
        while True:
            message, fds = receive(self.sock)
            if message is None:
                os._exit(0)
            kind, plan = message
            if kind != "run":
                _refuse(fds, "error the container has ended")
                continue
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
        zygote = self.zygote
        try:
            netns = fds[-1] if plan["netns"] == "fd" else self._own_netns(plan["netns"])
            pid, pidfd = k.clone(_NAMESPACES, cgroup=self.cgroup)
            if pid == 0:
                builder = RootBuilder(
                    plan, zygote.scratch, zygote.store, zygote.base, zygote.userns
                )
                Init(plan, builder, fds, status_writer).run(netns)
        finally:
            os.close(status_writer)
            for fd in fds:
                os.close(fd)
        try:
            send(self.sock, ("started", pid), (pidfd,))
            return self._wait(pid, pidfd, status_reader)
        except OSError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # not reaped yet, so it is the same one
            self._drop_joined()
            os.waitpid(pid, 0)
            raise
        finally:
            os.close(status_reader)
            os.close(pidfd)

    def _wait(self, pid: int, pidfd: int, status: int) -> str:
        """Return the status line once every process of the container is gone.

        That of process 1 is the last to become readable: the kernel ends it only when its
        namespace is empty, pid_namespaces(7), and those who joined it are reaped here.
        """
        poll = select.poll()
        for fd in (self.sock.fileno(), pidfd, status):
            poll.register(fd, select.POLLIN)
        line = ""
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if status in ready:
                poll.unregister(status)
                line = _text(status)
                if not line or line.startswith("running"):
                    send(self.sock, ("running", pid))
                    line = line.partition("\n")[2]
            for fd in ready:
                if fd in self.joined:
                    self._follow_joined(fd, poll)
            if pidfd in ready:
                break
            if self.sock.fileno() in ready and not self._take_joining(pidfd, poll):
                os.kill(pid, signal.SIGKILL)  # the host is gone: it sends nothing in the meantime
                poll.unregister(self.sock.fileno())
        self._drop_joined()
        _, code = os.waitpid(pid, 0)
        return line or _text(status) or _ended(code)

    # -- processes that join ---------------------------------------------------------------------

    def _take_joining(self, container: int, poll: select.poll) -> bool:
        """Start what the host asks for; False when the host is gone."""
        message, fds = receive(self.sock)
        if message is None:
            return False
        sock, rest = _socket.socket(fileno=fds[0]), fds[1:]
        status_reader, status_writer = os.pipe()
        try:
            pid, pidfd = self._clone_into(container)
            if pid == 0:
                zygote = self.zygote
                Joined(message[1], rest, status_writer, zygote.base, zygote.userns).run(container)
        except OSError as error:
            os.close(status_reader)
            _refuse([sock.detach()], f"error joining the container: {error}")
            return True
        finally:
            os.close(status_writer)
            for fd in rest:
                os.close(fd)
        one = Joining(sock, pid, pidfd, status_reader)
        for fd in (sock.fileno(), pidfd, status_reader):
            self.joined[fd] = one
            poll.register(fd, select.POLLIN)
        _tell(sock, ("started", pid), (pidfd,))
        return True

    def _clone_into(self, container: int) -> tuple[int, int]:
        """Fork a child that lives in the container's pid namespace, all else as here.

        A helper enters the namespace for its children and ends: an ordinary user's process could
        not come back, setns(2). The child is ours all the same (CLONE_PARENT).
        """
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        helper = os.fork()
        if helper == 0:
            try:
                ours.close()
                k.setns(container, k.CLONE_NEWPID)
                pid, pidfd = k.clone(k.CLONE_PARENT, cgroup=self.cgroup)
                if pid == 0:
                    theirs.close()
                    return 0, -1
                send(theirs, ("joined", pid), (pidfd,))
            except OSError as error:
                send(theirs, ("error", str(error)))
            os._exit(0)
        theirs.close()
        try:
            message, fds = receive(ours)
        finally:
            ours.close()
            os.waitpid(helper, 0)
        if message is None or message[0] != "joined":
            raise OSError("its process ended at once" if message is None else message[1])
        return message[1], fds[0]

    def _follow_joined(self, fd: int, poll: select.poll) -> None:
        one = self.joined[fd]
        if fd == one.status:
            one.line = _text(fd)
            if not one.line:
                _tell(one.sock, ("running", one.pid))
            self._forget(fd, poll)
            os.close(fd)
            one.status = -1
        elif fd == one.pidfd:
            self._reap(one, poll)
        else:  # the host wants nothing more of it
            self._forget(fd, poll)
            signal.pidfd_send_signal(one.pidfd, signal.SIGKILL)

    def _forget(self, fd: int, poll: select.poll | None) -> None:
        if self.joined.pop(fd, None) is not None and poll is not None:
            poll.unregister(fd)

    def _reap(self, one: Joining, poll: select.poll | None) -> None:
        _, code = os.waitpid(one.pid, 0)
        if one.status >= 0:
            one.line = _text(one.status)
        _tell(one.sock, ("done", one.line or _ended(code)))
        for fd in (one.sock.fileno(), one.pidfd, one.status):
            self._forget(fd, poll)
        one.close()

    def _drop_joined(self) -> None:
        """Reap those who ended together with process 1, or make them end."""
        for one in set(self.joined.values()):
            signal.pidfd_send_signal(one.pidfd, signal.SIGKILL)
            self._reap(one, None)

    def _own_netns(self, kind: str) -> int:
        """Return this slot's isolated network namespace, made at its first use; -1 = the host's."""
        if kind == "host":
            return -1
        if self.isolated < 0:
            self.isolated = new_netns(self.zygote.userns)
        return self.isolated


def _text(fd: int) -> str:
    return os.read(fd, 4096).decode(errors="surrogateescape")


def _ended(code: int) -> str:
    if os.WIFSIGNALED(code):
        return f"signal {os.WTERMSIG(code)}"
    return f"exit {os.WEXITSTATUS(code)}"


def _tell(sock: _socket.socket, message: tuple[Any, ...], fds: tuple[int, ...] = ()) -> None:
    try:
        send(sock, message, fds)
    except OSError:
        pass  # it wants to know nothing more


def _refuse(fds: list[int], line: str) -> None:
    """Answer a request that cannot be met, on its own socket."""
    sock = _socket.socket(fileno=fds[0])
    _tell(sock, ("done", line))
    sock.close()
    for fd in fds[1:]:
        os.close(fd)


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
