"""Artifacts that refer to an image: by a registry's own account of them, and by the tag that
clients keep where it has none.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildgraph.errors import HostError, InputError
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.registry.referrers import Attachment, Referrer, Referrers, fallback_tag
from buildgraph.oci.types import Descriptor
from buildgraph_cache.digest import Digest
from buildgraph_cache.store import Store
from unit.oci.registry_client import Here
from unit.oci.scripted_registry import INDEX, MANIFEST, Registry, serving, sha256, status

SUBJECT = Descriptor(MANIFEST, Digest("sha256:" + "a" * 64), 7)
SBOM, SIGNATURE = "application/spdx+json", "application/vnd.example.signature"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with Store.open(str(tmp_path / "store")) as store, store.lease():
        yield Here(store, LayerStore(store, overlay="user"), tmp_path)


@pytest.fixture(params=[True, False], ids=["account", "tag"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with serving(Registry(referrers=request.param)) as running:
        yield running


@pytest.fixture
def plain() -> Iterator[Registry]:
    """Run a registry that keeps no account."""
    with serving(Registry(referrers=False)) as running:
        yield running


def attach(here: Here, registry: Registry, kind: str, text: str, **notes: str) -> Referrer:
    data = text.encode()
    blob = Descriptor(kind, here.store.put_blob(data), len(data))
    what = Attachment(kind, (blob,), tuple(sorted(notes.items())))
    with here.registries() as registries:
        return Referrers(registries, here.store).attach(registry.host, "a/b", SUBJECT, what)


def find(here: Here, registry: Registry, kind: str = "") -> list[Referrer]:
    with here.registries() as registries:
        found = Referrers(registries, here.store).find(registry.host, "a/b", SUBJECT.digest, kind)
        return sorted(found, key=lambda one: one.digest)


def test_what_is_attached_is_found(here: Here, registry: Registry) -> None:
    assert find(here, registry) == []
    one = attach(here, registry, SBOM, "packages", made="1980")
    two = attach(here, registry, SIGNATURE, "signed")
    assert find(here, registry) == sorted([one, two], key=lambda r: r.digest)
    assert find(here, registry, SBOM) == [one]
    assert find(here, registry, "application/none") == []
    manifest = json.loads(registry.manifests[one.digest][1])
    assert manifest["artifactType"] == SBOM
    assert manifest["subject"] == {"mediaType": MANIFEST, "digest": SUBJECT.digest, "size": 7}
    assert manifest["annotations"] == {"made": "1980"}
    assert registry.blobs[manifest["layers"][0]["digest"]] == b"packages"
    assert registry.blobs[manifest["config"]["digest"]] == b"{}"
    assert (fallback_tag(SUBJECT.digest) in registry.manifests) is not registry.referrers


def test_attaching_again_changes_nothing(here: Here, registry: Registry) -> None:
    first = attach(here, registry, SBOM, "packages")
    before = dict(registry.manifests)
    assert attach(here, registry, SBOM, "packages") == first
    assert registry.manifests == before
    assert find(here, registry) == [first]


def test_an_artifact_without_blobs_has_the_empty_one(here: Here, registry: Registry) -> None:
    with here.registries() as registries:
        found = Referrers(registries, here.store).attach(
            registry.host, "a/b", SUBJECT, Attachment(SBOM, annotations=(("a", "b"),))
        )
    (layer,) = json.loads(registry.manifests[found.digest][1])["layers"]
    assert layer["size"] == 2


def test_an_account_of_many_pages(here: Here) -> None:
    with serving(Registry(page=2)) as registry:
        made = [attach(here, registry, SBOM, str(n)) for n in range(5)]
        assert find(here, registry) == sorted(made, key=lambda r: r.digest)
        asked = [line for line in registry.lines("GET") if "referrers" in line]
        assert len(asked) == 3


def test_a_page_elsewhere_is_not_read(here: Here) -> None:
    with serving(Registry()) as registry:
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
        elsewhere = status(200, body, Content_Type=INDEX, Link='<http://127.0.0.2:1/x>; rel="next"')
        registry.fail("GET", "referrers", elsewhere)
        with pytest.raises(InputError, match="goes on at another server"):
            find(here, registry)


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"<html>", "text/html"), (b"{}", "application/json")]
)
def test_a_page_for_people_is_no_account(
    here: Here, plain: Registry, answer: bytes, kind: str
) -> None:
    one = attach(here, plain, SBOM, "packages")
    plain.fail("GET", "referrers", status(200, answer, Content_Type=kind), times=9)
    assert find(here, plain) == [one]


def test_what_others_entered_stays_as_it_is(here: Here, plain: Registry) -> None:
    other = {
        "mediaType": MANIFEST,
        "digest": plain.add_manifest({"b": 1}),
        "size": 3,
        "artifactType": "x/y",
        "platform": {"os": "linux", "architecture": "arm64"},
        "org.example": [1, 2],
    }
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [other],
        "annotations": {"k": "v"},
    }
    plain.add_manifest(index, fallback_tag(SUBJECT.digest), kind=INDEX)
    one = attach(here, plain, SBOM, "packages")
    kept = json.loads(plain.manifests[fallback_tag(SUBJECT.digest)][1])
    assert kept["manifests"][0] == other
    assert kept["annotations"] == {"k": "v"}
    assert [e["digest"] for e in kept["manifests"][1:]] == [one.digest]


def test_a_tag_that_is_no_account_is_not_overwritten(here: Here, plain: Registry) -> None:
    tag = fallback_tag(SUBJECT.digest)
    plain.add_manifest({"schemaVersion": 2, "mediaType": MANIFEST}, tag)
    with pytest.raises(InputError, match="mediaType"):
        attach(here, plain, SBOM, "packages")
    assert json.loads(plain.manifests[tag][1])["mediaType"] == MANIFEST


def test_what_somebody_else_overwrote_is_entered_again(here: Here, plain: Registry) -> None:
    """Another client read the index before us and writes it after us, twice."""
    tag = fallback_tag(SUBJECT.digest)
    other = {"mediaType": MANIFEST, "digest": plain.add_manifest({"c": 1}), "size": 3}
    theirs = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [other]}

    def overwrite(handler: Any) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        plain.add_manifest(body, tag, kind=INDEX)
        plain.add_manifest(theirs, tag, kind=INDEX)
        handler.answer(201, Docker_Content_Digest=sha256(body))

    plain.fail("PUT", f"manifests/{tag}", overwrite, times=2)
    one = attach(here, plain, SBOM, "packages")
    assert {r.digest for r in find(here, plain)} == {one.digest, other["digest"]}
    assert plain.lines("PUT").count(f"PUT /v2/a/b/manifests/{tag}") == 3


def test_an_index_that_is_always_overwritten_is_given_up(here: Here, plain: Registry) -> None:
    plain.fail("PUT", "manifests/sha256-", status(201), times=99)
    with pytest.raises(HostError, match="somebody else changes it"):
        attach(here, plain, SBOM, "packages")
    assert len([line for line in plain.lines("PUT") if "sha256-" in line]) == 6


def test_many_at_once_lose_nothing(here: Here, plain: Registry) -> None:
    made: list[Referrer] = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(attach(here, plain, SBOM, str(n))))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert find(here, plain) == sorted(made, key=lambda r: r.digest)
