"""Knows how to run consumers of one stream of chunks beside its producer; must not know why.

Hashing and compressing release the interpreter's lock, so a producer that reads files, a thread
that hashes and a thread that compresses keep two processors busy. Queues are bounded: memory is a
few chunks whatever the size of the stream. The order of chunks, hence the result, does not depend
on timing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
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
                except BaseException as error:  # handed to the producer, whatever it is
                    self.error = error

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
                if worker.error is not None:
                    raise worker.error
                worker.queue.put(chunk)
    finally:
        for worker in workers:
            worker.finish()
    for worker in workers:
        if worker.error is not None:
            raise worker.error


def read_ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks of an iterator that runs in its own thread, a few chunks ahead.

    An error there is raised here. Closing this generator ends the thread.
    """
    line: queue.Queue[bytes | BaseException | None] = queue.Queue(_DEPTH)
    stop = threading.Event()

    def put(item: bytes | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                line.put(item, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for chunk in chunks:
                if not put(chunk):
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, whatever it is
            put(error)

    thread = threading.Thread(target=run, daemon=True, name="layer-read")
    thread.start()
    try:
        while (item := line.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        while not line.empty():
            line.get_nowait()
        thread.join()
