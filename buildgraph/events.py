"""Knows what a build tells the outside while it goes on; must not know who listens.

Events are plain values. `time` is seconds on the monotonic clock since the build began. `worker`
says who did it, None being the thread that decides, and `began` when that one took it up: its key,
and a wait for somebody who builds the same, come after that and before `NodeStarted`.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from buildgraph.errors import BuildgraphError, Location


class BuildStarted(Struct, frozen=True):
    """The graph is known: `nodes` of it are to be visited for `targets`."""

    time: float
    targets: tuple[str, ...]
    nodes: int
    store: str
    jobs: int = 0  # workers there may be


class NodeStarted(Struct, frozen=True):
    """A node had no record and is being executed; `reason` says why it missed."""

    time: float
    node: int
    label: str  # "//app:image"
    title: str  # "RUN make", one line
    stage: str = ""
    reason: str = ""
    expected: float | None = None  # seconds it took last time
    where: Location | None = None
    needs: tuple[int, ...] = ()  # the nodes it stands on
    worker: int | None = None
    began: float | None = None


class NodeOutput(Struct, frozen=True):
    """Raw bytes a node's command wrote; any terminal tricks still inside."""

    time: float
    node: int
    data: bytes


class NodeProgress(Struct, frozen=True):
    """How far a transfer or an unpack has come; total 0 = unknown."""

    time: float
    node: int
    text: str
    done: int = 0
    total: int = 0


class NodeFinished(Struct, frozen=True):
    """A node has its result. `cached` nodes were not started."""

    time: float
    node: int
    label: str
    title: str
    cached: bool
    seconds: float
    layer: str = ""  # diff_id, "" where the node made none
    size: int = 0
    stage: str = ""
    where: Location | None = None
    needs: tuple[int, ...] = ()
    worker: int | None = None
    began: float | None = None
    key: str = ""
    reasons: tuple[str, ...] = ()  # why it was not cached: the first of them, and how many more


class NodeFailed(Struct, frozen=True):
    """A node said no."""

    time: float
    node: int
    label: str
    title: str
    seconds: float
    error: BuildgraphError
    stage: str = ""
    needs: tuple[int, ...] = ()
    worker: int | None = None
    began: float | None = None
    key: str = ""
    reasons: tuple[str, ...] = ()


class NodeCancelled(Struct, frozen=True):
    """A node was not run, or stopped, because another failed or the user asked."""

    time: float
    node: int
    label: str
    title: str
    stage: str = ""
    where: Location | None = None
    needs: tuple[int, ...] = ()


class Notice(Struct, frozen=True):
    """Something worth a line that belongs to no node: a warning, a wait, a sweep."""

    time: float
    text: str
    level: str = "info"  # info | warning
    where: Location | None = None


class ImageBuilt(Struct, frozen=True):
    """A requested target is complete."""

    time: float
    label: str
    digest: str  # of the manifest (or the index)
    config: str
    size: int  # compressed bytes of the layers where known, else uncompressed
    layers: int
    outputs: tuple[str, ...] = ()
    platform: str = ""
    needs: tuple[int, ...] = ()
    worker: int | None = None
    began: float | None = None


class SmokeStarted(Struct, frozen=True):
    """A smoke test begins to run; `reason` says why it has no verdict yet."""

    time: float
    label: str
    services: tuple[str, ...]
    checks: int
    reason: str = ""
    run: int = 1  # of --runs


class SmokeNote(Struct, frozen=True):
    """Something happened to a service of a smoke test: it started, is healthy, ended."""

    time: float
    label: str
    service: str
    text: str
    seconds: float  # since the test began


class CheckFinished(Struct, frozen=True):
    """A check of a smoke test was made; `complaints` say what is wrong."""

    time: float
    label: str
    check: str
    ok: bool
    seconds: float
    complaints: tuple[str, ...] = ()
    where: Location | None = None


class SmokeFinished(Struct, frozen=True):
    """A smoke test has its verdict; `reason` says why it ended before its checks did."""

    time: float
    label: str
    ok: bool
    cached: bool
    seconds: float
    passed: int
    failed: int
    reason: str = ""
    runs: int = 1
    runs_passed: int = 1
    needs: tuple[int, ...] = ()
    worker: int | None = None
    began: float | None = None


class BuildFinished(Struct, frozen=True):
    """Nothing more will come."""

    time: float
    ok: bool
    built: int
    cached: int
    failed: int
    cancelled: int
    critical_path: tuple[tuple[str, float], ...] = field(default=())


Event = (
    BuildStarted
    | NodeStarted
    | NodeOutput
    | NodeProgress
    | NodeFinished
    | NodeFailed
    | NodeCancelled
    | Notice
    | ImageBuilt
    | SmokeStarted
    | SmokeNote
    | CheckFinished
    | SmokeFinished
    | BuildFinished
)
Listener = Callable[[Event], None]
