"""Knows where a docker daemon listens and how its API is spoken over a unix socket; must not know
what is asked.

Source: docker's "Engine API" reference; for where it listens, docker's "Docker contexts" and the
variables DOCKER_HOST and DOCKER_CONTEXT of its command line.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import select
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from buildgraph import limits
from buildgraph.errors import HostError, InputError, Interrupted

_ANSWER_BYTES: Final = 16 << 20
_SECONDS: Final = 60.0  # for an answer to a question
_DEFAULT: Final = "/var/run/docker.sock"
_INSTEAD: Final = "write a file instead, for `docker load`: -o type=docker,dest=FILE"


class DaemonSaid(HostError):
    """The daemon answered, and said no."""


def socket_of(environ: Mapping[str, str]) -> str:
    """Return the socket of the daemon that docker's own command line would speak to.

    Raises InputError for one that is not on this machine, HostError where there is none.
    """
    said, by = environ.get("DOCKER_HOST", ""), "DOCKER_HOST"
    if not said:
        said, by = _of_context(environ)
    if said:
        scheme, _, path = said.partition("://")
        if scheme != "unix" or not path.startswith("/"):
            raise InputError(
                f"{by} is {said[:200]}: images are handed over by a unix socket alone",
                hint=f"unix:///PATH; for another machine push to a registry, or {_INSTEAD}",
            )
        return path
    runtime = environ.get("XDG_RUNTIME_DIR")
    places = [_DEFAULT, *([os.path.join(runtime, "docker.sock")] if runtime else [])]
    for place in places:
        if os.path.exists(place):
            return place
    raise HostError(
        f"there is no docker daemon: no socket at {' or '.join(places)}",
        hint=f"start it, or set DOCKER_HOST=unix:///PATH; or {_INSTEAD}",
    )


def _of_context(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the address a docker context names, "" for the default one."""
    home = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME", "/"), ".docker")
    name = environ.get("DOCKER_CONTEXT", "")
    if not name:
        name = str(_json(Path(home, "config.json")).get("currentContext") or "")
    if not name or name == "default":
        return "", ""
    by = f"docker's context {name!r}"
    meta = Path(home, "contexts", "meta", hashlib.sha256(name.encode()).hexdigest(), "meta.json")
    endpoint = _json(meta).get("Endpoints")
    found = endpoint.get("docker") if isinstance(endpoint, dict) else None
    host = found.get("Host") if isinstance(found, dict) else None
    if not isinstance(host, str) or not host:
        raise InputError(f"{by} is not known", hint="`docker context ls` shows those that are")
    return host, by


def _json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(limits.AUTH_FILE_BYTES) or b"{}")
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str):
        super().__init__("docker", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DockerApi:
    """Speaks to one daemon; for one thread. Close it."""

    def __init__(self, path: str, cancel: threading.Event):
        self.path = path
        self._cancel = cancel
        self._connection = _Connection(path)
        self.server = ""  # what the daemon calls itself, once it has answered

    def close(self) -> None:
        """Hang up; idempotent."""
        self._connection.close()

    def ask(self, method: str, target: str) -> Any:
        """Return the JSON of an answer, None for 404. Raises HostError, DaemonSaid."""
        try:
            self._connection.request(method, target)
            status, data = self._answer()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._lost(error) from error
        if status == 404:
            return None
        self._check(status, data)
        try:
            return json.loads(data) if data.strip() else {}
        except ValueError as error:
            raise HostError(f"{self.path} gives an answer that is no JSON") from error

    def send(self, target: str, kind: str, body: Iterable[bytes]) -> list[dict[str, Any]]:
        """Post a stream of bytes and return the messages of the answer.

        Raises HostError, DaemonSaid; Interrupted once we are to stop.
        """
        headers = {"Content-Type": kind, "Transfer-Encoding": "chunked"}
        self.close()
        connection = self._connection
        try:
            try:
                connection.request(
                    "POST", target, self._watched(body), headers, encode_chunked=True
                )
            except (BrokenPipeError, ConnectionResetError):
                pass  # it said no before it had read all: why stands in the answer
            self._wait()
            status, data = self._answer()
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        finally:
            self.close()
        self._check(status, data)
        messages = []
        for line in data.splitlines():
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                messages.append(message)
                if message.get("error"):
                    raise DaemonSaid(f"docker says: {str(message['error'])[:500]}")
        return messages

    def _watched(self, body: Iterable[bytes]) -> Iterable[bytes]:
        for piece in body:
            if self._cancel.is_set():
                raise Interrupted("interrupted")
            yield piece

    def _wait(self) -> None:
        """Wait as long as the daemon works on what it got."""
        sock = self._connection.sock
        while sock is not None and not select.select([sock], [], [], 0.2)[0]:
            if self._cancel.is_set():
                raise Interrupted("interrupted")
        if sock is not None:
            sock.settimeout(None)

    def _answer(self) -> tuple[int, bytes]:
        response = self._connection.getresponse()
        self.server = response.getheader("Server") or ""
        data = response.read(_ANSWER_BYTES + 1)
        if len(data) > _ANSWER_BYTES:
            raise http.client.HTTPException(f"an answer of more than {_ANSWER_BYTES} bytes")
        return response.status, data

    def _check(self, status: int, data: bytes) -> None:
        if status < 300:
            return
        try:
            said = str(json.loads(data)["message"])
        except (ValueError, KeyError, TypeError):
            said = f"HTTP {status}"
        raise DaemonSaid(f"docker says: {said[:500]}")

    def _lost(self, error: OSError | http.client.HTTPException) -> HostError:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = "is the daemon running?"
        if isinstance(error, PermissionError):
            hint = "the group of the socket may use it: `usermod -aG docker USER`, then log in anew"
        return HostError(f"cannot speak to docker at {self.path}: {why}", hint=hint)
