"""Knows how containerd takes an image; must not know how the image was made.

`ctr images import` reads an OCI archive. It writes what stands in it into its store of content
and then looks there for the rest, so blobs that the store has are left out of the archive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final

from buildgraph.errors import HostError
from buildgraph.oci.archive import write_oci_archive
from buildgraph.oci.config import INDEXES, MANIFESTS
from buildgraph.oci.handover.archiving import written_to_pipe
from buildgraph.oci.handover.handed import Handed
from buildgraph.oci.handover.outside import Done, Outside
from buildgraph.oci.image import Artifact
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.reference import Reference
from buildgraph_cache.digest import Digest

_INSTEAD: Final = "write a file instead, for `ctr images import`: -o type=oci,dest=FILE"


def hand_to_containerd(
    artifact: Artifact,
    layer_store: LayerStore,
    names: Sequence[Reference],
    environ: Mapping[str, str],
    outside: Outside,
) -> Handed:
    """Bring an image or an index into a namespace of containerd; idempotent.

    The namespace is CONTAINERD_NAMESPACE, else `default`; `names` must not be empty. Raises
    HostError.
    """
    ctr = ["ctr", "--namespace", environ.get("CONTAINERD_NAMESPACE") or "default"]
    listed = _run(outside, [*ctr, "content", "ls", "--quiet"])
    there = {Digest(line) for line in listed.out.split() if line.startswith("sha256:")}
    heavy = [b for b in artifact.blobs if b.media_type not in (*INDEXES, *MANIFESTS)]
    omit = {blob.digest for blob in heavy if blob.digest in there}

    def write(file: BinaryIO) -> None:
        write_oci_archive(artifact, layer_store, file, names, omit=omit)

    several = ["--all-platforms"] if artifact.top.media_type in INDEXES else []
    with written_to_pipe(write) as fd:
        _run(outside, [*ctr, "images", "import", *several, "-"], fd)
    name = str(names[0].with_default_tag())
    found = _run(outside, [*ctr, "images", "ls", f"name=={name}"])
    if artifact.top.digest not in found.out:
        raise HostError(f"containerd took the image and has no {name} of {artifact.top.digest}")
    layers = [b for b in heavy if "image.layer" in b.media_type or "rootfs.diff" in b.media_type]
    sent = [b for b in layers if b.digest not in omit]
    size = sum(b.size for b in sent)
    return Handed("containerd", artifact.top.digest, len(sent), len(layers), size)


def _run(outside: Outside, words: Sequence[str], stdin: int | None = None) -> Done:
    try:
        done = outside.run(words, stdin=stdin)
    except FileNotFoundError as error:
        raise HostError("ctr, containerd's own program, is not installed", hint=_INSTEAD) from error
    if done.code:
        raise HostError(f"ctr {words[3]}: {done.why}", hint=_INSTEAD)
    return done
