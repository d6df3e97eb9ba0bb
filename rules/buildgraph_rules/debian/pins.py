"""Knows what a resolved set of packages is: exact files of exact archives; must not know how it was
found or is written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

from buildgraph.graph.ops import PackagesOp
from buildgraph_cache.digest import Digest
from buildgraph_rules.debian.sources import ArchiveSource

ARCHITECTURES: Final = {
    "amd64": "amd64",
    "arm64": "arm64",
    "arm/v5": "armel",
    "arm/v6": "armel",
    "arm/v7": "armhf",
    "arm": "armhf",
    "386": "i386",
    "loong64": "loong64",
    "mips64le": "mips64el",
    "ppc64le": "ppc64el",
    "riscv64": "riscv64",
    "s390x": "s390x",
}
_KEYRING_PACKAGE: Final = "debian-archive-keyring"
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"

# What apt and dpkg leave behind that differs from one run to the next, so that
# `RUN apt-get install` of the same versions gives the same layer: apt.conf(5).
_APT_CONFIGURATION: Final = """\
// Written by buildgraph: installing the same packages gives the same files.
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log::History "/dev/null";
Dir::Log::Planner "/dev/null";
Dir::Log::Terminal "/dev/null";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
APT::Keep-Downloaded-Packages "false";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb \
/var/cache/apt/*.bin /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old /var/lib/dpkg/*-old \
/var/log/dpkg.log /var/log/alternatives.log || true"; };
"""


class Pin(Struct, frozen=True, order=True):
    """One .deb, by what it contains."""

    name: str
    version: str
    architecture: str
    path: str  # relative to its archive
    size: int
    digest: Digest
    archive: int  # index into Resolution.archives


@dataclasses.dataclass(frozen=True, slots=True)
class Resolution:
    """The packages of one target for one architecture, sorted by name.

    `archives` have no keyrings and no logins: those are the machine's. `request` is the digest of
    the attributes that led here, so a lock that is out of date is found out.
    """

    label: str
    architecture: str
    request: Digest
    archives: tuple[ArchiveSource, ...]
    pins: tuple[Pin, ...]
    locked: bool = dataclasses.field(default=False, compare=False)

    @property
    def size(self) -> int:
        """Return how many bytes there are to download."""
        return sum(pin.size for pin in self.pins)

    def uri(self, pin: Pin) -> str:
        """Return where the .deb is."""
        return self.archives[pin.archive].uri + quote(pin.path, safe="/+~:=@,")

    def has(self, name: str) -> bool:
        """Say whether a package is among them."""
        return any(pin.name == name for pin in self.pins)


def packages_op(resolution: Resolution, *, configure: bool) -> PackagesOp:
    """Return the op whose result these packages are."""
    files: tuple[tuple[str, str], ...] = ()
    if configure and resolution.has("apt"):
        files = (("etc/apt/apt.conf.d/90buildgraph", _APT_CONFIGURATION),)
        if text := apt_sources(resolution):
            files += (("etc/apt/sources.list", text),)
    return PackagesOp(
        tuple((pin.name, pin.version, pin.architecture, pin.digest) for pin in resolution.pins),
        configure,
        files,
    )


def apt_sources(resolution: Resolution) -> str:
    """Return a sources.list with which apt in the image goes on where the build left off."""
    signed_by = resolution.has(_KEYRING_PACKAGE)
    lines = [_source_line(a, signed_by) for a in _reachable(resolution.archives)]
    return "".join(line + "\n" for line in lines)


def _reachable(archives: Sequence[ArchiveSource]) -> list[ArchiveSource]:
    """Leave out directories of the machine: the image does not have them."""
    return [archive for archive in archives if urlsplit(archive.uri).scheme in ("http", "https")]


def _source_line(archive: ArchiveSource, signed_by: bool) -> str:
    options = [f"signed-by={_KEYRING}"] if signed_by and not archive.trusted else []
    options += ["trusted=yes"] if archive.trusted else []
    options += [] if archive.check_valid_until else ["check-valid-until=no"]
    words = ["deb", f"[{' '.join(options)}]" if options else "", archive.uri, archive.suite]
    return " ".join(filter(None, (*words, *archive.components)))
