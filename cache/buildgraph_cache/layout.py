"""Knows which files and directories make a store and which version they have.

Must not know what is inside them. README.md, "Layout", is the specification.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping

from msgspec import Struct

from buildgraph.errors import HostError, StoreCorrupt
from buildgraph_cache.disk import Disk, fsync_directory, host_error, write_file
from buildgraph_cache.locks import file_lock

VERSION = 1
RESERVE_BYTES = 4 << 20
RESERVE_FILES = 8  # the index's log and map, scratch directories, locks
_VERSION_TEXT = "buildgraph store"
_CACHEDIR_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache of buildgraph; backup programs may leave it out.
# https://bford.info/cachedir/
"""
_DIRECTORIES = (
    "blobs",
    "blobs/sha256",
    "snapshots",
    "tmp",
    "mounts",
    "partial",
    "locks",
    "locks/keys",
    "locks/leases",
    "quarantine",
    "failed",
    "logs",
)
Migration = Callable[[str], None]  # gets the root; must be idempotent


class Layout(Struct, frozen=True):
    """The paths of one store."""

    root: str

    @property
    def index(self) -> str:
        """The SQLite file."""
        return f"{self.root}/index.sqlite"

    @property
    def reserve(self) -> str:
        """Directory of ballast that GC lets go of to work on a full disk."""
        return f"{self.root}/reserve"

    @property
    def open_lock(self) -> str:
        """Held while the store or its index is made, migrated or replaced."""
        return f"{self.root}/locks/open"

    @property
    def gc_lock(self) -> str:
        """Held by the one collection that may run."""
        return f"{self.root}/locks/gc"

    @property
    def readers_lock(self) -> str:
        """Held shared by leases of read-only openers."""
        return f"{self.root}/locks/readers"

    def directory(self, name: str) -> str:
        """Return the path of a top-level directory."""
        return f"{self.root}/{name}"

    def blob(self, hexadecimal: str) -> str:
        """Return where the blob of this sha256 is."""
        return f"{self.root}/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}"

    def snapshot(self, hexadecimal: str) -> str:
        """Return where the snapshot of this name is."""
        return f"{self.root}/snapshots/{hexadecimal}"

    def object(self, name: str) -> str:
        """Return where the object `blob:sha256:<hex>` or `snapshot:<hex>` is."""
        if name.startswith("blob:sha256:"):
            return self.blob(name[12:])
        return self.snapshot(name[9:])


def prepare(
    root: str,
    disk: Disk,
    read_only: bool,
    version: int = VERSION,
    migrations: Mapping[int, Migration] | None = None,
) -> Layout:
    """Check or make the directory `root` and return its layout.

    Idempotent, safe beside others doing the same. A newer store is refused without a touch; an
    older one is migrated step by step, its VERSION being rewritten after each step. Raises
    HostError for a directory that is not ours to use (A70).
    """
    layout = Layout(os.path.abspath(root))
    try:
        _check_root(layout.root)
        found = _read_version(layout)
        if found == version and (read_only or _is_complete(layout)):
            return layout
        if read_only:
            raise HostError(
                f"{layout.root} is not a store of this version, and it is to be read only",
                hint="open it writable once",
            )
        _make_or_migrate(layout, disk, version, migrations or {})
    except OSError as error:
        raise host_error(error, layout.root, f"opening the store {layout.root}") from error
    return layout


def _check_root(root: str) -> None:
    try:
        info = os.lstat(root)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(info.st_mode):
        raise HostError(
            f"the store {root} is a symbolic link",
            hint=f"name the directory itself: --store {os.path.realpath(root)}",
        )
    if not stat.S_ISDIR(info.st_mode):
        raise HostError(f"the store {root} is not a directory")
    if info.st_uid != os.geteuid():
        raise HostError(
            f"the store {root} belongs to user {info.st_uid}, not to {os.geteuid()}",
            hint="choose another with --store DIR",
        )
    if info.st_mode & 0o077 and (info.st_mode & 0o022 or _is_store(root)):
        raise HostError(
            f"the store {root} is open to other users (mode {stat.S_IMODE(info.st_mode):04o})",
            hint=f"chmod 700 {root}",
        )


def _is_store(root: str) -> bool:
    return os.path.lexists(f"{root}/VERSION") or os.path.lexists(f"{root}/index.sqlite")


def _read_version(layout: Layout) -> int | None:
    """Return the version written in the store; None where there is none or it is torn."""
    try:
        fd = os.open(f"{layout.root}/VERSION", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        text = os.read(fd, 100).decode("ascii", errors="replace").strip()
    finally:
        os.close(fd)
    if not text.strip("\0"):
        return None  # a power cut left an empty file
    words = text.rsplit(" ", 1)
    if len(words) != 2 or words[0] != _VERSION_TEXT or not words[1].isdigit():
        raise StoreCorrupt(
            f"{layout.root}/VERSION says {text!r}, which no buildgraph wrote",
            hint="choose another directory with --store DIR, or delete this one",
        )
    return int(words[1])


def _make_or_migrate(
    layout: Layout, disk: Disk, version: int, migrations: Mapping[int, Migration]
) -> None:
    _refuse_newer(layout, _read_version(layout), version)
    _make_root(layout)
    os.makedirs(f"{layout.root}/locks", mode=0o700, exist_ok=True)
    with file_lock(layout.open_lock):
        found = _read_version(layout)
        _refuse_newer(layout, found, version)
        if found is None or not _is_complete(layout):
            _make(layout, disk)
            found = found or version
        while found < version:
            migration = migrations.get(found)
            if migration is None:
                raise StoreCorrupt(
                    f"{layout.root} has the old version {found}, which cannot be migrated",
                    hint="delete it, or choose another with --store DIR",
                )
            migration(layout.root)
            found += 1
            _write_version(layout, disk, found)
        _write_version(layout, disk, version)


def _refuse_newer(layout: Layout, found: int | None, version: int) -> None:
    if found is not None and found > version:
        raise HostError(
            f"the store {layout.root} has version {found}; this program knows {version}",
            hint="use the newer buildgraph, or another directory with --store DIR",
        )


def _make_root(layout: Layout) -> None:
    if not os.path.lexists(layout.root):
        os.makedirs(os.path.dirname(layout.root), exist_ok=True)
        try:
            os.mkdir(layout.root, 0o700)
        except FileExistsError:
            _check_root(layout.root)
        return
    names = set(os.listdir(layout.root))
    ours = {"locks", "blobs", "index.sqlite", "VERSION", "CACHEDIR.TAG"}
    if names and not names & ours:
        raise HostError(
            f"{layout.root} is not empty and not a store",
            hint="choose an empty or new directory with --store DIR",
        )
    os.chmod(layout.root, 0o700)


def _is_complete(layout: Layout) -> bool:
    return all(os.path.isdir(layout.directory(name)) for name in _DIRECTORIES)


def _make(layout: Layout, disk: Disk) -> None:
    for name in _DIRECTORIES:
        os.makedirs(layout.directory(name), mode=0o700, exist_ok=True)
    for lock in (layout.readers_lock, layout.gc_lock):  # made now: later there may be no inode
        os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    write_file(disk, f"{layout.root}/CACHEDIR.TAG", _CACHEDIR_TAG)
    make_reserve(layout)


def _write_version(layout: Layout, disk: Disk, version: int) -> None:
    write_file(disk, f"{layout.root}/VERSION", f"{_VERSION_TEXT} {version}\n".encode())
    fsync_directory(disk, os.path.dirname(layout.root))


def is_full(path: str) -> bool:
    """Return whether a file system has less space left than a collection may need."""
    info = os.statvfs(path)
    no_inodes = info.f_files > 0 and info.f_favail < RESERVE_FILES
    return info.f_bavail * info.f_frsize < RESERVE_BYTES or no_inodes


def make_reserve(layout: Layout) -> bool:
    """Set aside the space and inodes a collection needs on a full disk; say whether it could."""
    try:
        os.makedirs(layout.reserve, mode=0o700, exist_ok=True)
        for number in range(RESERVE_FILES):
            _allocate(f"{layout.reserve}/{number}", 0 if number else RESERVE_BYTES)
    except OSError:
        release_reserve(layout)  # half a reserve would be spent for nothing
        return False
    return True


def _allocate(path: str, size: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


def release_reserve(layout: Layout) -> None:
    """Give the reserved space back to the file system."""
    for number in range(RESERVE_FILES):
        try:
            os.unlink(f"{layout.reserve}/{number}")
        except (FileNotFoundError, NotADirectoryError):
            continue
