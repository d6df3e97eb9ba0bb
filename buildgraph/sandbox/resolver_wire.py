"""Knows the bytes of DNS queries and answers (RFC 1035, 6891); must not know any name.

Only what a stub resolver of a container sends: one question, perhaps an OPT record. Everything else
is refused with the code the RFC has for it, or is no message at all.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from msgspec import Struct

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
ANY: Final = 255
_OPT: Final = 41
_INTERNET: Final = 1
_ANY_CLASS: Final = 255

NO_ERROR: Final = 0
FORMAT_ERROR: Final = 1
SERVER_FAILURE: Final = 2
NO_SUCH_NAME: Final = 3
NOT_IMPLEMENTED: Final = 4
REFUSED: Final = 5

PLAIN_UDP: Final = 512  # RFC 1035 4.2.1
MOST_UDP: Final = 1232  # what is never fragmented: DNS flag day 2020
MOST_TCP: Final = 65535
_HEADER: Final = struct.Struct("!6H")
_QR: Final = 0x8000
_AA: Final = 0x0400
_TC: Final = 0x0200
_RD: Final = 0x0100
_RA: Final = 0x0080
_TO_QUESTION: Final = b"\xc0\x0c"


class NotAQuery(Exception):
    """These bytes get no answer."""


class Query(Struct, frozen=True):
    """One question. `name` is lower case without the last dot; `question` its bytes, case kept."""

    number: int
    flags: int
    name: str
    kind: int
    question: bytes
    size: int  # the longest answer over UDP that the asker takes
    edns: bool
    problem: int = NO_ERROR  # the code that is all its answer says


def parse_query(data: bytes) -> Query:
    """Read a query. Raises NotAQuery for what must not be answered, such as an answer."""
    if len(data) < _HEADER.size:
        raise NotAQuery("too short")
    number, flags, questions, answers, authorities, extra = _HEADER.unpack_from(data)
    if flags & _QR:
        raise NotAQuery("an answer")
    bad = Query(number, flags, "", 0, b"", PLAIN_UDP, False, FORMAT_ERROR)
    if flags >> 11 & 15:
        return Query(number, flags, "", 0, b"", PLAIN_UDP, False, NOT_IMPLEMENTED)
    if questions != 1 or answers or authorities:
        return bad
    labels, place = _name(data, _HEADER.size)
    if labels is None or len(data) < place + 4:
        return bad
    kind, kind_class = struct.unpack_from("!2H", data, place)
    question = data[_HEADER.size : place + 4]
    # Bytes that are no ASCII are no name of ours; they must only not look like one.
    name = b".".join(labels).decode("latin-1").lower()
    size = _edns(data, place + 4, extra)
    problem = NO_ERROR if kind_class in (_INTERNET, _ANY_CLASS) else REFUSED
    return Query(number, flags, name, kind, question, size or PLAIN_UDP, size > 0, problem)


def _name(data: bytes, place: int) -> tuple[list[bytes] | None, int]:
    """Return the labels of a name without compression, and where it ends; None = malformed."""
    labels: list[bytes] = []
    total = 1
    while place < len(data):
        length = data[place]
        place += 1
        if length == 0:
            return labels, place
        total += length + 1
        label = data[place : place + length]
        if length > 63 or total > 255 or len(label) != length or b"." in label or b"\0" in label:
            return None, place
        labels.append(label)
        place += length
    return None, place


def _edns(data: bytes, place: int, records: int) -> int:
    """Return the size an OPT record right after the question names, 0 = there is none."""
    if not records or len(data) < place + 11 or data[place] != 0:
        return 0
    kind, size = struct.unpack_from("!2H", data, place + 1)
    return min(max(size, PLAIN_UDP), MOST_UDP) if kind == _OPT else 0


class Answer(Struct, frozen=True):
    """A record of the answer: `data` is an address in text, or for PTR a name."""

    kind: int
    data: str


def encode_answer(
    query: Query,
    code: int,
    answers: tuple[Answer, ...] = (),
    *,
    room: int,
    recursion: bool = False,
) -> bytes:
    """Return the message; with more records than fit in `room` it says that it was cut."""
    records = [_record(answer) for answer in answers]
    opt = b"\0" + struct.pack("!HHIH", _OPT, MOST_UDP, 0, 0) if query.edns else b""
    left = room - _HEADER.size - len(query.question) - len(opt)
    flags = _QR | _AA | (query.flags & (_RD | 0x7800)) | code
    if recursion:
        flags = flags & ~_AA | _RA
    if sum(map(len, records)) > left:
        flags |= _TC
        kept, used = 0, 0
        while used + len(records[kept]) <= left:
            used += len(records[kept])
            kept += 1
        records = records[:kept]
    head = _HEADER.pack(
        query.number, flags, 1 if query.question else 0, len(records), 0, 1 if opt else 0
    )
    return head + query.question + b"".join(records) + opt


def _record(answer: Answer) -> bytes:
    match answer.kind:
        case 1:
            data = socket.inet_pton(socket.AF_INET, answer.data)
        case 28:
            data = socket.inet_pton(socket.AF_INET6, answer.data)
        case _:
            data = encode_name(answer.data)
    # No time to live: a service that was scaled or replaced is seen at the next question.
    return _TO_QUESTION + struct.pack("!HHIH", answer.kind, _INTERNET, 0, len(data)) + data


def encode_name(name: str) -> bytes:
    """Return the bytes of a name. Raises ValueError for a label that is empty or too long."""
    out = b""
    for label in name.split("."):
        raw = label.encode("latin-1")
        if not 0 < len(raw) < 64:
            raise ValueError(f"not a name: {name!r}")
        out += bytes([len(raw)]) + raw
    return out + b"\0"


def encode_query(name: str, kind: int, number: int = 0, *, size: int = 0) -> bytes:
    """Return a query, as a stub resolver sends it; `size` adds an OPT record."""
    opt = b"\0" + struct.pack("!HHIH", _OPT, size, 0, 0) if size else b""
    head = _HEADER.pack(number, _RD, 1, 0, 0, 1 if opt else 0)
    return head + encode_name(name) + struct.pack("!HH", kind, _INTERNET) + opt


def answers_to(query: bytes, answer: bytes) -> bool:
    """Say whether `answer` has the number and the question of `query`."""
    try:
        end = _name(query, _HEADER.size)[1] + 4
    except IndexError:
        return False
    same = answer[_HEADER.size : end].lower() == query[_HEADER.size : end].lower()
    return len(answer) >= end and answer[:2] == query[:2] and bool(answer[2] & 0x80) and same


def reverse_of(name: str) -> str | None:
    """Return the address that `4.3.2.1.in-addr.arpa` or its IPv6 like means, or None."""
    if name.endswith(".in-addr.arpa"):
        parts = name.removesuffix(".in-addr.arpa").split(".")
        text, family = ".".join(reversed(parts)), socket.AF_INET
    elif name.endswith(".ip6.arpa"):
        digits = name.removesuffix(".ip6.arpa").split(".")[::-1]
        if len(digits) != 32 or any(len(digit) != 1 for digit in digits):
            return None
        joined = "".join(digits)
        text = ":".join(joined[at : at + 4] for at in range(0, 32, 4))
        family = socket.AF_INET6
    else:
        return None
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):
        return None
