"""Knows how the rooms are put together for one command: workspace, store, layers, sandbox, rules;
the composition root. Must not know what the command is for.
"""

from __future__ import annotations

import os
import platform as machine
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from msgspec import Struct, field

from buildgraph import events as ev
from buildgraph.boxfile.target import Target, image_target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.entry import open_workspace, own_store
from buildgraph.engine.build import Builder, BuildOptions, BuildResult, Delivery
from buildgraph.engine.copy_step import FileExecutor
from buildgraph.engine.identify import Identifier
from buildgraph.engine.images import OutsideImages
from buildgraph.engine.mounts import MountSources, SecretSource, read_secret
from buildgraph.engine.prepare import (
    DEFAULT_EPOCH,
    Overrides,
    Prepared,
    Preparer,
    RulePlan,
)
from buildgraph.engine.remote import Remotes
from buildgraph.engine.run_step import ExecExecutor, FailedStep
from buildgraph.engine.sources import Sources
from buildgraph.engine.work import Executor
from buildgraph.errors import InputError
from buildgraph.graph.ops import CopyOp, ExecOp, GitOp, HttpOp, MkdirOp, PackagesOp, contexts_read
from buildgraph.graph.stage_ir import PROXY_ARGS
from buildgraph.label import Label
from buildgraph.oci.compress import Compression
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.types import Platform
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.leftovers import sweep_leftovers
from buildgraph.sandbox.seccomp import PROFILE_VERSION
from buildgraph.sandbox.spec import Limits
from buildgraph_cache.store import Store

if TYPE_CHECKING:
    from buildgraph.engine.smoke.runner import SmokeOptions, SmokeRunner
    from buildgraph.fetch.git import Git
    from buildgraph_rules.debian.lock import Pins

T = TypeVar("T")


class Settings(Struct, frozen=True):
    """What the command line says about the run, beside its targets."""

    store: str | None = None
    jobs: int = 0
    keep_going: bool = False
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    offline: bool = False
    pull: bool = False
    compression: Compression = field(default_factory=Compression)
    overrides: Overrides = field(default_factory=Overrides)
    secrets: Mapping[str, SecretSource] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)  # sockets of ssh agents, by id
    step_limits: Limits = field(default_factory=Limits)
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of --add-host
    keep_failed: bool = False  # keep what the first RUN that fails leaves, for a shell


def host_platform() -> Platform:
    """Return what this machine runs."""
    return parse_platform(f"linux/{machine.machine()}")


def epoch_of(environ: Mapping[str, str], args: Mapping[str, str]) -> int:
    """Return SOURCE_DATE_EPOCH: the build argument, the environment, else the default."""
    text = args.get("SOURCE_DATE_EPOCH") or environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return DEFAULT_EPOCH
    if not text.isascii() or not text.isdigit() or len(text) > 11:
        raise InputError(
            f"SOURCE_DATE_EPOCH is {text!r}", hint="give seconds since 1970-01-01, as `date +%s`"
        )
    return int(text)


class Session:
    """Everything that one command works with; a context manager.

    As an ordinary user this process enters a user namespace first, since the files of a layer
    belong to many users; so it must be opened before any thread is started.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], cwd: str):
        self.settings = settings
        self.environ = environ
        self.started = time.monotonic()
        self.cancel = threading.Event()  # set: everything under way ends
        self._stack = ExitStack()
        self._failed: list[FailedStep] = []
        self._failed_lock = threading.Lock()
        self._cwd = cwd

    def __enter__(self) -> Self:
        place = own_store(self.settings.store)
        self.workspace, self.package = open_workspace(self._cwd)
        self.store = self._stack.enter_context(Store.open(place, fall_back=True))
        if not self.store.read_only:
            self.store.sweep()  # what a killed build left
            sweep_leftovers()
        self._stack.enter_context(self.store.lease())
        self.epoch = epoch_of(self.environ, dict(self.settings.overrides.args))
        self.layers = LayerStore(self.store, self.epoch)
        self.images = self._stack.enter_context(
            OutsideImages(
                self.layers, self.environ, offline=self.settings.offline, cancel=self.cancel
            )
        )
        self.sandbox = self._stack.enter_context(SandboxHost(self.store.root, jobs=self.jobs))
        self.host = host_platform()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def hold(self, resource: AbstractContextManager[T]) -> T:
        """Enter something that lasts as long as the session."""
        return self._stack.enter_context(resource)

    def git(self) -> Git:
        """Return what reads repositories, with the secrets and agents of the command line."""
        from buildgraph.fetch.git import Git, SshSetup

        def secret(name: str) -> str | None:
            source = self.settings.secrets.get(name)
            value = None if source is None else read_secret(source, name, self.environ)
            return None if value is None else value.decode("utf-8", "surrogateescape")

        agent = self.settings.agents.get("default") or self.environ.get("SSH_AUTH_SOCK", "")
        return Git(
            self.store,
            environ=self.environ,
            secret=secret,
            ssh=SshSetup(agent, self.environ.get("HOME", "")),
            offline=self.settings.offline,
        )

    def smoke_runner(self, options: SmokeOptions, listener: ev.Listener) -> SmokeRunner:
        """Return what runs the smoke tests of the workspace."""
        from buildgraph.engine.smoke.provisions import Provisions
        from buildgraph.engine.smoke.runner import SmokeRunner

        return SmokeRunner(
            self.store,
            self.layers,
            self.sandbox,
            Provisions(self.workspace.root, self.environ),
            self.host,
            self.epoch,
            options,
            listener,
            self.now,
            self.cancel,
        )

    @property
    def jobs(self) -> int:
        """How many nodes run at once."""
        return self.settings.jobs or max(2, len(os.sched_getaffinity(0)))

    # -- from targets to a graph -----------------------------------------------------------

    def prepare(
        self,
        workspace: Workspace,
        labels: Sequence[Label],
        listener: ev.Listener,
        *,
        smokes: bool = False,
        tests: Sequence[Label] = (),
        pins: Pins | None = None,
    ) -> Prepared:
        """Lower targets to a graph; rules and outside images are resolved on the way.

        See `Preparer.prepare` for what `smokes` and `tests` mean. `pins` count instead of those in
        the workspace's lock file.
        """
        from buildgraph_rules.library import Rules
        from buildgraph_rules.locking import read_workspace_pins

        pins = read_workspace_pins(workspace.root) if pins is None else pins
        self.rules = Rules(
            self.store,
            self.layers,
            self.sandbox,
            workspace_root=workspace.root,
            lock=pins.packages,
            offline=self.settings.offline,
            refresh=self.settings.pull,
            notice=lambda text: listener(ev.Notice(self.now(), text)),
        )

        def resolve_rule(target: Target, platform: Platform) -> RulePlan:
            op, config = self.rules.plan(target, platform)
            return RulePlan(op, config)

        self.images.notice = lambda text: listener(ev.Notice(self.now(), text, "warning"))
        self.images.follow(workspace, pins.images)
        preparer = Preparer(
            workspace,
            epoch=self.epoch,
            host=self.host,
            overrides=self.settings.overrides,
            resolve_rule=resolve_rule,
            load_image=self.images.load,
        )
        prepared = preparer.prepare(labels, smokes=smokes, tests=tests)
        prepared.observed.extend(self.rules.observed())
        for text, where in prepared.warnings:
            listener(ev.Notice(self.now(), text, "warning", where))
        return prepared

    def keep_failed(self, failed: FailedStep) -> None:
        """Keep what the first failed step has left until the session ends."""
        with self._failed_lock:
            if not self._failed:
                self._failed.append(failed)
                self._stack.callback(failed.stack.close)
                return
        failed.stack.close()

    def take_failed(self) -> FailedStep | None:
        """Return the first failed step that was kept. The session closes it."""
        return self._failed[0] if self._failed else None

    def now(self) -> float:
        """Return seconds since the command began."""
        return time.monotonic() - self.started

    # -- from a graph to layers ------------------------------------------------------------

    def open_graph(self, prepared: Prepared) -> OpenGraph:
        """Open the sources of a graph, for keys and for building. Close it."""
        return OpenGraph(self, prepared)


class OpenGraph:
    """A prepared graph with its files at hand; a context manager."""

    def __init__(self, session: Session, prepared: Prepared):
        self.session = session
        self.prepared = prepared
        self._told: set[str] = set()
        store, layers = session.store, session.layers
        graph = prepared.graph
        readers = Counter(read for node in graph.nodes for read in contexts_read(node.op))
        self.sources = Sources(store, layers, graph.contexts, readers)
        self.mounts = MountSources(
            store,
            layers,
            self.sources,
            self._secrets(),
            session.environ,
            session.settings.agents,
        )
        self.remotes = Remotes(
            store,
            layers,
            self._secrets(),
            session.environ,
            cancel=session.cancel,
            offline=session.settings.offline,
            agent=session.settings.agents.get("default", ""),
        )
        self.identifier = Identifier(
            store,
            layers,
            self.sources,
            self.mounts,
            self.remotes,
            epoch=session.epoch,
            profile=str(PROFILE_VERSION),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sources.close()
        self.remotes.close()

    def _secrets(self) -> dict[str, Mapping[str, SecretSource]]:
        session = self.session
        out: dict[str, Mapping[str, SecretSource]] = {"": session.settings.secrets}
        for label, target in self.prepared.targets.items():
            if target.rule == "image":
                out[label] = {
                    s.id: SecretSource(
                        s.env, os.path.join(session.workspace.root, s.src) if s.src else None
                    )
                    for s in image_target(target).secrets
                }
        return out

    def build(self, deliveries: Sequence[Delivery], listener: ev.Listener) -> BuildResult:
        """Build the graph and deliver; see `Builder.run`."""
        session = self.session
        settings = session.settings
        proxies = {k: v for k, v in settings.overrides.args if k in PROXY_ARGS}
        runner = ExecExecutor(
            session.store,
            session.layers,
            session.sandbox,
            proxies=proxies,
            mounts=self.mounts,
            step_limits=settings.step_limits,
            hosts=settings.hosts,
            keep_failed=session.keep_failed if settings.keep_failed else None,
        )
        files = FileExecutor(
            session.store, session.layers, self.identifier, self.sources, settings.compression
        )
        executors: dict[type, Executor] = {
            ExecOp: runner,
            CopyOp: files,
            MkdirOp: files,
            PackagesOp: session.rules,
            HttpOp: self.remotes,
            GitOp: self.remotes,
        }
        builder = Builder(
            self.prepared.graph,
            store=session.store,
            layers=session.layers,
            identifier=self.identifier,
            executors=executors,
            images=self.prepared.chains,
            options=BuildOptions(
                session.jobs,
                settings.keep_going,
                settings.no_cache,
                frozenset(s.lower() for s in settings.no_cache_stages),
            ),
            listener=lambda event: self._tell(event, listener),
            warm_up=self._warm_up,
            started=session.started,
            cancel=session.cancel,
        )
        return builder.run(deliveries)

    def _warm_up(self) -> None:
        ops = [node.op for node in self.prepared.graph.nodes]
        wants = any(isinstance(op, ExecOp) and op.network == "default" for op in ops)
        self.session.sandbox.prepare(network=wants)

    def _tell(self, event: ev.Event, listener: ev.Listener) -> None:
        """Pass an event on, with what the sandbox could not do: never weaker without a word."""
        listener(event)
        if isinstance(event, ev.NodeFinished) and not event.cached:
            for text in self.session.sandbox.warnings:
                if text not in self._told:
                    self._told.add(text)
                    listener(ev.Notice(self.session.now(), text, "warning"))
