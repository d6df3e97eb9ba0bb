"""Knows how a process of a container comes to be, its first one and those that join it later; must
not know where the request came from.

The child of `clone` builds the root, gives up every right and then either becomes the command
itself (as docker has it: the command is process 1), or stays as process 1 that starts the command,
reaps, forwards signals and ends with it, upon which the kernel kills whatever is left. Until it
has become the command it is the interpreter that its parent was forked from, out of reach of the
container: its memory belongs to the user namespace above, so that even root inside may not open
/proc/1/exe or trace it. Standard library and buildgraph.kernel alone.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import resource
import select
import signal
import stat
import struct
from typing import Any, Final, NoReturn

from buildgraph import kernel as k
from buildgraph.sandbox.inroot import Refused
from buildgraph.sandbox.rootfs import RootBuilder
from buildgraph.sandbox.wire import send

_FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGALRM,
    signal.SIGCONT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),  # systemd's STOPSIGNAL is one of these
)
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STATUS_FD: Final = 3
_OOM_FD: Final = 4
_OOM_SCORE: Final = 500  # of 1000: the kernel takes a step before it takes the builder
_JOINED: Final = (
    k.CLONE_NEWNS | k.CLONE_NEWIPC | k.CLONE_NEWUTS | k.CLONE_NEWCGROUP | k.CLONE_NEWNET
)

# asm-generic/ioctls.h
_TIOCSCTTY: Final = 0x540E
_TIOCGPTN: Final = 0x80045430
_TIOCSPTLCK: Final = 0x40045431
_TIOCGPTPEER: Final = 0x5441


class Process:
    """What every process of a container goes through; `run` of the subclasses never returns.

    `fds` are, in this order: what it writes to (for a terminal: a socket that gets the terminal's
    other end), where the plan says so another for its errors, and its standard input. `status`
    gets one line: `error TEXT`, or `exit N` where it could not be started; one that became its
    command says nothing, and the fd closes.
    """

    def __init__(self, plan: dict[str, Any], fds: list[int], status: int, base: int, userns: int):
        self.plan = plan
        rest = list(fds)
        self.output = rest.pop(0)
        self.errors = rest.pop(0) if plan["errors"] else self.output
        self.stdin = rest.pop(0) if plan["stdin"] else -1
        self.status = status
        self.base = base
        self.userns = userns
        self.terminal = ""
        self.doing = ""
        # Opened while we may, and while /proc is surely what it says: afterwards the file belongs
        # to the namespace above.
        self.oom = os.open("/proc/self/oom_score_adj", os.O_WRONLY)

    def _report(self, line: str) -> None:
        os.write(self.status, line.encode(errors="surrogateescape")[:4000])

    def _fail(self, error: BaseException) -> NoReturn:
        doing = self.doing
        if isinstance(error, Refused):
            self._report(f"error {error}")
        elif isinstance(error, OSError):
            self._report(f"error {doing}: {error}")
        else:  # a traceback has nobody to read it here
            self._report(f"error {doing}: {type(error).__name__}: {error}")
        os._exit(0)

    def _settle(self) -> None:
        """Set what the process sees of itself, while we still may."""
        plan = self.plan
        self.doing = "setting limits"
        for number, soft, hard in plan["rlimits"]:
            _limit(number, soft, hard)
        self.doing = "making a session"
        os.setsid()
        try:
            k.join_session_keyring()
        except OSError as error:
            # No room or no keys in this kernel: keyctl(2) is not on the list of calls anyway.
            if error.errno not in (errno.EDQUOT, errno.ENOSYS, errno.EPERM):
                raise
        if not plan["tty"]:
            _give_pipes({self.output, self.errors}, self.base + plan["uid"])
        if self.userns >= 0:
            self.doing = "entering the user namespace"
            k.setns(self.userns, k.CLONE_NEWUSER)
        self._own_namespaces()
        self.doing = "opening /dev/null"
        if plan["tty"]:
            stdin = output = errors = self._open_terminal()
        else:
            stdin = self.stdin if self.stdin >= 0 else os.open("/dev/null", os.O_RDONLY)
            output, errors = self.output, self.errors
        # All of them first above the numbers that are overwritten next.
        stdin, output, errors, status, oom = (
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
            for fd in (stdin, output, errors, self.status, self.oom)
        )
        os.dup2(stdin, 0, inheritable=True)
        os.dup2(output, 1, inheritable=True)
        os.dup2(errors, 2, inheritable=True)
        self.status = os.dup2(status, _STATUS_FD, inheritable=False)
        os.dup2(oom, _OOM_FD, inheritable=False)
        k.close_from(_OOM_FD + 1)
        self.doing = f"entering the working directory {plan['cwd']}"
        self._enter(plan["cwd"])
        os.umask(0o022)

    def _own_namespaces(self) -> None:
        """Give a container with SYS_ADMIN mounts and a host name that it may change."""

    def _open_terminal(self) -> int:
        """Make a terminal in the container's own devpts and send its other end to the host."""
        flags = os.O_RDWR | os.O_NOCTTY
        master = os.open("/dev/pts/ptmx", flags | os.O_NONBLOCK)
        info = os.fstat(master)
        if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(5, 2):
            raise Refused("/dev/pts/ptmx of the container is no terminal")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))[0]
        self.terminal = f"/dev/pts/{number}"
        end = fcntl.ioctl(master, _TIOCGPTPEER, flags)
        os.fchown(end, self.plan["uid"], -1)
        sock = _socket.socket(fileno=self.output)
        send(sock, "terminal", (master,))
        sock.close()
        os.close(master)
        return end

    def _enter(self, cwd: str) -> None:
        root = os.open("/", os.O_PATH)
        fd = k.openat2(
            root,
            cwd,
            os.O_PATH | os.O_DIRECTORY,
            k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS,
        )
        os.fchdir(fd)
        os.close(fd)
        os.close(root)
        if not os.getcwd().startswith("/"):
            raise Refused(f"the working directory {cwd} is outside the root")

    def _give_up_rights(self) -> None:
        plan = self.plan
        uid, gid, mask = plan["uid"], plan["gid"], plan["capabilities"]
        self.doing = "dropping capabilities"
        k.drop_bounding(mask)
        if plan["no_new_privs"]:
            k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
        if plan["personality"]:
            k.personality(plan["personality"])
        if plan["filter"]:
            # Before the rights are gone: without no_new_privs it needs SYS_ADMIN.
            self.doing = "installing the list of system calls"
            k.seccomp_filter(plan["filter"])
        self.doing = f"becoming {uid}:{gid}"
        if plan["setgroups"]:
            k.setgroups_raw(tuple(plan["groups"]))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        k.prctl(k.PR_CAP_AMBIENT, k.PR_CAP_AMBIENT_CLEAR_ALL)
        kept = mask if uid == 0 else 0
        k.set_capabilities(kept, kept, 0)
        k.prctl(k.PR_SET_DUMPABLE, 0)
        k.prctl(k.PR_SET_PDEATHSIG, signal.SIGKILL)

    def _become(self) -> NoReturn:
        """Replace this interpreter by the command."""
        self.doing = "starting"
        args, env = self.plan["args"], self.plan["env"]
        try:
            program = _find(args[0], env)
            if self.terminal:
                fcntl.ioctl(0, _TIOCSCTTY, 0)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # the interpreter ignores them
            os.pwrite(_OOM_FD, str(_OOM_SCORE).encode(), 0)
            os.execve(program, args, env)
        except OSError as error:
            self._report(self._not_started(args[0], error))
        os._exit(0)

    def _not_started(self, name: str, error: OSError) -> str:
        """Say why, with the exit code docker gives: 127 not there, 126 there and no program."""
        code = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
        if code == 127 and "/" not in name:
            reason = "executable file not found in $PATH"
        else:
            reason = os.strerror(error.errno or 0).lower()
        os.write(2, f"exec: {name!r}: {reason}\n".encode(errors="surrogateescape"))
        return f"exit {code}"


class Init(Process):
    """Process 1 of a container. Reports `running` once it has started the command."""

    def __init__(self, plan: dict[str, Any], builder: RootBuilder, fds: list[int], status: int):
        super().__init__(plan, fds, status, builder.base, builder.userns)
        self.builder = builder
        self.main = 0

    def run(self, netns: int) -> NoReturn:
        """Become the container. `netns` is the network namespace to join, -1 = stay."""
        try:
            self.doing = "joining the network"
            if netns >= 0:
                k.setns(netns, k.CLONE_NEWNET)
            try:
                self.builder.build()
            finally:
                self.doing = self.builder.doing
            self.doing = "setting the host name"
            k.sethostname(self.plan["hostname"])
            self._settle()
            self._give_up_rights()
            if self._orphaned():
                os._exit(1)
            self.doing = "starting"
            if not self.plan["init"]:
                self._become()
            self._report(self._start_and_wait())
        except BaseException as error:  # noqa: BLE001 - all of it goes to the host
            self._fail(error)
        os._exit(0)

    def _orphaned(self) -> bool:
        """Say whether the slot died before its death would have been ours (PR_SET_PDEATHSIG)."""
        poll = select.poll()
        poll.register(self.status, 0)
        return bool(poll.poll(0))

    def _own_namespaces(self) -> None:
        if self.plan["own_namespaces"] and self.userns >= 0:
            self.doing = "making namespaces of the container's own"
            k.unshare(k.CLONE_NEWNS | k.CLONE_NEWUTS)

    def _start_and_wait(self) -> str:
        for number in _FORWARDED:
            signal.signal(number, self._forward)
        args, env = self.plan["args"], self.plan["env"]
        try:
            program = _find(args[0], env)
            os.pwrite(_OOM_FD, str(_OOM_SCORE).encode(), 0)
            self.main = os.posix_spawn(
                program,
                args,
                env,
                file_actions=self._terminal_actions(),
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD),
            )
            os.pwrite(_OOM_FD, b"0", 0)
        except OSError as error:
            return self._not_started(args[0], error)
        self._report("running\n")
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == self.main:
                break
        if os.WIFSIGNALED(status):
            return f"signal {os.WTERMSIG(status)}"
        return f"exit {os.WEXITSTATUS(status)}"

    def _terminal_actions(self) -> list[tuple[Any, ...]]:
        """The first terminal a session's leader opens becomes the session's own, tty(4)."""
        if not self.terminal:
            return []
        opened = (os.POSIX_SPAWN_OPEN, 0, self.terminal, os.O_RDWR, 0)
        return [opened, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]

    def _forward(self, number: int, _frame: object) -> None:
        if self.main:
            try:
                os.kill(self.main, number)
            except ProcessLookupError:
                pass


class Joined(Process):
    """One more process of a container that runs; born in its pid namespace and control group."""

    def run(self, container: int) -> NoReturn:
        """Become the command. `container` is a pidfd of process 1."""
        try:
            self.doing = "joining the container"
            k.setns(container, _JOINED)
            os.umask(0)
            self._settle()
            self._give_up_rights()
            self._become()
        except BaseException as error:  # noqa: BLE001 - all of it goes to the host
            self._fail(error)


def _give_pipes(fds: set[int], uid: int) -> None:
    """Let the user open /dev/stdout and /dev/stderr: a pipe belongs to who made it."""
    for fd in fds:
        try:
            os.fchown(fd, uid, -1)
        except OSError:
            pass  # not mapped here, or no pipe of ours: writing to the open fd works all the same


def _find(name: str, env: dict[str, str]) -> str:
    """Return the path of a program as execvp(3) would. Raises OSError."""
    if "/" in name:
        return name
    found: OSError | None = None
    for directory in env.get("PATH", _DEFAULT_PATH).split(":"):
        path = f"{directory or '.'}/{name}"
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            found = PermissionError(errno.EACCES, "not executable", path)
    raise found or FileNotFoundError(errno.ENOENT, "not in PATH", name)


def _limit(number: int, soft: int, hard: int) -> None:
    """Set a limit as near to the wanted one as the kernel lets us; -1 = none."""
    _, highest = resource.getrlimit(number)
    if highest != resource.RLIM_INFINITY and (hard > highest or hard == resource.RLIM_INFINITY):
        try:
            resource.setrlimit(number, (soft, hard))
            return
        except (PermissionError, ValueError):
            hard = highest  # raising it needs SYS_RESOURCE, which not every root has
            soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(number, (soft, hard))
