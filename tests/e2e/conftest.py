"""Knows the benches and checkouts that end-to-end tests share; must not know what is built."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from e2e.building import Bench, bench
from e2e.checkouts import Checkout, built_elsewhere, built_in_place, locked_tree
from e2e.harness import BUSYBOX, User, Workspace


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


@pytest.fixture(scope="session")
def examples_tree() -> Iterator[Workspace]:
    """Return a workspace with the repository's examples and one lock for all who build them."""
    with locked_tree() as made:
        yield made


@pytest.fixture(scope="session")
def examples_in_place(examples_tree: Workspace, request: pytest.FixtureRequest) -> Checkout:
    """Return the examples as whoever runs the tests built them, one step at a time."""
    if os.geteuid() != 0:
        request.getfixturevalue("users_have_networks")
    return built_in_place(examples_tree, jobs=1)


@pytest.fixture(scope="session")
def examples_elsewhere(
    examples_tree: Workspace, as_user: User, users_have_networks: None
) -> Checkout:
    """Return the examples as an ordinary user built them in a clone, four steps at a time."""
    return built_elsewhere(examples_tree, as_user, jobs=4)


@pytest.fixture
def checkout(request: pytest.FixtureRequest) -> Checkout:
    """Return what root built in place, or what an ordinary user built elsewhere; see `EITHER`."""
    found = request.getfixturevalue(f"examples_{request.param}")
    assert isinstance(found, Checkout)
    return found


@pytest.fixture
def copied(examples_in_place: Checkout) -> Checkout:
    """Return a fresh copy, on the store that knows the examples."""
    return examples_in_place.again()
