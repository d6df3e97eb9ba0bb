"""Knows how the world of a running test answers its checks; must not know what a check is for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from msgspec import Struct

from buildgraph.boxfile.smoke import CommandCheck, Subject
from buildgraph.engine.container.options import RunOptions
from buildgraph.engine.container.start import Streams, open_container
from buildgraph.engine.smoke.check_files import substitute
from buildgraph.engine.smoke.containers import (
    Capture,
    Containers,
    ServiceContainer,
    commit,
    run_inside,
)
from buildgraph.engine.smoke.ensemble import Ensemble
from buildgraph.engine.smoke.layer_scan import LayerScan
from buildgraph.engine.smoke.logs import ServiceLog
from buildgraph.engine.smoke.world import Ended, Files, Ran
from buildgraph.engine.treewalk import follow
from buildgraph.errors import HostError, InputError
from buildgraph.filetree import FileStat, FileTree, Kind
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Image
from buildgraph.rootpath import clean


class TreeFiles:
    """The files of a tree that is opened anew for each look; see `Files`."""

    def __init__(self, opened: Callable[[], Iterator[FileTree]]):
        self._opened = contextmanager(opened)

    def stat(self, path: str) -> FileStat | None:
        """Return what a path leads to; links on the way are followed, the last one is not."""
        parent, _, name = clean(path).rpartition("/")
        with self._opened() as tree:
            if not name:
                return tree.stat("")
            directory = follow(tree, parent)
            if directory.stat is None or directory.stat.kind is not Kind.DIR:
                return None
            return tree.stat(f"{directory.path}/{name}" if directory.path else name)

    def follow(self, path: str) -> FileStat | None:
        """Return what a path leads to, the last link followed too."""
        with self._opened() as tree:
            return follow(tree, path).stat

    def read(self, path: str, cap: int) -> bytes | None:
        """Return the bytes of a file, None where none is. Raises InputError for too many."""
        with self._opened() as tree:
            found = follow(tree, path)
            if found.stat is None or found.stat.kind is not Kind.FILE:
                return None
            with open(tree.open(found.path), "rb") as file:
                data = file.read(cap + 1)
        if len(data) > cap:
            raise InputError(f"/{clean(path)} has more than {cap} bytes")
        return data

    def sha256(self, path: str) -> str | None:
        """Return the hex digest of a file, None where none is."""
        with self._opened() as tree:
            found = follow(tree, path)
            if found.stat is None or found.stat.kind is not Kind.FILE:
                return None
            return tree.digest(found.path, found.stat).removeprefix("sha256:")


class Inside(Struct):
    """A `World` over real containers. `images` has the image of every subject of a check."""

    containers: Containers
    ensemble: Ensemble
    images: Mapping[Subject, Image]
    log_files: Mapping[str, ServiceLog]

    def now(self) -> float:
        """Return seconds on a monotonic clock."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Let time go by. Raises Over."""
        self.ensemble.pause(seconds)

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Return a connection made from inside the test's network. Raises OSError."""
        network = self.containers.network
        if network is None:
            raise OSError("the test has no services, so nobody is there to talk to")
        return network.connect(host, port, timeout)

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
        actor = self._actor(service)
        return run_inside(
            actor.container,
            actor.name,
            args,
            timeout,
            env=self.containers.provisions.resolved(env),
            user=user,
            cwd=cwd,
            cancel=self.containers.cancel,
        )

    def _actor(self, service: str) -> ServiceContainer:
        actor = self.ensemble.of(service)[0].actor
        if not isinstance(actor, ServiceContainer):
            raise HostError(f"{service} was never started")
        return actor

    def command(self, check: CommandCheck, timeout: float) -> Ran:
        """Run a command in a fresh container of an image, after its setup commands.

        What a setup command ends with does not matter, as for container-structure-test.
        """
        image = self.images[check.subject]
        variables = dict(image.config.env)
        env = tuple((name, substitute(value, variables)) for name, value in check.environment)
        for args in check.setup:
            image = self._fresh(image, args, env, check.user, timeout, keep=True)[1]
        args = tuple(substitute(word, variables) for word in check.args)
        return self._fresh(image, args, env, check.user, timeout)[0]

    def _fresh(
        self,
        image: Image,
        args: tuple[str, ...],
        env: tuple[tuple[str, str], ...],
        user: str | None,
        timeout: float,
        *,
        keep: bool = False,
    ) -> tuple[Ran, Image]:
        own = self.containers
        out, err = Capture(), Capture()
        options = RunOptions(entrypoint=args, env=env, user=user, init=True)
        streams = Streams(out.write, err.write)
        with open_container(
            own.store, own.layers, own.sandbox, image, options, streams
        ) as container:
            end = time.monotonic() + timeout
            while (status := container.wait(0.1)) is None and time.monotonic() < end:
                self.ensemble.alive()
            late = status is None
            if status is None:
                status = container.stop(grace=0)
            if keep:
                image = commit(own.layers, image, container)
        return Ran(status.code, out.data, err.data, late, status.oom), image

    def logs(self, service: str) -> bytes:
        """Return what the containers of a service wrote so far."""
        return self.log_files[service].read()

    def ended(self, service: str) -> list[Ended | None]:
        """Return for each container of a service how it ended, None while it runs."""
        return [
            member.actor.ended() if member.actor else None for member in self.ensemble.of(service)
        ]

    def files(self, subject: Subject) -> Files:
        """Return the files of a service's first container, or of an image."""
        if subject.service is None:
            view = RootView(self.containers.layers, self.images[subject].chain)

            def image_tree() -> Iterator[FileTree]:
                yield view

            return TreeFiles(image_tree)
        actor = self._actor(subject.service)

        def container_tree() -> Iterator[FileTree]:
            with actor.container.files() as tree:
                yield tree

        return TreeFiles(container_tree)

    def image(self, subject: Subject) -> Image:
        """Return the image that a check is about."""
        return self.images[subject]

    def layer_paths(self, image: Image) -> Sequence[tuple[int, str]]:
        """Return (layer number, path) of every entry of every layer."""
        return LayerScan(self.containers.store, self.containers.layers).paths(image)

    def layer_secrets(self, image: Image) -> Sequence[tuple[int, str, str]]:
        """Return (layer number, path, what it looks like) of what looks secret."""
        return LayerScan(self.containers.store, self.containers.layers).secrets(image)

    def read_package_file(self, path: str) -> bytes:
        """Return a file of the workspace that the test names."""
        return self.containers.provisions.read(path)
