"""Knows how files come from the http, https and file addresses of archives; must not know what
they hold.

Bytes are never trusted for where they came from: callers check digests or signatures. A login in an
address is sent to that scheme, host and port only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from buildgraph.closing import Closing
from buildgraph.errors import HostError
from buildgraph.transport.failures import NotFound, TooLarge
from buildgraph.transport.schedule import Clock

if TYPE_CHECKING:
    from buildgraph.transport.client import Client
    from buildgraph.transport.messages import Request
    from buildgraph.transport.resume import Sink

_CHUNK: Final = 256 * 1024


class Mirrors(Closing):
    """Reads from archives; threads may share it. Close it when done.

    `cancel` ends what is going on and every wait; `clock` is for tests.
    """

    def __init__(self, cancel: threading.Event | None = None, clock: Clock | None = None):
        self._cancel = cancel or threading.Event()
        self._clock = clock
        self._client: Client | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close kept connections; idempotent, and the next call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def read(self, uri: str, limit: int) -> bytes:
        """Return a whole file. Raises NotFound, HostError (TooLarge over `limit` bytes)."""
        if _is_local(uri):
            out = bytearray()
            with closing(_read_file(uri, 0, limit)) as pieces:
                for piece in pieces:
                    out += piece
            return bytes(out)
        _, body = self._web().read(self._request(uri), limit, 200)
        return body

    def download(self, uri: str, sink: Sink, limit: int, grew: Callable[[int], None]) -> None:
        """Bring what `sink` has not of a file; `grew` is told how many bytes are there.

        Cut connections go on where they were cut, as often as makes sense. What was received
        stays in the sink. Raises NotFound, HostError, Interrupted.
        """
        if _is_local(uri):
            with closing(_read_file(uri, sink.size, limit)) as pieces:
                for piece in pieces:
                    sink.write(piece)
                    grew(sink.size)
            return
        from buildgraph.transport.resume import download

        download(
            self._web(),
            self._request(uri),
            sink,
            limit=limit,
            named=True,
            grew=lambda done, total: grew(done),
        )

    def _request(self, uri: str) -> Request:
        from buildgraph.transport.messages import Request
        from buildgraph.transport.urls import parse_url

        return Request("GET", parse_url(uri), cancel=self._cancel)

    def _web(self) -> Client:
        from buildgraph.transport.client import Client
        from buildgraph.transport.pool import Settings
        from buildgraph.transport.proxies import Proxies

        with self._lock:
            if self._client is None:
                proxies = Proxies.of(os.environ)
                self._client = Client(Settings(proxies=proxies), clock=self._clock)
            return self._client


def _is_local(uri: str) -> bool:
    return urlsplit(uri).scheme in ("file", "copy")


def _read_file(uri: str, offset: int, limit: int) -> Generator[bytes, None, None]:
    path = unquote(urlsplit(uri).path)
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise TooLarge(f"{path} is longer than {limit} bytes")
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                yield chunk
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{path} does not exist") from error
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
