"""Knows how the content behind a URL becomes a blob of the store, asked for again as cheaply as
the server allows; must not know what the content is used for.

What was found is one record a URL: digest, ETag, Last-Modified. The next question carries them, so
an unchanged file costs one 304. A pinned file that is known costs no question at all.

Records: kind "http", key sha256 of the URL without login; value JSON, never with a login or a
query. Partial downloads: named by digest where one is pinned, else by URL, validator and boot:
nothing but the file system vouches for the bytes of an unpinned one, and a power cut may have
taken some (R22).
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import HostError, InputError, StoreCorrupt
from buildgraph.transport.client import Client
from buildgraph.transport.headers import Headers
from buildgraph.transport.messages import Authorizer, Request, Response
from buildgraph.transport.resume import download, validator_of
from buildgraph.transport.schedule import http_date
from buildgraph.transport.urls import Url
from buildgraph_cache.digest import Digest, parse_digest, sha256_digest
from buildgraph_cache.objects import blob_ref
from buildgraph_cache.session import boot_id
from buildgraph_cache.store import Store

KIND: Final = "http"
# Servers that do not know say 1970; and nothing that we write can be older than this anyway.
OLDEST: Final = 315532800

Progress = Callable[[str, int, int], None]  # (text, done, total) in bytes; total 0: not known


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A file to be had. `times`: its Last-Modified matters too."""

    url: Url
    checksum: Digest | None = None
    times: bool = False
    authorizer: Authorizer | None = dataclasses.field(default=None, repr=False)


class Content(Struct, frozen=True):
    """What a URL was found to have; its blob is in the store. `modified`: seconds since 1970."""

    digest: Digest
    size: int
    modified: int | None = None


class _Known(Struct, frozen=True):
    digest: Digest
    size: int
    etag: str
    last_modified: str

    def content(self, *, times: bool) -> Content:
        moment = http_date(self.last_modified) if times else None
        if moment is not None and moment < OLDEST:
            moment = None
        return Content(self.digest, self.size, None if moment is None else int(moment))


class HttpSource:
    """Brings files of servers into a store. Threads may share it."""

    def __init__(
        self,
        store: Store,
        client: Client,
        *,
        offline: bool = False,
        limit: int = limits.DOWNLOAD_BYTES,
    ):
        """`limit` in bytes is the longest file that is taken; the caller closes `client`."""
        self._store = store
        self._client = client
        self._offline = offline
        self._limit = limit

    def find(
        self,
        wanted: Wanted,
        *,
        cancel: threading.Event,
        progress: Progress = lambda text, done, total: None,
    ) -> Content:
        """Return what the URL has now, its blob in the store (under the caller's lease).

        Raises InputError where the content is not what `checksum` says, HostError where the
        server does not give it or nothing may be asked, Interrupted.
        """
        known = self._without_asking(wanted)
        if known is not None:
            return known
        if self._offline:
            raise HostError(
                f"{wanted.url.shown} is not in the store, and --offline fetches nothing",
                hint="build once without --offline",
            )
        if wanted.checksum is None:
            return self._ask(wanted, cancel, progress)
        if self._store.has_blob(wanted.checksum):
            return self._date(wanted, wanted.checksum, cancel)
        return self._pinned(wanted, wanted.checksum, cancel, progress)

    def peek(self, wanted: Wanted, *, cancel: threading.Event) -> Content | None:
        """Return what the URL has now if its content is known already; else None.

        The server may be asked whether it is the same, but nothing is downloaded.
        """
        known = self._without_asking(wanted)
        if known is not None or self._offline:
            return known
        if wanted.checksum is not None:
            if not self._store.has_blob(wanted.checksum):
                return None
            return self._date(wanted, wanted.checksum, cancel)
        record = self._load(wanted.url)
        if record is None or not (record.etag or record.last_modified):
            return None
        with self._client.send(_request(wanted, cancel, record)) as response:
            if response.status == 304:
                return record.content(times=wanted.times)
            response.require(200)
        return None

    # -- what is known -------------------------------------------------------------------

    def _without_asking(self, wanted: Wanted) -> Content | None:
        record = self._load(wanted.url)
        if wanted.checksum is None:
            known = record if self._offline else None
            return None if known is None else known.content(times=wanted.times)
        if not self._store.has_blob(wanted.checksum):
            return None
        if record is not None and record.digest == wanted.checksum:
            return record.content(times=wanted.times)
        if wanted.times and not self._offline:
            return None
        return Content(wanted.checksum, self._store.blob_size(wanted.checksum))

    def _load(self, url: Url) -> _Known | None:
        raw = self._store.get_record(KIND, _key(url))
        if raw is None:
            return None
        value = json.loads(raw)
        known = _Known(
            parse_digest(value["digest"]), value["size"], value["etag"], value["last_modified"]
        )
        return known if self._store.has_blob(known.digest) else None

    def _save(self, url: Url, digest: Digest, size: int, headers: Headers) -> _Known:
        known = _Known(digest, size, headers.get("ETag") or "", headers.get("Last-Modified") or "")
        value = {
            "digest": digest,
            "size": size,
            "etag": known.etag,
            "last_modified": known.last_modified,
            "url": url.shown,
        }
        text = json.dumps(value, sort_keys=True).encode()
        self._store.put_record(KIND, _key(url), text, refs=(blob_ref(digest),))
        return known

    # -- asking --------------------------------------------------------------------------

    def _ask(self, wanted: Wanted, cancel: threading.Event, progress: Progress) -> Content:
        record = self._load(wanted.url)
        response = self._client.send(_request(wanted, cancel, record))
        with response:
            if response.status == 304 and record is not None:
                return record.content(times=wanted.times)
            response.require(200)
            return self._receive(wanted, response, cancel, progress)

    def _receive(
        self, wanted: Wanted, response: Response, cancel: threading.Event, progress: Progress
    ) -> Content:
        """Take the body of an answer, and what an earlier process has of it."""
        validator = validator_of(response.headers)
        name = f"http {_key(wanted.url)} {validator} {boot_id()}"
        with self._store.partial(name, cancelled=cancel.is_set) as partial:
            known = self._load(wanted.url)
            if validator and known and validator in (known.etag, known.last_modified):
                return known.content(times=wanted.times)  # somebody else has just fetched it
            if partial.size and validator is None:
                partial.restart()
            goes_on = partial.size > 0
            if goes_on:
                response.close()
            received = download(
                self._client,
                _request(wanted, cancel),
                partial,
                limit=self._limit,
                first=None if goes_on else response,
                validator=validator,
                grew=_told(wanted.url, progress),
            )
            digest = partial.commit()
        known = self._save(wanted.url, digest, received.size, received.headers)
        return known.content(times=wanted.times)

    def _pinned(
        self, wanted: Wanted, checksum: Digest, cancel: threading.Event, progress: Progress
    ) -> Content:
        while True:
            with self._store.partial(checksum, cancelled=cancel.is_set) as partial:
                if self._store.has_blob(checksum):
                    break
                fresh = not partial.size
                received = download(
                    self._client,
                    _request(wanted, cancel),
                    partial,
                    limit=self._limit,
                    named=True,
                    grew=_told(wanted.url, progress),
                )
                try:
                    partial.commit(checksum)
                except StoreCorrupt as error:
                    if not fresh:  # the beginning may have been of another file
                        continue
                    raise InputError(
                        f"{wanted.url.shown} has not the content that --checksum says: "
                        f"{error.message}",
                        hint="either the file was changed on the server, or --checksum is wrong",
                    ) from error
                known = self._save(wanted.url, checksum, received.size, received.headers)
                return known.content(times=wanted.times)
        return self.find(wanted, cancel=cancel, progress=progress)

    def _date(self, wanted: Wanted, digest: Digest, cancel: threading.Event) -> Content:
        """The content is known, its date at this URL is not."""
        with self._client.send(_request(wanted, cancel, method="HEAD")) as response:
            response.require(200)
            size = self._store.blob_size(digest)
            return self._save(wanted.url, digest, size, response.headers).content(times=True)


def _request(
    wanted: Wanted, cancel: threading.Event, known: _Known | None = None, method: str = "GET"
) -> Request:
    headers = {}
    if known is not None and known.etag:
        headers["If-None-Match"] = known.etag
    elif known is not None and known.last_modified:
        headers["If-Modified-Since"] = known.last_modified
    return Request(method, wanted.url, headers, authorizer=wanted.authorizer, cancel=cancel)


def _key(url: Url) -> str:
    return sha256_digest(str(url.without_login()).encode())


def _told(url: Url, progress: Progress) -> Callable[[int, int], None]:
    text = f"downloading {url.shown}"
    return lambda done, total: progress(text, done, total)
