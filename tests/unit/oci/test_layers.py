"""A layer keeps what it contains, whatever form it takes."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildgraph.errors import InputError, StoreCorrupt
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.compress import Compression, compressor, decompress
from buildgraph.oci.dirtree import DirTree, Scan
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.parents import with_parents
from buildgraph.oci.rootview import RootView
from buildgraph.oci.tarstream import canonical
from buildgraph.oci.types import Chain, Layer
from buildgraph_cache.digest import Digest, sha256_digest
from buildgraph_cache.store import Store

EPOCH = 315_532_800
ROOT = os.geteuid() == 0
ME = (os.geteuid(), os.getegid())
ANY = Compression("gzip")


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path_factory.mktemp("store") / "s")) as store:
        yield LayerStore(store, EPOCH, "user")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path / "other")) as store:
        yield LayerStore(store, EPOCH, "user")


def file(path: str, content: bytes = b"", mode: int = 0o644, **more: object) -> Entry:
    owner = {"uid": ME[0], "gid": ME[1], **more}
    return Entry(path, Kind.FILE, mode, size=len(content), content=content, **owner)  # type: ignore[arg-type]


def folder(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.DIR, mode, *ME)


def forget_directory(layers: LayerStore, layer: Layer) -> None:
    """Lose the directory form alone, as when only the blob was pulled."""
    name = layer.diff_id
    layers._trees.pop(name, None)
    shutil.rmtree(layers.store.snapshot_path(name))


def contents(tree: DirTree) -> list[tuple[object, ...]]:
    """Everything a scan sees, bytes included, comparable across directories."""
    scan = Scan(tree, 1 << 40, fix=False, below=None)
    out: list[tuple[object, ...]] = []
    for e in canonical(scan.run()):
        data = b""
        if e.kind is Kind.FILE and e.size:
            with open(tree.open(e.path), "rb") as source:
                data = source.read()
        if e.kind is Kind.CHAR and not e.rdev:
            out.append((e.path, "whiteout"))
            continue
        out.append(
            (e.path, e.kind, e.mode, e.uid, e.gid, e.size, e.mtime, e.link, e.xattrs, e.rdev, data)
        )
    return [*out, *sorted((path,) for path in scan.opaque)]


# --- random trees -------------------------------------------------------------------------------

_NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "a-b", "a.b", "new\nline", "sp ace", "ü", "\udc80\udcff"]),
    st.text("xyz", min_size=250, max_size=255),
)
_MODES = st.sampled_from([0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o444, 0o700])
_OWNERS = st.sampled_from([ME, (0, 0), (1000, 2000), (3_000_000, 65_535)] if ROOT else [ME])
_TIMES = st.sampled_from(
    [None, 0, 1, -1, -86_400 * 365, EPOCH - 1, EPOCH, EPOCH + 5, 2_000_000_000]
)
_XATTRS = st.sampled_from([(), (("user.a", b""), ("user.b", b"\x00\xff=\n")), (("user.ü", b"v"),)])
_BYTES = st.one_of(
    st.binary(max_size=600), st.integers(0, 3000).map(lambda n: b"0123456789abcdef" * n)
)


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    entries: dict[str, Entry] = {}
    folders = [""]
    files: list[str] = []
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from(folders))
        name = draw(_NAMES)
        path = f"{parent}/{name}" if parent else name
        if path in entries:
            continue
        uid, gid = draw(_OWNERS)
        mode, mtime = draw(_MODES), draw(_TIMES)
        kind = draw(st.sampled_from(["f", "f", "f", "d", "d", "l", "h", "p", "w", "n"]))
        if kind == "f":
            data = draw(_BYTES)
            entries[path] = Entry(
                path, Kind.FILE, mode, uid, gid, len(data), mtime, "", draw(_XATTRS), 0, data
            )
            files.append(path)
        elif kind == "d":
            entries[path] = Entry(
                path, Kind.DIR, mode | 0o700, uid, gid, 0, mtime, "", draw(_XATTRS)
            )
            folders.append(path)
        elif kind == "l":
            link = draw(st.sampled_from(["a", "/abs/ü", "../../up", "x" * 300, "\udcfe"]))
            entries[path] = Entry(path, Kind.SYMLINK, 0o777, uid, gid, 0, mtime, link)
        elif kind == "h" and files:
            entries[path] = Entry(path, Kind.HARDLINK, 0, link=draw(st.sampled_from(files)))
        elif kind == "p":
            entries[path] = Entry(path, Kind.FIFO, mode & 0o1777, uid, gid, 0, mtime)
        elif kind == "w":
            entries[path] = Entry(path, Kind.CHAR, 0)
        elif kind == "n":
            entries[path] = Entry(
                path, Kind.BLOCK, 0o600, uid, gid, 0, mtime, rdev=os.makedev(8, 1)
            )
    return list(entries.values())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trees(), st.randoms(use_true_random=False))
def test_every_form_of_a_layer_has_the_same_identity(
    layers: LayerStore, entries: list[Entry], dice: random.Random
) -> None:
    made = layers.create(entries, "directory")
    before = contents(layers.tree(made))
    dice.shuffle(entries)
    packed = layers.create(entries, "blob")
    assert packed == made
    # from the directory, the same blob as from the entries
    with Store.open(layers.store.root + f"-{os.urandom(4).hex()}") as fresh:
        elsewhere = LayerStore(fresh, EPOCH + 7, "user")
        blob = layers.blob(made, ANY)
        with open(layers.store.open_blob(blob.digest), "rb") as source:
            data = source.read()
        imported = elsewhere.import_blob(made.diff_id, blob.digest, blob.size, lambda: iter([data]))
        assert imported == made
        assert contents(elsewhere.tree(made)) == before
        again = elsewhere.blob(made, Compression("zstd"), force=True)
        assert again == layers.blob(made, Compression("zstd"))
        # committing the unpacked directory as a step's upper changes nothing
        with fresh.new_scratch() as scratch:
            subprocess.run(
                ["cp", "-a", f"{elsewhere.ensure_directory(made)}/.", scratch.upper], check=True
            )
            layers_below = _Everything()
            committed = elsewhere.commit(Path(scratch.upper), layers_below)
        assert committed == (made if entries else None)
    shutil.rmtree(fresh.root)


class _Everything:
    """A root in which every path is a directory, so that every whiteout hides something."""

    def stat(self, path: str):  # type: ignore[no-untyped-def]
        from buildgraph.filetree import FileStat

        return FileStat(Kind.DIR, 0o755)


# --- commit -------------------------------------------------------------------------------------


def test_an_empty_upper_is_no_layer(layers: LayerStore) -> None:
    with layers.store.new_scratch() as scratch:
        assert layers.commit(Path(scratch.upper), None) is None


def test_commit_makes_times_normal_in_the_snapshot_itself(layers: LayerStore) -> None:
    with layers.store.new_scratch() as scratch:
        upper = Path(scratch.upper)
        (upper / "d").mkdir()
        (upper / "d" / "f").write_bytes(b"now")
        (upper / "old").write_bytes(b"x")
        os.utime(upper / "old", ns=(0, 1_500_000_000))
        os.symlink("f", upper / "d" / "l")
        layer = layers.commit(upper, None)
        assert layer is not None
        assert not upper.exists()
    place = layers.ensure_directory(layer)
    assert {os.lstat(place / p).st_mtime_ns for p in ("d", "d/f", "d/l")} == {EPOCH * 10**9}
    assert os.lstat(place / "old").st_mtime_ns == 10**9


def test_commit_drops_sockets_and_marks_that_hide_nothing(layers: LayerStore) -> None:
    import socket

    below = layers.create([folder("kept"), file("kept/x"), file("gone"), file("plain")])
    view = RootView(layers, Chain.of((below,)))
    with layers.store.new_scratch() as scratch:
        upper = Path(scratch.upper)
        for name in ("kept", "new", "plain"):
            (upper / name).mkdir()
            os.setxattr(upper / name, "user.overlay.opaque", b"y")
            os.setxattr(upper / name, "user.overlay.origin", b"?")
        os.mknod(upper / "gone", 0o020000, 0)
        os.mknod(upper / "never", 0o020000, 0)
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(upper / "new")
            server.bind("sock")
            os.chdir(here)
        layer = layers.commit(upper, view)
        assert layer is not None
    blob = layers.blob(layer, Compression("uncompressed"))
    with tarfile.open(layers.store.blob_path(blob.digest)) as tar:
        assert tar.getnames() == [".wh.gone", "kept", "kept/.wh..wh..opq", "new", "plain"]
    place = layers.ensure_directory(layer)
    assert os.listxattr(place / "kept") == ["user.overlay.opaque"]
    assert os.listxattr(place / "new") == []
    assert sorted(os.listdir(place)) == ["gone", "kept", "new", "plain"]
    assert os.stat(place / "new").st_mtime == EPOCH


def test_attributes_are_kept_or_dropped_by_rule(layers: LayerStore) -> None:
    with layers.store.new_scratch() as scratch:
        path = Path(scratch.upper) / "f"
        path.write_bytes(b"")
        os.setxattr(path, "user.keep", b"1")
        os.setxattr(path, "user.overlay.uuid", b"2")
        layer = layers.commit(Path(scratch.upper), None)
        assert layer is not None
    assert layers.tree(layer).xattrs("f") == (("user.keep", b"1"),)
    assert os.listxattr(layers.ensure_directory(layer) / "f") == ["user.keep"]


def test_deep_trees_are_committed(layers: LayerStore) -> None:
    with layers.store.new_scratch() as scratch:
        fd = os.open(scratch.upper, os.O_RDONLY)
        for _ in range(600):  # more than PATH_MAX and more than Python's own stack
            os.mkdir("directory", dir_fd=fd)
            below = os.open("directory", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        with open(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as leaf:
            leaf.write(b"x")
        os.close(fd)
        layer = layers.commit(Path(scratch.upper), None)
        assert layer is not None
    blob = layers.blob(layer, ANY)
    with open(layers.store.open_blob(blob.digest), "rb") as packed:
        data = b"".join(decompress(iter([packed.read()])))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames()[-1] == "/".join(["directory"] * 600) + "/leaf"


# --- forms --------------------------------------------------------------------------------------


def test_a_blob_layer_is_not_unpacked_before_somebody_needs_it(layers: LayerStore) -> None:
    layer = layers.create([folder("p"), file("p/lazy", b"lazy bytes")], "blob")
    assert layers.available(layer)
    assert not layers.has_directory(layer)
    view = RootView(layers, Chain.of((layer,)))
    stat = view.stat("p/lazy")
    assert stat is not None
    assert stat.size == 10
    assert [name for name, _ in view.list("p")] == ["lazy"]
    assert not layers.has_directory(layer)
    assert view.read_file("/p/lazy", 100) == b"lazy bytes"
    assert layers.has_directory(layer)


def test_a_damaged_directory_is_not_packed(layers: LayerStore) -> None:
    layer = layers.create([file("damaged", b"before")], "directory")
    (layers.ensure_directory(layer) / "damaged").write_bytes(b"after!")
    with pytest.raises(StoreCorrupt, match="no longer has the bytes"):
        layers.blob(layer, ANY)


def test_an_unknown_layer_says_so(layers: LayerStore) -> None:
    layer = Layer(Digest("sha256:" + "0" * 64), 1)
    assert not layers.available(layer)
    with pytest.raises(StoreCorrupt, match="no form of layer"):
        layers.ensure_directory(layer)


def test_a_blob_is_checked_while_it_is_taken_in(layers: LayerStore) -> None:
    packer = compressor(ANY)
    tar = bytes(1024) + b"some bytes after the end"
    data = packer.compress(tar) + packer.flush()
    digest, plain = sha256_digest(data), sha256_digest(tar)
    wrong = Digest("sha256:" + "1" * 64)
    with pytest.raises(InputError, match=f"(?s){digest}.*"):
        layers.import_blob(plain, wrong, len(data), lambda: iter([data]))
    with pytest.raises(InputError, match="unpacks to"):
        layers.import_blob(wrong, digest, len(data), lambda: iter([data]))
    with pytest.raises(InputError, match="more than its"):
        layers.import_blob(plain, digest, len(data) - 1, lambda: iter([data]))
    with pytest.raises(InputError, match="bytes of digest"):
        layers.import_blob(plain, digest, len(data) + 1, lambda: iter([data]))
    assert not layers.store.has_blob(digest)
    layer = layers.import_blob(plain, digest, len(data), lambda: iter([data]))
    assert layer == Layer(plain, len(tar))

    def never() -> Iterator[bytes]:
        raise AssertionError("it was verified before")

    assert layers.import_blob(plain, digest, len(data), never) == layer


def test_a_foreign_blob_leaves_as_it_came(layers: LayerStore) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        tar.addfile(tarfile.TarInfo("f"))
    data = buffer.getvalue()
    plain = b"".join(decompress(iter([data])))
    made = layers.import_blob(
        sha256_digest(plain), sha256_digest(data), len(data), lambda: iter([data])
    )
    assert layers.blob(made, ANY).digest == sha256_digest(data)
    forced = layers.blob(made, ANY, force=True)
    assert forced.media_type.endswith("+gzip")
    with open(layers.store.open_blob(forced.digest), "rb") as source:
        assert b"".join(decompress(source)) == plain


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_zeros_that_pack_a_thousandfold_are_no_bomb_of_our_own(
    layers: LayerStore, other: LayerStore, name: str
) -> None:
    zeros = file("zeros", bytes(80 << 20))
    form = Compression(name)  # type: ignore[arg-type]
    made = layers.create([zeros], "blob", form)
    assert (layers.ensure_directory(made) / "zeros").stat().st_size == 80 << 20
    blob = layers.blob(made, form)
    data = Path(layers.store.blob_path(blob.digest)).read_bytes()
    if name == "zstd":  # from outside nobody can tell it from an attack
        with pytest.raises(InputError, match="grows more than"):
            other.import_blob(made.diff_id, blob.digest, blob.size, lambda: iter([data]))


def test_a_layer_from_outside_has_a_cap(layers: LayerStore) -> None:
    made = layers.create([file("capped", bytes(5000))], "blob")
    blob = layers.blob(made, ANY)
    data = Path(layers.store.blob_path(blob.digest)).read_bytes()
    with Store.open(layers.store.root + "-capped") as store:
        small = LayerStore(store, overlay="user", cap=made.size - 1)
        with pytest.raises(InputError, match="more than"):
            small.import_blob(made.diff_id, blob.digest, blob.size, lambda: iter([data]))


def test_a_damaged_blob_of_the_store_is_corruption(layers: LayerStore) -> None:
    made = layers.create([file("rotten", os.urandom(9000))], "blob")
    path = Path(layers.store.blob_path(layers.blob(made, ANY).digest))
    data = bytearray(path.read_bytes())
    data[4000] ^= 1
    os.chmod(path, 0o600)
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        layers.ensure_directory(made)


def test_two_threads_unpack_a_layer_once(layers: LayerStore) -> None:
    layer = layers.create([file(f"t{n}", bytes([n]) * 5000) for n in range(200)], "blob")
    places: list[Path] = []
    threads = [
        threading.Thread(target=lambda: places.append(layers.ensure_directory(layer)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(places) == 4
    assert len(set(places)) == 1


@pytest.mark.skipif(not ROOT, reason="gives files to root")
def test_parents_come_from_below_or_are_plain(layers: LayerStore) -> None:
    lower = layers.create([folder("tmp", 0o1777), file("etc")])
    view = RootView(layers, Chain.of((lower,)))
    made = with_parents([file("tmp/x/f"), file("etc/y")], view)
    assert {entry.path: entry.mode for entry in made if entry.kind is Kind.DIR} == {
        "tmp": 0o1777,
        "tmp/x": 0o755,
        "etc": 0o755,
    }
    assert layers.create(made) == layers.create(with_parents(reversed(made), view))


_PROGRAM = """
import sys, threading, random, time
sys.path[:0] = {path!r}
sys.setswitchinterval(random.choice([1e-5, 1e-3, 5e-2]))
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.compress import Compression
from buildgraph.oci.layers import LayerStore
from buildgraph_cache.store import Store
names = {{f"n{{n}}" for n in range(500)}}
entries = [Entry(n, Kind.FILE, 0o644, {uid}, {gid}, 9000, content=(n * 9000).encode()[:9000])
           for n in names]
with Store.open({root!r}) as store:
    layers = LayerStore(store, overlay="user")
    layer = layers.create(entries, sys.argv[1])
    print(layer.diff_id, layers.blob(layer, Compression()).digest,
          layers.blob(layer, Compression("zstd", 5)).digest)
"""


def test_threads_and_hash_seeds_do_not_show_in_digests(tmp_path: Path) -> None:
    seen = set()
    path = [entry for entry in sys.path if entry]
    for seed in range(4):
        program = _PROGRAM.format(path=path, root=str(tmp_path / str(seed)), uid=ME[0], gid=ME[1])
        done = subprocess.run(
            [sys.executable, "-c", program, ["blob", "directory"][seed % 2]],
            env={"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1
