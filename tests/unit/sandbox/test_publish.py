"""A forwarded port over loopback: bytes, half-closing, waiting, breaking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from buildgraph.sandbox.network_loop import Loop
from buildgraph.sandbox.publish import Forwarder, listen

Start = Callable[[Callable[[socket.socket], None]], tuple[str, int]]


@pytest.fixture
def forwarded() -> Iterator[Start]:
    """Start a server behind a forwarded port and return the port's address."""
    loop = Loop("test")
    servers: list[socket.socket] = []

    def start(serve: Callable[[socket.socket], None]) -> tuple[str, int]:
        server = socket.create_server(("127.0.0.1", 0), backlog=512)
        servers.append(server)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    threading.Thread(target=handle, args=(peer,), daemon=True).start()

        def handle(peer: socket.socket) -> None:
            with peer, contextlib.suppress(OSError):
                serve(peer)

        threading.Thread(target=accept, daemon=True).start()
        listener = listen("127.0.0.1", 0)
        address: tuple[str, int] = listener.getsockname()
        Forwarder(loop, listener, socket.socket, server.getsockname()).start()
        return address

    yield start
    loop.close()
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def read_all(sock: socket.socket) -> bytes:
    pieces = []
    while piece := sock.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def test_each_direction_ends_by_itself(forwarded: Start) -> None:
    def serve(peer: socket.socket) -> None:
        heard = read_all(peer)  # to the client's end, and only then
        peer.sendall(b"heard " + heard)

    with socket.create_connection(forwarded(serve), 5) as sock:
        sock.sendall(b"all")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"heard all"


def test_the_servers_end_does_not_end_the_clients(forwarded: Start) -> None:
    got = []
    done = threading.Event()

    def serve(peer: socket.socket) -> None:
        peer.sendall(b"bye")
        peer.shutdown(socket.SHUT_WR)
        got.append(read_all(peer))
        done.set()

    with socket.create_connection(forwarded(serve), 5) as sock:
        assert read_all(sock) == b"bye"
        sock.sendall(b"but I go on")
    assert done.wait(5)
    assert got == [b"but I go on"]


def test_many_megabytes_both_ways(forwarded: Start) -> None:
    def serve(peer: socket.socket) -> None:
        while piece := peer.recv(1 << 16):
            peer.sendall(piece)
        peer.shutdown(socket.SHUT_WR)

    data = os.urandom(1 << 20) * 8
    with socket.create_connection(forwarded(serve), 10) as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        back = read_all(sock)
        thread.join()
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()


def test_a_slow_reader_makes_the_sender_wait(forwarded: Start) -> None:
    sent = [0]
    go_on = threading.Event()

    def serve(peer: socket.socket) -> None:
        peer.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while sent[0] < 1 << 27:
                sent[0] += peer.send(b"x" * 65536)
        go_on.set()

    with socket.create_connection(forwarded(serve), 5):
        assert go_on.wait(10)
        assert sent[0] < 1 << 26, "nothing but buffers was filled"


def test_many_at_once(forwarded: Start) -> None:
    def serve(peer: socket.socket) -> None:
        peer.sendall(read_all(peer))

    address = forwarded(serve)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(address, 5)) for _ in range(200)]
        for number, sock in enumerate(socks):
            sock.sendall(str(number).encode())
            sock.shutdown(socket.SHUT_WR)
        assert [read_all(sock) for sock in socks] == [str(n).encode() for n in range(200)]


def test_nobody_listening_is_a_broken_connection() -> None:
    loop = Loop("test")
    listener = listen("127.0.0.1", 0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        Forwarder(loop, listener, socket.socket, silent.getsockname()).start()
        try:
            with (
                pytest.raises(ConnectionError),
                socket.create_connection(listener.getsockname(), 5) as sock,
            ):
                sock.recv(1)
        finally:
            loop.close()


def test_a_broken_connection_breaks_the_other(forwarded: Start) -> None:
    broken = threading.Event()

    def serve(peer: socket.socket) -> None:
        try:
            while True:
                peer.sendall(b"x" * 65536)
        except ConnectionError:
            broken.set()

    sock = socket.create_connection(forwarded(serve), 5)
    sock.recv(100)
    sock.close()  # with unread bytes: a reset
    assert broken.wait(5)


def test_the_loop_closes_what_it_holds(forwarded: Start) -> None:
    loop = Loop("test")
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = listen("127.0.0.1", 0)
        address = listener.getsockname()
        Forwarder(loop, listener, socket.socket, server.getsockname()).start()
        with socket.create_connection(address, 5) as sock:
            peer, _ = server.accept()
            with peer:
                loop.close()
                peer.settimeout(5)
                with contextlib.suppress(ConnectionError):
                    assert peer.recv(1) == b""
                with contextlib.suppress(ConnectionError):
                    assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 5)


def test_a_stopped_port_is_free_again(forwarded: Start) -> None:
    loop = Loop("test")
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()
    forwarder = Forwarder(loop, listener, socket.socket, ("127.0.0.1", 1))
    forwarder.start()
    forwarder.stop()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            listen(*address).close()
            break
    else:
        pytest.fail("the port is still taken")
    loop.close()
