"""Knows how to reach a path without ever leaving a root directory; must not know whose root it is.

Every access to a context, a root file system, an archive's target or a cache directory goes
through here, because what lies below the root was written by somebody we do not trust. The
kernel does it in one call, openat2(2) with RESOLVE_IN_ROOT; where that is missing (before Linux
5.6, or hidden by an older seccomp filter) we walk by ourselves, one component at a time, on
O_PATH file descriptors. Nothing resolves a text first and acts on it later: results are file
descriptors, and what is written is written by mkdirat(2) and its kin on them.
"""

from __future__ import annotations

import errno
import functools
import os
import stat as stat_bits
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

from buildgraph import limits
from buildgraph.closing import Closing

if TYPE_CHECKING:
    import ctypes

_SYS_OPENAT2: Final = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_IN_ROOT: Final = 0x10
_PROC_SUPER_MAGIC: Final = 0x9FA0
_DIR_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_RACES: Final = 64  # openat2 says EAGAIN when a rename crosses a `..`; then we ask again


def components(path: str) -> list[str]:
    """Return the names in `path`, without empty ones and `.`; `..` stays."""
    return [name for name in path.split("/") if name not in ("", ".")]


def clean(path: str) -> str:
    """Return `path` relative to the root by its text alone, `..` stopped at the root (A03, A08)."""
    out: list[str] = []
    for name in components(path):
        if name != "..":
            out.append(name)
        elif out:
            out.pop()
    return "/".join(out)


class Root(Closing):
    """A directory that paths are resolved in; `/` and `..` never lead out of it.

    Owns its file descriptor: close it, or use it as a context manager.
    """

    __slots__ = ("_native", "fd")

    def __init__(self, directory: int | str, *, native: bool | None = None):
        """Take over a descriptor of a directory, or open one as `at` does.

        `native` False forces the walk without openat2.
        """
        if isinstance(directory, str):
            directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.fd = fd = directory
        self._native = _kernel_resolves(fd) if native is None else native

    @classmethod
    def at(cls, directory: str, *, native: bool | None = None) -> Root:
        """Open `directory`, a path of ours that is trusted. Raises OSError."""
        return cls(
            os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
            native=native,
        )

    def close(self) -> None:
        """Close the root's descriptor; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, path: str, flags: int, mode: int = 0, *, follow: bool = True) -> int:
        """Open `path` inside the root as open(2) would after chroot(2); the caller closes it.

        With `follow` False no symbolic link is followed in any component (ELOOP). O_NOFOLLOW
        speaks of the last component alone, as always. Magic links of /proc are refused.
        Raises OSError as open(2) does.
        """
        flags |= os.O_CLOEXEC
        if self._native:
            resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
            return _openat2(
                self.fd,
                path,
                flags,
                mode,
                resolve if follow else resolve | _RESOLVE_NO_SYMLINKS,
            )
        return _walk_open(self.fd, path, flags, mode, follow)

    def resolve(self, path: str, *, missing_ok: bool = False) -> str:
        """Return the real path inside the root, relative, as text; for messages and comparison.

        With `missing_ok` the part that does not exist is kept by its text. Raises OSError.
        """
        with _Walk(self.fd) as walk:
            return "/".join(walk.to_end(path, missing_ok=missing_ok))

    def parent(self, path: str) -> tuple[int, str]:
        """Return (descriptor of the parent directory, last name) for an act on the entry itself.

        The last component is never followed, so unlinkat, mkdirat or symlinkat on the pair hit
        what is named. The caller closes the descriptor. Raises ValueError where the path has no
        last name (``, `/`, `..`), OSError where the parent is missing.
        """
        names = components(path)
        if not names or names[-1] == "..":
            raise ValueError(f"path names no entry: {path!r}")
        return self.open("/".join(names[:-1]) or ".", _DIR_FLAGS), names[-1]

    def make_dirs(self, path: str, mode: int = 0o755) -> int:
        """Create the directory and its missing parents, and return an O_PATH descriptor of it.

        Links on the way are followed inside the root, also a dangling one. Idempotent. The mode
        is applied whatever the umask is. Raises OSError, NotADirectoryError where a file is in
        the way. The caller closes the descriptor.
        """
        here = os.dup(self.fd)
        try:
            for name in components(self.resolve(path, missing_ok=True)):
                below = _enter(here, name, mode)
                os.close(here)
                here = below
        except BaseException:
            os.close(here)
            raise
        return here


def _enter(parent: int, name: str, mode: int) -> int:
    """Return the directory `name` in `parent`, made with `mode` where it was missing."""
    made = True
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        made = False
    below = os.open(name, _DIR_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
    if made:
        os.chmod(f"/proc/self/fd/{below}", mode)  # an O_PATH descriptor has no fchmod(2)
    return below


# --- by the kernel ---------------------------------------------------------------------------


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _kernel_resolves(fd: int) -> bool:
    """Say whether openat2(2) works here; a filter that does not know it answers EPERM."""
    try:
        os.close(_openat2(fd, ".", _DIR_FLAGS, 0, _RESOLVE_IN_ROOT))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return False
        raise
    return True


def _openat2(fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    import ctypes

    if "\0" in path:
        raise ValueError("embedded null byte")
    how = (ctypes.c_uint64 * 3)(flags, mode if flags & os.O_CREAT else 0, resolve)
    name = os.fsencode(path)
    code = errno.EAGAIN
    for _ in range(_RACES):
        got: int = _libc().syscall(_SYS_OPENAT2, fd, name, ctypes.byref(how), ctypes.sizeof(how))
        if got >= 0:
            return got
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


# --- by ourselves ----------------------------------------------------------------------------


class _End(Struct):
    """Where a walk came to: `name` in the directory on top, or that directory itself for ""."""

    name: str
    must_be_dir: bool
    exists: bool
    tail: tuple[str, ...] = ()  # names that could not be walked, where that was allowed


class _Walk:
    """A position below a root: the chain of open directories and their names."""

    def __init__(self, root: int, *, follow: bool = True):
        self.fds = [os.dup(root)]
        self.names: list[str] = []
        self.follow = follow
        self.budget = limits.LINK_BUDGET

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    @property
    def here(self) -> int:
        return self.fds[-1]

    def up(self) -> None:
        if self.names:
            self.names.pop()
            os.close(self.fds.pop())

    def to_root(self) -> None:
        while self.names:
            self.up()

    def locate(self, path: str, *, follow_last: bool, missing_ok: bool = False) -> _End:
        """Walk to the parent of what `path` means; a missing last name is not an error here.

        Raises OSError: ENOENT, ENOTDIR, ELOOP, EACCES.
        """
        if not path:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if path.startswith("/"):
            self.to_root()
        todo = components(path)[::-1]
        must_be_dir = _asks_for_dir(path)
        while todo:
            name = todo.pop()
            if name == "..":
                self.up()
                continue
            last = not todo
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.here)
            except FileNotFoundError:
                if last:
                    return _End(name, must_be_dir, False)
                if missing_ok:
                    return _End("", must_be_dir, False, (name, *reversed(todo)))
                raise
            kind = stat_bits.S_IFMT(os.fstat(fd).st_mode)
            if kind == stat_bits.S_IFLNK and not (last and not follow_last and not must_be_dir):
                target = self.take_link(fd, path)
                todo.extend(components(target)[::-1])
                must_be_dir = must_be_dir or (last and _asks_for_dir(target))
            elif last:
                os.close(fd)
                return _End(name, must_be_dir, True)
            else:
                self.step_in(fd, name, kind, path)
        return _End("", True, True)

    def step_in(self, fd: int, name: str, kind: int, path: str) -> None:
        if kind != stat_bits.S_IFDIR:
            os.close(fd)
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self.fds.append(fd)
        self.names.append(name)

    def take_link(self, fd: int, path: str) -> str:
        """Close `fd` and return the link's text, having gone to the root for an absolute one.

        Raises ELOOP where it may not be followed.
        """
        try:
            self.budget -= 1
            # A link of procfs may be a magic one, which no text tells; all of them are refused.
            if not self.follow or self.budget < 0 or _on_procfs(fd):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink("", dir_fd=fd)
            if target.startswith("/"):
                self.to_root()
            return target
        finally:
            os.close(fd)

    def to_end(self, path: str, *, missing_ok: bool) -> list[str]:
        """Return the names from the root to what `path` means, its last link followed."""
        if missing_ok:
            path = path or "/"
        end = self.locate(path, follow_last=True, missing_ok=missing_ok)
        if end.tail:
            return components(clean("/".join([*self.names, *end.tail])))
        if not end.exists and not missing_ok:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return [*self.names, end.name] if end.name else list(self.names)


def _asks_for_dir(path: str) -> bool:
    return path.endswith(("/", "/.")) or path == "."


def _on_procfs(fd: int) -> bool:
    import ctypes

    buffer = (ctypes.c_long * 32)()  # struct statfs begins with f_type
    if _libc().fstatfs(fd, ctypes.byref(buffer)) != 0:
        return True
    return buffer[0] == _PROC_SUPER_MAGIC


def _walk_open(root: int, path: str, flags: int, mode: int, follow: bool) -> int:
    creates = bool(flags & os.O_CREAT)
    exclusive = creates and bool(flags & os.O_EXCL)
    with _Walk(root, follow=follow) as walk:
        end = walk.locate(path, follow_last=not flags & os.O_NOFOLLOW and not exclusive)
        if not end.name:
            return os.open(".", flags, mode, dir_fd=walk.here)
        if not end.exists and not creates:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if end.must_be_dir:
            if creates:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            flags |= os.O_DIRECTORY
        # O_NOFOLLOW: what was no link a moment ago may be one now, and then it is refused.
        return os.open(end.name, flags | os.O_NOFOLLOW, mode, dir_fd=walk.here)
