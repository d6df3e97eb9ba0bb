"""Knows how steps get network namespaces with a way out; must not know how that way is built.

The host's side of the helper process (network_helper.py): a pool of prepared namespaces, one step
at a time in each. A step has no NET_ADMIN, so it hands the namespace on as it found it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Final

from buildgraph.errors import HostError
from buildgraph.sandbox.wire import receive, send

_SYSTEMD_UPSTREAM: Final = "/run/systemd/resolve/resolv.conf"


class NetworkPool:
    """Namespaces for `network: default`. Thread-safe.

    `make` returns the fds of a new namespace: (netns,) or (netns, its user namespace). `program` is
    the absolute path of pasta or slirp4netns; None looks for one. Root needs neither.
    """

    def __init__(self, make: Callable[[], list[int]], *, root: bool, program: str | None):
        self._make = make
        self._program = program
        self._root = root
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._all: list[int] = []
        self._helper: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def start(self) -> None:
        """Start the helper, which takes a moment to be ready. Idempotent."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._sock is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = (
            f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; "
            f"from buildgraph.sandbox.network_helper import main; main({theirs.fileno()})"
        )
        self._helper = subprocess.Popen(
            [sys.executable, "-I", "-c", program],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            cwd="/",
        )
        theirs.close()
        self._sock = ours
        send(ours, {"root": self._root, "program": self._program})

    def take(self) -> int:
        """Return the fd of a namespace nobody uses. Raises HostError where none can be had."""
        with self._lock:
            if self._free:
                return self._free.pop()
            self._start()
            assert self._sock is not None
            fds = self._make()
            try:
                send(self._sock, "attach", tuple(fds))
                answer, _ = receive(self._sock)
            except OSError:
                answer = None
            for extra in fds[1:]:
                os.close(extra)
            if answer is None or "error" in answer:
                os.close(fds[0])
                answer = answer or {"error": "the network helper died", "hint": None}
                raise HostError(
                    f"no network for the step: {answer['error']}",
                    hint=answer["hint"] or "`buildgraph doctor`, or --network=none",
                )
            self._all.append(fds[0])
            return fds[0]

    def give_back(self, netns: int) -> None:
        """Let the namespace serve another step; everything in it is dead."""
        with self._lock:
            self._free.append(netns)

    def close(self) -> None:
        """Remove all namespaces and what leads to them. Idempotent."""
        with self._lock:
            for fd in self._all:
                os.close(fd)
            self._all.clear()
            self._free.clear()
            if self._sock is not None:
                self._sock.close()
                self._sock = None
            if self._helper is not None:
                self._helper.wait()
                self._helper = None


def resolv_conf(path: str = "/etc/resolv.conf", upstream: str = _SYSTEMD_UPSTREAM) -> str:
    """Return the text of a container's /etc/resolv.conf.

    A resolver on the host's loopback cannot be reached from another network: it is replaced by
    the ones it asks itself, where systemd-resolved says so, else left out.
    """
    lines = _lines(path)
    kept = [line for line in lines if not _is_loopback(line)]
    if not any(line.startswith("nameserver") for line in kept):
        kept += [
            line
            for line in _lines(upstream)
            if line.startswith("nameserver") and not _is_loopback(line)
        ]
    return "".join(f"{line}\n" for line in kept)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return []
    return [line for line in lines if line and line[0] not in "#;"]


def _is_loopback(line: str) -> bool:
    words = line.split()
    return (
        words[0] == "nameserver"
        and words[1:2] != []
        and (words[1].startswith("127.") or words[1] == "::1")
    )
