"""Knows the `debian` rule as the engine calls it: resolve, fetch, build, configure the image; must
not know how any of these is done.

Heavy parts are imported inside functions: a build with nothing to do only needs `SPEC`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from buildgraph.boxfile.target import Target
from buildgraph.errors import BuildgraphError, HostError, InputError, Interrupted, Location
from buildgraph.oci.types import ImageConfig, Platform
from buildgraph_cache.digest import Digest
from buildgraph_rules.debian.spec import SPEC

if TYPE_CHECKING:
    from buildgraph.graph.ops import PackagesOp
    from buildgraph_rules.debian.configure import Run
    from buildgraph_rules.debian.control import Index
    from buildgraph_rules.debian.lock import Lock
    from buildgraph_rules.debian.pins import Pin, Resolution
    from buildgraph_rules.debian.request import Archives
    from buildgraph_rules.debian.storage import BlobStore, Progress

    Indices = dict[tuple[Archives, str], list[Index]]

__all__ = [
    "RECORD",
    "SPEC",
    "architecture_of",
    "build_root",
    "config",
    "fetch",
    "packages_op",
    "platforms",
    "resolve",
]

RECORD: Final = "debian-resolution"
PROFILE: Final = "debian/1"  # the recipe's version: part of the key of what build_root makes
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PARALLEL: Final = 8
_EPOCH: Final = 315532800  # 1980-01-01T00:00:00Z


def _silent(_text: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def platforms(target: Target) -> tuple[str, ...]:
    """Return the platforms the target names, () for this machine's."""
    return target.texts("platforms")


def architecture_of(platform: Platform, target: Target) -> str:
    """Return Debian's name for a platform. Raises InputError where Debian has none."""
    from buildgraph_rules.debian.pins import ARCHITECTURES

    name = "/".join(filter(None, (platform.architecture, platform.variant)))
    found = ARCHITECTURES.get(name) or ARCHITECTURES.get(platform.architecture)
    if platform.os != "linux" or found is None:
        raise InputError(f"Debian has no architecture for {platform}", target.where)
    return found


def resolve(
    target: Target,
    platform: Platform,
    *,
    store: BlobStore,
    workspace: str = "",
    lock: Lock | None = None,
    offline: bool = False,
    refresh: bool = False,
    progress: Progress = _silent,
    known_indices: Indices | None = None,
) -> Resolution:
    """Return the exact packages of a target.

    From `lock` where it has the target; else as resolved before, from the store; else from the
    archives' indices, verified. `refresh` asks the archives again, `offline` never does.
    `workspace` is the root that relative keyrings start from. `known_indices` keeps what was read
    for the next target of the same archives. Raises InputError, HostError.
    """
    from buildgraph_rules.debian.lock import read_lock, write_lock
    from buildgraph_rules.debian.request import archives, request_digest

    architecture = architecture_of(platform, target)
    label = str(target.label)
    request = request_digest(target, architecture)
    pinned = lock.get((label, architecture)) if lock is not None else None
    if pinned is not None:
        if pinned.request != request:
            raise InputError(
                f"the lock file is out of date: {label} was changed since it was written",
                target.where,
                hint="run `buildgraph lock`",
            )
        return pinned
    sources = archives(target, architecture, workspace)
    key = _memo_key(label, request, sources)
    known = None if refresh else store.get_record(RECORD, key)
    if known is not None:
        found = read_lock(known.decode(), "resolution")
        return _unlocked(found[label, architecture])
    if offline:
        raise HostError(
            f"{label} was never resolved here, and the build is offline",
            target.where,
            hint="build once with the network, or use a lock file",
        )
    kept = {} if known_indices is None else known_indices
    resolution = _ask_archives(target, architecture, request, sources, store, progress, kept)
    store.put_record(RECORD, key, write_lock([resolution]).encode())
    return resolution


def fetch(
    resolution: Resolution,
    store: BlobStore,
    *,
    progress: Progress = _silent,
    cancel: threading.Event | None = None,
) -> list[str]:
    """Return the paths of all .deb files, in the order of the pins; missing ones are downloaded.

    Parallel, resumed where a former call was cut off, in the store only with the right digest.
    Idempotent. Raises HostError, also for a file that is gone from the archive, and Interrupted.
    """
    from concurrent.futures import ThreadPoolExecutor

    from buildgraph.transport.failures import NotFound
    from buildgraph_rules.debian.mirrors import Mirrors
    from buildgraph_rules.debian.request import logins, with_login
    from buildgraph_rules.debian.storage import fetch_blob

    missing = [pin for pin in resolution.pins if not store.has_blob(pin.digest)]
    if missing:
        tally = _Tally(progress, sum(pin.size for pin in missing))
        mirrors = Mirrors(cancel)
        known = logins(resolution.architecture)

        def one(pin: Pin) -> None:
            uri = with_login(resolution.uri(pin), known)
            try:
                fetch_blob(store, mirrors, [uri], pin.digest, pin.size, tally.of(pin.name))
            except NotFound as error:
                tally.stopped = True
                raise _gone(resolution, pin) from error
            except BaseException:
                tally.stopped = True
                raise

        pool = ThreadPoolExecutor(_PARALLEL, "debian-fetch")
        try:
            # Large ones first: the last to finish should not be the last to start
            jobs = [pool.submit(one, pin) for pin in sorted(missing, key=lambda pin: -pin.size)]
            _first_error([job.exception() for job in jobs])
        finally:
            tally.stopped = True
            pool.shutdown(cancel_futures=True)
            mirrors.close()
    return [store.blob_path(pin.digest) for pin in resolution.pins]


def build_root(
    resolution: Resolution,
    debs: Sequence[str],
    directory: str,
    run: Run,
    *,
    op: PackagesOp,
    where: Location,
    epoch: int = _EPOCH,
    note: Callable[[str], None] = lambda _text: None,
) -> None:
    """Make the root file system in `directory`, which is empty and ours alone. Not atomic.

    `debs` are the paths from `fetch`, `op` is the node's. `run(argv, env, root)` runs a command as
    uid 0 with `root` as its root, cwd / and umask 022, with /proc and a small /dev, and raises
    where it fails. The same packages give the same tree, but for times: those the committer sets.
    """
    from buildgraph_rules.debian.rootfs import build, read_all

    packages = read_all(debs)
    for pin, deb in zip(resolution.pins, packages, strict=True):
        found = (deb.name, deb.package.version, deb.package.architecture)
        if found != (pin.name, pin.version, pin.architecture):
            raise HostError(
                f"{resolution.uri(pin)} holds {' '.join(found)}, not what the index says"
            )
    build(
        packages,
        directory,
        run,
        configured=op.configure,
        files=op.files,
        epoch=epoch,
        where=where,
        note=note,
    )


def packages_op(target: Target, resolution: Resolution) -> PackagesOp:
    """Return the node's op: everything that decides about the result of `build_root`."""
    from buildgraph_rules.debian import pins

    return pins.packages_op(resolution, configure=target.flag("configure"))


def config(target: Target, platform: Platform, resolution: Resolution) -> ImageConfig:
    """Return how containers of the image run."""
    env = dict(target.pairs("env"))
    env = {"PATH": env.pop("PATH", PATH), **env}
    entrypoint = target.texts("entrypoint") if target.value("entrypoint").given else None
    if target.value("cmd").given:
        cmd: tuple[str, ...] | None = target.texts("cmd")
    else:
        cmd = ("/bin/bash",) if resolution.has("bash") and entrypoint is None else None
    return ImageConfig(
        platform=platform,
        env=tuple(env.items()),
        entrypoint=entrypoint,
        cmd=cmd,
        user=target.text("user") or "",
        working_dir=target.text("working_dir") or "",
        labels=target.pairs("labels"),
    )


def _ask_archives(
    target: Target,
    architecture: str,
    request: Digest,
    sources: Archives,
    store: BlobStore,
    progress: Progress,
    known: Indices,
) -> Resolution:
    from buildgraph_rules.debian.archive import load_indices
    from buildgraph_rules.debian.control import Universe
    from buildgraph_rules.debian.mirrors import Mirrors
    from buildgraph_rules.debian.request import pinned, requests
    from buildgraph_rules.debian.resolve import resolve as solve

    try:
        indices = known.get((sources, architecture))
        if indices is None:
            with Mirrors() as mirrors:
                indices = load_indices(sources, architecture, store, mirrors, progress, time.time())
            known[sources, architecture] = indices
    except HostError as error:
        raise HostError(error.message, error.where or target.where, error.hint) from error
    progress("resolving", 0, 0)
    try:
        packages = solve(
            Universe(indices, architecture),
            requests(target, architecture),
            target.where,
            essential=target.flag("essential"),
            recommends=target.flag("recommends"),
        )
        return pinned(target, architecture, request, sources, packages)
    except (ValueError, KeyError) as error:
        raise HostError(f"an index of the archive is damaged: {error}", target.where) from error


def _memo_key(label: str, request: Digest, sources: Archives) -> str:
    words = [RECORD, label, request, [repr(source) for source in sources]]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _unlocked(resolution: Resolution) -> Resolution:
    from dataclasses import replace

    return replace(resolution, locked=False)


def _gone(resolution: Resolution, pin: Pin) -> HostError:
    hint = (
        "archives keep only current versions: run `buildgraph lock` for new pins, "
        "or lock against a snapshot archive"
        if resolution.locked
        else "the archive has moved on: build with --pull to ask it again"
    )
    return HostError(
        f"package {pin.name} {pin.version} is gone from the archive ({resolution.uri(pin)})",
        hint=hint,
    )


def _first_error(errors: Sequence[BaseException | None]) -> None:
    """Raise the error that says most: not the interruption that another one caused."""
    found = [error for error in errors if error is not None]
    own = [e for e in found if isinstance(e, BuildgraphError) and e.exit_code != 130]
    if own or found:
        raise (own or found)[0]


class _Tally:
    """Adds up what several threads have fetched. Each writes its own slot only.

    Once it is `stopped`, for one has failed, the others end at their next chunk.
    """

    def __init__(self, progress: Progress, total: int):
        self._progress = progress
        self._total = total
        self._done: dict[str, int] = {}
        self.stopped = False

    def of(self, name: str) -> Callable[[int], None]:
        """Return what one download reports to."""

        def grew(length: int) -> None:
            if self.stopped:
                raise Interrupted("the download was stopped")
            self._done[name] = length
            done = sum(list(self._done.values()))
            self._progress("packages", min(done, self._total), self._total)

        return grew
