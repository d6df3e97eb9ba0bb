"""Runs programs of other architectures in sandboxes: by handlers of our own and by those of a machine,
which is a user namespace with handlers of its own, so that the real machine's are left alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
QEMU = shutil.which("qemu-aarch64-static")
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(QEMU is None, reason="machine: qemu-user-static is not installed"),
    pytest.mark.skipif(
        "binfmt_misc" not in Path("/proc/filesystems").read_text(),
        reason="machine: the kernel has no binfmt_misc",
    ),
]

DRIVER = r"""
import json, os, sys
from buildgraph import kernel as k
from buildgraph.errors import NoEmulator
from buildgraph.sandbox import binfmt, emulation
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.spec import SandboxSpec

top, flags, own = sys.argv[1], sys.argv[2], sys.argv[3] == "own"
handlers = f"{top}/handlers"
os.makedirs(handlers)
# The machine's handlers, whose emulator lies where nobody looks for one.
mount = k.new_filesystem("binfmt_misc", {})
k.move_mount(mount, k.AT_FDCWD, handlers)
if flags != "none":
    line = binfmt.registration("arm64", f"{top}/emulator").rsplit(b":", 1)[0]
    binfmt._write(mount, "register", line + (b":OCF" if flags == "F" else b":OC"))
    if flags == "F":
        os.unlink(f"{top}/emulator")  # it was opened when it was registered
emulation.machine_handlers = lambda: binfmt.machine_handlers(handlers)
if not own:
    emulation.find_emulator = lambda *_: None
os.makedirs(f"{top}/store/layer/proc")
program = f"{top}/store/layer/program"
with open(program, "wb") as file:
    file.write(binfmt.tiny_program("arm64"))
os.chmod(program, 0o755)
for name in ("upper", "work"):
    os.mkdir(f"{top}/store/{name}")
spec = SandboxSpec(
    lowers=(f"{top}/store/layer",), upper=f"{top}/store/upper", work=f"{top}/store/work",
    args=("/program",), network="none", architecture="arm64",
)
with SandboxHost(f"{top}/store", jobs=1) as host:
    said = []
    try:
        status = host.run(spec, said.append)
        out = {"code": status.code, "said": b"".join(said).decode()}
    except NoEmulator as error:
        out = {"error": error.message, "hint": error.hint}
    out["way"] = host._emulation.way("arm64").detail
out["left"] = sorted(os.listdir(f"{top}/store/upper"))
print(json.dumps(out))
"""


@pytest.fixture
def top() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bg-emulation-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def drive(top: Path, flags: str, own: str) -> Any:
    assert QEMU is not None
    shutil.copy(QEMU, top / "emulator")
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*unshare, sys.executable, "-c", DRIVER, str(top), flags, own],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/cache"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "fsconfig create" in done.stderr:
        pytest.skip("machine: user namespaces have no handlers of their own before Linux 6.7")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_handler_with_its_emulator_opened_needs_nothing_inside(top: Path) -> None:
    out = drive(top, "F", "no")
    assert (out["code"], out["said"], out["left"]) == (0, "", [])
    assert out["way"] == "by the machine's handler qemu-aarch64"


def test_a_handler_without_gets_its_emulator_shown_inside(top: Path) -> None:
    out = drive(top, "-", "no")
    assert (out["code"], out["said"], out["left"]) == (0, "", [])
    assert out["way"].endswith("its emulator shown inside")


def test_our_own_handlers_come_first(top: Path) -> None:
    out = drive(top, "-", "own")
    assert (out["code"], out["said"], out["left"]) == (0, "", [])
    assert out["way"] == f"by {QEMU}, registered for steps alone"


def test_nothing_registered_is_said_before_anything_runs(top: Path) -> None:
    out = drive(top, "none", "no")
    assert "nothing on this machine runs arm64 programs" in out["error"]
    assert "apt install qemu-user-static" in out["hint"]
