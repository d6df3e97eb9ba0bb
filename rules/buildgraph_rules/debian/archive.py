"""Knows the layout of a Debian archive: signed Release, hashed indices; must not know which
packages are wanted.

Trust flows one way: keyring -> Release (gpgv) -> Packages (size, sha256) -> .deb (size, sha256).
Source: the Debian wiki's RepositoryFormat page, apt-secure(8).
"""

from __future__ import annotations

import email.utils
import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from buildgraph.errors import HostError, InputError
from buildgraph.limits import PACKAGES_INDEX_BYTES, RELEASE_BYTES
from buildgraph.oci.compress import decompress
from buildgraph.transport.failures import NotFound
from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_cache.objects import blob_ref
from buildgraph_rules.debian.control import Index, parse_paragraph
from buildgraph_rules.debian.mirrors import Mirrors
from buildgraph_rules.debian.signature import verify_detached, verify_inline
from buildgraph_rules.debian.sources import ArchiveSource, without_login
from buildgraph_rules.debian.storage import BlobStore, Progress, fetch_blob

INDEX_RECORD: Final = "debian-index"
_COMPRESSED: Final = (".xz", ".gz", "")


class Release(Struct, frozen=True):
    """A verified Release file."""

    source: ArchiveSource
    fields: dict[str, str]
    files: dict[str, tuple[int, Digest]]  # path below the Release's directory -> (size, digest)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Return the architectures the suite has; () where it does not say."""
        return tuple(self.fields.get("architectures", "").split())


def load_indices(
    sources: Sequence[ArchiveSource],
    architecture: str,
    store: BlobStore,
    mirrors: Mirrors,
    progress: Progress,
    now: float,
) -> list[Index]:
    """Return the Packages files of every source for one architecture, verified.

    `Index` n of a package is the place of its source in `sources`. A suite without this
    architecture is passed over, as apt does. Raises HostError.
    """
    indices: list[Index] = []
    supported = False
    for number, source in enumerate(sources):
        progress(f"release {source.suite}", 0, 0)
        release = load_release(source, mirrors, now)
        if release.architectures and architecture not in release.architectures:
            continue
        supported = True
        for path in _index_paths(release, architecture):
            progress(f"packages of {source.suite}", 0, 0)
            indices.append(_load_index(release, path, number, store, mirrors))
    if not supported:
        names = ", ".join(dict.fromkeys(source.suite for source in sources))
        raise HostError(f"no archive has packages for {architecture} ({names})")
    return indices


def load_release(source: ArchiveSource, mirrors: Mirrors, now: float) -> Release:
    """Fetch and verify InRelease, or Release with Release.gpg.

    Raises HostError for a bad signature, an expired file, or another suite than asked for.
    """
    text = _release_text(source, mirrors).decode("utf-8", "replace")
    name = without_login(source.directory)
    try:
        fields = parse_paragraph(text.strip("\n"))
        files = dict(_hashes(fields.get("sha256", "")))
    except ValueError as error:
        raise HostError(f"{name}: damaged Release file: {error}") from error
    if not files and not source.flat:
        raise HostError(f"{name}: the Release file has no SHA256 hashes")
    release = Release(source, fields, files)
    _check_suite(release)
    if source.check_valid_until:
        _check_time(release, now)
    return release


def _release_text(source: ArchiveSource, mirrors: Mirrors) -> bytes:
    inline = source.directory + "InRelease"
    plain = source.directory + "Release"
    try:
        message = mirrors.read(inline, RELEASE_BYTES)
    except NotFound:
        text = _first(mirrors, plain, source)
        if source.trusted:
            return text
        signature = _first(mirrors, plain + ".gpg", source)
        shown = without_login(plain)
        return verify_detached(text, signature, source.keyrings, source.signers, shown)
    if source.trusted:
        return _signed_text(message)
    return verify_inline(message, source.keyrings, source.signers, without_login(inline))


def _first(mirrors: Mirrors, uri: str, source: ArchiveSource) -> bytes:
    try:
        return mirrors.read(uri, RELEASE_BYTES)
    except NotFound as error:
        if uri.endswith(".gpg"):
            raise HostError(
                f"{without_login(source.directory)} is not signed",
                hint="[trusted=yes] in a `mirror:` line takes it unsigned",
            ) from error
        raise HostError(
            f"{without_login(source.uri)} has no suite {source.suite!r}",
            hint="is the suite still there? Old releases move to an archive of their own",
        ) from error


def _signed_text(message: bytes) -> bytes:
    """Return the text of a clear-signed message that nobody wants checked."""
    lines = message.splitlines()
    if not lines or not lines[0].startswith(b"-----BEGIN PGP SIGNED"):
        return message
    body = lines[lines.index(b"") + 1 :] if b"" in lines else []
    end = next((i for i, line in enumerate(body) if line.startswith(b"-----BEGIN PGP")), len(body))
    return b"\n".join(line.removeprefix(b"- ") for line in body[:end]) + b"\n"


def _hashes(section: str) -> Iterator[tuple[str, tuple[int, Digest]]]:
    for line in section.splitlines():
        if line.strip():
            digest, size, path = line.split()
            yield path, (int(size), parse_digest("sha256:" + digest.lower()))


def _check_suite(release: Release) -> None:
    """Refuse another suite's Release: its signature is as good, but it was not asked for."""
    names = {release.fields.get("suite", ""), release.fields.get("codename", "")} - {""}
    wanted = {release.source.suite, release.source.suite.partition("/")[0]}
    wanted.add(release.source.suite.replace("/updates", "-security"))
    if names and not release.source.flat and not names & wanted:
        raise HostError(
            f"{without_login(release.source.directory)} is the Release file of another suite: "
            + ", ".join(sorted(names))
        )


def _check_time(release: Release, now: float) -> None:
    text = release.fields.get("valid-until")
    if not text:
        return
    parsed = email.utils.parsedate_tz(text)
    until = None if parsed is None else email.utils.mktime_tz(parsed)
    if until is None or until < now:
        raise HostError(
            f"{without_login(release.source.directory)}: the Release file is valid until {text}",
            hint="is the clock right? For an old state of an archive set `snapshot`, "
            "or [check-valid-until=no] in a `mirror:` line",
        )


def _index_paths(release: Release, architecture: str) -> list[str]:
    if release.source.flat:
        return ["Packages"]
    kinds = [architecture]
    # Where "all" is an architecture of its own, its packages may be listed only there
    separate = release.fields.get("no-support-for-architecture-all", "") != "Packages"
    if "all" in release.architectures and separate:
        kinds.append("all")
    paths = []
    for component in release.source.components:
        for kind in kinds:
            path = f"{component}/binary-{kind}/Packages"
            if any(path + ending in release.files for ending in _COMPRESSED):
                paths.append(path)
            elif kind == architecture:
                raise HostError(
                    f"suite {release.source.suite} of {without_login(release.source.uri)} "
                    f"has no component {component!r}",
                    hint=f"it has {release.fields.get('components', 'none')}",
                )
    return paths


def _load_index(
    release: Release, path: str, number: int, store: BlobStore, mirrors: Mirrors
) -> Index:
    ending = next((e for e in _COMPRESSED if path + e in release.files), None)
    if ending is None:
        raise HostError(f"{without_login(release.source.directory)} lists no {path}")
    size, digest = release.files[path + ending]
    if size > PACKAGES_INDEX_BYTES:
        raise HostError(f"{path}{ending} has {size} bytes, more than {PACKAGES_INDEX_BYTES}")
    directory = release.source.directory
    uris = [directory + path + ending]
    if release.fields.get("acquire-by-hash") == "yes":
        folder = path.rpartition("/")[0]
        by_hash = f"{directory}{folder}{'/' if folder else ''}by-hash/SHA256/{digest[7:]}"
        uris.insert(0, by_hash)
    if size == 0:
        return Index(b"", number)
    blob = fetch_blob(store, mirrors, uris, digest, size)
    place = f"{without_login(directory)}{path}"
    key = hashlib.sha256(place.encode()).hexdigest()
    store.put_record(INDEX_RECORD, key, place.encode(), (blob_ref(digest),))
    expected = release.files.get(path, (0, None))[0]
    try:
        return Index(_read_index(blob, expected), number)
    except InputError as error:
        raise HostError(f"{place}: {error.message}") from error


def _read_index(blob: str, expected: int) -> bytearray:
    """Return the decompressed index in one buffer, made at its final size where that is known."""
    data = bytearray(min(expected, PACKAGES_INDEX_BYTES))
    length = 0
    with open(blob, "rb") as file:
        pieces = iter(lambda: file.read(256 * 1024), b"")
        for piece in decompress(pieces, total=PACKAGES_INDEX_BYTES):
            data[length : length + len(piece)] = piece
            length += len(piece)
    del data[length:]
    return data
