"""Knows how paths are resolved and made inside a root that is being put together; must not know
what for.

A path of an image is only ever resolved below a descriptor of its root. Standard library and
buildgraph.kernel alone.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from buildgraph import kernel as k

_LINK_BUDGET: Final = 255


class Refused(Exception):
    """The image asks for something that is never done; the text says what."""


def make_stub(layer: str, path: str, is_dir: bool) -> None:
    """Make an empty file or directory, and the directories it is in."""
    parts = [part for part in path.split("/") if part]
    here = layer
    for part in parts[:-1]:
        here = f"{here}/{part}"
        try:
            os.mkdir(here, 0o755)
        except FileExistsError:
            pass
    here = f"{here}/{parts[-1]}"
    try:
        if is_dir:
            os.mkdir(here, 0o755)
        else:
            os.close(os.open(here, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        pass


def make_directories(root: int, path: str) -> None:
    """Make what is missing of `path`, its links followed inside the root."""
    here = ""
    for part in canonical(root, path):
        above, here = here or "/", f"{here}/{part}"
        fd = k.openat2(root, above, os.O_PATH | os.O_DIRECTORY, k.RESOLVE_IN_ROOT)
        try:
            os.mkdir(part, 0o755, dir_fd=fd)
        except FileExistsError:
            pass
        finally:
            os.close(fd)


def below(directory: int, path: str) -> int:
    """Return an O_PATH fd, or -1 where there is no such file or a link in the way."""
    try:
        return k.openat2(directory, path, os.O_PATH, k.RESOLVE_BENEATH | k.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return -1
        raise


def canonical(root: int, path: str) -> list[str]:
    """Return the parts of `path` with every link of the root followed inside it.

    Parts that do not exist are kept. Raises Refused past the link budget or through a file.
    """
    todo = [part for part in reversed(path.split("/")) if part]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == ".":
            continue
        if part == "..":
            del done[-1:]
            continue
        try:
            flags = os.O_PATH | os.O_NOFOLLOW
            resolve = k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS
            fd = k.openat2(root, "/".join([*done, part]), flags, resolve)
        except FileNotFoundError:
            done.append(part)
            continue
        except NotADirectoryError:
            raise Refused(f"{path} leads through a file of the image") from None
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                links += 1
                if links > _LINK_BUDGET:
                    raise Refused(f"{path} leads through too many links of the image")
                target = os.readlink("", dir_fd=fd)
                if target.startswith("/"):
                    done = []
                todo.extend(piece for piece in reversed(target.split("/")) if piece)
            else:
                done.append(part)
        finally:
            os.close(fd)
    return done


def copy_attributes(source: str, target: str) -> None:
    """Give the directory `target` the owner, mode and attributes of `source`."""
    info = os.stat(source)
    os.chown(target, info.st_uid, info.st_gid)
    os.chmod(target, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
