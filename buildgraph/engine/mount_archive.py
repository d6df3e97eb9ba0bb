"""Knows how cache mounts are carried from one machine to another, as one compressed tar; must not
know who asks for it.

The tar is canonical: the same mounts give the same bytes. It holds `MOUNT/about` and `MOUNT/data/…`
for each, with owners, modes, attributes and whole seconds of times kept, and `whole` at its end,
since neither a tar nor zstd says that it was cut off. An import is a stranger's
archive: it is unpacked out of sight by the reader of layers (reliability A11 to A20), looked at
whole, and only then put in place.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from buildgraph import limits
from buildgraph.errors import HostError, InputError
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.compress import Compression, compressor, decompress, sniff
from buildgraph.oci.dirtree import DirTree, Scan, overlay_namespace
from buildgraph.oci.tarread import Member, TarReader
from buildgraph.oci.tarstream import NO_EPOCH, HeaderWriter, canonical, tar_chunks
from buildgraph.oci.unpack import Unpacker, member_path
from buildgraph_cache.mount_care import CacheMount, is_mount_name
from buildgraph_cache.mounts import about_bytes, read_about
from buildgraph_cache.store import Store

_COMPRESSION: Final = Compression("zstd")
_END: Final = "whole"  # after every name in hexadecimal digits
_DEVICES: Final = (b"3", b"4")


class Imported(Struct, frozen=True):
    """Which mounts an import put in place, and which it left because a build has them."""

    names: tuple[str, ...]
    busy: tuple[str, ...]


def export_mounts(
    store: Store, mounts: Sequence[CacheMount], write: Callable[[bytes], object]
) -> None:
    """Write the archive of these mounts.

    Builds get other directories for them meanwhile. Raises HostError where one is in use.
    """
    with ExitStack() as stack:
        entries: list[Entry] = []
        for mount in mounts:
            path = stack.enter_context(store.cache_mount_alone(mount.name))
            if path is None:
                raise HostError(
                    f"the cache mount {mount.about.get('id', mount.name)!r} is in use",
                    hint="export it when no build runs",
                )
            entries.extend(_entries(mount.name, path))
        entries.append(Entry(_END, Kind.FILE, 0o600, mtime=0))
        engine = compressor(_COMPRESSION)
        try:
            for chunk in tar_chunks(canonical(entries), HeaderWriter(NO_EPOCH)):
                data = engine.compress(chunk)
                if data:
                    write(data)
            write(engine.flush())
        except OSError as error:
            raise HostError(f"cannot export cache mounts: {error.strerror or error}") from error


def _entries(name: str, path: str) -> Iterator[Entry]:
    about = about_bytes(read_about(path))
    top = os.stat(f"{path}/data")
    yield Entry(name, Kind.DIR, 0o700, mtime=0)
    yield Entry(f"{name}/about", Kind.FILE, 0o600, size=len(about), mtime=0, content=about)
    data = f"{name}/data"
    yield Entry(
        data,
        Kind.DIR,
        stat.S_IMODE(top.st_mode),
        top.st_uid,
        top.st_gid,
        mtime=top.st_mtime_ns // 1_000_000_000,
    )
    tree = DirTree(Path(path, "data"))
    for entry in Scan(tree, NO_EPOCH, fix=False, below=None).run():
        if entry.kind in (Kind.CHAR, Kind.BLOCK):
            continue  # no step can make one that is good for anything
        link = f"{data}/{entry.link}" if entry.kind is Kind.HARDLINK else entry.link
        yield replace(entry, path=f"{data}/{entry.path}", link=link)


def import_mounts(store: Store, source: Iterable[bytes]) -> Imported:
    """Take in an archive of `export_mounts`, replacing mounts of the same identity.

    All or nothing up to the moment when everything was read; each mount then takes the place of
    the old one in a single step. One that a build has is left as it is and told. Raises
    InputError for what is no such archive.
    """
    most = limits.MOUNT_ARCHIVE_BYTES
    with store.new_scratch() as scratch:
        place = scratch.directory("mounts")
        tar = TarReader(decompress(_compressed(iter(source)), total=most), total=most)
        with _MountUnpacker(place, NO_EPOCH, overlay_namespace()) as unpacker:
            unpacker.unpack(tar, tar)
        for _ in tar.rest():  # to the end, so that damage there is seen
            pass
        names = sorted(os.listdir(place))
        if _END not in names:
            raise InputError("the export of cache mounts is cut off")
        names.remove(_END)
        for name in names:
            _check(place, name)
        busy = store.adopt_cache_mounts(place, names)
    return Imported(tuple(n for n in names if n not in busy), tuple(busy))


def _compressed(source: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the bytes. Raises InputError at once for what is compressed otherwise or not at all."""
    head = b""
    while len(head) < 16 and (piece := next(source, b"")):
        head += piece
    if sniff(head) != "zstd":
        raise InputError("no export of cache mounts: it is not compressed with zstd")
    yield head
    yield from source


class _MountUnpacker(Unpacker):
    """Unpacks a tree that is no layer: names that begin with `.wh.` mean nothing in it."""

    def _member(self, member: Member, tar: TarReader) -> None:
        path = member_path(member.path)
        if member.flag in _DEVICES:
            raise InputError(f"the archive has a device: {path!r}")
        if not path:
            super()._member(member, tar)  # the root itself, and its rules
            return
        self._write(member, path, self._parent(path), path.rpartition("/")[2], tar)


def _check(place: str, name: str) -> None:
    """Raise InputError for anything but a mount whose name fits what it says it is."""
    path = f"{place}/{name}"
    known = stat.S_ISDIR(os.lstat(path).st_mode) and sorted(os.listdir(path)) == ["about", "data"]
    if not known or not stat.S_ISDIR(os.lstat(f"{path}/data").st_mode):
        raise InputError(f"no export of cache mounts: it holds {name[:80]!r}")
    about = read_about(path)
    if not is_mount_name(name, about.get("identity", "")):
        raise InputError(f"no export of cache mounts: {name[:80]!r} is not what it says it is")
    os.chmod(path, 0o700)
    os.utime(path)  # used now, so that it is not the first to be collected
