"""Knows what a check may ask of the containers of a test and of images; must not know how either
answers.

Checks are functions of a world, so they are tested with a world of plain values.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from buildgraph.boxfile.smoke import CommandCheck, Subject
from buildgraph.filetree import FileStat
from buildgraph.oci.types import Image


class Ran(Struct, frozen=True):
    """What a command came to; output is bounded, the middle cut out where it was too much."""

    code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    oom: bool = False
    refusal: str = ""  # why there was no command at all: the container has ended


class Ended(Struct, frozen=True):
    """How a container of a service ended."""

    code: int
    oom: bool = False
    text: str = ""  # in words: "ended with exit code 3"


class Files(Protocol):
    """A root file system seen from its own root; every symbolic link is followed inside it."""

    def stat(self, path: str) -> FileStat | None:
        """Return what a path leads to, None where nothing is; the last link is not followed."""

    def follow(self, path: str) -> FileStat | None:
        """Return what a path leads to, the last link followed too."""

    def read(self, path: str, cap: int) -> bytes | None:
        """Return the bytes of a file, None where none is; InputError for more than `cap`."""

    def sha256(self, path: str) -> str | None:
        """Return the hex digest of a file, None where none is."""


class World(Protocol):
    """The containers and images of one running test. Any method may raise `Over`."""

    def now(self) -> float:
        """Return seconds on a monotonic clock."""

    def pause(self, seconds: float) -> None:
        """Let time go by. Raises `Over` as soon as there is nothing left to wait for."""

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Return a connection made from inside the test's network. Raises OSError."""

    def execute(
        self,
        service: str,
        args: Sequence[str],
        *,
        env: Sequence[tuple[str, str | None]],
        user: str | None,
        cwd: str | None,
        timeout: float,
    ) -> Ran:
        """Run a command in the first container of a service."""

    def command(self, check: CommandCheck, timeout: float) -> Ran:
        """Run a command in a fresh container of an image."""

    def logs(self, service: str) -> bytes:
        """Return what the containers of a service wrote so far, at most the log's cap."""

    def ended(self, service: str) -> list[Ended | None]:
        """Return for each container of a service how it ended, None while it runs."""

    def files(self, subject: Subject) -> Files:
        """Return the files of a service's first container, or of an image."""

    def image(self, subject: Subject) -> Image:
        """Return the image that a check is about."""

    def layer_paths(self, image: Image) -> Sequence[tuple[int, str]]:
        """Return (layer number, path) of every entry that a layer has, deleted ones too."""

    def layer_secrets(self, image: Image) -> Sequence[tuple[int, str, str]]:
        """Return (layer number, path, what it looks like) of everything that looks secret."""

    def read_package_file(self, path: str) -> bytes:
        """Return a file of the workspace that the test names."""


class Over(Exception):
    """The test is over before its checks are: a service died, time is up, somebody stopped it."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
