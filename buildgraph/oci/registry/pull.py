"""Knows how an image of a registry becomes known here, and how its layers come when they are
needed; must not know what needs them.

Documents are verified by their digest before they are read, and kept, so that what was once
resolved needs no network again. A layer is offered to the `LayerStore` and is downloaded only when
somebody asks for its bytes; the first that is asked for starts all layers of its image. What was
received of one is kept for the next attempt (R22).

Source: OCI distribution-spec v1.1, "Pull"; reliability A23-A29, A33.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import HostError, InputError, StoreCorrupt
from buildgraph.oci.config import INDEXES, MANIFESTS
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.load import LoadedImage
from buildgraph.oci.manifests import choose_manifest, image_parts
from buildgraph.oci.reference import Reference
from buildgraph.oci.registry.homes import remember_home
from buildgraph.oci.registry.session import Registries, Repository, Spoken
from buildgraph.oci.types import Chain, Descriptor, Image, Layer, Platform
from buildgraph.transport.failures import Denied, NotFound, TransportError
from buildgraph.transport.resume import download
from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_cache.objects import blob_ref

KIND: Final = "image-name"
DOCUMENTS: Final = (*INDEXES, *MANIFESTS)
ACCEPT: Final = ", ".join(DOCUMENTS)
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"
_DOWNLOADS: Final = 4  # layers at once, of all images together
_DIGEST_HEADER: Final = "Docker-Content-Digest"

Progress = Callable[[str, int, int], None]
Pairs = tuple[tuple[Digest, Descriptor], ...]  # (diff_id, blob) of an image's layers


class WrongBytes(TransportError):
    """A server gave other bytes than the digest says."""


class Resolved(Struct, frozen=True):
    """What a name means: a manifest or an index."""

    reference: Reference
    descriptor: Descriptor
    stale: str = ""  # why this is only what the name meant last time
    moved: str = ""  # the digest that the name had last time, where it is another now

    @property
    def digest(self) -> Digest:
        """The digest of the manifest or index."""
        return self.descriptor.digest


class Puller:
    """Pulls for one command; threads may share it. Close it when done."""

    def __init__(
        self,
        registries: Registries,
        layers: LayerStore,
        *,
        offline: bool = False,
        pins: Mapping[str, Digest] | None = None,
        progress: Progress = lambda text, done, total: None,
    ):
        """`pins` say what a name means, by `str(reference)`, whatever the registry says."""
        self._registries = registries
        self._layers = layers
        self._store = layers.store
        self._offline = offline
        self._pins = dict(pins or {})
        self._progress = progress
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[str, Future[Layer]] = {}
        self._resolved: dict[Reference, Resolved] = {}

    def close(self) -> None:
        """End downloads that nobody waits for; what they received is kept. Idempotent."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            for future in list(self._coming.values()):
                future.cancel()
            self._registries.cancel.set()
            pool.shutdown()

    # --- names --------------------------------------------------------------------------------

    def resolve(self, reference: Reference) -> Resolved:
        """Return what a name means now, asked once in a command.

        A digest is believed, a pinned name means its pin, and where the registry cannot be asked
        a name means what it meant last time (`stale` says why). Raises InputError for a name that
        leads nowhere, HostError where nobody can tell.
        """
        with self._lock:
            known = self._resolved.get(reference)
        if known is None:
            known = self._resolve(reference)
            with self._lock:
                self._resolved[reference] = known
        return known

    def _resolve(self, reference: Reference) -> Resolved:
        pin = self._pins.get(str(reference))
        wanted = reference.pinned(pin) if pin is not None and not reference.digest else reference
        if wanted.digest:
            key = f"{wanted.name}@{wanted.digest}"
            found = self._remembered(key)
            if found is None:
                found = self._ask_digest(wanted)
                self._remember(key, found)
            return Resolved(wanted, found)
        key = str(wanted)
        last = self._remembered(key)
        if self._offline:
            if last is None:
                raise HostError(
                    f"what {wanted.familiar} means is not known here, and --offline asks nobody",
                    hint="build once without --offline",
                )
            return Resolved(wanted, last, "--offline")
        try:
            found = self._ask_tag(wanted)
        except NotFound as error:
            raise _missing(wanted) from error
        except Denied as error:
            raise _denied(wanted, error) from error
        except TransportError as error:
            if last is None:
                raise
            return Resolved(wanted, last, error.message)
        if last is None or last != found:
            self._remember(key, found)
        moved = last.digest if last is not None and last.digest != found.digest else ""
        return Resolved(wanted, found, moved=moved)

    def _remembered(self, key: str) -> Descriptor | None:
        data = self._store.get_record(KIND, key)
        if data is None:
            return None
        value = json.loads(data)
        digest = parse_digest(value["digest"])
        if not self._store.has_blob(digest):
            return None
        return Descriptor(value["mediaType"], digest, value["size"])

    def _remember(self, key: str, found: Descriptor) -> None:
        if self._store.read_only:
            return
        value = {"digest": found.digest, "mediaType": found.media_type, "size": found.size}
        self._store.put_record(
            KIND, key, json.dumps(value, sort_keys=True).encode(), (blob_ref(found.digest),)
        )

    def _repository(self, reference: Reference) -> Repository:
        if self._offline:
            raise HostError(
                f"{reference.familiar} is not complete here, and --offline fetches nothing",
                hint="build once without --offline",
            )
        return self._registries.repository(reference.domain, reference.path)

    def _ask_tag(self, reference: Reference) -> Descriptor:
        """Ask what a tag means: by HEAD, which counts as no download, else by GET."""
        repository = self._repository(reference)

        def ask(spoken: Spoken) -> Descriptor:
            url = repository.url(spoken, f"manifests/{reference.tag}")
            request = repository.request(spoken, "HEAD", url, {"Accept": ACCEPT})
            with repository.send(request) as response:
                response.require(200)
                said = response.headers.get(_DIGEST_HEADER)
                size = response.headers.number("Content-Length")
                kind = _plain_type(response.headers.get("Content-Type"))
            if said and size is not None and kind in DOCUMENTS:
                digest = _digest(said, url.shown)
                if self._store.has_blob(digest) and self._store.blob_size(digest) == size:
                    return Descriptor(kind, digest, size)
                return self._fetch(repository, spoken, str(digest), digest)
            return self._fetch(repository, spoken, reference.tag, None)

        return repository.first_of(repository.for_tag(), ask)

    def _ask_digest(self, reference: Reference) -> Descriptor:
        digest = parse_digest(reference.digest)
        repository = self._repository(reference)
        try:
            return repository.first_of(
                repository.for_digest(),
                lambda spoken: self._fetch(repository, spoken, str(digest), digest),
            )
        except NotFound as error:
            raise _missing(reference) from error
        except Denied as error:
            raise _denied(reference, error) from error

    def _fetch(
        self, repository: Repository, spoken: Spoken, selector: str, expected: Digest | None
    ) -> Descriptor:
        """Fetch a manifest or index into the store, verified."""
        url = repository.url(spoken, f"manifests/{selector}")
        request = repository.request(spoken, "GET", url, {"Accept": ACCEPT})
        response, data = self._registries.client.read(request, limits.MANIFEST_BYTES, 200)
        found = Digest("sha256:" + hashlib.sha256(data).hexdigest())
        said = response.headers.get(_DIGEST_HEADER)
        promised = expected or (_digest(said, url.shown) if said else found)
        if found != promised:
            raise WrongBytes(f"{url.shown} has the digest {found}, where {promised} was promised")
        kind = _plain_type(response.headers.get("Content-Type")) or _own_type(data)
        if kind.startswith(_SCHEMA_1):
            raise InputError(
                f"{url.shown} is a manifest of schema 1, which nothing can verify",
                hint="push the image again with a builder of this decade",
            )
        if kind not in DOCUMENTS and (inner := _own_type(data)) in DOCUMENTS:
            kind = inner
        if kind not in DOCUMENTS:
            raise InputError(f"{url.shown} is {kind or 'of no known type'!r}, which is no image")
        self._store.put_blob(data)
        return Descriptor(kind, found, len(data))

    # --- images -------------------------------------------------------------------------------

    def image(self, resolved: Resolved, platform: Platform) -> LoadedImage:
        """Return the image for a platform; its layers are offered to the layer store.

        Raises InputError for a missing platform and for documents that are not what they must be.
        """
        reference = resolved.reference

        def read(descriptor: Descriptor) -> bytes:
            return self._document(reference, descriptor)

        manifest = choose_manifest([resolved.descriptor], platform, read, reference.familiar)
        parts = image_parts(manifest, read)
        layers = []
        for diff_id, blob in parts.layers:
            here = self._layers.knows_blob(diff_id, blob.digest, blob.size)
            if here is None:
                self._offer(reference, parts.layers, diff_id)
            layers.append(here or Layer(diff_id, 0))
        blobs = tuple(blob for _, blob in parts.layers)
        return LoadedImage(Image(parts.config, Chain.of(tuple(layers))), manifest, blobs)

    def _document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """Return a document by its descriptor, from the store or else from the registry."""
        digest = descriptor.digest
        if not self._store.has_blob(digest):
            if descriptor.size > limits.MANIFEST_BYTES:
                raise InputError(f"{digest} has {descriptor.size} bytes, too many for a document")
            repository = self._repository(reference)
            if descriptor.media_type in DOCUMENTS:
                repository.first_of(
                    repository.for_digest(),
                    lambda spoken: self._fetch(repository, spoken, str(digest), digest),
                )
            else:
                repository.first_of(
                    repository.for_digest(),
                    lambda spoken: self._download(repository, spoken, descriptor),
                )
        fd = self._store.open_verified(digest)
        with open(fd, "rb") as file:
            data = file.read(limits.MANIFEST_BYTES + 1)
        if len(data) != descriptor.size:
            raise InputError(f"{digest} has {len(data)} bytes, not the {descriptor.size} promised")
        return data

    # --- layers -------------------------------------------------------------------------------

    def _offer(self, reference: Reference, pairs: Pairs, diff_id: Digest) -> None:
        def bring() -> Layer:
            self._start(reference, pairs)
            return self._coming[diff_id].result()

        self._layers.offer(diff_id, bring)

    def _start(self, reference: Reference, pairs: Pairs) -> None:
        """Start the download of every layer of an image that is neither here nor coming."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="pull")
            for diff_id, blob in pairs:
                future = self._coming.get(diff_id)
                if future is None or (future.done() and future.exception() is not None):
                    self._coming[diff_id] = self._pool.submit(self._bring, reference, diff_id, blob)

    def _bring(self, reference: Reference, diff_id: Digest, blob: Descriptor) -> Layer:
        here = self._layers.knows_blob(diff_id, blob.digest, blob.size)
        if here is not None:
            return here
        if not self._store.has_blob(blob.digest):
            repository = self._repository(reference)
            repository.first_of(
                repository.for_digest(),
                lambda spoken: self._download(repository, spoken, blob),
            )
            remember_home(self._store, blob.digest, reference.name)
        return self._layers.adopt_blob(diff_id, blob.digest, blob.size)

    def _download(self, repository: Repository, spoken: Spoken, blob: Descriptor) -> None:
        """Bring a blob into the store, going on where an earlier attempt was cut."""
        url = repository.url(spoken, f"blobs/{blob.digest}")
        request = repository.request(spoken, "GET", url)
        text = f"pulling {repository.path} {blob.digest[7:19]}"
        with self._store.partial(f"blob {blob.digest}") as partial:
            if self._store.has_blob(blob.digest):
                return  # another process brought it while we waited for its lock
            if partial.size > blob.size:
                partial.restart()
            download(
                self._registries.client,
                request,
                partial,
                limit=blob.size,
                named=True,
                grew=lambda done, total: self._progress(text, done, blob.size),
            )
            if partial.size != blob.size:
                size = partial.size
                partial.restart()
                raise WrongBytes(f"{url.shown} has {size} bytes, not the {blob.size} promised")
            try:
                partial.commit(blob.digest)
            except StoreCorrupt as error:
                raise WrongBytes(f"{url.shown}: {error.message}") from error


def _missing(reference: Reference) -> InputError:
    return InputError(
        f"{reference.familiar} does not exist in {reference.domain}",
        hint="it may also be private: `buildgraph login` says who you are",
    )


def _denied(reference: Reference, error: Denied) -> HostError:
    return HostError(
        f"{reference.domain} does not let us read {reference.path} (HTTP {error.status})",
        hint=f"`buildgraph login {reference.domain}` keeps a name and a password",
    )


def _digest(text: str, where: str) -> Digest:
    try:
        return parse_digest(text)
    except ValueError as error:
        raise WrongBytes(f"{where} calls its digest {text[:80]!r}: {error}") from error


def _plain_type(value: str | None) -> str:
    return (value or "").partition(";")[0].strip().lower()


def _own_type(data: bytes) -> str:
    """Return what a document calls itself, "" where it does not say or cannot be read."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    said = value.get("mediaType") if isinstance(value, dict) else None
    return said if isinstance(said, str) else ""
