"""Who we say we are while a push or a pull is under way: tokens that end (R24), and servers that a
registry sends us to and that must not learn it (A28, A31).
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildgraph.errors import HostError
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.registry import push as push_module
from buildgraph.oci.registry.challenge import Challenge
from buildgraph.oci.registry.credentials import Credentials
from buildgraph.oci.registry.tokens import fetch_token
from buildgraph.transport.addresses import AddressPolicy, Zone
from buildgraph.transport.client import Client
from buildgraph.transport.failures import Refused
from buildgraph.transport.pool import Settings
from buildgraph.transport.sockets import Address, resolve
from buildgraph.transport.urls import parse_url
from buildgraph_cache.store import Store
from unit.oci.registry_client import CONFIG, LAYER, Here
from unit.oci.scripted_registry import MANIFEST, Registry, serving, sha256, status
from unit.transport.scripted_server import Server, reply


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with Store.open(str(tmp_path / "store")) as store, store.lease():
        yield Here(store, LayerStore(store, overlay="user"), tmp_path)


def logged_in(here: Here, registry: Registry) -> None:
    """Keep the registry's password where docker keeps it."""
    pair = base64.b64encode(registry.login.encode()).decode()
    (here.home / ".docker").mkdir()
    config = {"auths": {registry.host: {"auth": pair}}}
    (here.home / ".docker" / "config.json").write_text(json.dumps(config))


@pytest.fixture
def guarded(here: Here) -> Iterator[Registry]:
    """Run a registry that wants tokens, which we may have."""
    with serving(Registry(auth="token")) as running:
        logged_in(here, running)
        yield running


def count(registry: Registry, path: str) -> int:
    return sum(1 for asked in registry.asked if asked.path.startswith(path))


# --- tokens (R24) --------------------------------------------------------------------------------


def test_one_token_does_for_a_push(here: Here, guarded: Registry) -> None:
    here.push(guarded, [b"config", b"one", b"two"])
    assert len(guarded.tokens) == 1 + ("" in guarded.tokens)
    assert count(guarded, "/token") == 1
    scope = next(a.path for a in guarded.asked if a.path.startswith("/token"))
    assert "scope=repository%3Aa%2Fb%3Apull%2Cpush" in scope


def test_a_token_that_ends_in_mid_push_is_renewed(
    here: Here, guarded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One after the other: side by side they could use up a new token before who fetched it does.
    monkeypatch.setattr(push_module, "_UPLOADS", 1)
    guarded.token_uses = 12
    here.push(guarded, [b"config", *(os.urandom(10) for _ in range(12))])
    assert "1" in guarded.manifests
    # 13 blobs of three requests and the tag twice; what was refused is asked once more
    assert 4 <= count(guarded, "/token") <= 8


def test_a_token_that_ends_at_once_is_asked_for_each_time(here: Here, guarded: Registry) -> None:
    guarded.token_seconds = 1
    here.push(guarded, [b"config", b"layer"])
    requests = [a for a in guarded.asked if "/a/b/" in a.path]
    assert count(guarded, "/token") == len(requests)


def test_a_401_on_the_last_blob_is_answered_once(here: Here, guarded: Registry) -> None:
    def refuse(handler: Any) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.answer(401, WWW_Authenticate=handler.challenge())

    guarded.fail("PUT", "blobs/uploads", refuse)
    here.push(guarded, [b"config", b"layer"])
    assert len(guarded.lines("PUT")) == 4  # two blobs, one of them twice, and the tag
    assert count(guarded, "/token") == 2


def test_a_401_in_mid_upload_goes_on_from_there(
    here: Here, guarded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "_WHOLE", 1000)
    monkeypatch.setattr(push_module, "_PIECE", 100_000)
    guarded.token_uses = 5
    data = os.urandom(650_000)
    here.push(guarded, [b"config", data])
    assert guarded.blobs[sha256(data)] == data
    assert sum(a.size for a in guarded.asked if a.method == "PATCH") <= 650_000 + 300_000


def test_a_401_for_ever_is_no_loop(here: Here, guarded: Registry) -> None:
    def refuse(handler: Any) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.answer(401, WWW_Authenticate=handler.challenge())

    guarded.fail("PUT", "manifests/1", refuse, times=99)
    with pytest.raises(HostError, match=r"does not let us push to a/b \(HTTP 401\)"):
        here.push(guarded, [b"config", b"layer"])
    assert guarded.lines("PUT").count("PUT /v2/a/b/manifests/1") == 2
    assert "1" not in guarded.manifests


def test_a_wrong_password_is_sent_once_and_not_shown(here: Here, guarded: Registry) -> None:
    guarded.login = "keeper:another"
    with pytest.raises(HostError, match="gives 'keeper' no token") as failure:
        here.push(guarded, [b"config", b"layer"])
    assert count(guarded, "/token") == 1
    assert "s3cret" not in f"{failure.value} {failure.value.hint}"


# --- other servers (A28, A31) --------------------------------------------------------------------


def image(registry: Registry, blobs: dict[str, bytes]) -> str:
    """Put an image into a registry whose layer lies on another server; return its digest."""
    import gzip
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("f"))
    layer = gzip.compress(buffer.getvalue(), mtime=0)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [sha256(buffer.getvalue())]},
    }
    text = json.dumps(config).encode()
    blobs[sha256(layer)] = layer
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": registry.add_blob(text), "size": len(text)},
        "layers": [{"mediaType": LAYER, "digest": sha256(layer), "size": len(layer)}],
    }
    registry.add_manifest(value, "1")
    return sha256(layer)


@pytest.mark.parametrize("code", [302, 307])
@pytest.mark.parametrize("auth", ["basic", "token"])
def test_a_storage_elsewhere_does_not_learn_who_we_are(here: Here, auth: str, code: int) -> None:
    with serving(Registry(auth=auth)) as registry, serving(Registry()) as storage:
        logged_in(here, registry)
        digest = image(registry, storage.blobs)
        signed = f"http://{storage.host}/bucket/blobs/{digest}?X-Signature=a%2Fb&X-Expires=60"
        registry.fail("GET", f"blobs/{digest}", status(code, Location=signed), times=9)
        here.pull(registry)
        (asked,) = storage.asked
        assert asked.path == f"/bucket/blobs/{digest}?X-Signature=a%2Fb&X-Expires=60"
        assert "Authorization" not in asked.headers
        assert any("Authorization" in a.headers for a in registry.asked)


def test_a_storage_that_asks_who_we_are_gets_no_answer(here: Here) -> None:
    with serving(Registry(auth="basic")) as registry, serving(Registry()) as storage:
        logged_in(here, registry)
        digest = image(registry, storage.blobs)
        place = f"http://{storage.host}/bucket/blobs/{digest}"
        registry.fail("GET", f"blobs/{digest}", status(307, Location=place), times=9)
        asks = status(401, WWW_Authenticate='Basic realm="test"')
        storage.fail("GET", "bucket", asks, times=99)
        with pytest.raises(HostError):
            here.pull(registry)
        assert storage.asked
        assert all("Authorization" not in a.headers for a in storage.asked)


def test_an_upload_elsewhere_does_not_learn_who_we_are(here: Here) -> None:
    with serving(Registry(auth="token")) as registry, serving(Registry()) as storage:
        logged_in(here, registry)
        storage.blobs = registry.blobs

        def send_away(handler: Any) -> None:
            handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
            name = f"u{len(storage.uploads)}"
            storage.uploads[name] = b""
            handler.answer(202, Location=f"http://{storage.host}/bucket/blobs/uploads/{name}?sig=x")

        registry.fail("POST", "blobs/uploads", send_away, times=99)
        here.push(registry, [b"config", b"layer"])
        assert len(storage.asked) == 2
        assert all("Authorization" not in a.headers for a in storage.asked)
        assert "1" in registry.manifests


def test_a_realm_whose_name_leads_to_this_machine_is_not_asked() -> None:
    """The name is a public one; where it leads is seen when the connection is made (A31)."""

    def resolver(host: str, port: int) -> list[Address]:
        return resolve("127.0.0.2", port)

    with Server(lambda seen: reply(200), address="127.0.0.2") as server:
        port = parse_url(server.url()).origin.port
        client = Client(Settings(resolver=resolver))
        realm = Challenge("bearer", f"http://tokens.example:{port}/token", "test")
        registry = parse_url("http://registry.example/").origin
        with pytest.raises(Refused, match=r"leads to 127\.0\.0\.2, which is this machine itself"):
            fetch_token(
                client,
                realm,
                registry,
                ("repository:a/b:pull",),
                Credentials("keeper", "s3cret"),
                AddressPolicy(Zone.PUBLIC),
            )
        assert server.seen == []
        client.close()


# --- proxies (R27) -------------------------------------------------------------------------------


def test_a_proxy_that_is_not_there_is_named(here: Here) -> None:
    environ = {"HTTPS_PROXY": "http://user:hidden@127.0.0.1:1"}
    with pytest.raises(HostError) as failure:
        here.pull_from("registry.example/a/b:1", environ)
    told = f"{failure.value} {failure.value.hint}"
    assert "registry.example" in told
    assert "proxy" in told
    assert "127.0.0.1:1" in told
    assert "hidden" not in told
