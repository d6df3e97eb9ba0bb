"""Knows how bytes of one TCP connection get to another and back; must not know what they say.

A port of the host that leads to a container, without any rule in the host's packet filter: the
program itself takes the connection and opens one inside.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final

from buildgraph.sandbox.network_loop import READ, WRITE, Loop

_BUFFER: Final = 1 << 18  # bytes a direction holds before its sender has to wait
_BACKLOG: Final = 1024
_PAUSE: Final = 0.2  # seconds without new connections when there are no fds left
_CONNECT_WAIT: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)


class Forwarder:
    """Passes connections of a listening socket on, in the loop's thread.

    `dial` returns a socket of the private network, unconnected; `target` is where it goes.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        dial: Callable[[], socket.socket],
        target: tuple[str, int],
    ):
        self._loop = loop
        self._listener = listener
        self._dial = dial
        self._target = target

    def start(self) -> None:
        """Begin to take connections; the loop ends it and every connection."""
        self._listener.setblocking(False)
        self._loop.call(self._listen)

    def stop(self) -> None:
        """Take no more connections. Those that are there go on."""

        def end() -> None:
            self._loop.forget(self._listener)
            self._listener.close()

        self._loop.call(end)

    def _listen(self) -> None:
        self._loop.watch(self._listener, READ, self._on_connection)

    def _on_connection(self, _events: int) -> None:
        for _ in range(64):
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError:  # no more fds
                self._pause()
                return
            try:
                server = self._dial()
            except OSError:
                _reset(client)
                self._pause()
                return
            _Pair(self._loop, client, server, self._target)

    def _pause(self) -> None:
        self._loop.watch(self._listener, 0, self._on_connection)
        self._loop.later(_PAUSE, self._resume)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self._listen()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket of the host. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


class _Way:
    """One direction: what was read from `source` and not yet taken by `sink`."""

    __slots__ = ("buffer", "ended", "shut", "sink", "source")

    def __init__(self, source: socket.socket, sink: socket.socket):
        self.source = source
        self.sink = sink
        self.buffer = bytearray()
        self.ended = False  # the source will send nothing more
        self.shut = False  # the sink was told so

    def pull(self) -> None:
        """Read what is there. Raises OSError when the connection broke."""
        try:
            data = self.source.recv(_BUFFER)
        except BlockingIOError:
            return
        if data:
            self.buffer += data
        else:
            self.ended = True

    def push(self) -> None:
        """Write what can be written, and after the last byte the end. Raises OSError."""
        if self.buffer:
            with contextlib.suppress(BlockingIOError):
                del self.buffer[: self.sink.send(self.buffer)]
        if self.ended and not self.buffer and not self.shut:
            self.shut = True
            with contextlib.suppress(OSError):
                self.sink.shutdown(socket.SHUT_WR)


class _Pair:
    """Two connections that are one; each direction ends by itself."""

    def __init__(
        self, loop: Loop, client: socket.socket, server: socket.socket, target: tuple[str, int]
    ):
        self._loop = loop
        self._client, self._server = client, server
        self._ways = (_Way(client, server), _Way(server, client))
        self._open = True
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timer = loop.later(_CONNECT_WAIT, self._break)
        loop.watch(client, 0, self._on_client, self._break)
        loop.watch(server, WRITE, self._on_connected, self._break)
        try:
            server.connect(target)
        except BlockingIOError:
            pass
        except OSError:
            self._break()

    def _on_connected(self, _events: int) -> None:
        self._timer.cancel()
        if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._break()
            return
        self._wait()

    def _on_client(self, events: int) -> None:
        self._move(events, self._ways[0], self._ways[1])

    def _on_server(self, events: int) -> None:
        self._move(events, self._ways[1], self._ways[0])

    def _move(self, events: int, from_it: _Way, to_it: _Way) -> None:
        try:
            if events & WRITE:
                to_it.push()
            if events & READ and not from_it.ended and len(from_it.buffer) < _BUFFER:
                from_it.pull()
                from_it.push()
        except OSError:
            self._break()
            return
        if from_it.shut and to_it.shut:
            self._end()
        else:
            self._wait()

    def _wait(self) -> None:
        """Wait for just what can go on: a full buffer stops its sender."""
        out, back = self._ways
        for sock, from_it, to_it, callback in (
            (self._client, out, back, self._on_client),
            (self._server, back, out, self._on_server),
        ):
            reads = READ if not from_it.ended and len(from_it.buffer) < _BUFFER else 0
            writes = WRITE if to_it.buffer or (to_it.ended and not to_it.shut) else 0
            self._loop.watch(sock, reads | writes, callback, self._break)

    def _break(self) -> None:
        """One side broke the connection: so do we to the other, and let it see that."""
        if self._open:
            for sock in (self._client, self._server):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._end()

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        self._timer.cancel()
        for sock in (self._client, self._server):
            self._loop.forget(sock)
            sock.close()


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
