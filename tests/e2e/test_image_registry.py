"""Pulling and pushing with a real server: what others have pushed is read in each of its forms,
what we push others read; with TLS, passwords and tokens, and without any network once it is known.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.building import Bench, as_root, call, needs
from e2e.harness import Workspace, remove_tree
from e2e.images import read_layout
from e2e.peers import buildah, docker
from e2e.registries import (
    PASSWORD,
    PROGRAM,
    USER,
    RegistryServer,
    TokenServer,
    registry,
)

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="not installed: docker-registry"),
    needs("skopeo"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with registry() as running:
        yield running


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a home directory whose DOCKER_CONFIG is empty."""
    made = Path(tempfile.mkdtemp(prefix="bg-home-"))
    yield made
    remove_tree(made)


def mine(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "DOCKER_CONFIG": str(home / ".docker")}


def put(bench: Bench, server: RegistryServer, name: str, *words: str) -> str:
    """Let skopeo push the busybox base; return its name."""
    to = f"{server.host}/{name}"
    call("skopeo", "copy", "-q", "--dest-tls-verify=false", *words,
         f"oci:{bench.layout}:latest", f"docker://{to}")  # fmt: skip
    return to


# --- pulling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--format=oci"], id="oci"),
        pytest.param(["--format=v2s2"], id="docker"),
        pytest.param(["--format=oci", "--dest-compress-format=zstd", "--dest-compress"], id="zstd"),
        pytest.param(
            ["--format=v2s2", "--dest-compress-format=gzip", "--dest-compress"], id="gzip"
        ),
    ],
)
def test_what_skopeo_pushed_is_a_base(
    root_bench: Bench, server: RegistryServer, words: list[str], request: pytest.FixtureRequest
) -> None:
    name = put(root_bench, server, f"bases/{request.node.callspec.id}:1", *words)
    built = root_bench.build(f"FROM {name}\nRUN echo hello > /said\n")
    assert built.content("said") == "hello\n"
    assert built.has("bin/busybox")


def test_copy_and_mounts_read_images_of_a_registry(
    root_bench: Bench, server: RegistryServer
) -> None:
    name = put(root_bench, server, "copied:1")
    built = root_bench.build(
        f"FROM base\nCOPY --from={name} /etc/passwd /seen\n"
        f"RUN --mount=type=bind,from={name},target=/m cp /m/etc/group /group\n"
    )
    assert "app:x:1000" in built.content("seen")
    assert "app:x:1000" in built.content("group")


def test_a_layer_nobody_needs_is_not_fetched(
    root_bench: Bench, server: RegistryServer, home: Path
) -> None:
    name = put(root_bench, server, "lazy:1")
    store = home / "store"
    directory = root_bench.directory({}, f"FROM {name}\nENV A=1\nLABEL b=c\n")
    root_bench.run("build", directory, "-o", "type=cacheonly", "--store", str(store))
    fetched = sum(p.stat().st_size for p in (store / "blobs").rglob("*") if p.is_file())
    assert fetched < 100_000


def test_a_known_base_needs_no_server(root_bench: Bench, home: Path) -> None:
    store = ["--store", str(home / "store")]
    with registry() as server:
        name = put(root_bench, server, "known:1")
        directory = root_bench.directory({"f": "1"}, f"FROM {name}\nCOPY f /f\nRUN cat f >g\n")
        root_bench.run("build", directory, *store)
    again = root_bench.run("build", directory, *store)
    assert "is what it was last time" not in again.stderr  # answered without asking
    root_bench.workspace.write(f"{directory}/f", "2")
    later = root_bench.run("build", directory, *store)
    assert "is what it was last time" in later.stdout + later.stderr
    root_bench.workspace.write(f"{directory}/f", "3")
    offline = root_bench.run("build", directory, *store, "--offline")
    assert "last time" not in offline.stdout + offline.stderr
    unknown = root_bench.fail(f"FROM {name}x\n", None, "--offline", *store, expect=3)
    assert "--offline" in unknown.stderr


def test_a_tag_that_moved_is_said(root_bench: Bench, server: RegistryServer, home: Path) -> None:
    name = put(root_bench, server, "moving:1")
    store = ["--store", str(home / "store")]
    directory = root_bench.directory({"f": "1"}, f"FROM {name}\nCOPY f /f\n")
    root_bench.run("build", directory, *store)
    put(root_bench, server, "moving:1", "--format=v2s2")
    root_bench.workspace.write(f"{directory}/f", "2")
    moved = root_bench.run("build", directory, *store)
    assert "has moved: sha256:" in moved.stdout + moved.stderr


def test_a_digest_is_looked_for_in_its_own_repository(
    root_bench: Bench, server: RegistryServer
) -> None:
    name = put(root_bench, server, "own/repository:1")
    digest = json.loads(call("skopeo", "inspect", "--tls-verify=false", f"docker://{name}").stdout)[
        "Digest"
    ]
    root_bench.build(f"FROM {name.rpartition(':')[0]}@{digest}\nRUN true\n")
    other = put(root_bench, server, "other/repository:1", "--format=v2s2").rpartition(":")[0]
    failed = root_bench.fail(f"FROM {other}@{digest}\nRUN true\n")
    assert "does not exist" in failed.stderr


def test_missing_names_are_said_with_their_line(root_bench: Bench, server: RegistryServer) -> None:
    failed = root_bench.fail(f"FROM base\n\nFROM {server.host}/no/such:1\nRUN true\n")
    assert "no/such:1 does not exist" in failed.stderr
    assert "Dockerfile:3" in failed.stderr
    nobody = root_bench.fail("FROM 127.0.0.1:1/x\nRUN true\n", expect=3)
    assert "127.0.0.1:1" in nobody.stderr


# --- the lock ------------------------------------------------------------------------------------


def test_a_lock_pins_what_a_name_means(root_bench: Bench, home: Path) -> None:
    with Workspace() as place, registry() as server:
        name = put(root_bench, server, "pinned/base:1")
        store = ["--store", str(home / "store")]
        place.write("Boxfile.yaml", "workspace: {name: w}\ntargets:\n  image: {}\n")
        place.write("Dockerfile", f"FROM {name}\nCOPY Boxfile.yaml /b\n")
        made = place.run("lock", *store)
        assert f"{name} new -> sha256:" in made.stdout
        (line,) = [t for t in place.read("Boxfile.lock").splitlines() if t.startswith("image ")]
        assert line.startswith(f"image {name}@sha256:")
        assert "nothing has changed" in place.run("lock", "--check", *store).stdout
        first = place.build("//:image", *store).digests
        put(root_bench, server, "pinned/base:1", "--format=v2s2")  # the tag moves
        assert "out of date" in place.run("lock", "--check", *store, expect=1).stderr
        place.write("Boxfile.yaml", "workspace: {name: w}\n#\ntargets:\n  image: {}\n")
        assert place.build("//:image", *store).digests != first
        place.run("lock", "--update", "nothing*", *store)
        assert line in place.read("Boxfile.lock")
        assert "->" in place.run("lock", "--update", "pinned/*", *store).stdout
        assert line not in place.read("Boxfile.lock")
        place.write("Boxfile.lock", f"version 1\n{line}\n")
        place.write("Boxfile.yaml", "workspace: {name: w}\ntargets:\n  image: {}\n")
        assert place.build("//:image", *store).digests == first


# --- pushing -------------------------------------------------------------------------------------


def push(bench: Bench, name: str, home: Path, *words: str) -> str:
    """Build and push a small image; return its digest."""
    text = 'FROM base\nCOPY f /f\nRUN echo 1 > /g\nCMD ["cat", "/f"]\n'
    directory = bench.directory({"f": name}, text)
    done = bench.run(
        "build", *bench.base([]), directory, "-t", name, "--push", "--progress=json", *words,
        env=mine(home),
    )  # fmt: skip
    (digest,) = done.digests.values()
    return digest


def test_skopeo_reads_what_we_pushed(root_bench: Bench, server: RegistryServer, home: Path) -> None:
    name = f"{server.host}/shop/app:1"
    digest = push(root_bench, name, home)
    layout = home / "layout"
    call("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}:x")
    image = read_layout(layout)
    assert image.tree["f"].content.decode() == name
    told = call("skopeo", "inspect", "--tls-verify=false", f"docker://{name}").stdout
    assert json.loads(told)["Digest"] == digest


def test_pushing_again_sends_nothing_and_another_repository_mounts(
    root_bench: Bench, server: RegistryServer, home: Path
) -> None:
    text = "FROM base\nRUN echo 7 > /g\n"
    directory = root_bench.directory({}, text)
    base = [*root_bench.base([]), directory, "--push"]
    first = root_bench.run("build", *base, "-t", f"{server.host}/m/one:1", env=mine(home))
    assert "(pushed)" in first.stdout
    again = root_bench.run("build", *base, "-t", f"{server.host}/m/one:1", env=mine(home))
    assert "(there already)" in again.stdout
    uploads = server.home / "data/docker/registry/v2/repositories/m/two/_uploads"
    root_bench.run("build", *base, "-t", f"{server.host}/m/two:1", env=mine(home))
    assert not uploads.exists()
    call("skopeo", "inspect", "--tls-verify=false", f"docker://{server.host}/m/two:1")


def test_an_index_goes_after_its_manifests(
    root_bench: Bench, server: RegistryServer, home: Path
) -> None:
    directory = root_bench.directory({"f": "x"}, "FROM scratch\nCOPY f /f\n")
    name = f"{server.host}/both:1"
    platforms = "--platform=linux/amd64,linux/arm64"
    root_bench.run("build", directory, "-t", name, "--push", platforms, env=mine(home))
    raw = call("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}").stdout
    found = {m["platform"]["architecture"] for m in json.loads(raw)["manifests"]}
    assert found == {"amd64", "arm64"}


def test_a_push_needs_a_name(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM scratch\nENV a=b\n")
    failed = root_bench.run("build", directory, "--push", expect=2)
    assert "has no name" in failed.stderr


@as_root
@needs("podman", "buildah")
def test_podman_and_buildah_pull_what_we_pushed(
    root_bench: Bench, server: RegistryServer, home: Path
) -> None:
    name = f"{server.host}/shop/peers:1"
    push(root_bench, name, home)
    with buildah() as peer:
        peer.call("from", "-q", "--tls-verify=false", name)
    words = ["podman", "--root", f"{home}/root", "--runroot", f"{home}/run", "--storage-driver=vfs"]
    call(*words, "pull", "-q", "--tls-verify=false", name)
    told = call(*words, "image", "inspect", name).stdout
    assert json.loads(told)[0]["Config"]["Cmd"] == ["cat", "/f"]


@as_root
@needs("dockerd")
def test_docker_pulls_what_we_pushed(root_bench: Bench, server: RegistryServer, home: Path) -> None:
    """The daemon has a network of its own, so the server's files get a second server in there."""
    name = f"{server.host}/shop/docker:1"
    push(root_bench, name, home)
    with docker() as daemon:
        pid = (daemon.home / "pid").read_text()
        inside = ["nsenter", "-t", pid, "-n"]
        call(*inside, "ip", "link", "set", "lo", "up")
        second = subprocess.Popen(
            [*inside, str(PROGRAM), "serve", str(server.home / "config.yml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            call("sh", "-c", f"for i in $(seq 50); do {' '.join(inside)} "
                 f"skopeo inspect --tls-verify=false docker://{name} >/dev/null 2>&1 && exit; "
                 "sleep 0.1; done; exit 1")  # fmt: skip
            daemon.call("pull", "-q", name)
            assert daemon.call("inspect", "-f", "{{json .Config.Cmd}}", name) == '["cat","/f"]'
        finally:
            second.terminate()
            second.wait()


# --- who we are ----------------------------------------------------------------------------------


def test_tls_and_a_password(root_bench: Bench, home: Path) -> None:
    with registry(tls=True, password=True) as server:
        name = f"{server.host}/shop/app:1"
        directory = root_bench.directory({}, "FROM scratch\nENV a=b\n")
        words = ["build", directory, "-t", name, "--push"]
        unknown = root_bench.run(*words, env=mine(home), expect=3)
        assert "certificate" in unknown.stderr
        certs = home / ".config/containers/certs.d" / server.host
        certs.mkdir(parents=True)
        assert server.ca is not None
        (certs / "ca.crt").write_bytes(server.ca.read_bytes())
        denied = root_bench.run(*words, env=mine(home), expect=3)
        assert f"buildgraph login {server.host}" in denied.stderr
        wrong = root_bench.run(
            "login", server.host, "-u", USER, "-p", "wr0ng", env=mine(home), expect=3
        )
        assert "does not take" in wrong.stderr
        assert not (home / ".docker").exists()
        root_bench.run("login", server.host, "-u", USER, "-p", PASSWORD, env=mine(home))
        pushed = root_bench.run(*words, env=mine(home))
        assert "(pushed)" in pushed.stdout
        built = root_bench.run(
            "build", root_bench.directory({}, f"FROM {name}\nENV c=d\n"), env=mine(home)
        )
        everything = pushed.stdout + pushed.stderr + built.stdout + built.stderr + denied.stderr
        assert PASSWORD not in everything
        root_bench.run("logout", server.host, env=mine(home))
        assert PASSWORD not in (home / ".docker/config.json").read_text()


def test_tokens_are_renewed_and_scoped(root_bench: Bench, home: Path) -> None:
    tokens = TokenServer(home, seconds=1)  # every request finds an old one
    try:
        with registry(token_realm=tokens.realm, root_cert=str(tokens.cert)) as server:
            name = f"{server.host}/shop/app:1"
            directory = root_bench.directory({"f": "x" * 5000}, "FROM scratch\nCOPY f /f\n")
            root_bench.run("login", server.host, "-u", USER, "-p", PASSWORD, env=mine(home))
            root_bench.run("build", directory, "-t", name, "--push", env=mine(home))
            assert ("repository:shop/app:pull,push",) in tokens.scopes
            root_bench.run(
                "build", root_bench.directory({}, f"FROM {name}\nENV c=d\n"), env=mine(home)
            )
    finally:
        tokens.close()
