"""Knows the benches that end-to-end tests share; must not know what is built on them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from e2e.building import Bench, bench
from e2e.harness import BUSYBOX, User


@pytest.fixture(scope="session")
def root_bench() -> Iterator[Bench]:
    """Return the bench of whoever runs the tests, root in CI."""
    if not BUSYBOX.exists():
        pytest.skip("machine: busybox is not installed")
    with bench(None) as made:
        yield made


@pytest.fixture(scope="session")
def user_bench(as_user: User) -> Iterator[Bench]:
    """Return the bench of an ordinary user."""
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user anyway")
    if not BUSYBOX.exists():
        pytest.skip("machine: busybox is not installed")
    with bench(as_user) as made:
        yield made


@pytest.fixture
def who(request: pytest.FixtureRequest) -> Bench:
    """Return root's bench, or an ordinary user's where a test is marked with `BOTH`."""
    name = getattr(request, "param", "root")
    found = request.getfixturevalue(f"{name}_bench")
    assert isinstance(found, Bench)
    return found
