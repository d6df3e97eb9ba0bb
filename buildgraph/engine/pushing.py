"""Knows under which names of which repositories an image is pushed; must not know how bytes get
there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from buildgraph.engine.outputs import Output
from buildgraph.errors import InputError
from buildgraph.oci.image import Artifact
from buildgraph.oci.reference import Reference, parse_reference

if TYPE_CHECKING:
    from buildgraph.oci.registry.push import IfExists, Pushed, Pusher


def push_names(
    pusher: Pusher,
    artifact: Artifact,
    names: Iterable[Reference],
    if_exists: IfExists = "retag",
    *,
    by_digest: bool = False,
) -> list[Pushed]:
    """Push an image under every name, those of one repository together.

    `by_digest` moves no tag. Raises BuildFailed, HostError as `Pusher.push` does.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        groups.setdefault((name.domain, name.path), []).append(name.tag)
    out: list[Pushed] = []
    for (domain, path), tags in groups.items():
        out += pusher.push(artifact, domain, path, [] if by_digest else tags, if_exists=if_exists)
    return out


def push_output(
    pusher: Pusher, output: Output, artifact: Artifact, names: Sequence[Reference]
) -> str:
    """Push what `-o type=registry` asks for, and say so in words."""
    given = [destination(name) for name in output.names] or names
    pushed = push_names(pusher, artifact, given, by_digest=output.by_digest)
    return ", ".join(f"{one.name} ({one.state})" for one in pushed)


def destination(text: str) -> Reference:
    """Return a name that something can be pushed to. Raises InputError for one with a digest."""
    name = parse_reference(text)
    if name.digest:
        raise InputError(
            f"{text!r} names what is there already, by its digest: nothing can be pushed to it",
            hint="NAME:TAG; without a tag: -o type=registry,name=NAME,push-by-digest=true",
        )
    return name.with_default_tag()


def names_told(output: Output, tags: Sequence[str], artifact: Artifact) -> list[str]:
    """Return how `--metadata-file` calls what an output has pushed."""
    names = [destination(name) for name in output.names or tags]
    if not output.by_digest:
        told = [str(name) for name in names]
    else:
        told = [] if output.canonical else [name.name for name in names]
    if output.canonical:
        told += [f"{name.name}@{artifact.top.digest}" for name in names]
    return told
