"""Knows which sources of a COPY or ADD are files at hand, files of servers and repositories; must
not know what is in any of them.

What comes from one place is one copy. Files of several servers are one as well; each repository is
its own, since its whole tree is meant.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from msgspec import Struct

from buildgraph.dockerfile import instructions as ins
from buildgraph.errors import InputError, Location
from buildgraph.fetch.git_url import check_checksum, is_git_url, parse_git
from buildgraph.fetch.names import file_name
from buildgraph.graph.stage_ir import CopySource, RepositoryRef, ServerFile, ServerRef
from buildgraph.transport.urls import parse_url, strip_logins

_HTTP: Final = re.compile(r"https?://", re.IGNORECASE)
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")
_SPECIAL: Final = re.compile(r"([\\*?\[\]])")


class Part(Struct, frozen=True):
    """What one copy of an instruction takes, and whether archives in it are unpacked."""

    source: CopySource
    paths: tuple[str, ...]
    unpack: bool | None


def parts_of(
    item: ins.Copy | ins.Add,
    local: CopySource,
    paths: tuple[str, ...],
    dest: str,
    checksum: str | None,
) -> list[Part]:
    """Sort the (expanded) sources of an instruction, keeping their order; never empty.

    `local` is where files at hand come from; `dest` is absolute and ends in a slash where it is a
    directory. Raises InputError for sources that COPY cannot have, that are malformed, or that
    `checksum` says nothing about.
    """
    parts: list[Part] = []
    into = dest.endswith("/") or len(paths) > 1
    for path in paths:
        part = _part(item, local, path, into, checksum)
        last = parts[-1] if parts else None
        if last is not None and (joined := _joined(last, part)) is not None:
            parts[-1] = joined
        else:
            parts.append(part)
    if item.heredocs and not (parts and parts[-1].source == local):
        parts.append(Part(local, (), _unpack_local(item)))
    return parts or [Part(local, (), _unpack_local(item))]


def is_remote(part: Part) -> bool:
    """Say whether a part comes from another machine."""
    return isinstance(part.source, ServerRef | RepositoryRef)


def _joined(last: Part, part: Part) -> Part | None:
    """Return two neighbours as one copy, or None where they cannot be."""
    source = last.source
    if isinstance(source, ServerRef) and isinstance(part.source, ServerRef):
        source = ServerRef((*source.files, *part.source.files))
    elif is_remote(last) or is_remote(part):
        return None
    return Part(source, (*last.paths, *part.paths), last.unpack)


def _part(
    item: ins.Copy | ins.Add, local: CopySource, path: str, into: bool, checksum: str | None
) -> Part:
    where = item.where
    git = is_git_url(path)
    if not git and not _HTTP.match(path):
        if checksum is not None:
            raise InputError(
                "--checksum is about URLs and git repositories, and this source is neither", where
            )
        return Part(local, (path,), _unpack_local(item))
    if not isinstance(item, ins.Add):
        raise InputError(f"COPY cannot read {strip_logins(path)}", where, "ADD can read URLs")
    if git:
        return _repository(item, path, checksum)
    url = parse_url(path, where)
    name = file_name(url, where, into=into)
    file = ServerFile(path, name, _pin(checksum, where))
    # A name is no pattern here.
    return Part(ServerRef((file,)), (_SPECIAL.sub(r"\\\1", name),), None if item.unpack else False)


def _unpack_local(item: ins.Copy | ins.Add) -> bool | None:
    return item.unpack if isinstance(item, ins.Add) else False


def _repository(item: ins.Add, path: str, checksum: str | None) -> Part:
    reference = parse_git(path, item.where)
    try:
        if checksum is not None:
            pin = check_checksum(checksum)
            if reference.checksum not in (None, pin):
                raise InputError("--checksum and the checksum in the URL differ")
            reference = replace(reference, checksum=pin)
    except InputError as error:
        error.where = error.where or item.where
        raise
    if item.keep_git_dir:
        reference = replace(reference, keep_git_dir=True)
    return Part(RepositoryRef(reference), ("/",), False)


def _pin(checksum: str | None, where: Location) -> str | None:
    if checksum is None or _SHA256.fullmatch(checksum):
        return checksum
    raise InputError(
        f"--checksum={checksum[:80]} is no sha256:HEX of 64 digits", where, "as sha256sum prints it"
    )
