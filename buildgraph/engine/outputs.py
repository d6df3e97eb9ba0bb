"""Knows the language of `-o`: what kinds of output there are and how one is asked for; must not
know how any is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from buildgraph.engine.fields import parse_bool, parse_fields
from buildgraph.errors import InputError
from buildgraph.oci.compress import Compression

OutputType = Literal["oci", "docker", "tar", "local", "registry", "cacheonly"]
_TYPES = ("oci", "docker", "tar", "local", "registry", "cacheonly")


@dataclass(frozen=True, slots=True)
class Output:
    """One `-o`: `tar` False writes an OCI layout directory; `dest` "-" is stdout.

    `names` are what a registry is to call the image, besides its tags. `split` puts each platform's
    files into a directory of its name; None = where there are several.
    """

    type: OutputType
    dest: str = ""
    tar: bool = True
    compression: str = ""
    level: int | None = None
    names: tuple[str, ...] = ()
    split: bool | None = None


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
    names = tuple(n for n in fields.pop("name", "").split(",") if n) if kind == "registry" else ()
    if fields:
        raise InputError(f"-o {text}: unknown option {sorted(fields)[0]!r}")
    if compression and compression not in ("gzip", "zstd", "uncompressed"):
        raise InputError(f"-o {text}: unknown compression {compression!r}")
    if level and not level.isdigit():
        raise InputError(f"-o {text}: compression-level is a number")
    _check_dest(text, kind, dest, tar)
    return Output(
        kind,  # type: ignore[arg-type]  # one of _TYPES
        dest if dest in ("", "-") else os.path.abspath(dest),
        tar,
        compression,
        int(level) if level else None,
        names,
        parse_bool(split, f"-o {text}: platform-split") if split else None,
    )


def _as_registry(text: str, kind: str, fields: dict[str, str]) -> str:
    """Return what type=image,push=true and type=registry mean: there is no other image store."""
    push = parse_bool(fields.pop("push", "true" if kind == "registry" else "false"), f"-o {text}")
    if "dest" in fields:
        raise InputError(f"-o {text}: a registry has no dest", hint="name=HOST/NAME:TAG, or -t")
    return "registry" if push else "cacheonly"


def _check_dest(text: str, kind: str, dest: str, tar: bool) -> None:
    if kind not in ("cacheonly", "registry") and not dest:
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
