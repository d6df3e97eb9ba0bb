"""Knows how steps get network namespaces with a way out; must not know how that way is built.

The host's side of the helper process (network_helper.py): a pool of prepared namespaces, one step
at a time in each, and what private networks (network_private.py) need of it. A step has no
NET_ADMIN, so it hands the namespace on as it found it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from buildgraph.errors import HostError
from buildgraph.sandbox.wire import receive, send

if TYPE_CHECKING:
    from buildgraph.sandbox.network_private import PrivateNetwork

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
        self._lock = threading.Lock()  # state
        self._talk = threading.Lock()  # one question to the helper at a time
        self._free: list[int] = []
        self._all: list[int] = []
        self._private: list[PrivateNetwork] = []
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
        fds = self._make()
        try:
            self._ask("attach", fds=tuple(fds))
        except HostError:
            os.close(fds[0])
            raise
        finally:
            for extra in fds[1:]:
                os.close(extra)
        with self._lock:
            self._all.append(fds[0])
        return fds[0]

    def _ask(self, *message: Any, fds: tuple[int, ...] = ()) -> dict[str, Any]:
        """Return the helper's answer. Raises HostError when it says no or nothing."""
        answer: dict[str, Any] | None = None
        with self._talk:
            with self._lock:
                self._start()
                sock = self._sock
            assert sock is not None
            with contextlib.suppress(OSError):
                send(sock, message, fds)
                answer, _ = receive(sock)
        if answer is None or "error" in answer:
            answer = answer or {"error": "the network helper died", "hint": None}
            raise HostError(
                f"no network for the step: {answer['error']}",
                hint=answer["hint"] or "`buildgraph doctor`, or --network=none",
            )
        return answer

    def private(self, *, outside: bool = False, ipv6: bool = False) -> PrivateNetwork:
        """Return a new private network; it ends with this pool at the latest."""
        from buildgraph.sandbox.network_private import PrivateNetwork

        made = PrivateNetwork(self, outside=outside, ipv6=ipv6)
        with self._lock:
            self._private = [one for one in self._private if not one.closed]
            self._private.append(made)
        return made

    # -- for private networks ------------------------------------------------------------------

    def start_router(self, sock: socket.socket, subnet6: str) -> None:
        """Have a router process serve the other end; its first message says how it went."""
        with self._lock:
            self._start()
            assert self._sock is not None
            try:
                send(self._sock, ("router", subnet6), (sock.fileno(),))
            except OSError as error:
                raise HostError("no private network: the network helper died") from error

    def new_netns(self) -> list[int]:
        """Return the fd of a fresh namespace of the containers, loopback up; perhaps more fds."""
        return self._make()

    def way_out(self, netns: int) -> int:
        """Give a namespace of ours a way to the outside; return its number. Raises HostError."""
        return int(self._ask("attach", fds=(netns,))["place"])

    def end_way_out(self, number: int) -> None:
        """Undo `way_out`. Never raises."""
        with contextlib.suppress(HostError):
            self._ask("release", number)

    def upstream(self) -> list[str]:
        """Return the addresses of the host's resolvers, on its loopback too."""
        return [
            line.split()[1]
            for line in _lines("/etc/resolv.conf")
            if line.startswith("nameserver") and len(line.split()) > 1 and "%" not in line
        ]

    def give_back(self, netns: int) -> None:
        """Let the namespace serve another step; everything in it is dead."""
        with self._lock:
            self._free.append(netns)

    def close(self) -> None:
        """Remove all namespaces and what leads to them. Idempotent."""
        with self._lock:
            private, self._private = self._private, []
        for network in private:
            network.close()
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
