"""Knows where a workspace begins and how its files are read; must not know what is in them.

Every file that was read and every directory whose entries decided something is remembered: a
later build that finds them unchanged need not load anything.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.boxfile.loader import BOXFILE, DOCKERFILES, in_package
from buildgraph.errors import HostError, InputError, Location, did_you_mean
from buildgraph.label import is_package
from buildgraph.rootpath import Root

# Top-level keys of a block mapping start their line, so no YAML need be parsed to see this one.
_WORKSPACE_KEY: Final = re.compile(
    rb"""^(?:\xef\xbb\xbf)?(["']?)workspace\1[ \t]*:""", re.MULTILINE
)

# Not searched for packages, wherever they are; hidden directories are not either.
_SKIPPED_NAMES: Final = frozenset(("node_modules", "__pycache__"))
_SKIPPED_AT_ROOT: Final = frozenset(("out",))  # where `build -o` puts things
# A file that says of its directory: cache (bford.info/cachedir), virtual environment (PEP 405),
# OCI image layout.
_SKIPPED_WITH: Final = frozenset(("CACHEDIR.TAG", "pyvenv.cfg", "oci-layout"))


def find_root(start: str) -> str | None:
    """Return the root of the workspace that the directory (or file) `start` is in.

    It is the nearest directory upwards whose Boxfile.yaml has `workspace:` at the start of a
    line, else the nearest with `.git`, else `start` itself, so that a plain directory with a
    Dockerfile works. The result is a real path; None where `start` does not exist.
    """
    directory = os.path.realpath(start)
    if not os.path.isdir(directory):
        if not os.path.exists(directory):
            return None
        directory = os.path.dirname(directory)
    fallback = None
    here = directory
    while True:
        if begins_workspace(here):
            return here
        if fallback is None and os.path.lexists(os.path.join(here, ".git")):
            fallback = here
        above = os.path.dirname(here)
        if above == here:
            return fallback or directory
        here = above


def begins_workspace(directory: str) -> bool:
    """Return whether a directory has a Boxfile that says so; False for one that cannot be read."""
    return is_workspace(_read_or_nothing(os.path.join(directory, BOXFILE)))


def is_workspace(boxfile: bytes) -> bool:
    """Return whether the bytes of a Boxfile say that a workspace begins there."""
    return b"workspace" in boxfile and _WORKSPACE_KEY.search(boxfile) is not None


def _read_or_nothing(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return _read(fd, limits.BOXFILE_BYTES)
        return b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _read(fd: int, limit: int) -> bytes:
    """Return what the file holds, at most `limit` bytes and one more to tell that it is larger."""
    pieces: list[bytes] = []
    left = limit + 1
    while left and (piece := os.read(fd, min(left, limits.MIB))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


class Listing(Struct, frozen=True):
    """What matters of a directory: which of our files it has."""

    boxfile: bool
    dockerfile: str | None


class Files:
    """The files of one workspace, read at most once each by whoever asks through here.

    Paths are relative to the root. Nothing outside the root is ever read: symbolic links are
    resolved as if the root were `/`.
    """

    def __init__(self, root: str):
        self.root = root
        self.skipped: dict[str, str] = {}  # directory -> why it is not searched for packages
        self._read_files: set[str] = set()
        self._listed: set[str] = set()
        self._listings: dict[str, Listing] = {}
        self._walks: dict[str, list[str]] = {}

    @property
    def read_paths(self) -> list[str]:
        """Return every file that was read and every directory (with a final `/`) looked into."""
        listed = (f"{path or '.'}/" for path in self._listed)
        return sorted((*self._read_files, *listed), key=os.fsencode)

    def read(self, path: str, limit: int, where: Location | None = None) -> bytes:
        """Return the bytes of a regular file.

        Raises InputError (at `where`, or at the file) when it is missing, too large or of
        another kind, HostError when the machine cannot read it.
        """
        place = where or Location(path)
        self._read_files.add(path)
        try:
            with Root.at(self.root) as root:
                fd = root.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"there is no file {path!r}", place, self._near(path)) from None
        except PermissionError as error:
            raise HostError(f"cannot read {path!r}: {error.strerror}", place) from error
        except OSError as error:
            raise InputError(f"cannot read {path!r}: {error.strerror}", place) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InputError(f"{path!r} is not a regular file", place)
            data = _read(fd, limit)
        except OSError as error:
            raise HostError(f"cannot read {path!r}: {error.strerror}", place) from error
        finally:
            os.close(fd)
        if len(data) > limit:
            raise InputError(f"{path!r} is larger than {limit // limits.MIB} MiB", place)
        return data

    def kind(self, path: str) -> str | None:
        """Return "file", "directory", "other" or None for what lies at a path, links followed."""
        try:
            with Root.at(self.root) as root:
                fd = root.open(path or ".", os.O_PATH)
        except OSError:
            return None
        try:
            mode = os.fstat(fd).st_mode
        finally:
            os.close(fd)
        if stat.S_ISDIR(mode):
            return "directory"
        return "file" if stat.S_ISREG(mode) else "other"

    def listing(self, package: str) -> Listing:
        """Return which of our files a directory has; none for what is no directory."""
        found = self._listings.get(package)
        if found is None:
            names = (BOXFILE, *DOCKERFILES)
            there = {name for name in names if self.kind(in_package(package, name)) == "file"}
            found = self._note(package, there)
        return found

    def names(self, path: str, suffix: str) -> list[str]:
        """Return the names in a directory that end so, sorted; what is in it is an input now.

        Raises InputError where it cannot be listed.
        """
        self._listed.add(path)
        try:
            with os.scandir(os.path.join(self.root, path)) as entries:
                return sorted(entry.name for entry in entries if entry.name.endswith(suffix))
        except OSError as error:
            raise InputError(f"cannot list {path or '.'}/: {error.strerror}") from error

    def directories(self, path: str) -> list[str]:
        """Return the names of the directories in a directory, sorted; for "did you mean"."""
        try:
            with os.scandir(os.path.join(self.root, path)) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except OSError:
            return []

    def walk(self, prefix: str) -> list[str]:
        """Return every package in and below `prefix`, sorted by bytes.

        A package is a directory with a Boxfile.yaml or a Dockerfile (Containerfile). Symbolic
        links are not followed. Not searched are hidden directories, `node_modules`,
        `__pycache__`, `out` in the root, directories marked by CACHEDIR.TAG, pyvenv.cfg or
        oci-layout, workspaces of their own, and what cannot be listed; the last two, and those
        whose names cannot be in a label, are noted in `skipped`. `prefix` itself is always
        searched.
        """
        found = self._walks.get(prefix)
        if found is None:
            found = self._walks[prefix] = self._walk(prefix)
        return list(found)

    def _walk(self, prefix: str) -> list[str]:
        packages: list[str] = []
        waiting = [prefix]
        while waiting:
            path = waiting.pop()
            entries = self._scan(path)
            if entries is None or (path != prefix and self._is_other_world(path, entries)):
                continue
            listing = self._note(path, {name for name, mode in entries.items() if mode == "file"})
            if listing.boxfile or listing.dockerfile:
                packages.append(path)
            for name, mode in entries.items():
                if mode == "directory" and self.searchable(path, name):
                    waiting.append(in_package(path, name))
        return sorted(packages, key=os.fsencode)

    def _scan(self, path: str) -> dict[str, str] | None:
        """Return name -> "directory", or "file" for our own files and the markers."""
        ours = (BOXFILE, *DOCKERFILES, *_SKIPPED_WITH)
        found: dict[str, str] = {}
        try:
            with os.scandir(os.path.join(self.root, path)) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        found[entry.name] = "directory"
                    elif entry.name in ours and (
                        not entry.is_symlink() or self.kind(in_package(path, entry.name)) == "file"
                    ):
                        found[entry.name] = "file"
        except OSError as error:
            self.skipped[path] = f"cannot be listed: {error.strerror}"
            return None
        return found

    def _is_other_world(self, path: str, entries: dict[str, str]) -> bool:
        if not _SKIPPED_WITH.isdisjoint(entries):
            return True
        if entries.get(BOXFILE) == "file" and begins_workspace(os.path.join(self.root, path)):
            self.skipped[path] = "is a workspace of its own"
            self._read_files.add(in_package(path, BOXFILE))
            return True
        return False

    def searchable(self, path: str, name: str) -> bool:
        """Return whether a directory in `path` is searched for packages, by its name alone."""
        if name.startswith(".") or name in _SKIPPED_NAMES:
            return False
        if not path and name in _SKIPPED_AT_ROOT:
            return False
        if not is_package(name):
            self.skipped[in_package(path, name)] = "its name cannot be in a label"
            return False
        return True

    def _note(self, package: str, names: set[str]) -> Listing:
        self._listed.add(package)
        dockerfile = next((name for name in DOCKERFILES if name in names), None)
        listing = self._listings[package] = Listing(BOXFILE in names, dockerfile)
        return listing

    def _near(self, path: str) -> str | None:
        directory, _, name = path.rpartition("/")
        try:
            with os.scandir(os.path.join(self.root, directory)) as entries:
                return did_you_mean(name, sorted(entry.name for entry in entries))
        except OSError:
            return None
