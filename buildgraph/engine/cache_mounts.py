"""Knows which directory of the store a `--mount=type=cache` means, what it begins with and who
shares it; must not know what steps keep there.

A directory belongs to a namespace, an id, and what it began with: the files of `from`, or else an
owner and a mode. Another beginning is another directory (shared reference, 1.6).
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from msgspec import Struct

from buildgraph.engine.sources import Sources
from buildgraph.engine.work import Work
from buildgraph.errors import HostError, Interrupted, Location
from buildgraph.filetree import FileStat
from buildgraph.graph.ops import ExecOp, RunMount
from buildgraph.sandbox.spec import Bind
from buildgraph_cache.mounts import Sharing
from buildgraph_cache.store import Store


class Owner(Struct, frozen=True):
    """Whose a mount is, and its mode."""

    uid: int
    gid: int
    mode: int


_ROOTS = Owner(0, 0, 0o755)


class _Wanted(Struct, frozen=True):
    """One cache mount of a step; `index` is its place among the step's mounts."""

    index: int
    mount: RunMount
    identity: str
    sharing: Sharing
    id: str
    namespace: str


def has_source(mount: RunMount) -> bool:
    """Say whether a mount shows files of a stage, an image or a context."""
    return mount.input is not None or mount.context is not None


class CacheMounts:
    """Opens the cache mounts of steps."""

    def __init__(self, store: Store, sources: Sources):
        self._store = store
        self._sources = sources

    def open(self, work: Work, op: ExecOp, stack: ExitStack) -> dict[int, Bind]:
        """Return the directories of a step's cache mounts, by their places among its mounts.

        They are ours until `stack` ends. All are taken in one order, the same for every step, so
        that two steps never wait for each other. Raises Interrupted when the build is stopped
        meanwhile.
        """
        wanted = [
            self._wanted(work, index, mount)
            for index, mount in enumerate(op.mounts)
            if mount.type == "cache"
        ]
        strongest = {w.identity: "shared" for w in wanted}
        strongest |= {w.identity: "locked" for w in wanted if w.sharing == "locked"}
        held: dict[str, str] = {}
        out: dict[int, Bind] = {}
        for one in sorted(wanted, key=lambda w: (w.identity, w.sharing)):
            if one.sharing == "private":
                path = self._hold(work, one, "private", stack)
            elif one.identity in held:  # twice in one step: it must not wait for itself
                path = held[one.identity]
            else:
                sharing: Sharing = "locked" if strongest[one.identity] == "locked" else "shared"
                path = held[one.identity] = self._hold(work, one, sharing, stack)
            out[one.index] = _bind(one.mount, path)
        return out

    def _wanted(self, work: Work, index: int, mount: RunMount) -> _Wanted:
        options = dict(mount.options)
        base: object
        if has_source(mount):
            base = self._sources.mounted(mount, work.sources, work.node.where)
        else:
            owner = _owner(mount, None)
            base = [owner.uid, owner.gid, owner.mode]
        namespace, id_ = options.get("namespace", ""), options.get("id") or mount.target
        identity = json.dumps(["cache mount", namespace, id_, base])
        sharing: Sharing = options.get("sharing", "shared")  # type: ignore[assignment]  # checked
        return _Wanted(index, mount, identity, sharing, id_, namespace)

    def _hold(self, work: Work, one: _Wanted, sharing: Sharing, stack: ExitStack) -> str:
        about = {
            "id": one.id,
            "namespace": one.namespace,
            "path": one.mount.target,
            "target": work.node.label,
        }
        held = self._store.cache_mount(
            one.identity,
            sharing,
            about,
            prepare=self._preparation(work, one.mount),
            on_wait=lambda text: work.progress(f"{text}: {one.id}", 0, 0),
            cancelled=work.cancel.is_set,
        )
        try:
            return stack.enter_context(held)
        except InterruptedError:
            raise Interrupted("interrupted") from None

    def _preparation(self, work: Work, mount: RunMount) -> Callable[[str], None]:
        def prepare(directory: str) -> None:
            where = work.node.where
            stat = None
            if has_source(mount):
                stat = self._sources.top(mount, work.sources, where)
                self._sources.copy_to(mount, work.sources, where, directory)
            _settle(directory, _owner(mount, stat), where)

        return prepare


def _owner(mount: RunMount, stat: FileStat | None) -> Owner:
    """Return whose a new directory is: as the options say, else as the source's, else root's."""
    of_source = _ROOTS if stat is None else Owner(stat.uid, stat.gid, stat.mode)
    return owner_of(dict(mount.options), of_source)


def owner_of(options: Mapping[str, str], default: Owner) -> Owner:
    """Return what `uid`, `gid` and `mode` of a mount say, and the default's where they do not."""
    return Owner(
        int(options.get("uid", default.uid)),
        int(options.get("gid", default.gid)),
        int(options["mode"], 8) if "mode" in options else default.mode,
    )


def _settle(directory: str, owner: Owner, where: Location) -> None:
    try:
        os.chown(directory, owner.uid, owner.gid)
        os.chmod(directory, owner.mode & 0o7777)
    except OSError as error:
        raise HostError(
            f"a cache mount cannot be given to {owner.uid}:{owner.gid}: {error.strerror}",
            where,
            "give your user a range in /etc/subuid and /etc/subgid" if os.getuid() == 0 else None,
        ) from error


def _bind(mount: RunMount, path: str) -> Bind:
    options = dict(mount.options)
    read_only = options.get("readonly") == "true"
    source = "" if has_source(mount) else options.get("source", "")
    return Bind(path, mount.target, read_only, posixpath.normpath(f"/{source}").strip("/"))
