"""Knows how to read a stranger's tar, member by member; must not know where members are written.

Understands ustar, old V7, GNU (long names, base-256 numbers) and PAX headers, as tar(5) and
POSIX pax describe them. Sparse members are refused: their maps are where readers differ (A17,
A19). Every record and the sum of all sizes have caps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.oci.tarstream import BLOCK, byte_sum

_NUMBERS: Final = (b"uid", b"gid", b"size")
_XATTR: Final = b"SCHILY.xattr."


class Member(Struct):
    """One member as its headers say it; names are raw bytes, `mtime_ns` is signed."""

    path: bytes
    flag: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    xattrs: tuple[tuple[str, bytes], ...] = ()


class TarReader:
    """Iterates the members of a tar stream; read a member's bytes before asking for the next.

    Raises InputError for what is damaged, cut off or over a cap.
    """

    def __init__(
        self,
        source: Iterator[bytes],
        *,
        total: int = limits.LAYER_BYTES,
        bodies: bool = True,
    ) -> None:
        """`bodies` False reads a table of contents: headers whose files are left out."""
        self._bodies = bodies
        self._source = source
        self._buffer = b""
        self._at = 0
        self._left = 0  # bytes of the current member still to come, padding included
        self._size = 0  # the same without padding
        self._room = total
        self._members = 0

    def _take(self, size: int) -> bytes:
        """Return exactly `size` bytes, fewer at the end of the stream."""
        end = self._at + size
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        self._buffer, self._at = b"", 0
        while have < size:
            piece = next(self._source, b"")
            if not piece:
                break
            need = size - have
            if len(piece) > need:
                parts.append(piece[:need])
                self._buffer, self._at = piece, need
                have = size
            else:
                parts.append(piece)
                have += len(piece)
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the current member."""
        while self._size:
            if self._at >= len(self._buffer):
                self._buffer, self._at = next(self._source, b""), 0
                if not self._buffer:
                    raise InputError("the archive is cut off inside a file")
            here = min(self._size, len(self._buffer) - self._at)
            data = self._buffer[self._at : self._at + here]
            self._at += here
            self._size -= here
            self._left -= here
            yield data

    def read(self) -> bytes:
        """Return the whole rest of the current member at once."""
        size, self._size = self._size, 0
        data = self._take(size)
        if len(data) != size:
            raise InputError("the archive is cut off inside a file")
        self._left -= size
        return data

    def _skip(self) -> None:
        while self._left:
            step = min(self._left, 1 << 20)
            if len(self._take(step)) != step:
                raise InputError("the archive is cut off inside a file")
            self._left -= step
        self._size = 0

    def __iter__(self) -> Iterator[Member]:
        extra: dict[bytes, bytes] = {}
        while True:
            self._skip()
            block = self._take(BLOCK)
            if not block and not extra:
                return  # no end mark: old writers, and streams cut at a member, which tar accepts
            if len(block) != BLOCK:
                raise InputError("the archive is cut off in a header")
            if not block.strip(b"\0"):
                return
            member = parse_header(block)
            flag = member.flag
            if flag in (b"L", b"K", b"x", b"X", b"g"):
                self._special(member, extra)
                continue
            if extra or flag == b"S":
                apply_records(member, extra)
                extra = {}
            self._members += 1
            if self._members > limits.LAYER_ENTRIES:
                raise InputError(f"the archive has more than {limits.LAYER_ENTRIES} members")
            if member.flag in (b"0", b"7", b"") or member.flag not in b"123456":
                self._begin(member.size)
            else:
                member.size = 0  # links and directories have no bytes whatever they claim
            yield member

    def rest(self) -> Iterator[bytes]:
        """Yield what is left of the stream, so that its digest covers every byte of it."""
        if self._at < len(self._buffer):
            yield self._buffer[self._at :]
        yield from self._source

    def _begin(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise InputError("the archive unpacks to more bytes than a layer may have")
        if self._bodies:
            self._size = size
            self._left = size + (-size % BLOCK)

    def _special(self, member: Member, extra: dict[bytes, bytes]) -> None:
        if member.size > limits.TAR_HEADER_RECORD_BYTES:
            raise InputError(
                f"the archive has a header record of {member.size} bytes, more than "
                f"{limits.TAR_HEADER_RECORD_BYTES}"
            )
        self._size = member.size
        self._left = member.size + (-member.size % BLOCK)
        body = self.read()
        if member.flag == b"L":
            extra[b"path"] = body.rstrip(b"\0")
        elif member.flag == b"K":
            extra[b"linkpath"] = body.rstrip(b"\0")
        elif member.flag != b"g":  # global headers: nobody's layers need them, Go skips them too
            extra.update(read_pax(body))


def number(field: bytes) -> int:
    """Return a numeric field: octal text, or GNU's base-256 where the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        return value
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise InputError("the archive has a header with a damaged number")
    return int(text, 8)


def parse_header(block: bytes) -> Member:
    """Return the member of one header. Raises InputError where it is damaged."""
    check = number(block[148:156])
    # in three parts, because byte_sum adds up to less than 65521
    unsigned = byte_sum(block[:148]) + byte_sum(block[156:400]) + byte_sum(block[400:]) + 8 * 32
    if check != unsigned:
        signed = sum(b - 256 if b > 127 else b for b in block[:148] + block[156:]) + 8 * 32
        if check != signed:
            raise InputError("the archive is damaged: a header's checksum does not match")
    path = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].split(b"\0", 1)[0]
        if prefix:
            path = prefix + b"/" + path
    flag = block[156:157]
    if flag in (b"\0", b"0", b"7"):
        # V7 had no directories but names with a slash at the end
        flag = b"5" if path.endswith(b"/") else b"0"
    size = number(block[124:136])
    if size < 0:
        raise InputError("the archive has a member of negative size")
    return Member(
        path,
        flag,
        number(block[100:108]) & 0o7777,
        number(block[108:116]),
        number(block[116:124]),
        size,
        number(block[136:148]) * 1_000_000_000,
        block[157:257].split(b"\0", 1)[0],
        number(block[329:337]) if flag in (b"3", b"4") else 0,
        number(block[337:345]) if flag in (b"3", b"4") else 0,
    )


def read_pax(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a PAX header: `length key=value\\n`."""
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 12)
        digits = body[at:space]
        if space < 0 or not digits.isdigit():
            raise InputError("the archive has a damaged PAX header")
        end = at + int(digits)
        equals = body.find(b"=", space, end)
        if end > len(body) or end <= space or body[end - 1 : end] != b"\n" or equals < 0:
            raise InputError("the archive has a damaged PAX header")
        yield body[space + 1 : equals], body[equals + 1 : end - 1]
        at = end


def apply_records(member: Member, extra: dict[bytes, bytes]) -> None:
    """Give a member what its PAX records say. Raises InputError for what is refused."""
    if member.flag == b"S" or any(key.startswith(b"GNU.sparse") for key in extra):
        raise InputError(
            "the archive has a sparse member, which is not supported",
            hint="pack it without --sparse",
        )
    xattrs = [
        (key[len(_XATTR) :].decode("utf-8", "surrogateescape"), value)
        for key, value in extra.items()
        if key.startswith(_XATTR)
    ]
    member.xattrs = tuple(sorted(xattrs))
    member.path = extra.get(b"path", member.path)
    member.link = extra.get(b"linkpath", member.link)
    if b"mtime" in extra:
        member.mtime_ns = _pax_time(extra[b"mtime"])
    for key in _NUMBERS:
        if key in extra:
            _set_number(member, key, extra[key])
    if b"\0" in member.path or b"\0" in member.link:
        raise InputError("the archive has a name with a null byte")
    if member.flag == b"0" and member.path.endswith(b"/"):
        member.flag = b"5"


def _set_number(member: Member, key: bytes, value: bytes) -> None:
    if not value.isdigit() or len(value) > 19:
        raise InputError(f"the archive has a damaged PAX {key.decode()} record")
    setattr(member, key.decode(), int(value))


def _pax_time(value: bytes) -> int:
    """Return nanoseconds of a decimal number of seconds, exactly."""
    sign = -1 if value.startswith(b"-") else 1
    whole, _, fraction = value.lstrip(b"-").partition(b".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(whole) > 18:
        raise InputError("the archive has a damaged PAX mtime record")
    return sign * (int(whole) * 1_000_000_000 + int((fraction + b"000000000")[:9]))
