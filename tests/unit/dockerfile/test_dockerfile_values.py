"""Signals, durations and ports."""

from __future__ import annotations

import pytest

from buildgraph.dockerfile.durations import parse_duration
from buildgraph.dockerfile.ports import exposed_ports, parse_port_spec, parse_ports
from buildgraph.dockerfile.signals import parse_signal
from buildgraph.errors import InputError, Location

HERE = Location("here", 1, 1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15), ("term", 15), ("SigKill", 9), ("9", 9), ("64", 64), ("SIGRTMIN", 34),
        ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("RTMAX", 64), ("IOT", 6), ("SIGSYS", 31),
        ("SIGWINCH", 28),
    ],
)  # fmt: skip
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text, HERE) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-9", "SIGTRM", "RTMIN+31", "RTMIN-1", "TERM+1", "9x", "٩", "1" * 5000]
)
def test_bad_signals(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_signal(text, HERE)
    assert caught.value.where == HERE


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0), ("+0", 0), ("5s", 5_000_000_000), ("1.5h", 5_400_000_000_000),
        ("300ms", 300_000_000), ("1m30s", 90_000_000_000), ("-1.5s", -1_500_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("1us", 1_000), ("1µs", 1_000), ("1μs", 1_000), ("7ns", 7), ("2h45m1s", 9_901_000_000_000),
        ("0.0000000001s", 0),
    ],
)  # fmt: skip
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration(text, HERE) == nanoseconds


@pytest.mark.parametrize(
    "text",
    ["", "-", "1", "s", ".s", "1 s", "1d", "1s2", "--1s", "9999999999h", "1" * 30 + "s", "9e9s"],
)
def test_bad_durations(text: str) -> None:
    with pytest.raises(InputError, match="no duration"):
        parse_duration(text, HERE)


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("80", ("80/tcp",)),
        ("80/", ("80/tcp",)),
        ("53/udp", ("53/udp",)),
        ("80-82/SCTP", ("80/sctp", "81/sctp", "82/sctp")),
        ("0", ("0/tcp",)),
        ("65535", ("65535/tcp",)),
        ("8080:80", ("80/tcp",)),
        ("127.0.0.1:8080:80/udp", ("80/udp",)),
        ("[::1]:8080:80", ("80/tcp",)),
        ("65536", None),
        ("90-80", None),
        ("80/tpc", None),
        ("http", None),
        ("80-", None),
        ("", None),
        ("-1", None),
        ("80/tcp/udp", None),
    ],
)
def test_ports(word: str, ports: tuple[str, ...] | None) -> None:
    if ports is not None:
        assert parse_ports(word, HERE) == ports
        return
    with pytest.raises(InputError):
        parse_ports(word, HERE)


def test_ports_tell_what_lint_wants() -> None:
    spec = parse_port_spec("127.0.0.1:80:80/TCP", HERE)
    assert spec.host == "127.0.0.1:80"
    assert spec.protocol_as_written == "TCP"


def test_overlapping_ranges_cost_no_more_than_the_ports() -> None:
    assert exposed_ports(["81", "80-82", "82/udp"], HERE) == (
        "80/tcp", "81/tcp", "82/tcp", "82/udp",
    )  # fmt: skip
    assert len(exposed_ports([f"{n}-65535" for n in range(8000)], HERE)) == 65_536
