"""Knows how a TCP connection is made and waited on; must not know what is said over it.

Addresses of a name are tried side by side: the next one starts when the last has been silent for
a quarter of a second, so a black hole costs that and not a timeout (R27, RFC 8305). A wait ends
after `stall` seconds without a byte, or shortly after somebody sets `cancelled`.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from buildgraph.errors import Interrupted

_SLICE: Final = 0.2  # seconds between two looks at `cancelled`
NEXT_ADDRESS: Final = 0.25  # seconds; RFC 8305, "Connection Attempt Delay"
_NOT_YET: Final = (errno.EINPROGRESS, errno.EWOULDBLOCK)


class Address(Struct, frozen=True):
    """One answer of a name lookup."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def ip(self) -> str:
        """The literal address."""
        return str(self.sockaddr[0])


Resolver = Callable[[str, int], Sequence[Address]]


def resolve(host: str, port: int) -> list[Address]:
    """Ask the system for the addresses of a name. Raises socket.gaierror."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found))


class Patient(socket.socket):
    """A socket whose waits end on a stall or when `cancelled` is set."""

    cancelled: threading.Event | None = None
    stall: float = 60.0

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive, once there is something to."""
        _wait(self, select.POLLIN, self.stall, self.cancelled)
        return super().recv_into(buffer, nbytes, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send everything; each piece has the whole stall time."""
        view = memoryview(data).cast("B")
        while view:
            _wait(self, select.POLLOUT, self.stall, self.cancelled)
            view = view[super().send(view, flags) :]


class PatientTls(ssl.SSLSocket):
    """The same for TLS; `ssl.SSLContext.sslsocket_class` makes them."""

    cancelled: threading.Event | None = None
    stall: float = 60.0

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive, once there is something to."""
        if not self.pending():
            _wait(self, select.POLLIN, self.stall, self.cancelled)
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send a piece, once there is room."""
        _wait(self, select.POLLOUT, self.stall, self.cancelled)
        return super().send(data, flags)


def _wait(
    sock: socket.socket, events: int, stall: float, cancelled: threading.Event | None
) -> None:
    poller = select.poll()
    poller.register(sock.fileno(), events)
    deadline = time.monotonic() + stall
    while True:
        if cancelled is not None and cancelled.is_set():
            raise Interrupted("the transfer was stopped")
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing came or went for {stall:g} seconds")
        if poller.poll(max(1, int(min(left, _SLICE) * 1000))):
            return


class CannotConnect(OSError):
    """No address of a host took a connection; the text names each with its reason."""


def dial(
    addresses: Sequence[Address],
    timeout: float,
    cancelled: threading.Event | None,
    next_address: float = NEXT_ADDRESS,
) -> Patient:
    """Return a connection to the first address that takes one, families taking turns.

    `timeout` in seconds is for all of them together. Raises CannotConnect, Interrupted. The
    caller closes the socket.
    """
    dialing = _Dialing(_in_turn(addresses), timeout, next_address)
    try:
        while True:
            if cancelled is not None and cancelled.is_set():
                raise Interrupted("the transfer was stopped")
            if (sock := dialing.step()) is not None:
                return sock
    finally:
        dialing.close()


class _Dialing:
    """The attempts of one `dial`."""

    def __init__(self, addresses: list[Address], timeout: float, next_address: float):
        self._waiting = addresses
        self._gap = next_address
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._next = 0.0  # when another may start
        self._selector = selectors.DefaultSelector()
        self._reasons: list[str] = []

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def step(self) -> Patient | None:
        now = time.monotonic()
        if self._waiting and now >= self._next:
            self._next = now + self._gap
            self._start(self._waiting.pop(0))
        if not self._selector.get_map():
            if not self._waiting:
                raise CannotConnect("; ".join(self._reasons) or "the name has no address")
            self._next = 0.0
            return None
        if now >= self._deadline:
            tried = [key.data.ip for key in self._selector.get_map().values()]
            silent = f"no answer from {', '.join(tried)} in {self._timeout:g} seconds"
            raise CannotConnect("; ".join([*self._reasons, silent]))
        until = min([self._deadline, *([self._next] if self._waiting else [])])
        for key, _ in self._selector.select(min(max(until - now, 0.001), _SLICE)):
            if (sock := self._finished(key)) is not None:
                return sock
        return None

    def _start(self, address: Address) -> None:
        try:
            sock = Patient(address.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._failed(address, error.errno or 0)
            return
        sock.setblocking(False)
        code = sock.connect_ex(address.sockaddr)
        if code and code not in _NOT_YET:
            sock.close()
            self._failed(address, code)
            return
        self._selector.register(sock, selectors.EVENT_WRITE, address)

    def _finished(self, key: selectors.SelectorKey) -> Patient | None:
        sock = key.fileobj
        assert isinstance(sock, Patient)
        self._selector.unregister(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            sock.close()
            self._failed(key.data, code)
            return None
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _failed(self, address: Address, code: int) -> None:
        self._next = 0.0  # whoever says no at once need not be waited for
        self._reasons.append(f"{address.ip}: {os.strerror(code).lower()}")


def _in_turn(addresses: Sequence[Address]) -> list[Address]:
    """Return the addresses with the families taking turns, in the order of the lookup."""
    families = list(dict.fromkeys(a.family for a in addresses))
    rows = [[a for a in addresses if a.family == family] for family in families]
    longest = max((len(row) for row in rows), default=0)
    return [row[i] for i in range(longest) for row in rows if i < len(row)]
