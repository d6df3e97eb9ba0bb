"""Knows the files dpkg keeps about packages; must not know how the packages got there.

What `write` leaves is what `dpkg --unpack` would: every package "install ok unpacked", so that
`dpkg --configure` can go on from there. Source: dpkg's lib/dpkg/dump.c, infodb-*.c,
triglib.c; deb-triggers(5).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from buildgraph.errors import HostError
from buildgraph.rootpath import Root
from buildgraph_rules.debian.control import paragraphs, parse_paragraph
from buildgraph_rules.debian.deb import Deb
from buildgraph_rules.debian.unpack import Unpacked

ADMIN: Final = "var/lib/dpkg"
STATUS: Final = f"{ADMIN}/status"
_DIRECTORIES: Final = ("alternatives", "info", "parts", "triggers", "updates")
_TRIGGER: Final = re.compile(r"(interest|interest-await|interest-noawait)\s+(\S+)\s*\Z")
_TRIGGER_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+:-]*\Z")
_STATUS_BYTES: Final = 64 * 1024 * 1024


def write_database(root: Root, packages: Sequence[Unpacked]) -> None:
    """Write the database of packages that have been unpacked, conffiles aside. Raises OSError."""
    for name in _DIRECTORIES:
        os.close(root.make_dirs(f"{ADMIN}/{name}"))
    for name in ("available", "diversions", "statoverride"):
        write_file(root, f"{ADMIN}/{name}", b"")
    write_file(root, f"{ADMIN}/info/format", b"1\n")  # with the architecture in file names
    ordered = sorted(packages, key=lambda unpacked: unpacked.deb.name)
    for unpacked in ordered:
        _write_info(root, unpacked)
    for name, lines in _interests(unpacked.deb for unpacked in ordered).items():
        write_file(root, f"{ADMIN}/triggers/{name}", _joined(lines))
    status = "".join(status_entry(unpacked.deb) for unpacked in ordered)
    write_file(root, STATUS, status.encode("utf-8", "surrogateescape"))


def write_entries(root: Root, packages: Sequence[Unpacked]) -> None:
    """Write a file per package to status.d, where scanners look in images without dpkg."""
    os.close(root.make_dirs(f"{ADMIN}/status.d"))
    for unpacked in sorted(packages, key=lambda unpacked: unpacked.deb.name):
        place = f"{ADMIN}/status.d/{unpacked.deb.name}"
        write_file(root, place, (unpacked.deb.control + "\n").encode())
        write_file(root, f"{place}.md5sums", _md5sums(unpacked))


def status_entry(deb: Deb) -> str:
    """Return the paragraph of an unpacked package, with its conffiles marked as new."""
    head, rest = _split(deb.control, "package")
    lines = [head, "Status: install ok unpacked"]
    conffiles = deb.conffiles
    if conffiles:
        lines += ["Conffiles:", *(f" {path} newconffile" for path in conffiles)]
    return "\n".join(filter(None, (*lines, rest.strip("\n")))) + "\n\n"


def unfinished(root: Root) -> list[str]:
    """Return `name (status)` of every package that is not installed. Raises HostError."""
    data = read_file(root, STATUS, _STATUS_BYTES)
    if data is None:
        raise HostError("dpkg's status file is gone")
    found = []
    for _, text in paragraphs(data.decode("utf-8", "replace")):
        fields = parse_paragraph(text)
        if fields.get("status") != "install ok installed":
            found.append(f"{fields.get('package')} ({fields.get('status')})")
    return found


def read_file(root: Root, path: str, limit: int) -> bytes | None:
    """Return a regular file of the root, None where there is none or it is longer than `limit`."""
    try:
        fd = root.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(limit + 1)
    return data if len(data) <= limit else None


def write_file(root: Root, path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file of root's in place of whatever is there. Raises OSError."""
    above, _, name = path.rpartition("/")
    parent = root.make_dirs(above)
    try:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
    finally:
        os.close(parent)


def _write_info(root: Root, unpacked: Unpacked) -> None:
    deb = unpacked.deb
    base = f"{ADMIN}/info/{deb.database_name}"
    write_file(root, f"{base}.list", _joined(unpacked.paths))
    for name, file in sorted(deb.files.items()):
        # dpkg passes over names with a dot and over a "list" of the package's own
        if "." not in name and name not in ("list", "md5sums"):
            write_file(root, f"{base}.{name}", file.data, file.mode)
    write_file(root, f"{base}.md5sums", _md5sums(unpacked))


def _md5sums(unpacked: Unpacked) -> bytes:
    own = unpacked.deb.files.get("md5sums")
    if own is not None:
        return own.data
    return _joined(f"{digest}  {path}" for path, digest in unpacked.md5sums.items())


def _interests(debs: Iterable[Deb]) -> dict[str, list[str]]:
    """Return the lines of the files in triggers/: who waits for which trigger."""
    found: dict[str, list[str]] = {}
    for deb in debs:
        for kind, trigger in _directives(deb):
            # noawait is what plain "interest" is not
            owner = deb.database_name + ("/noawait" if kind == "interest-noawait" else "")
            if trigger.startswith("/"):
                found.setdefault("File", []).append(f"{trigger} {owner}")
            elif _TRIGGER_NAME.match(trigger):
                found.setdefault(trigger, []).append(owner)
            else:
                raise HostError(f"package {deb.name}: bad trigger name {trigger!r}")
    return found


def _directives(deb: Deb) -> Iterator[tuple[str, str]]:
    for line in deb.text("triggers").splitlines():
        match = _TRIGGER.match(line.partition("#")[0].strip())
        if match:
            yield match[1], match[2]


def _split(text: str, name: str) -> tuple[str, str]:
    """Return the line of a one-line field, and all other lines."""
    lines = text.split("\n")
    place = next(i for i, line in enumerate(lines) if line.lower().startswith(name + ":"))
    return lines[place], "\n".join(lines[:place] + lines[place + 1 :])


def _joined(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")
