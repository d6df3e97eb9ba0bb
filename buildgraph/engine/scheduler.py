"""Knows in which order ready nodes run and what a failure stops; must not know what a node does.

    WAITING --inputs done--> READY --quick answer--> DONE
                               \\--slot free--> RUNNING --> DONE | FAILED
    WAITING, READY --an input failed, or a stop--> SKIPPED

`_move` is the only place that changes a state, so the counts cannot drift. The calling thread
decides and answers the quick nodes itself; worker threads only run the slow ones. Among ready
nodes the one with the longest remaining path goes first.
"""

from __future__ import annotations

import enum
import heapq
import queue
import threading
from array import array
from collections.abc import Callable, Sequence

from buildgraph.errors import BuildgraphError, Interrupted, NoEmulator


class State(enum.Enum):
    """Where a node stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Scheduler:
    """Runs the nodes of a DAG once; use one instance for one run."""

    def __init__(
        self,
        inputs: Sequence[Sequence[int]],
        rank: Sequence[float],
        *,
        jobs: int,
        keep_going: bool = False,
        cancel: threading.Event | None = None,
    ):
        self._rank = rank
        self._jobs = max(1, jobs)
        self._keep_going = keep_going
        self.cancel = cancel or threading.Event()
        self.states = [State.WAITING] * len(inputs)
        self.counts = dict.fromkeys(State, 0)
        self.counts[State.WAITING] = len(inputs)
        self.errors: list[tuple[int, BaseException]] = []
        needs = [i if len(i) < 2 else sorted(set(i)) for i in inputs]
        self._missing = [len(i) for i in needs]
        self._users = _Users(needs)
        self._ready: list[tuple[float, int]] = []
        self._slow: list[tuple[float, int]] = []
        self._threads: list[threading.Thread] = []
        self._work: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()
        self._stopping = False
        self._here = threading.local()

    @property
    def worker(self) -> int | None:
        """The number of the worker that asks, None for the deciding thread."""
        number: int | None = getattr(self._here, "worker", None)
        return number

    def run(self, quick: Callable[[int], bool], slow: Callable[[int], None]) -> None:
        """Run everything; `quick(n)` answers at once and says False where `slow(n)` is needed.

        Promises that no worker is running when it returns or raises. Failures are kept in
        `errors`, in the order they happened; Interrupted is raised when `cancel` is set.
        """
        for node, missing in enumerate(self._missing):
            if missing == 0:
                self._move(node, State.READY)
        try:
            self._loop(quick, slow)
        except BaseException:
            self._stop()
            self._drain()
            raise
        finally:
            for _ in self._threads:
                self._work.put(None)
            for thread in self._threads:
                thread.join()
        if self.cancel.is_set() and not self.errors:
            raise Interrupted("interrupted")

    def _loop(self, quick: Callable[[int], bool], slow: Callable[[int], None]) -> None:
        while True:
            while self._ready and not self._stopping:
                item = heapq.heappop(self._ready)
                self._try(item, quick)
            while self._slow and not self._stopping and self._running < self._jobs:
                self._start(heapq.heappop(self._slow)[1], slow)
            if self._running == 0:
                if self._stopping or not (self._ready or self._slow):
                    break
                continue
            try:
                # A bounded wait lets the main thread see signals and a cancel from elsewhere.
                node, error = self._finished.get(timeout=0.2)
            except queue.Empty:
                if self.cancel.is_set():
                    self._stop()
                continue
            self._settle(node, error)
        for node, state in enumerate(self.states):
            if state in (State.WAITING, State.READY):
                self._move(node, State.SKIPPED)

    @property
    def _running(self) -> int:
        return self.counts[State.RUNNING]

    def _try(self, item: tuple[float, int], quick: Callable[[int], bool]) -> None:
        node = item[1]
        try:
            answered = quick(node)
        except BuildgraphError as error:
            self._settle(node, error)
            return
        if answered:
            self._settle(node, None)
        else:
            heapq.heappush(self._slow, item)

    def _start(self, node: int, slow: Callable[[int], None]) -> None:
        self._move(node, State.RUNNING)
        if len(self._threads) < min(self._jobs, self._running):
            number = len(self._threads)
            thread = threading.Thread(
                target=self._worker, args=(number, slow), name=f"worker-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._work.put(node)

    def _worker(self, number: int, slow: Callable[[int], None]) -> None:
        self._here.worker = number
        while True:
            node = self._work.get()
            if node is None:
                return
            error: BaseException | None = None
            try:
                slow(node)
            except BaseException as caught:  # noqa: BLE001 - the deciding thread gets it
                error = caught
            self._finished.put((node, error))

    def _settle(self, node: int, error: BaseException | None) -> None:
        if error is None:
            self._move(node, State.DONE)
            for user in self._users.of(node):
                self._missing[user] -= 1
                if self._missing[user] == 0 and self.states[user] is State.WAITING:
                    self._move(user, State.READY)
            return
        if isinstance(error, Interrupted) and self.errors:  # stopped because another failed
            self._move(node, State.SKIPPED)
            return
        self._move(node, State.FAILED)
        self.errors.append((node, error))
        goes_on = self._keep_going or isinstance(error, NoEmulator)  # the rest is kept for later
        if not isinstance(error, BuildgraphError) or not goes_on:
            self._stop()
        work = list(self._users.of(node))
        while work:
            user = work.pop()
            if self.states[user] is State.WAITING:
                self._move(user, State.SKIPPED)
                work.extend(self._users.of(user))

    def _stop(self) -> None:
        self._stopping = True
        self.cancel.set()

    def _drain(self) -> None:
        while self._running:
            node, error = self._finished.get()
            self._move(node, State.FAILED if error else State.DONE)

    def _move(self, node: int, state: State) -> None:
        self.counts[self.states[node]] -= 1
        self.counts[state] += 1
        self.states[node] = state
        if state is State.READY:
            heapq.heappush(self._ready, (-self._rank[node], node))


class _Users:
    """Who needs a node: two arrays, since a list for each of 100,000 nodes takes megabytes."""

    def __init__(self, inputs: Sequence[Sequence[int]]):
        """Take what each node needs, each once."""
        starts = array("i", bytes(4 * (len(inputs) + 1)))
        for needs in inputs:
            for need in needs:
                starts[need] += 1
        end = 0
        for node, count in enumerate(starts):
            end += count
            starts[node] = end
        self._users = array("i", bytes(4 * end))
        for node in range(len(inputs) - 1, -1, -1):  # so that those of a node are in order
            for need in inputs[node]:
                starts[need] -= 1
                self._users[starts[need]] = node
        self._starts = starts

    def of(self, node: int) -> array[int]:
        """Return the nodes that need this one, in order."""
        return self._users[self._starts[node] : self._starts[node + 1]]


def ranks(inputs: Sequence[Sequence[int]], seconds: Sequence[float]) -> Sequence[float]:
    """Return for each node the longest path of durations from it to an end (its own included).

    Nodes are in topological order, as a NodeGraph has them.
    """
    rank = array("d", seconds)
    for node in range(len(inputs) - 1, -1, -1):
        for need in inputs[node]:
            rank[need] = max(rank[need], seconds[need] + rank[node])
    return rank


def critical_path(inputs: Sequence[Sequence[int]], seconds: Sequence[float]) -> list[int]:
    """Return the nodes of the longest chain of durations, first to last."""
    best = [0.0] * len(inputs)
    before: list[int | None] = [None] * len(inputs)
    for node, needs in enumerate(inputs):
        for need in needs:
            if best[need] > best[node] or before[node] is None:
                best[node], before[node] = best[need], need
        best[node] += seconds[node]
    path: list[int] = []
    at: int | None = max(range(len(inputs)), key=best.__getitem__, default=None)
    while at is not None:
        path.append(at)
        at = before[at]
    return path[::-1]
