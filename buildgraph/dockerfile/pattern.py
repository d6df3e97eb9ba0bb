"""Knows shell patterns made of `*` and `?`; must not know variables or words.

A pattern is cut at its stars into chunks of fixed length. Prefix, suffix and replacement then need
only "first occurrence from here" and "last occurrence" of a chunk, so nothing ever backtracks:
`str.find` serves chunks without `?`, and a bit-parallel automaton (Shift-And) the others.
Brackets are literal, as in the builder's own lexer (shared reference, section 1.2).
"""

from __future__ import annotations

Chunk = str | tuple[str | None, ...]  # None stands for one arbitrary character


class PatternTooLong(Exception):
    """The result of a replacement would be longer than the caller allows."""


def compile_pattern(text: str) -> list[Chunk]:
    r"""Cut a pattern into chunks; n stars give n + 1 chunks, some of them empty.

    `\*`, `\?` and `\\` are literal; so are `\}` and `\/`, which only had to be escaped because
    they end a part of `${...}`. Raises ValueError for any other escape.
    """
    chunks: list[Chunk] = []
    current: list[str | None] = []
    characters = iter(text)
    for character in characters:
        if character == "*":
            chunks.append(_chunk(current))
            current = []
        elif character == "?":
            current.append(None)
        elif character == "\\":
            escaped = next(characters, "")
            if not escaped or escaped not in "*?\\}/":
                raise ValueError(f"invalid escape '\\{escaped}' in pattern")
            current.append(escaped)
        else:
            current.append(character)
    chunks.append(_chunk(current))
    return chunks


def strip_prefix(chunks: list[Chunk], value: str, *, longest: bool) -> str:
    """Remove the shortest or longest prefix that matches; without a match give `value` back."""
    end = _prefix_end(chunks, value, longest)
    return value if end < 0 else value[end:]


def strip_suffix(chunks: list[Chunk], value: str, *, longest: bool) -> str:
    """Remove the shortest or longest suffix that matches; without a match give `value` back."""
    mirrored = [chunk[::-1] for chunk in reversed(chunks)]
    end = _prefix_end(mirrored, value[::-1], longest)
    return value if end < 0 else value[: len(value) - end]


def replace(
    chunks: list[Chunk], value: str, replacement: str, *, everywhere: bool, limit: int
) -> str:
    """Replace the first (leftmost, longest) match, or all of them that do not overlap.

    Raises PatternTooLong before a result longer than `limit` characters is built.
    """
    if len(chunks) > 1:
        # A starred match ends at the last place where its last chunk occurs, so that no second
        # match can follow: "everywhere" and "first" are the same.
        return _replace_starred(chunks, value, replacement)
    chunk = chunks[0]
    if isinstance(chunk, str):
        count = value.count(chunk) if everywhere else 1
        if len(value) + count * (len(replacement) - len(chunk)) > limit:
            raise PatternTooLong
        return value.replace(chunk, replacement, -1 if everywhere else 1)
    pieces: list[str] = []
    size = position = 0
    while (start := _find(value, chunk, position)) >= 0:
        pieces += (value[position:start], replacement)
        size += start - position + len(replacement)
        position = start + len(chunk)
        if size > limit:
            raise PatternTooLong
        if not everywhere:
            break
    pieces.append(value[position:])
    return "".join(pieces)


def _replace_starred(chunks: list[Chunk], value: str, replacement: str) -> str:
    start = _find(value, chunks[0], 0)
    if start < 0:
        return value
    # If the rest does not match after the first occurrence of the first chunk, it does not match
    # after a later one either, because less text is left there.
    end = _rest_end(chunks, value, start + len(chunks[0]), longest=True)
    return value if end < 0 else value[:start] + replacement + value[end:]


def _prefix_end(chunks: list[Chunk], value: str, longest: bool) -> int:
    """Where the match that starts at 0 ends, or -1."""
    first = chunks[0]
    if not _matches_start(value, first):
        return -1
    return _rest_end(chunks, value, len(first), longest)


def _rest_end(chunks: list[Chunk], value: str, position: int, longest: bool) -> int:
    """Where `*chunks[1]*chunks[2]...` ends when it starts at `position`, or -1."""
    if len(chunks) == 1:
        return position
    for chunk in chunks[1:-1]:
        start = _find(value, chunk, position)
        if start < 0:
            return -1
        position = start + len(chunk)
    last = chunks[-1]
    start = _find_last(value, last, position) if longest else _find(value, last, position)
    return -1 if start < 0 else start + len(last)


def _chunk(characters: list[str | None]) -> Chunk:
    if None in characters:
        return tuple(characters)
    return "".join(character for character in characters if character is not None)


def _matches_start(value: str, chunk: Chunk) -> bool:
    if isinstance(chunk, str):
        return value.startswith(chunk)
    return len(value) >= len(chunk) and all(
        wanted is None or wanted == character
        for wanted, character in zip(chunk, value, strict=False)
    )


def _find(value: str, chunk: Chunk, start: int) -> int:
    if isinstance(chunk, str):
        return value.find(chunk, start)
    # Shift-And: bit i of `state` says that chunk[: i + 1] matches the text that ends here.
    wild = 0
    masks: dict[str, int] = {}
    for index, character in enumerate(chunk):
        if character is None:
            wild |= 1 << index
        else:
            masks[character] = masks.get(character, 0) | 1 << index
    accept = 1 << (len(chunk) - 1)
    state = 0
    for index in range(start, len(value)):
        state = (state << 1 | 1) & (masks.get(value[index], 0) | wild)
        if state & accept:
            return index - len(chunk) + 1
    return -1


def _find_last(value: str, chunk: Chunk, lowest: int) -> int:
    # str.rfind has no linear worst case, str.find has.
    mirrored = _find(value[lowest:][::-1], chunk[::-1], 0)
    return -1 if mirrored < 0 else len(value) - mirrored - len(chunk)
