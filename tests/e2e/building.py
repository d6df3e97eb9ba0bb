"""Knows how a test says in a few lines which files a Dockerfile finds, who builds it and what came
of it; must not know what any test expects.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import Result, User, Workspace
from e2e.images import Image, Tree, listing, read_archive, read_layout

BOTH = pytest.mark.parametrize("who", ["root", "user"], indirect=True)
"""Run a test as root and again as an ordinary user."""


@dataclass(frozen=True)
class Link:
    """A symbolic link of a context."""

    target: str


@dataclass(frozen=True)
class Hard:
    """A hard link to another file of a context."""

    other: str


@dataclass(frozen=True)
class Mode:
    """A file of a context with its mode; no content means a directory."""

    mode: int
    content: str | bytes | None = None


@dataclass(frozen=True)
class Capable:
    """An executable of a context with the capability to bind low ports; only root can make it."""

    content: str


CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
Files = Mapping[str, "str | bytes | Link | Hard | Mode | Capable"]


def write_files(top: Path, files: Files) -> None:
    """Write a tree of files; the path of a directory ends in a slash."""
    for name, value in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match value:
            case Link(target):
                path.symlink_to(target)
            case Hard(other):
                path.hardlink_to(top / other)
            case Mode(mode, None):
                path.mkdir(exist_ok=True)
                path.chmod(mode)
            case Mode(mode, content):
                path.write_bytes(content.encode() if isinstance(content, str) else content)
                path.chmod(mode)
            case Capable(content):
                path.write_text(content)
                path.chmod(0o755)
                os.setxattr(path, "security.capability", CAPABILITY)
            case _ if name.endswith("/"):
                path.mkdir(exist_ok=True)
            case str() | bytes():
                path.write_bytes(value.encode() if isinstance(value, str) else value)
                path.chmod(0o644)


@dataclass(frozen=True)
class Built:
    """An image that was built, and what the program said."""

    result: Result
    image: Image
    digest: str
    below: Tree

    @property
    def made(self) -> str:
        """What the image has beside the busybox base, as `listing` shows it."""
        return listing(self.image.tree, self.below)

    def content(self, path: str) -> str:
        """Return the text of a file of the image."""
        return self.image.tree[path].content.decode()

    def has(self, path: str) -> bool:
        """Say whether the image has a path."""
        return path in self.image.tree


class Bench:
    """A place where many small images are built, each in a directory of its own, on one store.

    `FROM base` is a static busybox with the users root and app (1000:1000).
    """

    def __init__(self, workspace: Workspace, user: User | None):
        self.workspace = workspace
        self.user = user
        self.layout = workspace.busybox_layout()
        self.below = read_layout(self.layout).tree
        self._numbers = itertools.count()

    def directory(self, files: Files, dockerfile: str = "") -> str:
        """Make a new context; return its path in the workspace."""
        name = f"c{next(self._numbers)}"
        self.workspace.path(name).mkdir()
        more = {"Dockerfile": dockerfile} if dockerfile else {}
        top = self.workspace.path(name)
        write_files(top, {**more, **files})
        if self.user is not None:  # a user's files are theirs
            call("chown", "-hR", str(self.user.uid), top)
            for path, value in files.items():  # chown(2) takes setuid bits away
                if isinstance(value, Mode):
                    (top / path).chmod(value.mode)
        return name

    def run(self, *args: str, **more: Any) -> Result:
        """Run the program as whoever this bench is for."""
        return self.workspace.run(*args, user=self.user, **more)

    def build(self, dockerfile: str, files: Files | None = None, *args: str, **more: Any) -> Built:
        """Build a Dockerfile in a new context and read the image back."""
        return self.build_in(self.directory(files or {}, dockerfile), *args, **more)

    def build_in(self, directory: str, *args: str, **more: Any) -> Built:
        """Build what is in a directory and read the image back."""
        archive = self.workspace.path(f"out{next(self._numbers)}.tar")
        words = [directory, "-o", f"type=oci,dest={archive}", "--progress", "json", *args]
        result = self.run("build", *self.base(words), *words, **more)
        try:
            image = read_archive(archive)
        finally:
            archive.unlink()
        (digest,) = result.digests.values()
        return Built(result, image, digest, self.below)

    def fail(self, dockerfile: str, files: Files | None = None, *args: str, **more: Any) -> Result:
        """Build what cannot be built; returns what was said about it."""
        directory = self.directory(files or {}, dockerfile)
        more = {"expect": 2} | more
        words = [directory, "--progress", "plain", *args]
        result = self.run("build", *self.base(words), *words, **more)
        assert "Traceback" not in result.stderr, result.stderr
        return result

    def base(self, words: list[str]) -> list[str]:
        """Return the option that binds the name `base`, unless `words` do.

        Steps of an ordinary user get no network: it takes pasta a second to make one, and a
        minimal machine lets nobody use /dev/net/tun. The kernel tests see to that.
        """
        given = any(word.startswith(("base=", "//")) for word in words)
        base = [] if given else ["--build-context", f"base=oci-layout://{self.layout}"]
        return base if self.user is None else [*base, "--network=none"]


@contextlib.contextmanager
def bench(user: User | None) -> Iterator[Bench]:
    """Make a bench and remove it again."""
    with Workspace() as workspace:
        yield Bench(workspace, user)


def needs(*programs: str) -> pytest.MarkDecorator:
    """Mark a test that other programs judge; it is skipped where one is missing."""
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


def call(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run another program; it has to succeed."""
    done = subprocess.run(
        [str(w) for w in words],
        capture_output=True,
        text=True,
        check=False,
        **({"timeout": 120, "stdin": subprocess.DEVNULL} | more),
    )
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def interpreter() -> str:
    """Return the Python that runs the tests."""
    return sys.executable
