"""Private networks seen from inside their containers, as root and as an ordinary user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildgraph.sandbox.network_records import sweep_leftovers

COUNT = 100


class Stage:
    """A process that plays the scenes of network_driver.py."""

    def __init__(self, driver: Any):
        self.driver = driver
        self.user = bool(driver.user)

    def ask(self, scene: str, **arguments: Any) -> Any:
        request = {"scene": scene, "image": self.driver.image, **arguments}
        self.driver.process.stdin.write(json.dumps(request) + "\n")
        self.driver.process.stdin.flush()
        answer = json.loads(self.driver.process.stdout.readline())
        assert "said" in answer, answer
        return answer["said"]


def new_stage(directory: Path, driver: Any) -> Stage:
    """A stage of its own beside that driver, of the same user."""
    directory.chmod(0o755)
    kind = type("NetworkDriver", (type(driver),), {"program": "network_driver.py"})
    return Stage(kind(directory, driver.user).start())


@pytest.fixture(scope="module")
def stage(box: Any) -> Iterator[Stage]:
    directory = Path(tempfile.mkdtemp(prefix="bg-kernel-"))
    made = new_stage(directory, box)
    yield made
    made.driver.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def listener() -> Iterator[int]:
    """A service on every address of the host; its port."""
    with socket.create_server(("0.0.0.0", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer, contextlib.suppress(OSError):
                        peer.sendall(b"HOST SERVICE\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def tun(stage: Stage, request: pytest.FixtureRequest) -> None:
    """What an ordinary user's network needs of the machine."""
    if stage.user:
        request.getfixturevalue("users_have_networks")


def host_address() -> str:
    """The address this machine uses towards the outside; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.200", 9))
        except OSError:
            pytest.skip("machine: no default route")
        return str(sock.getsockname()[0])


def nameserver() -> str:
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and not words[1].startswith("127."):
            return words[1]
    return "127.0.0.1"


def test_containers_find_each_other_by_name(stage: Stage) -> None:
    said = stage.ask("names")
    for name in ("db", "database", "DB"):
        assert said[name] == "I AM DB\n[0]", (name, said)
    assert said["from here"] == "I AM DB\n"
    assert all(address in said["app"] for address in said["scaled"])
    assert "NXDOMAIN" in said["nobody"]
    assert "REFUSED" in said["outside"]
    assert "name = db" in said["reverse"]
    assert "NXDOMAIN" in said["gone"]
    assert "options ndots:0" in said["files"]
    assert f"{said['client']}\tclient" in said["files"]


def test_nothing_but_each_other_is_reached(stage: Stage, listener: int) -> None:
    said = stage.ask(
        "isolation",
        targets=[host_address(), "169.254.169.254"],
        port=listener,
        outside=False,
        server=nameserver(),
    )
    assert said["reached"] == "[0]" or "HOST" not in said["reached"]
    assert "STRANGER" not in said["stranger"]
    assert said["metadata"].endswith("[1]")
    assert "default" not in said["routes"]
    assert not said["server"].endswith("[0]")
    assert said["loopback"] == "[0]"
    assert said["same"], "networks have the same addresses and do not meet"


def test_with_a_way_out_the_host_and_other_networks_stay_closed(
    stage: Stage, tun: None, listener: int
) -> None:
    said = stage.ask(
        "isolation",
        targets=[host_address(), "169.254.169.254"],
        port=listener,
        outside=True,
        server=nameserver(),
    )
    assert "HOST SERVICE" not in said["reached"]
    assert "STRANGER" not in said["stranger"]
    assert said["metadata"].endswith("[1]")
    assert "default via" in said["routes"]
    if not nameserver().startswith("127."):
        assert said["server"].endswith("[0]"), said


def test_a_container_cannot_change_its_network(stage: Stage) -> None:
    said = stage.ask("rights")
    for command, answer in said["refused"].items():
        assert not answer.endswith("[0]"), (command, answer)
    assert said["ping"] == "[0]"
    assert "10." in said["owner"] or "172." in said["owner"] or "192." in said["owner"]


def test_ways_in(stage: Stage) -> None:
    said = stage.ask("sockets")
    assert said["differs"]
    assert said["back"]
    assert said["context"] == ("use run_inside" if stage.user else True)
    assert said["nobody"] == "gaierror"
    assert said["closed port"] == "ConnectionRefusedError"
    assert "cannot be a name" in said["name"]
    assert said["not listening"] == "ConnectionResetError"
    assert said["published"] == "PUBLISHED\n"
    assert "cannot be published: Address already in use" in said["taken"]
    assert said["detached"] == "ConnectionRefusedError"
    assert "closed" in said["after"]


def test_many_networks_at_once_have_nothing_in_common(stage: Stage) -> None:
    said = stage.ask("parallel", count=6)
    assert [one[0] for one in said] == [f"NUMBER {number}" for number in range(6)]
    assert len({one[1] for one in said}) == 1


def test_addresses_of_version_6(stage: Stage) -> None:
    said = stage.ask("wide")
    assert said["address"].startswith("fd")
    assert said["ping"] == "[0]"
    assert said["address"] in said["name"]
    assert len(said["lookup"]) == 2


def test_a_hundred_containers_leave_nothing(stage: Stage) -> None:
    links = set(os.listdir("/sys/class/net"))
    said = stage.ask("many", count=COUNT)
    assert said["said"] == "LAST\n[0]"
    assert said["fds"] == 0
    assert said["threads"] == 0
    assert said["children"] <= 2, "the sandbox's and the network's helper"
    assert not still_held(said["namespaces"])
    assert not {name for name in set(os.listdir("/sys/class/net")) - links if "port" in name}


def still_held(namespaces: list[int]) -> list[str]:
    """Return which of these namespaces a process is in, a while after their end."""
    end = time.monotonic() + 5
    while True:
        held = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns/net").stat().st_ino in namespaces:
                    held.append(process.name)
        if not held or time.monotonic() > end:
            return held
        time.sleep(0.05)


def test_killed_half_way_nothing_is_left(box: Any, open_tmp: Path) -> None:
    place = open_tmp / "stage"
    place.mkdir()
    stage = new_stage(place, box)
    held = stage.ask("hold", count=COUNT)
    assert len(held["tree"]) >= 10
    socket.create_connection(("127.0.0.1", held["port"]), 5).close()
    os.kill(stage.driver.hello["pid"], signal.SIGKILL)
    end = time.monotonic() + 10
    while time.monotonic() < end and any(map(is_alive, held["tree"])):
        time.sleep(0.05)
    assert not [pid for pid in held["tree"] if is_alive(pid)]
    assert not still_held(held["namespaces"])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", held["port"]), 5)


def test_the_next_start_sweeps_what_a_killed_helper_left(rootbox: Any, open_tmp: Path) -> None:
    place = open_tmp / "stage"
    place.mkdir()
    stage = new_stage(place, rootbox)
    tree = stage.ask("hold", count=1, outside=True)["tree"]
    (record,) = {
        path for pid in tree for path in open_files(pid) if path.startswith("/run/buildgraph/bg-")
    }
    assert sweep_leftovers() >= 0
    assert os.path.exists(record), "its owner lives"
    for pid in reversed(tree):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while time.monotonic() < end and any(map(is_alive, tree)):
        time.sleep(0.02)
    sweep_leftovers()
    assert not os.path.exists(record)
    name = os.path.basename(record)
    while time.monotonic() < end and links_of(name):
        time.sleep(0.02)  # the kernel takes namespaces down in its own time
    assert not links_of(name)


def links_of(record: str) -> list[str]:
    return [name for name in os.listdir("/sys/class/net") if name.startswith(f"{record}-")]


def open_files(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def is_alive(pid: int) -> bool:
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return line.rpartition(")")[2].split()[0] not in "ZX"
