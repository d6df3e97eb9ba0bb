"""Knows how long an image takes from a registry to here and back, beside skopeo; must not know any
builder.

The registry is Debian's `docker-registry` on loopback, with a directory of its own. The image has
20 layers, half of their bytes incompressible, and comes into an empty store (skopeo: into an empty
OCI layout); it goes to a registry that has nothing yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measure import Command, Cost, median, run
from peers import Ours
from report import OURS, Result
from workloads import Scale

NAME = "registry"
_LAYERS = 20
_SKOPEO = "skopeo"
_TYPE = "application/vnd.oci.image"


class Server:
    """A registry with nothing in it."""

    def __init__(self, home: Path):
        self.home = home
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{sock.getsockname()[1]}"
        home.mkdir(parents=True)
        (home / "config.yml").write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {home}/data}}}}\nhttp: {{addr: {self.host}}}\n"
        )
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(home / "config.yml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        host, _, port = self.host.partition(":")
        for _ in range(200):
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise OSError("docker-registry does not answer")

    def stop(self) -> None:
        """End it and remove what it holds."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self.home)


def lacks() -> str:
    """Return why this cannot be measured here, or nothing."""
    missing = [program for program in ("docker-registry", _SKOPEO) if not shutil.which(program)]
    return f"{', '.join(missing)} not installed" if missing else ""


def measure(
    top: Path, scale: Scale, ours: Ours, rounds: int, say: Callable[[str], None]
) -> list[Result]:
    """Measure pulling and pushing, each tool in turn."""
    home = top / NAME
    size = scale.large_bytes
    say(f"{NAME}: making an image of {size / 1e6:.0f} MB")
    layout = home / "layout"
    _image(layout, size)
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "TMPDIR": str(home)}
    source = Server(home / "source")
    taken: dict[tuple[str, str], list[Cost]] = {}
    load = os.getloadavg()[0]
    try:
        _call(_SKOPEO, "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:1",
              f"docker://{source.host}/bench:1", env=env)  # fmt: skip
        work = home / "work"
        work.mkdir()
        (work / "Dockerfile").write_text(f"FROM {source.host}/bench:1\nLABEL a=b\n")
        for number in range(rounds):
            pulled = home / f"pulled{number}"
            pull = {
                OURS: (*ours.argv, "build", "."),
                _SKOPEO: (
                    *(_SKOPEO, "copy", "-q", "--src-tls-verify=false"),
                    *(f"docker://{source.host}/bench:1", f"oci:{pulled}:1"),
                ),
            }
            ours.forget()
            for tool, argv in pull.items():
                say(f"{NAME}: pull, {tool} ({number + 1}/{rounds})")
                taken.setdefault(("pull", tool), []).append(_cost(ours, tool, argv, work, env))
            for tool in (OURS, _SKOPEO):
                say(f"{NAME}: push, {tool} ({number + 1}/{rounds})")
                target = Server(home / f"target-{tool}")
                name = f"{target.host}/bench:1"
                push = (
                    (*ours.argv, "build", ".", "-t", name, "--push")
                    if tool == OURS
                    else (
                        *(_SKOPEO, "copy", "-q", "--dest-tls-verify=false"),
                        *(f"oci:{pulled}:1", f"docker://{name}"),
                    )
                )
                try:
                    taken.setdefault(("push", tool), []).append(_cost(ours, tool, push, work, env))
                finally:
                    target.stop()
            shutil.rmtree(pulled)
    finally:
        source.stop()
        shutil.rmtree(home)
    words = f"{size / 1e6:.0f} MB in {_LAYERS} layers"
    return [
        Result(
            f"{NAME}/{what}",
            f"{what} {words}",
            None,
            {tool: median(taken[what, tool]) for tool in (OURS, _SKOPEO)},
            {},
            rounds,
            load,
        )
        for what in ("pull", "push")
    ]


def _cost(ours: Ours, tool: str, argv: tuple[str, ...], cwd: Path, env: Mapping[str, str]) -> Cost:
    command = ours.command(argv, cwd) if tool == OURS else Command(argv, cwd, env)
    return run(command, cwd.parent / "last.log")


def _call(*argv: str, env: Mapping[str, str]) -> None:
    subprocess.run(argv, env=dict(env), check=True, stdout=subprocess.DEVNULL)


def _image(layout: Path, size: int) -> None:
    """Write an OCI layout, a piece at a time: this process has to stay small."""
    from isal import igzip

    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    pick = random.Random(5)
    text = b"".join(b"line %d of a text that compresses well\n" % n for n in range(30_000))[
        : 1 << 20
    ]

    def put(data: bytes, kind: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    layers, diff_ids = [], []
    for number in range(_LAYERS):
        each = size // _LAYERS
        temporary = layout / "layer"
        plain = hashlib.sha256()
        with open(temporary, "wb") as raw, igzip.open(raw, "wb", compresslevel=1) as out:
            head = tarfile.TarInfo(f"blob{number}")
            head.size = each
            for piece in (head.tobuf(tarfile.PAX_FORMAT), *_pieces(each, pick, text)):
                plain.update(piece)
                out.write(piece)
        digest = hashlib.sha256()
        with open(temporary, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
        count = temporary.stat().st_size
        os.rename(temporary, blobs / digest.hexdigest())
        layers.append(
            {
                "mediaType": f"{_TYPE}.layer.v1.tar+gzip",
                "digest": f"sha256:{digest.hexdigest()}",
                "size": count,
            }
        )
        diff_ids.append(f"sha256:{plain.hexdigest()}")
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": put(json.dumps(config).encode(), f"{_TYPE}.config.v1+json"),
        "layers": layers,
    }
    top = put(json.dumps(manifest).encode(), f"{_TYPE}.manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))


def _pieces(size: int, pick: random.Random, text: bytes) -> Any:
    """Yield a file's bytes, its padding to a block and the end of the archive."""
    left = size
    while left > 0:
        piece = (pick.randbytes(1 << 20) if (left >> 20) % 2 else text)[:left]
        left -= len(piece)
        yield piece
    yield bytes(-size % 512 + 1024)
