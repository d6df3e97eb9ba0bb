"""Knows how to read an image's layers and config back, from any builder's archive, with nothing but
the standard library; must not know how images are made here.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zstandard

_KINDS = {
    tarfile.REGTYPE: "f",
    tarfile.AREGTYPE: "f",
    tarfile.DIRTYPE: "d",
    tarfile.SYMTYPE: "l",
    tarfile.CHRTYPE: "c",
    tarfile.BLKTYPE: "b",
    tarfile.FIFOTYPE: "p",
}
_XATTR = "SCHILY.xattr."


@dataclass(frozen=True)
class File:
    """One path of a root file system; `same` is the first path of a hard-linked file."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    link: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()
    same: str = ""
    inode: int = field(default=0, compare=False, repr=False)  # of this flattening
    mtime: int = field(default=0, compare=False)
    content: bytes = field(default=b"", compare=False, repr=False)

    def line(self, path: str) -> str:
        """Return it as one line of `listing`."""
        head = f"{self.kind} {self.mode:o} {self.uid}:{self.gid} {path}"
        if self.kind == "l":
            return f"l {self.uid}:{self.gid} {path} -> {self.link}"
        if self.kind == "f":
            text = self.content.decode(errors="backslashreplace")
            head += f" = {text!r}" if len(text) < 60 else f" = {self.size} bytes"
        if self.same:
            head += f" same as {self.same}"
        return head + "".join(f" {name}={value}" for name, value in self.xattrs)


Tree = dict[str, File]


@dataclass(frozen=True)
class Image:
    """An image as anybody's reader sees it."""

    document: dict[str, Any]  # the config blob
    layers: tuple[bytes, ...]  # uncompressed tars, base first
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """What a container would be started with."""
        return dict(self.document.get("config") or {})

    @property
    def tree(self) -> Tree:
        """The flattened root file system, without the root itself."""
        return flatten(self.layers)

    @property
    def history(self) -> list[str]:
        """The `created_by` texts."""
        return [entry.get("created_by", "") for entry in self.document.get("history", [])]


def flatten(layers: Iterable[bytes]) -> Tree:
    """Stack layers as the OCI image layer specification says."""
    tree: Tree = {}
    kept: list[tarfile.TarInfo] = []  # their ids are the inodes
    for data in layers:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = archive.getmembers()
            kept += members
            _delete(tree, [m.name.strip("/") for m in members])
            for member in members:
                _put(tree, archive, member)
    return dict(sorted(_linked(tree).items()))


def _linked(tree: Tree) -> Tree:
    """Say of every hard-linked file which is the first of its names."""
    first: dict[int, str] = {}
    for path in sorted(tree):
        if tree[path].kind == "f":
            name = first.setdefault(tree[path].inode, path)
            tree[path] = replace(tree[path], same="" if name == path else name)
    return tree


def _delete(tree: Tree, names: list[str]) -> None:
    """Apply the whiteouts of a layer, which are about the layers below only."""
    for name in names:
        directory, _, base = name.rpartition("/")
        if base == ".wh..wh..opq":
            _remove(tree, directory, keep_itself=True)
        elif base.startswith(".wh."):
            _remove(tree, f"{directory}/{base[4:]}".lstrip("/"))


def _remove(tree: Tree, path: str, *, keep_itself: bool = False) -> None:
    for name in [n for n in tree if n.startswith(path + "/") or (n == path and not keep_itself)]:
        del tree[name]


def _put(tree: Tree, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    path = member.name.strip("/").removeprefix("./")
    if path in ("", ".") or path.rpartition("/")[2].startswith(".wh."):
        return
    if member.type == tarfile.LNKTYPE:
        target = member.linkname.strip("/").removeprefix("./")
        tree[path] = tree[target]
        return
    kind = _KINDS[member.type]
    if kind != "d":
        _remove(tree, path)
    content = b""
    if kind == "f":
        reader = archive.extractfile(member)
        assert reader is not None
        content = reader.read()
    xattrs = {k.removeprefix(_XATTR): v for k, v in member.pax_headers.items() if _XATTR in k}
    tree[path] = File(
        kind,
        0o777 if kind == "l" else stat.S_IMODE(member.mode),
        member.uid,
        member.gid,
        len(content),
        hashlib.sha256(content).hexdigest() if kind == "f" else "",
        member.linkname if kind == "l" else "",
        tuple(sorted(xattrs.items())),
        inode=id(member),
        mtime=int(member.mtime),
        content=content,
    )


def listing(tree: Tree, below: Tree | None = None) -> str:
    """Return what a tree has beside `below`, one path a line; a path that went is `- path`."""
    base = below or {}
    lines = {path: file.line(path) for path, file in tree.items() if base.get(path) != file}
    lines |= {path: f"- {path}" for path in base if path not in tree}
    return "".join(lines[path] + "\n" for path in sorted(lines))


def text(expected: str) -> str:
    """Return an indented literal as `listing` would write it."""
    return textwrap.dedent(expected).lstrip("\n")


# -- archives --------------------------------------------------------------------------


def read_archive(path: Path) -> Image:
    """Read an OCI or docker archive."""
    with tarfile.open(path) as archive:
        files = {
            m.name.removeprefix("./"): archive.extractfile(m).read()  # type: ignore[union-attr]
            for m in archive
            if m.isreg()
        }
        # An older docker names layers by links to one another.
        for member in archive.getmembers():
            if member.issym() or member.islnk():
                at = str(Path(member.name).parent / member.linkname) if member.issym() else ""
                target = _normal(at) if at else member.linkname
                files[member.name] = files[target]
    if "index.json" in files:
        return _from_layout(files)
    (entry,) = json.loads(files["manifest.json"])
    layers = tuple(uncompressed(files[name]) for name in entry["Layers"])
    return Image(json.loads(files[entry["Config"]]), layers, entry)


def read_layout(directory: Path, digest: str | None = None) -> Image:
    """Read an OCI image layout directory."""
    names = [p for p in directory.rglob("*") if p.is_file()]
    files = {str(p.relative_to(directory)): p.read_bytes() for p in names}
    return _from_layout(files, digest)


def _normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _from_layout(files: dict[str, bytes], digest: str | None = None) -> Image:
    def blob(name: str) -> bytes:
        data = files["blobs/" + name.replace(":", "/")]
        assert "sha256:" + hashlib.sha256(data).hexdigest() == name
        return data

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"])
    manifest = json.loads(blob(digest or index["manifests"][0]["digest"]))
    while "manifests" in manifest:
        manifest = json.loads(blob(manifest["manifests"][0]["digest"]))
    document = json.loads(blob(manifest["config"]["digest"]))
    layers = tuple(uncompressed(blob(layer["digest"])) for layer in manifest["layers"])
    told = document["rootfs"]["diff_ids"]
    assert told == ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]
    return Image(document, layers, manifest)


def uncompressed(data: bytes) -> bytes:
    """Undo gzip or zstd, if there is any."""
    if data.startswith(b"\x1f\x8b"):
        import gzip

        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data
