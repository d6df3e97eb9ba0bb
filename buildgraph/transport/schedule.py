"""Knows when a failed request is tried again (reliability R23); must not know what it was.

At most five more times, after 0.5 s, 1 s, 2 s ... give or take a quarter, or when the server says;
where it says later than a minute, not at all.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
from typing import Final, Protocol

from msgspec import Struct

from buildgraph.errors import Interrupted
from buildgraph.transport.failures import Again, Unreachable

RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})  # 501 will say the same again


class Clock(Protocol):
    """Time and chance, so that tests neither wait nor guess."""

    def wall(self) -> float:
        """Return seconds since 1970."""

    def sleep(self, seconds: float, cancel: threading.Event) -> None:
        """Wait, but no longer than until `cancel` is set."""

    def jitter(self) -> float:
        """Return a number from 0 to 1."""


class SystemClock:
    """The clock of the machine."""

    def wall(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float, cancel: threading.Event) -> None:
        """Wait, but no longer than until `cancel` is set."""
        cancel.wait(seconds)

    def jitter(self) -> float:
        """Return a number from 0 to 1."""
        return random.random()


class RetryPolicy(Struct, frozen=True):
    """How often, and how long between; seconds."""

    retries: int = 5
    first: float = 0.5
    longest_asked: float = 60.0  # of a Retry-After


class Retries:
    """What is left of the patience with one request. Not for several threads."""

    def __init__(self, policy: RetryPolicy, clock: Clock, cancel: threading.Event):
        self._policy = policy
        self._clock = clock
        self._cancel = cancel
        self._used = 0

    def again(self, shown: str, failure: Again) -> None:
        """Wait until it is time for another attempt.

        Raises Unreachable where there will be none, Interrupted where the wait was cut short.
        """
        policy = self._policy
        if failure.after is not None and failure.after > policy.longest_asked:
            raise Unreachable(
                f"cannot reach {shown}: {failure.reason}",
                hint=f"the server asks to come back in {round(failure.after)} seconds",
            )
        if self._used >= policy.retries:
            tried = f"gave up after {self._used + 1} attempts; " if policy.retries else ""
            raise Unreachable(
                f"cannot reach {shown}: {failure.reason}",
                hint=f"{tried}is the network or the proxy in order?",
            )
        wait = policy.first * 2**self._used * (0.75 + 0.5 * self._clock.jitter())
        self._used += 1
        self._clock.sleep(wait if failure.after is None else failure.after, self._cancel)
        self.check()

    def check(self) -> None:
        """Raise Interrupted if somebody asked us to stop."""
        if self._cancel.is_set():
            raise Interrupted("the transfer was stopped")

    def progressed(self) -> None:
        """A transfer went on by so much that its next failure is not more of the same."""
        self._used = 0


def retry_after(value: str | None, now: float) -> float | None:
    """Return seconds from a Retry-After header in either form (RFC 9110, 10.2.3)."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    moment = http_date(text)
    return None if moment is None else max(0.0, moment - now)


def http_date(text: str | None) -> float | None:
    """Return seconds since 1970 of an HTTP date, or None where it is none."""
    if not text or len(text) > 64:
        return None
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
