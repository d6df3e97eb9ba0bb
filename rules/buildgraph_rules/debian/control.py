"""Knows deb822 paragraphs and how to find packages in an index of tens of thousands of them; must
not know where the index came from or which packages are wanted.

An index stays one block of bytes. Building its table costs one pass of substring searches;
a paragraph is taken apart only when somebody asks for that package. Source: deb822(5).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final

from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_rules.debian.relation import Group, Relation, parse_relation, parse_relations
from buildgraph_rules.debian.version import is_version, version_key

PACKAGE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")
_PRIORITIES: Final = ("required", "important", "standard", "optional", "extra")


def parse_paragraph(text: str) -> dict[str, str]:
    """Parse one paragraph into fields by lower-case name; raises ValueError for anything else.

    Continuation lines keep their line break and lose one leading blank. A repeated field is an
    error, since two readers could disagree about which one counts.
    """
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1] in (" ", "\t"):
            if not name:
                raise ValueError("continuation line before any field")
            fields[name] += "\n" + line[1:]
        elif not line.startswith("#"):
            key, colon, value = line.partition(":")
            if not colon or not key or key != key.strip():
                raise ValueError(f"not a field: {line[:60]!r}")
            name = key.lower()
            if name in fields:
                raise ValueError(f"field {key} is given twice")
            fields[name] = value.strip()
    return fields


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, text) of each paragraph."""
    start = 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            if not lines:
                start = number
            lines.append(line)
        elif lines:
            yield start, "\n".join(lines)
            lines = []
    if lines:
        yield start, "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class BinaryPackage:
    """A binary package as its control paragraph describes it; relations are parsed when asked."""

    name: str
    version: str
    architecture: str
    archive: int  # index into the archives it was found in
    fields: dict[str, str] = dataclasses.field(repr=False, compare=False)

    @cached_property
    def key(self) -> object:
        """Return what versions sort by."""
        return version_key(self.version)

    @property
    def essential(self) -> bool:
        """Say whether dpkg takes it for granted."""
        return self.fields.get("essential") == "yes"

    @property
    def priority(self) -> int:
        """Return the rank of its priority, 0 = required."""
        word = self.fields.get("priority", "optional")
        return _PRIORITIES.index(word) if word in _PRIORITIES else 3

    def relations(self, name: str) -> tuple[Group, ...]:
        """Return a relation field (lower-case name), () where it is absent."""
        value = self.fields.get(name)
        return parse_relations(value) if value else ()

    @property
    def needs(self) -> tuple[Group, ...]:
        """Return Pre-Depends and Depends."""
        return self.relations("pre-depends") + self.relations("depends")

    @property
    def refuses(self) -> tuple[tuple[str, Relation], ...]:
        """Return what it cannot be installed beside, with the field that says so."""
        return tuple(
            (title, relation)
            for title in ("Conflicts", "Breaks")
            for group in self.relations(title.lower())
            for relation in group
        )

    @cached_property
    def provides(self) -> tuple[tuple[str, str | None], ...]:
        """Return what it provides, with a version where one is given."""
        return tuple(
            (group[0].name, group[0].version if group[0].operator else None)
            for group in self.relations("provides")
        )

    @property
    def path(self) -> str:
        """Return where its .deb is, relative to the archive."""
        return self.fields["filename"]

    @property
    def size(self) -> int:
        """Return the size of its .deb in bytes."""
        return int(self.fields["size"])

    @property
    def sha256(self) -> Digest:
        """Return the digest of its .deb."""
        return parse_digest("sha256:" + self.fields["sha256"].lower())


def binary_package(text: str, archive: int = 0) -> BinaryPackage:
    """Parse a control paragraph; raises ValueError where name, version or architecture is bad.

    The name becomes part of file names, so its grammar is checked here.
    """
    fields = parse_paragraph(text)
    name, version = fields.get("package", ""), fields.get("version", "")
    architecture = fields.get("architecture", "")
    if not PACKAGE_NAME.match(name):
        raise ValueError(f"bad package name {name!r}")
    if not is_version(version):
        raise ValueError(f"package {name}: bad version {version!r}")
    if not re.match(r"[a-z0-9-]+\Z", architecture):
        raise ValueError(f"package {name}: bad architecture {architecture!r}")
    return BinaryPackage(name, version, architecture, archive, fields)


class Index:
    """One Packages file. Holds its bytes; the table of names is built once, here."""

    def __init__(self, data: bytes | bytearray, archive: int):
        self._data = data
        self._archive = archive
        self._places: dict[bytes, int | list[int]] = {}
        for place in _occurrences(data, b"Package:"):
            name = bytes(data[place + 8 : data.find(b"\n", place)]).strip()
            known = self._places.get(name)
            if known is None:
                self._places[name] = place
            elif isinstance(known, int):
                self._places[name] = [known, place]
            else:
                known.append(place)

    def names(self) -> Iterator[str]:
        """Yield every name, in the order of the file."""
        return (name.decode("utf-8", "replace") for name in self._places)

    def packages(self, name: str) -> list[BinaryPackage]:
        """Return every version of `name`."""
        places = self._places.get(name.encode(), [])
        return [self._at(place) for place in ([places] if isinstance(places, int) else places)]

    def required(self) -> set[str]:
        """Return the names that are Essential or of priority required."""
        found = set()
        for line in (b"Essential: yes\n", b"Priority: required\n"):
            found |= {self._at(place).name for place in _occurrences(self._data, line)}
        return found

    @cached_property
    def _provides(self) -> tuple[bytes, list[int], list[int]]:
        """Return all Provides lines joined, where each starts there, and its place in the file."""
        lines, starts, places, length = [], [], [], 0
        for place in _occurrences(self._data, b"Provides:"):
            line = bytes(self._data[place + 9 : self._data.find(b"\n", place) + 1])
            lines.append(line)
            starts.append(length)
            places.append(place)
            length += len(line)
        return b"".join(lines), starts, places

    def providers(self, name: str) -> list[BinaryPackage]:
        """Return every package with `name` in its Provides."""
        from bisect import bisect_right

        text, starts, places = self._provides
        pattern = re.compile(rb"[ ,\t]" + re.escape(name.encode()) + rb"[ ,:\t\n(]")
        found = {bisect_right(starts, match.start()) - 1 for match in pattern.finditer(text)}
        return [self._at(places[number]) for number in sorted(found)]

    def _at(self, place: int) -> BinaryPackage:
        start = self._data.rfind(b"\n\n", 0, place)
        end = self._data.find(b"\n\n", place)
        text = bytes(self._data[max(start + 2, 0) if start >= 0 else 0 : end if end >= 0 else None])
        return binary_package(text.decode("utf-8", "replace").strip("\n"), self._archive)


class Universe:
    """Every package of several indices, for one architecture; nothing of it changes."""

    def __init__(self, indices: Sequence[Index], architecture: str):
        self._indices = indices
        self._architectures = (architecture, "all")
        self._known: dict[str, tuple[BinaryPackage, ...]] = {}
        self._virtual: dict[str, tuple[BinaryPackage, ...]] = {}

    def candidates(self, name: str) -> tuple[BinaryPackage, ...]:
        """Return the versions of `name`, newest first; of equal ones the first archive's first."""
        if name not in self._known:
            found = [p for index in self._indices for p in self._usable(index.packages(name))]
            found.sort(key=lambda package: package.archive)
            found.sort(key=lambda package: package.key, reverse=True)  # type: ignore[arg-type,return-value]
            self._known[name] = tuple(found)
        return self._known[name]

    def providers(self, name: str) -> tuple[BinaryPackage, ...]:
        """Return packages whose newest version provides `name`, the most important first."""
        if name not in self._virtual:
            found = {
                package.name: package
                for index in self._indices
                for package in self._usable(index.providers(name))
                if self.candidates(package.name)[0] == package
            }
            self._virtual[name] = tuple(sorted(found.values(), key=lambda p: (p.priority, p.name)))
        return self._virtual[name]

    def required(self) -> list[str]:
        """Return the names of the base system, sorted."""
        return sorted(set().union(*(index.required() for index in self._indices)))

    def names(self) -> Iterator[str]:
        """Yield every name; one that is in several indices comes several times."""
        return (name for index in self._indices for name in index.names())

    def _usable(self, packages: Iterable[BinaryPackage]) -> list[BinaryPackage]:
        return [package for package in packages if package.architecture in self._architectures]


def parse_request(text: str) -> Relation:
    """Parse `name`, `name:arch`, `name=version` or `name:arch=version`, or raise ValueError."""
    name, equals, version = text.partition("=")
    relation = parse_relation(name)
    if relation.operator is not None or (equals and not is_version(version)):
        raise ValueError(f"bad package {text!r}")
    return Relation(relation.name, "=" if equals else None, version, relation.qualifier)


def _occurrences(data: bytes | bytearray, start: bytes) -> Iterator[int]:
    """Yield where lines begin with `start`."""
    if data.startswith(start):
        yield 0
    needle = b"\n" + start
    place = data.find(needle)
    while place >= 0:
        yield place + 1
        place = data.find(needle, place + 1)
