"""What a step reaches through the default network, and what it must not."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

METADATA = "169.254.169.254"


def host_address() -> str:
    """The address this machine uses towards the outside; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.200", 9))
        except OSError:
            pytest.skip("machine: no default route")
        return str(sock.getsockname()[0])


@pytest.fixture
def listener() -> Iterator[int]:
    """A service on every address of the host; its port."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        stop = threading.Event()
        server.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    peer, _ = server.accept()
                    peer.sendall(b"HOST SERVICE\n")
                    peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


@pytest.fixture
def tun(box: Any, request: pytest.FixtureRequest) -> None:
    """What an ordinary user's network needs of the machine."""
    if box.user:
        request.getfixturevalue("users_have_networks")


def test_a_way_out(box: Any, tun: None) -> None:
    result = box.run("ip -4 -o addr; ip route; cat /etc/resolv.conf", network="default")
    assert result.code == 0, result.answer
    assert "default via" in result.out
    assert " lo " in result.out
    nameservers = [
        line
        for line in Path("/etc/resolv.conf").read_text().splitlines()
        if line.startswith("nameserver") and "127." not in line
    ]
    assert all(line in result.out for line in nameservers)


def test_names_are_resolved(box: Any, tun: None) -> None:
    """The host's resolver answers, be it that there is no such name."""
    servers = [
        line.split()[1]
        for line in Path("/etc/resolv.conf").read_text().splitlines()
        if line.startswith("nameserver")
    ]
    if not servers:
        pytest.skip("machine: no resolver")
    with contextlib.suppress(OSError):
        socket.getaddrinfo("localhost.localdomain.invalid", 80)
    answered = box.run(f"nc -w 3 {servers[0]} 53 < /dev/null; echo $?", network="default")
    assert answered.out.strip().endswith("0"), answered.out


def test_metadata_and_host_are_dropped(box: Any, tun: None, listener: int) -> None:
    address = host_address()
    script = "; ".join(
        f"nc -w 1 {target} {port} < /dev/null"
        for target, port in (
            (METADATA, 80),
            (address, listener),
            ("127.0.0.1", listener),
            ("$(ip route | cut -d' ' -f3 | head -1)", listener),
        )
    )
    result = box.run(f"{script}; true", network="default")
    assert result.code == 0
    assert "HOST SERVICE" not in result.out


def test_metadata_has_no_route_or_is_dropped(box: Any, tun: None) -> None:
    assert box.run(f"ping -c1 -W1 {METADATA}", network="default").code != 0


def test_host_network_only_when_asked(box: Any, listener: int) -> None:
    command = f"nc -w 2 127.0.0.1 {listener} < /dev/null"
    assert "HOST SERVICE" in box.run(command, network="host").out
    assert "HOST SERVICE" not in box.run(command, network="none").out


def test_the_network_cannot_be_changed_from_inside(box: Any, tun: None) -> None:
    for command in (
        "ip link set lo down",
        "ip route add 169.254.0.0/16 dev eth0",
        "ip addr add 10.9.9.9/24 dev eth0",
    ):
        assert box.run(command, network="default").code != 0


def test_low_ports_and_raw_sockets_are_the_containers_own(box: Any, tun: None) -> None:
    result = box.run(
        "ping -c1 127.0.0.1 && (nc -l -p 80 & sleep 0.2; echo hi | nc 127.0.0.1 80)",
        network="default",
    )
    assert result.code == 0, result.out


def test_steps_do_not_reach_each_other(rootbox: Any) -> None:
    """Two steps at once have two networks; neither gets an answer from the other."""
    script = (
        "me=$(ip -4 -o addr show eth0 | tr -s ' ' | cut -d' ' -f4 | cut -d/ -f1); "
        "while true; do echo PEER | nc -l -p 7777 >/dev/null; done & "
        "sleep 0.5; net=${me%.*}; for n in 2 6 10 14; do "
        "test $net.$n = $me || { nc -w 1 $net.$n 7777 < /dev/null; ping -c1 -W1 $net.$n >/dev/null"
        " && echo PEER; }; done; echo $me; true"
    )
    first, second = rootbox.run_many([script, script], network="default")
    assert "PEER" not in first.out + second.out
    assert first.out.split()[-1] != second.out.split()[-1]


def test_a_namespace_serves_one_step_after_another(box: Any, tun: None) -> None:
    outs = {
        box.run("ip -o link; readlink /proc/self/ns/net", network="default").out for _ in range(3)
    }
    assert len(outs) == 1


def test_slirp4netns_where_there_is_no_pasta(
    userbox: Any, open_tmp: Path, listener: int, users_have_networks: None
) -> None:
    if not shutil.which("slirp4netns"):
        pytest.skip("machine: slirp4netns is not installed")
    one = type(userbox)(open_tmp, userbox.user)
    one.start("slirp4netns")
    reach = f"for a in {host_address()} 10.0.2.2; do nc -w 1 $a {listener} </dev/null; done"
    result = one.run(f"ip route; {reach}", network="default")
    one.stop()
    assert "HOST SERVICE" not in result.out
    assert "default via 10.0.2.2 dev tap0" in result.out, result.answer
