"""Knows what a command that may take a while says before anything of it is loaded; must not know
what the command does, and imports next to nothing.

A log gets a line that is worth having there, whose version and which store. A terminal gets a word
that the next line overwrites: it ends in a carriage return, and no line of ours is as short.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from buildgraph import __version__
from buildgraph.cli.places import store_of

_LONG = ("build", "test", "push")
# What is asked for is something other than a build, or is for a program to read.
_SILENT = ("--help", "--quiet", "--dry-run", "--check", "--json")
_SILENT_LETTERS = frozenset("hqn")
_FORMS = ("json", "rawjson", "quiet")
_VARIABLES = ("BUILDKIT_PROGRESS", "BUILDGRAPH_BUILD_PROGRESS", "BUILDGRAPH_TEST_PROGRESS")


def greet(arguments: Sequence[str], environ: Mapping[str, str], descriptor: int = 2) -> None:
    """Say at once that something happens, where the command is one that takes its time."""
    if not arguments or arguments[0] not in _LONG or not _is_wanted(arguments, environ):
        return
    line = f"buildgraph {__version__}, store {store_of(arguments)}\n"
    text = "loading\r" if os.isatty(descriptor) else line
    # A closed stderr is said, or borne, by those who write what matters.
    with suppress(OSError):
        os.write(descriptor, os.fsencode(text))


def _is_wanted(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    if any(environ.get(name) in _FORMS for name in _VARIABLES):
        return False
    words = set(arguments)
    if not words.isdisjoint(_SILENT) or any(word.startswith("--call") for word in words):
        return False
    letters = {letter for word in words if word[:1] == "-" != word[1:2] for letter in word}
    if not letters.isdisjoint(_SILENT_LETTERS):
        return False
    forms = {word.removeprefix("--progress=") for word in words}
    return forms.isdisjoint(_FORMS)
