"""Knows how a RUN becomes a sandbox over the layers below and a layer of what it changed; must not
know how a sandbox is made.

A step that fails leaves its plan in the store (`failed/<id>.json`, secrets left out), so that
`buildgraph replay <id>` can run it again in the same sandbox.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.engine.masking import Masker
from buildgraph.engine.mounts import MountSources, Shown
from buildgraph.engine.users import user_of
from buildgraph.engine.work import Work
from buildgraph.errors import BuildFailed, BuildgraphError, HostError, Interrupted
from buildgraph.graph.ops import ExecOp
from buildgraph.oci.chains import directories
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Chain, Layer
from buildgraph.sandbox.host import MAX_LAYERS, ExitStatus, SandboxHost
from buildgraph.sandbox.spec import FileMount, Limits, SandboxSpec, to_json, without_secrets
from buildgraph_cache.scratch import Scratch
from buildgraph_cache.store import Store

SCRIPT = "/.buildgraph-script"
_TAIL_LINES = 20
_TITLE = 100  # characters
_TAIL_BYTES = 64 * 1024


class FailedStep(Struct, frozen=True):
    """A RUN that failed, as it left everything; `stack` lets go of that."""

    title: str
    spec: SandboxSpec
    scratch: Scratch
    stack: ExitStack


class ExecExecutor:
    """Executes `ExecOp`s."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        sandbox: SandboxHost,
        *,
        proxies: Mapping[str, str],
        mounts: MountSources,
        step_limits: Limits,
        hosts: Mapping[str, tuple[str, ...]] | None = None,
        keep_failed: Callable[[FailedStep], None] | None = None,
    ):
        """`hosts` says where the names lead that steps are given beside those of the network.

        `keep_failed` takes over what a failed step has left; it may be called by many threads.
        """
        self._store = store
        self._layers = layers
        self._sandbox = sandbox
        self._proxies = proxies
        self._mounts = mounts
        self._limits = step_limits
        self._hosts = hosts or {}
        self._keep_failed = keep_failed
        self._keeping = layers.keeping_times()

    def execute(self, work: Work) -> Layer | None:
        """Run the command; its changes become a layer, published as a directory."""
        op = work.node.op
        assert isinstance(op, ExecOp)
        below = RootView(self._layers, work.parent)
        with ExitStack() as stack:
            scratch = stack.enter_context(self._store.new_scratch())
            shown = stack.enter_context(self._mounts.opened(work, op))
            lowers = lower_directories(self._layers, work.parent)
            spec = self._spec(op, below, lowers, scratch.upper, scratch.work, shown, work)
            tail = Tail()
            masker = Masker(
                [
                    *(m.content for m in shown.mounts if isinstance(m, FileMount)),
                    *(v.encode("utf-8", "surrogateescape") for v in shown.env.values()),
                ]
            )

            def show(data: bytes) -> None:
                if data:
                    tail.add(data)
                    work.output(data)

            status = self._sandbox.run(spec, lambda data: show(masker.feed(data)), work.cancel)
            show(masker.finish())
            if status.log_truncated:
                show(b"\n[the rest is left out: more than %d bytes]\n" % self._limits.log)
            if work.cancel.is_set() and status.code != 0:
                raise Interrupted("interrupted")
            if status.code != 0 or status.signal:
                if self._keep_failed is not None:
                    failed = FailedStep(work.node.title, spec, scratch, stack.pop_all())
                    self._keep_failed(failed)
                raise self._failure(work, _without_values(spec, shown), status, tail)
            layers = self._keeping if op.preserve_times else self._layers
            return layers.commit(Path(scratch.upper), below)

    def _spec(
        self,
        op: ExecOp,
        below: RootView,
        lowers: Sequence[str],
        upper: str,
        work_dir: str,
        shown: Shown,
        work: Work,
    ) -> SandboxSpec:
        who = user_of(below, op.user, work.node.where)
        env = {**self._proxies, **dict(op.env), **shown.env}
        env.setdefault("HOME", who.home)
        args = op.args
        mounts = shown.mounts
        if op.script is not None:
            mounts = (*mounts, FileMount(SCRIPT, op.script, 0o555, who.uid, who.gid))
            args = (SCRIPT,)
        return SandboxSpec(
            lowers=tuple(lowers),
            upper=upper,
            work=work_dir,
            args=args,
            env=tuple(env.items()),
            cwd=op.cwd,
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            hostname=op.hostname,
            mounts=mounts,
            network=op.network,
            limits=replace(
                self._limits,
                shm=op.around.shm or self._limits.shm,
                ulimits=op.around.ulimits or self._limits.ulimits,
            ),
            hosts=tuple(f"{at}\t{name}" for name in op.around.hosts for at in self._hosts[name]),
            insecure=op.security == "insecure",
            architecture=work.node.platform.architecture,
        )

    def _failure(
        self, work: Work, spec: SandboxSpec, status: ExitStatus, tail: Tail
    ) -> BuildgraphError:
        identity = work.key.digest[7:19]
        saved = os.path.join(self._store.root, "failed", f"{identity}.json")
        try:
            os.makedirs(os.path.dirname(saved), mode=0o700, exist_ok=True)
            with open(saved, "w", encoding="utf-8") as file:
                file.write(to_json(spec))
        except OSError:
            identity = ""  # a full disk must not hide why the step failed
        return BuildFailed(
            f"{_short(work.node.title)} {status.describe(self._limits, self._sandbox.memory)}",
            work.node.where,
            log=tail.lines(),
            label=work.node.label,
            replay=f"buildgraph replay {identity}" if identity else "",
        )


def _short(title: str) -> str:
    """Return what is enough of a title where the line it came from is shown below."""
    return title if len(title) <= _TITLE else f"{title[: _TITLE - 1]}…"


def _without_values(spec: SandboxSpec, shown: Shown) -> SandboxSpec:
    """Return a spec that may be written down: no secrets, and nothing that ended with the step."""
    env = tuple((name, "" if name in shown.env else value) for name, value in spec.env)
    script = tuple(m for m in spec.mounts if isinstance(m, FileMount) and m.target == SCRIPT)
    gone = {SCRIPT, *shown.fleeting}
    rest = tuple(m for m in without_secrets(spec).mounts if m.target not in gone)
    return replace(spec, env=env, mounts=(*rest, *script))


class Tail:
    """The last lines of an output, in bounded memory."""

    def __init__(self) -> None:
        self._parts: collections.deque[bytes] = collections.deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Append output."""
        self._parts.append(data)
        self._size += len(data)
        while self._size - len(self._parts[0]) > _TAIL_BYTES:
            self._size -= len(self._parts.popleft())

    def lines(self, count: int = _TAIL_LINES) -> tuple[str, ...]:
        """Return the last lines."""
        text = b"".join(self._parts)[-_TAIL_BYTES:].decode("utf-8", "backslashreplace")
        return tuple(text.rstrip("\n").split("\n")[-count:]) if text else ()


def lower_directories(layers: LayerStore, chain: Chain) -> list[str]:
    """Return the chain's layers as directories, top first."""
    if len(chain.layers) > MAX_LAYERS:
        raise HostError(
            f"{len(chain.layers)} layers are below this step; overlayfs stacks {MAX_LAYERS}",
            hint="join RUN and COPY instructions, or start a stage from what is done so far",
        )
    return [str(path) for path in directories(layers, chain.layers[::-1])]
