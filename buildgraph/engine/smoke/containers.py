"""Knows how a service becomes a running container in a test's network; must not know in which order
services start, nor what is checked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from buildgraph.boxfile.smoke import SECOND, MemoryPlace, NamedVolume, PackageBind, Service
from buildgraph.engine.container.options import ContainerMount, HostBind, RunOptions, Volume
from buildgraph.engine.container.running import ImageContainer
from buildgraph.engine.container.start import Streams, open_container
from buildgraph.engine.container.volumes import Volumes
from buildgraph.engine.smoke.provisions import Provisions
from buildgraph.engine.smoke.world import Ended, Ran
from buildgraph.errors import HostError
from buildgraph.limits import MIB
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Image
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.network_private import Attachment, PrivateNetwork
from buildgraph.sandbox.spec import Limits, Tmpfs
from buildgraph_cache.scratch import Scratch
from buildgraph_cache.store import Store

OUTPUT_BYTES: Final = 1 * MIB  # kept of one stream of one command
GRACE: Final = 2.0  # seconds from the stop signal to SIGKILL: what is stopped is thrown away
_DEFAULT: Final = Limits()


class Capture:
    """Keeps the beginning and the end of a stream."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = b""
        self._cut = 0

    def write(self, data: bytes) -> None:
        """Take more."""
        room = OUTPUT_BYTES // 2 - len(self._head)
        self._head += data[: max(room, 0)]
        rest = data[max(room, 0) :]
        if rest:
            kept = (self._tail + rest)[-OUTPUT_BYTES // 2 :]
            self._cut += len(self._tail) + len(rest) - len(kept)
            self._tail = kept

    @property
    def data(self) -> bytes:
        """What was kept, with a word where something was cut out."""
        gap = b"\n[%d bytes left out]\n" % self._cut if self._cut else b""
        return bytes(self._head) + gap + self._tail


def run_inside(
    container: ImageContainer,
    name: str,
    args: Sequence[str],
    timeout: float,
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: str | None = None,
    cancel: threading.Event | None = None,
) -> Ran:
    """Run a command in a container; that there is none any more is an answer too."""
    out, err = Capture(), Capture()
    try:
        status = container.exec(
            args,
            user=user,
            env=env,
            cwd=cwd,
            output=out.write,
            errors=err.write,
            timeout=timeout,
            cancel=cancel,
        )
    except HostError as error:
        if not container.ended:
            raise
        return Ran(-1, b"", b"", refusal=f"{name} has ended: {error.message}")
    return Ran(status.code, out.data, err.data, status.timed_out, status.oom)


class ServiceContainer(Struct):
    """An `Actor` of the ensemble."""

    container: ImageContainer
    name: str
    network: PrivateNetwork | None
    attachment: Attachment | None
    cancel: threading.Event

    def ended(self) -> Ended | None:
        """Return how it ended, None while it runs."""
        status = self.container.wait(0)
        if status is None:
            return None
        limits = self.container.spec.limits
        text = status.describe(limits) or "ended with exit code 0"
        return Ended(status.code, status.oom, text)

    def run(self, args: Sequence[str], timeout: float) -> Ran:
        """Run a command inside."""
        return run_inside(self.container, self.name, args, timeout, cancel=self.cancel)

    def stop(self) -> None:
        """Send the stop signal, then SIGKILL; at once where nobody listens for the signal."""
        number = self.container.stop_signal
        if self.container.spec.init or _listens(self.container.pid, number):
            self.container.stop()
        else:
            self.container.stop(signal.SIGKILL)

    def close(self) -> None:
        """Kill it and take it out of the network. Idempotent."""
        self.container.close()
        if self.network is not None and self.attachment is not None:
            self.network.detach(self.attachment)


def _listens(pid: int, number: int) -> bool:
    """Say whether a signal would reach process 1 of a pid namespace: only if it is caught.

    Source: pid_namespaces(7).
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            caught = next((line for line in file if line.startswith("SigCgt:")), "SigCgt: 0")
    except OSError:
        return True
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


class Containers(Struct):
    """Starts the services of one test; everything it makes is below `scratch` or ends by `close`.

    `images` are those of the services by name.
    """

    store: Store
    layers: LayerStore
    sandbox: SandboxHost
    provisions: Provisions
    images: Mapping[str, Image]
    network: PrivateNetwork | None
    scratch: Scratch
    cancel: threading.Event
    output: Callable[[str], Callable[[bytes], None]]
    _volumes: dict[str, str] = field(default_factory=dict)
    _copies: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _count: int = 0

    def start(self, service: Service, number: int) -> ServiceContainer:
        """Start a container of a service. Raises what `open_container` raises."""
        name = service.container_name(number)
        names = (service.name, *service.aliases) if service.scale > 1 else service.aliases
        image = self.images[service.name]
        options = self.options(service, name, image)
        attachment = None if self.network is None else self.network.attach(name, names)
        try:
            container = open_container(
                self.store,
                self.layers,
                self.sandbox,
                image,
                options,
                Streams(self.output(service.name)),
                network=attachment,
            )
        except BaseException:
            if self.network is not None and attachment is not None:
                self.network.detach(attachment)
            raise
        return ServiceContainer(container, name, self.network, attachment, self.cancel)

    def options(self, service: Service, name: str, image: Image) -> RunOptions:
        """Return how a service runs: never with more rights than a RUN step."""
        grace = service.stop_grace
        ulimits = tuple((u.name, u.soft, u.hard) for u in service.ulimits)
        return RunOptions(
            args=service.command or (),
            entrypoint=service.entrypoint,
            env=self.provisions.environment(service),
            user=service.user,
            workdir=service.working_dir,
            hostname=service.hostname or name,
            limits=Limits(
                memory=service.memory,
                memory_swap=service.memory_swap,
                cpus=service.cpus,
                pids=service.pids or _DEFAULT.pids,
                ulimits=ulimits,
                shm=service.shm or _DEFAULT.shm,
            ),
            cap_add=service.cap_add,
            cap_drop=service.cap_drop,
            read_only=service.read_only,
            mounts=tuple(self._mount(volume, image) for volume in service.volumes),
            init=service.init,
            stop_signal=service.stop_signal,
            stop_grace=GRACE if grace is None else grace / SECOND,
        )

    def _mount(
        self, volume: NamedVolume | PackageBind | MemoryPlace, image: Image
    ) -> ContainerMount:
        match volume:
            case MemoryPlace(target, size, mode):
                return Tmpfs(target, size, mode)
            case NamedVolume("", target, read_only):
                return Volume(target, read_only=read_only)
            case NamedVolume(name, target, read_only):
                return HostBind(self._shared(name, target, image), target, read_only)
            case PackageBind(path, target):
                return HostBind(self._copied(volume, path), target, True)

    def _shared(self, name: str, target: str, image: Image) -> str:
        """Return the directory of a named volume; the first container that has it fills it.

        It is the test's own and ends with it, so that no test sees what another one left.
        """
        with self._lock:
            if name not in self._volumes:
                self._count += 1
                stack = contextlib.ExitStack()
                volumes = Volumes(
                    self.store, self.layers, RootView(self.layers, image.chain), stack
                )
                made = volumes.open(Volume(target), self.scratch, self._count)
                self._volumes[name] = made.source
            return self._volumes[name]

    def _copied(self, bind: PackageBind, path: str) -> str:
        with self._lock:
            if path not in self._copies:
                self._count += 1
                directory = self.scratch.directory(f"bind{self._count}")
                self._copies[path] = self.provisions.copy(bind, directory)
            return self._copies[path]


def commit(layers: LayerStore, image: Image, container: ImageContainer) -> Image:
    """Return an image with what a container wrote as its last layer; it has to have ended."""
    layer = layers.commit(Path(container.upper), RootView(layers, image.chain))
    return image if layer is None else Image(image.config, image.chain.push(layer))


def log_path(scratch: Scratch, service: str) -> str:
    """Return where a service's log is while the test runs."""
    return os.path.join(scratch.directory("logs"), service)
