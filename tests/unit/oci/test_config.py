"""Documents of the image specification, both ways, and the ones that lie."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.oci.config import (
    config_json,
    image_index,
    image_manifest,
    parse_config,
    parse_index,
    parse_manifest,
)
from buildgraph.oci.documents import load_document
from buildgraph.oci.types import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER,
    MEDIA_MANIFEST,
    Descriptor,
    Healthcheck,
    HistoryEntry,
    ImageConfig,
    Platform,
)
from buildgraph_cache.digest import Digest

AMD64 = Platform("linux", "amd64")
ONE = Digest("sha256:" + "1" * 64)
TWO = Digest("sha256:" + "2" * 64)
FULL = ImageConfig(
    platform=Platform("linux", "arm64", "v8"),
    env=(("PATH", "/bin"), ("B", "x=y"), ("A", "")),
    entrypoint=("/e", "ü"),
    cmd=("c",),
    user="1:2",
    working_dir="/w",
    labels=(("a", "1"), ("b", '"}{<\n')),
    exposed_ports=("80/tcp",),
    volumes=("/v",),
    stop_signal="SIGINT",
    shell=("/bin/sh", "-c"),
    healthcheck=Healthcheck(("CMD", "true"), 1, 2, 3, 4, 5),
    on_build=("RUN x",),
    author="me",
    created="1980-01-01T00:00:00Z",
    history=(HistoryEntry("RUN x", False, "1980-01-01T00:00:00Z"), HistoryEntry("CMD", True)),
    os_version="1",
)


def test_a_config_comes_back() -> None:
    data = config_json(FULL, [ONE, TWO])
    assert parse_config(data) == (FULL, (ONE, TWO))
    assert config_json(*parse_config(data)) == data


def test_nothing_empty_is_written_and_keys_are_sorted() -> None:
    data = config_json(ImageConfig(AMD64), [])
    assert data == (
        b'{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[],"type":"layers"}}'
    )


def test_an_old_image_without_a_system_comes_back() -> None:
    old = ImageConfig(platform=Platform("", ""))
    assert parse_config(config_json(old, [ONE]))[0] == old


def test_labels_have_no_order() -> None:
    turned = replace(FULL, labels=FULL.labels[::-1])
    assert config_json(turned, []) == config_json(FULL, [])


def test_names_are_those_docker_reads() -> None:
    value = json.loads(config_json(FULL, [ONE]))
    assert value["config"]["Env"] == ["PATH=/bin", "B=x=y", "A="]
    assert value["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert value["config"]["Healthcheck"]["StartPeriod"] == 3
    assert value["history"][1] == {"created_by": "CMD", "empty_layer": True}
    assert value["variant"] == "v8"


def test_bytes_that_are_no_utf8_do_not_break_the_document() -> None:
    data = config_json(ImageConfig(AMD64, env=(("A", "\udcff"),)), [])
    assert json.loads(data)["config"]["Env"] == ["A=�"]


_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@given(
    st.lists(st.tuples(st.text("AB_", min_size=1, max_size=3), _TEXT), max_size=3),
    st.dictionaries(_TEXT, _TEXT, max_size=3),
    st.one_of(st.none(), st.lists(_TEXT, min_size=1, max_size=3)),
)
def test_any_text_comes_back(
    env: list[tuple[str, str]], labels: dict[str, str], cmd: list[str] | None
) -> None:
    config = ImageConfig(
        AMD64,
        env=tuple(env),
        labels=tuple(sorted(labels.items())),
        cmd=tuple(cmd) if cmd is not None else None,
    )
    assert parse_config(config_json(config, [])) == (config, ())


MINIMAL: dict[str, Any] = {
    "os": "linux",
    "architecture": "amd64",
    "rootfs": {"type": "layers", "diff_ids": []},
}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"os": None}, "os is not a string"),
        ({"architecture": 5}, "architecture is not a string"),
        ({"rootfs": None}, "rootfs: type is not"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:12"]}}, "not a sha256 digest"),
        ({"rootfs": {"type": "layers", "diff_ids": ["../../etc"]}}, "not a sha256 digest"),
        ({"config": {"Env": "A=1"}}, r"Env is not a list of strings"),
        ({"config": {"Env": [1]}}, r"Env is not a list of strings"),
        ({"config": []}, "config is not an object"),
        ({"config": {"Labels": {"a": 1}}}, "Labels is not an object of strings"),
        ({"config": {"Healthcheck": {"Interval": -1}}}, "Interval is not a number"),
        ({"config": {"Healthcheck": {"Retries": True}}}, "Retries is not a number"),
        ({"history": [{"empty_layer": 1}]}, "empty_layer is not true or false"),
        ({"history": {}}, "history is not a list"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_config(json.dumps(MINIMAL | change).encode())


def test_null_is_absent() -> None:
    value = MINIMAL | {"config": {"Env": None, "Cmd": None, "Volumes": None}, "history": None}
    config, _ = parse_config(json.dumps(value).encode())
    assert config == ImageConfig(AMD64)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        (b'{"a":1,"a":2}', "a key twice"),
        (b'{"a":NaN}', "no JSON value"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (limits.MANIFEST_BYTES + 1), "more than"),
    ],
)
def test_documents_that_are_none(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        load_document(data, "thing")


# --- manifests ----------------------------------------------------------------------------------

CONFIG = Descriptor(MEDIA_CONFIG, ONE, 10)
LAYER = Descriptor(MEDIA_LAYER + "+gzip", TWO, 20, (("a", "b"),))


def test_a_manifest_comes_back() -> None:
    data = image_manifest(CONFIG, [LAYER], [("k", "v")])
    found = parse_manifest(data, MEDIA_MANIFEST)
    assert (found.config, found.layers, found.annotations) == (CONFIG, (LAYER,), (("k", "v"),))


def test_an_index_comes_back() -> None:
    entry = Descriptor(MEDIA_MANIFEST, ONE, 3, platform=Platform("linux", "arm", "v7"))
    data = image_index([entry], [("k", "v")])
    found = parse_index(data)
    assert (found.manifests, found.annotations) == ((entry,), (("k", "v"),))


def changed(data: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(data) | fields).encode()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"manifests": []}, "manifest and index at once"),
        ({"mediaType": DOCKER_MANIFEST}, "its reference says"),
        ({"mediaType": MEDIA_INDEX}, "its reference says"),
        ({"schemaVersion": 1}, "schemaVersion"),
        (
            {"config": {"mediaType": "application/x", "digest": ONE, "size": 1}},
            "not the config of an image",
        ),
        ({"config": {"mediaType": MEDIA_CONFIG, "digest": ONE, "size": -1}}, "size is not"),
        ({"config": {"mediaType": MEDIA_CONFIG, "digest": ONE, "size": 1.5}}, "size is not"),
        ({"config": {"mediaType": MEDIA_CONFIG, "digest": "../x", "size": 1}}, "not a sha256"),
        (
            {"config": {"mediaType": MEDIA_CONFIG, "digest": "sha999:" + "1" * 64, "size": 1}},
            "not a",
        ),
        ({"config": {"mediaType": MEDIA_CONFIG, "size": 1}}, "digest is not a string"),
        ({"layers": [{"mediaType": "text/plain", "digest": ONE, "size": 1}]}, "layer type"),
        ({"layers": ["x"]}, "list of objects"),
    ],
)
def test_manifests_that_lie(fields: dict[str, Any], why: str) -> None:
    data = changed(image_manifest(CONFIG, [LAYER]), **fields)
    with pytest.raises(InputError, match=why):
        parse_manifest(data, MEDIA_MANIFEST)


def test_a_manifest_under_the_name_of_an_index_is_refused() -> None:
    data = image_manifest(CONFIG, [LAYER])
    with pytest.raises(InputError, match="which it cannot be"):
        parse_manifest(data, DOCKER_INDEX)
    bare = changed(data, mediaType="")
    for media in (MEDIA_INDEX, DOCKER_INDEX):
        with pytest.raises(InputError, match="manifest and index at once"):
            parse_index(bare, media)
