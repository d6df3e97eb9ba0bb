"""`buildgraph push`: what is pushed where, after which tests, and that it is what they passed."""

from __future__ import annotations

import hashlib
import json
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildgraph.cli.session import host_platform
from buildgraph.oci.types import MEDIA_INDEX, MEDIA_MANIFEST
from e2e.building import BOTH, Bench
from e2e.harness import Workspace, remove_tree
from e2e.registries import PROGRAM, RegistryServer, registry

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="not installed: docker-registry"),
    pytest.mark.kernel,
]


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with registry() as running:
        yield running


@pytest.fixture
def shop() -> Iterator[Workspace]:
    """Give a workspace with an image whose test passes or does not, as its file says."""
    with Workspace() as place:
        place.busybox_target()
        place.busybox_layout()
        place.write("app/Dockerfile", "FROM base\nCOPY f /f\nRUN cat /f > /g\n")
        place.write("app/f", "good\n")
        yield place


def boxfile(shop: Workspace, server: RegistryServer, push: str, image: str = "") -> None:
    shop.write("Boxfile.yaml", f"workspace: {{name: shop, registry: {server.host}/shop}}\n")
    shop.write(
        "app/Boxfile.yaml",
        f"""\
targets:
  image: {{contexts: {{base: "oci-layout://../busybox-layout"}}{image}}}
  smoke:
    rule: smoke
    checks:
      - file: {{image: ":image", path: /g, contains: good}}
  release:
    rule: push
    image: ":image"
{push}""",
    )


def tags_of(server: RegistryServer, name: str) -> list[str]:
    try:
        return sorted(json.loads(server.get(f"/v2/{name}/tags/list"))["tags"] or [])
    except OSError:
        return []


def digest_of(server: RegistryServer, name: str, tag: str) -> str:
    return "sha256:" + hashlib.sha256(manifest_of(server, name, tag)).hexdigest()


def manifest_of(server: RegistryServer, name: str, tag: str) -> bytes:
    asked = urllib.request.Request(
        f"http://{server.host}/v2/{name}/manifests/{tag}",
        headers={"Accept": f"{MEDIA_MANIFEST}, {MEDIA_INDEX}"},
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return bytes(answer.read())


@BOTH
def test_what_passed_is_pushed_and_nothing_else(
    who: Bench, shop: Workspace, server: RegistryServer
) -> None:
    name = f"shop/passed-{who.user.name if who.user else 'root'}"
    boxfile(shop, server, f'    tags: ["{server.host}/{name}:1"]\n    requires: [":smoke"]\n')
    run = {"user": who.user}
    shop.write("app/f", "bad\n")
    failed = shop.run("push", "//app:release", expect=1, **run)
    assert "//app:smoke FAILED" in failed.stdout
    assert "//app:release: not pushed" in failed.stderr
    assert tags_of(server, name) == []
    shop.write("app/f", "good\n")
    done = shop.run("push", "//app:release", "--progress=json", **run)
    pushed = [e for e in done.events if e["event"] == "image_pushed"]
    assert [(p["name"], p["state"]) for p in pushed] == [(f"{server.host}/{name}:1", "pushed")]
    tested = [e for e in done.events if e["event"] == "smoke_finished"]
    assert [(t["label"], t["ok"], t["cached"]) for t in tested] == [("//app:smoke", True, False)]
    assert pushed[0]["digest"] == done.digests["//app:image"]
    again = shop.run("push", "//app:release", **run)
    assert "//app:smoke passed (cached)" in again.stdout
    assert "(there already)" in again.stdout
    rows = [
        json.loads(x) for x in shop.run("history", "//app", "--json", **run).stdout.splitlines()
    ]
    assert rows[0]["digest"] == pushed[0]["digest"], "a push's builds are written down too"


def test_one_failure_is_enough_unless_told_otherwise(
    shop: Workspace, server: RegistryServer
) -> None:
    name = f"{server.host}/shop/two"
    boxfile(
        shop,
        server,
        f'    tags: ["{name}:good"]\n    requires: [smoke]\n'
        '  wrong: {rule: smoke, checks: [{file: {image: ":image", path: /g, contains: no}}]}\n'
        f'  never: {{rule: push, image: ":image", tags: ["{name}:bad"], requires: [smoke, wrong]}}\n',
    )
    failed = shop.run("push", "//app/...", expect=1)
    assert "//app:release: not pushed\n//app:never: not pushed" in failed.stderr
    assert tags_of(server, "shop/two") == []
    failed = shop.run("push", "//app/...", "-k", expect=1)
    assert f"//app:release -> {name}:good" in failed.stdout
    assert "//app:never: not pushed" in failed.stderr
    assert tags_of(server, "shop/two") == ["good"]


def test_a_tag_that_exists(shop: Workspace, server: RegistryServer) -> None:
    name = f"{server.host}/shop/exists"
    tags = f'    tags: ["{name}:1"]\n'
    boxfile(shop, server, tags)
    first = shop.run("push", "//app:release").stdout
    old = digest_of(server, "shop/exists", "1")
    assert old in first
    shop.write("app/f", "another\n")
    boxfile(shop, server, tags + "    if_exists: fail\n")
    failed = shop.run("push", "//app:release", expect=1)
    assert f"{name}:1 exists already" in failed.stderr
    assert "app/Boxfile.yaml:" in failed.stderr
    boxfile(shop, server, tags + "    if_exists: skip\n")
    assert "(left alone)" in shop.run("push", "//app:release").stdout
    assert digest_of(server, "shop/exists", "1") == old
    boxfile(shop, server, tags)
    assert "(pushed" in shop.run("push", "//app:release").stdout
    assert digest_of(server, "shop/exists", "1") != old


def test_what_counts_in_a_pattern(shop: Workspace, server: RegistryServer) -> None:
    image = f', tags: ["{server.host}/shop/own:1", "{server.host}/shop/own:2"]'
    boxfile(shop, server, "    requires: [smoke]\n", image)
    told = shop.run("push", "//...", "--dry-run").stdout.splitlines()
    assert told == [
        "//app:release (//app:image) after //app:smoke",
        f"  -> {server.host}/shop/own:1 (if it exists: retag)",
        f"  -> {server.host}/shop/own:2 (if it exists: retag)",
    ]
    shop.run("build", "//...")
    assert tags_of(server, "shop/own") == [], "build does not push"
    by_label = shop.run("push", "//app:image").stdout
    assert by_label.count("//app:image -> ") == 2
    assert tags_of(server, "shop/own") == ["1", "2"]
    assert "nothing to push" in shop.run("push", "//busybox/...", expect=2).stderr


def test_a_push_that_is_none_is_said_with_its_line(shop: Workspace, server: RegistryServer) -> None:
    boxfile(shop, server, "    tags: [x:1]\n    requires: [image]\n")
    failed = shop.run("push", "//app:release", "-n", expect=2)
    assert "//app:image is no smoke test" in failed.stderr
    assert "app/Boxfile.yaml:11" in failed.stderr


def test_platforms_no_test_ran(shop: Workspace, server: RegistryServer) -> None:
    push = f'    tags: ["{server.host}/shop/far:1"]\n    requires: [smoke]\n'
    boxfile(shop, server, push, ", platforms: [linux/s390x]")
    shop.write("app/Dockerfile", "FROM scratch\nCOPY f /g\n")
    failed = shop.run("push", "//app:release", expect=2)
    assert "//app:image is for linux/s390x alone" in failed.stderr
    boxfile(shop, server, push, f", platforms: [{host_platform()}, linux/s390x]")
    done = shop.run("push", "//app:release", "--progress=plain")
    assert "linux/s390x goes along untested" in done.stdout + done.stderr
    assert len(json.loads(manifest_of(server, "shop/far", "1"))["manifests"]) == 2


# --- build --push --------------------------------------------------------------------------------


def test_a_push_by_digest_moves_no_tag(root_bench: Bench, server: RegistryServer) -> None:
    directory = root_bench.directory({"f": "by digest"}, "FROM scratch\nCOPY f /f\n")
    home = Path(tempfile.mkdtemp(prefix="bg-home-"))
    name = f"{server.host}/by/digest"
    output = f"type=registry,name={name},push-by-digest=true,name-canonical=true"
    words = ["build", directory, "-o", output, "--metadata-file", str(home / "m")]
    done = root_bench.run(*words, "-t", "other:1", "--progress=json")
    (digest,) = done.digests.values()
    told = json.loads((home / "m").read_text())
    assert told["containerimage.digest"] == digest
    assert told["image.name"] == f"{name}@{digest}"
    assert tags_of(server, "by/digest") == []
    assert manifest_of(server, "by/digest", digest)
    words[3] = f"type=registry,name={name}:2"
    root_bench.run(*words)
    assert json.loads((home / "m").read_text())["image.name"] == f"{name}:2"
    assert tags_of(server, "by/digest") == ["2"]
    remove_tree(home)
