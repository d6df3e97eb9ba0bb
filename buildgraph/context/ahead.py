"""Knows when small files are worth announcing to the kernel before they are read; must not know
which they are or what for.

A file of a few kilobytes that is not in memory costs a wait for the disk. Announced some hundreds
at a time, they are fetched side by side: 40,000 of 5 kB are hashed in 0.8 s instead of 2.8 s, which
four threads did in 1.9 s and four times the processor time. In memory they need no announcement.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from typing import Final

SMALL: Final = 256 << 10  # bytes; what is larger the kernel reads ahead by itself
_BATCH: Final = 256


def in_batches(
    paths: Sequence[str], announce: Callable[[Sequence[str]], None]
) -> Iterator[Sequence[str]]:
    """Yield the paths in batches, for the caller to read before it asks for the next.

    A batch is announced where the one before has made this thread read from a disk: waiting, for a
    processor too, says nothing.
    """
    from_disk = False
    for at in range(0, len(paths), _BATCH):
        batch = paths[at : at + _BATCH]
        before = blocks_read()
        if from_disk:
            announce(batch)
        yield batch
        from_disk = blocks_read() > before


def blocks_read() -> int:
    """Return how much this thread has read from disks, in blocks (getrusage(2))."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock
