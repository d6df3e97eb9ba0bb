"""Knows how to say in words what differs between two preimages; must not know why it matters.

A `Reason` names the thing that changed, with its old and its new value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from buildgraph.graph.keys import Preimage

# The listing of a tree: relative name -> (kind, mode, content) as short texts.
Listing = Mapping[str, tuple[str, ...]]

_WORDS = {
    "args": "the command",
    "cwd": "the working directory",
    "user": "the user",
    "network": "the network mode",
    "hostname": "the host name",
    "security": "the security mode",
    "script": "the script",
    "platform": "the platform",
    "epoch": "SOURCE_DATE_EPOCH",
    "profile": "the sandbox profile",
    "recipe": "buildgraph's recipe for packages",
    "schema": "the key format of buildgraph",
    "chmod": "--chmod",
    "unpack": "--unpack",
    "preserve_times": "timestamps",
    "path": "the path",
    "configure": "configure",
    "content": "what the server has",
    "modified": "the file's date",
    "commit": "the commit",
    "git_dir": "--keep-git-dir",
}


class Reason(Struct, frozen=True):
    """One thing that changed; `old` or `new` is "" where it did not exist."""

    what: str
    old: str = ""
    new: str = ""

    def __str__(self) -> str:
        if not self.old and not self.new:
            return self.what
        if not self.old:
            return f"{self.what}: new, {self.new}"
        if not self.new:
            return f"{self.what}: gone, was {self.old}"
        return f"{self.what}: {self.old} -> {self.new}"


def differences(
    old: Preimage | None,
    new: Preimage,
    old_files: Listing | None = None,
    new_files: Listing | None = None,
) -> tuple[Reason, ...]:
    """Return what changed from `old` to `new`; `old` None means never built here."""
    if old is None:
        return (Reason("not built here before"),)
    if old.get("kind") != new.get("kind"):
        return (Reason("the instruction", str(old.get("kind")), str(new.get("kind"))),)
    out: list[Reason] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after or _plain(before) == _plain(after):
            continue
        out.extend(_one(name, before, after, old_files, new_files))
    return tuple(out)


def _one(
    name: str, old: Any, new: Any, old_files: Listing | None, new_files: Listing | None
) -> list[Reason]:
    if name == "files" and isinstance(new, str):
        return _files(old, new, old_files, new_files)
    if name == "parent":
        return [Reason("the layers below", _short(old), _short(new))]
    if name in ("env", "files") and isinstance(old, Mapping) and isinstance(new, Mapping):
        what = "variable" if name == "env" else "file"
        return _mapping(what, old, new)
    if name == "packages":
        return _mapping("package", {p[0]: p[1] for p in old}, {p[0]: p[1] for p in new})
    if name == "destination":
        return _destination(old or {}, new or {})
    if name == "mounts":
        return [Reason("a mount", _short(old), _short(new))]
    return [Reason(_WORDS.get(name, name), _short(old), _short(new))]


def _mapping(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Reason]:
    return [
        Reason(f"{what} {key}", _short(old.get(key)), _short(new.get(key)))
        for key in sorted({*old, *new})
        if _plain(old.get(key)) != _plain(new.get(key))
    ]


def _destination(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Reason]:
    """Say what is different about the place that files are put into, see `DestFacts`."""
    before, after = _place(old), _place(new)
    return [
        Reason(what, before.get(what, ""), after.get(what, ""))
        for what in sorted({*before, *after})
        if before.get(what) != after.get(what)
    ]


def _place(facts: Mapping[str, Any]) -> dict[str, str]:
    told: dict[str, str] = {}
    for path, mode, uid, gid, xattrs in facts.get("parents", ()):
        told[f"directory /{path}"] = f"{mode:o} {uid}:{gid}"
        told |= {f"attribute {name} of /{path}": _short(value) for name, value in xattrs}
    if "path" in facts:
        slash = "/" if facts["path"] and facts.get("into") else ""
        told["the destination"] = f"/{facts['path']}{slash}"
    if facts.get("owner") is not None:
        told["the owner"] = ":".join(map(str, facts["owner"]))
    return told


def _files(
    old: Any, new: str, old_files: Listing | None, new_files: Listing | None
) -> list[Reason]:
    if old_files is None or new_files is None:
        return [Reason("the files", _short(old), _short(new))]
    out: list[Reason] = []
    for name in sorted({*old_files, *new_files}):
        before, after = old_files.get(name), new_files.get(name)
        if before == after:
            continue
        # Only the fields that differ: a changed mode is not a changed content.
        if before is not None and after is not None and len(before) == len(after):
            pairs = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
            first = " ".join(_short(b) for b, _ in pairs)
            second = " ".join(_short(a) for _, a in pairs)
            out.append(Reason(f"file {name or '.'}", first, second))
        else:
            out.append(
                Reason(
                    f"file {name or '.'}",
                    " ".join(_short(x) for x in before) if before else "",
                    " ".join(_short(x) for x in after) if after else "",
                )
            )
    return out or [Reason("the files", _short(old), _short(new))]


def _plain(value: Any) -> Any:
    """JSON turns tuples into lists; compare what is meant."""
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        text = value[:19] if value.startswith("sha256:") else value
    elif isinstance(value, tuple | list):
        text = " ".join(str(v) for v in value)
    else:
        text = str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= 120 else text[:117] + "..."
