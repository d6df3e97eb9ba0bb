"""Knows how amounts, nodes and the end of a build are put into words; must not know on what kind
of screen they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from buildgraph.cli.escape import safe
from buildgraph.errors import Interrupted
from buildgraph.events import (
    BuildFinished,
    CheckFinished,
    Event,
    NodeCancelled,
    NodeFailed,
    SmokeFinished,
    SmokeNote,
    SmokeStarted,
)

_CRITICAL_STEPS = 5  # shown of the critical path; the slowest are what one acts on
_CRITICAL_SHARE = 0.03  # of its time, for a step to be worth a line


def seconds(value: float) -> str:
    """Return a duration as `0.04s`, `3.2s`, `1m05s` or `2h03m`."""
    if value < 0.0995:
        return f"{max(value, 0):.2f}s"
    if value < 59.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def size(count: int) -> str:
    """Return a number of bytes in decimal units, as registries and docker do: `12.3 MB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} PB"


def plural(count: int, noun: str) -> str:
    """Return `1 node`, `1,234 nodes`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def progress(text: str, done: int, total: int) -> str:
    """Return `fetch x.deb 1.2 MB / 3.4 MB`, as far as it is known."""
    amount = f" {size(done)} / {size(total)}" if total else f" {size(done)}" if done else ""
    return safe(text) + amount


def as_meant(event: Event) -> Event:
    """Return a step that was interrupted as cancelled, since nothing in it went wrong."""
    if isinstance(event, NodeFailed) and isinstance(event.error, Interrupted):
        where = event.error.where
        return NodeCancelled(
            event.time, event.node, event.label, event.title, event.stage, where, event.needs
        )
    return event


def counts(event: BuildFinished) -> str:
    """Return `built 2, cached 40 in 3.2s`, with what went wrong in front."""
    parts = [
        f"{word} {count:,}"
        for word, count, always in (
            ("failed", event.failed, False),
            ("built", event.built, True),
            ("cached", event.cached, True),
            ("cancelled", event.cancelled, False),
        )
        if count or always
    ]
    return f"{', '.join(parts)} in {seconds(event.time)}"


def critical_path(event: BuildFinished) -> Iterator[str]:
    """Yield the slowest steps of the longest chain in the order they ran, if it took a while."""
    path: Sequence[tuple[str, float]] = event.critical_path
    total = sum(spent for _, spent in path)
    matter = [i for i in range(len(path)) if path[i][1] >= total * _CRITICAL_SHARE]
    if total < 1.0 or len(matter) < 2:
        return
    slowest = sorted(matter, key=lambda i: -path[i][1])[:_CRITICAL_STEPS]
    yield f"critical path {seconds(total)} in {plural(len(path), 'step')}, the longest:"
    for index in sorted(slowest):
        name, spent = path[index]
        yield f"  {seconds(spent):>6} {safe(name)}"


def smoke_title(event: SmokeStarted) -> str:
    """Return `test db, app: 3 checks`, with the number of the run where there are several."""
    names = ", ".join(safe(name) for name in event.services[:5])
    more = f" and {len(event.services) - 5} more" if len(event.services) > 5 else ""
    services = f" {names}{more}:" if names else ""
    again = f" (run {event.run})" if event.run > 1 else ""
    return f"test{services} {plural(event.checks, 'check')}{again}"


def smoke_line(event: SmokeNote | CheckFinished | SmokeFinished) -> tuple[bool, str]:
    """Return whether it is good news, and the news with its time."""
    if isinstance(event, SmokeNote):
        bad = event.text not in ("started", "healthy")
        return not bad, f"{safe(event.service)} {safe(event.text)} {seconds(event.seconds)}"
    if isinstance(event, CheckFinished):
        head = "ok" if event.ok else "FAILED"
        what = f": {safe(event.complaints[0])}" if event.complaints else ""
        return event.ok, f"{head} {safe(event.check)} {seconds(event.seconds)}{what}"
    if event.cached:
        return True, f"PASSED before, CACHED ({plural(event.passed, 'check')})"
    runs = f", {event.runs_passed} of {event.runs} runs passed" if event.runs > 1 else ""
    count = plural(event.passed + event.failed, "check")
    if event.ok:
        return True, f"PASSED {seconds(event.seconds)} ({count}{runs})"
    failed = f"{event.failed} of {count} failed" if event.failed else safe(event.reason)
    return False, f"FAILED {seconds(event.seconds)} ({failed}{runs})"
