"""What a registry may do to us, and how often we ask then: reliability R22-R26, A23-A29."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildgraph.errors import BuildFailed, BuildgraphError, HostError, InputError
from buildgraph.oci.image import Artifact
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.registry import push as push_module
from buildgraph.oci.registry.places import RegistrySetting
from buildgraph.oci.registry.push import Pusher
from buildgraph_cache.digest import Digest
from buildgraph_cache.store import Store
from unit.oci.registry_client import AMD64, CONFIG, LAYER, Here
from unit.oci.scripted_registry import (
    INDEX,
    MANIFEST,
    Registry,
    cut_body,
    forget,
    reset,
    serving,
    sha256,
    silent_put,
    status,
    swallow,
)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with Store.open(str(tmp_path / "store")) as store, store.lease():
        yield Here(store, LayerStore(store, overlay="user"), tmp_path)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Registry()) as running:
        yield running


def layer(name: str, size: int) -> tuple[bytes, str]:
    """Return a gzip layer with one file of random bytes, and its diff_id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = size
        archive.addfile(entry, io.BytesIO(os.urandom(size)))
    plain = buffer.getvalue()
    return gzip.compress(plain, 1, mtime=0), sha256(plain)


def image(registry: Registry, *sizes: int, **change: Any) -> list[str]:
    """Put an image into the registry as a/b:1; return the digests of its layers' blobs."""
    made = [layer(f"f{n}", size) for n, size in enumerate(sizes)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in made]},
        **change.pop("image", {}),
    }
    text = json.dumps(config).encode()
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": registry.add_blob(text), "size": len(text)},
        "layers": [
            {"mediaType": LAYER, "digest": registry.add_blob(b), "size": len(b)} for b, _ in made
        ],
        **change,
    }
    registry.add_manifest(value, "1")
    return [sha256(blob) for blob, _ in made]


# --- R22: cuts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 1000, 65_536, 250_000, 299_999])
def test_a_download_goes_on_where_it_was_cut(here: Here, registry: Registry, at: int) -> None:
    (blob,) = image(registry, 300_000)
    registry.fail("GET", f"blobs/{blob}", cut_body(at))
    here.pull(registry)
    asked = [a for a in registry.asked if blob in a.path]
    assert len(asked) == 2
    assert int((asked[1].headers.get("Range") or "bytes=0-")[6:-1]) == at
    assert here.clock.slept == [0.5]


def test_a_download_goes_on_in_the_next_command(here: Here, registry: Registry) -> None:
    (blob,) = image(registry, 3_000_000)
    registry.fail("GET", f"blobs/{blob}", cut_body(2_000_000))
    registry.fail("GET", f"blobs/{blob}", reset, times=9)
    with pytest.raises(HostError):
        here.pull(registry)
    registry.faults.clear()
    registry.asked.clear()
    here.pull(registry)
    (asked,) = [a for a in registry.asked if blob in a.path]
    assert int(asked.headers["Range"][6:-1]) > 1_000_000


def test_a_server_without_ranges_sends_all_again(here: Here, registry: Registry) -> None:
    registry.ranges = False
    (blob,) = image(registry, 300_000)
    registry.fail("GET", f"blobs/{blob}", cut_body(200_000))
    here.pull(registry)
    assert sum(blob in a.path for a in registry.asked) == 2


def test_layers_are_fetched_once_and_side_by_side(here: Here, registry: Registry) -> None:
    blobs = image(registry, 10, 20, 30)
    here.pull(registry)
    here.pull(registry)
    assert [sum(blob in a.path for a in registry.asked) for blob in blobs] == [1, 1, 1]
    # The second time only the tag is asked about.
    assert registry.lines("HEAD") == ["HEAD /v2/a/b/manifests/1"] * 2


# --- R23: statuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "calls"),
    [(408, 6), (429, 6), (500, 6), (502, 6), (503, 6), (504, 6), (400, 1), (501, 1), (403, 1)],
)
def test_how_often_a_manifest_is_asked_for(
    here: Here, registry: Registry, code: int, calls: int
) -> None:
    image(registry, 10)
    registry.fail("HEAD", "manifests", status(code), times=99)
    with pytest.raises(BuildgraphError):
        here.pull(registry)
    assert len(registry.lines("HEAD")) == calls
    assert here.clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0][: calls - 1]


def test_retry_after_is_honoured_up_to_a_minute(here: Here, registry: Registry) -> None:
    image(registry, 10)
    registry.fail("HEAD", "manifests", status(429, Retry_After="7"))
    here.pull(registry)
    assert here.clock.slept == [7.0]
    registry.fail("HEAD", "manifests", status(429, Retry_After="3600"), times=9)
    loaded = here.pull(registry)  # known already: an outage breaks nothing
    assert loaded.image.config.platform == AMD64
    assert here.clock.slept == [7.0]
    registry.fail("HEAD", "manifests/2", status(429, Retry_After="3600"))
    with pytest.raises(HostError) as failure:
        here.pull(registry, "a/b:2")
    assert "3600" in f"{failure.value} {failure.value.hint}"


def test_an_outage_does_not_matter_to_what_is_known(here: Here, registry: Registry) -> None:
    image(registry, 10)
    known = here.pull(registry)
    registry.fail("HEAD", ".", reset, times=99)
    registry.fail("GET", ".", reset, times=99)
    assert here.pull(registry).manifest == known.manifest


# --- R25: mirrors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(lambda m, b: m.fail("HEAD", ".", status(503), times=99), id="down"),
        pytest.param(lambda m, b: m.manifests.clear(), id="empty"),
        pytest.param(lambda m, b: m.blobs.pop(b), id="without the layer"),
        pytest.param(lambda m, b: m.blobs.update({b: b"x" * len(m.blobs[b])}), id="lying"),
        pytest.param(lambda m, b: m.blobs.update({b: m.blobs[b][:-1]}), id="short"),
    ],
)
def test_a_bad_mirror_costs_time_alone(
    here: Here, registry: Registry, trouble: Callable[[Registry, str], object]
) -> None:
    (blob,) = image(registry, 1000)
    with serving(Registry(dict(registry.blobs), dict(registry.manifests))) as mirror:
        trouble(mirror, blob)
        here.settings[registry.host] = RegistrySetting((f"http://{mirror.host}",))
        loaded = here.pull(registry)
        assert mirror.asked
    assert len(loaded.layers) == 1


def test_a_good_mirror_is_all_that_is_asked(here: Here, registry: Registry) -> None:
    image(registry, 1000)
    with serving(Registry(dict(registry.blobs), dict(registry.manifests))) as mirror:
        here.settings[registry.host] = RegistrySetting((f"http://{mirror.host}",))
        here.pull(registry)
    assert not registry.asked


def test_a_mirror_that_is_not_there(here: Here, registry: Registry) -> None:
    image(registry, 1000)
    here.settings[registry.host] = RegistrySetting(("http://127.0.0.1:1",))
    here.pull(registry)


# --- A23-A29: what they send ---------------------------------------------------------------------


def test_bytes_that_are_not_the_digests(here: Here, registry: Registry) -> None:
    (blob,) = image(registry, 1000)
    registry.blobs[blob] = b"y" * len(registry.blobs[blob])
    with pytest.raises(HostError, match=r"sha256:.*sha256:") as failure:
        here.pull(registry)
    assert blob in str(failure.value)
    assert not here.store.has_blob(Digest(blob))


def test_a_layer_that_is_not_its_diff_id(here: Here, registry: Registry) -> None:
    other = sha256(b"another")
    image(registry, 1000, image={"rootfs": {"type": "layers", "diff_ids": [other]}})
    with pytest.raises(InputError, match=other):
        here.pull(registry)
    assert not here.store.has_snapshot(other[7:])


def test_a_manifest_that_is_not_its_digest(here: Here, registry: Registry) -> None:
    image(registry, 1000)
    kind, data = registry.manifests["1"]
    registry.manifests[sha256(data)] = (kind, data + b" ")
    with pytest.raises(HostError, match="was promised"):
        here.pull(registry)
    with pytest.raises(HostError, match="was promised"):
        here.pull(registry, f"a/b@{sha256(data)}")


@pytest.mark.parametrize(
    "digest", ["../../x", "sha256:abc", "md5:" + "0" * 32, "sha256:" + "G" * 64]
)
def test_a_digest_is_a_digest(here: Here, registry: Registry, digest: str) -> None:
    image(registry, 10, layers=[{"mediaType": LAYER, "digest": digest, "size": 1}])
    with pytest.raises(InputError, match="digest"):
        here.pull(registry)
    registry.fail("HEAD", "manifests/2", status(200, Docker_Content_Digest=digest))
    registry.manifests["2"] = registry.manifests["1"]
    with pytest.raises(BuildgraphError):
        here.pull(registry, "a/b:2")


@pytest.mark.parametrize(
    "change",
    [
        {"manifests": []},
        {"mediaType": INDEX},
        {"schemaVersion": 1},
        {"layers": [{"mediaType": LAYER, "digest": "sha256:" + "0" * 64, "size": -1}]},
        {"layers": [{"mediaType": LAYER, "digest": "sha256:" + "0" * 64}]},
        {"layers": [{"mediaType": "text/html", "digest": "sha256:" + "0" * 64, "size": 1}]},
        {"layers": []},
        {"config": {"mediaType": "application/x", "digest": "sha256:" + "0" * 64, "size": 1}},
    ],
)
def test_manifests_that_are_none(here: Here, registry: Registry, change: dict[str, Any]) -> None:
    image(registry, 10, **change)
    with pytest.raises(BuildgraphError) as failure:
        here.pull(registry)
    assert failure.value.exit_code in (2, 3)


def test_a_manifest_of_40_mib(here: Here, registry: Registry) -> None:
    image(registry, 10, annotations={"a": "x" * (40 << 20)})
    with pytest.raises(HostError, match="longer than"):
        here.pull(registry)


def test_indexes_in_each_other(here: Here, registry: Registry) -> None:
    image(registry, 10)
    kind, data = registry.manifests["1"]
    for _ in range(8):
        entry = {"mediaType": kind, "digest": sha256(data), "size": len(data)}
        value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
        data = json.dumps(value).encode()
        kind = INDEX
        registry.add_manifest(data, "1", kind=INDEX)
    with pytest.raises(InputError, match="nested too deep"):
        here.pull(registry)


def test_schema_1_is_named(here: Here, registry: Registry) -> None:
    registry.add_manifest(
        {"schemaVersion": 1, "fsLayers": []},
        "1",
        kind="application/vnd.docker.distribution.manifest.v1+prettyjws",
    )
    with pytest.raises(InputError, match="schema 1"):
        here.pull(registry)


def test_a_platform_that_is_not_there_is_named(here: Here, registry: Registry) -> None:
    image(registry, 10)
    _, data = registry.manifests["1"]
    entries = [
        {
            "mediaType": MANIFEST,
            "digest": sha256(data),
            "size": len(data),
            "platform": {"os": "linux", "architecture": name},
        }
        for name in ("s390x", "riscv64")
    ]
    value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    registry.add_manifest(value, "1", kind=INDEX)
    with pytest.raises(InputError, match="no image for linux/amd64") as failure:
        here.pull(registry)
    assert "linux/riscv64, linux/s390x" in (failure.value.hint or "")


def test_a_foreign_layers_urls_are_never_asked(here: Here, registry: Registry) -> None:
    with serving(Registry()) as stranger:
        url = f"http://{stranger.host}/layer"
        entry = {"mediaType": LAYER, "digest": sha256(b"x"), "size": 1, "urls": [url]}
        image(registry, 10, layers=[entry])
        with pytest.raises(BuildgraphError):
            here.pull(registry)
    assert not stranger.asked


# --- pushing -------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "_WHOLE", 1000)
    monkeypatch.setattr(push_module, "_PIECE", 100_000)


def test_a_small_blob_goes_in_one_request(here: Here, registry: Registry) -> None:
    (pushed,) = here.push(registry, [b"config", b"layer"])
    assert pushed.state == "pushed"
    assert registry.manifests["1"]
    assert len(registry.lines("PATCH")) == 0
    assert len(registry.lines("POST")) == 2
    # the tag moves with the last request of all
    assert registry.lines()[-1] == "PUT /v2/a/b/manifests/1"


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("fault", [swallow(30_000), swallow(0), status(500), status(503), reset])
def test_an_upload_goes_on_where_it_was_cut(here: Here, registry: Registry, fault: Any) -> None:
    data = os.urandom(350_000)
    registry.fail("PATCH", "uploads", fault)
    here.push(registry, [b"config", data])
    assert registry.blobs[sha256(data)] == data
    sent = sum(a.size for a in registry.asked if a.method == "PATCH")
    assert sent <= 350_000 + 100_000
    assert "GET /v2/a/b/blobs/uploads/u" in " ".join(registry.lines("GET"))


@pytest.mark.usefixtures("small_pieces")
def test_an_upload_the_registry_forgot_begins_anew(here: Here, registry: Registry) -> None:
    data = os.urandom(350_000)
    registry.fail("PATCH", "uploads", forget)
    here.push(registry, [b"config", data])
    assert registry.blobs[sha256(data)] == data


def test_a_lost_answer_to_the_last_request(here: Here, registry: Registry) -> None:
    registry.fail("PUT", "blobs/uploads", silent_put)
    here.push(registry, [b"config", b"layer"])
    assert len(registry.lines("POST")) == 2


def test_a_push_that_fails_moves_no_tag(here: Here, registry: Registry) -> None:
    registry.fail("PUT", "blobs/uploads", status(403), times=9)
    with pytest.raises(HostError, match="does not let us push"):
        here.push(registry, [b"config", b"layer"])
    assert not registry.manifests


@pytest.mark.parametrize("at", range(9))
def test_a_push_cut_at_any_request_leaves_the_old_tag_or_the_new(
    here: Here, registry: Registry, at: int
) -> None:
    old = here.push(registry, [b"old config", b"old layer"])[0].digest
    count = [0]
    real = list(registry.faults)

    def act(handler: Any) -> None:
        count[0] += 1
        if count[0] > at:
            reset(handler)
            return
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        getattr(handler, f"on_{handler.command.lower()}")(None, body)

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH"):
        registry.fail(method, "a/b", act, times=999)
    new = here.artifact([b"new config", b"new layer"]).top.digest
    try:
        here.push(registry, [b"new config", b"new layer"])
    except HostError:
        pass
    registry.faults[:] = real
    assert sha256(registry.manifests["1"][1]) in (old, new)
    here.push(registry, [b"new config", b"new layer"])
    assert sha256(registry.manifests["1"][1]) == new


def test_what_to_do_with_a_tag_that_is_there(here: Here, registry: Registry) -> None:
    first = here.push(registry, [b"1", b"2"])[0].digest
    (left,) = here.push(registry, [b"3", b"4"], if_exists="skip")
    assert (left.state, left.digest) == ("left alone", first)
    with pytest.raises(BuildFailed, match="exists already"):
        here.push(registry, [b"3", b"4"], if_exists="fail")
    assert sha256(registry.manifests["1"][1]) == first
    (same,) = here.push(registry, [b"1", b"2"], if_exists="fail")
    assert same.state == "there already"
    (moved,) = here.push(registry, [b"3", b"4"])
    assert moved.state == "pushed"
    assert sha256(registry.manifests["1"][1]) != first


def test_a_blob_is_mounted_from_another_repository(here: Here, registry: Registry) -> None:
    here.push(registry, [b"config", b"layer"])
    registry.asked.clear()
    artifact = here.artifact([b"config", b"layer"])
    registry.fail("HEAD", "c/d/blobs", status(404), times=2)
    with here.registries() as registries:
        Pusher(registries, here.store).push(artifact, registry.host, "c/d", ("2",))
    posts = [a.path for a in registry.asked if a.method == "POST"]
    assert len(posts) == 2
    assert all("mount=sha256" in path and "from=a/b" in path for path in posts)
    assert not [a for a in registry.asked if a.method in ("PATCH",) or "uploads/u" in a.path]


def test_what_was_pulled_is_mounted_from_where_it_came(here: Here, registry: Registry) -> None:
    (blob,) = image(registry, 1000)
    loaded = here.pull(registry)
    registry.asked.clear()
    artifact = Artifact(loaded.manifest, (*loaded.layers, loaded.manifest))
    registry.fail("HEAD", "c/d/blobs", status(404))
    with here.registries() as registries:
        Pusher(registries, here.store).push(artifact, registry.host, "c/d", ("2",))
    (post,) = [a.path for a in registry.asked if a.method == "POST"]
    assert f"mount={blob}".replace(":", "%3A") in post.replace(":", "%3A")
    assert "from=a/b" in post


def test_our_own_damage_does_not_leave(here: Here, registry: Registry) -> None:
    artifact = here.artifact([b"config", b"layer of some bytes"])
    path = here.store.blob_path(artifact.blobs[1].digest)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.write(b"X")
    with here.registries() as registries, pytest.raises(BuildgraphError) as failure:
        Pusher(registries, here.store).push(artifact, registry.host, "a/b", ("1",))
    assert failure.value.exit_code == 4
    assert artifact.blobs[1].digest not in registry.blobs
