"""Knows how the blobs of an image reach a registry and when its tags move; must not know how they
were made.

Blobs go first, side by side; then manifests; an index after its manifests; tags with the last
request, so that a push that is cut leaves every tag at the old image or the new one (R26). A blob
that is there is not sent; one that another repository of the registry has is mounted; a large one
goes in pieces, and a piece that fails goes on where the registry says it stopped (R22).

Source: OCI distribution-spec v1.1, "Push".
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal
from urllib.parse import quote

from msgspec import Struct

from buildgraph.errors import BuildFailed, HostError
from buildgraph.oci.image import Artifact
from buildgraph.oci.registry.challenge import scope_of
from buildgraph.oci.registry.homes import homes, remember_home
from buildgraph.oci.registry.pull import ACCEPT, DOCUMENTS
from buildgraph.oci.registry.session import Registries, Repository, Spoken
from buildgraph.oci.types import Descriptor
from buildgraph.transport.failures import Again, Denied, NotFound, StatusError, TransportError
from buildgraph.transport.messages import Request, Response
from buildgraph.transport.urls import Url, parse_url
from buildgraph_cache.digest import Digest
from buildgraph_cache.store import Store

IfExists = Literal["retag", "skip", "fail"]
Progress = Callable[[str, int, int], None]

_UPLOADS: Final = 4  # blobs at once
_WHOLE: Final = 8 << 20  # up to this size a blob goes in one request
_PIECE: Final = 32 << 20  # of a larger one
_READ: Final = 1 << 20
_RANGE: Final = re.compile(r"(?:bytes=)?0-(\d{1,18})\Z")


class Pushed(Struct, frozen=True):
    """What a push came to."""

    name: str  # repository:tag, or repository@digest
    digest: Digest
    sent: int  # bytes of blobs that went over the wire
    state: Literal["pushed", "there already", "left alone"]
    subject: str = ""  # of a push by digest: what the registry counts it as a referrer of


class Pusher:
    """Pushes images of one store; threads may share it."""

    def __init__(
        self,
        registries: Registries,
        store: Store,
        *,
        progress: Progress = lambda text, done, total: None,
    ):
        self._registries = registries
        self._store = store
        self._progress = progress

    def push(
        self,
        artifact: Artifact,
        domain: str,
        path: str,
        tags: Sequence[str],
        *,
        if_exists: IfExists = "retag",
    ) -> list[Pushed]:
        """Push an image under each tag, or by its digest alone where there is none.

        Idempotent. Raises BuildFailed for a tag that must not exist and does, HostError where the
        registry says no; no tag has moved then, unless it is the tag of an earlier entry.
        """
        sources = self._sources(artifact, domain, path)
        repository = self._registries.repository(domain, path, push=True)
        repository.extra_scopes = tuple(
            scope_of(other, "pull") for other in sorted({s for v in sources.values() for s in v})
        )
        spoken = repository.for_push()
        name = f"{domain}/{path}"
        out: list[Pushed] = []
        todo: list[str] = []
        for tag in tags:
            there = self._tag(repository, spoken, tag)
            if there == artifact.top.digest:
                out.append(Pushed(f"{name}:{tag}", there, 0, "there already"))
            elif there is not None and if_exists == "fail":
                raise BuildFailed(
                    f"{name}:{tag} exists already, as {there}",
                    hint="`if_exists: retag` moves a tag, `skip` leaves it",
                )
            elif there is not None and if_exists == "skip":
                out.append(Pushed(f"{name}:{tag}", there, 0, "left alone"))
            else:
                todo.append(tag)
        if not todo and tags:
            return out
        sent = self._blobs(repository, spoken, artifact, sources)
        self._manifests(repository, spoken, artifact)
        for tag in todo:
            self._put_manifest(repository, spoken, artifact.top, tag)
            out.append(Pushed(f"{name}:{tag}", artifact.top.digest, sent, "pushed"))
            sent = 0
        if not tags:
            digest = artifact.top.digest
            answer = self._put_manifest(repository, spoken, artifact.top, digest)
            subject = answer.headers.get("OCI-Subject") or ""
            out.append(Pushed(f"{name}@{digest}", digest, sent, "pushed", subject.strip()))
        return out

    # --- blobs --------------------------------------------------------------------------------

    def _blobs(
        self,
        repository: Repository,
        spoken: Spoken,
        artifact: Artifact,
        sources: dict[Digest, tuple[str, ...]],
    ) -> int:
        """Send what is missing; return how many bytes that were."""
        blobs = [b for b in artifact.blobs if b.media_type not in DOCUMENTS]
        stop = threading.Event()

        def one(blob: Descriptor) -> int:
            if stop.is_set():
                return 0
            try:
                upload = _Upload(self, repository, spoken, blob)
                count = upload.run(sources.get(blob.digest, ()))
                remember_home(self._store, blob.digest, repository.name)
                return count
            except BaseException:
                stop.set()
                raise

        # The largest first: what is left at the end is small.
        blobs.sort(key=lambda blob: -blob.size)
        with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="push") as pool:
            return sum(pool.map(one, blobs))

    def has_blob(self, repository: Repository, spoken: Spoken, blob: Descriptor) -> bool:
        """Say whether the registry has a blob in this repository."""
        url = repository.url(spoken, f"blobs/{blob.digest}")
        with repository.send(repository.request(spoken, "HEAD", url)) as response:
            if response.status == 404:
                return False
            response.require(200)
            return True

    def read(self, blob: Descriptor, offset: int, length: int) -> Iterator[bytes]:
        """Yield a part of a blob of the store."""
        fd = self._store.open_blob(blob.digest)
        try:
            while length > 0:
                data = os.pread(fd, min(_READ, length), offset)
                if not data:
                    raise HostError(f"blob {blob.digest} of the store has become shorter")
                yield data
                offset += len(data)
                length -= len(data)
        finally:
            os.close(fd)

    def verify(self, blob: Descriptor) -> None:
        """See that a blob still is what its name says, before it leaves (R12)."""
        os.close(self._store.open_verified(blob.digest))

    def grew(self, repository: Repository, blob: Descriptor, done: int) -> None:
        """Say how far an upload is."""
        self._progress(f"pushing {repository.path} {blob.digest[7:19]}", done, blob.size)

    # --- manifests ----------------------------------------------------------------------------

    def _manifests(self, repository: Repository, spoken: Spoken, artifact: Artifact) -> None:
        for blob in artifact.blobs:
            if blob.media_type in DOCUMENTS and blob.digest != artifact.top.digest:
                self._put_manifest(repository, spoken, blob, blob.digest)

    def _put_manifest(
        self, repository: Repository, spoken: Spoken, descriptor: Descriptor, name: str
    ) -> Response:
        with open(self._store.open_verified(descriptor.digest), "rb") as file:
            data = file.read()
        url = repository.url(spoken, f"manifests/{name}")
        headers = {"Content-Type": descriptor.media_type}
        with repository.send(repository.request(spoken, "PUT", url, headers, data)) as response:
            try:
                response.require(200, 201, 202)
            except Denied as error:
                raise denied(repository, error) from error
            said = response.headers.get("Docker-Content-Digest")
        if said and said != descriptor.digest:
            raise HostError(f"{url.shown} took {descriptor.digest} and calls it {said[:80]}")
        return response

    def _tag(self, repository: Repository, spoken: Spoken, tag: str) -> Digest | None:
        """Return what a tag means now, None where it does not exist (or cannot be told)."""
        url = repository.url(spoken, f"manifests/{tag}")
        request = repository.request(spoken, "HEAD", url, {"Accept": ACCEPT})
        with repository.send(request) as response:
            if response.status in (404, 405):
                return None
            try:
                response.require(200)
            except Denied as error:
                raise denied(repository, error) from error
            said = response.headers.get("Docker-Content-Digest")
            return Digest(said) if said else None

    # --- where blobs are ----------------------------------------------------------------------

    def _sources(self, artifact: Artifact, domain: str, path: str) -> dict[Digest, tuple[str, ...]]:
        """Return other repositories of a registry that are known to have a blob."""
        out: dict[Digest, tuple[str, ...]] = {}
        for blob in artifact.blobs:
            prefix = f"{domain}/"
            found = tuple(
                home.removeprefix(prefix)
                for home in homes(self._store, blob.digest)
                if home.startswith(prefix) and home != f"{domain}/{path}"
            )
            if found:
                out[blob.digest] = found[:2]
        return out


def denied(repository: Repository, error: Denied) -> HostError:
    """Return the error for a registry that does not let us push."""
    return HostError(
        f"{repository.domain} does not let us push to {repository.path} (HTTP {error.status})",
        hint=f"`buildgraph login {repository.domain}` keeps a name and a password",
    )


def _is_final(error: TransportError) -> bool:
    """Say whether asking again is of no use; 416 says that the registry stands elsewhere."""
    return (
        isinstance(error, StatusError)
        and error.status < 500
        and error.status not in (408, 416, 429)
    )


class _Lost(Exception):
    """The registry no longer knows an upload that was begun."""


class _Upload:
    """One blob on its way."""

    def __init__(self, pusher: Pusher, repository: Repository, spoken: Spoken, blob: Descriptor):
        self._pusher = pusher
        self._repository = repository
        self._spoken = spoken
        self._blob = blob
        self._client = repository.registries.client

    def run(self, sources: Sequence[str]) -> int:
        """Bring the blob there; return how many bytes were sent for it."""
        if self._pusher.has_blob(self._repository, self._spoken, self._blob):
            return 0
        self._pusher.verify(self._blob)
        place: Url | None = None
        for source in sources:
            place = self._begin(source)
            if place is None:
                return 0
        retries = self._client.retries(
            self._request("GET", self._repository.url(self._spoken, "blobs/uploads/"))
        )
        while True:
            place = place or self._begin(None)
            if place is None:
                return 0
            try:
                self._send(place)
                return self._blob.size
            except _Lost as lost:
                if self._pusher.has_blob(self._repository, self._spoken, self._blob):
                    return self._blob.size  # it was complete, and only the answer was lost
                retries.again(place.shown, Again(str(lost.__cause__ or "the upload was lost")))
                place = None

    def _begin(self, source: str | None) -> Url | None:
        """Begin an upload and return its address; None where the blob was mounted instead."""
        rest = "blobs/uploads/"
        if source is not None:
            rest += f"?mount={quote(self._blob.digest)}&from={quote(source)}"
        url = self._repository.url(self._spoken, rest)
        # A second upload that nobody finishes does no harm: the registry forgets it.
        request = self._repository.request(self._spoken, "POST", url, retry=True, redirects=0)
        with self._repository.send(request) as response:
            if source is not None and response.status not in (201, 202):
                return self._begin(None)  # a registry that cannot mount, or may not for us
            try:
                response.require(201, 202)
            except Denied as error:
                raise denied(self._repository, error) from error
            if response.status == 201:
                return None
            return self._place(response, url)

    def _place(self, response: Response, base: Url) -> Url:
        place = response.headers.get("Location")
        if not place:
            raise HostError(f"{base.shown} begins an upload and does not say where")
        return self._repository.within(self._spoken, base, place)

    def _send(self, place: Url) -> None:
        """Send the blob to an upload. Raises _Lost."""
        retries = self._client.retries(self._request("GET", place))
        offset = 0
        while self._blob.size > _WHOLE and offset < self._blob.size:
            length = min(_PIECE, self._blob.size - offset)
            try:
                place, offset = self._piece(place, offset, length)
                retries.progressed()
            except NotFound as error:
                raise _Lost from error
            except TransportError as error:
                if _is_final(error):
                    raise
                retries.again(place.shown, Again(error.message))
                place, offset = self._status(place, offset)
        self._finish(place, offset)

    def _piece(self, place: Url, offset: int, length: int) -> tuple[Url, int]:
        request = self._request(
            "PATCH",
            place,
            {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{offset}-{offset + length - 1}",
            },
            offset,
            length,
        )
        with self._repository.send(request) as response:
            response.require(202, 201, 204)
            self._pusher.grew(self._repository, self._blob, offset + length)
            return self._place(response, place), offset + length

    def _status(self, place: Url, offset: int) -> tuple[Url, int]:
        """Ask an upload how far it is. Raises _Lost where it is no longer known."""
        request = self._request("GET", place)
        with self._repository.send(request) as response:
            if response.status in (404, 410):
                raise _Lost
            response.require(204, 200, 202)
            place = self._place(response, place) if "Location" in response.headers else place
            said = _RANGE.match((response.headers.get("Range") or "").strip())
        if said is None:
            return place, 0
        end = int(said[1]) + 1
        # "0-0" is what an upload says that has nothing, and one that has a byte.
        return place, 0 if end == 1 else min(end, self._blob.size)

    def _finish(self, place: Url, offset: int) -> None:
        """Close an upload with its digest; a small blob goes along. Raises _Lost."""
        joint = "&" if "?" in place.target else "?"
        url = parse_url(f"{place}{joint}digest={quote(self._blob.digest, safe='')}")
        length = self._blob.size - offset
        headers = {"Content-Type": "application/octet-stream"}
        request = self._request("PUT", url, headers, offset, length, retry=False)
        try:
            with self._repository.send(request) as response:
                response.require(201, 204)
        except NotFound as error:
            raise _Lost from error
        except Denied as error:
            raise denied(self._repository, error) from error
        except TransportError as error:
            if _is_final(error):
                raise
            raise _Lost from error
        self._pusher.grew(self._repository, self._blob, self._blob.size)

    def _request(
        self,
        method: str,
        url: Url,
        headers: dict[str, str] | None = None,
        offset: int = 0,
        length: int | None = None,
        *,
        retry: bool | None = None,
    ) -> Request:
        blob = self._blob
        return self._repository.request(
            self._spoken,
            method,
            url,
            headers,
            (lambda: self._pusher.read(blob, offset, length)) if length else None,
            length=length if length else None,
            redirects=0 if length else 10,
            retry=retry,
        )
