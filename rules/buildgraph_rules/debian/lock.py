"""Knows how resolutions are written down, one package a line; must not know where the file lies.

    # comment
    version 1
    image docker.io/library/debian:12@sha256:…          what a FROM of this name means
    target //base:image amd64
      request sha256:…                                  digest of the attributes
      archive deb http://mirror.example/debian trixie main
        adduser 3.134 all pool/main/a/adduser/adduser_3.134_all.deb 116072 sha256:…

An image is pinned by the digest of its index, if it has one, so for every platform, and stands on
one line as update bots look for it. Packages stand below their archive; images, targets, and
packages below an archive, are sorted, so that a diff shows what changed and nothing else.
Indentation is for people; reading ignores it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.errors import InputError, Location
from buildgraph.limits import LOCK_BYTES
from buildgraph.oci.reference import parse_reference
from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_rules.debian.control import PACKAGE_NAME
from buildgraph_rules.debian.pins import Pin, Resolution
from buildgraph_rules.debian.sources import ArchiveSource, parse_line
from buildgraph_rules.debian.version import is_version

FILE_NAME: Final = "Boxfile.lock"
_HEAD: Final = "# Written by `buildgraph lock`: run it again to bring this up to date.\nversion 1\n"
_ARCHITECTURE: Final = re.compile(r"[a-z0-9-]+\Z")

Lock = Mapping[tuple[str, str], Resolution]  # (label, architecture)


Images = Mapping[str, Digest]  # canonical reference with its tag -> digest


def write_lock(resolutions: Iterable[Resolution], images: Images | None = None) -> str:
    """Return the text of a lock; the same pins give the same text."""
    out = [_HEAD]
    if images:
        out.append("\n")
    out += [f"image {name}@{digest}\n" for name, digest in sorted((images or {}).items())]
    for resolution in sorted(resolutions, key=lambda r: (r.label, r.architecture)):
        out.append(f"\ntarget {resolution.label} {resolution.architecture}\n")
        out.append(f"  request {resolution.request}\n")
        for number, archive in enumerate(resolution.archives):
            out.append(f"  archive {archive.line}\n")
            for pin in sorted(pin for pin in resolution.pins if pin.archive == number):
                words = (pin.name, pin.version, pin.architecture, pin.path, pin.size, pin.digest)
                out.append(f"    {' '.join(map(str, words))}\n")
    return "".join(out)


class Pins(Struct, frozen=True):
    """All that a lock holds; `packages` None: there is no lock for them, or it does not count."""

    packages: Lock | None = None
    images: Images = field(default_factory=dict)


def read_pins(text: str, path: str) -> Pins:
    """Return what a lock holds. Raises InputError with the place of what is wrong."""
    if len(text) > LOCK_BYTES:
        raise InputError(f"the lock file is longer than {LOCK_BYTES} bytes", Location(path))
    reader = _Reader(path)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            reader.line(line, number)
    reader.end_target()
    return Pins(reader.found, reader.images)


def read_lock(text: str, path: str) -> Lock:
    """Return the resolutions of a lock. Raises as `read_pins`."""
    return read_pins(text, path).packages or {}


def read_images(text: str, path: str) -> Images:
    """Return the images of a lock. Raises as `read_pins`."""
    return read_pins(text, path).images


class _Reader:
    def __init__(self, path: str):
        self._path = path
        self._where = Location(path, 1)
        self._versioned = False
        self._target: tuple[str, str] | None = None
        self._request: Digest | None = None
        self._archives: list[ArchiveSource] = []
        self._pins: dict[str, Pin] = {}
        self.found: dict[tuple[str, str], Resolution] = {}
        self.images: dict[str, Digest] = {}

    def line(self, line: str, number: int) -> None:
        words = line.split()
        column = len(line) - len(line.lstrip()) + 1
        where = Location(self._path, number, column, len(line.rstrip()) + 1, line)
        if not self._versioned:
            if words != ["version", "1"]:
                raise InputError(
                    "not a lock file of this version",
                    where,
                    hint="expected `version 1`; write it anew with `buildgraph lock`",
                )
            self._versioned = True
        elif words[0] == "target":
            self._begin_target(words, where)
        elif words[0] == "image" and self._target is None:
            self._add_image(words, where)
        elif self._target is None:
            raise InputError("expected `target LABEL ARCHITECTURE`", where)
        elif words[0] == "request":
            self._set_request(words, where)
        elif words[0] == "archive":
            self._add_archive(line.split(None, 1)[1:], where)
        else:
            self._add_pin(words, where)

    def end_target(self) -> None:
        if self._target is None:
            return
        if self._request is None:
            raise InputError("the target has no `request` line", self._where)
        label, architecture = self._target
        self.found[self._target] = Resolution(
            label,
            architecture,
            self._request,
            tuple(self._archives),
            tuple(self._pins[name] for name in sorted(self._pins)),
            locked=True,
        )

    def _begin_target(self, words: list[str], where: Location) -> None:
        self.end_target()
        if len(words) != 3 or not _ARCHITECTURE.match(words[2]) or not words[1].startswith("//"):
            raise InputError("expected `target LABEL ARCHITECTURE`", where)
        self._target, self._where = (words[1], words[2]), where
        if self._target in self.found:
            raise InputError(f"{words[1]} {words[2]} is here twice", where)
        self._request, self._archives, self._pins = None, [], {}

    def _add_image(self, words: list[str], where: Location) -> None:
        name, at, digest = words[1].rpartition("@") if len(words) == 2 else ("", "", "")
        try:
            pinned = parse_digest(digest)
            reference = parse_reference(name)
        except (ValueError, InputError) as error:
            raise InputError("expected `image HOST/NAME:TAG@sha256:…`", where) from error
        if not at or not reference.tag or str(reference) != name:
            raise InputError(
                "expected `image HOST/NAME:TAG@sha256:…`", where, hint=f"as in {reference}"
            )
        if name in self.images:
            raise InputError(f"{name} is here twice", where)
        self.images[name] = pinned

    def _set_request(self, words: list[str], where: Location) -> None:
        try:
            (text,) = words[1:]
            self._request = parse_digest(text)
        except ValueError as error:
            raise InputError("expected `request sha256:…`", where) from error

    def _add_archive(self, rest: list[str], where: Location) -> None:
        architecture = self._target[1] if self._target else ""
        sources = list(parse_line(rest[0], where, architecture)) if rest else []
        if len(sources) != 1:
            raise InputError("expected `archive deb URI SUITE [COMPONENT]...`", where)
        self._archives.append(replace(sources[0], keyrings=(), signers=()))

    def _add_pin(self, words: list[str], where: Location) -> None:
        if len(words) != 6:
            raise InputError("expected `NAME VERSION ARCHITECTURE PATH SIZE sha256:…`", where)
        name, version, architecture, path, size, digest = words
        good = (
            PACKAGE_NAME.match(name)
            and is_version(version)
            and _ARCHITECTURE.match(architecture)
            and size.isdecimal()
            and is_pool_path(path)
        )
        if not good:
            raise InputError(f"damaged line for package {name!r}", where)
        if not self._archives:
            raise InputError("a package before the first `archive` line", where)
        if name in self._pins:
            raise InputError(f"package {name} is here twice", where)
        try:
            pinned = parse_digest(digest)
        except ValueError as error:
            raise InputError(str(error), where) from error
        self._pins[name] = Pin(
            name, version, architecture, path, int(size), pinned, len(self._archives) - 1
        )


def is_pool_path(path: str) -> bool:
    """Say whether `path` can be a file of an archive: relative, inside it, printable, no blanks."""
    parts = path.split("/")
    return path.isprintable() and " " not in path and ".." not in parts and parts[0] != ""
