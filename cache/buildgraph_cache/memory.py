"""Knows how memory that is no longer used leaves the process at once; must not know its use."""

from __future__ import annotations

import contextlib
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # malloc.h
_LARGE: Final = 1 << 20  # bytes


def give_back_large_blocks() -> None:
    """Have blocks of a megabyte and more returned to the system as soon as they are free.

    The GNU C library stops doing so for sizes it has seen freed, and what several rounds of a
    collection need then lies beside what the last one needed. Nothing where there is no such call.
    Source: mallopt(3).
    """
    import ctypes

    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
