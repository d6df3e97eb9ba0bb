"""Knows when a container is healthy, given a way to probe it; must not know what a probe runs in.

Docker's rules, with two differences that only make a test quicker: the first probe is made at
once, and until the service is healthy probes come at least twice a second. A failed probe counts
against `retries` as seldom as docker would have made one. Once healthy, it is not probed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from buildgraph.boxfile.smoke import SECOND, Health
from buildgraph.engine.smoke.world import Ran
from buildgraph.oci.types import Healthcheck, ImageConfig

_EAGER: Final = 0.5
_DEFAULT: Final = Healthcheck((), 30 * SECOND, 30 * SECOND, 0, 5 * SECOND, 3)


class Probe(Struct, frozen=True):
    """A healthcheck with every value decided; times in seconds."""

    args: tuple[str, ...]
    interval: float
    timeout: float
    start_period: float
    start_interval: float
    retries: int


def probe_of(health: Health | None, config: ImageConfig) -> Probe | None:
    """Return the healthcheck of a service, None where it has none."""
    image = config.healthcheck or Healthcheck(())
    own = health or Health()
    test = own.test if own.test is not None else image.test
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD-SHELL":
        args = (*(config.shell or ("/bin/sh", "-c")), test[1])
    else:
        args = test[1:]

    def seconds(mine: int | None, theirs: int, default: int) -> float:
        return (mine if mine is not None else theirs or default) / SECOND

    return Probe(
        args,
        seconds(own.interval, image.interval, _DEFAULT.interval),
        seconds(own.timeout, image.timeout, _DEFAULT.timeout),
        seconds(own.start_period, image.start_period, _DEFAULT.start_period),
        seconds(own.start_interval, image.start_interval, _DEFAULT.start_interval),
        own.retries or image.retries or _DEFAULT.retries,
    )


def become_healthy(
    probe: Probe,
    run: Callable[[tuple[str, ...], float], Ran],
    now: Callable[[], float],
    pause: Callable[[float], bool],
) -> str:
    """Probe until the container is healthy; return "" then, or why it is unhealthy.

    `pause` returns False where it is no longer of interest; the answer is "" then too.
    """
    begun = now()
    counted_at = begun
    failures = 0
    while True:
        ran = run(probe.args, probe.timeout)
        if ran.code == 0 and not ran.timed_out and not ran.refusal:
            return ""
        starting = now() - begun < probe.start_period
        period = probe.start_interval if starting else probe.interval
        if not starting and now() - counted_at >= probe.interval:
            counted_at = now()
            failures += 1
            if failures >= probe.retries:
                return _why(probe, ran)
        if not pause(min(period, _EAGER)):
            return ""


def _why(probe: Probe, ran: Ran) -> str:
    if ran.timed_out:
        return f"its healthcheck did not end within {probe.timeout:g} s"
    if ran.refusal:
        return ran.refusal
    output = (ran.stdout + ran.stderr).decode("utf-8", "backslashreplace").strip()
    said = f": {output.splitlines()[-1][:200]}" if output else ""
    return f"its healthcheck ended with exit code {ran.code}{said}"
