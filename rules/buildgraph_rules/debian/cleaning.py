"""Knows what installing packages leaves behind that is not the packages: logs, caches, backups,
identities; must not know which packages there are.

Scripts have run in the root by now, so no link in it is followed, not even inside it: a place that
has become a link is left alone. What goes is what differs from one run to the next, and what must
not be the same in every container made from the image.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator
from typing import Final

from buildgraph.rootpath import Root

# Removed, with everything below. The last component may be a pattern.
_REMOVED: Final = (
    "etc/.pwd.lock",
    "etc/*-",  # passwd-, shadow-: the state before the last change, with a date of today
    "etc/apt/sources.list~",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/ssh/ssh_host_*_key*",
    "root/.*_history",
    "run/*.lock",
    "run/*.pid",
    "run/adduser",
    "run/reboot-required*",
    "tmp/*",
    "tmp/.*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/archives/lock",
    "var/cache/apt/archives/partial/*",
    "var/cache/buildgraph",
    "var/cache/debconf/*-old",
    "var/cache/fontconfig/*",
    "var/cache/ldconfig/*",
    "var/cache/man/*",
    "var/lib/apt/lists/*_*",
    "var/lib/apt/lists/auxfiles",
    "var/lib/apt/lists/lock",
    "var/lib/apt/lists/partial/*",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/dpkg/updates/*",
    "var/lib/systemd/random-seed",
    "var/log/*.log",
    "var/log/apt/*",
    "var/log/journal/*",
    "var/tmp/*",
)
_EMPTIED: Final = ("etc/machine-id",)  # empty: made anew at the first boot, machine-id(5)
_EMPTIED_BELOW: Final = ("var/log",)  # wtmp and its kin keep owner and mode


def clean(root: Root) -> None:
    """Remove or empty all of it; idempotent. Raises OSError."""
    for pattern in _REMOVED:
        above, _, last = pattern.rpartition("/")
        with _Directory(root, above) as directory:
            for name in directory.matching(last):
                remove(directory.fd, name)
    for path in _EMPTIED:
        above, _, name = path.rpartition("/")
        with _Directory(root, above) as directory:
            for found in directory.matching(name):
                _empty(directory.fd, found)
    for path in _EMPTIED_BELOW:
        with _Directory(root, path) as directory:
            for name in directory.matching("*"):
                _empty(directory.fd, name)


def remove(parent: int, name: str) -> None:
    """Remove an entry and all below it, following no link. Raises OSError."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        for below in os.listdir(fd):
            remove(fd, below)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


class _Directory:
    """A directory of the root, or nothing where it is missing or a link leads there."""

    def __init__(self, root: Root, path: str):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            self.fd = root.open(path, flags, follow=False)
        except OSError:
            self.fd = -1

    def __enter__(self) -> _Directory:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def matching(self, pattern: str) -> Iterator[str]:
        if self.fd >= 0:
            hidden = pattern.startswith(".")
            for name in sorted(os.listdir(self.fd)):
                if name.startswith(".") == hidden and fnmatch.fnmatchcase(name, pattern):
                    yield name


def _empty(parent: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if stat.S_ISREG(os.lstat(name, dir_fd=parent).st_mode):
        fd = os.open(name, flags, dir_fd=parent)
        try:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
