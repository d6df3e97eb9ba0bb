"""Knows how targets of the library's rules become nodes, and does those nodes; must not know what
the targets are built for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from buildgraph import limits
from buildgraph.boxfile.target import Target
from buildgraph.errors import BuildFailed, InputError, Interrupted
from buildgraph.graph.ops import Node, PackagesOp
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import ImageConfig, Layer, Platform
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.spec import Limits, SandboxSpec
from buildgraph_cache.store import Store
from buildgraph_rules.debian.lock import FILE_NAME, Lock

if TYPE_CHECKING:
    from buildgraph_rules.debian.pins import Resolution
    from buildgraph_rules.debian.rule import Indices

# Where the machine says which archives it uses: sources.list(5).
MACHINE_SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d")
_TAIL = 16 * 1024


class Work(Protocol):
    """What the engine hands over with a node."""

    node: Node
    cancel: threading.Event

    @property
    def output(self) -> Callable[[bytes], None]:
        """Take raw bytes of a command's output."""

    @property
    def progress(self) -> Callable[[str, int, int], None]:
        """Take (text, done, total) of a transfer."""


class Rules:
    """The rules of one build; an executor for the nodes they make."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        sandbox: SandboxHost,
        *,
        workspace_root: str,
        lock: Lock | None,
        offline: bool,
        refresh: bool,
        notice: Callable[[str], None],
    ):
        """`lock` pins packages; `refresh` asks the archives again.

        `notice` is told of what takes time before a build.
        """
        self._store = store
        self._layers = layers
        self._sandbox = sandbox
        self._root = workspace_root
        self._offline = offline
        self._refresh = refresh
        self._notice = notice
        self._resolved: dict[PackagesOp, Resolution] = {}
        self._indices: Indices = {}
        self._lock = lock

    def observed(self) -> list[str]:
        """Return the files and directories that decided which packages there are."""
        if not self._resolved:
            return []
        lock = os.path.join(self._root, FILE_NAME)
        places = [lock if os.path.exists(lock) else self._root]
        if any(not resolution.locked for resolution in self._resolved.values()):
            places += [path for path in MACHINE_SOURCES if os.path.exists(path)]
        return places

    def resolve(self, target: Target, platform: Platform) -> Resolution:
        """Return the pinned packages of a `debian` target."""
        from buildgraph_rules.debian import rule

        told: list[str] = []

        def progress(text: str, done: int, total: int) -> None:
            if not told:
                told.append(text)
                self._notice(f"{target.label.short}: asking the archives for packages")

        return rule.resolve(
            target,
            platform,
            store=self._store,
            workspace=self._root,
            lock=self._lock,
            offline=self._offline,
            refresh=self._refresh,
            progress=progress,
            known_indices=self._indices,
        )

    def plan(self, target: Target, platform: Platform) -> tuple[PackagesOp, ImageConfig]:
        """Return what makes a target's files, and how they run."""
        from buildgraph_rules.debian import rule

        if target.rule != "debian":
            raise InputError(f"there is no rule {target.rule!r}", target.where)
        resolution = self.resolve(target, platform)
        op = replace(rule.packages_op(target, resolution), recipe=rule.PROFILE)
        self._resolved[op] = resolution
        return op, rule.config(target, platform, resolution)

    def execute(self, work: Work) -> Layer | None:
        """Download, unpack and configure the packages of a node."""
        from buildgraph_rules.debian import rule

        op = work.node.op
        assert isinstance(op, PackagesOp)
        if op.configure:  # before anything is downloaded for it
            self._sandbox.require(work.node.platform.architecture)
        self._indices.clear()  # tens of megabytes that nobody asks for any more
        resolution = self._resolved[op]
        debs = rule.fetch(
            resolution,
            self._store,
            progress=work.progress,
            cancel=work.cancel,
        )
        with self._store.new_scratch() as scratch:
            upper = scratch.upper
            count = 0

            def run(argv: Sequence[str], env: Mapping[str, str], root: str) -> None:
                nonlocal count
                count += 1
                self._run(work, argv, env, root, scratch.directory(f"work{count}"))

            rule.build_root(
                resolution,
                debs,
                upper,
                run,
                op=op,
                where=work.node.where,
                epoch=self._layers.epoch,
                note=lambda text: work.progress(text, 0, 0),
            )
            return self._layers.commit(Path(upper), None)

    def _run(
        self, work: Work, argv: Sequence[str], env: Mapping[str, str], root: str, work_dir: str
    ) -> None:
        """Run one command of the recipe in the sandbox, its root being the directory itself."""
        tail = bytearray()

        def output(data: bytes) -> None:
            tail.extend(data)
            del tail[:-_TAIL]
            work.output(data)

        spec = SandboxSpec(
            lowers=(),
            upper=root,
            work=work_dir,
            args=tuple(argv),
            env=tuple(env.items()),
            network="none",
            limits=Limits(log=limits.STEP_LOG_BYTES),
            architecture=work.node.platform.architecture,
        )
        status = self._sandbox.run(spec, output, work.cancel)
        if work.cancel.is_set():
            raise Interrupted("interrupted")
        if status.code != 0:
            lines = tail.decode("utf-8", "backslashreplace").rstrip("\n").split("\n")[-20:]
            raise BuildFailed(
                f"{' '.join(argv)[:200]} {status.describe(spec.limits, self._sandbox.memory)}",
                work.node.where,
                label=work.node.label,
                log=tuple(lines),
            )
