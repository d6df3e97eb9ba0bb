"""`--load` before click reads it: a switch as docker has it, or with the name of an engine."""

from __future__ import annotations

import click
import pytest

from buildgraph.cli.docker_flags import plain_switches


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--load .", "--load=docker ."),
        (". --load", ". --load=docker"),
        ("--load docker .", "--load=docker ."),
        ("--load podman .", "--load=podman ."),
        ("--load=containerd .", "--load=containerd ."),
        ("--load ./podman", "--load=docker ./podman"),
        ("--load=true .", "--load=docker ."),
        ("--load=false .", "."),
        ("-- --load", "-- --load"),
    ],
)
def test_load_is_a_switch_or_takes_an_engine(words: str, expected: str) -> None:
    assert plain_switches(words.split()) == expected.split()


def test_an_engine_nobody_knows() -> None:
    with pytest.raises(click.UsageError, match="docker, podman, containerd"):
        plain_switches(["--load=rkt"])
