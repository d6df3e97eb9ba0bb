"""Knows how one step is lent a way to the user's ssh agent; must not know a key.

The step gets a socket of ours, and what it says there is read message by message: only the two
requests that use a key are passed on (list, sign), so a step can neither take a key out of the
agent nor put one in, lock it or forget it. Source: draft-miller-ssh-agent, sections 3 and 6.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from buildgraph import limits
from buildgraph.errors import HostError

_LIST: Final = 11  # SSH_AGENTC_REQUEST_IDENTITIES
_SIGN: Final = 13  # SSH_AGENTC_SIGN_REQUEST
_FAILURE: Final = b"\x05"  # SSH_AGENT_FAILURE
_LENGTH: Final = struct.Struct(">I")


@contextmanager
def lent_agent(
    agent: str, directory: str, name: str, *, mode: int, uid: int, gid: int
) -> Iterator[str]:
    """Yield the path of a socket in `directory` that leads to the agent at the socket `agent`.

    It has the mode and owner given, and ends with the context, together with every connection.
    Raises HostError where the socket cannot be made.
    """
    proxy = _Proxy(agent)
    try:
        try:
            proxy.listen(directory, name, mode, uid, gid)
        except OSError as error:
            raise HostError(
                f"the socket of an ssh mount cannot be made for {uid}:{gid}: {error.strerror}"
            ) from error
        yield f"{directory}/{name}"
    finally:
        proxy.close()


class _Proxy:
    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def listen(self, directory: str, name: str, mode: int, uid: int, gid: int) -> None:
        """Make the socket; by a descriptor, since sun_path(7) holds 107 bytes."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(f"/proc/self/fd/{fd}/{name}")
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
            os.chmod(name, mode, dir_fd=fd)
        finally:
            os.close(fd)
        self._listener.listen(16)
        self._start(self._accept, "ssh-agent")

    def close(self) -> None:
        """End the socket and every connection; returns when no thread is left."""
        with self._guard:
            self._closed = True
            waiting = [self._listener, *self._open]
        for sock in waiting:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes who waits for it, accept(2) too
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, work: object, name: str, *args: socket.socket) -> None:
        thread = threading.Thread(target=work, args=args, name=name, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._guard:
                self._threads[1:] = [t for t in self._threads[1:] if t.is_alive()]
                full = self._closed or len(self._open) >= 2 * limits.AGENT_CONNECTIONS
                if not full:
                    self._open.add(client)
            if full:
                client.close()
                continue
            self._start(self._serve, "ssh-agent-client", client)

    def _serve(self, client: socket.socket) -> None:
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with self._guard:
            if self._closed:
                agent.close()
            self._open.add(agent)
        try:
            agent.connect(self._agent)
            while (message := _receive(client)) is not None:
                answer: bytes | None = _FAILURE
                if message[:1] in (bytes([_LIST]), bytes([_SIGN])):
                    agent.sendall(_LENGTH.pack(len(message)) + message)
                    answer = _receive(agent)
                if answer is None:
                    return
                client.sendall(_LENGTH.pack(len(answer)) + answer)
        except OSError:
            pass  # the agent is gone, or the step: who is left sees the end of the connection
        finally:
            with self._guard:
                self._open -= {client, agent}
            client.close()
            agent.close()


def _receive(sock: socket.socket) -> bytes | None:
    """Return one message; None at the end, and for one over the cap."""
    head = _exactly(sock, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    return _exactly(sock, size) if 0 < size <= limits.AGENT_MESSAGE_BYTES else None


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        data = sock.recv(min(size, 65_536))
        if not data:
            return None
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
