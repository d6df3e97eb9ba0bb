"""Knows what a RUN asks of whoever builds it: what only the command line grants, the builder's
knobs, and the variables that mounts bring; must not know how a step is run.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from typing import Final

from msgspec.structs import replace

from buildgraph.errors import InputError, Location
from buildgraph.graph.ops import ExecOp, NodeGraph
from buildgraph.graph.stage_ir import MountIR

INSECURE: Final = "security.insecure"
HOST_NETWORK: Final = "network.host"
ENTITLEMENTS: Final = (HOST_NETWORK, INSECURE)
DEFAULT_HOSTNAME: Final = "buildgraph"


def granted(allowed: frozenset[str], network: str | None) -> frozenset[str]:
    """Return what files may ask for: whoever asks for the host's network grants it."""
    return allowed | ({HOST_NETWORK} if network == "host" else frozenset())


def check_granted(security: str, network: str, allowed: Collection[str], where: Location) -> None:
    """Raise InputError for what the command line has not granted, whatever a file says."""
    if security == "insecure" and INSECURE not in allowed:
        raise InputError(
            "RUN --security=insecure is not granted by the Dockerfile alone",
            where,
            f"--allow {INSECURE} on the command line: the step may then do all that root of its "
            "user namespace can",
        )
    if network == "host" and HOST_NETWORK not in allowed:
        raise InputError(
            "the host's network is not granted by a Dockerfile or a Boxfile alone",
            where,
            f"--allow {HOST_NETWORK} or --network host on the command line",
        )


def insecure_steps(graph: NodeGraph) -> list[tuple[str, Location]]:
    """Return words about every step that runs without the sandbox's limits, with its place."""
    return [
        (f"{node.label}: runs with every capability and system call, nothing hidden", node.where)
        for node in graph.nodes
        if isinstance(node.op, ExecOp) and node.op.security == "insecure"
    ]


def hostname_of(args: Mapping[str, str]) -> str:
    """Return the host name that steps see: the knob BUILDKIT_SANDBOX_HOSTNAME, else ours.

    Raises InputError for what cannot be a host name, sethostname(2).
    """
    name = args.get("BUILDKIT_SANDBOX_HOSTNAME") or DEFAULT_HOSTNAME
    if len(name) > 64 or not all(c.isascii() and (c.isalnum() or c in "-._") for c in name):
        raise InputError(
            f"BUILDKIT_SANDBOX_HOSTNAME is {name[:80]!r}, which cannot be a host name",
            hint="letters, digits, '-', '.' and '_', at most 64",
        )
    return name


def mount_options(mount: MountIR, args: Mapping[str, str]) -> dict[str, str]:
    """Return a mount's options with the namespace of cache mounts, BUILDKIT_CACHE_MOUNT_NS."""
    options = dict(mount.options)
    namespace = args.get("BUILDKIT_CACHE_MOUNT_NS")
    if mount.type == "cache" and namespace:
        options["namespace"] = namespace
    return options


def absolute(cwd: str, path: str) -> str:
    """Return a path of a step made absolute, its dots resolved by the text alone."""
    joined = posixpath.normpath(posixpath.join("/", cwd, path))
    return joined.replace("//", "/")  # POSIX keeps exactly two leading slashes


def place(target: str, cwd: str, where: Location) -> str:
    """Return where a mount goes: absolute, its dots resolved; no target is the WORKDIR.

    Raises InputError for the root.
    """
    path = absolute(cwd, target)
    if path == "/":
        hint = None if target else "add target=/path, or mount at a WORKDIR other than /"
        raise InputError("a mount cannot cover the root directory", where, hint)
    return path


def with_agents(mounts: tuple[MountIR, ...], env: dict[str, str]) -> tuple[MountIR, ...]:
    """Give ssh mounts their places, and `env` the way to the first, unless it names one."""
    out = []
    count = 0
    for mount in mounts:
        if mount.type == "ssh":
            options = dict(mount.options)
            options.setdefault("target", f"/run/buildkit/ssh_agent.{count}")
            if not count:
                env.setdefault("SSH_AUTH_SOCK", options["target"])
            count += 1
            mount = replace(mount, options=tuple(options.items()))
        out.append(mount)
    return tuple(out)
