"""Knows how a container is written down so that it can be started without its image being looked
for, and how it is started from that; must not know when that may be done.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from buildgraph.cli.attach import Ends, Runnable, attached, say_how_it_ended
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.spec import FileMount, SandboxSpec, Tmpfs, from_json, to_json
from buildgraph_cache.store import Store

_HOSTS = "/etc/hosts"


class Recalled(Struct, frozen=True):
    """A container as it was started, and how its streams were; plain values."""

    spec: str  # without /etc/hosts, upper and work
    hosts: str  # the text of /etc/hosts
    random_name: str  # the host name that was made up, "" for one that was asked for
    interactive: bool
    tty: bool
    grace: float
    asked_for_limits: bool

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def recallable(spec: SandboxSpec) -> bool:
    """Say whether nothing but layers and memory is mounted: volumes and directories change."""
    return all(isinstance(mount, FileMount | Tmpfs) for mount in spec.mounts)


def recalled(
    spec: SandboxSpec,
    *,
    random_name: bool,
    interactive: bool,
    grace: float,
    asked_for_limits: bool,
) -> Recalled:
    """Return what brings this container back."""
    files = [m for m in spec.mounts if isinstance(m, FileMount) and m.target == _HOSTS]
    rest = tuple(mount for mount in spec.mounts if mount not in files)
    return Recalled(
        to_json(replace(spec, mounts=rest, upper=None, work=None)),
        files[0].content.decode() if files else "",
        spec.hostname if random_name else "",
        interactive,
        spec.tty,
        grace,
        asked_for_limits,
    )


def run_recalled(sandbox: SandboxHost, known: Recalled) -> int:
    """Start the container anew, follow it to its end and return its exit code."""
    text, hosts = known.spec, known.hosts
    if known.random_name:
        name = os.urandom(6).hex()
        text, hosts = (part.replace(known.random_name, name) for part in (text, hosts))
    spec = from_json(text)
    with Store.open(sandbox.store) as store, store.lease(), store.new_scratch() as scratch:
        mounts = (*spec.mounts, FileMount(_HOSTS, hosts.encode(), 0o644))
        spec = replace(spec, upper=scratch.upper, work=scratch.work, mounts=mounts)

        def start(ends: Ends) -> Runnable:
            made = sandbox.start(
                spec, ends.output, errors=ends.errors, stdin=ends.stdin, tty=ends.tty
            )
            warn(sandbox.warnings, spec, asked=known.asked_for_limits)
            return made

        status = attached(start, interactive=known.interactive, tty=known.tty, grace=known.grace)
        say_how_it_ended(status, spec.limits, sandbox.memory)
        return status.code


def warn(warnings: tuple[str, ...], spec: SandboxSpec, *, asked: bool) -> None:
    """Say what was asked for and could not be had: never weaker without a word."""
    for text in warnings:
        if asked or not text.startswith("no limit on"):
            sys.stderr.write(f"buildgraph: {text}\n")
    if spec.insecure:
        sys.stderr.write("buildgraph: --privileged: nothing is hidden from this container\n")
