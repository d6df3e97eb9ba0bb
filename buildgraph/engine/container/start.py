"""Knows how an image and options become a running container; must not know how a container is made.

Between the image's layers and what the container writes there is nothing of ours on disk: the
files of /etc that docker binds too, mount points and /dev live in memory and are mounted over.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.engine.container.options import ContainerMount, HostBind, RunOptions, Volume
from buildgraph.engine.container.process import MainProcess, main_process, stop_signal_of
from buildgraph.engine.container.running import ImageContainer
from buildgraph.engine.container.volumes import Volumes
from buildgraph.engine.run_step import lower_directories
from buildgraph.errors import HostError, InputError
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Image
from buildgraph.rootpath import Root, clean
from buildgraph.sandbox.host import Output, SandboxHost
from buildgraph.sandbox.spec import Bind, FileMount, Mount, SandboxSpec, Tmpfs
from buildgraph_cache.scratch import Scratch
from buildgraph_cache.store import Store

# As docker writes it.
_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


class Attached(Protocol):
    """A place in a network, as `sandbox.network_private.Attachment` is one."""

    @property
    def netns(self) -> int:
        """An fd of the network namespace."""

    @property
    def name(self) -> str:
        """The name others find it by."""

    def hosts_lines(self) -> Sequence[str]:
        """Return lines of /etc/hosts for itself."""

    def dns_lines(self) -> Sequence[str]:
        """Return the lines of /etc/resolv.conf."""


class Streams(Struct, frozen=True):
    """Where what is written goes; `stdin` an fd, `tty` the fd of the terminal it is typed at."""

    output: Output
    errors: Output | None = None
    stdin: int | None = None
    tty: int | None = None


def open_container(
    store: Store,
    layers: LayerStore,
    sandbox: SandboxHost,
    image: Image,
    options: RunOptions,
    streams: Streams,
    *,
    base_directory: str | None = None,
    network: Attached | None = None,
) -> ImageContainer:
    """Start a container of the image; returns once its command has been exec'd, or has ended.

    What it writes is thrown away with `close`, named volumes apart. `base_directory`: directories
    of the host may only come from below it, and are read-only; None: the caller is the user, and
    any may be bound. `network` is a place in a private network. Raises InputError for what the
    image and the options cannot mean together, HostError where the machine does not give it.
    """
    view = RootView(layers, image.chain)
    stack = ExitStack()
    try:
        scratch = stack.enter_context(store.new_scratch())
        hostname = options.hostname or (network.name if network else os.urandom(6).hex())
        main = main_process(image, options, view, hostname)
        volumes = Volumes(store, layers, view, stack)
        wanted = _with_volumes(image, options.mounts)
        mounts = _open_mounts(wanted, volumes, scratch, base_directory)
        spec = _spec(image, options, main, hostname, mounts, network)
        spec = replace(
            spec,
            lowers=tuple(lower_directories(layers, image.chain)),
            upper=scratch.upper,
            work=scratch.work,
        )
        container = sandbox.start(
            spec,
            streams.output,
            errors=streams.errors,
            stdin=streams.stdin,
            netns=None if network is None else network.netns,
            tty=streams.tty,
        )
    except BaseException:
        stack.close()
        raise
    return ImageContainer(
        container,
        view,
        stack,
        shift=sandbox.id_shift,
        upper=scratch.upper,
        stop_signal=stop_signal_of(image, options),
        stop_grace=options.stop_grace,
        home_is_given="HOME" in dict((*image.config.env, *options.env)),
    )


def _spec(
    image: Image,
    options: RunOptions,
    main: MainProcess,
    hostname: str,
    mounts: Sequence[Mount],
    network: Attached | None,
) -> SandboxSpec:
    stop_signal_of(image, options)  # a wrong one is told before anything runs
    dns = options.dns or (tuple(network.dns_lines()) if network else ())
    return SandboxSpec(
        lowers=(),
        args=main.args,
        env=main.env,
        cwd=main.cwd,
        make_cwd=True,
        uid=main.who.uid,
        gid=main.who.gid,
        groups=main.groups,
        hostname=hostname,
        mounts=(*mounts, *_etc_files(options, hostname, mounts, network)),
        network=options.network,
        limits=options.limits,
        cap_add=options.cap_add,
        cap_drop=options.cap_drop,
        no_new_privs=options.no_new_privs and not options.insecure,
        seccomp=options.seccomp,
        read_only_root=options.read_only,
        tty=options.tty,
        dns=dns,
        init=options.init,
        insecure=options.insecure,
        architecture=image.config.platform.architecture,
    )


def _etc_files(
    options: RunOptions, hostname: str, mounts: Sequence[Mount], network: Attached | None
) -> list[Mount]:
    """Return /etc/hosts; the others are the sandbox's own. A mount of the user's there wins."""
    if any(mount.target == "/etc/hosts" for mount in mounts):
        return []
    own = network.hosts_lines() if network else [f"127.0.0.1\t{hostname}"]
    if network and network.name != hostname:
        own = [line.replace(f"\t{network.name}", f"\t{hostname} {network.name}") for line in own]
    more = [f"{address}\t{name}" for name, address in options.hosts]
    text = _HOSTS + "".join(f"{line}\n" for line in (*more, *own))
    return [FileMount("/etc/hosts", text.encode(), 0o644)]


def _with_volumes(image: Image, mounts: Sequence[ContainerMount]) -> list[ContainerMount]:
    """Return the mounts, and an anonymous volume for each VOLUME that none of them covers."""
    taken = {posixpath.normpath(mount.target) for mount in mounts}
    out = list(mounts)
    for target in image.config.volumes:
        clean = posixpath.normpath(f"/{target.lstrip('/')}")
        if clean not in taken and clean != "/":
            taken.add(clean)
            out.append(Volume(clean))
    return out


def _open_mounts(
    wanted: Sequence[ContainerMount],
    volumes: Volumes,
    scratch: Scratch,
    base_directory: str | None,
) -> list[Mount]:
    mounts: list[Mount] = []
    for number, mount in enumerate(wanted):
        match mount:
            case Volume():
                mounts.append(volumes.open(mount, scratch, number))
            case HostBind():
                mounts.append(host_bind(mount, base_directory))
            case Tmpfs():
                mounts.append(mount)
    _check_places(mounts)
    return mounts


def _check_places(mounts: Sequence[Mount]) -> None:
    seen: set[str] = set()
    for mount in mounts:
        if mount.target in seen:
            raise InputError(f"two mounts are on {mount.target}")
        seen.add(mount.target)


def host_bind(mount: HostBind, base_directory: str | None) -> Bind:
    """Return the mount of a host's directory or file.

    One below `base_directory` is resolved inside it when the container starts, whatever links are
    there. Raises InputError where it is not there, or not below `base_directory`.
    """
    try:
        if base_directory is None:
            source = os.path.realpath(os.path.expanduser(mount.source))
            _check_kind(mount, os.stat(source))
            return Bind(source, mount.target, mount.read_only)
        _check_below(mount)
        with Root.at(base_directory) as root:
            fd = root.open(mount.source, os.O_PATH)
            try:
                _check_kind(mount, os.fstat(fd))
            finally:
                os.close(fd)
        beneath = clean(mount.source)
        return Bind(os.path.realpath(base_directory), mount.target, True, beneath)
    except FileNotFoundError:
        raise InputError(
            f"{mount.source} is not there; it was to be seen at {mount.target}",
            hint="make it first: nothing is created on the host",
        ) from None
    except OSError as error:
        raise HostError(f"cannot look at {mount.source}: {error.strerror}") from error


def _check_kind(mount: HostBind, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
        raise InputError(f"{mount.source} is neither a directory nor a file")


def _check_below(mount: HostBind) -> None:
    if mount.source.startswith(("/", "~")):
        raise InputError(
            f"{mount.source}: only what lies below the package's directory can be mounted",
            hint="write a path relative to it",
        )
    if not mount.read_only:
        raise InputError(f"{mount.source} can only be mounted read-only here")
    if ".." in mount.source.split("/"):
        raise InputError(f"{mount.source} leads out of the package's directory")
