"""Knows what a node can do, as data; must not know how it is done.

An op holds everything about a step that is known without looking at files: it goes into the
node's key as it stands. What its inputs *are* joins it there (keys.py). Nothing in an op may
depend on where the workspace lies or when the build runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct, field

from buildgraph.errors import Location
from buildgraph.fetch.git_url import GitReference, is_commit
from buildgraph.oci.types import Platform

Network = Literal["none", "host", "default"]


class ImageOp(Struct, frozen=True):
    """A base image from outside: layers and config come from an OCI layout or a registry."""

    reference: str  # canonical: "oci-layout:///abs/dir@sha256:..." is resolved to a digest
    digest: str  # manifest digest


@dataclasses.dataclass(frozen=True, slots=True)
class ContextSource:
    """Files of a local directory; `context` is an index into NodeGraph.contexts, not identity."""

    context: int = dataclasses.field(compare=False)
    owners: bool = False  # files keep their owners, as those of an archive do


class StageSource(Struct, frozen=True):
    """Files of another node's root file system; `input` is an index into Node.inputs."""

    input: int


class InlineFile(Struct, frozen=True):
    """A file whose bytes stand in the Dockerfile (a heredoc)."""

    name: str
    content: bytes
    mode: int = 0o644


class CopyOp(Struct, frozen=True):
    """COPY or ADD of files that are already on this machine.

    `paths` are expanded sources relative to the source's root; `dest` is absolute, with a
    trailing slash where the author wrote one. `chown` is "user[:group]" as expanded, `chmod` the
    octal or symbolic text.
    """

    source: ContextSource | StageSource
    paths: tuple[str, ...]
    inline: tuple[InlineFile, ...]
    dest: str
    chown: str | None = None
    chmod: str | None = None
    exclude: tuple[str, ...] = ()
    parents: bool = False
    link: bool = False
    unpack: bool | None = None  # ADD: None = sniff, False = never; COPY: False
    preserve_times: bool = False


class MkdirOp(Struct, frozen=True):
    """WORKDIR: make a directory and its parents where they are missing, 0755."""

    path: str
    user: str = ""  # owner, as USER has it


@dataclasses.dataclass(frozen=True, slots=True)
class RunMount:
    """One RUN --mount with every default filled in; a source is an index into Node.inputs."""

    type: Literal["bind", "cache", "tmpfs", "secret", "ssh"]
    target: str
    options: tuple[tuple[str, str], ...] = ()
    input: int | None = None
    context: int | None = dataclasses.field(default=None, compare=False)


class Surroundings(Struct, frozen=True):
    """What a command line gives steps beside their files, as far as they can notice it."""

    hosts: tuple[str, ...] = ()  # names alone, sorted: where they lead is no part of a step
    shm: int = 0  # bytes of /dev/shm; 0: as docker has it
    ulimits: tuple[tuple[str, int, int], ...] = ()  # (name, soft, hard), sorted; -1 = no limit


class ExecOp(Struct, frozen=True):
    """RUN: a command in the root file system of its first input."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]  # sorted; ARG values included, proxies not
    cwd: str
    user: str
    network: Network
    hostname: str = "buildgraph"
    mounts: tuple[RunMount, ...] = ()
    security: Literal["sandbox", "insecure"] = "sandbox"
    script: bytes | None = None  # a heredoc with a #! line: run as a file
    preserve_times: bool = False
    around: Surroundings = Surroundings()


class PackagesOp(Struct, frozen=True):
    """A root file system from Debian packages, chosen and pinned (the `debian` rule)."""

    # (name, version, architecture, sha256), in order
    packages: tuple[tuple[str, str, str, str], ...]
    configure: bool
    files: tuple[tuple[str, str], ...] = ()  # extra text files: (path, content)
    recipe: str = ""  # the version of what makes a tree of the packages


class HttpOp(Struct, frozen=True):
    """One file from an http(s) server: a layer that holds it as `name`, mode 0600.

    `url` says where to ask and takes no part in the key: the key is what the server was found to
    have (digest, name and, where times are kept, its Last-Modified). With `checksum`
    ("sha256:...") nothing is asked once the content is known.
    """

    url: str  # as expanded; may hold a login, so never show it: see transport.urls
    name: str  # a plain base name
    checksum: str | None = None
    preserve_times: bool = False

    @property
    def pinned(self) -> bool:
        """Whether the op alone says what it comes to."""
        return self.checksum is not None


class GitOp(Struct, frozen=True):
    """The tree of one commit of a git repository, as a layer.

    Where to ask takes no part in the key: the key is the commit with what is taken of it.
    """

    reference: GitReference  # may hold a login, so show its `shown` only
    preserve_times: bool = False

    @property
    def pinned(self) -> bool:
        """Whether the op alone says what it comes to: a whole commit."""
        return is_commit(self.reference.ref) or is_commit(self.reference.checksum or "")


Op = ImageOp | CopyOp | MkdirOp | ExecOp | PackagesOp | HttpOp | GitOp


def contexts_read(op: Op) -> frozenset[int]:
    """Return the contexts that an op reads, as indices into NodeGraph.contexts."""
    if isinstance(op, CopyOp):
        return frozenset((op.source.context,) if isinstance(op.source, ContextSource) else ())
    if isinstance(op, ExecOp):
        return frozenset(mount.context for mount in op.mounts if mount.context is not None)
    return frozenset()


class Node(Struct, frozen=True):
    """One step of the graph. `inputs[0]` is the file system it starts from, None = scratch."""

    id: int
    op: Op
    platform: Platform
    inputs: tuple[int | None, ...]
    label: str  # the target that first asked for it
    stage: str
    title: str
    where: Location
    # Stable position ("//app:image linux/amd64 build/3"): explains and durations hang here.
    slot: str

    @property
    def needs(self) -> tuple[int, ...]:
        """The nodes that it needs: the same tuple as `inputs` where none of them is None."""
        if None not in self.inputs:
            return self.inputs  # type: ignore[return-value]
        return tuple(i for i in self.inputs if i is not None)


class ContextSpec(Struct, frozen=True):
    """A local directory that nodes read from, with the text of its ignore file."""

    root: str  # absolute
    ignore: tuple[str, ...]  # patterns, already cleaned
    name: str  # as shown: "context app/"
    ignore_name: str = ""
    owners: bool = False  # it came as an archive, whose files belong to somebody
    fleeting: bool = False  # unpacked for this build alone: no later one will look at this place


class NodeGraph(Struct, frozen=True):
    """Nodes in topological order; `nodes[i].id == i`.

    `shared` has the other slots of a node that is a step of several targets or stages.
    """

    nodes: tuple[Node, ...]
    contexts: tuple[ContextSpec, ...]
    shared: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def slots(self, node: Node) -> tuple[str, ...]:
        """Return every position at which a node stands."""
        return (node.slot, *self.shared.get(node.id, ()))

    def needs(self) -> list[Sequence[int]]:
        """Return for each node the nodes that it needs."""
        return [node.needs for node in self.nodes]
