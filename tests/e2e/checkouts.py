"""Knows how to lay out this repository's examples as somebody's checkout, with a lock that all
checkouts share and a store that starts empty; must not know what the examples contain.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import ROOT, Result, User, Workspace

ALL = "//examples/..."
# A test of the fixture `checkout` runs twice: on what root built, and on what a user did.
EITHER = pytest.mark.parametrize("checkout", ["in_place", "elsewhere"], indirect=True)
LONG_AGO = 1_000_000_000  # seconds: 2001
_numbers = itertools.count()


@dataclass(frozen=True)
class Checkout:
    """A tree with the examples, the store it is built in, and who builds it."""

    workspace: Workspace
    directory: str  # in the workspace
    store: Path
    user: User | None = None
    first: Result | None = field(default=None, compare=False)
    """The build of everything that filled the store."""

    def path(self, path: str) -> Path:
        """Return where a file of the tree is."""
        return self.workspace.path(f"{self.directory}/{path}")

    def run(self, *args: str, cwd: str = "", **more: Any) -> Result:
        """Run the program in the tree."""
        return self.workspace.run(
            *args,
            env={"BUILDGRAPH_STORE": str(self.store)},
            user=self.user,
            cwd=os.path.join(self.directory, cwd),
            **more,
        )

    def build(self, *args: str, **more: Any) -> Result:
        """Run `build --progress json` in the tree."""
        return self.run("build", "--progress", "json", *args, **more)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that is there once."""
        content = self.path(path).read_text()
        assert content.count(old) == 1, f"{path}: {old!r} is there {content.count(old)} times"
        self.path(path).write_text(content.replace(old, new))

    def again(self) -> Checkout:
        """Copy the tree as it is to another directory, with the time of now, on the same store."""
        directory = f"copy{next(_numbers)}"
        shutil.copytree(
            self.path(""),
            self.workspace.path(directory),
            symlinks=True,
            copy_function=shutil.copy,  # modes and bytes; no times
        )
        return Checkout(self.workspace, directory, self.store, self.user)


@contextlib.contextmanager
def locked_tree() -> Iterator[Workspace]:
    """Yield a workspace whose directory `tree` is a git repository of the examples and a lock."""
    with Workspace() as workspace:
        tree = workspace.path("tree")
        tree.mkdir()
        shutil.copy(ROOT / "Boxfile.yaml", tree)
        shutil.copytree(ROOT / "examples", tree / "examples", symlinks=True)
        store = workspace.top / "store-of-lock"
        workspace.run("lock", cwd="tree", env={"BUILDGRAPH_STORE": str(store)})
        git(tree, "init", "--quiet")
        git(tree, "add", ".")
        git(tree, "commit", "--quiet", "--message", "the examples")
        yield workspace


def git(tree: Path, *args: str) -> None:
    """Run git in a tree, without anybody's configuration."""
    person = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    subprocess.run(["git", *person, *args], cwd=tree, env=environment, check=True, umask=0o022)


def built_in_place(workspace: Workspace, jobs: int) -> Checkout:
    """Build every example of `tree` as whoever runs the tests, from an empty store."""
    checkout = Checkout(workspace, "tree", _empty_store(workspace, "store-in-place", None))
    return _built(checkout, jobs)


def built_elsewhere(workspace: Workspace, user: User, jobs: int) -> Checkout:
    """Build every example of a clone of `tree` as `user`, from an empty store.

    The clone lies elsewhere and deeper, is the user's own, and all of it is of 2001.
    """
    directory = "some/where else/clone"
    clone = workspace.path(directory)
    clone.parent.mkdir(parents=True)
    git(workspace.root, "clone", "--quiet", "--no-hardlinks", "tree", str(clone))
    for path in [clone, *clone.rglob("*")]:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    store = _empty_store(workspace, "store-elsewhere", user)
    return _built(Checkout(workspace, directory, store, user), jobs)


def _empty_store(workspace: Workspace, name: str, user: User | None) -> Path:
    store = workspace.top / name
    store.mkdir(mode=0o700)
    if user is not None:
        os.chown(store, user.uid, user.gid)
    return store


def _built(checkout: Checkout, jobs: int) -> Checkout:
    first = checkout.build("-j", str(jobs), ALL, timeout=600)
    return Checkout(checkout.workspace, checkout.directory, checkout.store, checkout.user, first)
