"""Knows what `--chmod` means, octal and symbolic; must not know which files it is applied to.

A clause that names nobody (`+x`) means everybody: the umask of whoever builds is not part of what
is built. Source: chmod(1); shared reference 1.5.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from buildgraph.errors import InputError, Location

_OCTAL: Final = re.compile(r"[0-7]{1,5}\Z")
_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)\Z")
_ACTION: Final = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFT: Final = {"u": 6, "g": 3, "o": 0}
_BITS: Final = {"r": 4, "w": 2, "x": 1}


class _Action(Struct, frozen=True):
    who: str  # of "ugo"
    sign: str
    what: str


class Chmod(Struct, frozen=True):
    """A parsed `--chmod`."""

    octal: int | None
    actions: tuple[_Action, ...] = ()

    @classmethod
    def parse(cls, text: str, where: Location | None = None) -> Chmod:
        """Read 0-7777 or a list such as `u=rwX,go-w`. Raises InputError."""
        if _OCTAL.match(text) and int(text, 8) <= 0o7777:
            return cls(int(text, 8))
        actions: list[_Action] = []
        for clause in text.split(","):
            found = _CLAUSE.match(clause)
            if found is None:
                raise InputError(
                    f"--chmod={text}: not a mode",
                    where,
                    "an octal number up to 7777, or changes as chmod(1) has them: u=rwX,go=rX",
                )
            who = found[1].replace("a", "ugo") or "ugo"
            actions += [_Action(who, sign, what) for sign, what in _ACTION.findall(found[2])]
        return cls(None, tuple(actions))

    def apply(self, mode: int, *, is_dir: bool) -> int:
        """Return the permission bits that a file with `mode` gets."""
        if self.octal is not None:
            return self.octal
        for action in self.actions:
            mode = _apply(action, mode, is_dir)
        return mode


def _apply(action: _Action, mode: int, is_dir: bool) -> int:
    wanted = touched = 0
    for person in set(action.who):
        shift = _SHIFT[person]
        wanted |= _wanted(action.what, mode, is_dir) << shift
        touched |= 7 << shift
        special = {"u": 0o4000, "g": 0o2000, "o": 0}[person]
        if "s" in action.what:
            wanted |= special
        # chmod(1): `=` leaves a directory's setuid and setgid bits alone unless they are named.
        if not is_dir or "s" in action.what:
            touched |= special
    if "t" in action.what:
        wanted |= 0o1000
        touched |= 0o1000
    if action.sign == "+":
        return mode | wanted
    if action.sign == "-":
        return mode & ~wanted
    return (mode & ~touched) | wanted


def _wanted(what: str, mode: int, is_dir: bool) -> int:
    if what in ("u", "g", "o"):
        return (mode >> _SHIFT[what]) & 7
    out = 0
    for char in what:
        out |= _BITS.get(char, 0)
        if char == "X" and (is_dir or mode & 0o111):
            out |= 1
    return out
