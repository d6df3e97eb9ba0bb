"""Knows how the router of a private network is built; must not know who is attached, or why.

A fork of the network helper, one a private network. It lives in a network namespace of its own
making, owned by the builder's user namespace, so that no container has any right over it: a bridge,
one end of a veth pair a container, and, where there is a way out, masquerading. The namespace has
no name and the host no link of it; all ends with the processes that hold it. Messages are made by
pyroute2 and sent many at a time, which costs a third of its own calls.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import signal
import socket
import struct
from pathlib import Path
from typing import Any, Final, NoReturn

from buildgraph import kernel as k
from buildgraph.sandbox import nftables as nft
from buildgraph.sandbox.wire import receive, send

BRIDGE: Final = "bridge0"
METADATA: Final = "169.254.0.0/16"
MAX_PORTS: Final = 1000  # of a bridge; the kernel's own limit is 1023
_BRIDGE_INDEX: Final = 10
_FIRST_PORT: Final = 100  # interface index of the first container's end here
_INSIDE_INDEX: Final = 64  # and of its own end
_MTU: Final = 1500

# linux/netlink.h, linux/rtnetlink.h
_NEWLINK: Final = 16
_DELLINK: Final = 17
_NEWADDR: Final = 20
_NEWROUTE: Final = 24
_NEWNEIGH: Final = 28
_REQUEST: Final = 1 | 4  # and be answered
_CREATE: Final = _REQUEST | 0x400 | 0x200
_ERROR: Final = 2
_UP: Final = 1
_NODAD: Final = 0x02
_STATIC: Final = 0x40  # NUD_NOARP: permanent would mean the bridge itself
_MASTER_TABLE: Final = 0x04
_SIOCGIFMTU: Final = 0x8921

Attributes = list[tuple[str, Any]]


class Messages:
    """Requests to the kernel's routing tables, gathered and sent together."""

    def __init__(self) -> None:
        self._data: list[bytes] = []

    def link(self, kind: int, flags: int, attributes: Attributes, /, **fields: int) -> None:
        """Add a message about an interface."""
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

        self._add(ifinfmsg(), kind, flags, attributes, fields)

    def address(self, index: int, address: str, bits: int) -> None:
        """Give an interface an address."""
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
        fields = {"family": family, "prefixlen": bits, "index": index, "flags": _NODAD}
        self._add(ifaddrmsg(), _NEWADDR, _CREATE, attributes, fields)

    def default_route(self, gateway: str) -> None:
        """Let everything else go by `gateway`."""
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

        fields = {"family": socket.AF_INET, "table": 254, "type": 1, "proto": 4, "scope": 0}
        self._add(rtmsg(), _NEWROUTE, _CREATE, [("RTA_GATEWAY", gateway)], fields)

    def neighbour(self, index: int, mac: str) -> None:
        """Let frames for `mac` leave by that port of the bridge, and by no other."""
        from pyroute2.netlink.rtnl.ndmsg import ndmsg

        fields = {
            "family": socket.AF_BRIDGE,
            "ifindex": index,
            "state": _STATIC,
            "flags": _MASTER_TABLE,
        }
        self._add(ndmsg(), _NEWNEIGH, _CREATE & ~0x200, [("NDA_LLADDR", mac)], fields)

    def _add(
        self, message: Any, kind: int, flags: int, attributes: Attributes, fields: dict[str, int]
    ) -> None:
        for name, value in fields.items():
            message[name] = value
        message["attrs"] = attributes
        header = message["header"]
        header["type"], header["flags"], header["pid"] = kind, flags, 0
        header["sequence_number"] = len(self._data) + 1
        message.encode()
        self._data.append(bytes(message.data))

    def send(self, sock: socket.socket) -> None:
        """Send all and wait for every answer. Raises the first OSError; the others were tried."""
        failed = 0
        waiting = len(self._data)
        sock.send(b"".join(self._data))
        while waiting:
            data = sock.recv(1 << 16)
            while len(data) >= 20:
                length, kind = struct.unpack_from("=IH", data)
                if kind == _ERROR:
                    waiting -= 1
                    failed = failed or -struct.unpack_from("=i", data, 16)[0]
                data = data[(length + 3) & ~3 :]
        if failed:
            raise OSError(failed, os.strerror(failed))


def _netlink() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.bind((0, 0))
    sock.settimeout(10)
    return sock


class Router:
    """The namespace this process is in, and what is in it."""

    def __init__(self, subnet: str, subnet6: str):
        self.subnet = ipaddress.IPv4Network(subnet)
        self.gateway = str(self.subnet[1])
        self.subnet6 = ipaddress.IPv6Network(subnet6) if subnet6 else None
        self.mtu = _MTU
        self.outside = False
        self.table: nft.Table | None = None
        k.unshare(k.CLONE_NEWNET)
        self.netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.netlink = _netlink()
        self._build()

    def _build(self) -> None:
        # A machine that is a router itself made this namespace one too.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        wanted: Attributes = [
            ("IFLA_BR_STP_STATE", 0),
            ("IFLA_BR_FORWARD_DELAY", 0),
            ("IFLA_BR_MCAST_SNOOPING", 0),
        ]
        info = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": wanted})]
        messages = Messages()
        messages.link(
            _NEWLINK,
            _CREATE,
            [
                ("IFLA_IFNAME", BRIDGE),
                ("IFLA_ADDRESS", mac_of(self.gateway)),
                ("IFLA_LINKINFO", {"attrs": info}),
            ],
            index=_BRIDGE_INDEX,
        )
        messages.address(_BRIDGE_INDEX, self.gateway, self.subnet.prefixlen)
        if self.subnet6 is not None:
            messages.address(_BRIDGE_INDEX, str(self.subnet6[1]), self.subnet6.prefixlen)
        for index in (1, _BRIDGE_INDEX):
            messages.link(_NEWLINK, _REQUEST, [], index=index, flags=_UP, change=_UP)
        messages.send(self.netlink)

    def attach(self, number: int, netns: int, address: str, address6: str) -> None:
        """Give the namespace an interface `eth0` on the bridge. Raises OSError."""
        mac, port = mac_of(address), _FIRST_PORT + number
        peer: Attributes = [
            ("IFLA_IFNAME", "eth0"),
            ("IFLA_NET_NS_FD", netns),
            ("IFLA_ADDRESS", mac),
            ("IFLA_MTU", self.mtu),
        ]
        pair = {"attrs": [("VETH_INFO_PEER", {"index": _INSIDE_INDEX, "attrs": peer})]}
        info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", pair)]
        messages = Messages()
        messages.link(
            _NEWLINK,
            _CREATE,
            [
                ("IFLA_IFNAME", f"port{number}"),
                ("IFLA_MTU", self.mtu),
                ("IFLA_MASTER", _BRIDGE_INDEX),
                ("IFLA_LINKINFO", {"attrs": info}),
            ],
            index=port,
            flags=_UP,
            change=_UP,
        )
        # Who lives where is known: a container that uses another's hardware address gets nothing.
        settings = {"attrs": [("IFLA_BRPORT_LEARNING", 0), ("IFLA_BRPORT_UNICAST_FLOOD", 0)]}
        messages.link(
            _NEWLINK,
            _REQUEST,
            [("IFLA_PROTINFO", settings)],
            family=socket.AF_BRIDGE,
            index=port,
        )
        messages.neighbour(port, mac)
        messages.send(self.netlink)
        try:
            self._attach_inside(netns, address, address6)
        except OSError:
            self.detach(number)
            raise

    def _attach_inside(self, netns: int, address: str, address6: str) -> None:
        messages = Messages()
        messages.address(_INSIDE_INDEX, address, self.subnet.prefixlen)
        if address6 and self.subnet6 is not None:
            messages.address(_INSIDE_INDEX, address6, self.subnet6.prefixlen)
        messages.link(_NEWLINK, _REQUEST, [], index=_INSIDE_INDEX, flags=_UP, change=_UP)
        if self.outside:
            messages.default_route(self.gateway)
        k.setns(netns, k.CLONE_NEWNET)
        try:
            inside = _netlink()
        finally:
            k.setns(self.netns, k.CLONE_NEWNET)
        with inside:
            messages.send(inside)

    def detach(self, number: int) -> None:
        """Remove a container's interface, on both sides. Idempotent."""
        messages = Messages()
        messages.link(_DELLINK, _REQUEST, [], index=_FIRST_PORT + number)
        with contextlib.suppress(OSError):
            messages.send(self.netlink)

    def open_outside(self) -> None:
        """Let containers out by the interface somebody gave this namespace. Raises OSError."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _, name in socket.if_nameindex():
                if name not in (BRIDGE, "lo"):
                    raw = fcntl.ioctl(sock, _SIOCGIFMTU, struct.pack("16s16x", name.encode()))
                    self.mtu = min(self.mtu, struct.unpack_from("16si", raw)[1])
        messages = Messages()
        messages.link(_NEWLINK, _REQUEST, [("IFLA_MTU", self.mtu)], index=_BRIDGE_INDEX)
        messages.send(self.netlink)
        subnet = str(self.subnet)
        drop, accept = nft.verdict(nft.DROP), nft.verdict(nft.ACCEPT)
        ours = nft.from_interface(BRIDGE)
        forward = (
            nft.to_interface(BRIDGE) + nft.answers() + accept,
            ours + nft.to_interface(BRIDGE) + accept,
            nft.to_interface(BRIDGE) + drop,
            ours + nft.ipv4(equal=False) + drop,
            ours + nft.ipv4() + nft.source(subnet, equal=False) + drop,
            ours + nft.ipv4() + nft.destination(METADATA) + drop,
            ours + accept,
            drop,
        )
        out = nft.ipv4() + nft.source(subnet) + nft.to_interface(BRIDGE, equal=False)
        self.table = nft.Table("private")
        self.table.create(
            (
                nft.Chain("forward", "filter", nft.HOOK_FORWARD, 0, forward),
                nft.Chain("out", "nat", nft.HOOK_POSTROUTING, 100, (out + nft.masquerade(),)),
            )
        )
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self.outside = True


def try_private_network() -> str:
    """Build a private network with one member and say what it is made of. Raises OSError.

    The caller's process stays in it.
    """
    k.unshare(k.CLONE_NEWNET)
    member = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    router = Router("10.104.0.0/16", "")
    router.attach(0, member, str(router.subnet[2]), "")
    return "a bridge and veth pairs; published ports need nothing of the host"


def mac_of(address: str) -> str:
    """Return the hardware address for an IPv4 address; the network is its own, so it is unique."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def serve(sock: socket.socket, subnet: str, subnet6: str) -> NoReturn:
    """Be the router's process until the other end of the socket is gone."""
    status = 1
    try:
        router = Router(subnet, subnet6)
        hello = {"subnet": subnet, "subnet6": subnet6, "gateway": router.gateway}
        send(sock, hello, (router.netns,))
        while True:
            message, fds = receive(sock)
            if message is None:
                break
            _answer(router, sock, message, fds)
        status = 0
    except Exception as error:  # noqa: BLE001 (told to the user by the builder's side)
        with contextlib.suppress(OSError):
            send(sock, {"error": _say(error)})
    finally:
        os._exit(status)


def _answer(router: Router, sock: socket.socket, message: tuple[Any, ...], fds: list[int]) -> None:
    made: tuple[int, ...] = ()
    reply: dict[str, Any] = {}
    try:
        match message:
            case ("attach", number, address, address6):
                router.attach(number, fds[0], address, address6)
            case ("detach", number):
                router.detach(number)
            case ("socket", family, kind):
                made = (socket.socket(family, kind).detach(),)
            case ("listen", port):
                made = _listeners(router.gateway, port)
            case ("outside",):
                router.open_outside()
            case _:
                reply = {"error": f"unknown request {message!r}"}
    except Exception as error:  # noqa: BLE001 (as above)
        reply = {"error": _say(error)}
    try:
        send(sock, reply, made)
    finally:
        for fd in (*fds, *made):
            os.close(fd)


def _listeners(address: str, port: int) -> tuple[int, int]:
    """Return a UDP and a listening TCP socket at the gateway's address."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, port))
    tcp = socket.create_server((address, port), backlog=128)
    return udp.detach(), tcp.detach()


def _say(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"


def start(fd: int, subnet: str, subnet6: str) -> int:
    """Fork the process that serves the socket `fd`, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Whatever the helper holds ends with the helper, not with us.
        if fd != 3:
            os.dup2(fd, 3, inheritable=False)
        k.close_from(4)
        serve(socket.socket(fileno=3), subnet, subnet6)
    finally:
        os._exit(1)
