"""Knows how a network namespace gets a way out; must not know what runs in it.

A process of its own beside the builder, because importing pyroute2 takes longer than many steps:
it does so while the first layers are being made. It owns everything it makes: the filter table
goes with its socket, the interfaces go with the namespaces, pasta and slirp4netns with their pipe.
What can outlive it (forwarding switched on, a table of an old kernel) is told in a record
(network_records.py).

As root each namespace has a veth pair to the host, a network of four addresses, and masquerading;
the host itself, link-local addresses (metadata services) and other namespaces are dropped. As an
ordinary user pasta or slirp4netns does the same from outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from buildgraph import kernel as k
from buildgraph.sandbox import network_agent
from buildgraph.sandbox import nftables as nft
from buildgraph.sandbox.network_agent import METADATA
from buildgraph.sandbox.network_records import (
    PREFIX,
    RECORDS,
    Record,
    TooManyRecords,
    locked,
    open_record,
    sweep,
    undo,
)
from buildgraph.sandbox.wire import receive, send

_HELPER_PATH: Final = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin"
_PLACES: Final = 64  # networks of four addresses in a /24
_PRIVATE: Final = (  # where private networks may be; the first that leads nowhere from here
    *(f"10.{second}.0.0/16" for second in range(104, 128)),
    *(f"172.{second}.0.0/16" for second in range(16, 32)),
    "192.168.0.0/16",
    *(f"100.{second}.0.0/16" for second in range(64, 128)),
)


class NoWayOut(Exception):
    """There is no way to give a namespace a network here; args are message and hint."""


class RootNetwork:
    """veth pairs and masquerading, for a process with NET_ADMIN over the host's network."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute

        self.ip = IPRoute()
        self.places = list(range(_PLACES - 1, -1, -1))
        RECORDS.mkdir(mode=0o700, exist_ok=True)
        with locked(RECORDS / "lock"):
            records = sweep()
            self.record = _record()
            self.egress, self.mtu = self._egress()
            taken = [record.network for record in records]
            self.network = self._free_network(taken)
            self.record.network = f"{self.network}.0/24"
            self.record.save()
            self._forward()
        self.own = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.table = nft.Table(self.record.name)
        self._filter()

    @property
    def _ours(self) -> str:
        return f"{self.record.name}-*"

    def _egress(self) -> tuple[list[str], int]:
        """Return the interfaces of the default routes and the smallest of their MTUs."""
        indexes = {
            route.get_attr("RTA_OIF") for route in self.ip.get_default_routes(family=socket.AF_INET)
        } - {None}
        if not indexes:
            raise NoWayOut("this machine has no default route", "steps can use --network=none")
        names, sizes = [], []
        for link in self.ip.get_links(*sorted(indexes)):
            names.append(link.get_attr("IFLA_IFNAME"))
            sizes.append(link.get_attr("IFLA_MTU"))
        return names, min(sizes)

    def _free_network(self, taken: list[str]) -> str:
        """Return the first three numbers of a /24 that no route here leads into."""
        import ipaddress

        used = [ipaddress.ip_network(text) for text in taken if text] + _routed(self.ip)
        for second in (97, 98, 99, 101, 102, 103):
            for third in range(256):
                network = ipaddress.ip_network(f"10.{second}.{third}.0/24")
                if not any(network.overlaps(one) for one in used):
                    return f"10.{second}.{third}"
        raise NoWayOut("no free network in 10.97.0.0 to 10.103.255.255", "remove unused routes")

    def _forward(self) -> None:
        """Let packets pass between the way out and us; switched on nowhere else."""
        for name in self.egress:
            file = Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding")
            value = file.read_text().strip()
            if value != "1":
                self.record.forwarding[name] = value
                self.record.save()
                file.write_text("1")

    def _filter(self) -> None:
        ours, network = self._ours, self.record.network
        from_us, to_us = nft.from_interface(ours), nft.to_interface(ours)
        drop, accept = nft.verdict(nft.DROP), nft.verdict(nft.ACCEPT)
        forward = [
            to_us + nft.answers() + accept,
            to_us + drop,
            from_us + nft.to_interface(f"{PREFIX}*") + drop,
            from_us + nft.ipv4(equal=False) + drop,
            from_us + nft.ipv4() + nft.source(network, equal=False) + drop,
            from_us + nft.ipv4() + nft.destination(METADATA) + drop,
            from_us + accept,
        ]
        # Where we switched forwarding on, the machine must not become a router for others.
        forward += [
            nft.from_interface(name) + nft.to_interface(f"{PREFIX}*", equal=False) + drop
            for name in self.record.forwarding
        ]
        local = _local_addresses(self.ip)
        dns = [
            from_us + nft.ipv4() + nft.destination(server) + nft.port(protocol, 53) + accept
            for server in nameservers()
            if server in local
            for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
        ]
        masquerade = nft.ipv4() + nft.source(network) + nft.to_interface(ours, equal=False)
        self.table.create(
            (
                nft.Chain("forward", "filter", nft.HOOK_FORWARD, -10, tuple(forward)),
                nft.Chain("input", "filter", nft.HOOK_INPUT, -10, (*dns, from_us + drop)),
                nft.Chain(
                    "way-out", "nat", nft.HOOK_POSTROUTING, 90, (masquerade + nft.masquerade(),)
                ),
            )
        )

    def attach(self, netns: int, _userns: int) -> int:
        """Give the namespace an interface `eth0`, an address and a route; return its place.

        Raises OSError.
        """
        if not self.places:
            raise NoWayOut("more than 64 namespaces in one build", "lower --jobs")
        place = self.places.pop()
        name = f"{self.record.name}-{place}"
        first = place * 4
        host, inside = f"{self.network}.{first + 1}", f"{self.network}.{first + 2}"
        peer = {"ifname": "eth0", "net_ns_fd": netns, "mtu": self.mtu}
        self.ip.link("add", ifname=name, kind="veth", mtu=self.mtu, peer=peer)
        index = self.ip.link_lookup(ifname=name)[0]
        Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1")
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        self.ip.addr("add", index=index, address=host, prefixlen=30)
        self.ip.link("set", index=index, state="up")
        k.setns(netns, k.CLONE_NEWNET)
        try:
            self._attach_inside(host, inside)
        finally:
            k.setns(self.own, k.CLONE_NEWNET)
        return place

    def release(self, place: int) -> None:
        """Take the interface away and let the place serve another namespace."""
        for index in self.ip.link_lookup(ifname=f"{self.record.name}-{place}"):
            self.ip.link("del", index=index)
        self.places.append(place)

    def _attach_inside(self, host: str, inside: str) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            index = ip.link_lookup(ifname="eth0")[0]
            ip.addr("add", index=index, address=inside, prefixlen=30)
            ip.link("set", index=index, state="up")
            ip.route("add", dst="default", gateway=host)

    def close(self) -> None:
        """Undo everything that the kernel does not undo by itself."""
        with contextlib.suppress(OSError):
            self.table.delete()
        self.table.close()
        self.ip.close()
        with locked(RECORDS / "lock"):
            undo(self.record, sweep())


def _record() -> Record:
    try:
        return open_record()
    except TooManyRecords:
        raise NoWayOut(
            "too many records in /run/buildgraph", "remove those of dead builds"
        ) from None


def try_root_network() -> str:
    """Make what `RootNetwork` needs in a namespace of its own and say so. Raises OSError.

    The caller's process stays in that namespace.
    """
    from pyroute2 import IPRoute

    k.unshare(k.CLONE_NEWNET)
    table = nft.Table(f"{PREFIX}probe")
    rule = nft.ipv4() + nft.masquerade()
    table.create((nft.Chain("out", "nat", nft.HOOK_POSTROUTING, 100, (rule,)),))
    with IPRoute() as ip:
        ip.link("add", ifname=f"{PREFIX}probe", kind="veth", peer={"ifname": f"{PREFIX}peer"})
    return "veth and masquerading"


def _routed(ip: Any) -> list[Any]:
    """Return the networks that routes of this host lead into, but for the default ones."""
    import ipaddress

    pairs = (
        (route.get_attr("RTA_DST"), route["dst_len"])
        for route in ip.get_routes(family=socket.AF_INET)
    )
    return [
        ipaddress.ip_network(f"{target}/{bits}", strict=False) for target, bits in pairs if bits
    ]


def private_subnet() -> str:
    """Return a network for a private one: with a way out, nothing outside may be hidden by it."""
    import ipaddress

    from pyroute2 import IPRoute

    with IPRoute() as ip:
        used = _routed(ip)
    for text in _PRIVATE:
        if not any(ipaddress.ip_network(text).overlaps(one) for one in used):
            return text
    raise NoWayOut("routes lead into every private range of addresses", "remove unused routes")


def _local_addresses(ip: Any) -> set[str]:
    return {address.get_attr("IFA_ADDRESS") for address in ip.get_addr(family=socket.AF_INET)}


def nameservers(path: str = "/etc/resolv.conf") -> list[str]:
    """Return the addresses in a resolv.conf(5)."""
    with contextlib.suppress(OSError):
        lines = Path(path).read_text(errors="replace").splitlines()
        return [line.split()[1] for line in lines if line.split()[:1] == ["nameserver"]]
    return []


# -- an ordinary user ------------------------------------------------------------------------------


class UserNetwork:
    """pasta or slirp4netns, one process a namespace."""

    def __init__(self, program: str | None) -> None:
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.count = 0
        self.program = program or find_user_program() or ""
        if not self.program:
            raise NoWayOut(
                "an ordinary user has no way to give a step a network here",
                "install passt (pasta) or slirp4netns, or use --network=none or host",
            )

    def attach(self, netns: int, userns: int) -> int:
        """Start the program for one namespace, wait until its interface is there; return its place.

        `userns` owns the namespace; -1 = this process's own does.
        """
        # Through fds of its own: it gives up the rights to look into ours before it opens them.
        paths = f"/proc/self/fd/{netns}", f"/proc/self/fd/{userns}"
        if os.path.basename(self.program) == "pasta":
            args = [self.program, "--foreground", "--quiet", "--config-net", "-4"]
            args += ["--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"]
            args += ["--userns", paths[1]] if userns >= 0 else ["--netns-only"]
            args += ["--netns", paths[0]]
        else:
            args = [self.program, "--configure", "--mtu=65520", "--disable-host-loopback"]
            args += [f"--userns-path={paths[1]}"] if userns >= 0 else []
            args += ["--netns-type=path", paths[0], "tap0"]
        child = subprocess.Popen(
            args,
            pass_fds=(netns, userns) if userns >= 0 else (netns,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": _HELPER_PATH},
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (this process has one thread)
        )
        self.count += 1
        self.children[self.count] = child
        self._wait_and_close_off(child, netns, userns)
        return self.count

    def release(self, place: int) -> None:
        """End the program of one namespace."""
        child = self.children.pop(place)
        child.kill()
        child.communicate()

    def _wait_and_close_off(self, child: subprocess.Popen[bytes], netns: int, userns: int) -> None:
        """Wait for the default route and add routes that lead nowhere: metadata, the host."""
        closed = [METADATA, *sorted(_host_addresses() - set(nameservers()))]
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                if userns >= 0:
                    k.setns(userns, k.CLONE_NEWUSER)
                k.setns(netns, k.CLONE_NEWNET)
                _close_off(closed)
                os.write(writer, b"+")
            os._exit(0)
        os.close(writer)
        done = os.read(reader, 1)
        os.close(reader)
        os.waitpid(pid, 0)
        if done != b"+":
            child.kill()
            said = (child.communicate()[1] or b"").decode(errors="replace").strip()
            raise NoWayOut(
                f"{os.path.basename(self.program)} gave no network: {said or 'no answer'}",
                "`buildgraph doctor` says what is missing; /dev/net/tun must be usable",
            )

    def close(self) -> None:
        """End the programs."""
        for child in self.children.values():
            child.kill()
        for child in self.children.values():
            child.wait()


def _die_with_parent() -> None:
    k.prctl(k.PR_SET_PDEATHSIG, signal.SIGKILL)


def _host_addresses() -> set[str]:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        return _local_addresses(ip)


def _close_off(networks: list[str]) -> None:
    """Wait for the default route of the namespace we are in, then let `networks` lead nowhere."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        for _ in range(200):
            if list(ip.get_default_routes(family=socket.AF_INET)):
                # pasta gives the namespace the host's own address: then it is there already
                for network in set(networks) - _local_addresses(ip):
                    ip.route("add", dst=network, type="unreachable")
                return
            time.sleep(0.02)
    raise TimeoutError


def find_user_program() -> str | None:
    """Return the absolute path of pasta or slirp4netns on this host, or None."""
    return shutil.which("pasta", path=_HELPER_PATH) or shutil.which(
        "slirp4netns", path=_HELPER_PATH
    )


# -- the process -----------------------------------------------------------------------------------


class _Helper:
    """What the builder's side may ask, one thing after another."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.network: RootNetwork | UserNetwork | None = None
        self.agents: set[int] = set()

    def reap(self, *_: object) -> None:
        """Take note of router processes that ended."""
        for pid in list(self.agents):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self.agents.discard(pid)

    def answer(self, message: tuple[Any, ...], fds: list[int]) -> dict[str, Any]:
        """Do it. Raises NoWayOut or anything."""
        match message:
            case ("attach",):
                if self.network is None:
                    root, program = self.config["root"], self.config["program"]
                    self.network = RootNetwork() if root else UserNetwork(program)
                return {"place": self.network.attach(fds[0], fds[1] if len(fds) > 1 else -1)}
            case ("release", place):
                if self.network is not None:
                    self.network.release(place)
                return {}
            case _:
                raise ValueError(f"unknown request {message!r}")

    def start_router(self, fd: int, subnet6: str) -> None:
        """Fork a router process; what goes wrong is told on its own socket. Never raises."""
        try:
            subnet = private_subnet()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            try:
                self.agents.add(network_agent.start(fd, subnet, subnet6))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        except Exception as error:  # noqa: BLE001 (told to the user by the host's side)
            with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
                send(sock, {"error": str(error.args[0] if error.args else error)})

    def close(self) -> None:
        """End with everything that was made; the routers end with their sockets."""
        if self.network is not None:
            self.network.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pid in self.agents:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def main(fd: int) -> NoReturn:
    """Serve the host at the other end of the socket `fd` until it is gone."""
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    os.setsid()
    config, _ = receive(sock)
    if config is None:
        sys.exit(0)
    helper = _Helper(config)
    signal.signal(signal.SIGCHLD, helper.reap)
    try:
        import pyroute2  # noqa: F401 (now, while nobody waits)

        while True:
            message, fds = receive(sock)
            if message is None:
                break
            try:
                if message[0] == "router":
                    helper.start_router(fds[0], message[1])
                else:
                    send(sock, helper.answer(message, fds))
            except NoWayOut as error:
                send(sock, {"error": error.args[0], "hint": error.args[1]})
            except Exception as error:  # noqa: BLE001 (told to the user by the host's side)
                send(sock, {"error": f"{type(error).__name__}: {error}", "hint": None})
            finally:
                for one in fds:
                    os.close(one)
    finally:
        helper.close()
    sys.exit(0)
