"""Knows how a container's first process lives; must not know where its request came from.

The child of `clone` becomes process 1: it builds the root, gives up every right, starts the main
program, reaps, forwards signals and ends with it, upon which the kernel kills whatever is left.
It stays the interpreter that its parent was forked from, out of reach of the container: its memory
belongs to the user namespace above, so that even root inside may not open /proc/1/exe or trace it.
Standard library and buildgraph.kernel alone.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import resource
import select
import signal
import struct
from typing import Any, Final, NoReturn

from buildgraph import kernel as k
from buildgraph.sandbox.rootfs import Refused, RootBuilder
from buildgraph.sandbox.wire import send

_FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STATUS_FD: Final = 3
_OOM_FD: Final = 4
_OOM_SCORE: Final = 500  # of 1000: the kernel takes a step before it takes the builder

# asm-generic/ioctls.h
_TIOCGPTN: Final = 0x80045430
_TIOCSPTLCK: Final = 0x40045431
_TIOCGPTPEER: Final = 0x5441


class Init:
    """Process 1 of a container; `run` never returns.

    `stdin` is -1 for /dev/null. `output` is a pipe, or for a container with a terminal a socket
    that gets the terminal's other end. `status` gets one line: `exit N`, `signal N`, `error TEXT`.
    """

    def __init__(
        self, plan: dict[str, Any], builder: RootBuilder, *, stdin: int, output: int, status: int
    ):
        self.plan = plan
        self.builder = builder
        self.stdin = stdin
        self.output = output
        self.status = status
        self.main = 0
        self.terminal = ""

    def run(self, netns: int) -> NoReturn:
        """Become the container. `netns` is the network namespace to join, -1 = stay."""
        builder = self.builder
        try:
            builder.doing = "joining the network"
            if netns >= 0:
                k.setns(netns, k.CLONE_NEWNET)
            builder.build()
            self._settle()
            self._give_up_rights()
            if self._orphaned():
                os._exit(1)
            builder.doing = "starting"
            self._report(self._start_and_wait())
        except Refused as error:
            self._report(f"error {error}")
        except OSError as error:
            self._report(f"error {builder.doing}: {error}")
        except BaseException as error:  # noqa: BLE001 (a traceback has nobody to read it here)
            self._report(f"error {builder.doing}: {type(error).__name__}: {error}")
        os._exit(0)

    def _orphaned(self) -> bool:
        """Say whether the slot died before its death would have been ours (PR_SET_PDEATHSIG)."""
        poll = select.poll()
        poll.register(self.status, 0)
        return bool(poll.poll(0))

    def _report(self, line: str) -> None:
        os.write(self.status, line.encode(errors="surrogateescape")[:4000])

    def _settle(self) -> None:
        """Set what the container sees of itself, while we still may."""
        builder, plan = self.builder, self.plan
        builder.doing = "setting the host name"
        k.sethostname(plan["hostname"])
        builder.doing = "setting limits"
        for name, soft, hard in plan["rlimits"]:
            _limit(name, soft, hard)
        builder.doing = "making a session"
        os.setsid()
        try:
            k.join_session_keyring()
        except OSError as error:
            # No room or no keys in this kernel: keyctl(2) is not on the list of calls anyway.
            if error.errno not in (errno.EDQUOT, errno.ENOSYS, errno.EPERM):
                raise
        # Opened while we may: afterwards the file belongs to the namespace above.
        oom = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        if builder.userns >= 0:
            builder.doing = "entering the user namespace"
            k.setns(builder.userns, k.CLONE_NEWUSER)
        builder.doing = "opening /dev/null"
        if plan["tty"]:
            stdin = output = self._open_terminal()
        else:
            stdin = self.stdin if self.stdin >= 0 else os.open("/dev/null", os.O_RDONLY)
            output = self.output
        # All of them first above the numbers that are overwritten next.
        stdin, output, status, oom = (
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (stdin, output, self.status, oom)
        )
        os.dup2(stdin, 0, inheritable=True)
        os.dup2(output, 1, inheritable=True)
        os.dup2(output, 2, inheritable=True)
        self.status = os.dup2(status, _STATUS_FD, inheritable=False)
        os.dup2(oom, _OOM_FD, inheritable=False)
        k.close_from(_OOM_FD + 1)
        builder.doing = f"entering the working directory {plan['cwd']}"
        self._enter(plan["cwd"])
        os.umask(0o022)

    def _open_terminal(self) -> int:
        """Make a terminal in the container's own devpts and send its other end to the host."""
        flags = os.O_RDWR | os.O_NOCTTY
        master = os.open("/dev/pts/ptmx", flags)
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
        builder, plan = self.builder, self.plan
        uid, gid, mask = plan["uid"], plan["gid"], plan["capabilities"]
        builder.doing = "dropping capabilities"
        k.drop_bounding(mask)
        if plan["no_new_privs"]:
            k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
        if plan["filter"]:
            # Before the rights are gone: without no_new_privs it needs SYS_ADMIN.
            builder.doing = "installing the list of system calls"
            k.seccomp_filter(plan["filter"])
        builder.doing = f"becoming {uid}:{gid}"
        if plan["setgroups"]:
            k.setgroups_raw(tuple(plan["groups"]))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        k.prctl(k.PR_CAP_AMBIENT, k.PR_CAP_AMBIENT_CLEAR_ALL)
        kept = mask if uid == 0 else 0
        k.set_capabilities(kept, kept, 0)
        k.prctl(k.PR_SET_DUMPABLE, 0)
        k.prctl(k.PR_SET_PDEATHSIG, signal.SIGKILL)

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

    def _not_started(self, name: str, error: OSError) -> str:
        """Say why, with the exit code docker gives: 127 not there, 126 there and no program."""
        code = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
        if code == 127 and "/" not in name:
            reason = "executable file not found in $PATH"
        else:
            reason = os.strerror(error.errno or 0).lower()
        os.write(2, f"exec: {name!r}: {reason}\n".encode(errors="surrogateescape"))
        return f"exit {code}"


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


def _limit(name: str, soft: int, hard: int) -> None:
    """Set a limit as near to the wanted one as the kernel lets us."""
    kind = getattr(resource, name)
    _, highest = resource.getrlimit(kind)
    if highest != resource.RLIM_INFINITY and hard > highest:
        try:
            resource.setrlimit(kind, (soft, hard))
            return
        except (PermissionError, ValueError):
            hard = highest  # raising it needs SYS_RESOURCE, which not every root has
    resource.setrlimit(kind, (min(soft, hard), hard))
