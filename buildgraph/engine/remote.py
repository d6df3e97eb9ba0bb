"""Knows how files of servers and trees of repositories become layers: what they are now, asked
once a build, and their bytes; must not know who copies them where.

What a source *is* (content, commit) has to be known before its key, so a server is asked then, and
a file that is new is downloaded then. Secrets `HTTP_AUTH_TOKEN_host` and `HTTP_AUTH_HEADER_host`
go to that host alone, over https or to this machine itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from buildgraph.engine.mounts import Secrets, find_secret
from buildgraph.engine.work import Work
from buildgraph.errors import BuildgraphError, InputError
from buildgraph.filetree import Entry, FileStat, FromTree, Kind
from buildgraph.graph.keys import NodeKey, git_key, http_key
from buildgraph.graph.ops import GitOp, HttpOp, Node
from buildgraph.oci.dirtree import file_stat
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Layer
from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_cache.store import Store

if TYPE_CHECKING:
    from buildgraph.fetch.git import Git
    from buildgraph.fetch.http import Content, HttpSource, Wanted
    from buildgraph.transport.client import Client
    from buildgraph.transport.messages import FixedAuthorization
    from buildgraph.transport.urls import Url

FILE_MODE: Final = 0o600  # as docker has it

Progress = Callable[[str, int, int], None]


def silent(text: str, done: int, total: int) -> None:
    """Tell nobody how far a transfer is."""


class Remotes:
    """What one build knows of other machines. Threads may share it; close it when done."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        secrets: Secrets,
        environ: Mapping[str, str],
        *,
        cancel: threading.Event,
        offline: bool = False,
        agent: str = "",
    ):
        """`agent` is the socket of an ssh agent; setting `cancel` ends what is under way."""
        self._store = store
        self._layers = layers
        self._keeping = layers.keeping_times()
        self._secrets = secrets
        self._environ = environ
        self._offline = offline
        self._agent = agent
        self.cancel = cancel
        self._guard = threading.Lock()
        self._client: Client | None = None
        self._asking: dict[tuple[HttpOp | GitOp, str], _Question] = {}

    def close(self) -> None:
        """Close idle connections; idempotent."""
        with self._guard:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def fetch(self, address: str) -> Content:
        """Bring a file of a server into the store, for a context or a Dockerfile.

        Asks as ADD does: what is known and unchanged is not downloaded again. Raises InputError
        and HostError.
        """
        from buildgraph.fetch.http import Wanted
        from buildgraph.transport.urls import parse_url

        url = parse_url(address)
        wanted = Wanted(url, authorizer=self._authorizer(url, ""))
        return self._http().find(wanted, cancel=self.cancel)

    # -- what they are -------------------------------------------------------------------

    def key(self, node: Node, progress: Progress = silent) -> NodeKey:
        """Return the key of a node that fetches; its server is asked once a build.

        Raises InputError and HostError, at the place of the node.
        """
        op = node.op
        if isinstance(op, HttpOp):
            if op.checksum is not None and not self._times_matter(op):
                return http_key(op, self._layers.epoch, op.checksum, None)
            content = self._content(node, op, progress)
            return http_key(op, self._layers.epoch, content.digest, self._time(op, content))
        assert isinstance(op, GitOp)
        return git_key(op, self._layers.epoch, self._commit(node, op))

    def unknown(self, node: Node) -> str | None:
        """Return why the key of a node is not known without a download; None: it is known."""
        op = node.op
        if not isinstance(op, HttpOp) or (op.pinned and not self._times_matter(op)):
            return None
        question = self._question(op, node.label)
        with question.lock, _at(node):
            if question.content is None:
                question.content = self._http().peek(self._wanted(op, node), cancel=self.cancel)
            return None if question.content else "what its server has now is not in the store"

    def _content(self, node: Node, op: HttpOp, progress: Progress) -> Content:
        question = self._question(op, node.label)
        with question.lock, _at(node):
            if question.content is None:
                wanted = self._wanted(op, node)
                question.content = self._http().find(wanted, cancel=self.cancel, progress=progress)
            return question.content

    def _commit(self, node: Node, op: GitOp) -> str:
        question = self._question(op, node.label)
        with question.lock, _at(node):
            if question.commit is None:
                git = self._git(node.label)
                question.commit = git.resolve(op.reference, node.where, self.cancel)
            return question.commit

    def _question(self, op: HttpOp | GitOp, label: str) -> _Question:
        with self._guard:
            return self._asking.setdefault((op, label), _Question())

    def _times_matter(self, op: HttpOp) -> bool:
        """Say whether any Last-Modified can be seen in the layer."""
        from buildgraph.fetch.http import OLDEST

        return op.preserve_times or self._layers.epoch > OLDEST

    def _time(self, op: HttpOp, content: Content) -> int | None:
        """Return the time the file gets, None where that is the epoch."""
        if content.modified is None or op.preserve_times:
            return content.modified
        return content.modified if content.modified < self._layers.epoch else None

    # -- their bytes ---------------------------------------------------------------------

    def execute(self, work: Work) -> Layer | None:
        """Make the layer of a node whose key is known. An `Executor`."""
        op = work.node.op
        if isinstance(op, HttpOp):
            return self._file(work, op)
        assert isinstance(op, GitOp)
        return self._tree(work, op)

    def _file(self, work: Work, op: HttpOp) -> Layer:
        content = self._content(work.node, op, work.progress)
        tree = _OneBlob(self._store.blob_path(parse_digest(content.digest)), content)
        entry = Entry(
            op.name,
            Kind.FILE,
            FILE_MODE,
            size=content.size,
            mtime=self._time(op, content) or self._layers.epoch,
            content=FromTree(tree, op.name, tree.status),
        )
        layers = self._keeping if op.preserve_times else self._layers
        return layers.create([entry], "directory" if work.want_directory else "blob")

    def _tree(self, work: Work, op: GitOp) -> Layer | None:
        from buildgraph.fetch.git_tree import set_times

        node = work.node
        commit = self._commit(node, op)
        kept = op.preserve_times and op.reference.preserve_times
        work.progress(f"checking out {op.reference.shown}", 0, 0)
        with self._store.new_scratch() as scratch:
            directory = scratch.upper
            with _at(node):
                git = self._git(node.label)
                git.checkout(op.reference, commit, directory, node.where, self.cancel)
            if not op.reference.preserve_times:
                set_times(directory, self._layers.epoch)  # when it was checked out says nothing
            layers = self._keeping if kept else self._layers
            return layers.commit(Path(directory), None)

    # -- who asks ------------------------------------------------------------------------

    def _http(self) -> HttpSource:
        from buildgraph.fetch.http import HttpSource
        from buildgraph.transport.client import Client
        from buildgraph.transport.pool import Settings
        from buildgraph.transport.proxies import Proxies

        with self._guard:
            if self._client is None:
                self._client = Client(Settings(proxies=Proxies.of(self._environ)))
            return HttpSource(self._store, self._client, offline=self._offline)

    def _git(self, label: str) -> Git:
        from buildgraph.fetch.git import Git, SshSetup

        def secret(name: str) -> str | None:
            return self._secret(label, name)

        agent = self._agent or self._environ.get("SSH_AUTH_SOCK", "")
        return Git(
            self._store,
            environ=self._environ,
            secret=secret,
            ssh=SshSetup(agent, self._environ.get("HOME", "")),
            offline=self._offline,
        )

    def _wanted(self, op: HttpOp, node: Node) -> Wanted:
        from buildgraph.fetch.http import Wanted
        from buildgraph.transport.urls import parse_url

        url = parse_url(op.url, node.where)
        checksum = None if op.checksum is None else parse_digest(op.checksum)
        return Wanted(url, checksum, self._times_matter(op), self._authorizer(url, node.label))

    def _authorizer(self, url: Url, label: str) -> FixedAuthorization | None:
        from buildgraph.transport.messages import FixedAuthorization

        value = self._authorization(url, label)
        return FixedAuthorization({url.origin: value}) if value else None

    def _authorization(self, url: Url, label: str) -> str | None:
        """Return what a secret says to say to the server of `url`."""
        found: tuple[str, str] | None = None
        for name, form in (("HTTP_AUTH_HEADER", "{}"), ("HTTP_AUTH_TOKEN", "Bearer {}")):
            identity = f"{name}_{url.origin.netloc}"
            value = self._secret(label, identity)
            if value is not None:
                found = identity, form.format(value.strip())
                break
        if found is None:
            return None
        identity, value = found
        if any(c in "\r\n\0" for c in value) or not value.isascii():
            raise InputError(f"the secret {identity} cannot be sent: it is more than one line")
        if url.origin.scheme != "https" and not url.origin.is_loopback:
            raise InputError(
                f"the secret {identity} is not sent over plain http",
                hint="use https, so that nobody on the way can read it",
            )
        return value

    def _secret(self, label: str, identity: str) -> str | None:
        value = find_secret(self._secrets, self._environ, label, identity)
        return None if value is None else value.decode("utf-8", "surrogateescape")


class _Question:
    """One question to another machine, and its answer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.content: Content | None = None
        self.commit: str | None = None


@contextmanager
def _at(node: Node) -> Iterator[None]:
    """Give errors the place of a node."""
    try:
        yield
    except BuildgraphError as error:
        error.where = error.where or node.where
        raise


class _OneBlob(Struct):
    """A blob of the store as a tree of one file."""

    path: str
    content: Content

    @property
    def status(self) -> FileStat:
        """What stat(2) says of the blob."""
        return file_stat(os.stat(self.path))

    def stat(self, path: str) -> FileStat | None:
        """Return the blob's status."""
        return self.status

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """A file lists nothing."""
        return []

    def open(self, path: str) -> int:
        """Return a descriptor; the caller closes it."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Blobs have none."""
        return ()

    def digest(self, path: str, stat: FileStat) -> Digest:
        """Return the digest that names the blob."""
        return self.content.digest
