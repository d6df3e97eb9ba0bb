"""Knows the files of one local directory as a build sees them; must not know what they are for.

Directories are read lazily, each once, through descriptors below the root's own; no symbolic link
is followed, so what is swapped for a link while we read is an error and never a way out (A01,
A04). What is not a regular file is seen and never opened (A05). A file's digest is taken from the
bytes of one descriptor, whose metadata is the same before and after as when the directory was
read; `open` asks the same again, so that the bytes copied later are those that were hashed or
there is an error (R34). Metadata do not show a write(2) that is still going on, because the
kernel stamps a file when the call begins: a file younger than that can last is not told to the
stat cache, and is hashed again when it is opened.

Owners: a context's files belong to 0:0, because who checked them out says nothing. Permission
bits stay as they are. Of the extended attributes `user.*` (but not overlayfs' own) and
`security.capability` are kept; ACLs and labels are not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as bits
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from buildgraph.closing import Closing
from buildgraph.context.ahead import SMALL, in_batches
from buildgraph.context.ignore import IgnoreRules
from buildgraph.context.observation import Directory, Found, Observation, Row, fingerprint, settled
from buildgraph.context.parallel import halves, in_threads
from buildgraph.context.reading import Reader, cannot_read, changed, kept_xattrs
from buildgraph.context.remembered import Contents, Room, StatCache
from buildgraph.errors import InputError, Location
from buildgraph.filetree import FileStat, Kind, name_order
from buildgraph.rootpath import Root
from buildgraph_cache.digest import Digest

_KINDS: Final = {
    bits.S_IFREG: Kind.FILE,
    bits.S_IFLNK: Kind.SYMLINK,
    bits.S_IFCHR: Kind.CHAR,
    bits.S_IFBLK: Kind.BLOCK,
    bits.S_IFDIR: Kind.DIR,
    bits.S_IFIFO: Kind.FIFO,
    bits.S_IFSOCK: Kind.SOCKET,
}
_TYPE_BITS: Final = {kind: type_bits for type_bits, kind in _KINDS.items()}
_Listing = list[tuple[str, FileStat]]
_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_YOUNG_NS: Final = 100_000_000  # no single write(2) to a file we also read lasts longer


class ContextTree(Closing):
    """A directory under ignore rules, as a `filetree.FileTree`. Close it when done.

    What the rules leave out does not exist here; a directory that they leave out exists where it
    holds something that `!` brings back. Safe to share between threads: all that can
    happen is that two of them do the same work.
    """

    def __init__(
        self,
        root: str,
        ignore: IgnoreRules,
        stat_cache: StatCache,
        *,
        owners: bool = False,
        room: Room | None = None,
    ):
        """Open `root`, which is trusted and may be reached by links. Raises InputError.

        With `owners` the files have theirs; else all are root's, whoever has checked them out.
        `room` is for the bytes of small files, see `kept`; none are kept without.
        """
        self._contents = Contents(room or Room(0))
        self._owners = owners
        self.root = root
        self._ignore = ignore
        self._cache = stat_cache
        self._lists: dict[str, dict[str, FileStat]] = {}
        self._seen: dict[str, _Listing] = {}  # of each directory read: with what is left out
        self._shown: dict[str, bool] = {}
        self._digests: dict[str, Digest] = {}
        self._last = threading.Lock()  # held while the descriptor of `_last_dir` is used
        self._last_dir: tuple[str, int] = ("", -1)
        self._expected: Iterator[Sequence[str]] = iter(())
        self._left = 0  # files of the present batch of these that were not opened yet
        self._young: set[str] = set()  # hashed when it had just been written
        self._bare: set[str] = set()  # files that are known to have no attributes
        self._reader = Reader()
        try:
            self._root = Root.at(root)
        except OSError as error:
            raise InputError(f"cannot read the context {root}: {error.strerror}") from error
        self._top = _stat_of(os.fstat(self._root.fd), owners=owners)
        self._began_ns = time.time_ns()

    def close(self) -> None:
        """Close the root; a second call does nothing."""
        self._contents.clear()
        with self._last:
            if self._last_dir[1] >= 0:
                os.close(self._last_dir[1])
            self._last_dir = ("", -1)
        self._root.close()

    # --- what is there ---------------------------------------------------------------------

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path`, or None where nothing is or the rules leave it out."""
        if not path:
            return self._top
        parent, _, name = path.rpartition("/")
        found = self._walk_to(parent)
        return found.get(name) if found is not None else None

    def list(self, path: str) -> _Listing:
        """Return the entries of a directory, in the order of their bytes.

        Raises NotADirectoryError, FileNotFoundError.
        """
        found = self._walk_to(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return list(found.items())

    def hidden(self, path: str) -> str | None:
        """Return the pattern that leaves `path` out, if something is there; else None."""
        pattern = self._ignore.excluded_by(path)
        if pattern is None:
            return None
        try:
            os.close(self._root.open(path, os.O_PATH | os.O_NOFOLLOW, follow=False))
        except OSError:
            return None
        return pattern

    @property
    def ignore_name(self) -> str:
        """What the file with the rules is called."""
        return self._ignore.name

    def _walk_to(self, path: str) -> dict[str, FileStat] | None:
        """Return the visible entries of a directory; None where it is none of this tree."""
        found = self._lists.get(path)
        if found is not None:
            return found
        if path and self._parent_stat(path) is not Kind.DIR:
            return None
        return self._read(path)

    def _parent_stat(self, path: str) -> Kind | None:
        """Return the kind of what is at `path`, reading its parents from the top down."""
        parts = path.split("/")
        for count in range(len(parts)):
            directory = "/".join(parts[:count])
            found = self._lists.get(directory)
            if found is None:
                found = self._read(directory)
            stat = found.get(parts[count])
            if stat is None:
                return None
            if stat.kind is not Kind.DIR:
                return stat.kind if count == len(parts) - 1 else None
        return Kind.DIR

    def _read(self, path: str) -> dict[str, FileStat]:
        """Read one directory; what the rules leave out is not even looked at twice."""
        raw = self._scan(path)
        scope = self._ignore.below(path) if self._ignore else None
        prefix = path + "/" if path else ""
        out: dict[str, FileStat] = {}
        for name, stat in raw:
            if scope is not None and scope.excludes(name):
                below = prefix + name
                if stat.kind is not Kind.DIR or not self._brought_back(below):
                    continue
            out[name] = stat
        self._lists[path] = out
        return out

    def _scan(self, path: str) -> _Listing:
        """Return all entries of a directory, reading it at most once."""
        seen = self._seen.get(path)
        if seen is not None:
            return seen
        try:
            fd = self._open_dir(path)
        except OSError as error:
            raise cannot_read(path, error) from error
        try:
            with os.scandir(fd) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
            found.sort(key=lambda pair: name_order(pair[0]))
            self._seen[path] = out = [
                (
                    name,
                    _stat_of(
                        s,
                        os.readlink(name, dir_fd=fd) if bits.S_ISLNK(s.st_mode) else "",
                        owners=self._owners,
                    ),
                )
                for name, s in found
            ]
            return out
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # EINVAL: readlink(2) of no link
                raise changed(path or ".", "an entry was replaced or went away") from error
            raise cannot_read(path, error) from error
        finally:
            os.close(fd)

    def _brought_back(self, path: str) -> bool:
        """Say whether an excluded directory holds, however deep, something that is not."""
        shown = self._shown.get(path)
        if shown is None:
            shown = self._ignore.may_reinclude_below(path) and self._holds_any(path)
            self._shown[path] = shown
        return shown

    def _holds_any(self, path: str) -> bool:
        todo = [path]
        while todo:
            at = todo.pop()
            scope = self._ignore.below(at)
            for name, entry in self._scan(at):
                if not scope.excludes(name):
                    return True
                below = f"{at}/{name}"
                if entry.kind is Kind.DIR and self._ignore.may_reinclude_below(below):
                    todo.append(below)
        return False

    def _open_dir(self, path: str) -> int:
        return self._root.open(path or ".", _DIR, follow=False)

    # --- what is in it ---------------------------------------------------------------------

    def expect(self, paths: Iterable[str]) -> None:
        """Say which files are about to be opened, in this order, so that they can be read ahead."""
        small = [path for path in paths if self._file_stat(path).size < SMALL]
        self._expected, self._left = in_batches(small, self._read_ahead), 0

    def open(self, path: str) -> int:
        """Open a regular file that is still what `stat` says; the caller closes it.

        Raises ChangedWhileReading, InputError for what is no regular file or not readable.
        """
        stat = self.stat(path)
        if stat is None or stat.kind is not Kind.FILE:
            raise InputError(f"not a regular file: {path}", Location(self.root))
        parent, _, name = path.rpartition("/")
        with self._last:
            if stat.size < SMALL:
                if not self._left:
                    self._left = len(next(self._expected, ()))
                self._left -= 1  # below 0 where nothing is expected any more
            directory = self._kept_dir(parent, path)
            if path in self._young:
                again, _, _ = self._reader.hash(directory, name, path, stat)
                if again != self._digests.get(path, again):
                    raise changed(path, "it was still being written")
            return self._reader.open(directory, name, path, stat)

    def _kept_dir(self, parent: str, path: str) -> int:
        """Return a descriptor that is kept until another directory is asked for: files come sorted.

        It stays the directory it was, even if something else gets its name.
        """
        kept, fd = self._last_dir
        if kept == parent and fd >= 0:
            return fd
        try:
            now = self._open_dir(parent)
        except OSError as error:
            raise cannot_read(path, error) from error
        self._last_dir = (parent, now)
        if fd >= 0:
            os.close(fd)
        return now

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return the extended attributes that are kept, sorted by name."""
        stat = self.stat(path)
        if stat is None or stat.kind not in (Kind.FILE, Kind.DIR):
            return ()  # user.* exists on files and directories alone, xattr(7)
        parent, _, name = path.rpartition("/")
        try:
            directory = self._root.open(parent or ".", os.O_PATH | os.O_DIRECTORY, follow=False)
        except OSError as error:
            raise cannot_read(path, error) from error
        try:
            return kept_xattrs(f"/proc/self/fd/{directory}/{name or '.'}")
        finally:
            os.close(directory)

    def xattrs_many(self, paths: Iterable[str]) -> dict[str, tuple[tuple[str, bytes], ...]]:
        """Return `xattrs` of those paths that have any, opening each directory once.

        Of files whose digest is known this is mostly known as well, so ask for digests first.
        """
        out: dict[str, tuple[tuple[str, bytes], ...]] = {}
        for parent, names in _by_directory(path for path in paths if path not in self._bare):
            try:
                directory = self._root.open(parent or ".", os.O_PATH | os.O_DIRECTORY, follow=False)
            except OSError as error:
                raise cannot_read(parent, error) from error
            try:
                prefix = f"/proc/self/fd/{directory}/"
                for path, name in names:
                    found = kept_xattrs(prefix + name)
                    if found:
                        out[path] = found
            finally:
                os.close(directory)
        return out

    def digest(self, path: str, stat: FileStat) -> Digest:
        """Return the sha256 of a regular file, from the stat cache where it knows it."""
        return self.hash_many([path])[path]

    def hash_many(self, paths: Iterable[str]) -> dict[str, Digest]:
        """Return the digests of regular files; the stat cache is asked first and told after.

        Raises ChangedWhileReading, InputError.
        """
        out: dict[str, Digest] = {}
        missing: dict[str, FileStat] = {}
        for path in paths:
            known = self._digests.get(path)
            if known is None:
                stat = self._file_stat(path)
                known = self._cache.get(path, stat)
                if known is None:
                    missing[path] = stat
                    continue
                self._bare.add(path)
            out[path] = known
        fresh = self._hash_missing(missing)
        for path, digest in fresh.items():
            if path in self._bare and path not in self._young:
                self._cache.put(path, missing[path], digest)
        self._digests.update(fresh)
        out.update(fresh)
        return out

    def _file_stat(self, path: str) -> FileStat:
        stat = self.stat(path)
        if stat is None or stat.kind is not Kind.FILE:
            raise InputError(f"not a regular file: {path}", Location(self.root))
        return stat

    def _hash_missing(self, stats: Mapping[str, FileStat]) -> dict[str, Digest]:
        """Hash files: small ones in one thread, big ones beside it or in two.

        Small files cost system calls and interpreter time, which threads only fight over. Big ones
        cost sha256, which needs no lock.
        """
        small = [path for path, stat in stats.items() if stat.size < SMALL]
        big = [path for path, stat in stats.items() if stat.size >= SMALL]
        jobs = [partial(self._hash_small, small)] if small else []
        shares = [big] if small else halves(big, [stats[path].size for path in big])
        jobs += [partial(self._hash_all, share) for share in shares if share]
        out: dict[str, Digest] = {}
        for found in in_threads(jobs):
            out.update(found)
        return out

    def _hash_small(self, paths: Sequence[str]) -> dict[str, Digest]:
        out: dict[str, Digest] = {}
        for batch in in_batches(paths, self._read_ahead):
            out.update(self._hash_all(batch))
        return out

    def _read_ahead(self, paths: Sequence[str]) -> None:
        """Have the kernel begin to read files; whoever hashes them says what is wrong with one."""
        for parent, names in _by_directory(paths):
            with contextlib.suppress(OSError):
                directory = self._open_dir(parent)
                try:
                    for _, name in names:
                        self._reader.read_ahead(directory, name)
                finally:
                    os.close(directory)

    def _hash_all(self, paths: Sequence[str]) -> dict[str, Digest]:
        out: dict[str, Digest] = {}
        horizon = time.time_ns() - _YOUNG_NS
        for parent, names in _by_directory(paths):
            try:
                directory = self._open_dir(parent)
            except OSError as error:
                raise cannot_read(parent, error) from error
            try:
                entries = self._lists[parent]
                for path, name in names:
                    stat = entries[name]
                    out[path], bare, data = self._reader.hash(directory, name, path, stat)
                    if bare:
                        self._bare.add(path)
                    if stat.ctime_ns > horizon:
                        self._young.add(path)
                    elif data:
                        self._contents.put(path, data)
            finally:
                os.close(directory)
        return out

    def kept(self, path: str) -> bytes | None:
        """Return the bytes of a file as they were hashed, where there was room to keep them."""
        return self._contents.get(path)

    # --- what has been looked at -----------------------------------------------------------

    def found(self) -> Found:
        """Return every directory that was read, with its visible entries, sorted by path.

        Where only names that the rules leave out were looked at, all entries of it are there.
        """
        own = {"": self._top}
        out = []
        for path in sorted(self._seen, key=name_order):
            prefix = path + "/" if path else ""
            own.update((prefix + n, s) for n, s in self._seen[path] if s.kind is Kind.DIR)
            rows = sorted(_row(name, stat) for name, stat in self._shown_in(path))
            out.append(Directory.of(path, _row("", own[path]), rows))
        return out

    def observation(self, found: Found) -> Observation:
        """Return what tells a later call by lstat(2) alone that nothing of `found` has changed."""
        paths = [directory.path for directory in found]
        stats = (stat for path in paths for _, stat in self._shown_in(path))
        return Observation(
            self.root,
            tuple((path, self._hidden_in(path)) for path in paths),
            fingerprint(found),
            settled((max(stat.mtime_ns, stat.ctime_ns) for stat in stats), self._began_ns),
        )

    def _shown_in(self, path: str) -> Iterable[tuple[str, FileStat]]:
        shown = self._lists.get(path)
        return self._seen[path] if shown is None else shown.items()

    def _hidden_in(self, path: str) -> tuple[str, ...]:
        shown = self._lists.get(path)
        if shown is None:
            return ()
        return tuple(name for name, _ in self._seen[path] if name not in shown)


def _row(name: str, stat: FileStat) -> Row:
    mode = _TYPE_BITS[stat.kind] | stat.mode
    return name, mode, stat.size, stat.mtime_ns, stat.ctime_ns, stat.ino, stat.dev


def stat_of_row(row: Row) -> FileStat:
    """Return what a row of an observation says of an entry: all but its owner and its link."""
    _, mode, size, mtime, ctime, inode, device = row
    kind = _KINDS[mode & 0o170000]
    return FileStat(kind, mode & 0o7777, 0, 0, size, mtime, ctime, device, inode)


def _stat_of(found: os.stat_result, target: str = "", *, owners: bool = False) -> FileStat:
    mode = found.st_mode
    return FileStat(
        _KINDS[mode & 0o170000],
        mode & 0o7777,
        found.st_uid if owners else 0,
        found.st_gid if owners else 0,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_dev,
        found.st_ino,
        found.st_nlink,
        found.st_rdev,
        target,
    )


def _by_directory(paths: Iterable[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (directory, [(path, name)]) with both levels sorted."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for path in paths:
        parent, _, name = path.rpartition("/")
        groups.setdefault(parent, []).append((path, name))
    return sorted(groups.items(), key=lambda group: name_order(group[0]))
