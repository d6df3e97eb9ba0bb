"""Knows how the host's git is run so that neither a repository, nor an image, nor the user's own
settings decide what it does; must not know what it is run for.

git is found by absolute path and gets an environment built from zero: no configuration of the
system or the user, no hooks, no credential helpers, no prompts, and no protocol that could run a
program or read a path of this machine (`ext::`, `file:`). A login is handed over in the
environment, never in the arguments, which everybody can read.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import HostError, Interrupted, Location

_PLACES: Final = ("/usr/bin/git", "/usr/local/bin/git", "/bin/git")
_SSH: Final = ("/usr/bin/ssh", "/usr/local/bin/ssh", "/bin/ssh")
_PROTOCOLS: Final = "git:http:https:ssh"
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_AUTHORITIES: Final = ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_CONFIG: Final = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("credential.helper", ""),
    ("core.askPass", ""),
    ("protocol.allow", "never"),
    *((f"protocol.{name}.allow", "always") for name in _PROTOCOLS.split(":")),
    ("fetch.fsckObjects", "true"),
    # Old and odd, harmless to us, and found in many a real repository.
    ("fetch.fsck.zeroPaddedFilemode", "ignore"),
    ("fetch.fsck.missingSpaceBeforeDate", "ignore"),
    ("fetch.fsck.badTimezone", "ignore"),
    ("fetch.fsck.missingSpaceBeforeEmail", "ignore"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("safe.directory", "*"),
    ("init.defaultBranch", "main"),
)
_LOGIN: Final = re.compile(r"//[^/@\s]*@")
_TICK: Final = 0.05  # seconds after which it is asked whether to go on waiting
_KILL_AFTER: Final = 3.0  # seconds between asking a child to end and making it


class SshSetup(Struct, frozen=True):
    """How ssh is used: the agent's socket ("" = none), and the home with known hosts."""

    agent: str = ""
    home: str = ""


class GitFailed(HostError):
    """git said no; `said` is the end of what it wrote."""

    def __init__(self, message: str, said: str, where: Location | None, hint: str | None = None):
        super().__init__(message, where, hint)
        self.said = said


class GitProgram:
    """The host's git. Thread-safe; holds nothing open.

    `environ` is the user's: only proxies and certificate authorities are taken from it.
    """

    def __init__(self, environ: Mapping[str, str], ssh: SshSetup, *, path: str = ""):
        self._environ = environ
        self._ssh = ssh
        self._path = path

    def run(
        self,
        arguments: Sequence[str],
        *,
        where: Location | None = None,
        env: Mapping[str, str] | None = None,
        config: Sequence[tuple[str, str]] = (),
        data: bytes = b"",
        cancel: threading.Event | None = None,
        most: int = limits.GIT_OUTPUT_BYTES,
    ) -> bytes:
        """Run git and return what it wrote to stdout, at most `most` bytes.

        Raises GitFailed where it said no, HostError where it is missing or took too long, and
        Interrupted once `cancel` is set; no process is left then. `config` may hold a secret.
        """
        process = self._start(arguments, self._environment(env or {}, config), where)
        try:
            return _collect(process, data, cancel, most, arguments[0], where)
        finally:
            _end(process)

    def _start(
        self, arguments: Sequence[str], env: Mapping[str, str], where: Location | None
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [self.path(where), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                cwd="/",
                umask=0o022,  # modes 644 and 755, whoever builds
                start_new_session=True,  # no terminal to ask on, and one group to end
            )
        except OSError as error:
            raise HostError(f"cannot start git: {error.strerror}", where) from error

    def path(self, where: Location | None = None) -> str:
        """Return where git is. Raises HostError where it is nowhere: PATH is not asked (A22)."""
        for path in (self._path,) if self._path else _PLACES:
            if os.access(path, os.X_OK):
                return path
        raise HostError(
            "git is not installed, and a repository is to be read",
            where,
            "install git (apt-get install git), or download an archive with ADD https://...",
        )

    def _environment(
        self, more: Mapping[str, str], config: Sequence[tuple[str, str]]
    ) -> dict[str, str]:
        env = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C",
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": self._ssh_command(),
            "GIT_SSH_VARIANT": "ssh",
        }
        for name in (*_PROXIES, *(p.upper() for p in _PROXIES), *_AUTHORITIES):
            if name in self._environ and name != "HTTP_PROXY":  # CGI's trap; curl skips it too
                env[name] = self._environ[name]
        if self._ssh.agent:
            env["SSH_AUTH_SOCK"] = self._ssh.agent
        pairs = (*_CONFIG, *config)
        env["GIT_CONFIG_COUNT"] = str(len(pairs))
        for index, (key, value) in enumerate(pairs):
            env[f"GIT_CONFIG_KEY_{index}"] = key
            env[f"GIT_CONFIG_VALUE_{index}"] = value
        return {**env, **more}

    def _ssh_command(self) -> str:
        """Return the ssh that never asks; its words are ours, so git's shell sees no others."""
        program = next((p for p in _SSH if os.access(p, os.X_OK)), _SSH[0])
        words = [program, "-o", "BatchMode=yes", "-o", "ForwardAgent=no"]
        words += ["-o", "PermitLocalCommand=no"]
        if self._ssh.home:
            # Inside a user namespace ssh takes us for root and would look in root's home.
            folder = os.path.join(self._ssh.home, ".ssh")
            settings = os.path.join(folder, "config")
            words += ["-F", settings if os.path.isfile(settings) else "none"]
            known = f'"{folder}/known_hosts" "{folder}/known_hosts2"'
            words += ["-o", f"UserKnownHostsFile={known}"]
        return " ".join(shlex.quote(word) for word in words)


def _collect(
    process: subprocess.Popen[bytes],
    data: bytes,
    cancel: threading.Event | None,
    most: int,
    verb: str,
    where: Location | None,
) -> bytes:
    out, err = _Kept(most), _Kept(limits.MIB, tail=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    threads = [
        threading.Thread(target=_feed, args=(process.stdin, data), daemon=True),
        threading.Thread(target=_drain, args=(process.stdout, out.add), daemon=True),
        threading.Thread(target=_drain, args=(process.stderr, err.add), daemon=True),
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + limits.GIT_SECONDS
    while process.poll() is None:
        if cancel is not None and cancel.is_set():
            raise Interrupted("interrupted")
        if time.monotonic() > end:
            raise HostError(f"git {verb} took more than {limits.GIT_SECONDS} s", where)
        if out.overflown:
            raise HostError(f"git {verb} says more than {most} bytes", where)
        _wait(process, _TICK)
    for thread in threads:
        thread.join(_KILL_AFTER)
    if process.returncode != 0:
        said = _LOGIN.sub("//***@", err.text())
        raise GitFailed(f"git {verb}: {_last(said)}", said, where)
    if out.overflown:
        raise HostError(f"git {verb} says more than {most} bytes", where)
    return out.data()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a process that was not waited for yet has ended, so long at most.

    `Popen.wait` with a limit sleeps in ever longer steps, a third of what git takes to answer.
    """
    fd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(fd)


class _Kept:
    """Bytes of a pipe, up to a cap; with `tail` the last ones."""

    def __init__(self, most: int, *, tail: bool = False):
        self._most = most
        self._tail = tail
        self._bytes = bytearray()
        self.overflown = False

    def add(self, data: bytes) -> None:
        """Take what was read."""
        self._bytes += data
        if len(self._bytes) > self._most:
            self.overflown = True
            del self._bytes[: len(self._bytes) - self._most if self._tail else None]

    def data(self) -> bytes:
        """Return what was kept."""
        return bytes(self._bytes)

    def text(self) -> str:
        """Return it as text."""
        return self._bytes.decode("utf-8", "backslashreplace")


def _feed(pipe: object, data: bytes) -> None:
    try:
        with pipe:  # type: ignore[attr-defined]  # a pipe of Popen
            pipe.write(data)  # type: ignore[attr-defined]
    except OSError:
        pass  # it ended without reading; its exit code says why


def _drain(pipe: object, take: Callable[[bytes], None]) -> None:
    with pipe:  # type: ignore[attr-defined]  # a pipe of Popen
        while data := os.read(pipe.fileno(), 1 << 16):  # type: ignore[attr-defined]
            take(data)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: git leaves its transport running when it is killed alone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        try:
            os.killpg(process.pid, number)
            process.wait(_KILL_AFTER)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _last(said: str) -> str:
    """Return the line that says why, of what git wrote."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(fatal|error|ERROR|remote|ssh)\b", line)]
    return (telling or lines or ["it said nothing"])[0][:300]
