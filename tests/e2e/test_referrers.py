"""Artifacts attached to an image of a real registry: Debian's has no account of referrers, so they
are found by the tag that clients keep, and other clients read them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from buildgraph.oci.registry.credentials import CredentialStore
from buildgraph.oci.registry.places import Places
from buildgraph.oci.registry.referrers import Attachment, Referrers, fallback_tag
from buildgraph.oci.registry.session import Registries
from buildgraph.oci.types import MEDIA_MANIFEST, Descriptor
from buildgraph_cache.digest import Digest
from buildgraph_cache.store import Store
from e2e.building import Bench, call, needs
from e2e.registries import PROGRAM, registry

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="not installed: docker-registry"),
    needs("skopeo"),
]
SBOM = "application/spdx+json"


def test_a_registry_without_an_account(root_bench: Bench) -> None:
    directory = root_bench.directory({"f": "x"}, "FROM scratch\nCOPY f /f\n")
    with registry() as server, tempfile.TemporaryDirectory() as home:
        name = f"{server.host}/shop/app"
        done = root_bench.run("build", directory, "-t", f"{name}:1", "--push", "--progress=json")
        (digest,) = done.digests.values()
        raw = call("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:1").stdout
        subject = Descriptor(MEDIA_MANIFEST, Digest(digest), len(raw.encode()))
        environ = {"HOME": home}
        places = Places(environ, {}, etc=str(Path(home, "etc")))
        with (
            Store.open(f"{home}/store") as store,
            store.lease(),
            Registries(places, CredentialStore(environ), environ=environ) as registries,
        ):
            referrers = Referrers(registries, store)
            assert referrers.find(server.host, "shop/app", subject.digest) == []
            blobs = [Descriptor(SBOM, store.put_blob(t), len(t)) for t in (b"one", b"two")]
            made = [
                referrers.attach(server.host, "shop/app", subject, Attachment(SBOM, (blob,)))
                for blob in blobs
            ]
            assert referrers.find(server.host, "shop/app", subject.digest, SBOM) == made
        tag = fallback_tag(subject.digest)
        told = json.loads(
            call(
                "skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:{tag}"
            ).stdout
        )
        assert [entry["artifactType"] for entry in told["manifests"]] == [SBOM, SBOM]
        first = f"docker://{name}@{made[0].digest}"
        manifest = json.loads(
            call("skopeo", "inspect", "--raw", "--tls-verify=false", first).stdout
        )
        assert manifest["subject"]["digest"] == digest
