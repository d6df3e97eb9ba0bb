"""Knows how to make .deb files and archives that a test needs; must not know the code under test.

Debs are made byte by byte, so that they can be as wrong as a test wants.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A member of data.tar."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    mode: int = 0o644
    link: str = ""


def directory(name: str, mode: int = 0o755) -> Entry:
    return Entry(name, type=tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str) -> Entry:
    return Entry(name, type=tarfile.SYMTYPE, mode=0o777, link=target)


def hard_link(name: str, target: str) -> Entry:
    return Entry(name, type=tarfile.LNKTYPE, link=target)


@dataclass(frozen=True)
class Package:
    """A package: fields beside name, version and architecture, control files, data."""

    name: str
    version: str = "1.0"
    architecture: str = "all"
    fields: Mapping[str, str] = field(default_factory=dict)
    control: Mapping[str, str] = field(default_factory=dict)
    entries: Sequence[Entry] = ()

    @property
    def paragraph(self) -> str:
        head = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "Nobody <nobody@example.org>",
        }
        words = {**head, **self.fields, "Description": "nothing"}
        return "".join(f"{key}: {value}\n" for key, value in words.items())

    @property
    def deb(self) -> bytes:
        files = {"control": self.paragraph, **self.control}
        control = [
            Entry(f"./{n}", t.encode(), mode=0o755 if "inst" in n else 0o644)
            for n, t in files.items()
        ]
        return ar(
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", gzip.compress(tar(control), mtime=0)),
            ("data.tar.gz", gzip.compress(tar(self.entries), mtime=0)),
        )

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version}_{self.architecture}.deb"


def tar(entries: Sequence[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.linkname = entry.type, entry.mode, entry.link
            info.size, info.mtime = len(entry.data), 1_700_000_000
            archive.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        out += b"\n" * (len(data) % 2)
    return out


def packages_file(packages: Sequence[Package]) -> str:
    paragraphs = []
    for package in packages:
        deb = package.deb
        paragraphs.append(
            f"{package.paragraph}Filename: pool/{package.file_name}\n"
            f"Size: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n"
        )
    return "\n".join(paragraphs)


def write_archive(
    top: Path,
    packages: Sequence[Package],
    *,
    suite: str = "test",
    architecture: str = "amd64",
    fields: Mapping[str, str] | None = None,
) -> str:
    """Lay out an archive under `top` and return the text of its Release file, unsigned."""
    (top / "pool").mkdir(parents=True, exist_ok=True)
    for package in packages:
        (top / "pool" / package.file_name).write_bytes(package.deb)
    binary = top / f"dists/{suite}/main/binary-{architecture}"
    binary.mkdir(parents=True, exist_ok=True)
    text = packages_file(packages).encode()
    lines = []
    for name, data in (("Packages", text), ("Packages.gz", gzip.compress(text, mtime=0))):
        (binary / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f" {digest} {len(data)} main/binary-{architecture}/{name}\n")
    head = {
        "Origin": "Test",
        "Suite": suite,
        "Codename": suite,
        "Architectures": architecture,
        "Components": "main",
        **(fields or {}),
    }
    release = "".join(f"{key}: {value}\n" for key, value in head.items())
    release += "SHA256:\n" + "".join(lines)
    (top / f"dists/{suite}/Release").write_text(release)
    return release
