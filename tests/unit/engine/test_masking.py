"""Secrets never show in output, wherever it is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from buildgraph.engine.masking import Masker


def masked(secrets: list[bytes], pieces: list[bytes]) -> bytes:
    masker = Masker(secrets)
    return b"".join(masker.feed(piece) for piece in pieces) + masker.finish()


def test_a_secret_is_hidden() -> None:
    assert masked([b"hunter22"], [b"login with hunter22 ok\n"]) == b"login with *** ok\n"


def test_lines_of_a_long_secret_are_hidden_too() -> None:
    assert masked([b"-----BEGIN\nabcdef\n"], [b"x abcdef y"]) == b"x *** y"


def test_nothing_is_held_back_without_need() -> None:
    masker = Masker([b"hunter22"])
    assert masker.feed(b"password: ") == b"password: "
    assert masker.feed(b"hun") == b""
    assert masker.feed(b"gry\n") == b"hungry\n"


def test_short_values_are_left() -> None:
    assert masked([b"1", b"", b"\n"], [b"111\n"]) == b"111\n"


@given(
    st.lists(st.binary(min_size=4, max_size=9), min_size=1, max_size=3),
    st.lists(st.one_of(st.binary(max_size=12), st.integers(0, 2)), max_size=12),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_no_secret_survives_any_cutting(
    secrets: list[bytes], parts: list[bytes | int], cuts: list[int]
) -> None:
    text = b"".join(p if isinstance(p, bytes) else secrets[p % len(secrets)] for p in parts)
    edges = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    out = masked(secrets, pieces)
    values = {s.strip() for s in secrets if len(s.strip()) >= 4}
    # A mask beside ordinary text may spell a secret of stars only.
    assert not any(value in out for value in values if b"*" not in value)
    if not any(value in text for value in values) and b"\n" not in b"".join(secrets):
        assert out == text
