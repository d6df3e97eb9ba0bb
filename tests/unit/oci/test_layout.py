"""OCI layouts and archives: written for others, read from strangers."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from buildgraph.errors import HostError, InputError
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.archive import write_docker_archive, write_oci_archive
from buildgraph.oci.compress import Compression
from buildgraph.oci.config import image_index
from buildgraph.oci.image import ManifestResult, write_image, write_index
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.layout import IMAGE_NAME, REF_NAME, LayoutWriter, read_layout
from buildgraph.oci.load import load_image
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.types import MEDIA_INDEX, Chain, Descriptor, Image, ImageConfig, Platform
from buildgraph_cache.digest import hex_of, sha256_digest
from buildgraph_cache.store import Store

ME = (os.geteuid(), os.getegid())
AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
APP = parse_reference("registry.example/app:1")


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path / "store")) as store:
        yield LayerStore(store, overlay="user")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path / "elsewhere")) as store:
        yield LayerStore(store, overlay="user")


def image(layers: LayerStore, text: bytes = b"hello", platform: Platform = AMD64) -> Image:
    first = layers.create([Entry("base", Kind.FILE, 0o644, *ME, 4, content=b"base")])
    second = layers.create([Entry("f", Kind.FILE, 0o644, *ME, len(text), content=text)], "blob")
    return Image(ImageConfig(platform, cmd=("/f",)), Chain.of((first, second)))


def write(layers: LayerStore, dest: Path, text: bytes = b"hello", **more: Any) -> ManifestResult:
    result = write_image(image(layers, text), layers, Compression())
    LayoutWriter(layers.store, dest).write(result.artifact, more.get("names", ()))
    return result


# --- writing ------------------------------------------------------------------------------------


def test_a_layout_is_what_the_specification_says(layers: LayerStore, tmp_path: Path) -> None:
    result = write(layers, tmp_path / "out", names=[APP])
    out = tmp_path / "out"
    assert json.loads((out / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((out / "index.json").read_text())["manifests"]
    assert entry["annotations"] == {REF_NAME: "1", IMAGE_NAME: "registry.example/app:1"}
    assert entry["digest"] == result.digest
    for path in (out / "blobs/sha256").iterdir():
        assert hex_of(sha256_digest(path.read_bytes())) == path.name
        assert path.stat().st_nlink == 1, "a file of the store was given away"
    assert len(list((out / "blobs/sha256").iterdir())) == len(result.artifact.blobs) == 4
    assert sorted(os.listdir(tmp_path)) == ["out", "store"]


def test_other_names_and_blobs_stay(layers: LayerStore, tmp_path: Path) -> None:
    other = replace(APP, tag="2")
    first = write(layers, tmp_path / "out", b"1", names=[APP])
    second = write(layers, tmp_path / "out", b"2", names=[other, replace(APP, tag="3")])
    third = write(layers, tmp_path / "out", b"3", names=[other])
    fourth = write(layers, tmp_path / "out", b"4")
    assert fourth == write(layers, tmp_path / "out", b"4")
    found = [
        (dict(d.annotations).get(REF_NAME), d.digest)
        for d in read_layout(tmp_path / "out").manifests
    ]
    assert found == [
        ("1", first.digest),
        ("3", second.digest),
        ("2", third.digest),
        (None, fourth.digest),
    ]


def test_what_is_no_layout_is_left_alone(layers: LayerStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("x")
    with pytest.raises(InputError, match="not empty and no OCI layout"):
        write(layers, tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        write(layers, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    write(layers, tmp_path / "empty" / "deep" / "out")


def test_a_cut_blob_is_written_again(layers: LayerStore, tmp_path: Path) -> None:
    result = write(layers, tmp_path / "out")
    blob = tmp_path / "out/blobs/sha256" / hex_of(result.layers[0].digest)
    size = blob.stat().st_size
    blob.write_bytes(b"x")
    write(layers, tmp_path / "out")
    assert blob.stat().st_size == size


def test_an_archive_is_the_layout_as_a_tar(layers: LayerStore, tmp_path: Path) -> None:
    result = write(layers, tmp_path / "out", names=[APP])
    write_oci_archive(result.artifact, layers, tmp_path / "a.tar", [APP])
    buffer = io.BytesIO()
    with open(tmp_path / "b.tar", "w+b") as file:
        write_oci_archive(result.artifact, layers, file, [APP])
        file.seek(0)
        buffer.write(file.read())
    assert buffer.getvalue() == (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
    (tmp_path / "x").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "a.tar", "-C", tmp_path / "x"], check=True)
    assert names[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]
    assert names[4:] == sorted(names[4:])
    for name in ("index.json", "oci-layout"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "x/blobs/sha256")) == sorted(
        os.listdir(tmp_path / "out/blobs/sha256")
    )


@pytest.mark.parametrize("name", ["gzip", "uncompressed", "zstd"])
def test_a_docker_archive_leads_both_ways(layers: LayerStore, tmp_path: Path, name: Any) -> None:
    short = parse_reference("me/app")
    result = write_docker_archive(
        image(layers), layers, tmp_path / "d.tar", [APP, short], Compression(name)
    )
    with tarfile.open(tmp_path / "d.tar") as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = tar.extractfile(entry["Config"]).read()  # type: ignore[union-attr]
        for path, diff_id in zip(
            entry["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True
        ):
            data = tar.extractfile(path).read()  # type: ignore[union-attr]
            if name != "uncompressed":
                import gzip

                data = gzip.decompress(data)
            assert sha256_digest(data) == diff_id
        assert "index.json" in tar.getnames()
    assert entry["RepoTags"] == ["registry.example/app:1", "me/app:latest"]
    assert sha256_digest(config) == result.config_digest


def test_an_archive_that_fails_leaves_nothing(layers: LayerStore, tmp_path: Path) -> None:
    result = write_image(image(layers), layers, Compression())
    layers.store.remove_blob(result.layers[0].digest)
    (tmp_path / "o.tar").write_text("old")
    with pytest.raises((HostError, FileNotFoundError)):
        write_oci_archive(result.artifact, layers, tmp_path / "o.tar")
    assert (tmp_path / "o.tar").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["o.tar", "store"]
    with pytest.raises(InputError, match="is a directory"):
        write_oci_archive(result.artifact, layers, tmp_path)


def test_an_output_obeys_the_umask(layers: LayerStore, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        result = write(layers, tmp_path / "out")
        write_oci_archive(result.artifact, layers, tmp_path / "a.tar")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "a.tar").st_mode) == 0o640
    assert stat.S_IMODE(os.stat(tmp_path / "out").st_mode) == 0o750


# --- loading ------------------------------------------------------------------------------------


def test_an_image_comes_back(layers: LayerStore, elsewhere: LayerStore, tmp_path: Path) -> None:
    result = write(layers, tmp_path / "out", names=[APP])
    loaded = load_image(tmp_path / "out", "", AMD64, elsewhere)
    for selector in ("1", str(APP), str(result.digest)):
        loaded = load_image(tmp_path / "out", selector, AMD64, elsewhere)
        assert loaded.image == image(layers)
        assert loaded.layers == result.layers
    again = write_image(loaded.image, elsewhere, Compression("zstd"))
    assert again.digest == result.digest, "foreign layers keep their bytes"
    assert (elsewhere.ensure_directory(loaded.image.chain.layers[1]) / "f").read_bytes() == b"hello"


def test_platforms_are_chosen_from_an_index(
    layers: LayerStore, elsewhere: LayerStore, tmp_path: Path
) -> None:
    both = [write_image(image(layers, b"a", p), layers, Compression()) for p in (AMD64, ARM64)]
    LayoutWriter(layers.store, tmp_path / "out").write(write_index(both, layers), [APP])
    for platform, result in zip((AMD64, Platform("linux", "arm64", "v8")), both, strict=True):
        assert (
            load_image(tmp_path / "out", "1", platform, elsewhere).manifest.digest == result.digest
        )
    by_digest = load_image(tmp_path / "out", str(both[1].digest), AMD64, elsewhere)
    assert by_digest.image.config.platform == ARM64
    with pytest.raises(InputError, match="no image for linux/s390x") as error:
        load_image(tmp_path / "out", "1", Platform("linux", "s390x"), elsewhere)
    assert error.value.hint == "it has linux/amd64, linux/arm64"


def test_a_missing_name_is_told(layers: LayerStore, tmp_path: Path) -> None:
    write(layers, tmp_path / "out", names=[replace(APP, tag="runtime")])
    with pytest.raises(InputError, match="no image named 'runtimes'") as error:
        load_image(tmp_path / "out", "runtimes", AMD64, layers)
    assert error.value.hint == "did you mean 'runtime'?"
    with pytest.raises(InputError, match="has no image sha256:0"):
        load_image(tmp_path / "out", "sha256:" + "0" * 64, AMD64, layers)
    write(layers, tmp_path / "out", b"2", names=[replace(APP, tag="x")])
    with pytest.raises(InputError, match="say which"):
        load_image(tmp_path / "out", "", AMD64, layers)


def tamper_layer(out: Path, result: ManifestResult) -> None:
    path = out / "blobs/sha256" / hex_of(result.layers[1].digest)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def tamper_config(out: Path, result: ManifestResult) -> None:
    path = out / "blobs/sha256" / hex_of(result.config_digest)
    path.write_bytes(path.read_bytes().replace(b"linux", b"l1nux"))


def remove_layer(out: Path, result: ManifestResult) -> None:
    (out / "blobs/sha256" / hex_of(result.layers[0].digest)).unlink()


def no_layout(out: Path, _: ManifestResult) -> None:
    (out / "oci-layout").unlink()


def future(out: Path, _: ManifestResult) -> None:
    (out / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')


def grow_layer(out: Path, result: ManifestResult) -> None:
    with open(out / "blobs/sha256" / hex_of(result.layers[1].digest), "ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (tamper_layer, "bytes of digest|damaged"),
        (tamper_config, "bytes of digest"),
        (remove_layer, "No such file"),
        (no_layout, "oci-layout: No such file"),
        (future, "imageLayoutVersion"),
        (grow_layer, "more than its|damaged"),
    ],
)
def test_a_damaged_layout_is_refused(
    layers: LayerStore,
    elsewhere: LayerStore,
    tmp_path: Path,
    harm: Callable[[Path, ManifestResult], None],
    why: str,
) -> None:
    result = write(layers, tmp_path / "out")
    harm(tmp_path / "out", result)
    with pytest.raises(InputError, match=why):
        load_image(tmp_path / "out", "", AMD64, elsewhere)
    kept = [elsewhere.available(layer) for layer in image(layers).chain.layers]
    assert not all(kept)


def test_diff_ids_that_are_not_the_layers_are_refused(
    layers: LayerStore, elsewhere: LayerStore, tmp_path: Path
) -> None:
    one = image(layers)
    swapped = Image(one.config, Chain.of(one.chain.layers[::-1]))
    honest = write_image(one, layers, Compression())
    liar = write_image(swapped, layers, Compression())
    out = tmp_path / "out"
    # the manifest of one with the config of the other
    from buildgraph.oci.config import image_manifest
    from buildgraph.oci.image import Artifact
    from buildgraph.oci.types import MEDIA_MANIFEST

    data = image_manifest(liar.config, honest.layers)
    top = Descriptor(MEDIA_MANIFEST, layers.store.put_blob(data), len(data))
    LayoutWriter(layers.store, out).write(Artifact(top, (*honest.layers, liar.config, top)))
    with pytest.raises(InputError, match="unpacks to .* but the image's config says"):
        load_image(out, "", AMD64, elsewhere)


def test_indexes_nested_without_end_are_refused(layers: LayerStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(layers, out)
    data = (out / "index.json").read_bytes()
    for _ in range(8):
        name = sha256_digest(data)
        (out / "blobs/sha256" / hex_of(name)).write_bytes(data)
        data = image_index([Descriptor(MEDIA_INDEX, name, len(data))])
    (out / "index.json").write_bytes(data)
    with pytest.raises(InputError, match="nested too deep"):
        load_image(out, "", AMD64, layers)


def test_a_layout_does_not_lead_outside(layers: LayerStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(layers, out)
    (tmp_path / "secret").write_bytes((out / "index.json").read_bytes())
    (out / "index.json").unlink()
    (out / "index.json").symlink_to("../secret")
    with pytest.raises(InputError):
        load_image(out, "", AMD64, layers)
    (out / "index.json").unlink()
    os.mkfifo(out / "index.json")
    with pytest.raises(InputError):
        load_image(out, "", AMD64, layers)
