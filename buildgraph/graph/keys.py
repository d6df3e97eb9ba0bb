"""Knows how a node's key is made from its op and from what its inputs are; must not know how
either came about.

A key is the sha256 of a canonical JSON text, its preimage. The preimage is what is stored and what
`explain` compares, so the explanation cannot differ from the key: there is one traversal.
Structured, never joined strings (reliability A60): a mapping with a schema version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from buildgraph.graph.ops import (
    CopyOp,
    ExecOp,
    GitOp,
    HttpOp,
    MkdirOp,
    PackagesOp,
    RunMount,
    Surroundings,
)
from buildgraph.oci.types import Platform
from buildgraph_cache.digest import Digest, sha256_digest

SCHEMA = 1

Preimage = Mapping[str, Any]


class NodeKey(Struct, frozen=True):
    """A key with what it was made from."""

    digest: Digest
    preimage: Preimage


def canonical(value: Any) -> bytes:
    """Return one text for one value: sorted keys, no spaces, ASCII only."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode()


def make_key(preimage: Preimage) -> NodeKey:
    """Return the key of a preimage."""
    return NodeKey(sha256_digest(canonical(preimage)), preimage)


def _head(kind: str, platform: Platform | None, epoch: int) -> dict[str, Any]:
    head: dict[str, Any] = {"schema": SCHEMA, "kind": kind, "epoch": epoch}
    return head if platform is None else {**head, "platform": str(platform)}


def exec_key(
    op: ExecOp,
    platform: Platform,
    epoch: int,
    parent: str,
    sources: Sequence[str | None],
    profile: str,
) -> NodeKey:
    """Key of a RUN: what it runs, on which layers, under which profile.

    `parent` is the ChainID of the file system, `sources` the identity of what each mount shows
    (None for mounts that show nothing of ours: cache, tmpfs, secret). Secret values and the
    contents of cache mounts never enter.
    """
    mounts = [
        {"type": m.type, "target": m.target, "options": _noticed(m), "source": source}
        for m, source in zip(op.mounts, sources, strict=True)
    ]
    return make_key(
        {
            **_head("run", platform, epoch),
            "args": op.args,
            "env": dict(op.env),
            "cwd": op.cwd,
            "user": op.user,
            "network": op.network,
            "hostname": op.hostname,
            "security": op.security,
            "preserve_times": op.preserve_times,
            "script": None if op.script is None else op.script.decode("latin-1"),
            "mounts": mounts,
            "parent": parent,
            "profile": profile,
            **_around(op.around),
        }
    )


def _around(around: Surroundings) -> dict[str, Any]:
    """Return what differs from the usual: names of hosts, but not where they lead."""
    parts: dict[str, Any] = {
        "hosts": list(around.hosts),
        "shm": around.shm,
        "ulimits": [list(limit) for limit in around.ulimits],
    }
    return {key: value for key, value in parts.items() if value}


def _noticed(mount: RunMount) -> dict[str, str]:
    """Return the options a step can notice: not which cache it is shown, nor who shares it."""
    unnoticed = ("id", "sharing", "namespace") if mount.type == "cache" else ()
    return {key: value for key, value in mount.options if key not in unnoticed}


def copy_key(op: CopyOp, epoch: int, files: str, destination: Mapping[str, Any]) -> NodeKey:
    """Key of a COPY or ADD: the files' tree digest, and what the destination looks like.

    The parent's identity is not in it: where the destination is the same, the layer is. Nor is
    the platform: files are copied alike for all, so images of several share the layer.
    """
    return make_key(
        {
            **_head("copy", None, epoch),
            "files": files,
            "destination": destination,
            "chmod": op.chmod,
            "unpack": op.unpack,
            "preserve_times": op.preserve_times,
        }
    )


def mkdir_key(op: MkdirOp, epoch: int, destination: Mapping[str, Any]) -> NodeKey:
    """Key of a WORKDIR, the same for every platform."""
    return make_key({**_head("mkdir", None, epoch), "path": op.path, "destination": destination})


def http_key(op: HttpOp, epoch: int, content: str, modified: int | None) -> NodeKey:
    """Key of a server's file: what it holds, under which name, and the time that it keeps.

    Neither the address nor the platform is in it: the same bytes are the same layer.
    """
    return make_key(
        {
            **_head("http", None, epoch),
            "content": content,
            "name": op.name,
            "modified": modified,
        }
    )


def git_key(op: GitOp, epoch: int, commit: str) -> NodeKey:
    """Key of a repository's tree: the commit, and what is taken of it.

    The address is in it only where `.git` comes along, which holds it.
    """
    reference = op.reference
    kept = [reference.remote, reference.ref] if reference.keep_git_dir else None
    times = ("preserve" if op.preserve_times else "epoch") if reference.preserve_times else None
    return make_key(
        {
            **_head("git", None, epoch),
            "commit": commit,
            "subdir": reference.subdir,
            "submodules": reference.submodules,
            "git_dir": kept,
            "times": times,
        }
    )


def packages_key(op: PackagesOp, platform: Platform, epoch: int, profile: str) -> NodeKey:
    """Key of a root file system from packages: pinned bytes, order, and the recipe's version."""
    return make_key(
        {
            **_head("packages", platform, epoch),
            "packages": [list(p) for p in op.packages],
            "configure": op.configure,
            "files": dict(op.files),
            "recipe": op.recipe,
            "profile": profile,
        }
    )
