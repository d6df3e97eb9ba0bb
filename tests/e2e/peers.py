"""Knows how to make docker's BuildKit and buildah build a Dockerfile with nothing of the machine's
own containers touched; must not know what is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from e2e.building import call
from e2e.harness import remove_tree
from e2e.images import Image, read_archive

DOCKER = "/usr/bin/docker"  # Debian's, which has BuildKit inside; others want a plugin for it


class Docker:
    """A daemon with namespaces, directories and a socket of its own, and without any network."""

    def __init__(self, home: Path):
        self.home = home
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DOCKER_BUILDKIT": "1",
            "DOCKER_HOST": f"unix://{home}/sock",
            "DOCKER_CONFIG": str(home / "config"),
        }
        self._images = 0

    def call(self, *words: str | Path) -> str:
        """Run the client; returns what it printed."""
        return call(DOCKER, *words, env=self.env).stdout.strip()

    def load(self, archive: Path) -> str:
        """Load a docker archive and return the name it says."""
        return self.call("load", "-q", "-i", archive).rpartition(": ")[2]

    def build(self, directory: Path, *words: str) -> Image:
        """Build a directory with BuildKit and read the image back."""
        self._images += 1
        name, archive = f"case{self._images}", self.home / "image.tar"
        self.call("build", "-q", "--network=none", "-t", name, *words, directory)
        self.call("save", "-o", archive, name)
        return read_archive(archive)


@contextlib.contextmanager
def docker() -> Iterator[Docker]:
    """Start a daemon; it is stopped by its pid and all it made is removed."""
    home = Path(tempfile.mkdtemp(prefix="bg-docker-", dir="/var/tmp"))
    places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    words = [f"--{option}={home}/{name}" for option, name in places.items()]
    words += [f"--host=unix://{home}/sock", "--bridge=none", "--userland-proxy=false"]
    words += [f"--{name}=false" for name in ("iptables", "ip6tables", "ip-forward", "ip-masq")]
    (home / "config").mkdir()
    (home / "daemon.json").write_text("{}")
    with open(home / "log", "wb") as log:
        daemon = subprocess.Popen(
            ["unshare", "--mount", "--net", "dockerd", f"--config-file={home}/daemon.json", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        found = Docker(home)
        deadline = time.monotonic() + 30
        while subprocess.run(
            [DOCKER, "info"], env=found.env, capture_output=True, check=False
        ).returncode:
            text = (home / "log").read_text(errors="replace")
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"machine: no docker daemon can be started here:\n{text[-2000:]}"
                )
            time.sleep(0.1)
        yield found
    finally:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        remove_tree(home)


class Buildah:
    """buildah with storage of its own."""

    def __init__(self, home: Path):
        self.home = home
        self.words = ["buildah", "--root", f"{home}/root", "--runroot", f"{home}/run"]
        self.words += ["--storage-driver", "overlay"]
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home)}
        self._images = 0

    def call(self, *words: str | Path) -> str:
        """Run it; returns what it printed."""
        return call(*self.words, *words, env=self.env).stdout.strip()

    def load(self, archive: Path, name: str) -> None:
        """Bring a docker archive into the storage under a name."""
        self.call("pull", "-q", f"docker-archive:{archive}")
        self.call("tag", self.call("images", "-q").splitlines()[0], name)

    def build(self, directory: Path, *words: str) -> Image:
        """Build a directory and read the image back."""
        self._images += 1
        name, archive = f"case{self._images}", self.home / "image.tar"
        archive.unlink(missing_ok=True)
        # The docker format, since OCI's has no health check, shell or trigger.
        self.call(
            *("bud", "-q", "--pull-never", "--network=none", "--isolation=oci", "--runtime=runc"),
            *("--format=docker", "-t", name, *words, directory),
        )
        self.call("push", "-q", "--disable-compression", name, f"docker-archive:{archive}:{name}:x")
        return read_archive(archive)


@contextlib.contextmanager
def buildah() -> Iterator[Buildah]:
    """Make a storage and remove it again."""
    home = Path(tempfile.mkdtemp(prefix="bg-buildah-", dir="/var/tmp"))
    try:
        yield Buildah(home)
    finally:
        unmount_below(home)
        remove_tree(home)


def unmount_below(top: Path) -> None:
    """Take away what a peer left mounted in its own directory."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for point in sorted((x.split()[4] for x in lines), reverse=True):
        if point.startswith(f"{top}/"):
            subprocess.run(["umount", "-l", point], check=False)


def run_bundle(bundle: Path, state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run an OCI bundle by runc, without a terminal."""
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["terminal"] = False
    if words:
        config["process"]["args"] = list(words)
    (bundle / "config.json").write_text(json.dumps(config))
    runc = shutil.which("runc") or "/usr/sbin/runc"
    return subprocess.run(
        [runc, "--root", str(state), "run", "-b", str(bundle), f"bg-peer-{os.getpid()}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
