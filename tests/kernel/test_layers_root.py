"""Layers against the real overlayfs, with owners, devices and capabilities: needs root."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from buildgraph.errors import HostError
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.compress import Compression
from buildgraph.oci.dirtree import overlay_namespace
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Chain, Layer
from buildgraph_cache.store import Store

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or overlay_namespace() != "trusted",
    reason="machine: needs root outside a user namespace",
)
EPOCH = 315_532_800
# CAP_NET_RAW permitted and effective (linux/capability.h: struct vfs_cap_data, revision 2)
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path / "store")) as store:
        yield LayerStore(store)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path / "other")) as store:
        yield LayerStore(store)


def file(path: str, content: bytes = b"", mode: int = 0o644, **more: Any) -> Entry:
    return Entry(path, Kind.FILE, mode, size=len(content), content=content, **more)


def folder(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.DIR, mode)


@contextmanager
def overlay(layers: LayerStore, chain: Chain, upper: str, work: str, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    lowers = ":".join(str(layers.ensure_directory(layer)) for layer in reversed(chain.layers))
    options = f"lowerdir={lowers},upperdir={upper},workdir={work}"
    subprocess.run(
        ["mount", "-t", "overlay", "-o", f"{options},redirect_dir=off", "overlay", str(at)],
        check=True,
    )
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def step(layers: LayerStore, chain: Chain, at: Path, work: Callable[[Path], None]) -> Layer | None:
    """Do what a RUN does: mount, change, unmount, commit."""
    with layers.store.new_scratch() as scratch:
        with overlay(layers, chain, scratch.upper, scratch.work, at) as root:
            work(root)
        return layers.commit(Path(scratch.upper), RootView(layers, chain))


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    """What a process in the container sees."""
    out: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        st = os.lstat(path)
        target = os.readlink(path) if stat.S_ISLNK(st.st_mode) else ""
        size = st.st_size if stat.S_ISREG(st.st_mode) else 0
        out[str(path.relative_to(root))] = (st.st_mode, st.st_uid, st.st_gid, size, target)
    return out


def viewed(root: RootView, parent: str = "") -> dict[str, tuple[object, ...]]:
    bits = {
        Kind.FILE: stat.S_IFREG,
        Kind.DIR: stat.S_IFDIR,
        Kind.SYMLINK: stat.S_IFLNK,
        Kind.CHAR: stat.S_IFCHR,
        Kind.BLOCK: stat.S_IFBLK,
        Kind.FIFO: stat.S_IFIFO,
    }
    out: dict[str, tuple[object, ...]] = {}
    for name, st in root.list(parent):
        path = f"{parent}/{name}" if parent else name
        size = st.size if st.kind is Kind.FILE else 0
        out[path] = (bits[st.kind] | st.mode, st.uid, st.gid, size, st.target)
        if st.kind is Kind.DIR:
            out |= viewed(root, path)
    return out


BASE = [
    folder("d"), file("d/a", b"a"), file("d/b", b"b"), folder("d/sub"), file("d/sub/x", b"x"),
    folder("gone"), file("gone/y"), file("f", b"f"), file("link-me", b"1"),
    folder("tmp", 0o1777), Entry("l", Kind.SYMLINK, 0o777, link="d"),
]  # fmt: skip


def change(root: Path) -> None:
    """Everything a step can do to its root."""
    import shutil

    (root / "d/a").write_bytes(b"changed")
    (root / "d/b").unlink()
    shutil.rmtree(root / "gone")
    shutil.rmtree(root / "d/sub")
    (root / "d/sub").mkdir()  # made again: opaque
    (root / "d/sub/new").write_bytes(b"n")
    (root / "f").unlink()
    (root / "f").mkdir()  # a directory where a file was: opaque hides nothing
    (root / "l").unlink()
    os.link(root / "link-me", root / "linked")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(root / "pipe")
    (root / "owned").write_bytes(b"")
    os.chown(root / "owned", 3_000_000, 65_534)
    os.chmod(root / "owned", 0o6755)
    os.setxattr(root / "owned", "security.capability", NET_RAW)
    os.setxattr(root / "owned", "user.note", b"\xff\0")
    os.mkdir(root / "new")
    os.rename(root / "new", root / "renamed")


def names_of(layers: LayerStore, layer: Layer) -> list[str]:
    import tarfile

    blob = layers.blob(layer, Compression("uncompressed"))
    with tarfile.open(layers.store.blob_path(blob.digest)) as tar:
        return tar.getnames()


def test_a_step_is_committed_as_overlayfs_means_it(layers: LayerStore, tmp_path: Path) -> None:
    base = Chain.of((layers.create(BASE),))
    after: dict[str, tuple[object, ...]] = {}

    def work(root: Path) -> None:
        change(root)
        after.update(seen(root))

    made = step(layers, base, tmp_path / "m", work)
    assert made is not None
    chain = base.push(made)
    assert names_of(layers, made) == [
        ".wh.gone", ".wh.l", "d", "d/.wh.b", "d/a", "d/sub", "d/sub/.wh..wh..opq", "d/sub/new",
        "f", "link-me", "linked", "null", "owned", "pipe", "renamed",
    ]  # fmt: skip
    with layers.store.new_scratch() as scratch:
        with overlay(layers, chain, scratch.upper, scratch.work, tmp_path / "m") as root:
            assert seen(root) == after
            assert os.getxattr(root / "owned", "security.capability") == NET_RAW
            assert os.stat(root / "linked").st_ino == os.stat(root / "link-me").st_ino
            assert {p.stat().st_mtime for p in root.rglob("*") if p.exists()} == {EPOCH}
    assert viewed(RootView(layers, chain)) == after


def test_the_blob_gives_the_same_root_elsewhere(
    layers: LayerStore, other: LayerStore, tmp_path: Path
) -> None:
    base = Chain.of((layers.create(BASE, "blob"),))
    after: dict[str, tuple[object, ...]] = {}

    def work(root: Path) -> None:
        change(root)
        after.update(seen(root))

    made = step(layers, base, tmp_path / "m", work)
    assert made is not None
    for layer in (*base.layers, made):
        blob = layers.blob(layer, Compression("zstd"))
        source = partial(iter, [Path(layers.store.blob_path(blob.digest)).read_bytes()])
        other.import_blob(layer.diff_id, blob.digest, blob.size, source)
    chain = base.push(made)
    with other.store.new_scratch() as scratch:
        with overlay(other, chain, scratch.upper, scratch.work, tmp_path / "m") as root:
            assert seen(root) == after
            assert os.getxattr(root / "owned", "security.capability") == NET_RAW


def test_doing_nothing_is_no_layer_and_doing_it_twice_the_same(
    layers: LayerStore, tmp_path: Path
) -> None:
    base = Chain.of((layers.create(BASE),))
    assert step(layers, base, tmp_path / "m", lambda _: None) is None
    first = step(layers, base, tmp_path / "m", change)
    assert first == step(layers, base, tmp_path / "m", change)


def test_owner_and_device_of_every_kind_survive_both_forms(layers: LayerStore) -> None:
    entries = [
        folder("d", 0o2775),
        file("d/caps", b"x", 0o755, uid=1, gid=2, xattrs=(("security.capability", NET_RAW),)),
        Entry("d/block", Kind.BLOCK, 0o660, 0, 6, rdev=os.makedev(8, 300)),
        Entry("d/char", Kind.CHAR, 0o666, 5, 6, rdev=os.makedev(4095, 1_048_575)),
        Entry("d/fifo", Kind.FIFO, 0o600, 7, 8),
        Entry("d/link", Kind.SYMLINK, 0o777, 9, 10, link="/nowhere"),
        file("d/big-id", uid=4_000_000_000, gid=4_000_000_001),
    ]
    made = layers.create(entries)
    assert made == layers.create(entries, "blob")
    place = layers.ensure_directory(made)
    st = os.lstat(place / "d/char")
    assert (os.major(st.st_rdev), os.minor(st.st_rdev)) == (4095, 1_048_575)
    assert os.lstat(place / "d/big-id").st_uid == 4_000_000_000
    assert os.getxattr(place / "d/caps", "security.capability") == NET_RAW
    blob = layers.blob(made, Compression("zstd"))
    assert layers.blob(made, Compression("zstd")) == blob


def test_capabilities_lose_the_namespace_they_were_set_in(layers: LayerStore) -> None:
    spaced = struct.pack("<IIIIII", 0x03000001, 1 << 13, 0, 0, 0, 100_000)
    with layers.store.new_scratch() as scratch:
        path = Path(scratch.upper) / "f"
        path.write_bytes(b"")
        os.setxattr(path, "security.capability", spaced)
        made = layers.commit(Path(scratch.upper), None)
    assert made == layers.create([file("f", xattrs=(("security.capability", NET_RAW),))], "blob")
    assert made is not None
    assert os.getxattr(layers.ensure_directory(made) / "f", "security.capability") == NET_RAW


def test_a_layer_by_reference_is_refused(layers: LayerStore) -> None:
    with layers.store.new_scratch() as scratch:
        (Path(scratch.upper) / "d").mkdir()
        os.setxattr(Path(scratch.upper) / "d", "trusted.overlay.redirect", b"/elsewhere")
        with pytest.raises(HostError, match="kept 'd' as a reference"):
            layers.commit(Path(scratch.upper), None)


def test_acls_are_dropped_from_both_forms(layers: LayerStore) -> None:
    # POSIX ACL, version 2: user::rw- user:1:rw- group::r-- mask::rw- other::r--
    value = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, perm, who)
        for tag, perm, who in [
            (1, 6, 0xFFFFFFFF), (2, 6, 1), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF),
            (32, 4, 0xFFFFFFFF),
        ]
    )  # fmt: skip
    with layers.store.new_scratch() as scratch:
        path = Path(scratch.upper) / "f"
        path.write_bytes(b"")
        try:
            os.setxattr(path, "system.posix_acl_access", value)
        except OSError:
            pytest.skip("machine: the file system has no ACLs")
        made = layers.commit(Path(scratch.upper), None)
    assert made is not None
    assert os.listxattr(layers.ensure_directory(made) / "f") == []


def test_many_layers_are_viewed_as_mounted(layers: LayerStore, tmp_path: Path) -> None:
    chain = Chain()
    for number in range(20):
        entries = [
            folder("d"),
            file(f"d/{number % 7}", b"x" * number),
            file("top", b"%d" % number),
        ]
        if number % 5 == 4:
            entries.append(Entry(f"d/{(number - 3) % 7}", Kind.CHAR, 0))
        chain = chain.push(layers.create(entries, "blob" if number % 2 else "directory"))
    found = viewed(RootView(layers, chain))
    with layers.store.new_scratch() as scratch:
        with overlay(layers, chain, scratch.upper, scratch.work, tmp_path / "m") as root:
            assert seen(root) == found
