"""Knows how work is shared between a few threads; must not know what the work is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

_Result = TypeVar("_Result")


def halves(paths: list[str], sizes: list[int]) -> list[list[str]]:
    """Split into two lists of about the same number of bytes, biggest first."""
    sides: list[list[str]] = [[], []]
    weights = [0, 0]
    for size, path in sorted(zip(sizes, paths, strict=True), reverse=True):
        lighter = 0 if weights[0] <= weights[1] else 1
        sides[lighter].append(path)
        weights[lighter] += size
    return sides


def in_threads(jobs: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Run the jobs side by side, the first one here, and raise the first failure of all."""
    results: dict[int, _Result] = {}
    failures: dict[int, BaseException] = {}

    def work(at: int) -> None:
        try:
            results[at] = jobs[at]()
        except BaseException as error:  # noqa: BLE001 raised again below, in the caller's thread
            failures[at] = error

    threads = [threading.Thread(target=work, args=(at,)) for at in range(1, len(jobs))]
    for thread in threads:
        thread.start()
    if jobs:
        work(0)
    for thread in threads:
        thread.join()
    for at in sorted(failures):
        raise failures[at]
    return [results[at] for at in range(len(jobs))]
