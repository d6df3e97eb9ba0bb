"""Knows how to run consumers of one stream of chunks beside its producer; must not know why.

Hashing and compressing release the interpreter's lock, so a producer that reads files, a thread
that hashes and a thread that compresses keep two processors busy. Queues are bounded: memory is a
few chunks whatever the size of the stream. The order of chunks, hence the result, does not depend
on timing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

_DEPTH: Final = 4  # chunks that may wait for one consumer
INLINE: Final = 2 << 20  # streams up to about this size are not worth a thread


class _Worker:
    """One consumer in a thread; after an error it drains its queue without working."""

    def __init__(self, consume: Callable[[bytes], object]) -> None:
        self.queue: queue.Queue[bytes | None] = queue.Queue(_DEPTH)
        self.error: BaseException | None = None
        self._consume = consume
        self._thread = threading.Thread(target=self._run, daemon=True, name="layer")
        self._thread.start()

    def _run(self) -> None:
        while (chunk := self.queue.get()) is not None:
            if self.error is None:
                try:
                    self._consume(chunk)
                except BaseException as error:  # noqa: BLE001  # handed to the producer
                    self.error = error

    def put(self, chunk: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.queue.put(chunk)

    def finish(self) -> None:
        self.queue.put(None)
        self._thread.join()


def fan_out(
    chunks: Iterable[bytes], consumers: list[Callable[[bytes], object]], *, threads: bool
) -> None:
    """Give every chunk to every consumer, in order; return when all of them are done.

    An error of the producer or of a consumer is raised here, after every thread has ended.
    """
    if not threads:
        for chunk in chunks:
            for consume in consumers:
                consume(chunk)
        return
    workers = [_Worker(consume) for consume in consumers]
    try:
        for chunk in chunks:
            for worker in workers:
                worker.put(chunk)
    finally:
        for worker in workers:
            worker.finish()
    for worker in workers:
        if worker.error is not None:
            raise worker.error


@contextmanager
def handing_on(
    consume: Callable[[bytes], object], *, threads: bool
) -> Iterator[Callable[[bytes], object]]:
    """Give a function that takes chunks and has `consume` work on them, in order, meanwhile.

    When the block is left all of them are done. An error of `consume` is raised by a later call
    of that function, or at the end.
    """
    if not threads:
        yield consume
        return
    worker = _Worker(consume)
    try:
        yield worker.put
    finally:
        worker.finish()
    if worker.error is not None:
        raise worker.error


class _Ahead:
    """The thread of `read_ahead`: runs an iterator and puts what it gives into a queue."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.line: queue.Queue[bytes | BaseException | None] = queue.Queue(_DEPTH)
        self._chunks = chunks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="layer-read")
        self._thread.start()

    def _put(self, item: bytes | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self.line.put(item, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                if not self._put(chunk):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001  # handed to the consumer
            self._put(error)

    def close(self) -> None:
        self._stop.set()
        while not self.line.empty():
            self.line.get_nowait()
        self._thread.join()


def read_ahead(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield the chunks of an iterator that runs in its own thread, a few chunks ahead.

    An error there is raised here. Closing this generator ends the thread.
    """
    ahead = _Ahead(chunks)
    try:
        while (item := ahead.line.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ahead.close()
