"""Knows a private network from its owner's side; must not know how links and bridges are made.

One network a test or a `run`: containers attached to it find each other by name, and nothing else.
The program itself is no member; it gets sockets that are inside from the router's process
(network_agent.py), answers names (resolver.py) and forwards published ports (publish.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from buildgraph import kernel as k
from buildgraph.closing import Closing
from buildgraph.errors import HostError, InputError
from buildgraph.sandbox import publish
from buildgraph.sandbox.network_loop import Loop
from buildgraph.sandbox.resolver import Names, Resolver
from buildgraph.sandbox.wire import receive, send

__all__ = ["Attachment", "PrivateNetwork"]

MAX_ATTACHED: Final = 1000  # ports of a bridge
_DNS_PORT: Final = 53
_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", re.ASCII)
_HINT: Final = "`buildgraph doctor` says what this machine lacks"

T = TypeVar("T")


class Makers(Protocol):
    """What a network needs of its surroundings (network.py)."""

    def start_router(self, sock: socket.socket, subnet6: str) -> None:
        """Have a router process serve the other end; its first message says how it went."""

    def new_netns(self) -> list[int]:
        """Return the fd of a fresh namespace of the containers, loopback up; perhaps more fds."""

    def way_out(self, netns: int) -> int:
        """Give a namespace a way to the outside and return its number. Raises HostError."""

    def end_way_out(self, number: int) -> None:
        """Undo `way_out`. Never raises."""

    def upstream(self) -> list[str]:
        """Return the addresses of the host's resolvers."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Attachment:
    """A place in the network. `netns` is for `SandboxHost.run` and `start`, and the network's."""

    name: str
    aliases: tuple[str, ...]
    address: str
    address6: str  # "" where the network has no IPv6
    netns: int
    number: int = dataclasses.field(repr=False)
    resolver: str

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return (self.name, *self.aliases)

    def hosts_lines(self) -> tuple[str, ...]:
        """Return lines for /etc/hosts: itself alone, since others come and go."""
        return tuple(
            f"{address}\t{self.name}" for address in (self.address, self.address6) if address
        )

    def dns_lines(self) -> tuple[str, ...]:
        """Return the lines of /etc/resolv.conf."""
        return (f"nameserver {self.resolver}", "options ndots:0")


class PrivateNetwork(Closing):
    """A network of containers; a context manager, used from any thread.

    Making one costs next to nothing: it gets ready in the background and the first use waits. With
    `outside` the members reach what the steps of a build reach: the internet, not the host. On
    leaving the context every link, address, socket and thread of it is gone, published ports too.
    """

    def __init__(self, makers: Makers, *, outside: bool = False, ipv6: bool = False):
        self._makers = makers
        self._outside = outside
        self._subnet6 = _random_subnet6() if ipv6 else ""
        self._lock = threading.Lock()  # state
        self._talk = threading.Lock()  # one question to the router's process at a time
        self._names = Names()
        self._loop = Loop("private-network")
        self._attached: dict[int, Attachment] = {}
        self._forwarders: dict[int, list[publish.Forwarder]] = {}
        self._count = 0
        self._free: list[int] = []
        self._hello: dict[str, Any] | None = None
        self._failure: HostError | None = None
        self._netns = -1
        self._way_out: int | None = None
        self._closed = False
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            makers.start_router(theirs, self._subnet6)
        except BaseException:
            self._sock.close()
            raise
        finally:
            theirs.close()

    def close(self) -> None:
        """Remove everything. Idempotent. Containers that still run lose their network."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            attached = list(self._attached.values())
            self._attached.clear()
        self._loop.close()  # its thread may be asking the router for a socket
        with self._talk:
            for one in attached:
                os.close(one.netns)
            if self._netns >= 0:
                os.close(self._netns)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
                while receive(self._sock)[0] is not None:  # until its process is gone
                    pass
            self._sock.close()
            if self._way_out is not None:
                self._makers.end_way_out(self._way_out)

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    # -- the router ------------------------------------------------------------------------------

    def _ready(self) -> dict[str, Any]:
        """Wait until the router is there; the first to come sets up the resolver."""
        if self._hello is not None and not self._closed:
            return self._hello
        with self._talk:
            if self._closed:
                raise HostError("the private network is closed")
            if self._failure is not None:
                raise self._failure
            if self._hello is None:
                try:
                    self._set_up()
                except HostError as error:
                    self._failure = error
                    raise
            assert self._hello is not None
            return self._hello

    def _set_up(self) -> None:
        hello, fds = self._receive()
        self._netns = _not_lost(fds)[0]
        if self._outside:
            self._way_out = self._makers.way_out(self._netns)
            self._ask_locked("outside")
        sockets = _not_lost(self._ask_locked("listen", _DNS_PORT), 2)
        resolver = Resolver(
            self._loop,
            self._names,
            (socket.socket(fileno=sockets[0]), socket.socket(fileno=sockets[1])),
            subnets=[net for net in (hello["subnet"], hello["subnet6"]) if net],
            upstream=self._makers.upstream() if self._outside else (),
        )
        resolver.start()
        self._names.add(["gateway"], (hello["gateway"],))
        self._hello = hello

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            answer, fds = receive(self._sock)
        except OSError as error:
            answer, fds = {"error": str(error)}, []
        if answer is None:
            answer = {"error": "its process died"}
        if "error" in answer:
            raise HostError(f"no private network: {answer['error']}", hint=_HINT)
        return answer, fds

    def _ask_locked(self, *message: Any, fds: tuple[int, ...] = ()) -> list[int]:
        try:
            send(self._sock, message, fds)
        except OSError as error:
            raise HostError("no private network: its process died", hint=_HINT) from error
        return self._receive()[1]

    def _ask(self, *message: Any, fds: tuple[int, ...] = ()) -> list[int]:
        self._ready()
        with self._talk:
            if self._closed:
                raise HostError("the private network is closed")
            return self._ask_locked(*message, fds=fds)

    @property
    def resolver_address(self) -> str:
        """The address of the resolver, for /etc/resolv.conf of whoever is attached."""
        return str(self._ready()["gateway"])

    # -- members -----------------------------------------------------------------------------------

    def attach(self, name: str, aliases: Sequence[str] = ()) -> Attachment:
        """Return a place for one container; names may be shared, and are then taken in turn.

        Raises InputError for a name that is none, HostError where the machine gives no more.
        """
        _check_names((name, *aliases))
        hello = self._ready()
        number = self._take_number()
        try:
            address, address6 = _addresses(hello, number)
            netns, *extra = _not_lost(self._makers.new_netns())
            for fd in extra:
                os.close(fd)
            try:
                self._ask("attach", number, address, address6, fds=(netns,))
            except BaseException:
                os.close(netns)
                raise
        except BaseException:
            with self._lock:
                self._free.append(number)
            raise
        made = Attachment(
            name, tuple(aliases), address, address6, netns, number, str(hello["gateway"])
        )
        with self._lock:
            if self._closed:
                os.close(netns)
                raise HostError("the private network is closed")
            self._attached[number] = made
        self._names.add(made.names, _all_addresses(made))
        return made

    def _take_number(self) -> int:
        with self._lock:
            # The longest unused comes first, so that an address means one container for long.
            if self._count < MAX_ATTACHED:
                self._count += 1
                return self._count - 1
            if self._free:
                return self._free.pop(0)
        raise HostError(
            f"no more than {MAX_ATTACHED} containers fit into one private network",
            hint="lower `scale`, or split the test",
        )

    def detach(self, attachment: Attachment) -> None:
        """Take a container out; its names and published ports end. Idempotent."""
        with self._lock:
            if self._attached.get(attachment.number) is not attachment:
                return
            del self._attached[attachment.number]
            forwarders = self._forwarders.pop(attachment.number, [])
        self._names.remove(attachment.names, _all_addresses(attachment))
        for forwarder in forwarders:
            forwarder.stop()
        os.close(attachment.netns)
        try:
            self._ask("detach", attachment.number)
        except HostError:
            return  # the network is gone, and this with it
        with self._lock:
            self._free.append(attachment.number)

    # -- from inside -------------------------------------------------------------------------------

    def lookup(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a name as containers see it. Raises socket.gaierror."""
        self._ready()
        with contextlib.suppress(ValueError):
            return (str(ipaddress.ip_address(host)),)
        found = self._names.addresses(host)
        if found is None:
            raise socket.gaierror(
                socket.EAI_NONAME, f"no container of this network is called {host!r}"
            )
        return found

    def new_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        """Return a new socket that is inside the network, wherever it is used. The caller's."""
        return socket.socket(fileno=_not_lost(self._ask("socket", int(family), int(kind)))[0])

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Return a TCP connection to a member, made from inside; `timeout` in seconds stays set.

        Tries every address of the name. Raises OSError, as socket.create_connection does.
        """
        end = time.monotonic() + timeout
        failure: OSError = OSError(f"{host!r} has no address")
        for address in self.lookup(host):
            sock = self.new_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            try:
                sock.settimeout(max(end - time.monotonic(), 0.001))
                sock.connect((address, port))
                sock.settimeout(timeout)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise failure

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Keep the calling thread in the network meanwhile: its new sockets are inside.

        Start no process and no thread here; they would stay inside. Raises HostError for an
        ordinary user, who cannot come back to the host's network; `run_inside`, `new_socket` and
        `connect` work for everybody.
        """
        self._ready()
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                k.setns(back, k.CLONE_NEWNET)  # is there a way back?
            except OSError as error:
                raise HostError(
                    "an ordinary user's thread cannot come back from a private network",
                    hint="use run_inside",
                ) from error
            k.setns(self._netns, k.CLONE_NEWNET)
            try:
                yield
            finally:
                k.setns(back, k.CLONE_NEWNET)
        finally:
            os.close(back)

    def run_inside(self, function: Callable[[], T]) -> T:
        """Return what `function` does in a thread of its own that is inside. Raises what it does.

        Start no process there: it would be inside too.
        """
        self._ready()
        results: list[T] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                k.setns(self._netns, k.CLONE_NEWNET)
                results.append(function())
            except BaseException as error:  # noqa: BLE001 (raised again for the caller)
                failures.append(error)

        thread = threading.Thread(target=work, name="inside", daemon=True)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    # -- from outside ------------------------------------------------------------------------------

    def publish(
        self,
        attachment: Attachment,
        port: int,
        *,
        host: str = "127.0.0.1",
        host_port: int = 0,
    ) -> int:
        """Let a port of the host lead to a container's, until either ends; return the host's port.

        0 takes any free one. Raises HostError where it cannot be had.
        """
        self._ready()
        try:
            listener = publish.listen(host, host_port)
        except OSError as error:
            raise HostError(
                f"port {host_port} of {host} cannot be published: {error.strerror or error}",
                hint=_publish_hint(error, host_port),
            ) from error
        forwarder = publish.Forwarder(self._loop, listener, self._dial, (attachment.address, port))
        with self._lock:
            if self._attached.get(attachment.number) is not attachment:
                listener.close()
                raise HostError(f"{attachment.name} is not attached any more")
            self._forwarders.setdefault(attachment.number, []).append(forwarder)
        chosen = int(listener.getsockname()[1])
        forwarder.start()
        return chosen

    def _dial(self) -> socket.socket:
        try:
            return self.new_socket()
        except HostError as error:
            raise OSError(str(error)) from error


def _not_lost(fds: list[int], count: int = 1) -> list[int]:
    """The kernel drops what a process with too many open files is sent, without an error."""
    if len(fds) >= count:
        return fds
    for fd in fds:
        os.close(fd)
    raise HostError("this process has too many open files", hint="raise `ulimit -n`")


def _publish_hint(error: OSError, port: int) -> str:
    if isinstance(error, PermissionError):
        return "ports below 1024 are root's; publish on a higher one"
    return "choose another port, or 0 for any free one" if port else "choose another address"


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if len(name) > 253 or not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r} cannot be a name in a network",
                hint="letters, digits, - and _, at most 63 between dots",
            )


def _addresses(hello: dict[str, Any], number: int) -> tuple[str, str]:
    """Return the addresses of the container with this number; the router has the first."""
    subnet = ipaddress.IPv4Network(hello["subnet"])
    address = str(subnet[number + 2])
    if not hello["subnet6"]:
        return address, ""
    return address, str(ipaddress.IPv6Network(hello["subnet6"])[number + 2])


def _all_addresses(attachment: Attachment) -> tuple[str, ...]:
    return tuple(one for one in (attachment.address, attachment.address6) if one)


def _random_subnet6() -> str:
    """Return a unique local network, RFC 4193."""
    return str(ipaddress.IPv6Network((0xFD << 120 | secrets.randbits(56) << 64, 64)))
