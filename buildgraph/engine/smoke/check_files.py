"""Knows when a check of a file holds; must not know where the file is."""

from __future__ import annotations

import re
import stat
from typing import Final

from buildgraph import limits
from buildgraph.boxfile.smoke import FileCheck
from buildgraph.engine.smoke.expect import complaints, shorten
from buildgraph.engine.smoke.results import Attempt
from buildgraph.engine.smoke.world import Files, World
from buildgraph.engine.users import lookup
from buildgraph.errors import InputError
from buildgraph.filetree import FileStat, Kind
from buildgraph.rootpath import clean

CONTENT_BYTES: Final = 16 * limits.MIB
_TYPES: Final = {"file": Kind.FILE, "directory": Kind.DIR, "link": Kind.SYMLINK}
_WORDS: Final = {
    Kind.FILE: "a file",
    Kind.DIR: "a directory",
    Kind.SYMLINK: "a link",
    Kind.CHAR: "a device",
    Kind.BLOCK: "a device",
    Kind.FIFO: "a pipe",
    Kind.SOCKET: "a socket",
    Kind.HARDLINK: "a file",
}
_BITS: Final = {"owner": 0o100, "group": 0o010, "other": 0o001, "any": 0o111}


def file_attempt(check: FileCheck, world: World) -> Attempt:
    """Look at a file once."""
    files = world.files(check.subject)
    environment = dict(world.image(check.subject).config.env)
    path = clean(substitute(check.path, environment))
    request = f"look at /{path} of {check.subject}"
    itself = files.stat(path)
    if itself is None or not check.exists:
        wrong = (
            ()
            if (itself is not None) == check.exists
            else ((f"/{path} is there" if itself is not None else f"/{path} is not there"),)
        )
        return Attempt(wrong, request, "" if itself is None else _told(path, itself))
    # As `ls -l` and container-structure-test, type and permissions are of the name itself; what
    # is read is what it leads to.
    seen = itself if check.type == "link" else files.follow(path) or itself
    found = [*_properties(check, path, itself, seen, files)]
    found += _content(check, path, files)
    return Attempt(tuple(found), request, _told(path, itself))


def substitute(text: str, environment: dict[str, str]) -> str:
    """Return `text` with `$NAME` and `${NAME}` replaced by the image's variables."""

    def one(match: re.Match[str]) -> str:
        return environment.get(match[1] or match[2], "")

    return re.sub(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", one, text)


def _told(path: str, found: FileStat) -> str:
    target = f" -> {found.target}" if found.kind is Kind.SYMLINK else ""
    size = f" {found.size} bytes" if found.kind is Kind.FILE else ""
    return f"{permissions(found)} {found.uid}:{found.gid}{size} /{path}{target}"


def permissions(found: FileStat) -> str:
    """Return mode and type as Go's FileMode.String, which container-structure-test compares with.

    Source: Go, io/fs, FileMode.String.
    """
    marks = (
        ("d", found.kind is Kind.DIR),
        ("L", found.kind is Kind.SYMLINK),
        ("D", found.kind in (Kind.BLOCK, Kind.CHAR)),
        ("p", found.kind is Kind.FIFO),
        ("S", found.kind is Kind.SOCKET),
        ("u", found.mode & stat.S_ISUID),
        ("g", found.mode & stat.S_ISGID),
        ("c", found.kind is Kind.CHAR),
        ("t", found.mode & stat.S_ISVTX),
    )
    head = "".join(letter for letter, holds in marks if holds)
    bits = "".join(
        letter if found.mode >> (8 - i) & 1 else "-" for i, letter in enumerate("rwxrwxrwx")
    )
    return (head or "-") + bits


def _properties(
    check: FileCheck, path: str, itself: FileStat, seen: FileStat, files: Files
) -> list[str]:
    out: list[str] = []
    if check.type is not None and seen.kind is not _TYPES[check.type]:
        out.append(f"/{path} is {_WORDS[seen.kind]}, not a {check.type}")
    if check.mode is not None and seen.mode != check.mode:
        out.append(f"mode {seen.mode:04o}, not {check.mode:04o}")
    if check.permissions is not None and permissions(itself) != check.permissions:
        out.append(f"permissions {permissions(itself)}, not {check.permissions}")
    if check.executable_by is not None and not seen.mode & _BITS[check.executable_by]:
        out.append(f"not executable by {check.executable_by}: {permissions(seen)}")
    if check.owner is not None:
        out += _owner(check.owner, seen, files)
    return out


def _owner(wanted: str, seen: FileStat, files: Files) -> list[str]:
    """Compare with `user`, `user:group`, `:group` or `user:`; only what is named must agree."""
    user, _, group = wanted.partition(":")
    passwd = files.read("etc/passwd", limits.PASSWD_BYTES) or b""
    groups = files.read("etc/group", limits.PASSWD_BYTES) or b""
    try:
        who = lookup(f"{user or '0'}:{group}" if group else user or "0", passwd, groups)
    except InputError as error:
        return [error.message]
    wrong = (user and who.uid != seen.uid) or (group and who.gid != seen.gid)
    return [f"owner {seen.uid}:{seen.gid}, not {wanted}"] if wrong else []


def _content(check: FileCheck, path: str, files: Files) -> list[str]:
    out: list[str] = []
    if check.sha256 is not None:
        digest = files.sha256(path)
        if digest != check.sha256:
            out.append(f"sha256 {digest or 'of no file'}, not {shorten(check.sha256)}")
    if not check.content.anything:
        data = files.read(path, CONTENT_BYTES)
        if data is None:
            return [*out, f"/{path} is not a file"]
        out += complaints(data, check.content, f"/{path}")
    return out
