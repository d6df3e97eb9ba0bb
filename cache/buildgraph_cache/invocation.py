"""Knows how to tell, in one read and one stat(2) a file, that nothing at all has changed.

Must not know what was built. Imports next to nothing, since it is all that a build with nothing to
do runs.

A table lists every file and directory an invocation depended on and one fingerprint over what
stat(2) said of them all. A new, lost or renamed name changes the time of its directory, so it is
enough to look at what is listed. As in the stat cache, an invocation that saw a file which changed
later than shortly before it began is not written down.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time

import xxhash

TYPE_CHECKING = False  # importing typing for it would take as long as all the rest of this module
if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildgraph.filetree import FileStat

KIND = "invocation"
GRAIN_NS = 20_000_000  # as in the stat cache
MAX_AGE = 86_400.0  # a day: then the whole way is gone once, so that what it uses counts as used
_MAGIC = b"bginvoc1"
# magic, written_ns, number of names, bytes of names, bytes of payload, fingerprint
_HEAD = struct.Struct("<8sqIII16s")
_STAT = struct.Struct("<QqqQI")  # size, mtime_ns, ctime_ns, inode, permission bits
_SQL = "SELECT value, durable, boot FROM records WHERE kind=? AND key=?"


def encode(
    items: Iterable[tuple[str, FileStat]],
    payload: bytes,
    began_ns: int,
    root: str = "",
    now_ns: int | None = None,
) -> bytes | None:
    """Return the table of an invocation, or None where a file changed too recently to be trusted.

    `items` are (path, status) of all files and directories as they were when they were read, taken
    one by one, since there may be very many; relative paths are below `root`. `began_ns` is the
    wall clock from before the first of them. Put the result into the store as record (`KIND`, key).
    """
    horizon = began_ns - GRAIN_NS
    names = bytearray()
    hasher = xxhash.xxh3_128()
    pack, count = _STAT.pack, 0
    for path, s in items:
        if s.ctime_ns >= horizon:
            return None
        names += _join(root, path)
        names += b"\0"
        count += 1
        hasher.update(pack(s.size, s.mtime_ns, s.ctime_ns, s.ino, s.mode & 0o7777))
    del names[-1:]
    hasher.update(payload)
    written = time.time_ns() if now_ns is None else now_ns
    head = _HEAD.pack(_MAGIC, written, count, len(names), len(payload), hasher.digest())
    return b"".join((head, names, payload))


def check(
    index: str, key: str, max_age: float = MAX_AGE, now_ns: int | None = None
) -> bytes | None:
    """Return the payload of an invocation nothing of which has changed, or None.

    `index` is the path of the store's SQLite file. Reads it once and writes nothing. Never raises
    for a store or a table that is absent or damaged: that is a None too. A table older than
    `max_age` seconds, or from the future, is one as well.
    """
    table = _read(index, key)
    if table is None or len(table) < _HEAD.size:
        return None
    magic, written, count, names_size, payload_size, expected = _HEAD.unpack_from(table)
    if magic != _MAGIC or len(table) != _HEAD.size + names_size + payload_size:
        return None
    age = (time.time_ns() if now_ns is None else now_ns) - written
    if not 0 <= age <= max_age * 1e9:
        return None
    names = table[_HEAD.size : _HEAD.size + names_size].split(b"\0") if names_size else []
    payload = table[_HEAD.size + names_size :]
    if len(names) != count or _fingerprint(names, payload) != expected:
        return None
    return payload


def _fingerprint(names: list[bytes], payload: bytes) -> bytes | None:
    pack = _STAT.pack
    try:
        packed = [
            pack(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_mode & 0o7777)
            for s in map(os.lstat, names)
        ]
    except OSError:
        return None
    return xxhash.xxh3_128_digest(b"".join(packed) + payload)


def _read(index: str, key: str) -> bytes | None:
    try:
        name = index.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        connection = sqlite3.connect(f"file:{name}?mode=ro", uri=True, timeout=1.0)
    except sqlite3.Error:
        return None
    try:
        row = connection.execute(_SQL, (KIND, key.encode("utf-8", "surrogateescape"))).fetchone()
    except sqlite3.Error:
        return None
    finally:
        connection.close()
    if row is None or not isinstance(row[0], bytes):
        return None
    return row[0] if row[1] or row[2] == _boot_id() else None


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _join(root: str, path: str) -> bytes:
    if not root or path.startswith("/"):
        return os.fsencode(path)
    return os.fsencode(f"{root}/{path}" if path else root)
