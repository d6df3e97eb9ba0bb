"""Knows how entries become the one canonical tar; must not know where the bytes go.

The tar is a function of the entries alone: POSIX ustar headers, PAX records only where ustar
cannot say it (pax interchange format, POSIX.1-2017 `pax`), entries sorted by the bytes of their
paths, directories with a trailing slash and before what they hold, no owner names, whole seconds,
no time later than the epoch. It ends with two zero blocks and is *not* padded to a 10 KiB record.

Entries may also be overlay's own marks: a CHAR entry of device 0:0 is written as the whiteout
`.wh.NAME`, a directory in `opaque` is followed by `DIR/.wh..wh..opq` (image-spec, layer.md).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence

from msgspec.structs import replace

from buildgraph.errors import HostError, InputError
from buildgraph.filetree import Entry, FileStat, FromTree, Kind, name_order

BLOCK = 512
CHUNK = 1 << 20  # compressors are fed exactly this much: ISA-L's output depends on it
END = bytes(2 * BLOCK)
NO_EPOCH = 1 << 40  # seconds: an epoch that cuts no time
WHITEOUT_PREFIX = ".wh."
OPAQUE_NAME = ".wh..wh..opq"

_ZEROS = [bytes(n) for n in range(BLOCK)]
_MAGIC = b"ustar\x0000"
_NO_DEVICE = b"0000000\x000000000\x00"
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_MAX_TIME = 0o77777777777
_READ = 256 * 1024  # files up to this size are read with one call

# (bytes before size, bytes after size, bytes after the checksum, sum of them all)
_Frame = tuple[bytes, bytes, bytes, int]


def byte_sum(data: bytes) -> int:
    """Return the sum of the bytes, right where it is less than 65521."""
    # Adler-32's low half is 1 + the sum of the bytes mod 65521, and no part we ask about
    # reaches that: sixteen times faster than sum().
    return (zlib.adler32(data) & 0xFFFF) - 1


def pax_records(records: dict[bytes, bytes]) -> bytes:
    """Return the body of a PAX header; each record is `length key=value\\n`, sorted by key."""
    out = []
    for key in sorted(records):
        rest = b" %b=%b\n" % (key, records[key])
        length = len(rest) + 1
        while len(b"%d" % length) + len(rest) != length:
            length = len(b"%d" % length) + len(rest)
        out.append(b"%d%b" % (length, rest))
    return b"".join(out)


class HeaderWriter:
    """Makes tar headers; keeps the parts that entries have in common."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._frames: dict[tuple[object, ...], _Frame] = {}

    def header(self, entry: Entry) -> bytes:
        """Return the header blocks of an entry, PAX header included."""
        kind = entry.kind
        path = name_order(entry.path)
        if kind is Kind.DIR:
            path += b"/"
        mtime = entry.mtime
        if mtime is None or mtime > self.epoch:
            mtime = self.epoch
        key = (kind, entry.mode, entry.uid, entry.gid, mtime, entry.rdev, entry.link)
        frame = self._frames.get(key)
        if (
            frame is None
            or len(path) > 100
            or entry.size > _MAX_SIZE
            or entry.xattrs
            or not path.isascii()
        ):
            return self._slow(entry, path, mtime)
        size = b"%011o\x00" % (entry.size if kind is Kind.FILE else 0)
        before, after, tail, total = frame
        check = total + byte_sum(path) + byte_sum(size)
        return b"%b%b%b%b%06o\x00 %b" % (path.ljust(100, b"\0"), before, size, after, check, tail)

    def _slow(self, entry: Entry, path: bytes, mtime: int) -> bytes:
        records: dict[bytes, bytes] = {
            b"SCHILY.xattr." + os.fsencode(name): value for name, value in entry.xattrs
        }
        prefix = b""
        if not path.isascii():
            records[b"path"] = path
            path = path[:100]
        elif len(path) > 100:
            split = _split(path)
            if split is None:
                records[b"path"] = path
                path = path[:100]
            else:
                prefix, path = split
        link = name_order(entry.link)
        if len(link) > 100 or not link.isascii():
            records[b"linkpath"] = link
            link = link[:100]
        size = entry.size if entry.kind is Kind.FILE else 0
        numbers = {b"uid": entry.uid, b"gid": entry.gid, b"size": size, b"mtime": mtime}
        limits = {b"uid": _MAX_ID, b"gid": _MAX_ID, b"size": _MAX_SIZE, b"mtime": _MAX_TIME}
        for name, value in numbers.items():
            if not 0 <= value <= limits[name]:
                records[name] = b"%d" % value
                numbers[name] = 0
        frame = _frame(entry, numbers, link, prefix)
        if not records and not prefix and not entry.link:
            key = (entry.kind, entry.mode, entry.uid, entry.gid, mtime, entry.rdev, "")
            if len(self._frames) < 4096:  # a tree of all-different metadata must not pile up
                self._frames[key] = frame
        block = _block(path, numbers[b"size"], frame)
        if not records:
            return block
        return pax_header(records) + block


def pax_header(records: dict[bytes, bytes]) -> bytes:
    """Return a complete PAX extended header: its own block and its padded records."""
    body = pax_records(records)
    numbers = {b"uid": 0, b"gid": 0, b"size": 0, b"mtime": 0}
    frame = _raw_frame(0o644, numbers, b"x", b"", _NO_DEVICE, b"")
    return _block(b"././@PaxHeader", len(body), frame) + body + _ZEROS[-len(body) % BLOCK]


def _split(path: bytes) -> tuple[bytes, bytes] | None:
    """Return ustar's (prefix, name) of a long path, or None where it does not fit."""
    at = path.rfind(b"/", 0, min(156, len(path) - 1))
    if at <= 0 or len(path) - at - 1 > 100:
        return None
    return path[:at], path[at + 1 :]


def _frame(entry: Entry, numbers: dict[bytes, int], link: bytes, prefix: bytes) -> _Frame:
    device = _NO_DEVICE
    if entry.kind in (Kind.CHAR, Kind.BLOCK):
        device = b"%07o\x00%07o\x00" % (os.major(entry.rdev), os.minor(entry.rdev))
    flag = entry.kind.value.encode()
    mode = 0o777 if entry.kind is Kind.SYMLINK else entry.mode & 0o7777
    return _raw_frame(mode, numbers, flag, link, device, prefix)


def _raw_frame(
    mode: int, numbers: dict[bytes, int], flag: bytes, link: bytes, device: bytes, prefix: bytes
) -> _Frame:
    before = b"%07o\x00%07o\x00%07o\x00" % (mode, numbers[b"uid"], numbers[b"gid"])
    after = b"%011o\x00" % numbers[b"mtime"]
    tail = b"%b%b%b%b%b%b" % (
        flag,
        link.ljust(100, b"\0"),
        _MAGIC,
        bytes(64),
        device,
        prefix.ljust(155, b"\0") + bytes(12),
    )
    return before, after, tail, byte_sum(before) + byte_sum(after) + byte_sum(tail) + 8 * 32


def _block(path: bytes, size: int, frame: _Frame) -> bytes:
    before, after, tail, total = frame
    field = b"%011o\x00" % size
    check = total + byte_sum(path) + byte_sum(field)
    return b"%b%b%b%b%06o\x00 %b" % (path.ljust(100, b"\0"), before, field, after, check, tail)


def canonical(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries in the order of the canonical tar.

    The last of several entries of one path wins; sockets are left out; the first path (in order)
    of a group of hard links holds the bytes and the others point to it and repeat its metadata.

    Raises ValueError where an entry's parent is missing or no directory, or where a hard link
    points to no file of this layer: entries must be complete, because a directory that overlayfs
    finds in a layer hides the metadata of the same directory below.
    """
    pairs = sorted(
        ((name_order(e.path), e) for e in entries if e.kind is not Kind.SOCKET),
        key=lambda pair: pair[0],
    )
    ordered: list[Entry] = []
    directories = {""}
    last: bytes | None = None
    linked = False
    for raw, entry in pairs:
        if raw == last:
            dropped = ordered.pop()
            if dropped.kind is Kind.DIR and entry.kind is not Kind.DIR:
                directories.discard(dropped.path)
        last = raw
        path = entry.path
        parent = path.rpartition("/")[0]
        if parent not in directories or not path:
            raise ValueError(f"layer entry without its parent directory: {path!r}")
        if entry.kind is Kind.DIR:
            directories.add(path)
        elif entry.kind is Kind.HARDLINK:
            linked = True
        ordered.append(entry)
    return _relink(ordered) if linked else ordered


def _relink(ordered: list[Entry]) -> list[Entry]:
    by_path = {entry.path: entry for entry in ordered}
    first: dict[str, str] = {}  # path that holds the bytes as given -> first path in order
    out: list[Entry] = []
    for entry in ordered:
        hard = entry.kind is Kind.HARDLINK
        owner = entry.link if hard else entry.path
        holder = by_path.get(owner)
        if holder is None or (hard and holder.kind in (Kind.HARDLINK, Kind.DIR)):
            raise ValueError(f"hard link {entry.path!r} to {entry.link!r}, no file of this layer")
        if entry.kind is Kind.DIR:
            out.append(entry)
        elif owner not in first:
            first[owner] = entry.path
            out.append(replace(holder, path=entry.path) if hard else entry)
        else:
            out.append(
                replace(
                    holder,
                    path=entry.path,
                    kind=Kind.HARDLINK,
                    link=first[owner],
                    size=0,
                    xattrs=(),
                    rdev=0,
                    content=None,
                )
            )
    return out


def whiteout_entry(path: str) -> Entry:
    """Return the tar's form of a whiteout of `path`: an empty file `.wh.NAME`, all zero."""
    parent, slash, name = path.rpartition("/")
    return Entry(f"{parent}{slash}{WHITEOUT_PREFIX}{name}", Kind.FILE, 0, mtime=0)


def with_marks(ordered: Sequence[Entry], opaque: Collection[str]) -> Sequence[Entry]:
    """Return the entries with overlay's whiteouts and opaque marks in the tar's form, in order."""
    if not opaque and not any(e.kind is Kind.CHAR and e.rdev == 0 for e in ordered):
        return ordered
    out = [whiteout_entry(e.path) if e.kind is Kind.CHAR and e.rdev == 0 else e for e in ordered]
    out.extend(Entry(f"{path}/{OPAQUE_NAME}", Kind.FILE, 0, mtime=0) for path in opaque)
    out.sort(key=lambda e: name_order(e.path))
    return out


def read_content(entry: Entry) -> Iterator[bytes]:
    """Yield the bytes of a FILE entry, at most CHUNK at a time.

    Raises HostError where a file is not what it was when its stat was taken ("changed while
    reading", R34). The check after the last byte is the one that counts: ctime_ns cannot be set
    back, so a change at any time since the stat shows there. A stat without an inode was not
    taken from a live file; then only the size is compared.
    """
    content = entry.content
    if content is None or isinstance(content, bytes):
        data = content or b""
        if len(data) != entry.size:
            raise ValueError(f"entry {entry.path!r} has {len(data)} bytes, says {entry.size}")
        if data:
            yield data
        return
    fd = content.tree.open(content.path)
    try:
        left = entry.size
        if left > _READ:
            _unchanged(fd, content)
        while left > _READ:
            data = os.read(fd, min(left, CHUNK))
            if not data:
                raise _changed(content)
            left -= len(data)
            yield data
        data = os.read(fd, left + 1)
        if len(data) < left:
            data = _read_rest(fd, data, left, content)
        elif len(data) > left:
            raise _changed(content)
        _unchanged(fd, content)
    finally:
        os.close(fd)
    if data:
        yield data


def _read_rest(fd: int, data: bytes, left: int, content: FromTree) -> bytes:
    parts = [data]
    left -= len(data)
    while left:
        more = os.read(fd, left)
        if not more:
            raise _changed(content)
        left -= len(more)
        parts.append(more)
    return b"".join(parts)


def _unchanged(fd: int, content: FromTree) -> None:
    now = os.fstat(fd)
    was: FileStat = content.stat
    if now.st_size != was.size or (
        was.ino
        and (
            now.st_mtime_ns != was.mtime_ns
            or now.st_ctime_ns != was.ctime_ns
            or now.st_ino != was.ino
        )
    ):
        raise _changed(content)


def _changed(content: FromTree) -> HostError:
    return HostError(
        f"{content.path} changed while reading",
        hint="something writes to this file during the build; stop it or exclude the file",
    )


def tar_chunks(
    ordered: Iterable[Entry],
    writer: HeaderWriter,
    note: Callable[[bytes], None] | None = None,
    read: Callable[[Entry], Iterator[bytes]] = read_content,
) -> Iterator[bytes]:
    """Yield the tar of entries that are already in order, in chunks of exactly CHUNK bytes.

    Only the last chunk is shorter. `note`, where given, sees every header on its way: together
    they are the tar without its files, a table of contents. `read` gives the bytes of an entry.
    """
    pieces: list[bytes] = []
    length = 0
    header = writer.header
    file = Kind.FILE
    for entry in ordered:
        head = header(entry)
        if note is not None:
            note(head)
        pieces.append(head)
        length += len(head)
        if entry.kind is file and entry.size:
            for data in read(entry):
                pieces.append(data)
                length += len(data)
                if length >= CHUNK:
                    rest = yield from _cut(b"".join(pieces))
                    pieces = [rest]
                    length = len(rest)
            pad = -entry.size % BLOCK
            pieces.append(_ZEROS[pad])
            length += pad
        if length >= CHUNK:
            rest = yield from _cut(b"".join(pieces))
            pieces = [rest]
            length = len(rest)
    pieces.append(END)
    rest = yield from _cut(b"".join(pieces))
    if rest:
        yield rest


def _cut(data: bytes) -> Generator[bytes, None, bytes]:
    at = 0
    while len(data) - at >= CHUNK:
        yield data if len(data) == CHUNK else data[at : at + CHUNK]
        at += CHUNK
    return data[at:]


def checked(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries, refusing names that mean a whiteout once they are in a tar.

    Raises InputError: OCI layers cannot hold a file whose name begins with `.wh.`.
    """
    for entry in entries:
        if entry.path.rpartition("/")[2].startswith(WHITEOUT_PREFIX):
            raise InputError(
                f"an image layer cannot hold a file named {entry.path!r}",
                hint="names that begin with .wh. mean deleted files in OCI layers",
            )
        yield entry
