"""Knows how our own processes pass values and fds to each other; must not know what they mean.

`marshal` over a SOCK_SEQPACKET socket: both ends are the same interpreter, of one trust. A message
too long for a packet travels as a memory file.
"""

from __future__ import annotations

import _socket
import array
import marshal
import os
from typing import Any, Final

_PACKET: Final = 1 << 16
_FDS: Final = 16
_IN_FILE: Final = "file"


def receive(sock: _socket.socket) -> tuple[Any, list[int]]:
    """Return the next message and its fds; (None, []) when the other end is gone."""
    try:
        data, ancillary, _, _ = sock.recvmsg(
            _PACKET, _socket.CMSG_SPACE(_FDS * 4), _socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None, []
    fds = array.array("i")
    for level, kind, raw in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    if not data:
        return None, []
    message = marshal.loads(data)
    if message == _IN_FILE:
        with open(fds.pop(0), "rb") as file:
            message = marshal.load(file)
    return message, list(fds)


def send(sock: _socket.socket, message: Any, fds: tuple[int, ...] = ()) -> None:
    """Send a message and copies of `fds`. Raises OSError when the other end is gone."""
    data = marshal.dumps(message)
    if len(data) < _PACKET:
        _send(sock, data, fds)
        return
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        _send(sock, marshal.dumps(_IN_FILE), (fd, *fds))
    finally:
        os.close(fd)


def _send(sock: _socket.socket, data: bytes, fds: tuple[int, ...]) -> None:
    ancillary = []
    if fds:
        ancillary.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds)))
    sock.sendmsg([data], ancillary)
