"""Knows what is inside a .deb file; must not know where its files are written.

A .deb is an ar archive of `debian-binary`, `control.tar*` and `data.tar*`. Both tars are read in
this process, under the caps of oci's readers (A17-A19, A22). Source: deb(5).
"""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from buildgraph.errors import HostError, InputError
from buildgraph.limits import DEB_BYTES, DEB_CONTROL_BYTES, DEB_CONTROL_FILES
from buildgraph.oci.compress import decompress
from buildgraph.oci.tarread import TarReader
from buildgraph_rules.debian.control import BinaryPackage, binary_package
from buildgraph_rules.debian.relation import Relation

_MAGIC: Final = b"!<arch>\n"
_HEADER: Final = 60
_ENDINGS: Final = ("", ".gz", ".xz", ".zst", ".bz2")
_READ: Final = 256 * 1024
_AHEAD: Final = 8  # pieces of at most a megabyte


class ControlFile(Struct, frozen=True):
    """A file of control.tar: a script, the md5sums, …"""

    data: bytes
    mode: int


@dataclasses.dataclass(frozen=True, slots=True)
class Deb:
    """A .deb whose control part has been read; `files` has no `control`."""

    path: str
    package: BinaryPackage
    control: str  # the paragraph, as it stands
    files: dict[str, ControlFile] = dataclasses.field(repr=False)
    data_offset: int
    data_size: int

    @property
    def name(self) -> str:
        """Return the package's name."""
        return self.package.name

    @property
    def database_name(self) -> str:
        """Return what dpkg calls its files in info/: with the architecture for "same" packages."""
        if self.package.fields.get("multi-arch") == "same":
            return f"{self.name}:{self.package.architecture}"
        return self.name

    @property
    def replaces(self) -> tuple[Relation, ...]:
        """Return whose files it may take over."""
        return tuple(r for group in self.package.relations("replaces") for r in group)

    def text(self, name: str) -> str:
        """Return a control file as text, "" where it is absent."""
        file = self.files.get(name)
        return "" if file is None else file.data.decode("utf-8", "surrogateescape")

    @property
    def conffiles(self) -> tuple[str, ...]:
        """Return the configuration files it ships, absolute, in order (deb-conffiles(5))."""
        lines = (line.strip() for line in self.text("conffiles").splitlines())
        return tuple(line for line in lines if line.startswith("/"))  # not "remove-on-upgrade …"

    def chunks(self) -> Iterator[bytes]:
        """Yield the decompressed bytes of data.tar. Raises InputError, HostError."""
        with open(self.path, "rb") as file:
            file.seek(self.data_offset)
            left = self.data_size
            yield from decompress(_pieces(file.fileno(), self.data_offset, left))


def read_deb(path: str) -> Deb:
    """Read the control part of a .deb. Raises HostError for anything that is not one."""
    shown = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            parts = _parts(file.fileno(), shown)
            offset, size = parts["control.tar"]
            text, files = _read_control(file.fileno(), offset, size)
            package = binary_package(text)
    except InputError as error:
        raise HostError(f"{shown}: {error.message}") from error
    except ValueError as error:
        raise HostError(f"{shown}: damaged control file: {error}") from error
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    return Deb(path, package, text, files, *parts["data.tar"])


@contextmanager
def reading_ahead(debs: Sequence[Deb]) -> Iterator[Iterator[tuple[Deb, TarReader]]]:
    """Yield (deb, its files) in order, while the next deb is being decompressed by a thread.

    Read each to its end before asking for the next. The threads end with the context.
    """
    running: list[_Ahead] = []

    def each() -> Iterator[tuple[Deb, TarReader]]:
        started = 0
        for number, deb in enumerate(debs):
            while started < min(number + 2, len(debs)):
                running.append(_Ahead(debs[started]))
                started += 1
            yield deb, TarReader(iter(running[number]))

    try:
        yield each()
    finally:
        for ahead in running:
            ahead.close()


class _Ahead:
    """Decompresses one deb in a thread, a few pieces ahead of its reader."""

    def __init__(self, deb: Deb):
        self._deb = deb
        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"unpack {deb.name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            piece = self._pieces.get()
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        """Stop the thread, whatever it is at; idempotent."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            for piece in self._deb.chunks():
                if not self._put(piece):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever reads
            self._put(error)

    def _put(self, piece: bytes | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._pieces.put(piece, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def _parts(fd: int, shown: str) -> dict[str, tuple[int, int]]:
    """Return (offset, size) of control.tar and data.tar, whatever they are compressed with."""
    length = os.fstat(fd).st_size
    if length > DEB_BYTES:
        raise HostError(f"{shown} has {length} bytes, more than {DEB_BYTES}")
    if os.pread(fd, len(_MAGIC), 0) != _MAGIC:
        raise HostError(f"{shown} is not a Debian package")
    found: dict[str, tuple[int, int]] = {}
    names = []
    offset = len(_MAGIC)
    while offset < length and "data.tar" not in found:
        header = os.pread(fd, _HEADER, offset)
        size_text = header[48:58].strip()
        if len(header) != _HEADER or header[58:] != b"`\n" or not size_text.isdigit():
            raise HostError(f"{shown} is damaged: bad ar header")
        name, size = header[:16].decode("ascii", "replace").rstrip().rstrip("/"), int(size_text)
        offset += _HEADER
        if offset + size > length:
            raise HostError(f"{shown} is cut off")
        for part in ("control.tar", "data.tar"):
            if name.startswith(part):
                if name.removeprefix(part) not in _ENDINGS:
                    raise HostError(f"{shown}: unknown compression of {name}")
                found[part] = (offset, size)
        names.append(name)
        offset += size + size % 2
    if names[:1] != ["debian-binary"] or set(found) != {"control.tar", "data.tar"}:
        raise HostError(f"{shown} is not a Debian package: it has {', '.join(names[:8])}")
    return found


def _read_control(fd: int, offset: int, size: int) -> tuple[str, dict[str, ControlFile]]:
    files: dict[str, ControlFile] = {}
    reader = TarReader(
        decompress(_pieces(fd, offset, size), total=DEB_CONTROL_BYTES), total=DEB_CONTROL_BYTES
    )
    for member in reader:
        name = os.fsdecode(member.path).removeprefix("./").rstrip("/")
        if member.flag == b"5" and name in ("", "."):
            continue
        if member.flag != b"0" or "/" in name or name in ("", ".", ".."):
            raise InputError(f"control.tar has an entry {name!r}, which is not a plain file")
        files[name] = ControlFile(reader.read(), member.mode & 0o777)
        if len(files) > DEB_CONTROL_FILES:
            raise InputError(f"control.tar has more than {DEB_CONTROL_FILES} files")
    if "control" not in files:
        raise InputError("control.tar has no control file")
    text = files.pop("control").data.decode("utf-8", "replace").strip("\n")
    return text, files


def _pieces(fd: int, offset: int, left: int) -> Iterator[bytes]:
    while left:
        piece = os.pread(fd, min(left, _READ), offset)
        if not piece:
            raise InputError("the file became shorter while it was read")
        offset += len(piece)
        left -= len(piece)
        yield piece
