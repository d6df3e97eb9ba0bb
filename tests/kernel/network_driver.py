"""Plays scenes on private networks for a test, in a process of the right user.

JSON lines in, `{"scene": name, ...arguments}`; JSON lines out. A scene starts containers and tells
what they and it have seen; the test judges.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from buildgraph.errors import BuildgraphError
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.network_private import Attachment, PrivateNetwork
from buildgraph.sandbox.spec import SandboxSpec
from buildgraph.sandbox.userns import enter


def spec_of(place: Attachment, image: str, command: str, **fields: Any) -> SandboxSpec:
    return SandboxSpec(
        lowers=(image,),
        args=("/bin/sh", "-c", command),
        hosts=place.hosts_lines(),
        dns=place.dns_lines(),
        **fields,
    )


def run(host: SandboxHost, image: str, place: Attachment, command: str, **fields: Any) -> str:
    """Return what a command in a container at this place writes, and its exit code."""
    pieces: list[bytes] = []
    status = host.run(spec_of(place, image, command, **fields), pieces.append, netns=place.netns)
    return b"".join(pieces).decode(errors="replace") + f"[{status.code}]"


@contextlib.contextmanager
def serving(
    host: SandboxHost, image: str, place: Attachment, network: PrivateNetwork, text: str
) -> Iterator[None]:
    """A container that says `text` to everybody who comes to its port 80."""
    command = f"while true; do echo {text} | nc -l -p 80 >/dev/null; done"
    spec = spec_of(place, image, command)
    with host.start(spec, lambda _: None, netns=place.netns):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError), network.connect(place.address, 80, 1) as sock:
                sock.recv(100)
                break
            time.sleep(0.01)
        time.sleep(0.05)  # nc serves one and is started again
        yield


def names(host: SandboxHost, image: str) -> Any:
    with host.private_network() as network:
        client = network.attach("client")
        db = network.attach("db", ["database"])
        scaled = [network.attach(f"app-{number}", ["app"]) for number in range(3)]
        said = {}
        with serving(host, image, db, network, "I AM DB"):
            for name in ("db", "database", "DB", db.address):
                said[name] = run(
                    host,
                    image,
                    client,
                    f"for i in 1 2 3; do nc -w 2 {name} 80 </dev/null && break; sleep 0.1; done",
                )
            said["from here"] = network.connect("database", 80, 5).recv(100).decode()
        look = "busybox nslookup {} 2>&1"
        said["app"] = run(host, image, client, look.format("app"))
        said["nobody"] = run(host, image, client, look.format("nobody"))
        said["outside"] = run(host, image, client, look.format("www.example.com"))
        said["reverse"] = run(host, image, client, look.format(db.address))
        said["files"] = run(host, image, client, "cat /etc/resolv.conf /etc/hosts")
        network.detach(db)
        said["gone"] = run(host, image, client, look.format("db"))
        return said | {"scaled": [one.address for one in scaled], "client": client.address}


def isolation(
    host: SandboxHost, image: str, targets: list[str], port: int, outside: bool, server: str
) -> Any:
    """What a container reaches of the host and of another network."""
    with (
        host.private_network(outside=outside) as network,
        host.private_network(outside=outside) as other,
    ):
        place = network.attach("one")
        fill = [other.attach(f"fill{number}") for number in range(3)]
        stranger = other.attach("stranger")
        aims = [*targets, network.resolver_address, "127.0.0.1"]
        reach = " ".join(f"nc -w 1 {aim} {port} </dev/null &" for aim in aims)
        with serving(host, image, stranger, other, "I AM A STRANGER"):
            return {
                "reached": run(host, image, place, f"{reach} wait"),
                "stranger": run(
                    host,
                    image,
                    place,
                    f"nc -w 1 {stranger.address} 80 </dev/null; nc -w 1 stranger 80 </dev/null",
                ),
                "metadata": run(host, image, place, "ping -c1 -W1 169.254.169.254 >/dev/null"),
                "routes": run(host, image, place, "ip route; ip -o link"),
                "server": run(host, image, place, f"nc -w 3 {server} 53 </dev/null"),
                "loopback": run(host, image, place, "ping -c1 ::1 >/dev/null"),
                "same": stranger.address != place.address and fill[0].address == place.address,
            }


def rights(host: SandboxHost, image: str) -> Any:
    with host.private_network() as network:
        place, peer = network.attach("one"), network.attach("two")
        said = {}
        for command in (
            "ip link set eth0 down",
            "ip addr add 10.9.9.9/24 dev eth0",
            "ip route add default via 10.104.0.1",
            "ip link set eth0 address 02:42:0a:68:00:03",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ):
            said[command] = run(host, image, place, command + " 2>&1")
        return {
            "refused": said,
            "ping": run(host, image, place, "ping -c1 -W2 two >/dev/null"),
            "low port": run(host, image, place, "nc -l -p 80 -w 1 </dev/null; true"),
            "owner": run(host, image, peer, "ip -o -4 addr show eth0"),
        }


def sockets(host: SandboxHost, image: str) -> Any:
    """Ways in for the program itself."""
    said: dict[str, Any] = {}
    with host.private_network() as network:
        place = network.attach("web")
        before = os.readlink("/proc/thread-self/ns/net")
        said["inside"] = network.run_inside(lambda: os.readlink("/proc/thread-self/ns/net"))
        said["differs"] = said.pop("inside") != before
        try:
            with network.inside():
                said["context"] = os.readlink("/proc/thread-self/ns/net") != before
        except BuildgraphError as error:
            said["context"] = error.hint
        said["back"] = os.readlink("/proc/thread-self/ns/net") == before
        said["nobody"] = _failure(lambda: network.connect("nobody", 80, 10))
        said["closed port"] = _failure(lambda: network.connect("web", 81, 10))
        said["name"] = _failure(lambda: network.attach("not a name"))
        port = network.publish(place, 80)
        said["not listening"] = _failure(lambda: _talk(port))
        with serving(host, image, place, network, "PUBLISHED"):
            said["published"] = _patiently(lambda: _talk(port))
            said["taken"] = _failure(lambda: network.publish(place, 80, host_port=port))
        network.detach(place)
        time.sleep(0.1)
        said["detached"] = _failure(lambda: _talk(port))
    said["after"] = _failure(lambda: network.attach("late"))
    return said


def _talk(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        said = sock.recv(100)
    if not said:
        raise ConnectionResetError("nothing said")
    return said.decode()


def _patiently(function: Callable[[], str]) -> str:
    """One nc serves one client; the next is a moment away."""
    for _ in range(20):
        with contextlib.suppress(ConnectionError):
            return function()
        time.sleep(0.05)
    return function()


def _failure(function: Callable[[], Any]) -> str:
    try:
        function()
    except BuildgraphError as error:
        return f"{error} ({error.hint})"
    except OSError as error:
        return type(error).__name__
    return ""


def parallel(host: SandboxHost, image: str, count: int) -> Any:
    """Many networks at once, each with the same names and addresses."""

    def one(number: int) -> list[str]:
        with host.private_network() as network:
            client, server = network.attach("client"), network.attach("server")
            with serving(host, image, server, network, f"NUMBER {number}"):
                said = _patiently(lambda: network.connect("server", 80, 5).recv(100).decode())
            return [said.strip(), client.address]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def many(host: SandboxHost, image: str, count: int) -> Any:
    """Attach `count`, have a few of them talk, and let go of everything."""
    host.private_network().close()  # whatever the first one starts for all
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    started = time.monotonic()
    with host.private_network() as network:
        places = [network.attach(f"c{number}") for number in range(count)]
        seconds = time.monotonic() - started
        with serving(host, image, places[-1], network, "LAST"):
            said = run(host, image, places[0], f"nc -w 3 c{count - 1} 80 </dev/null")
        namespaces = _namespaces(network, places)
    return {
        "said": said,
        "seconds": seconds,
        "fds": len(os.listdir("/proc/self/fd")) - fds,
        "threads": threading.active_count() - threads,
        "namespaces": namespaces,
        "children": _children(),
    }


def hold(host: SandboxHost, image: str, count: int, outside: bool = False) -> Any:
    """Attach, start and publish; the test kills this process half way."""
    network = host.private_network(outside=outside)
    places = [network.attach(f"c{number}") for number in range(count)]
    for place in places[:5]:
        host.start(spec_of(place, image, "sleep 1000"), lambda _: None, netns=place.netns)
    port = network.publish(places[0], 80)
    held = {"namespaces": _namespaces(network, places), "port": port, "tree": _tree(os.getpid())}

    def go_on() -> None:
        while True:
            network.detach(network.attach("more"))

    threading.Thread(target=go_on, daemon=True).start()
    return held


def _namespaces(network: PrivateNetwork, places: list[Attachment]) -> list[int]:
    fds = [place.netns for place in places]
    inside = network.run_inside(lambda: os.stat("/proc/thread-self/ns/net").st_ino)
    return [inside, *(os.stat(fd).st_ino for fd in fds)]


def _children() -> int:
    return sum(
        len((task / "children").read_text().split()) for task in Path("/proc/self/task").iterdir()
    )


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += _tree(int(child))
    return found


def wide(host: SandboxHost, image: str) -> Any:
    """IPv6 between containers."""
    with host.private_network(ipv6=True) as network:
        client, server = network.attach("client"), network.attach("server")
        return {
            "address": server.address6,
            "lookup": network.lookup("server"),
            "ping": run(host, image, client, f"ping -c1 -W2 {server.address6} >/dev/null"),
            "name": run(host, image, client, "busybox nslookup -type=aaaa server 2>&1"),
        }


SCENES: dict[str, Callable[..., Any]] = {
    scene.__name__: scene
    for scene in (names, isolation, rights, sockets, parallel, many, hold, wide)
}


def say(message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    entered = enter()
    with SandboxHost(sys.argv[1]) as host:
        host.prepare(network=True)
        say({"mode": entered.mode, "pid": os.getpid()})
        for line in sys.stdin:
            request = json.loads(line)
            try:
                say({"said": SCENES[request.pop("scene")](host, **request)})
            except (BuildgraphError, OSError) as error:
                say({"error": str(error), "hint": getattr(error, "hint", None)})


if __name__ == "__main__":
    main()
