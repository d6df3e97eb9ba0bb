"""What a step may say to an agent, and that nothing of it stays."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildgraph.engine.agent import lent_agent
from buildgraph.limits import AGENT_MESSAGE_BYTES


class Agent:
    """An agent that answers every message with what it was."""

    def __init__(self, path: str) -> None:
        self.heard: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            while head := client.recv(4, socket.MSG_WAITALL):
                body = client.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)
                self.heard.append(body)
                client.sendall(head + body)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(f"{tmp_path}/agent")
    yield made
    made.close()


def lent(tmp_path: Path, mode: int = 0o600):  # type: ignore[no-untyped-def]
    place = tmp_path / "lent"
    place.mkdir(exist_ok=True)
    ids = {"uid": os.geteuid(), "gid": os.getegid()}
    return lent_agent(f"{tmp_path}/agent", str(place), "s", mode=mode, **ids)


def ask(path: str, *messages: bytes) -> list[bytes]:
    """Send messages as they are, and return what is answered until the end."""
    out = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        for message in messages:
            sock.sendall(message)
            head = sock.recv(4, socket.MSG_WAITALL)
            if not head:
                break
            out.append(sock.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))
    return out


def packed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def test_listing_and_signing_are_passed_on_and_nothing_else(tmp_path: Path, agent: Agent) -> None:
    with lent(tmp_path) as path:
        wanted = [packed(bytes([kind]) + b"rest") for kind in (11, 17, 18, 19, 22, 25, 27, 13)]
        answers = ask(path, *wanted)
    assert answers == [b"\x0brest", *[b"\x05"] * 6, b"\x0drest"]
    assert agent.heard == [b"\x0brest", b"\x0drest"]


def test_a_message_has_a_cap(tmp_path: Path, agent: Agent) -> None:
    most = b"\x0b" + bytes(AGENT_MESSAGE_BYTES - 1)
    with lent(tmp_path) as path:
        assert ask(path, packed(most)) == [most]
        assert ask(path, struct.pack(">I", AGENT_MESSAGE_BYTES + 1)) == []
        assert ask(path, struct.pack(">I", 0)) == []
        assert ask(path, packed(b"\x0b")) == [b"\x0b"], "others go on"


def test_it_ends_with_the_step(tmp_path: Path, agent: Agent) -> None:
    before = threading.active_count()
    with lent(tmp_path, 0o640) as path:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        held = socket.socket(socket.AF_UNIX)
        held.connect(path)
        held.sendall(packed(b"\x0b"))
        assert held.recv(5, socket.MSG_WAITALL) == packed(b"\x0b")
    assert held.recv(1) == b""
    held.close()
    with pytest.raises(ConnectionRefusedError):
        ask(path, packed(b"\x0b"))
    assert threading.active_count() <= before + 1  # the fake agent's own


def test_an_agent_that_is_gone(tmp_path: Path) -> None:
    with lent(tmp_path) as path:
        try:
            assert ask(path, packed(b"\x0b")) == []
        except (ConnectionResetError, BrokenPipeError):
            pass
