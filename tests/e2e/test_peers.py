"""Knows that other programs take our images for what they are; must not know how we write them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import peers
from e2e.building import Bench, as_root, call, needs
from e2e.harness import User, remove_tree
from e2e.images import File, Tree

pytestmark = pytest.mark.peers

DOCKERFILE = r"""
FROM base
LABEL who=us
EXPOSE 80
COPY --chown=app:root f /app/f
COPY --chmod=4755 f /app/setuid
RUN rm -r /bin/vi /etc/group && mkdir -m 1777 /sticky && ln /app/f /hard && ln -s app/f /soft \
  && mkfifo /fifo && touch /new && chown 7:8 /new && mkdir /x && rm -r /tmp && mkdir -m 700 /tmp
WORKDIR /app
ENV WHO=container
USER app:app
ENTRYPOINT ["/bin/busybox", "sh", "-c"]
CMD ["echo $WHO $(id -u) $(pwd) $(cat f)"]
"""
SAID = "container 1000 /app hello\n"


class Ours:
    """One image of ours in every form."""

    def __init__(self, bench: Bench):
        dockerfile = DOCKERFILE.replace("USER app:app", "USER 1000:1000")
        directory = bench.directory({"f": "hello\n"}, dockerfile)
        self.top = bench.workspace.path(directory)
        self.layout, self.archive = self.top / "layout", self.top / "oci.tar"
        self.docker, self.zstd = self.top / "docker.tar", self.top / "zstd.tar"
        words = ["-t", "example.com/ours:1", directory]
        outputs = [f"oci,tar=false,dest={self.layout}", f"oci,dest={self.archive}"]
        outputs += [f"docker,dest={self.docker}"]
        flags = [word for value in outputs for word in ("-o", f"type={value}")]
        said = bench.run("build", "--progress=json", *bench.base(words), *words, *flags)
        (self.digest,) = said.digests.values()
        words += ["-o", f"type=oci,dest={self.zstd},compression=zstd"]
        bench.run("build", *bench.base(words), *words)
        self.built = bench.build_in(directory)


@pytest.fixture(scope="module")
def ours(root_bench: Bench) -> Ours:
    return Ours(root_bench)


@needs("skopeo")
def test_skopeo_inspects_and_copies(ours: Ours, tmp_path: Path) -> None:
    for place in (
        f"oci:{ours.layout}:1",
        f"oci-archive:{ours.archive}",
        f"oci-archive:{ours.zstd}",
    ):
        seen = json.loads(call("skopeo", "inspect", place).stdout)
        assert seen["Labels"] == {"who": "us"}
        assert seen["Env"] == ["PATH=/bin", "WHO=container"]
        raw = json.loads(call("skopeo", "inspect", "--config", "--raw", place).stdout)
        assert raw == ours.built.image.document
    assert (
        json.loads(call("skopeo", "inspect", f"oci:{ours.layout}:1").stdout)["Digest"]
        == ours.digest
    )
    call("skopeo", "copy", f"oci:{ours.layout}:1", f"dir:{tmp_path}/dir")
    call("skopeo", "copy", f"docker-archive:{ours.docker}", f"oci:{tmp_path}/again:1")
    call("skopeo", "copy", f"oci-archive:{ours.zstd}", f"oci-archive:{tmp_path}/z.tar")
    again = json.loads(call("skopeo", "inspect", "--config", f"oci:{tmp_path}/again:1").stdout)
    assert again["rootfs"] == ours.built.image.document["rootfs"]


@as_root
@needs("umoci", "runc")
def test_umoci_unpacks_what_we_packed_and_runc_runs_it(ours: Ours, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    call("umoci", "unpack", "--image", f"{ours.layout}:1", bundle)
    found = read_tree(bundle / "rootfs")
    wanted = {p: plain(f) for p, f in ours.built.image.tree.items()}
    assert {p: plain(f) for p, f in found.items()} == wanted
    done = peers.run_bundle(bundle, tmp_path / "runc")
    assert done.stdout == SAID, done.stderr


@needs("umoci")
def test_umoci_unpacks_as_an_ordinary_user(ours: Ours, as_user: User) -> None:
    bundle = as_user.home / "bundle"
    call("chmod", "-R", "a+rX", ours.layout)
    done = as_user.run("umoci", "unpack", "--rootless", "--image", f"{ours.layout}:1", str(bundle))
    assert done.returncode == 0, done.stderr
    tree = read_tree(bundle / "rootfs")
    kinds = {path: (f.kind, f.size, f.sha256, f.link) for path, f in tree.items()}
    assert kinds == {
        p: (f.kind, f.size, f.sha256, f.link) for p, f in ours.built.image.tree.items()
    }


def read_tree(top: Path) -> Tree:
    """Return a directory as an image's tree."""
    tree: Tree = {}
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            path = Path(directory, name)
            found = path.lstat()
            mode = found.st_mode
            kind = {stat.S_IFDIR: "d", stat.S_IFREG: "f", stat.S_IFLNK: "l", stat.S_IFIFO: "p"}[
                stat.S_IFMT(mode)
            ]
            data = path.read_bytes() if kind == "f" else b""
            tree[str(path.relative_to(top))] = File(
                kind,
                stat.S_IMODE(mode),
                found.st_uid,
                found.st_gid,
                len(data),
                hashlib.sha256(data).hexdigest() if kind == "f" else "",
                os.readlink(path) if kind == "l" else "",
            )
    return tree


def plain(file: File) -> tuple[Any, ...]:
    """Return what a directory on disk can say of a file."""
    return file.kind, file.mode, file.uid, file.gid, file.size, file.sha256, file.link


@as_root
@needs("podman", "runc")
@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "zstd"])
def test_podman_runs_it(ours: Ours, form: str) -> None:
    home = Path(tempfile.mkdtemp(prefix="bg-pod-", dir="/tmp"))  # it wants a short path
    archive = {"oci-archive": ours.archive, "docker-archive": ours.docker, "zstd": ours.zstd}[form]
    kind = "docker-archive" if form == "docker-archive" else "oci-archive"
    words = ["podman", "--root", home / "root", "--runroot", home / "run"]
    words += ["--storage-driver=overlay", "--runtime=runc", "--cgroup-manager=cgroupfs"]
    # crun cannot do hybrid control groups; a limit above the test's own may not be set.
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    try:
        done = call(
            *(*words, "run", "--rm", "--network=none", *limits, f"{kind}:{archive}"), env=env
        )
        assert done.stdout == SAID
    finally:
        peers.unmount_below(home)
        remove_tree(home)


@as_root
@needs("buildah")
def test_buildah_builds_on_it(ours: Ours, tmp_path: Path) -> None:
    with peers.buildah() as tool:
        name = tool.call("from", "--pull-never", f"oci-archive:{ours.archive}")
        told = json.loads(tool.call("inspect", name))
        assert told["OCIv1"]["config"]["Labels"] == {"who": "us"}
        assert told["FromImageDigest"] == ours.digest


@pytest.fixture(scope="module")
def daemon() -> Iterator[peers.Docker]:
    if os.geteuid() != 0 or not shutil.which("dockerd") or not os.access(peers.DOCKER, os.X_OK):
        pytest.skip("no docker daemon can be started: docker.io is not installed, or not root")
    with peers.docker() as started:
        yield started


def test_docker_loads_and_runs_it(ours: Ours, daemon: peers.Docker) -> None:
    name = daemon.load(ours.docker)
    assert name == "example.com/ours:1"
    assert daemon.call("run", "--rm", "--network=none", name) + "\n" == SAID
    (told,) = json.loads(daemon.call("image", "inspect", name))
    assert told["RootFS"]["Layers"] == ours.built.image.document["rootfs"]["diff_ids"]
    assert told["Id"] == ours.built.image.manifest["config"]["digest"]
    assert told["Config"]["Labels"] == {"who": "us"}
    listed = daemon.call("history", "--no-trunc", "--format", "{{.CreatedBy}}", name)
    assert "COPY --chown=app:root f /app/f" in listed


def test_docker_builds_on_it(ours: Ours, daemon: peers.Docker, tmp_path: Path) -> None:
    daemon.load(ours.docker)
    (tmp_path / "Dockerfile").write_text("FROM example.com/ours:1\nCOPY Dockerfile /on-top\n")
    image = daemon.build(tmp_path)
    below = len(ours.built.image.layers)
    assert image.layers[:below] == ours.built.image.layers
    assert "on-top" in image.tree
