"""Knows how an artifact (a list of contents, a signature) is attached to an image of a registry and
found again; must not know what is in it.

The artifact is a manifest whose `subject` is the image. A registry that keeps account of those
says so by the header OCI-Subject. For any other the account is kept by its clients, in an index
under the tag `sha256-<hex of the image>`. Nothing keeps two clients from changing that index at
once, so it is read again after a moment, and what got lost is added again.

Source: OCI distribution-spec v1.1, "Pushing Manifests with Subject", "Listing Referrers";
image-spec v1.1, manifest.md, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import HostError, InputError
from buildgraph.oci.config import descriptor_value
from buildgraph.oci.documents import Fields, canonical_json, load_document
from buildgraph.oci.image import Artifact
from buildgraph.oci.registry.push import Pusher, denied
from buildgraph.oci.registry.session import Registries, Repository, Spoken
from buildgraph.oci.types import MEDIA_INDEX, MEDIA_MANIFEST, Descriptor
from buildgraph.transport.failures import Again, Denied
from buildgraph.transport.urls import Url, follow
from buildgraph_cache.digest import Digest, hex_of
from buildgraph_cache.store import Store

MEDIA_EMPTY: Final = "application/vnd.oci.empty.v1+json"
_EMPTY: Final = b"{}"
_PAGES: Final = 100
_LINK: Final = re.compile(r"<([^>]*)>([^,]*)")
_SETTLE: Final = 0.1  # seconds after which an index is read again, and up to twice as many more


class Attachment(Struct, frozen=True):
    """What is to be attached to an image; its blobs are in the store."""

    artifact_type: str
    blobs: tuple[Descriptor, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


class Referrer(Struct, frozen=True):
    """A manifest that says it is about an image."""

    digest: Digest
    media_type: str
    size: int
    artifact_type: str
    annotations: tuple[tuple[str, str], ...] = ()


class Referrers:
    """Attaches artifacts to images of registries, and lists them; threads may share it."""

    def __init__(self, registries: Registries, store: Store):
        self._registries = registries
        self._store = store

    def attach(
        self, domain: str, path: str, subject: Descriptor, attachment: Attachment
    ) -> Referrer:
        """Push an artifact that refers to an image of the same repository; idempotent.

        The image need not be there yet. Raises HostError, InputError where the registry's account
        of referrers is no such thing.
        """
        artifact = self._artifact(subject, attachment)
        top = artifact.top
        pusher = Pusher(self._registries, self._store)
        (pushed,) = pusher.push(artifact, domain, path, ())
        referrer = Referrer(
            top.digest, top.media_type, top.size, attachment.artifact_type, attachment.annotations
        )
        if pushed.subject != subject.digest:
            repository = self._registries.repository(domain, path, push=True)
            with self._store.key_lock(f"referrers {domain}/{path}@{subject.digest}"):
                self._enter(repository, repository.for_push(), subject.digest, referrer)
        return referrer

    def find(
        self, domain: str, path: str, digest: Digest, artifact_type: str = ""
    ) -> list[Referrer]:
        """Return what refers to an image, of one type or of any, in the registry's order.

        Raises HostError, InputError for an answer that is no index.
        """
        repository = self._registries.repository(domain, path)
        # A mirror knows what it has copied, so only the registry itself is asked.
        spoken = self._registries.speak(repository.endpoints[-1], domain)
        found = self._ask(repository, spoken, digest, artifact_type)
        if found is None:
            entries = self._index(repository, spoken, digest)["manifests"]
            found = [_referrer(entry, f"{domain}/{path}:{fallback_tag(digest)}")
                     for entry in entries]  # fmt: skip
        return [one for one in found if artifact_type in ("", one.artifact_type)]

    # --- the artifact -------------------------------------------------------------------------

    def _artifact(self, subject: Descriptor, attachment: Attachment) -> Artifact:
        empty = Descriptor(MEDIA_EMPTY, self._store.put_blob(_EMPTY), len(_EMPTY))
        layers = attachment.blobs or (empty,)
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": attachment.artifact_type,
            "config": descriptor_value(empty),
            "layers": [descriptor_value(layer) for layer in layers],
            "subject": descriptor_value(
                Descriptor(subject.media_type, subject.digest, subject.size)
            ),
        }
        if attachment.annotations:
            value["annotations"] = dict(attachment.annotations)
        data = canonical_json(value)
        top = Descriptor(MEDIA_MANIFEST, self._store.put_blob(data), len(data))
        blobs = {blob.digest: blob for blob in (*layers, empty, top)}
        return Artifact(top, tuple(blobs.values()))

    # --- the registry's own account -----------------------------------------------------------

    def _ask(
        self, repository: Repository, spoken: Spoken, digest: Digest, artifact_type: str
    ) -> list[Referrer] | None:
        """Return what the registry counts, None where it does not count."""
        query = "?" + urlencode({"artifactType": artifact_type}) if artifact_type else ""
        url: Url | None = repository.url(spoken, f"referrers/{digest}{query}")
        out: list[Referrer] = []
        for _ in range(_PAGES):
            if url is None:
                return out
            request = repository.request(spoken, "GET", url, {"Accept": MEDIA_INDEX})
            response, data = self._registries.client.read(request, limits.MANIFEST_BYTES)
            if response.status in (404, 405, 501):
                return None
            try:
                response.require(200)
            except Denied as error:
                raise HostError(
                    f"{repository.domain} does not let us list what refers to {repository.path} "
                    f"(HTTP {error.status})",
                    hint=f"`buildgraph login {repository.domain}` keeps a name and a password",
                ) from error
            kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip()
            if kind != MEDIA_INDEX:
                return None  # some servers answer every address with a page
            out += [_referrer(entry, url.shown) for entry in _entries(data, url.shown)["manifests"]]
            url = _next_page(response.headers.all("Link"), url)
        raise HostError(f"{repository.name}@{digest} has more than {_PAGES} pages of referrers")

    # --- our account, under a tag -------------------------------------------------------------

    def _enter(
        self, repository: Repository, spoken: Spoken, digest: Digest, referrer: Referrer
    ) -> None:
        """See that the index under the tag names a referrer."""
        url = repository.url(spoken, f"manifests/{fallback_tag(digest)}")
        retries = self._registries.client.retries(repository.request(spoken, "GET", url))
        while True:
            index = self._index(repository, spoken, digest)
            if _names(index, referrer):
                return
            index["manifests"] = [*index["manifests"], _entry(referrer)]
            self._put(repository, spoken, url, canonical_json(index))
            clock = self._registries.clock
            clock.sleep(_SETTLE * (1 + 2 * clock.jitter()), self._registries.cancel)
            if _names(self._index(repository, spoken, digest), referrer):
                return
            retries.again(url.shown, Again("somebody else changes it all the time"))

    def _index(self, repository: Repository, spoken: Spoken, digest: Digest) -> dict[str, Any]:
        """Return the index under the tag as JSON, an empty one where there is none yet."""
        url = repository.url(spoken, f"manifests/{fallback_tag(digest)}")
        request = repository.request(spoken, "GET", url, {"Accept": MEDIA_INDEX})
        response, data = self._registries.client.read(request, limits.MANIFEST_BYTES)
        if response.status == 404:
            return {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": []}
        response.require(200)
        return _entries(data, url.shown)

    def _put(self, repository: Repository, spoken: Spoken, url: Url, data: bytes) -> None:
        if len(data) > limits.MANIFEST_BYTES:
            raise HostError(f"{url.shown} would have more than {limits.MANIFEST_BYTES} bytes")
        headers = {"Content-Type": MEDIA_INDEX}
        with repository.send(repository.request(spoken, "PUT", url, headers, data)) as response:
            try:
                response.require(200, 201, 202)
            except Denied as error:
                raise denied(repository, error) from error


def fallback_tag(digest: Digest) -> str:
    """Return the tag under which clients keep account of what refers to a digest."""
    return f"sha256-{hex_of(digest)}"


def _entries(data: bytes, what: str) -> dict[str, Any]:
    """Return an index as JSON, whatever its entries say besides. Raises InputError."""
    fields = load_document(data, what)
    if fields.text("mediaType", MEDIA_INDEX) != MEDIA_INDEX:
        raise fields.wrong("mediaType", MEDIA_INDEX)
    fields.objects("manifests")
    value = json.loads(data)
    assert isinstance(value, dict)
    return {**value, "manifests": list(value.get("manifests") or ())}


def _referrer(entry: dict[str, Any], what: str) -> Referrer:
    fields = Fields(entry, what)
    return Referrer(
        fields.digest("digest"),
        fields.text("mediaType", None),
        fields.number("size", None),
        fields.text("artifactType"),
        fields.pairs("annotations"),
    )


def _entry(referrer: Referrer) -> dict[str, Any]:
    value = descriptor_value(
        Descriptor(referrer.media_type, referrer.digest, referrer.size, referrer.annotations)
    )
    return {**value, "artifactType": referrer.artifact_type}


def _names(index: dict[str, Any], referrer: Referrer) -> bool:
    return any(entry.get("digest") == referrer.digest for entry in index["manifests"])


def _next_page(links: Sequence[str], base: Url) -> Url | None:
    """Return where the next page is; it must be of the same server (RFC 8288)."""
    for target, parameters in (found for text in links for found in _LINK.findall(text)):
        if parameters.replace(" ", "").replace('"', "").startswith(";rel=next"):
            url = follow(base, target)
            if url.origin != base.origin:
                raise InputError(f"{base.shown} goes on at another server, {url.shown}")
            return url
    return None
