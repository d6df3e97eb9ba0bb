"""Knows how apt writes down its archives and keyrings; must not know how one is fetched.

Source: sources.list(5), the one-line and the deb822 form. Entries that cannot hold binary
packages for us (deb-src, disabled, cdrom, other architectures) are passed over, as apt does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.errors import HostError, InputError, Location
from buildgraph.limits import APT_SOURCES_BYTES
from buildgraph_rules.debian.control import paragraphs, parse_paragraph

SCHEMES: Final = ("http", "https", "file", "copy")
SNAPSHOT_WORD: Final = "@SNAPSHOTID@"  # apt's own placeholder
_SNAPSHOT: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z\Z")
_OPTION: Final = re.compile(r"([a-z0-9-]+)(?:\+|-)?=(.*)\Z", re.IGNORECASE)
_FINGERPRINT: Final = re.compile(r"(?:0x)?([0-9A-Fa-f]{16,64})!?\Z")
_SUITE_ENDINGS: Final = ("", "-updates", "-security", "/updates")
_MOVING_SUITES: Final = ("stable", "oldstable", "testing", "unstable", "sid")


class KeyringFile(Struct, frozen=True):
    """A keyring on this machine."""

    path: str


class KeyringText(Struct, frozen=True):
    """An armoured key that stands in the sources themselves."""

    text: str


Keyring = KeyringFile | KeyringText


class ArchiveSource(Struct, frozen=True):
    """One suite of one archive, and who may sign it.

    No components means a flat archive: `suite` is then a directory and ends in "/".
    """

    uri: str  # ends in "/"
    suite: str
    components: tuple[str, ...]
    keyrings: tuple[Keyring, ...] = ()
    trusted: bool = False  # do not check signatures
    signers: tuple[str, ...] = ()  # fingerprints; () = any key of the keyrings
    check_valid_until: bool = True

    @property
    def flat(self) -> bool:
        """Say whether the archive has no dists/ and no components."""
        return not self.components

    @property
    def directory(self) -> str:
        """Return the URI of the directory that the Release file is in, with a closing slash."""
        if self.flat:
            return self.uri + ("" if self.suite == "/" else self.suite.lstrip("/"))
        return f"{self.uri}dists/{self.suite}/"

    @property
    def line(self) -> str:
        """Return the one-line form: without keyrings, which are a machine's own affair."""
        options = ["trusted=yes"] if self.trusted else []
        if not self.check_valid_until:
            options.append("check-valid-until=no")
        words = ["deb", f"[{' '.join(options)}]" if options else "", without_login(self.uri)]
        return " ".join(filter(None, (*words, self.suite, *self.components)))


def without_login(uri: str) -> str:
    """Return the URI without user and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def parse_line(line: str, where: Location, architecture: str) -> Iterator[ArchiveSource]:
    """Yield what one line of sources.list means; nothing for a comment or a foreign entry.

    Raises InputError for a line that apt would refuse too.
    """
    text = line.partition("#")[0].strip()
    match = re.match(r"(deb|deb-src)\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*(.*)\Z", text)
    if not text:
        return
    if match is None:
        raise InputError("not an apt source: expected `deb URI SUITE [COMPONENT]...`", where)
    kind, bracket, uri, suite, components = match.groups()
    options: dict[str, str] = {}
    for option in (bracket or "").split():
        pair = _OPTION.match(option)
        if pair is None:
            raise InputError(f"not an apt source option: {option!r}", where)
        options[pair[1].lower()] = pair[2].replace(",", " ")
    if kind == "deb":
        yield from _sources(
            [uri], [suite], components.split(), _option_fields(options), where, architecture
        )


def parse_deb822(text: str, path: str, architecture: str) -> Iterator[ArchiveSource]:
    """Yield what a .sources file means. Raises InputError with the paragraph's place."""
    for number, paragraph in paragraphs(_without_comments(text)):
        where = Location(path, number)
        try:
            fields = parse_paragraph(paragraph)
        except ValueError as error:
            raise InputError(f"apt source: {error}", where) from error
        if "deb" not in fields.get("types", "").split() or not _yes(fields.get("enabled", "yes")):
            continue
        for needed in ("uris", "suites"):
            if not fields.get(needed):
                raise InputError(f"apt source without {needed.upper()}", where)
        yield from _sources(
            fields["uris"].split(),
            fields["suites"].split(),
            fields.get("components", "").split(),
            fields,
            where,
            architecture,
        )


def machine_sources(architecture: str, etc: Path = Path("/etc")) -> tuple[ArchiveSource, ...]:
    """Return this machine's own archives of its own release, in apt's order.

    Archives of others (a vendor's, a backport) stay out: a base image is made of the release. Its
    suites are told by the codename in os-release, so that nothing needs to be fetched to know.
    Raises HostError where there is none, InputError for a source that apt would refuse.
    """
    found: list[ArchiveSource] = []
    for file in _source_files(etc / "apt"):
        text = _read(file)
        if file.suffix == ".sources":
            found.extend(parse_deb822(text, str(file), architecture))
        else:
            for number, line in enumerate(text.splitlines(), 1):
                where = Location(str(file), number, text=line)
                found.extend(parse_line(line, where, architecture))
    suites = release_suites(_os_release(etc / "os-release"))
    keyrings = default_keyrings(etc)
    own = [
        source if source.keyrings else replace(source, keyrings=keyrings)
        for source in found
        if source.suite in suites and urlsplit(source.uri).scheme in SCHEMES
    ]
    if not own:
        raise HostError(
            "this machine's apt sources have no archive of its own release",
            hint="name one in the target: mirror: https://ARCHIVE/debian, suite: CODENAME",
        )
    return tuple(_merged(own))


def default_keyrings(etc: Path = Path("/etc")) -> tuple[Keyring, ...]:
    """Return the keyrings that apt trusts where a source names none."""
    archive = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    files = [archive] if archive.exists() else []
    single = etc / "apt/trusted.gpg"
    files += [single] if single.exists() else []
    directory = etc / "apt/trusted.gpg.d"
    if directory.is_dir():
        files += sorted(p for p in directory.iterdir() if p.suffix in (".gpg", ".asc"))
    return tuple(KeyringFile(str(file)) for file in files)


def release_suites(os_release: Mapping[str, str]) -> frozenset[str]:
    """Return the suites that make up the release this machine runs."""
    names = {*_MOVING_SUITES, os_release.get("VERSION_CODENAME", "")} - {""}
    return frozenset(name + ending for name in names for ending in _SUITE_ENDINGS)


def snapshot_uri(uri: str, snapshot: str) -> str:
    """Return the URI of an archive at a time: the placeholder is filled, else the time appended."""
    if SNAPSHOT_WORD in uri:
        return uri.replace(SNAPSHOT_WORD, snapshot)
    return f"{uri.rstrip('/')}/{snapshot}/"


def is_snapshot(text: str) -> bool:
    """Say whether `text` is a time as snapshot archives write it: 20260131T235959Z."""
    return bool(_SNAPSHOT.match(text))


def normal_uri(uri: str, where: Location) -> str:
    """Return the URI with a closing slash, or raise InputError for a scheme we cannot read."""
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        words = ", ".join(SCHEMES)
        raise InputError(f"archive {without_login(uri)!r}: not one of {words}", where)
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise InputError(f"archive {without_login(uri)!r} has no host", where)
    return uri.rstrip("/") + "/"


def _sources(
    uris: list[str],
    suites: list[str],
    components: list[str],
    fields: Mapping[str, str],
    where: Location,
    architecture: str,
) -> Iterator[ArchiveSource]:
    architectures = fields.get("architectures", "").split()
    if architectures and architecture not in architectures:
        return
    keyrings, signers = _signed_by(fields.get("signed-by", ""))
    for uri in uris:
        if urlsplit(uri).scheme not in SCHEMES:
            continue  # cdrom:, mirror+…: apt has a helper program for each
        for suite in suites:
            if not suite.endswith("/") and not components:
                raise InputError(f"apt source: suite {suite!r} without components", where)
            yield ArchiveSource(
                normal_uri(uri.replace("$(ARCH)", architecture), where),
                suite.replace("$(ARCH)", architecture),
                () if suite.endswith("/") else tuple(components),
                keyrings,
                _yes(fields.get("trusted", "no")),
                signers,
                _yes(fields.get("check-valid-until", "yes")),
            )


def _option_fields(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options of the one-line form under the names of the deb822 form."""
    names = {"arch": "architectures"}
    return {names.get(name, name): value for name, value in options.items()}


def _signed_by(value: str) -> tuple[tuple[Keyring, ...], tuple[str, ...]]:
    if "-----BEGIN" in value:
        # In deb822 an empty line inside a field is written " ."
        lines = ("" if line.strip() == "." else line.strip() for line in value.splitlines())
        return (KeyringText("\n".join(lines).strip() + "\n"),), ()
    keyrings: list[Keyring] = []
    signers: list[str] = []
    for word in value.replace(",", " ").split():
        match = _FINGERPRINT.match(word)
        if word.startswith("/"):
            keyrings.append(KeyringFile(word))
        elif match:
            signers.append(match[1].upper())
    return tuple(keyrings), tuple(signers)


def _merged(sources: Iterable[ArchiveSource]) -> list[ArchiveSource]:
    """Join the components of entries that differ in nothing else; the first one's place counts."""
    merged: dict[ArchiveSource, list[str]] = {}
    for source in sources:
        components = merged.setdefault(replace(source, components=()), [])
        components.extend(c for c in source.components if c not in components)
    return [replace(source, components=tuple(parts)) for source, parts in merged.items()]


def _source_files(apt: Path) -> list[Path]:
    main = [apt / "sources.list"] if (apt / "sources.list").is_file() else []
    parts = apt / "sources.list.d"
    names = sorted(os.listdir(parts)) if parts.is_dir() else []
    # run-parts(8) names: apt passes over anything else, such as an editor's backup
    good = re.compile(r"[A-Za-z0-9_.-]+\.(?:list|sources)\Z")
    return main + [parts / name for name in names if good.match(name)]


def _read(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            data = stream.read(APT_SOURCES_BYTES + 1)
    except OSError as error:
        raise HostError(f"cannot read {file}: {error.strerror}") from error
    if len(data) > APT_SOURCES_BYTES:
        raise InputError(f"{file} is longer than {APT_SOURCES_BYTES} bytes", Location(str(file)))
    return data.decode("utf-8", "replace")


def _os_release(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    pairs = (line.partition("=") for line in _read(file).splitlines())
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs if key.strip()}


def _without_comments(text: str) -> str:
    # A comment inside a paragraph does not end it, so the line must vanish, not become empty;
    # line numbers stay true by joining nothing: only whole-line comments are replaced.
    return "\n".join("#" if line.startswith("#") else line for line in text.splitlines())


def _yes(value: str) -> bool:
    return value.strip().lower() not in ("no", "false", "without", "off", "disable", "0")
