"""Knows that every reader that is fuzzed takes its seeds, a few inputs near them, and what once
broke it; must not know what any reader is held to.
"""

from __future__ import annotations

import random

import pytest

from fuzz.one import changed
from fuzz.targets import TARGETS

# Found by fuzzing: each was an error of ours, or a message of thousands of characters.
FOUND = [
    ("expansion", b"${ab:?b*'${long%%a?}%%a?}$"),
    ("expansion", b"${" + b"n" * 4000 + b"=x}"),
    ("git", b"git://h/p.git#:%0ad"),
    ("git", b"https://\0\0u:p@git.example.com/a/b.git#v2:sub?x"),
    ("reference", b"a:" + b"\xff" * 4000),
    ("reference", b"@" + b"\0" * 4000),
    ("documents", b'{"architecture":"","os":"","rootfs":{"type":"layers"}}'),
    ("documents", b'{"architecture":"a","os":"b","config":{"Healthcheck":{}},"rootfs":{"type":"layers"}}'),
]  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_reader(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds:
        target.run(seed)
    chance = random.Random(name)
    words = [word.encode() for word in target.words]
    for _ in range(60):
        target.run(changed(chance, target.seeds, words))


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found(name: str, data: bytes) -> None:
    TARGETS[name].run(data)
