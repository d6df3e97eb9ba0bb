"""Knows how a node graph becomes layers and images: key, look up, execute, record, deliver; must
not know what any kind of op does, nor how anything is shown.

Keys chain on what inputs *are*, so a node is looked up as soon as its inputs are known, and a
rebuilt input with the same bytes stops the rebuild there. A node whose key is being built
elsewhere waits for that build and takes its result (`key_lock`), within this process and across
processes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph import events as ev
from buildgraph.context.reading import ChangedWhileReading
from buildgraph.engine import records
from buildgraph.engine.identify import Identifier
from buildgraph.engine.scheduler import Scheduler, State, critical_path, ranks
from buildgraph.engine.work import Executor, Outcome, Work
from buildgraph.errors import BuildFailed, BuildgraphError, Interrupted
from buildgraph.graph.explain import Reason, differences
from buildgraph.graph.keys import NodeKey
from buildgraph.graph.lower import needs_directory
from buildgraph.graph.ops import CopyOp, ExecOp, GitOp, HttpOp, ImageOp, Node, NodeGraph, PackagesOp
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain
from buildgraph_cache.store import Store

_REASONS = 20  # that an event tells


class BuildOptions(Struct, frozen=True):
    """How to run, never what to make."""

    jobs: int = 2
    keep_going: bool = False
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()


class Delivery(Struct, frozen=True):
    """What to do, beside other nodes, once the nodes of a target are done; `needs` are node ids.

    It ends in an event that says what came of it: an image is there, a smoke test has a verdict.
    """

    label: str
    needs: tuple[int, ...]
    deliver: Callable[[Mapping[int, Outcome]], ev.ImageBuilt | ev.SmokeFinished]
    title: str = "image"


class BuildResult(Struct):
    """What came of it."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    images: list[ev.ImageBuilt] = field(default_factory=list)
    smokes: list[ev.SmokeFinished] = field(default_factory=list)
    built: int = 0
    cached: int = 0
    errors: list[BuildgraphError] = field(default_factory=list)


class Builder:
    """Runs one graph once."""

    def __init__(
        self,
        graph: NodeGraph,
        *,
        store: Store,
        layers: LayerStore,
        identifier: Identifier,
        executors: Mapping[type, Executor],
        images: Mapping[str, Chain],
        options: BuildOptions,
        listener: ev.Listener,
        warm_up: Callable[[], None] = lambda: None,
        started: float | None = None,
        cancel: threading.Event | None = None,
    ):
        """`warm_up` is called once it is known that something will run in a sandbox.

        A set `cancel` stops the build, as `self.cancel` does; deliveries may listen to it.
        """
        self._graph = graph
        self._store = store
        self._layers = layers
        self._identifier = identifier
        self._executors = executors
        self._images = images
        self._options = options
        self._emit = listener
        self._started = time.monotonic() if started is None else started
        self._cancel = cancel or threading.Event()
        self._keys: dict[int, NodeKey] = {}
        self._again: set[int] = set()
        self._begun: set[int] = set()
        self._warm_up: Callable[[], None] | None = warm_up
        self._seconds: list[float] = []
        self._want_directory = needs_directory(graph)
        self._guard = threading.Lock()
        self._reasons: dict[int, tuple[Reason, ...]] = {}
        self._made: dict[str, tuple[Reason, ...]] = {}  # by key: why this build made it
        # Of what is under way: who took it up and when; of deliveries that failed, for how long.
        self._taken: dict[int, tuple[int | None, float]] = {}
        self._spent: dict[int, float] = {}
        self.result = BuildResult()

    def now(self) -> float:
        """Return seconds since the build began."""
        return time.monotonic() - self._started

    @property
    def cancel(self) -> threading.Event:
        """Set this to stop the build; running steps end within about a second."""
        return self._cancel

    def run(self, deliveries: Sequence[Delivery] = ()) -> BuildResult:
        """Build every node, then what `deliveries` ask for; failures are in `result.errors`.

        Promises that nothing of this build is running when it returns. Raises Interrupted.
        """
        nodes = self._graph.nodes
        inputs = [*self._graph.needs(), *(d.needs for d in deliveries)]
        self._seconds = [0.0] * len(inputs)
        # Depth is the first guess; durations replace it at the first miss, when they matter.
        rank = ranks(inputs, [1.0] * len(inputs))
        scheduler = Scheduler(
            inputs,
            rank,
            jobs=self._options.jobs,
            keep_going=self._options.keep_going,
            cancel=self._cancel,
        )
        total = len(nodes)
        self._emit(
            ev.BuildStarted(
                self.now(),
                tuple(d.label for d in deliveries),
                total,
                str(self._store.root),
                self._options.jobs,
            )
        )

        def quick(index: int) -> bool:
            if index >= total:
                return False
            self._taken[index] = (None, self.now())
            return self._quick(nodes[index])

        def slow(index: int) -> None:
            self._taken[index] = (scheduler.worker, self.now())
            if index < total:
                self._slow(nodes[index])
            else:
                self._deliver(index, deliveries[index - total])

        interrupted: BaseException | None = None
        try:
            scheduler.run(quick, slow)
        except (Interrupted, KeyboardInterrupt) as error:
            interrupted = error
        self._account(scheduler, deliveries, inputs, interrupted)
        if interrupted is not None:
            raise Interrupted("interrupted") from interrupted
        return self.result

    def _account(
        self,
        scheduler: Scheduler,
        deliveries: Sequence[Delivery],
        inputs: Sequence[Sequence[int]],
        interrupted: BaseException | None,
    ) -> None:
        total = len(self._graph.nodes)
        for index, error in scheduler.errors:
            if not isinstance(error, BuildgraphError):
                raise error
            self.result.errors.append(error)
            if index >= total:
                self._delivery_failed(index, deliveries[index - total], error)
        left = (State.SKIPPED, State.WAITING, State.READY)
        cancelled = [n for n in self._graph.nodes if scheduler.states[n.id] in left]
        for node in cancelled:
            self._cancelled(node)
        ok = not scheduler.errors and interrupted is None
        path: tuple[tuple[str, float], ...] = ()
        if self.result.built:
            done = self.result.outcomes
            spent = [
                done[i].seconds if i in done and not done[i].cached else 0.0
                for i in range(len(inputs))
            ]
            path = tuple(
                (f"{self._graph.nodes[i].label} {self._graph.nodes[i].title}", spent[i])
                for i in critical_path(inputs, spent)
                if i < total and spent[i] > 0
            )
        self._emit(
            ev.BuildFinished(
                self.now(),
                ok,
                self.result.built,
                self.result.cached,
                len(scheduler.errors),
                len(cancelled),
                path,
            )
        )

    def _delivery_failed(self, index: int, delivery: Delivery, error: BuildgraphError) -> None:
        worker, began = self._taken.pop(index, (None, self.now()))
        self._emit(
            ev.NodeFailed(
                self.now(),
                index,
                delivery.label,
                delivery.title,
                self._spent.get(index, 0.0),
                error,
                needs=delivery.needs,
                worker=worker,
                began=began,
            )
        )

    def _cancelled(self, node: Node) -> None:
        self._emit(
            ev.NodeCancelled(
                self.now(),
                node.id,
                node.label,
                node.title,
                node.stage,
                node.where,
                node.needs,
            )
        )

    # -- one node ----------------------------------------------------------------------

    def _parent(self, node: Node) -> Chain:
        return self._chain(node.inputs[0] if node.inputs else None)

    def _chain(self, index: int | None) -> Chain:
        return Chain() if index is None else self.result.outcomes[index].chain

    def _sources(self, node: Node) -> tuple[Chain, ...]:
        return tuple(self._chain(i) for i in node.inputs)

    def _quick(self, node: Node) -> bool:
        """Answer what needs no reading of files; a hit costs one look-up."""
        op = node.op
        if isinstance(op, ImageOp):
            self._finish(node, Outcome(self._images[op.digest], None, True, op.digest, 0.0))
            return True
        if isinstance(op, CopyOp | HttpOp | GitOp) or (isinstance(op, ExecOp) and op.mounts):
            return False
        return self._hit(node, self._key(node))

    def _key(self, node: Node) -> NodeKey:
        key = self._keys.get(node.id)
        if key is None:
            parent, sources = self._parent(node), self._sources(node)

            def progress(text: str, done: int, total: int) -> None:
                self._start(node, "what its server has is not in the store")
                self._emit(ev.NodeProgress(self.now(), node.id, text, done, total))

            begun = time.monotonic()
            try:
                key = self._identifier.key(node, parent, sources, progress)
            except BuildgraphError as error:
                looks_again = isinstance(error, ChangedWhileReading) and node.id not in self._again
                if not looks_again and not isinstance(error, Interrupted):
                    self._failed(node, time.monotonic() - begun, error)
                raise
            self._keys[node.id] = key
        return key

    def _start(self, node: Node, reason: str, expected: float | None = None) -> None:
        """Tell once that a node is being worked on, be it for its key alone."""
        if node.id in self._begun:
            return
        self._begun.add(node.id)
        worker, began = self._taken.get(node.id, (None, self.now()))
        self._emit(
            ev.NodeStarted(
                self.now(),
                node.id,
                node.label,
                node.title,
                node.stage,
                reason,
                expected,
                node.where,
                node.needs,
                worker,
                began,
            )
        )

    def _failed(self, node: Node, seconds: float, error: BuildgraphError) -> None:
        worker, began = self._taken.pop(node.id, (None, self.now()))
        key = self._keys.get(node.id)
        self._emit(
            ev.NodeFailed(
                self.now(),
                node.id,
                node.label,
                node.title,
                seconds,
                error,
                node.stage,
                node.needs,
                worker,
                began,
                key.digest if key else "",
                _told(self._reasons.pop(node.id, ())),
            )
        )

    def _hit(self, node: Node, key: NodeKey) -> bool:
        if self._bypassed(node):
            return False
        record = records.load_node(self._store, key.digest)
        if record is None:
            return False
        if record.layer is not None and not self._layers.available(record.layer):
            return False
        parent = self._parent(node)
        chain = parent if record.layer is None else parent.push(record.layer)
        if (why := self._made.get(key.digest)) is not None:  # of another node, which is the same
            slots = self._graph.slots(node)
            records.save_slots(self._store, slots, key.digest, record.seconds, why)
        self._finish(node, Outcome(chain, record.layer, True, key.digest, record.seconds))
        return True

    def _bypassed(self, node: Node) -> bool:
        return self._options.no_cache or (
            bool(self._options.no_cache_stages)
            and node.stage.lower() in self._options.no_cache_stages
        )

    def _slow(self, node: Node) -> None:
        """Build a node; files that changed under our eyes are looked at once more (R34)."""
        try:
            self._build(node)
        except ChangedWhileReading as error:
            self._emit(ev.Notice(self.now(), f"{error.message}; looking again", "warning"))
            self._keys.pop(node.id, None)
            self._identifier.look_again(node)
            self._again.add(node.id)
            self._build(node)

    def _build(self, node: Node) -> None:
        key = self._key(node)
        if self._hit(node, key):
            return

        def waiting(text: str) -> None:
            self._emit(ev.Notice(self.now(), f"{node.label} {node.title}: {text}"))

        with self._store.key_lock(key.digest, on_wait=waiting):
            # Whoever held the lock may have built it meanwhile.
            if not self._hit(node, key):
                self._execute(node, key)

    def _execute(self, node: Node, key: NodeKey) -> None:
        slot = records.load_slot(self._store, node.slot)
        reasons = self._explain(key, slot)
        self._foresee(node)
        self._reasons[node.id] = reasons
        begun = time.monotonic()
        self._start(node, str(reasons[0]) if reasons else "", slot.seconds if slot else None)
        work = Work(
            node,
            key,
            self._parent(node),
            self._sources(node),
            self._want_directory[node.id],
            lambda data: self._emit(ev.NodeOutput(self.now(), node.id, data)),
            lambda text, done, total: self._emit(
                ev.NodeProgress(self.now(), node.id, text, done, total)
            ),
            self._cancel,
        )
        try:
            layer = self._executors[type(node.op)].execute(work)
        except BuildgraphError as error:
            if isinstance(error, ChangedWhileReading) and node.id not in self._again:
                raise
            if isinstance(error, BuildFailed) and not error.label:
                error.label = node.label
            if error.where is None:
                error.where = node.where
            self._failed(node, time.monotonic() - begun, error)
            raise
        seconds = time.monotonic() - begun
        records.save_node(self._store, key, layer, seconds)
        records.save_slots(self._store, self._graph.slots(node), key.digest, seconds, reasons)
        self._made[key.digest] = reasons
        parent = self._parent(node)
        chain = parent if layer is None else parent.push(layer)
        self._finish(node, Outcome(chain, layer, False, key.digest, seconds))

    def _foresee(self, node: Node) -> None:
        """Have the sandbox made ready at the first miss that leads to a command."""
        runs = isinstance(node.op, ExecOp | PackagesOp) or self._want_directory[node.id]
        with self._guard:
            warm_up, self._warm_up = (self._warm_up, None) if runs else (None, self._warm_up)
        if warm_up is not None:
            warm_up()

    def _explain(self, key: NodeKey, slot: records.SlotRecord | None) -> tuple[Reason, ...]:
        if self._options.no_cache:
            return (Reason("--no-cache"),)
        return explain_key(self._store, key, slot)

    def _finish(self, node: Node, outcome: Outcome) -> None:
        self._keys.pop(node.id, None)
        self._identifier.done(node)
        with self._guard:
            self.result.outcomes[node.id] = outcome
            if outcome.cached:
                self.result.cached += 1
            else:
                self.result.built += 1
        layer = outcome.layer
        worker, began = self._taken.pop(node.id, (None, self.now()))
        reasons = self._reasons.pop(node.id, ())
        self._emit(
            ev.NodeFinished(
                self.now(),
                node.id,
                node.label,
                node.title,
                outcome.cached,
                outcome.seconds,
                layer.diff_id if layer else "",
                layer.size if layer else 0,
                node.stage,
                node.where,
                node.needs,
                worker,
                began,
                outcome.key,
                _told(reasons),
            )
        )

    def _deliver(self, index: int, delivery: Delivery) -> None:
        worker, began = self._taken[index]
        try:
            made = delivery.deliver(self.result.outcomes)
        except BuildgraphError:
            self._spent[index] = self.now() - began
            raise
        built = replace(made, time=self.now(), needs=delivery.needs, worker=worker, began=began)
        with self._guard:
            if isinstance(built, ev.ImageBuilt):
                self.result.images.append(built)
            else:
                self.result.smokes.append(built)
        self._emit(built)


def _told(reasons: Sequence[Reason]) -> tuple[str, ...]:
    """Return reasons in words; of very many the first, for each event is kept and sent on."""
    told = tuple(str(reason) for reason in reasons[:_REASONS])
    more = len(reasons) - len(told)
    return (*told, f"and {more:,} more") if more else told


def explain_key(store: Store, key: NodeKey, slot: records.SlotRecord | None) -> tuple[Reason, ...]:
    """Return why `key` is not what was last built in its slot."""
    if slot is None:
        return differences(None, key.preimage)
    if slot.key == key.digest:
        return (Reason("its result is no longer in the store"),)
    record = records.load_node(store, slot.key)  # type: ignore[arg-type]  # a Digest as stored
    if record is None:
        return (Reason("what was built here before is no longer in the store"),)
    old, new = record.preimage, key.preimage
    if "files" in old and "files" in new and isinstance(new["files"], str):
        before = records.load_listing(store, str(old["files"]))
        after = records.load_listing(store, new["files"])
        return differences(old, new, before, after)
    return differences(old, new)
