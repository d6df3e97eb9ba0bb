"""Knows the forms a layer has in the store and how one is made from another.

Must not know what made a layer or what image it is for. A layer is identified by its diff_id; it
exists as a snapshot (a directory in overlayfs's form), as blobs (one for each compression), or
both; a layer made as a blob from entries also has a table of contents, its tar without the files.
What exists is in its record.

A foreign layer came from outside: its tar is not the canonical one, so it can never be packed
again from its directory, and its first blob is kept.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from buildgraph import limits
from buildgraph.errors import HostError, InputError, StoreCorrupt
from buildgraph.filetree import Entry
from buildgraph.oci.compress import (
    Compression,
    compressor,
    decompress,
    layer_media_type,
    sniff,
)
from buildgraph.oci.dirtree import Below, DirTree, Scan, overlay_namespace
from buildgraph.oci.layerrecord import KIND, LayerRecord
from buildgraph.oci.pipeline import INLINE, fan_out, handing_on, read_ahead
from buildgraph.oci.streams import Size, Toc, rechunk
from buildgraph.oci.tarread import TarReader
from buildgraph.oci.tarstream import (
    CHUNK,
    NO_EPOCH,
    HeaderWriter,
    canonical,
    checked,
    read_content,
    tar_chunks,
    with_marks,
)
from buildgraph.oci.toctree import TocTree
from buildgraph.oci.types import Descriptor, Layer
from buildgraph.oci.unpack import Unpacker
from buildgraph.oci.write import EntryWriter
from buildgraph_cache.digest import Digest, hex_of, parse_digest

if TYPE_CHECKING:
    from buildgraph_cache.store import Store

DEFAULT_EPOCH: Final = 315_532_800  # 1980-01-01: zip files and wheels cannot say anything earlier


class LayerStore:
    """Makes, keeps and converts layers. Methods may be called from several threads."""

    def __init__(
        self,
        store: Store,
        epoch: int = DEFAULT_EPOCH,
        overlay: str | None = None,
        *,
        cap: int = limits.LAYER_BYTES,
    ):
        """`epoch` in seconds; `overlay` is `trusted` or `user`, None asks the kernel.

        `cap` is the size of the largest layer that is taken in from outside, in bytes.
        """
        self.cap = cap
        self.store = store
        self.epoch = epoch
        self.overlay = overlay or overlay_namespace()
        self._guard = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        self._trees: dict[str, DirTree] = {}
        self._tocs: dict[str, TocTree] = {}
        self._offers: dict[str, Callable[[], object]] = {}

    def keeping_times(self) -> LayerStore:
        """Return a view of the same store that cuts no time: `timestamps: preserve`."""
        return LayerStore(self.store, NO_EPOCH, self.overlay, cap=self.cap)

    # --- making layers ------------------------------------------------------------------------

    def commit(self, upper: Path, below: Below | None) -> Layer | None:
        """Turn an overlay upper directory into a layer; None where nothing was changed.

        The directory is made normal in place, hashed, and moved into the store: afterwards
        `upper` is gone. Everything that wrote to it must be dead. `below` is what the step saw;
        it decides whether opaque marks and whiteouts hide anything. Raises HostError.
        """
        with os.scandir(upper) as found:
            if next(found, None) is None:
                return None
        try:
            tree = DirTree(upper, user=self.overlay == "user")
            scan = Scan(tree, self.epoch, fix=True, below=below)
            entries = scan.run()
            if not entries:
                return None
            ordered = with_marks(list(checked(canonical(entries))), scan.opaque)
            layer = self._hash(ordered, _is_large(ordered))
        except OSError as error:
            raise HostError(f"cannot read what a step has changed: {error}") from error
        self._publish(layer, upper)
        return layer

    def create(
        self,
        entries: Sequence[Entry],
        want: Literal["blob", "directory"] = "directory",
        compression: Compression | None = None,
    ) -> Layer:
        """Make a layer from entries, as a compressed blob or as a directory, in one pass.

        Entries come in any order and must be complete: every parent directory is an entry too
        (see `with_parents`), else ValueError. CHAR entries of device 0:0 are whiteouts. Raises
        HostError where a source file changes meanwhile, InputError for names a layer cannot hold.
        """
        ordered = with_marks(list(checked(canonical(entries))), ())
        try:
            if want == "blob":
                return self._create_blob(ordered, compression or Compression())
            return self._create_directory(ordered)
        except OSError as error:
            raise HostError(f"cannot make a layer: {error}") from error

    def _create_blob(self, ordered: Sequence[Entry], compression: Compression) -> Layer:
        toc = Toc()
        chunks = tar_chunks(ordered, HeaderWriter(self.epoch), toc.add)
        layer, blob = self._pack(chunks, compression, _is_large(ordered))
        known = self._load(layer.diff_id) or LayerRecord(layer.size)
        if not known.toc or not self.store.has_blob(parse_digest(known.toc)):
            known.toc = self.store.put_blob(toc.finish())
        known.blobs.setdefault(compression.id, blob)
        self._merge(layer.diff_id, known)
        return layer

    def _create_directory(self, ordered: Sequence[Entry]) -> Layer:
        with self.store.new_scratch() as scratch:
            with EntryWriter(scratch.upper, self.epoch, self.overlay) as writer:
                layer = self._hash(writer.passing(ordered), _is_large(ordered), writer.read)
                writer.finish()
            self._publish(layer, Path(scratch.upper))
        return layer

    def _hash(
        self,
        ordered: Iterable[Entry],
        large: bool,
        read: Callable[[Entry], Iterator[bytes]] = read_content,
    ) -> Layer:
        hasher = hashlib.sha256()
        size = Size()
        chunks = tar_chunks(ordered, HeaderWriter(self.epoch), None, read)
        fan_out(size.counting(chunks), [hasher.update], threads=large)
        return Layer(Digest(f"sha256:{hasher.hexdigest()}"), size.total)

    def _pack(
        self, chunks: Iterator[bytes], compression: Compression, large: bool
    ) -> tuple[Layer, tuple[Digest, int]]:
        """Hash a tar and store it compressed; return the layer and the blob."""
        hasher = hashlib.sha256()
        size = Size()
        engine = compressor(compression)
        with self.store.blob_writer() as writer:
            with handing_on(writer.write, threads=large) as write:

                def squeeze(chunk: bytes) -> None:
                    data = engine.compress(chunk)
                    if data:
                        write(data)

                fan_out(size.counting(chunks), [squeeze, hasher.update], threads=large)
                write(engine.flush())
            digest = writer.commit()
            packed = writer.size
        return Layer(Digest(f"sha256:{hasher.hexdigest()}"), size.total), (digest, packed)

    def _publish(self, layer: Layer, directory: Path) -> None:
        self.store.publish_snapshot(hex_of(layer.diff_id), str(directory), unwritten=layer.size)
        known = self._load(layer.diff_id) or LayerRecord(layer.size)
        known.directory = True
        self._merge(layer.diff_id, known)

    # --- asking for layers --------------------------------------------------------------------

    def offer(self, diff_id: Digest, bring: Callable[[], object]) -> None:
        """Promise a layer that is elsewhere: `bring` puts it into the store once it is needed.

        `bring` uses `adopt_blob` or `import_blob`, so its bytes are verified before any use; it
        may be called by several threads, and again. The size of such a `Layer` is not known yet.
        """
        with self._guard:
            self._offers[diff_id] = bring

    def _fetched(self, layer: Layer) -> None:
        """Bring a layer here that was offered and is needed now."""
        bring = self._offers.get(layer.diff_id)
        if bring is not None and not self._is_here(layer):
            bring()

    def available(self, layer: Layer) -> bool:
        """Return whether some form of the layer is in the store, or was offered."""
        return layer.diff_id in self._offers or self._is_here(layer)

    def _is_here(self, layer: Layer) -> bool:
        if self.store.has_snapshot(hex_of(layer.diff_id)):
            return True
        known = self._load(layer.diff_id)
        if known is None:
            return False
        return any(self.store.has_blob(digest) for digest, _ in known.blobs.values())

    def has_directory(self, layer: Layer) -> bool:
        """Return whether the layer is in the store as a directory."""
        return bool(self.store.has_snapshot(hex_of(layer.diff_id)))

    def ensure_directory(self, layer: Layer) -> Path:
        """Return the layer's directory, unpacking it first where it is a blob only.

        The unpacked bytes are checked against the diff_id before the directory exists (A24).
        Idempotent. Raises StoreCorrupt where they differ, InputError for an archive that says
        what it must not, HostError.
        """
        name = hex_of(layer.diff_id)
        self._fetched(layer)
        with self._one_at_a_time(layer.diff_id):
            if self.store.has_snapshot(name):
                return Path(self.store.snapshot_path(name))
            digest, size = self._any_blob(layer)
            with self.store.new_scratch() as scratch:
                found = self._unpack(self._plain(digest, size), size, scratch.upper)
                if found.diff_id != layer.diff_id:
                    raise self._no_layer(layer, digest, found.diff_id)
                self._publish(found, Path(scratch.upper))
            return Path(self.store.snapshot_path(name))

    def _no_layer(self, layer: Layer, blob: Digest, found: Digest) -> StoreCorrupt | InputError:
        """Return the error for a blob that is another layer; one of outside is dropped."""
        known = self._load(layer.diff_id)
        if known is not None and known.unproven:
            self.store.remove_blob(blob)  # its record goes with it
            return _other_layer(blob, found, layer.diff_id)
        return StoreCorrupt(f"blob {blob} unpacks to {found}, not to {layer.diff_id}")

    def size(self, layer: Layer) -> int:
        """Return the size of a layer's tar; one of outside has to be unpacked to know it."""
        if not layer.size:
            self.ensure_directory(layer)
        known = self._load(layer.diff_id)
        return known.size if known else layer.size

    def _unpack(self, source: Iterator[bytes], total: int, directory: str) -> Layer:
        hasher = hashlib.sha256()
        size = Size()

        def hashed() -> Iterator[bytes]:
            for chunk in size.counting(source):
                hasher.update(chunk)
                yield chunk

        ahead = read_ahead(hashed())
        try:
            reader = TarReader(ahead, total=total)
            with Unpacker(directory, self.epoch, self.overlay) as unpacker:
                unpacker.unpack(reader, reader)
            for _ in reader.rest():
                pass
        finally:
            ahead.close()
        return Layer(Digest(f"sha256:{hasher.hexdigest()}"), size.total)

    def tree(self, layer: Layer) -> DirTree:
        """Return the layer as a tree of files, unpacking it where needed."""
        with self._guard:
            tree = self._trees.get(layer.diff_id)
        if tree is None:
            tree = DirTree(self.ensure_directory(layer), user=self.overlay == "user")
            with self._guard:
                if len(self._trees) >= 256:  # descriptors; views that use one keep it alive
                    self._trees.pop(next(iter(self._trees)))
                self._trees[layer.diff_id] = tree
        return tree

    def toc(self, layer: Layer) -> TocTree | None:
        """Return the layer's table of contents, None where none is kept."""
        with self._guard:
            tree = self._tocs.get(layer.diff_id)
        if tree is not None:
            return tree
        known = self._load(layer.diff_id)
        if known is None or not known.toc or not self.store.has_blob(parse_digest(known.toc)):
            return None
        tree = TocTree(self._plain(parse_digest(known.toc), known.size))
        with self._guard:
            if len(self._tocs) >= 64:
                self._tocs.pop(next(iter(self._tocs)))
            self._tocs[layer.diff_id] = tree
        return tree

    def blob(self, layer: Layer, compression: Compression, *, force: bool = False) -> Descriptor:
        """Return the layer as a blob, packing it where it is a directory only.

        A foreign layer is given as it came, whatever its compression, unless `force`. What is
        packed is checked against the diff_id again. Idempotent. Raises StoreCorrupt, HostError.
        """
        self._fetched(layer)
        with self._one_at_a_time(layer.diff_id):
            known = self._load(layer.diff_id) or LayerRecord(layer.size)
            wanted = compression.id
            if known.foreign and not force:
                for name, (digest, size) in known.blobs.items():
                    if name.startswith("foreign-") and self.store.has_blob(digest):
                        return Descriptor(layer_media_type(name[8:]), digest, size)
            found = known.blobs.get(wanted)
            if found is None or not self.store.has_blob(found[0]):
                found = self._make_blob(layer, known, compression)
                known.blobs[wanted] = found
                self._merge(layer.diff_id, known)
            return Descriptor(compression.media_type, *found)

    def _make_blob(
        self, layer: Layer, known: LayerRecord, compression: Compression
    ) -> tuple[Digest, int]:
        name = hex_of(layer.diff_id)
        if not known.foreign and self.store.has_snapshot(name):
            tree = DirTree(Path(self.store.snapshot_path(name)), user=self.overlay == "user")
            scan = Scan(tree, NO_EPOCH, fix=False, below=None)
            ordered = with_marks(canonical(scan.run()), scan.opaque)
            # the snapshot's times are final: an epoch of another build must not change them
            chunks = tar_chunks(ordered, HeaderWriter(NO_EPOCH))
            what = f"snapshot {name}"
        else:
            digest, size = self._any_blob(layer)
            chunks = rechunk(self._plain(digest, size))
            what = f"blob {digest}"
        made, blob = self._pack(chunks, compression, known.size > INLINE)
        if made.diff_id != layer.diff_id:
            raise StoreCorrupt(
                f"{what} no longer has the bytes of layer {layer.diff_id} (now {made.diff_id})",
                hint="run `buildgraph cache verify`",
            )
        return blob

    def _any_blob(self, layer: Layer) -> tuple[Digest, int]:
        """Return a blob of the layer, and the size of the tar in it."""
        known = self._load(layer.diff_id)
        for digest, _ in known.blobs.values() if known else ():
            if known is not None and self.store.has_blob(digest):
                return digest, self.cap if known.unproven else known.size
        raise StoreCorrupt(
            f"no form of layer {layer.diff_id} is in the store any more",
            hint="build again: it will be made anew",
        )

    # --- layers from outside ------------------------------------------------------------------

    def knows_blob(self, diff_id: Digest, digest: Digest, size: int) -> Layer | None:
        """Return the layer where this blob was once verified to be it and is still here."""
        known = self._load(diff_id)
        if known is None or not self.store.has_blob(digest):
            return None
        if (digest, size) in known.blobs.values():
            return Layer(diff_id, known.size)
        return None

    def import_blob(
        self, diff_id: Digest, digest: Digest, size: int, source: Callable[[], Iterator[bytes]]
    ) -> Layer:
        """Take in a layer's blob from outside, verifying digest, size and diff_id (A23, A24).

        `source` opens the bytes. A blob that was verified before is not read again. Nothing is
        kept of bytes that are not what was promised: InputError names both digests.
        """
        with self._one_at_a_time(diff_id):
            layer = self.knows_blob(diff_id, digest, size)
            if layer is not None:
                return layer
            name, layer = self._take_in(diff_id, digest, size, source())
            return self._adopted(layer, name, (digest, size), False)

    def adopt_blob(self, diff_id: Digest, digest: Digest, size: int) -> Layer:
        """Take a blob of the store, which its digest was checked for, as a layer from outside.

        That it unpacks to the diff_id is checked when it is, before a file of it can be seen (A24);
        until then the layer's size is 0. A blob that nobody unpacks can only leave as it came.
        """
        with self._one_at_a_time(diff_id):
            layer = self.knows_blob(diff_id, digest, size)
            if layer is not None:
                return layer
            fd = self.store.open_blob(digest)
            try:
                form = sniff(os.read(fd, 16))
            finally:
                os.close(fd)
            return self._adopted(Layer(diff_id, 0), f"foreign-{form}", (digest, size), True)

    def _adopted(self, layer: Layer, name: str, blob: tuple[Digest, int], unproven: bool) -> Layer:
        known = self._load(layer.diff_id)
        if known is None or known.unproven:
            known = LayerRecord(layer.size, foreign=True, unproven=unproven)
        known.blobs[name] = blob
        self._merge(layer.diff_id, known)
        return layer

    def _take_in(
        self, diff_id: Digest, digest: Digest, size: int, source: Iterator[bytes]
    ) -> tuple[str, Layer]:
        hasher = hashlib.sha256()
        inner = hashlib.sha256()
        raw, plain = Size(), Size()
        form: list[bytes] = []
        with self.store.blob_writer(expected_size=size, hashed=True) as writer:

            def teed() -> Iterator[bytes]:
                for chunk in raw.counting(source):
                    if raw.total > size:
                        raise InputError(f"blob {digest} has more than its {size} bytes")
                    if not form:
                        form.append(chunk[:16])
                    hasher.update(chunk)
                    writer.write(chunk)
                    yield chunk

            stream = teed()
            fan_out(
                plain.counting(decompress(stream, total=self.cap)),
                [inner.update],
                threads=size > INLINE,
            )
            for _ in stream:  # what a decompressor left unread belongs to the digest too
                pass
            found = Digest(f"sha256:{hasher.hexdigest()}")
            if found != digest or raw.total != size:
                raise InputError(
                    f"blob {digest} has {raw.total} bytes of digest {found}, not {size} bytes"
                )
            unpacked = Digest(f"sha256:{inner.hexdigest()}")
            if unpacked != diff_id:
                raise _other_layer(digest, unpacked, diff_id)
            writer.commit(digest=digest)
        return f"foreign-{sniff(form[0] if form else b'')}", Layer(diff_id, plain.total)

    # --- the record ---------------------------------------------------------------------------

    def _open(self, digest: Digest) -> Iterator[bytes]:
        fd = self.store.open_blob(digest)
        try:
            while data := os.read(fd, CHUNK):
                yield data
        finally:
            os.close(fd)

    def _plain(self, digest: Digest, size: int) -> Iterator[bytes]:
        """Yield the bytes in a stored blob, which was verified when it came and has this size."""
        try:
            yield from decompress(self._open(digest), total=size, ratio=None)
        except InputError as error:
            raise StoreCorrupt(
                f"blob {digest} of the store: {error.message}",
                hint="run `buildgraph cache verify`",
            ) from error

    def _load(self, diff_id: Digest) -> LayerRecord | None:
        found = self.store.get_record(KIND, diff_id)
        return None if found is None else LayerRecord.parse(found)

    def _merge(self, diff_id: Digest, new: LayerRecord) -> None:
        """Write the record, with the forms others have added to it meanwhile."""
        with self._guard:
            old = self._load(diff_id)
            if old is not None:
                new = new.joined(old)
            self.store.put_record(KIND, diff_id, new.value(), new.refs(diff_id))

    @contextmanager
    def _one_at_a_time(self, diff_id: Digest) -> Iterator[None]:
        """Let one thread convert a layer; the others wait and then find it done."""
        with self._guard:
            lock = self._busy.setdefault(diff_id, threading.Lock())
        with lock:
            yield


def _other_layer(blob: Digest, found: Digest, diff_id: Digest) -> InputError:
    said = f"the image's config says {diff_id}"
    return InputError(f"layer blob {blob} unpacks to {found}, but {said}")


def _is_large(entries: Sequence[Entry]) -> bool:
    return len(entries) * 512 + sum(entry.size for entry in entries) > INLINE
