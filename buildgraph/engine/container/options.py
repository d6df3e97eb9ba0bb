"""Knows what may be asked of a container beside what its image says, as data; must not know how it
is done, nor whether a command line or a file asks.
"""

from __future__ import annotations

from msgspec import Struct, field

from buildgraph.graph.ops import Network
from buildgraph.sandbox.spec import Limits, Tmpfs


class Volume(Struct, frozen=True):
    """A directory outside the layers, filled at first with what the image has at `target`.

    With a name it is kept in the store and shared by that name; without, it ends with the
    container.
    """

    target: str
    name: str | None = None
    read_only: bool = False
    copy: bool = True  # fill it from the image


class HostBind(Struct, frozen=True):
    """A file or directory of the caller's; `source` as written, absolute or relative."""

    source: str
    target: str
    read_only: bool = True


ContainerMount = Volume | HostBind | Tmpfs


class Publish(Struct, frozen=True):
    """A port of the container reached at `host`:`host_port` (0 = any that is free)."""

    port: int
    host: str = "127.0.0.1"
    host_port: int = 0


class RunOptions(Struct, frozen=True):
    """Everything `docker run` would say; None and () = as the image has it, or the default."""

    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str | None], ...] = ()  # None takes a variable of the image away
    user: str | None = None
    workdir: str | None = None
    entrypoint: tuple[str, ...] | None = None  # given: the image's CMD does not count
    hostname: str | None = None
    network: Network = "none"
    hosts: tuple[tuple[str, str], ...] = ()  # (name, address), more lines of /etc/hosts
    dns: tuple[str, ...] = ()  # lines of /etc/resolv.conf
    limits: Limits = field(default_factory=Limits)
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    read_only: bool = False
    mounts: tuple[ContainerMount, ...] = ()
    init: bool = False
    tty: bool = False
    stop_signal: str | None = None
    stop_grace: float = 10.0  # seconds
    no_new_privs: bool = True
    seccomp: bool = True
    insecure: bool = False  # every right: only where a command line says so
