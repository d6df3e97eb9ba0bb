"""Knows which names a private network answers, over UDP and TCP; must not know what made it.

Names of services and aliases are answered here, other names of one label and addresses of the
network do not exist, and what is left is refused, or asked of the host's own resolvers where the
network has a way out.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final

from buildgraph.sandbox import resolver_wire as wire
from buildgraph.sandbox.network_loop import READ, WRITE, Loop, Timer

_BATCH: Final = 64  # packets taken before others get their turn
_LONGEST_QUERY: Final = 4096
_CONNECTIONS: Final = 128  # over TCP, at once
_IDLE: Final = 10.0  # seconds a TCP client may say nothing
_PENDING: Final = 512  # questions asked of others, at once
_UPSTREAM_WAIT: Final = 2.5  # seconds a resolver of the host gets

Respond = Callable[[bytes], None]


class Names:
    """Who has which name. Thread-safe; a name may have many addresses, an address many names."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, dict[tuple[str, ...], None]] = {}
        self._names: dict[str, str] = {}  # address -> its first name
        self._turn = itertools.count()

    def add(self, names: Sequence[str], addresses: tuple[str, ...]) -> None:
        """Let every name mean these addresses (IPv4, perhaps IPv6) too."""
        with self._lock:
            for name in names:
                self._places.setdefault(name.lower(), {})[addresses] = None
            for address in addresses:
                self._names[address] = names[0]

    def remove(self, names: Sequence[str], addresses: tuple[str, ...]) -> None:
        """Undo `add`. Idempotent."""
        with self._lock:
            for name in map(str.lower, names):
                places = self._places.get(name, {})
                places.pop(addresses, None)
                if not places:
                    self._places.pop(name, None)
            for address in addresses:
                self._names.pop(address, None)

    def addresses(self, name: str) -> tuple[str, ...] | None:
        """Return all addresses, beginning with another one each time; None = no such name."""
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 6.3
            return ("127.0.0.1", "::1")
        with self._lock:
            places = self._places.get(name.lower())
            if places is None:
                return None
            all_of_them = list(places)
            start = next(self._turn) % len(all_of_them)
        turned = all_of_them[start:] + all_of_them[:start]
        return tuple(address for place in turned for address in place)

    def name_of(self, address: str) -> str | None:
        """Return the name of whoever has this address."""
        with self._lock:
            return self._names.get(address)


class Resolver:
    """Answers on sockets of the network, in the loop's thread.

    `upstream` are the host's resolvers, asked from the host's network for names that are not ours;
    () refuses them. `subnets` are the networks whose addresses are ours to name.
    """

    def __init__(
        self,
        loop: Loop,
        names: Names,
        sockets: tuple[socket.socket, socket.socket],
        *,
        subnets: Sequence[str] = (),
        upstream: Sequence[str] = (),
    ):
        self._loop = loop
        self._names = names
        self._udp, self._tcp = sockets
        self._upstream = tuple(upstream)
        self._subnets = [ipaddress.ip_network(text) for text in subnets]
        self._pending = 0
        self._connections = 0

    def start(self) -> None:
        """Begin to answer; the loop ends it."""
        for sock in (self._udp, self._tcp):
            sock.setblocking(False)

        def begin() -> None:
            self._loop.watch(self._udp, READ, self._on_packet)
            self._loop.watch(self._tcp, READ, self._on_connection)

        self._loop.call(begin)

    # -- answers -------------------------------------------------------------------------------

    def answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        """Return the answer to a message; None = others must be asked. Raises NotAQuery."""
        query = wire.parse_query(data)
        room = wire.MOST_TCP if tcp else query.size
        code, answers = query.problem, ()  # type: tuple[int, tuple[wire.Answer, ...]]
        if code == wire.NO_ERROR:
            found = self._find(query)
            if found is None:
                if self._upstream:
                    return None
                code = wire.REFUSED
            else:
                code, answers = found
        return wire.encode_answer(query, code, answers, room=room, recursion=bool(self._upstream))

    def _find(self, query: wire.Query) -> tuple[int, tuple[wire.Answer, ...]] | None:
        """Return code and records; None for a name that is not ours to judge."""
        addresses = self._names.addresses(query.name)
        if addresses is not None:
            records = (
                wire.Answer(wire.AAAA if ":" in address else wire.A, address)
                for address in addresses
            )
            wanted = (wire.A, wire.AAAA) if query.kind == wire.ANY else (query.kind,)
            return wire.NO_ERROR, tuple(one for one in records if one.kind in wanted)
        address = wire.reverse_of(query.name)
        if address is not None:
            name = self._names.name_of(address)
            if name is not None:
                pointer = wire.Answer(wire.PTR, name)
                return wire.NO_ERROR, (pointer,) if query.kind in (wire.PTR, wire.ANY) else ()
            number = ipaddress.ip_address(address)
            return (wire.NO_SUCH_NAME, ()) if any(number in net for net in self._subnets) else None
        return (wire.NO_SUCH_NAME, ()) if query.name and "." not in query.name else None

    def _serve(self, data: bytes, respond: Respond, *, tcp: bool) -> None:
        """Have the message answered, now or later. Never raises for what is in it."""
        try:
            answer = self.answer(data, tcp=tcp)
        except wire.NotAQuery:
            return
        if answer is not None:
            respond(answer)
        elif self._pending >= _PENDING:
            respond(_failure(data))
        else:
            self._pending += 1
            _Question(self._loop, data, self._upstream, self._done(respond), tcp=tcp)

    def _done(self, respond: Respond) -> Respond:
        def finish(answer: bytes) -> None:
            self._pending -= 1
            respond(answer)

        return finish

    # -- packets ---------------------------------------------------------------------------------

    def _on_packet(self, _events: int) -> None:
        for _ in range(_BATCH):
            try:
                data, peer = self._udp.recvfrom(_LONGEST_QUERY)
            except OSError:  # nothing left, or an error some earlier answer met
                return
            self._serve(data, lambda answer, peer=peer: self._reply(answer, peer), tcp=False)  # type: ignore[misc]

    def _reply(self, answer: bytes, peer: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            self._udp.sendto(answer, peer)

    def _on_connection(self, _events: int) -> None:
        try:
            sock, _ = self._tcp.accept()
        except OSError:
            return
        if self._connections >= _CONNECTIONS:
            sock.close()
            return
        self._connections += 1
        _Client(self._loop, sock, self._serve_tcp, self._client_gone)

    def _serve_tcp(self, data: bytes, respond: Respond) -> None:
        self._serve(data, respond, tcp=True)

    def _client_gone(self) -> None:
        self._connections -= 1


def _failure(data: bytes) -> bytes:
    query = wire.parse_query(data)
    return wire.encode_answer(query, wire.SERVER_FAILURE, room=wire.PLAIN_UDP, recursion=True)


class _Client:
    """One TCP connection to us: messages with two bytes of length before each, RFC 7766."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        serve: Callable[[bytes, Respond], None],
        gone: Callable[[], None],
    ):
        self._loop = loop
        self._sock = sock
        self._serve = serve
        self._gone = gone
        self._in = b""
        self._out = b""
        self._open = True
        sock.setblocking(False)
        self._timer = loop.later(_IDLE, self._close)
        loop.watch(sock, READ, self._ready, self._close)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & READ and self._open:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_LONGEST_QUERY)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        self._timer.cancel()
        self._timer = self._loop.later(_IDLE, self._close)
        self._in += data
        while self._open and len(self._in) >= 2:
            length = int.from_bytes(self._in[:2], "big")
            if length > _LONGEST_QUERY:
                self._close()
            if len(self._in) < 2 + length:
                return
            message, self._in = self._in[2 : 2 + length], self._in[2 + length :]
            self._serve(message, self._respond)

    def _respond(self, answer: bytes) -> None:
        if not self._open:
            return
        self._out += struct.pack("!H", len(answer)) + answer
        if len(self._out) > 1 << 20:
            self._close()  # asks and does not read
        else:
            self._flush()

    def _flush(self) -> None:
        try:
            self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        self._loop.watch(self._sock, READ | (WRITE if self._out else 0), self._ready, self._close)

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._timer.cancel()
            self._loop.forget(self._sock)
            self._sock.close()
            self._gone()


class _Question:
    """One question passed on to the host's resolvers, one after another, in the same way it came.

    Each gets a socket, and so a port, of its own: nobody can guess where the answer is awaited.
    """

    def __init__(
        self, loop: Loop, data: bytes, servers: tuple[str, ...], done: Respond, *, tcp: bool
    ):
        self._loop = loop
        self._data = data
        self._servers = list(servers)
        self._done = done
        self._is_tcp = tcp
        self._sock: socket.socket | None = None
        self._timer = Timer(None)
        self._in = b""
        self._next()

    def _next(self) -> None:
        self._drop()
        if not self._servers:
            self._done(_failure(self._data))
            return
        server = self._servers.pop(0)
        kind = socket.SOCK_STREAM if self._is_tcp else socket.SOCK_DGRAM
        try:
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            self._sock = sock = socket.socket(family, kind)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect((server, 53))
            if not self._is_tcp:
                sock.send(self._data)
        except OSError:
            self._loop.call(self._next)
            return
        self._in = b""
        self._timer = self._loop.later(_UPSTREAM_WAIT, self._next)
        self._loop.watch(sock, WRITE if self._is_tcp else READ, self._ready)

    def _ready(self, events: int) -> None:
        assert self._sock is not None
        try:
            if events & WRITE:
                # So short that a fresh connection takes it whole.
                self._sock.send(struct.pack("!H", len(self._data)) + self._data)
                self._loop.watch(self._sock, READ, self._ready)
                return
            data = self._sock.recv(wire.MOST_TCP)
        except BlockingIOError:
            return
        except OSError:
            self._next()
            return
        if self._is_tcp:
            self._in += data
            if data and len(self._in) < 2 + int.from_bytes(self._in[:2], "big"):
                return
            data = self._in[2:]
        if wire.answers_to(self._data, data):
            self._drop()
            self._done(data)
        elif self._is_tcp or not data:
            self._next()

    def _drop(self) -> None:
        self._timer.cancel()
        if self._sock is not None:
            self._loop.forget(self._sock)
            self._sock.close()
            self._sock = None
