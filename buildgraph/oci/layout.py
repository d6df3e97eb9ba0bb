"""Knows the OCI image layout directory, reading and writing; must not know what images are for.

Source: image-spec v1.1, image-layout.md. Tags stand in `org.opencontainers.image.ref.name`; the
full name, which containerd and docker read, in `io.containerd.image.name`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from buildgraph import limits
from buildgraph.errors import HostError, InputError
from buildgraph.oci.config import Index, image_index, parse_index
from buildgraph.oci.documents import canonical_json, load_document
from buildgraph.oci.image import Artifact
from buildgraph.oci.publish import (
    copy_bytes,
    new_directory,
    output_error,
    sync_directory,
    temporary_name,
)
from buildgraph.oci.reference import Reference
from buildgraph.oci.types import MEDIA_INDEX, Descriptor
from buildgraph.rootpath import Root
from buildgraph_cache.digest import hex_of

if TYPE_CHECKING:
    from buildgraph_cache.store import Store

REF_NAME: Final = "org.opencontainers.image.ref.name"
IMAGE_NAME: Final = "io.containerd.image.name"
LAYOUT_FILE: Final = canonical_json({"imageLayoutVersion": "1.0.0"})


class Layout:
    """An OCI layout directory open for reading. Close it, or use it as a context manager.

    The directory is a stranger's: paths in it are resolved inside it, and every document is
    checked against the digest it was asked by.
    """

    def __init__(self, directory: Path) -> None:
        """Open the directory. Raises InputError where it is no OCI layout."""
        self.directory = directory
        try:
            self._root = Root.at(str(directory))
        except OSError as error:
            raise InputError(f"{directory} is no OCI layout: {error.strerror}") from error
        try:
            version = load_document(self._small("oci-layout"), f"{directory}/oci-layout")
            if not version.text("imageLayoutVersion", None).startswith("1."):
                raise version.wrong("imageLayoutVersion", "1.x")
        except BaseException:
            self._root.close()
            raise

    def __enter__(self) -> Layout:
        return self

    def __exit__(self, *_: object) -> None:
        self._root.close()

    def index(self) -> Index:
        """Return `index.json`."""
        return parse_index(self._small("index.json"), MEDIA_INDEX, f"{self.directory}/index.json")

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a small blob whose size and digest were checked (A23). Raises InputError."""
        if descriptor.size > limits.MANIFEST_BYTES:
            raise InputError(
                f"document {descriptor.digest} has {descriptor.size} bytes, more than "
                f"{limits.MANIFEST_BYTES}"
            )
        data = b"".join(self.chunks(descriptor))
        found = hashlib.sha256(data).hexdigest()
        if found != hex_of(descriptor.digest) or len(data) != descriptor.size:
            raise InputError(
                f"blob {descriptor.digest} in {self.directory} has {len(data)} bytes of digest "
                f"sha256:{found}, not {descriptor.size} bytes"
            )
        return data

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes, unchecked, at most one more than its size says."""
        fd = self._open(f"blobs/sha256/{hex_of(descriptor.digest)}")
        left = descriptor.size + 1
        try:
            while left and (data := os.read(fd, min(left, 1 << 20))):
                left -= len(data)
                yield data
        finally:
            os.close(fd)

    def _small(self, name: str) -> bytes:
        fd = self._open(name)
        try:
            with open(fd, "rb", closefd=False) as file:
                return file.read(limits.MANIFEST_BYTES + 1)
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        try:
            # NONBLOCK: a pipe in a stranger's directory must not stop us
            return self._root.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise InputError(f"{self.directory}/{path}: {error.strerror}") from error


def read_layout(path: Path) -> Index:
    """Return the index of an OCI layout directory. Raises InputError."""
    with Layout(path) as layout:
        return layout.index()


def named(top: Descriptor, names: Sequence[Reference]) -> list[Descriptor]:
    """Return index entries for a manifest: one for each name, or one without a name."""
    if not names:
        return [top]
    out = []
    for name in names:
        tag = name.with_default_tag()
        notes = {**dict(top.annotations), REF_NAME: tag.tag, IMAGE_NAME: str(tag)}
        out.append(replace(top, annotations=tuple(sorted(notes.items()))))
    return out


class LayoutWriter:
    """Adds images to an OCI layout directory; blobs and other names in it stay.

    `write` is atomic for readers: blobs first, `index.json` last, each renamed into place. Two
    writers of one directory take turns.
    """

    def __init__(self, store: Store, directory: Path) -> None:
        """Check the destination. Raises InputError where it is something else than a layout."""
        self.store = store
        self.directory = directory
        self._fresh = not _has_entries(directory)
        if not self._fresh and not (directory / "oci-layout").is_file():
            raise InputError(
                f"{directory} is not empty and no OCI layout", hint="choose another destination"
            )

    def write(self, artifact: Artifact, names: Sequence[Reference] = ()) -> None:
        """Write every blob of the artifact that is missing, then its names. Idempotent."""
        if self._fresh:
            self._fresh = False
            try:
                with new_directory(self.directory) as made:
                    self._write(made, artifact, names)
                return
            except HostError:
                if not (self.directory / "oci-layout").is_file():
                    raise
                # another writer made it meanwhile: add to what it has
        try:
            with _locked(self.directory):
                self._write(self.directory, artifact, names)
        except OSError as error:
            raise output_error(self.directory, error) from error

    def _write(self, directory: Path, artifact: Artifact, names: Sequence[Reference]) -> None:
        blobs = directory / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        for blob in artifact.blobs:
            self._blob(blobs, blob)
        sync_directory(blobs)
        index = directory / "index.json"
        old = parse_index(index.read_bytes()) if index.exists() else Index(())
        entries = merge_names(old.manifests, named(artifact.top, names))
        _replace(directory / "oci-layout", LAYOUT_FILE)
        _replace(index, image_index(entries, old.annotations))

    def _blob(self, blobs: Path, blob: Descriptor) -> None:
        place = blobs / hex_of(blob.digest)
        try:
            if os.stat(place).st_size == blob.size:
                return
        except FileNotFoundError:
            pass
        temp = temporary_name(place)
        source = self.store.open_verified(blob.digest)
        try:
            target = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                copy_bytes(source, target, blob.size)
                os.fsync(target)
            finally:
                os.close(target)
            os.replace(temp, place)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        finally:
            os.close(source)


def merge_names(old: Iterable[Descriptor], new: Sequence[Descriptor]) -> list[Descriptor]:
    """Return the old index entries without those that the new ones replace, then the new ones.

    A name replaces the same name. An entry without a name replaces its own digest's.
    """
    names = {name for entry in new if (name := dict(entry.annotations).get(IMAGE_NAME))}
    tags = {tag for entry in new if (tag := dict(entry.annotations).get(REF_NAME))}
    digests = {entry.digest for entry in new}
    kept = []
    for entry in old:
        notes = dict(entry.annotations)
        if IMAGE_NAME in notes:
            gone = notes[IMAGE_NAME] in names
        elif REF_NAME in notes:
            gone = notes[REF_NAME] in tags
        else:
            gone = entry.digest in digests
        if not gone:
            kept.append(entry)
    return [*kept, *new]


def _has_entries(directory: Path) -> bool:
    try:
        with os.scandir(directory) as found:
            return next(found, None) is not None
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise InputError(f"{directory} is a file; an OCI layout is a directory") from None
    except OSError as error:
        raise output_error(directory, error) from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(path: Path, data: bytes) -> None:
    temp = temporary_name(path)
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temp, path)
    sync_directory(path.parent)
