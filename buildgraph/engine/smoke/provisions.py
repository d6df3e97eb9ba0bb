"""Knows what a test brings into its containers from the package: files that are mounted, variables;
must not know how a container is started.

Mounted files are copied before they are shown, so that what ran is what was hashed, whatever an
editor does meanwhile, and they belong to root in the container whoever checked them out.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.boxfile.smoke import EnvFile, PackageBind, Service, SmokeTarget
from buildgraph.errors import HostError, InputError, Location
from buildgraph.graph.keys import canonical
from buildgraph.rootpath import Root

ENTRIES: Final = 20_000  # of one mounted directory
BYTES: Final = limits.GIB
_NAMES: Final = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


class _Found(Struct, frozen=True):
    """One entry below a mounted path; `name` is "" for the path itself."""

    name: str
    path: str
    mode: int
    target: str = ""


class Provisions:
    """The files of one workspace that a test may see; links never lead out of it."""

    def __init__(self, root: str, environ: Mapping[str, str]):
        self._root = root
        self._environ = environ

    # -- files -----------------------------------------------------------------------------------

    def read(self, path: str, where: Location | None = None) -> bytes:
        """Return the bytes of a file. Raises InputError."""
        try:
            with Root.at(self._root) as root, open(root.open(path, os.O_RDONLY), "rb") as file:
                data = file.read(limits.BOXFILE_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}", where) from error
        if len(data) > limits.BOXFILE_BYTES:
            raise InputError(f"{path} is larger than {limits.BOXFILE_BYTES} bytes", where)
        return data

    def digest(self, bind: PackageBind) -> str:
        """Return a digest over names, types, modes and bytes. Raises InputError."""
        with Root.at(self._root) as root:
            rows = [self._row(root, found, bind) for found in self._walk(root, bind)]
        return hashlib.sha256(canonical(rows)).hexdigest()

    def copy(self, bind: PackageBind, directory: str) -> str:
        """Copy what is mounted into `directory`; return the path to mount. Raises InputError."""
        top = os.path.join(directory, "copy")
        with Root.at(self._root) as root:
            for found in self._walk(root, bind):
                place = os.path.join(top, found.name) if found.name else top
                if stat.S_ISDIR(found.mode):
                    os.mkdir(place)
                elif stat.S_ISLNK(found.mode):
                    os.symlink(found.target, place)
                    continue
                else:
                    with open(place, "wb") as file:
                        for piece in self._pieces(root, found, bind):
                            file.write(piece)
                os.chmod(place, _clean_mode(found.mode))
        return top

    def _walk(self, root: Root, bind: PackageBind) -> Iterator[_Found]:
        """Yield the path and all below it, directories before what is in them, sorted."""
        try:
            real = root.resolve(bind.path)
            fd = root.open(real, os.O_PATH)
        except OSError as error:
            words = error.strerror or str(error)
            raise InputError(f"cannot mount {bind.path}: {words}", bind.where) from error
        mode = os.fstat(fd).st_mode
        os.close(fd)
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise InputError(f"{bind.path} is neither a file nor a directory", bind.where)
        yield _Found("", real, mode)
        count = 0
        todo = [("", real)] if stat.S_ISDIR(mode) else []
        while todo:
            name, path = todo.pop()
            for found in self._entries(root, name, path, bind):
                count += 1
                if count > ENTRIES:
                    raise InputError(f"{bind.path} has more than {ENTRIES} files", bind.where)
                yield found
                if stat.S_ISDIR(found.mode):
                    todo.append((found.name, found.path))

    def _entries(self, root: Root, name: str, path: str, bind: PackageBind) -> Iterator[_Found]:
        fd = root.open(path, os.O_RDONLY | os.O_DIRECTORY, follow=False)
        try:
            for entry in sorted(os.listdir(fd), key=os.fsencode):
                status = os.stat(entry, dir_fd=fd, follow_symlinks=False)
                if stat.S_IFMT(status.st_mode) not in _NAMES:
                    raise InputError(f"{path}/{entry} is no file", bind.where)
                link = stat.S_ISLNK(status.st_mode)
                target = os.readlink(entry, dir_fd=fd) if link else ""
                yield _Found(
                    f"{name}/{entry}" if name else entry, f"{path}/{entry}", status.st_mode, target
                )
        finally:
            os.close(fd)

    def _row(self, root: Root, found: _Found, bind: PackageBind) -> list[str]:
        content = found.target
        if stat.S_ISREG(found.mode):
            hashed = hashlib.sha256()
            for piece in self._pieces(root, found, bind):
                hashed.update(piece)
            content = hashed.hexdigest()
        kind = "l" if stat.S_ISLNK(found.mode) else "d" if stat.S_ISDIR(found.mode) else "f"
        return [found.name, kind, f"{_clean_mode(found.mode):o}", content]

    def _pieces(self, root: Root, found: _Found, bind: PackageBind) -> Iterator[bytes]:
        total = 0
        try:
            with open(root.open(found.path, os.O_RDONLY, follow=False), "rb") as file:
                while piece := file.read(1 << 20):
                    total += len(piece)
                    if total > BYTES:
                        raise InputError(f"{found.path} is larger than 1 GiB", bind.where)
                    yield piece
        except OSError as error:
            raise HostError(f"cannot read {found.path}: {error.strerror}") from error

    # -- variables -------------------------------------------------------------------------------

    def environment(self, service: Service) -> tuple[tuple[str, str], ...]:
        """Return the variables of a service: env files first, then its own, later ones win."""
        return tuple(self.resolved(self.declared(service)).items())

    def declared(self, service: Service) -> Iterator[tuple[str, str | None]]:
        """Yield what a service's env files and it itself say; None is a value from outside."""
        for file in service.env_files:
            yield from read_env_file(self.read(file.path, file.where), file)
        yield from service.environment

    def resolved(self, variables: Iterable[tuple[str, str | None]]) -> dict[str, str]:
        """Return variables with values; those from outside that are not set there are left out."""
        found = ((n, self._environ.get(n) if v is None else v) for n, v in variables)
        return {name: value for name, value in found if value is not None}


def _clean_mode(mode: int) -> int:
    """Reduce a mode to what git keeps: who checked it out with which umask must not matter."""
    if stat.S_ISDIR(mode) or mode & 0o100:
        return 0o755
    return 0o644


def read_env_file(data: bytes, file: EnvFile) -> tuple[tuple[str, str | None], ...]:
    """Parse `NAME=value` lines as docker compose does; quotes around a value go."""
    out: list[tuple[str, str | None]] = []
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not name.strip() or " " in name.strip():
            raise InputError("expected NAME=value", Location(file.path, number, 1, 0, line))
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        out.append((name.strip(), value if equals else None))
    return tuple(out)


def binds_of(target: SmokeTarget) -> Iterator[PackageBind]:
    """Yield everything of the package that the services of a test see."""
    for service in target.services:
        for volume in service.volumes:
            if isinstance(volume, PackageBind):
                yield volume
