"""Knows the language of `-o`: what kinds of output there are and how one is asked for; must not
know how any is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from buildgraph.engine.fields import parse_bool, parse_fields
from buildgraph.errors import InputError
from buildgraph.oci.compress import Compression
from buildgraph.oci.handover.handed import Engine

OutputType = Literal["oci", "docker", "tar", "local", "registry", "cacheonly", "load"]
_TYPES = ("oci", "docker", "tar", "local", "registry", "cacheonly")  # as `-o` calls them


class Output(Struct, frozen=True):
    """One `-o`: `tar` False writes an OCI layout directory; `dest` "-" is stdout.

    `names` are what the image is called there, instead of its tags. `split` puts each platform's
    files into a directory of its name; None = where there are several. Of type `load` (`--load`,
    or type=docker without a dest) the image goes to `engine`. `by_digest` pushes without a tag, and
    `canonical` tells such a name with its digest.
    """

    type: OutputType
    dest: str = ""
    tar: bool = True
    compression: str = ""
    level: int | None = None
    names: tuple[str, ...] = ()
    split: bool | None = None
    engine: Engine = "docker"
    by_digest: bool = False
    canonical: bool = False


def parse_output(text: str) -> Output:
    """Parse the value of `-o`: `type=...,dest=...`, a path (local), or `-` (a tar on stdout)."""
    if text == "-":
        return Output("tar", "-")
    if "=" not in text:
        return Output("local", os.path.abspath(text))
    fields = parse_fields(text, "-o")
    kind = fields.pop("type", "")
    if kind in ("image", "registry"):
        kind = _as_registry(text, kind, fields)
    if kind not in _TYPES:
        raise InputError(f"-o {text}: unknown type {kind!r}", hint="one of " + ", ".join(_TYPES))
    dest = fields.pop("dest", "")
    tar = parse_bool(fields.pop("tar", "true"), f"-o {text}: tar")
    compression = fields.pop("compression", "")
    level = fields.pop("compression-level", "")
    split = fields.pop("platform-split", "") if kind in ("local", "tar") else ""
    names, by_digest, canonical = _names(text, kind, fields)
    if kind in ("registry", "docker", "oci", "cacheonly"):
        _check_images_options(text, fields)
    if fields:
        raise InputError(f"-o {text}: unknown option {sorted(fields)[0]!r}")
    if kind == "docker" and not dest:
        kind = "load"
    _check_compression(text, compression, level)
    _check_dest(text, kind, dest, tar)
    return Output(
        kind,  # type: ignore[arg-type]  # one of _TYPES
        dest if dest in ("", "-") else os.path.abspath(dest),
        tar,
        compression,
        int(level) if level else None,
        names,
        parse_bool(split, f"-o {text}: platform-split") if split else None,
        by_digest=by_digest,
        canonical=canonical,
    )


def _names(text: str, kind: str, fields: dict[str, str]) -> tuple[tuple[str, ...], bool, bool]:
    """Return what an image is called, whether it is pushed by digest alone, and whether that is
    told.
    """
    if kind not in ("registry", "docker", "oci"):
        return (), False, False
    names = tuple(name for name in fields.pop("name", "").split(",") if name)
    if kind != "registry":
        return names, False, False
    by_digest = parse_bool(fields.pop("push-by-digest", "false"), f"-o {text}: push-by-digest")
    canonical = parse_bool(fields.pop("name-canonical", "false"), f"-o {text}: name-canonical")
    return names, by_digest, canonical


def _check_compression(text: str, compression: str, level: str) -> None:
    if compression and compression not in ("gzip", "zstd", "uncompressed"):
        raise InputError(f"-o {text}: unknown compression {compression!r}")
    if level and not level.isdigit():
        raise InputError(f"-o {text}: compression-level is a number")


def _as_registry(text: str, kind: str, fields: dict[str, str]) -> str:
    """Return what type=image,push=true and type=registry mean: there is no other image store."""
    push = parse_bool(fields.pop("push", "true" if kind == "registry" else "false"), f"-o {text}")
    if "dest" in fields:
        raise InputError(f"-o {text}: a registry has no dest", hint="name=HOST/NAME:TAG, or -t")
    return "registry" if push else "cacheonly"


# Options of BuildKit's that are not taken, and what to do instead.
_REFUSED = {
    "oci-mediatypes": "images are always written in OCI's form",
    "force-compression": "layers of a base stay as they came",
    "registry.insecure": "say it in the Boxfile (workspace: registries) or in registries.conf",
    "unpack": "images stay in the store; `buildgraph run` runs them",
    "store": "an image always stays in the store",
    "dangling-name-prefix": "give a name: -t",
    "rewrite-timestamp": "no file of an image is later than SOURCE_DATE_EPOCH anyway",
}


def _check_images_options(text: str, fields: dict[str, str]) -> None:
    """Take options that ask for what is so anyway, and refuse the others by name."""
    for name, so_anyway in (("oci-mediatypes", True), ("force-compression", False)):
        if name in fields and parse_bool(fields[name], f"-o {text}: {name}") is so_anyway:
            del fields[name]
    for name in sorted(fields):
        if name in _REFUSED:
            raise InputError(f"-o {text}: {name} is not supported", hint=_REFUSED[name])
        if name.startswith("annotation"):
            raise InputError(f"-o {text}: {name} is not supported", hint="--annotation NAME=VALUE")


def _check_dest(text: str, kind: str, dest: str, tar: bool) -> None:
    if kind not in ("cacheonly", "registry", "load") and not dest:
        raise InputError(f"-o {text}: dest is missing", hint="add dest=PATH, or dest=- for stdout")
    if dest == "-" and (kind == "local" or (kind == "oci" and not tar)):
        raise InputError(f"-o {text}: a directory cannot be written to stdout")


def compression_of(outputs: Sequence[Output]) -> Compression:
    """Return the compression that the outputs ask for; they share one set of blobs.

    Raises InputError where two of them disagree.
    """
    asked = {(o.compression, o.level) for o in outputs if o.compression or o.level is not None}
    if len(asked) > 1:
        raise InputError("the outputs ask for different compressions")
    if not asked:
        return Compression()
    name, level = asked.pop()
    return Compression(name or "gzip", level)  # type: ignore[arg-type]  # checked by parse_output
