"""Other people's programs read what we write and write what we read."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildgraph.filetree import Entry, Kind
from buildgraph.oci.archive import write_docker_archive, write_oci_archive
from buildgraph.oci.compress import Compression
from buildgraph.oci.dirtree import overlay_namespace
from buildgraph.oci.export import export_tar
from buildgraph.oci.image import write_image
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.layout import LayoutWriter
from buildgraph.oci.load import load_image
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Chain, Image, ImageConfig, Platform
from buildgraph_cache.store import Store

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        os.geteuid() != 0 or overlay_namespace() != "trusted",
        reason="machine: needs root outside a user namespace",
    ),
]
AMD64 = Platform("linux", "amd64")
NAME = parse_reference("registry.example/peers:1")
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"machine: {program} is not installed")
    return found


def run(*command: str | Path, **more: Any) -> str:
    done = subprocess.run(
        [need(str(command[0])), *map(str, command[1:])],
        capture_output=True,
        text=True,
        check=False,
        **more,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return str(done.stdout)


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


def folder(path: str, mode: int = 0o755, **more: Any) -> Entry:
    return Entry(path, Kind.DIR, mode, **more)


LOW = [
    folder("d"), file("d/a", b"a" * 70_000), file("d/gone"), folder("old"), file("old/x"),
    folder("tmp", 0o1777), folder("hidden"), file("hidden/y"),
]  # fmt: skip
LONG = "/".join(["directory-" + "x" * 80] * 4)
HIGH = [
    folder("d", 0o700, mtime=7),
    Entry("d/gone", Kind.CHAR, 0),
    Entry("old", Kind.CHAR, 0),
    file("d/setuid", b"#!", 0o4755, uid=1, gid=2),
    Entry("d/hard", Kind.HARDLINK, 0, link="d/setuid"),
    file("big-id", uid=3_000_000, gid=2_999_999, mtime=-86_400),
    file("caps", b"x", 0o755, xattrs=(("security.capability", NET_RAW), ("user.n", b"\0\xff"))),
    Entry("l", Kind.SYMLINK, 0o777, 5, 6, link="/d/" + "t" * 200),
    Entry("null", Kind.CHAR, 0o666, rdev=os.makedev(1, 3)),
    Entry("pipe", Kind.FIFO, 0o640, 3, 4),
    file("smörgås\n"),
    file("bytes-\udcff"),
    file("n" * 255),
    *(folder(LONG[:at]) for at in [*(i for i, c in enumerate(LONG) if c == "/"), len(LONG)]),
    file(LONG + "/leaf", b"deep"),
]
ABSENT = {"d/gone", "old", "old/x"}


def image(layers: LayerStore) -> Image:
    chain = Chain.of((layers.create(LOW), layers.create(HIGH, "blob")))
    config = ImageConfig(
        AMD64,
        env=(("A", "1"),),
        entrypoint=("/bin/app",),
        cmd=("x",),
        labels=(("k", "v"),),
        exposed_ports=("80/tcp",),
        working_dir="/d",
        user="1:2",
    )
    return Image(config, chain)


def seen(root: Path) -> dict[bytes, tuple[Any, ...]]:
    out: dict[bytes, tuple[Any, ...]] = {}
    links: dict[int, bytes] = {}
    for base, folders, files in os.walk(os.fsencode(root)):
        for name in sorted([*folders, *files]):
            path = os.path.join(base, name)
            short = os.path.relpath(path, os.fsencode(root))
            st = os.lstat(path)
            data = b""
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as source:
                    data = source.read()
            elif stat.S_ISLNK(st.st_mode):
                data = os.readlink(path)
            attributes: list[tuple[str, bytes]] = []
            if not stat.S_ISLNK(st.st_mode):
                attributes = sorted(
                    (key, os.getxattr(path, key))
                    for key in os.listxattr(path)
                    if key.startswith(("user.n", "security.cap"))
                )
            first = links.setdefault(st.st_ino, short) if st.st_nlink > 1 and not folders else b""
            when = int(st.st_mtime) if stat.S_ISREG(st.st_mode) else 0
            out[short] = (
                st.st_mode, st.st_uid, st.st_gid, st.st_rdev, when, data, attributes,
                bool(first) and stat.S_ISREG(st.st_mode) and st.st_nlink,
            )  # fmt: skip
    return out


def ours(layers: LayerStore, made: Image, place: Path) -> dict[bytes, tuple[Any, ...]]:
    """The same root as we would unpack it: our flat tar, taken apart by GNU tar."""
    place.mkdir()
    export_tar(RootView(layers, made.chain), place.with_suffix(".tar"))
    run(
        "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf",
        place.with_suffix(".tar"), "-C", place,
    )  # fmt: skip
    return seen(place)


@pytest.mark.parametrize("compression", ["gzip", "uncompressed"])
def test_umoci_unpacks_what_we_mean(layers: LayerStore, tmp_path: Path, compression: Any) -> None:
    made = image(layers)
    result = write_image(made, layers, Compression(compression))
    LayoutWriter(layers.store, tmp_path / "oci").write(result.artifact, [NAME])
    run("umoci", "unpack", "--image", f"{tmp_path}/oci:1", tmp_path / "bundle")
    found = seen(tmp_path / "bundle/rootfs")
    wanted = ours(layers, made, tmp_path / "ours")
    assert found.keys() == wanted.keys()
    assert not {os.fsencode(path) for path in ABSENT} & found.keys()
    for path in wanted:
        assert found[path] == wanted[path], path
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    assert config["process"]["args"] == ["/bin/app", "x"]
    assert (config["process"]["user"]["uid"], config["process"]["cwd"]) == (1, "/d")


def test_gnu_tar_restores_our_flat_tar(layers: LayerStore, tmp_path: Path) -> None:
    found = ours(layers, image(layers), tmp_path / "ours")
    mode, uid, gid, rdev, when, data, attributes, links = found[b"caps"]
    assert (mode, data, when) == (stat.S_IFREG | 0o755, b"x", 315_532_800)
    assert attributes == [("security.capability", NET_RAW), ("user.n", b"\0\xff")]
    assert (uid, gid, rdev, links) == (0, 0, 0, False)
    assert found[b"big-id"][1:5] == (3_000_000, 2_999_999, 0, -86_400)
    assert found[b"d/hard"] == found[b"d/setuid"]
    assert found[b"d/hard"][-1] == 2
    assert found[b"null"][3] == os.makedev(1, 3)
    assert b"bytes-\xff" in found
    assert b"n" * 255 in found
    assert found[os.fsencode(LONG + "/leaf")][5] == b"deep"


def test_a_layer_read_by_tar_says_nothing(layers: LayerStore, tmp_path: Path) -> None:
    blob = layers.blob(image(layers).chain.layers[1], Compression("uncompressed"))
    done = subprocess.run(
        ["tar", "-tvf", layers.store.blob_path(blob.digest)],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stderr == b"", "no warning: no unknown record, no missing end"
    assert done.stdout.count(b"\n") == len(HIGH)


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_skopeo_reads_every_output(layers: LayerStore, tmp_path: Path, kind: str) -> None:
    made = image(layers)
    result = write_image(made, layers, Compression())
    dest = tmp_path / "out"
    if kind == "oci":
        LayoutWriter(layers.store, dest).write(result.artifact, [NAME])
    elif kind == "oci-archive":
        write_oci_archive(result.artifact, layers, dest, [NAME])
    else:
        write_docker_archive(made, layers, dest, [NAME])
    suffix = f":{NAME}" if kind == "docker-archive" else ":1"
    config = json.loads(run("skopeo", "inspect", "--config", f"{kind}:{dest}{suffix}"))
    assert config["config"]["Entrypoint"] == ["/bin/app"]
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in made.chain.layers]
    # copying makes skopeo check every digest and, decompressing, every diff_id
    run("skopeo", "copy", "--insecure-policy", f"{kind}:{dest}{suffix}", f"oci:{tmp_path}/copied:1")
    if kind != "docker-archive":
        inspected = json.loads(run("skopeo", "inspect", f"{kind}:{dest}{suffix}"))
        assert inspected["Digest"] == result.digest


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_we_load_what_skopeo_writes(
    layers: LayerStore, other: LayerStore, tmp_path: Path, form: str
) -> None:
    made = image(layers)
    write_oci_archive(
        write_image(made, layers, Compression()).artifact, layers, tmp_path / "a", [NAME]
    )
    run(
        "skopeo", "copy", "--insecure-policy", "--dest-compress-format", form,
        f"oci-archive:{tmp_path}/a:1", f"oci:{tmp_path}/b:1",
    )  # fmt: skip
    loaded = load_image(tmp_path / "b", "1", AMD64, other)
    assert loaded.image == made
    place = other.ensure_directory(loaded.image.chain.layers[1])
    assert (place / "d/setuid").stat().st_mode == stat.S_IFREG | 0o4755


def test_we_load_what_umoci_writes(other: LayerStore, tmp_path: Path) -> None:
    oci = tmp_path / "oci"
    run("umoci", "init", "--layout", oci)
    run("umoci", "new", "--image", f"{oci}:x")
    run("umoci", "unpack", "--image", f"{oci}:x", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    (root / "d").mkdir()
    (root / "d/f").write_bytes(b"umoci")
    os.link(root / "d/f", root / "d/g")
    os.chown(root / "d/f", 7, 8)
    os.setxattr(root / "d/f", "security.capability", NET_RAW)
    run("umoci", "repack", "--image", f"{oci}:x", tmp_path / "bundle")
    run("umoci", "unpack", "--image", f"{oci}:x", tmp_path / "bundle2")
    (tmp_path / "bundle2/rootfs/d/g").unlink()
    run("umoci", "repack", "--image", f"{oci}:x", tmp_path / "bundle2")
    loaded = load_image(oci, "x", AMD64, other)
    view = RootView(other, loaded.image.chain)
    assert [name for name, _ in view.list("d")] == ["f"]
    found = view.stat("d/f")
    assert found is not None
    assert (found.uid, found.gid, found.size) == (7, 8, 5)
    assert view.xattrs("d/f") == (("security.capability", NET_RAW),)
    assert view.read_file("/d/f", 10) == b"umoci"


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_buildah_sees_the_same_root(
    layers: LayerStore, tmp_path: Path, kind: str, compression: Any
) -> None:
    made = image(layers)
    result = write_image(made, layers, Compression(compression))
    dest = tmp_path / "out"
    if kind == "oci":
        LayoutWriter(layers.store, dest).write(result.artifact, [NAME])
    elif kind == "oci-archive":
        write_oci_archive(result.artifact, layers, dest, [NAME])
    else:
        write_docker_archive(made, layers, dest, [NAME], Compression(compression))
    tool = (
        "buildah",
        "--root",
        tmp_path / "b",
        "--runroot",
        tmp_path / "r",
        "--storage-driver",
        "vfs",
    )
    suffix = f":{NAME}" if kind == "docker-archive" else ":1"
    name = run(*tool, "from", "--pull", f"{kind}:{dest}{suffix}").strip()
    found = seen(Path(run(*tool, "mount", name).strip()))
    wanted = ours(layers, made, tmp_path / "ours")
    assert found.keys() == wanted.keys()
    for path, entry in wanted.items():
        mine, theirs = list(entry), list(found[path])
        if not stat.S_ISREG(mine[0]):
            mine[6] = theirs[6] = None
        mine[4] = max(mine[4], 0)  # containers/storage has no times before 1970
        assert theirs == mine, path
    run(*tool, "rm", name)


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Return the client's command line for a daemon of our own, without a network."""
    need("docker")
    top = Path(tempfile.mkdtemp(prefix="dk", dir="/tmp"))  # a socket's path has 108 bytes
    client = ("docker", "-H", f"unix://{top}/s")
    command = [
        need("dockerd"), "--data-root", top / "data", "--exec-root", top / "exec",
        "-H", f"unix://{top}/s", "-p", top / "pid", "--storage-driver", "vfs",
        "--bridge", "none", "--iptables=false", "--ip6tables=false",
    ]  # fmt: skip
    with open(tmp_path / "dockerd.log", "wb") as log:
        daemon = subprocess.Popen([*map(str, command)], stdout=log, stderr=log)
        try:
            until = time.monotonic() + 20
            while subprocess.run([*client, "info"], capture_output=True, check=False).returncode:
                if daemon.poll() is not None or time.monotonic() > until:
                    pytest.skip("machine: a docker daemon does not start here")
                time.sleep(0.2)
            yield client
        finally:
            daemon.terminate()
            daemon.wait(30)
            shutil.rmtree(top, ignore_errors=True)


@pytest.mark.parametrize("compression", ["gzip", "uncompressed"])
def test_docker_loads_our_archive(
    layers: LayerStore, tmp_path: Path, docker: tuple[str, ...], compression: Any
) -> None:
    made = image(layers)
    result = write_docker_archive(
        made, layers, tmp_path / "d.tar", [NAME], Compression(compression)
    )
    run(*docker, "load", "-i", tmp_path / "d.tar")
    (found,) = json.loads(run(*docker, "image", "inspect", str(NAME)))
    assert found["Id"] in (result.config_digest, result.digest)
    assert found["Config"]["Entrypoint"] == ["/bin/app"]
    assert found["RootFS"]["Layers"] == [layer.diff_id for layer in made.chain.layers]
