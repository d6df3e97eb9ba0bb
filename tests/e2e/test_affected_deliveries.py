"""Holds `affected` to what is not an image's own files: smoke tests, pushes, and pins of the lock."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from buildgraph.cli.affected import find_affected
from buildgraph.cli.entry import open_workspace

ONE, TWO = "1" * 64, "2" * 64
LOCK = f"""version 1
image docker.io/library/debian:12@sha256:{ONE}
image docker.io/library/other:1@sha256:{ONE}

target //deb:image amd64
  request sha256:{ONE}
  archive deb http://mirror.example/debian trixie main
    adduser 3.134 all pool/main/a/adduser/adduser_3.134_all.deb 116072 sha256:{ONE}
"""
FILES = {
    "Boxfile.yaml": "workspace: {}\n",
    "Boxfile.lock": LOCK,
    "app/Dockerfile": "FROM scratch\nCOPY f /\n",
    "app/f": "1\n",
    "check/seed/data": "1\n",
    "check/vars": "A=1\n",
    "check/beside": "1\n",
    "check/Boxfile.yaml": (
        "targets:\n"
        "  smoke:\n"
        "    rule: smoke\n"
        "    services:\n"
        "      app: {image: //app, command: [x], volumes: ['./seed:/seed:ro'], env_file: vars}\n"
        "    checks:\n"
        "      - exec: {in: app, run: [x]}\n"
        "  release:\n"
        "    rule: push\n"
        "    image: //app\n"
        "    tags: [registry.example.com/app:1]\n"
        "    requires: [':smoke']\n"
        "  untested: {rule: push, image: //app, tags: [registry.example.com/app:2]}\n"
    ),
    "pinned/Dockerfile": "FROM debian:12\nRUN true\n",
    "above/Dockerfile": "FROM pinned\nRUN true\n",
    "above/Boxfile.yaml": "targets: {image: {contexts: {pinned: //pinned}}}\n",
    "deb/Boxfile.yaml": "targets: {image: {rule: debian, packages: [adduser]}}\n",
}
TESTED = {"//check:smoke", "//check:release"}
# A file, what is replaced in it, and what that affects.
EDITS = {
    "the image": ("app/f", "1", "2", {"//app:image", "//check:untested", *TESTED}),
    "a bound file": ("check/seed/data", "1", "2", TESTED),
    "an env file": ("check/vars", "1", "2", TESTED),
    "a file beside": ("check/beside", "1", "2", set()),
    "a check": ("check/Boxfile.yaml", "run: [x]", "run: [y]", TESTED),
    "a service": ("check/Boxfile.yaml", "command: [x], v", "command: [y], v", TESTED),
    "a tag": ("check/Boxfile.yaml", "app:2", "app:3", {"//check:untested"}),
    "a pin": ("Boxfile.lock", f"debian:12@sha256:{ONE}", f"debian:12@sha256:{TWO}", {
        "//pinned:image", "//above:image",
    }),
    "a pin nobody uses": ("Boxfile.lock", f"other:1@sha256:{ONE}", f"other:1@sha256:{TWO}", set()),
    "a package's pin": ("Boxfile.lock", f"116072 sha256:{ONE}", f"116072 sha256:{TWO}", {
        "//deb:image",
    }),
    "a comment in the lock": ("Boxfile.lock", "version 1\n", "# said\nversion 1\n", set()),
}  # fmt: skip


def _git(top: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", *identity, *words], cwd=top, check=True, capture_output=True)


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("deliveries")
    for path, text in FILES.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_text(text)
    _git(made, "init", "-q", "-b", "main")
    _git(made, "add", "-A")
    _git(made, "commit", "-q", "-m", "first")
    return made


@pytest.mark.parametrize("name", EDITS)
def test_what_an_edit_reaches(top: Path, name: str) -> None:
    path, old, new, expected = EDITS[name]
    text = (top / path).read_text()
    assert text.count(old) == 1
    (top / path).write_text(text.replace(old, new))
    try:
        workspace, _ = open_workspace(str(top))
        found = find_affected(workspace, "HEAD", str(top / "no-store"))
    finally:
        _git(top, "checkout", "-q", "--", path)
    assert {one.label for one in found} == expected
    assert all(one.causes or one.via in expected for one in found)
