"""Knows how what a container has written becomes an ordinary directory; must not know overlays
beyond their marks for what was removed.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

from buildgraph.cli.words import plural
from buildgraph.errors import HostError, InputError


def keep_changes(upper: Path, dest: Path) -> None:
    """Copy every new and changed file into a new directory; what was removed is only counted.

    Owners are kept where they can be. Raises InputError where `dest` is there already and holds
    something, HostError where it cannot be written.
    """
    try:
        if dest.is_symlink() or (dest.exists() and (not dest.is_dir() or any(dest.iterdir()))):
            raise InputError(f"{dest} is already there", hint="--keep makes a new directory")
        removed = _count_removed(upper)
        dest.mkdir(parents=True, exist_ok=True)
        _copy(os.fspath(upper), os.fspath(dest))
    except OSError as error:
        raise HostError(f"cannot keep what the container wrote: {error}") from error
    said = f"; {plural(removed, 'file')} of the image it removed" if removed else ""
    sys.stderr.write(f"buildgraph: what it wrote is in {dest}{said}\n")


def _is_mark(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _count_removed(top: Path) -> int:
    count = 0
    for where, _, names in os.walk(top):
        count += sum(_is_mark(os.lstat(os.path.join(where, name))) for name in names)
    return count


def _copy(source: str, target: str) -> None:
    with os.scandir(source) as found:
        entries = list(found)
    for entry in entries:
        info = entry.stat(follow_symlinks=False)
        place = os.path.join(target, entry.name)
        if _is_mark(info) or stat.S_ISSOCK(info.st_mode):
            continue
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(place, 0o700)
            _copy(entry.path, place)
        elif entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
        elif stat.S_ISREG(info.st_mode):
            shutil.copyfile(entry.path, place, follow_symlinks=False)
        else:
            os.mknod(place, info.st_mode, info.st_rdev)
        os.chown(place, info.st_uid, info.st_gid, follow_symlinks=False)
        if not entry.is_symlink():
            os.chmod(place, stat.S_IMODE(info.st_mode))
        os.utime(place, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
