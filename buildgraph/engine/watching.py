"""Knows what of the file system a build looked at, whether that has changed, and how to wait until
it may have; must not know what is built.

Waiting only wakes: whether something changed is told by looking again, so an event too many costs
one look and an event too few nothing but time. Directories are watched by inotify(7), anew after
each look, since a directory that was renamed takes its watch along; where that is not to be had,
a look every second does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from buildgraph.boxfile.loader import BOXFILE, DOCKERFILES
from buildgraph.closing import Closing
from buildgraph.context.ignore import IgnoreRules
from buildgraph.filetree import FileStat, Kind
from buildgraph.graph.ops import ContextSpec

QUIET: Final = 0.1  # seconds without an event, before it is looked
PATIENCE: Final = 2.0  # seconds after which it is looked although events go on
POLL: Final = 1.0  # seconds between two looks where nothing tells
_OURS: Final = frozenset((BOXFILE, *DOCKERFILES))
_SKIPPED: Final = frozenset(("node_modules", "__pycache__"))
_IN_CLOEXEC: Final = 0o2000000
_IN_NONBLOCK: Final = 0o4000
# linux/inotify.h: modify, attrib, close_write, moved_from, moved_to, create, delete, both of self
_MASK: Final = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
_IN_ONLYDIR: Final = 0x01000000

_Sign = tuple[int, int, int, int, int]


class Baseline(Struct):
    """What a build has seen; paths are absolute.

    `files` with what stat(2) said of them, `names` of directories by their path. `contexts` are
    (root, patterns that are ignored) and say which names of a directory matter; in `packages` only
    directories and our own files do.
    """

    files: dict[str, _Sign | None] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    contexts: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)
    stale: list[str] = field(default_factory=list)  # changed while it was being looked at


class Change(Struct, frozen=True):
    """A path that is not what it was; `what` is `changed`, `added` or `removed`."""

    path: str
    what: str


def baseline(
    root: str,
    observed: Iterable[str],
    seen: Iterable[tuple[str, FileStat]],
    contexts: Sequence[ContextSpec],
    since_ns: int,
) -> Baseline:
    """Return what was looked at by a build that began at the wall clock's `since_ns`.

    `observed` are files and directories relative to `root`, `seen` those of contexts as they were
    when they were read.
    """
    out = Baseline(contexts=[(c.root, c.ignore) for c in contexts if not c.fleeting])
    rules = _Rules(out)
    for path, status in seen:
        if status.kind is Kind.DIR:
            rules.note_directory(path, status)
        else:
            out.files[path] = _sign_of(status)
    for name in observed:
        path = os.path.normpath(os.path.join(root, name))
        if name.endswith("/") or os.path.isdir(path):
            out.packages.add(path)
            out.names[path] = rules.names(path)
        elif path not in out.files:
            sign = out.files[path] = _sign(path)
            # Read before we looked: what came since is not in what was built.
            if sign is not None and sign[2] >= since_ns:
                out.stale.append(path)
    return out


class _Rules:
    """Says which names of a directory matter."""

    def __init__(self, base: Baseline) -> None:
        self._base = base
        self._contexts = [
            (root, IgnoreRules.parse("\n".join(lines), root)) for root, lines in base.contexts
        ]

    def note_directory(self, path: str, status: FileStat) -> None:
        now = _sign(path)
        if now is None or (now[1], now[3]) != (status.mtime_ns, status.ino):
            self._base.stale.append(path)
        self._base.names[path] = self.names(path)

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory that matter, sorted; none of one that is not there."""
        inside = [
            (os.path.relpath(directory, root), ignore)
            for root, ignore in self._contexts
            if directory == root or directory.startswith(root.rstrip("/") + "/")
        ]
        out: list[str] = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    is_dir = entry.is_dir(follow_symlinks=False)
                    if self._package_name(directory, entry.name, is_dir) or any(
                        not ignore.excludes(_below(above, entry.name), is_dir)
                        for above, ignore in inside
                    ):
                        out.append(entry.name)
        except OSError:
            return []
        return sorted(out)

    def _package_name(self, directory: str, name: str, is_dir: bool) -> bool:
        if directory not in self._base.packages:
            return False
        if is_dir:
            return not name.startswith(".") and name not in _SKIPPED
        return name in _OURS


def _below(directory: str, name: str) -> str:
    return name if directory == "." else f"{directory}/{name}"


def _sign_of(status: FileStat) -> _Sign:
    return (status.size, status.mtime_ns, status.ctime_ns, status.ino, status.mode)


def _sign(path: str) -> _Sign | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    mode = stat.S_IMODE(found.st_mode)
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, mode)


def changes(base: Baseline) -> list[Change]:
    """Return what is not as it was, sorted; empty where a build would find what it found."""
    found: dict[str, str] = dict.fromkeys(base.stale, "changed")
    for path, sign in base.files.items():
        now = _sign(path)
        if now != sign:
            found[path] = "removed" if now is None else "changed" if sign else "added"
    rules = _Rules(base)
    for directory, names in base.names.items():
        now_names = rules.names(directory)
        if now_names != names:
            for name in set(now_names) - set(names):
                found[os.path.join(directory, name)] = "added"
            for name in set(names) - set(now_names):
                found[os.path.join(directory, name)] = "removed"
    return [Change(path, found[path]) for path in sorted(found)]


# --- waiting ----------------------------------------------------------------------------------


class Waiter(Closing):
    """Waits until something may have changed in what a baseline names; a context manager."""

    def __init__(self, *, poll: bool = False) -> None:
        """With `poll` the kernel is not asked."""
        self._fd = -1
        self.polling = poll

    def close(self) -> None:
        """Give the watches back; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def watch(self, base: Baseline) -> int:
        """Watch the directories of a baseline instead of those before; returns how many.

        Falls back to polling, for good, where the kernel has no watches left.
        """
        self.close()
        places = sorted(_places(base))
        if self.polling:
            return len(places)
        try:
            self._fd = _call("inotify_init1", _IN_CLOEXEC | _IN_NONBLOCK)
            for path in places:
                try:
                    _call("inotify_add_watch", self._fd, os.fsencode(path), _MASK | _IN_ONLYDIR)
                except (FileNotFoundError, NotADirectoryError, PermissionError):
                    continue
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EMFILE, errno.ENOSYS, errno.ENOMEM):
                raise
            self.close()
            self.polling = True
        return len(places)

    def wait(self) -> None:
        """Return once something may have changed and it has been quiet for a moment."""
        if self.polling:
            time.sleep(POLL)
            return
        # Not for ever: a signal that comes right before the call does not interrupt it.
        while not select.select([self._fd], [], [], POLL)[0]:
            pass
        end = time.monotonic() + PATIENCE
        while select.select([self._fd], [], [], QUIET)[0] and time.monotonic() < end:
            self._drain()
        self._drain()

    def _drain(self) -> None:
        try:
            while os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            pass


def _places(base: Baseline) -> Iterator[str]:
    """Yield the directories to watch: those of a baseline, of its files, and what stands above."""
    wanted = {*base.names, *(os.path.dirname(path) for path in base.files)}
    wanted |= {os.path.dirname(root) for root, _ in base.contexts}
    done: set[str] = set()
    for path in wanted:
        here = path
        while here not in done and not os.path.isdir(here):
            here = os.path.dirname(here)  # what is gone may come back
        if here not in done:
            done.add(here)
            yield here


def _call(name: str, *args: int | bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(libc, name)(*args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


# --- as JSON ----------------------------------------------------------------------------------


def as_json(base: Baseline) -> Mapping[str, object]:
    """Return a baseline as JSON values, for another process."""
    return {
        "files": base.files,
        "names": base.names,
        "contexts": base.contexts,
        "packages": sorted(base.packages),
        "stale": base.stale,
    }


def from_json(value: Mapping[str, object]) -> Baseline:
    """Return the baseline that `as_json` has made a value of."""
    files = value["files"]
    names, contexts, packages, stale = (
        value[key] for key in ("names", "contexts", "packages", "stale")
    )
    assert isinstance(files, dict)
    assert isinstance(names, dict)
    assert isinstance(contexts, list)
    assert isinstance(packages, list)
    assert isinstance(stale, list)
    return Baseline(
        {path: None if sign is None else (*sign,) for path, sign in files.items()},
        names,
        [(root, tuple(patterns)) for root, patterns in contexts],
        set(packages),
        stale,
    )
