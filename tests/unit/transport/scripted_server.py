"""Knows how to be an HTTP server that says exactly what a test wants, byte by byte; must not know
what any test expects.
"""

from __future__ import annotations

import enum
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


class End(enum.Enum):
    """How a connection is treated after what was said."""

    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    connection: int

    @property
    def offset(self) -> int:
        """Where the asked range begins; 0 without one."""
        text = self.headers.get("range", "bytes=0-")
        return int(text.removeprefix("bytes=").rstrip("-"))


Answer = Callable[[Seen], Iterable["bytes | End"]]


def in_turn(answers: list[Answer]) -> Answer:
    """Answer the first request as the first says, and so on."""
    left = iter(answers)

    def answer(seen: Seen) -> Iterable[bytes | End]:
        return next(left)(seen)

    return answer


def head(status: int, fields: Mapping[str, object] | None = None, reason: str = "X") -> bytes:
    """Return the head of a response."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{n}: {v}" for n, v in (fields or {}).items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reply(
    status: int, body: bytes = b"", fields: Mapping[str, object] | None = None
) -> tuple[bytes, ...]:
    """Return a whole response."""
    return (head(status, {"Content-Length": len(body), **(fields or {})}), body)


def ranged(
    seen: Seen,
    data: bytes,
    etag: str | None = '"v1"',
    cut: int | None = None,
    end: End = End.CLOSE,
) -> Iterable[bytes | End]:
    """Answer as a server of one file that knows ranges; `cut` bytes come, then `end`."""
    fields: dict[str, object] = {} if etag is None else {"ETag": etag}
    start = 0
    if "range" in seen.headers and seen.headers.get("if-range", etag) == etag:
        start = seen.offset
    rest = data[start:]
    if start >= len(data) and start:
        yield from reply(416, b"", {**fields, "Content-Range": f"bytes */{len(data)}"})
        return
    if start:
        fields["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    yield head(206 if start else 200, {"Content-Length": len(rest), **fields})
    yield rest if cut is None else rest[:cut]
    if cut is not None:
        yield end


@dataclass
class Server:
    """A server on a loopback address; a context manager."""

    answer: Answer
    context: ssl.SSLContext | None = None
    address: str = "127.0.0.1"
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._socket = socket.create_server((self.address, 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        with socket.create_connection((self.address, self.port)):
            pass
        for thread in self._threads:
            thread.join(5)
        self._socket.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    def url(self, path: str = "/", host: str | None = None) -> str:
        """Return an address of this server."""
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://{host or self.address}:{self.port}{path}"

    @property
    def targets(self) -> list[str]:
        """What was asked for, in order."""
        return [f"{one.method} {one.target}" for one in self.seen]

    def _accept(self) -> None:
        number = 0
        while not self._over.is_set():
            sock, _ = self._socket.accept()
            if self._over.is_set():
                sock.close()
                return
            number += 1
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(0.1)
        try:
            if self.context is not None:
                sock.settimeout(5)
                sock = self.context.wrap_socket(sock, server_side=True)
                sock.settimeout(0.1)
            while (seen := self._request(sock, number)) is not None:
                self.seen.append(seen)
                sock.settimeout(5)
                for piece in self.answer(seen):
                    if isinstance(piece, bytes):
                        sock.sendall(piece)
                    else:
                        self._end(sock, piece)
                        return
                sock.settimeout(0.1)
        except OSError:
            pass
        finally:
            sock.close()

    def _end(self, sock: socket.socket, end: End) -> None:
        if end is End.STALL:
            self._over.wait(30)
        elif end is End.RESET:
            # What is unread on the other side is lost with a reset, so let it be read first.
            self._over.wait(0.02)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _read(self, sock: socket.socket) -> bytes:
        while not self._over.is_set():
            try:
                return sock.recv(1 << 16)
            except TimeoutError:
                continue
        return b""

    def _request(self, sock: socket.socket, number: int) -> Seen | None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = self._read(sock)
            if not more:
                return None
            data += more
        text, _, body = data.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            while not body.endswith(b"0\r\n\r\n"):
                body += self._read(sock)
            body = _unchunked(body)
        while len(body) < int(headers.get("content-length", 0)):
            more = self._read(sock)
            if not more:
                return None
            body += more
        return Seen(method, target, headers, body, number)


def _unchunked(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        out += data[:count]
        data = data[count + 2 :]
    return out


class FakeClock:
    """A clock whose waits take no time; `slept` says how long they would have been."""

    def __init__(self, wall: float = 1_700_000_000.0):
        self.now = wall
        self.slept: list[float] = []

    def wall(self) -> float:
        return self.now

    def sleep(self, seconds: float, cancel: threading.Event) -> None:
        self.slept.append(seconds)

    def jitter(self) -> float:
        return 0.5


class MemorySink:
    """Bytes of a download in memory."""

    def __init__(self, data: bytes = b""):
        self.data = bytearray(data)
        self.restarts = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def restart(self) -> None:
        self.restarts += 1
        self.data.clear()
