"""Knows where a build context or a Dockerfile comes from when it is no file of the workspace: a
stream, a repository, a server; must not know what a build makes of it.

Docker's rules: an archive's files keep their owners, a repository's are root's, and an ignore
file counts for none of them. What is no archive is a Dockerfile without a context.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import InputError, Location
from buildgraph.graph.ops import ContextSpec
from buildgraph.label import is_package
from buildgraph.rootpath import Root

if TYPE_CHECKING:
    from buildgraph.cli.session import Session

STDIN: Final = "-"
_CHUNK: Final = 1 << 16
_BLOCK: Final = 512
_DOCKERFILES: Final = ("Dockerfile", "Containerfile", "dockerfile")
_HTTP: Final = re.compile(r"https?://", re.IGNORECASE)


class Fetched(Struct, frozen=True):
    """A context that was brought here. `dockerfile` is set where it was no archive but that."""

    name: str  # a package name, for the label
    spec: ContextSpec
    dockerfile: tuple[str, bytes] | None = None


def is_remote(word: str) -> bool:
    """Say whether a word names a context elsewhere; a directory of that name comes first."""
    from buildgraph.fetch.git_url import is_git_url

    if os.path.isdir(word):
        return False
    return word == STDIN or is_git_url(word) or _HTTP.match(word) is not None


def fetch_context(session: Session, word: str) -> Fetched:
    """Bring a context here, as long as the session lasts. Raises InputError, HostError."""
    from buildgraph.fetch.git_url import is_git_url

    directory = session.hold(session.store.new_scratch()).directory("context")
    if word == STDIN:
        return _unpacked(session, read_stdin(), directory, "stdin", "<stdin>")
    if is_git_url(word):
        return _checked_out(session, word, directory)
    with download(session, word) as chunks:
        return _unpacked(session, chunks, directory, _name_of(word), _shown(word))


def fetch_named(session: Session, name: str, word: str) -> ContextSpec:
    """Bring the files of `--build-context NAME=URL` here: a tree, or one file of a server."""
    from buildgraph.fetch.git_url import is_git_url

    try:
        if word != STDIN and not is_git_url(word):
            return _server_files(session, word)
        fetched = fetch_context(session, word)
    except InputError as error:
        error.where = error.where or Location(f"--build-context {name}")
        raise
    if fetched.dockerfile is not None:
        raise InputError(f"--build-context {name}: {_shown(word)} is no archive")
    return fetched.spec


def read_dockerfile(session: Session, word: str) -> tuple[str, bytes]:
    """Return the Dockerfile that `-f -`, `-f URL` or a pipe gives, with the name to show it by."""
    if word == STDIN:
        return "<stdin>", _whole(read_stdin(), "<stdin>")
    if _HTTP.match(word):
        with download(session, word) as chunks:
            return _shown(word), _whole(chunks, _shown(word))
    with open(word, "rb") as file:
        return word, _whole(iter(lambda: file.read(_CHUNK), b""), word)


def dockerfile_of(fetched: Fetched, file: str | None) -> tuple[str, bytes]:
    """Return the Dockerfile in a fetched context: `file`, else one of the usual names.

    Links in it are followed inside the context alone.
    """
    with Root.at(fetched.spec.root) as root:
        for name in (file,) if file is not None else _DOCKERFILES:
            try:
                fd = root.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                with os.fdopen(fd, "rb") as opened:
                    return name, _whole(iter(lambda: opened.read(_CHUNK), b""), name)
            except OSError:
                continue
    raise InputError(
        f"{fetched.spec.name} has no {file or 'Dockerfile'}",
        hint="-f names the Dockerfile, from the top of the context",
    )


@contextmanager
def download(session: Session, word: str) -> Iterator[Iterator[bytes]]:
    """Yield what a server has, from the store. Raises HostError where it has nothing."""
    from buildgraph.engine.remote import Remotes

    secrets, agents = {"": session.settings.secrets}, session.settings.agents
    remotes = Remotes(
        session.store,
        session.layers,
        secrets,
        session.environ,
        cancel=session.cancel,
        offline=session.settings.offline,
        agent=agents.get("default", ""),
    )
    with closing(remotes):
        content = remotes.fetch(word)
    with open(session.store.blob_path(content.digest), "rb") as file:
        yield iter(lambda: file.read(_CHUNK), b"")


# -- one kind each ---------------------------------------------------------------------------


def _checked_out(session: Session, word: str, directory: str) -> Fetched:
    from buildgraph.fetch.git import parse_git

    reference = parse_git(word)
    keep = dict(session.settings.overrides.args).get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "")
    if keep.lower() in ("1", "true"):
        reference = replace(reference, keep_git_dir=True)
    git = session.git()
    git.checkout(reference, git.resolve(reference), directory)
    spec = ContextSpec(directory, (), f"context {reference.shown}", fleeting=True)
    return Fetched(_name_of(reference.remote), spec)


def _server_files(session: Session, word: str) -> ContextSpec:
    """Return what a server has as a directory: an archive's tree, or the file alone."""
    from buildgraph.fetch.names import file_name
    from buildgraph.transport.urls import parse_url

    directory = session.hold(session.store.new_scratch()).directory("context")
    with download(session, word) as chunks:
        head, archive = sniff_archive(chunks)
        chunks = itertools.chain(head, chunks)
        if archive:
            return _unpacked(session, chunks, directory, _name_of(word), _shown(word)).spec
        path = os.path.join(directory, file_name(parse_url(word), into=True))
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
    return ContextSpec(directory, (), f"context {_shown(word)}", owners=True, fleeting=True)


def _unpacked(
    session: Session, chunks: Iterator[bytes], directory: str, name: str, shown: str
) -> Fetched:
    """Unpack an archive; what is none is a Dockerfile with an empty context."""
    from buildgraph.oci.compress import decompress
    from buildgraph.oci.tarread import TarReader
    from buildgraph.oci.tarstream import NO_EPOCH
    from buildgraph.oci.unpack import Unpacker

    spec = ContextSpec(directory, (), f"context {shown}", owners=True, fleeting=True)
    head, archive = sniff_archive(chunks)
    chunks = itertools.chain(head, chunks)
    if not archive:
        return Fetched(name, spec, (shown, _whole(chunks, shown)))
    tar = TarReader(decompress(chunks))
    try:
        # A layer's epoch comes later.
        with Unpacker(directory, NO_EPOCH, session.layers.overlay, whiteouts=False) as unpacker:
            unpacker.unpack(tar, tar)
        for _ in chunks:  # whoever writes it must not meet a closed pipe
            pass
    except InputError as error:
        error.where = error.where or Location(shown)
        raise
    return Fetched(name, spec)


def sniff_archive(chunks: Iterator[bytes]) -> tuple[list[bytes], bool]:
    """Return what was taken of a stream, and whether it begins a tar in any compression."""
    from buildgraph.engine.sniffing import is_tar_header
    from buildgraph.oci.compress import decompress

    taken: list[bytes] = []

    def taking() -> Iterator[bytes]:
        for chunk in chunks:
            taken.append(chunk)
            yield chunk
            if len(taken) * _CHUNK > 4 * limits.MIB:
                return  # a bzip2 block is 900 kB; nobody hides a first header deeper

    block = b""
    try:
        for data in decompress(taking()):
            block += data[: _BLOCK - len(block)]
            if len(block) == _BLOCK:
                return taken, is_tar_header(block) or not any(block)
    except InputError:  # only looks compressed
        pass
    return taken, False


def read_stdin() -> Iterator[bytes]:
    """Yield what comes on stdin."""
    while data := os.read(sys.stdin.fileno(), _CHUNK):
        yield data


def _whole(chunks: Iterator[bytes], shown: str) -> bytes:
    """Return a Dockerfile whole. Raises InputError for one that is too large or empty."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > limits.DOCKERFILE_BYTES:
            raise InputError(
                f"{shown} is larger than {limits.DOCKERFILE_BYTES} bytes: no Dockerfile"
            )
    return bytes(data)


def _shown(word: str) -> str:
    return re.sub(r"//[^/@]*@", "//", word) if "://" in word else word


def _name_of(url: str) -> str:
    """Return a package name for what a URL holds, so that its label tells it from others."""
    path = re.split(r"[?#]", url, maxsplit=1)[0].rstrip("/")
    base = re.sub(r"\.(git|tar|tgz|tar\.\w+|zip)$", "", re.split(r"[/:]", path)[-1])
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip(".-_")
    return name if is_package(name) else "context"
