"""Knows how the containers of a test stay up for a look, and how another process gets into them;
must not know what is tested.

`buildgraph test --keep` listens on a socket in a private directory of the store. `buildgraph enter
ID -- COMMAND` sends the command and its own stdin, stdout and stderr there (SCM_RIGHTS), and the
process that owns the container runs it: with the rights of the container, no more, and as whoever
may open the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Final, TextIO

from buildgraph.cli.escape import safe
from buildgraph.engine.container.running import ImageContainer
from buildgraph.engine.smoke.report import SmokeReport, failure_lines
from buildgraph.errors import BuildgraphError, InputError
from buildgraph_cache.scratch import Scratch
from buildgraph_cache.store import Store

_SOCKET: Final = "enter.sock"
_REQUEST_BYTES: Final = 1 << 20
_TICK: Final = 0.2


class Holder:
    """Keeps one test's containers up until the process is asked to end; see `hold`."""

    def __init__(self, out: TextIO):
        self._out = out
        self._scratch: Scratch | None = None
        self._cancel = threading.Event()
        self._containers: Mapping[str, ImageContainer] = {}

    def open(self, store: Store, cancel: threading.Event) -> None:
        """Take a place in the store for the socket."""
        self._scratch = store.new_scratch()
        self._cancel = cancel

    def close(self) -> None:
        """Let nobody in any more. Idempotent."""
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def hold(self, report: SmokeReport, containers: Mapping[str, ImageContainer]) -> None:
        """Say how to enter, and serve until the build is cancelled."""
        if not containers:
            self._say(f"{report.label}: no container is up")
            return
        assert self._scratch is not None
        self._containers = containers
        identity = os.path.basename(self._scratch.path)
        if not report.ok:
            for line in failure_lines(report):
                self._say(line)
        verdict = "all checks passed" if report.ok else report.reason or "checks failed"
        self._say(f"{report.label}: {verdict}; its containers are up. To enter:")
        for name in containers:
            self._say(f"  buildgraph enter {identity}/{name} -- sh")
        self._say("Ctrl-C stops them.")
        with _Listener(self._scratch.path) as server:
            while not self._cancel.is_set():
                with contextlib.suppress(TimeoutError):
                    client = server.accept()[0]
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _say(self, text: str) -> None:
        self._out.write(f"{safe(text)}\n")
        self._out.flush()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(None)
            data, fds, _, _ = socket.recv_fds(client, _REQUEST_BYTES, 3)
            try:
                if _peer(client) not in (0, os.getuid(), os.geteuid()):
                    raise InputError("this is somebody else's test")
                answer = self._run(json.loads(data), fds)
            except BuildgraphError as error:
                answer = {"error": error.message, "hint": error.hint}
            except (ValueError, KeyError, TypeError) as error:
                answer = {"error": f"not understood: {error}", "hint": None}
            finally:
                for fd in fds:
                    os.close(fd)
            with contextlib.suppress(OSError):
                client.sendall(json.dumps(answer).encode())

    def _run(self, request: Mapping[str, object], fds: list[int]) -> dict[str, object]:
        name, args = str(request["name"]), request["args"]
        container = self._containers.get(name)
        if container is None or container.ended:
            up = ", ".join(n for n, c in self._containers.items() if not c.ended) or "none"
            raise InputError(f"{name} is not up", hint=f"up: {up}")
        if not isinstance(args, list) or len(fds) != 3:
            raise ValueError("a list of words and three descriptors are expected")
        user = request.get("user")
        terminal = fds[0] if request.get("tty") else None
        status = container.exec(
            [str(word) for word in args],
            user=None if user is None else str(user),
            output=lambda piece: _write_all(fds[1], piece),
            errors=lambda piece: _write_all(fds[2], piece),
            stdin=fds[0],
            tty=terminal,
            cancel=self._cancel,
        )
        return {"code": status.code}


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:
            return  # nobody reads; the command ends by itself or with the test


def _peer(client: socket.socket) -> int:
    packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(packed[4:8], sys.byteorder)


class _Listener:
    """A listening socket in a directory whose path may be too long for sockaddr_un."""

    def __init__(self, directory: str):
        self._directory = directory

    def __enter__(self) -> socket.socket:
        self._fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(f"/proc/self/fd/{self._fd}/{_SOCKET}")
        self._server.listen(8)
        self._server.settimeout(_TICK)
        return self._server

    def __exit__(self, *_: object) -> None:
        self._server.close()
        os.close(self._fd)


def connect(directory: str) -> socket.socket:
    """Return a connection to the test that is held with this directory. Raises OSError."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.connect(f"/proc/self/fd/{fd}/{_SOCKET}")
    except OSError:
        client.close()
        raise
    finally:
        os.close(fd)
    return client
