"""Knows how an archive is read while it is being written; must not know what is in it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

Writer = Callable[[BinaryIO], None]


@contextlib.contextmanager
def written_to_pipe(write: Writer) -> Iterator[int]:
    """Give a descriptor to read from what `write` writes meanwhile; a pipe is all it takes of us.

    What `write` raises is raised at the end, unless the reader raised first or left early.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with open(writer, "wb") as file:
                write(file)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(error)

    thread = threading.Thread(target=work, name="archive")
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()
    if failures and not isinstance(failures[0], BrokenPipeError):
        raise failures[0]
