"""Knows how text from strangers is shown so that it cannot play tricks on a terminal or on CI;
must not know where the text comes from.

What a step prints, file names and lines of a Dockerfile all may hold escape sequences. Colours are
kept where the reader is a terminal; every other control byte is shown in visible form, as git does
with what a server sends. The step's own log file stays raw.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

LINE_BYTES: Final = 4096  # of one line that is shown; the rest is counted
_RESET: Final = "\x1b[0m"

_SGR: Final = re.compile(r"\x1b\[([0-9;:]*)m")
# Erasing the rest of a line that we print as a line of its own does nothing, so it is not worth
# showing: apt, pip and cargo write it all the time.
_ERASE_LINE: Final = re.compile(r"\x1b\[[0-2]?K")
_ODD: Final = re.compile(
    "["
    "\x00-\x08\x0a-\x1f\x7f"  # C0 without the tab, and DEL
    "\x80-\x9f"  # C1: \x9b alone starts a sequence on some terminals
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi controls: "Trojan Source"
    "\u200b\u2028\u2029\u2060-\u2064\ufeff\U000e0000-\U000e007f"  # invisible or line-breaking
    "\ud800-\udfff"  # surrogates: bytes that are no UTF-8
    "]"
)
# "::error::" starts a line on GitHub and GitLab runners; "##[", "##vso[" and "##teamcity[" are
# looked for anywhere in a line.
_COMMAND_START: Final = re.compile(r"^(\s*)::(?=[A-Za-z])", re.MULTILINE)
_COMMAND_INSIDE: Final = re.compile(r"##(?=(?:vso|teamcity)?\[)")


def decode(data: bytes) -> str:
    r"""Return `data` as text; bytes that are no UTF-8 become `\xNN`."""
    return data.decode("utf-8", "backslashreplace")


def safe(text: str, *, color: bool = False, newlines: bool = False) -> str:
    """Return `text` with everything a terminal could obey made visible.

    With `color`, colours and weights are kept and closed at the end; without, they are dropped.
    With `newlines`, line feeds stay; otherwise they are shown as `^J`.
    """
    if text.isascii() and text.isprintable():
        return text
    if newlines:
        return "\n".join(safe(line, color=color) for line in text.split("\n"))
    if "\x1b" not in text:
        return _ODD.sub(_visible, text)
    text = _ERASE_LINE.sub("", text)
    pieces: list[str] = []
    at = 0
    colored = False
    for match in _SGR.finditer(text):
        pieces.append(_ODD.sub(_visible, text[at : match.start()]))
        at = match.end()
        if color and (kept := _harmless(match[1])) is not None:
            pieces.append(f"\x1b[{kept}m")
            colored = kept not in ("", "0")
    pieces.append(_ODD.sub(_visible, text[at:]))
    if colored:
        pieces.append(_RESET)
    return "".join(pieces)


def safe_bytes(data: bytes, *, color: bool = False) -> str:
    """Return one line of raw output as `safe` text."""
    return safe(decode(data), color=color)


def no_commands(text: str) -> str:
    """Return `text` so that no CI system takes a line of it for a command of its own."""
    if ":" not in text and "#" not in text:
        return text
    text = _COMMAND_START.sub(r"\1\::", text)
    return _COMMAND_INSIDE.sub(r"#\#", text)


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return "^" + chr(code + 0x40)
    if code == 0x7F:
        return "^?"
    if code < 0xA0:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's form of one byte
        return f"\\x{code - 0xDC00:02x}"
    return f"<U+{code:04X}>"


def _harmless(parameters: str) -> str | None:
    """Return the parameters of an SGR sequence without those that hide or blink; None for none."""
    if len(parameters) > 64:
        return None
    if not parameters:
        return ""
    kept: list[str] = []
    numbers = re.split("[;:]", parameters)
    at = 0
    while at < len(numbers):
        number = numbers[at].lstrip("0") or "0"
        if number in ("38", "48"):  # 5;n or 2;r;g;b follow
            extra = {"5": 2, "2": 4}.get("".join(numbers[at + 1 : at + 2]), 0)
            if not extra or len(numbers) < at + 1 + extra:
                return None
            kept += [number, *numbers[at + 1 : at + 1 + extra]]
            at += extra
        elif _is_color_or_weight(int(number)):
            kept.append(number)
        at += 1
    return ";".join(kept) or None


def _is_color_or_weight(number: int) -> bool:
    return (
        number in (0, 1, 2, 3, 4, 7, 9)
        or 22 <= number <= 29
        or 30 <= number <= 49
        or 90 <= number <= 107
    )


def width(text: str) -> int:
    """Return how many columns `safe` text without colours takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def clip(text: str, columns: int) -> str:
    """Return `safe` text without colours cut to at most `columns`, with an ellipsis where cut."""
    if width(text) <= columns:
        return text
    kept: list[str] = []
    room = columns - 1
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "…" if columns > 0 else ""


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class LineSplitter:
    """Cuts the output of one node into lines as it comes, in bounded memory.

    A carriage return starts the line over, as a progress bar means it: what is shown is what would
    stand there at the end. Lines longer than LINE_BYTES are cut, and say by how much.
    """

    __slots__ = ("_dropped", "_kept")

    def __init__(self) -> None:
        self._kept = b""
        self._dropped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their ends."""
        *whole, rest = data.split(b"\n")
        lines = []
        for part in whole:
            self._add(part)
            lines.append(self._take())
        if rest:
            self._add(rest)
        return lines

    def flush(self) -> list[bytes]:
        """Return the last line if it had no end; for when the node is done."""
        return [self._take()] if self._kept else []

    def _add(self, part: bytes) -> None:
        # "\r" at the very end may be half of "\r\n", so it is decided when more has come.
        if self._kept.endswith(b"\r") and part:
            self._kept = b""
            self._dropped = 0
        body = part.rstrip(b"\r")
        start = body.rfind(b"\r") + 1
        if start:
            self._kept = b""
            self._dropped = 0
            part = part[start:]
        room = LINE_BYTES - len(self._kept)
        if len(part) > room:
            ended = part.endswith(b"\r")
            self._dropped += len(part) - max(room, 0)
            part = part[: max(room, 0)]
            self._kept += part
            if ended:
                self._kept += b"\r"
            return
        self._kept += part

    def _take(self) -> bytes:
        line = self._kept.rstrip(b"\r")
        if self._dropped:
            line += b" [%d more bytes]" % self._dropped
        self._kept = b""
        self._dropped = 0
        return line


class LastLine:
    """Remembers just the last line with something in it; cheap for any amount of output."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Take in more output."""
        if len(data) >= LINE_BYTES:
            self._tail = data[-LINE_BYTES:]
        else:
            self._tail = (self._tail + data)[-LINE_BYTES:]

    def text(self) -> str:
        """Return the line as `safe` text without colours, "" where there is none."""
        for line in reversed(re.split(rb"[\r\n]", self._tail)):
            if line.strip():
                return safe_bytes(line)
        return ""
