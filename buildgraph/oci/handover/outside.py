"""Knows how programs are run that must not be inside our own user namespace; must not know which.

podman makes a user namespace of its own, and cannot from inside of another that maps its user to
root. So a small process is forked while we are still who we were, and is asked later.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from buildgraph.errors import HostError

_SAID: Final = 64 * 1024  # bytes kept of what a program prints, from its end


class Done(Struct, frozen=True):
    """A program that has ended."""

    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """The last line it complained with."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip()[:500] if lines else f"exit code {self.code}"


class Outside:
    """Runs programs as whoever started us; threads may share it."""

    def __init__(self, channel: socket.socket | None = None):
        """Without a channel programs are run from here."""
        self._channel = channel
        self._lock = threading.Lock()

    def run(
        self, words: Sequence[str], *, stdin: int | None = None, cwd: str | None = None
    ) -> Done:
        """Run a program with our environment, reading from the file `stdin`, and wait for it.

        Raises FileNotFoundError where there is no such program, HostError where nobody is there
        to run it.
        """
        if self._channel is None:
            return _run(words, stdin, cwd)
        with self._lock:
            fds = [] if stdin is None else [stdin]
            try:
                socket.send_fds(self._channel, [json.dumps([list(words), cwd]).encode()], fds)
                answer = self._channel.recv(4 * _SAID)
            except OSError as error:
                raise HostError(f"cannot run {words[0]}: {error.strerror}") from error
        if not answer:
            raise HostError(f"{words[0]} was stopped")
        found = json.loads(answer)
        if found is None:
            raise FileNotFoundError(words[0])
        return Done(*found)


@contextlib.contextmanager
def outside(wanted: bool) -> Iterator[Outside]:
    """Give what runs programs; must be entered while there is one thread.

    The process behind it, forked where it is `wanted` by an ordinary user, ends with the context
    and with whoever entered it.
    """
    if not wanted or os.geteuid() == 0:
        yield Outside()
        return
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            here.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _serve(there)
        finally:
            os._exit(0)
    there.close()
    try:
        yield Outside(here)
    finally:
        here.close()
        os.waitpid(pid, 0)


def _serve(channel: socket.socket) -> None:
    """Answer until nobody asks any more."""
    while True:
        message, fds, _, _ = socket.recv_fds(channel, _SAID, 1)
        if not message:
            return
        answer: list[object] | None
        try:
            words, cwd = json.loads(message)
            done = _run(words, fds[0] if fds else None, cwd)
            answer = [done.code, done.out, done.err]
        except FileNotFoundError:
            answer = None
        except OSError as error:
            answer = [126, "", str(error)]
        for fd in fds:
            os.close(fd)
        channel.send(json.dumps(answer).encode())


def _run(words: Sequence[str], stdin: int | None, cwd: str | None) -> Done:
    done = subprocess.run(
        list(words),
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        capture_output=True,
        cwd=cwd,
        check=False,
    )
    # Escaped JSON may be six times as long as the text; one packet has to hold it.
    kept = _SAID // 4
    out, err = (data[-kept:].decode("ascii", "replace") for data in (done.stdout, done.stderr))
    return Done(done.returncode, out.replace("\ufffd", "?"), err.replace("\ufffd", "?"))
