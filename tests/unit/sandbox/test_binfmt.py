"""Holds what is known of foreign programs and of the kernel's handlers to what elf(5) and
binfmt-misc say; runs nothing but this machine's own programs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from buildgraph.errors import NoEmulator
from buildgraph.sandbox import emulation
from buildgraph.sandbox.binfmt import (
    ARCHITECTURES,
    find_emulator,
    is_static,
    machine_handlers,
    own_architecture,
    parse_handler,
    registration,
    runs_here,
    tiny_program,
)
from buildgraph.sandbox.emulation import Emulation
from buildgraph.sandbox.spec import Bind, SandboxSpec

AARCH64 = """\
enabled
interpreter /usr/bin/qemu-aarch64-static
flags: OCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def spec(architecture: str) -> SandboxSpec:
    return SandboxSpec(("/l",), ("/p",), architecture=architecture)


def test_this_machine_runs_its_own_tiny_program() -> None:
    if not own_architecture():
        pytest.skip("machine: its architecture has no table")
    assert runs_here(own_architecture())
    assert not runs_here("vax")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_registration_takes_its_programs_alone(architecture: str) -> None:
    fields = registration(architecture, "/e").split(b":")
    assert (fields[2], fields[3], fields[6], fields[7]) == (b"M", b"", b"/e", b"POCF")
    magic, mask = (bytes.fromhex(f.decode().replace("\\x", "")) for f in fields[4:6])
    text = f"enabled\ninterpreter /e\nflags: F\noffset 0\nmagic {magic.hex()}\nmask {mask.hex()}\n"
    handler = parse_handler("x", text)
    assert handler is not None
    assert [a for a in ARCHITECTURES if handler.takes(tiny_program(a))] == [architecture]
    order = "<" if tiny_program(architecture)[5] == 1 else ">"
    shared = bytearray(tiny_program(architecture))
    struct.pack_into(f"{order}H", shared, 16, 3)  # ET_DYN: a position-independent program
    assert handler.takes(bytes(shared))
    assert not handler.takes(bytes(shared)[:10])


def test_handlers_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "register").write_text("")
    (tmp_path / "qemu-aarch64").write_text(AARCH64)
    (tmp_path / "off").write_text(AARCH64.replace("enabled", "disabled"))
    (tmp_path / "jar").write_text("enabled\ninterpreter /j\nflags: \nextension .jar\n")
    (tmp_path / "odd").write_text(AARCH64.replace("7f45", "7f4"))
    (found,) = machine_handlers(str(tmp_path))
    assert (found.name, found.fixed) == ("qemu-aarch64", True)
    assert found.takes(tiny_program("arm64"))
    assert not found.takes(tiny_program("arm"))
    (tmp_path / "status").write_text("disabled\n")
    assert machine_handlers(str(tmp_path)) == []
    assert machine_handlers(str(tmp_path / "none")) == []


def test_only_a_static_emulator_will_do(tmp_path: Path) -> None:
    place = tmp_path / "qemu-aarch64"
    assert find_emulator("arm64", places=str(tmp_path)) is None
    place.write_bytes(tiny_program("amd64"))
    place.chmod(0o755)
    assert is_static(str(place))
    assert find_emulator("arm64", places=str(tmp_path)) == str(place)
    assert find_emulator("vax", places=str(tmp_path)) is None
    dynamic = bytearray(tiny_program("amd64"))
    struct.pack_into("<I", dynamic, 64, 3)  # PT_INTERP
    place.write_bytes(dynamic)
    assert not is_static(str(place))
    assert find_emulator("arm64", places=str(tmp_path)) is None
    place.write_text("#!/bin/sh\n")
    assert not is_static(str(place))
    (tmp_path / "cut").write_bytes(tiny_program("amd64")[:50])
    assert not is_static(str(tmp_path / "cut"))


def test_own_programs_ask_nobody() -> None:
    def never(lines: Sequence[bytes], architecture: str) -> str:
        raise AssertionError

    emulated = Emulation(never)
    for name in ("", own_architecture()):
        assert emulated.ready(spec(name)) == spec(name)


def test_what_is_tried_in_which_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[int, str]] = []
    answer = ""

    def register(lines: Sequence[bytes], architecture: str) -> str:
        asked.append((len(lines), architecture))
        return answer

    place = tmp_path / "emulator"
    place.write_bytes(tiny_program("amd64"))
    text = AARCH64.replace("/usr/bin/qemu-aarch64-static", str(place))
    handler = parse_handler("qemu", text)
    assert handler is not None
    monkeypatch.setattr(emulation, "native_architectures", lambda: ())
    monkeypatch.setattr(emulation, "own_architecture", lambda: "")
    monkeypatch.setattr(emulation, "runs_here", lambda _: False)
    monkeypatch.setattr(
        emulation, "find_emulator", lambda a, _: str(place) if a in ("arm64", "arm") else None
    )
    monkeypatch.setattr(emulation, "machine_handlers", list)

    emulated = Emulation(register)
    assert emulated.ready(spec("arm64")).mounts == ()
    assert emulated.ready(spec("arm")).mounts == ()
    assert asked == [(2, "arm64"), (0, "arm")], "all at once, each tried"
    with pytest.raises(NoEmulator, match="nothing on this machine runs s390x programs"):
        emulated.ready(spec("s390x"))

    answer = "not before Linux 6.7"
    emulated = Emulation(register)
    with pytest.raises(NoEmulator, match=r"not registered.*Linux 6\.7") as caught:
        emulated.ready(spec("arm64"))
    assert "update-binfmts --enable qemu-aarch64" in (caught.value.hint or "")
    monkeypatch.setattr(emulation, "machine_handlers", lambda: [handler])
    emulated = Emulation(register)
    assert emulated.ready(spec("arm64")).mounts == (), "it was opened beforehand"
    loose = parse_handler("qemu", text.replace("OCF", "OC"))
    monkeypatch.setattr(emulation, "machine_handlers", lambda: [loose])
    emulated = Emulation(register)
    assert emulated.ready(spec("arm64")).mounts == (Bind(str(place), str(place)),)

    with pytest.raises(NoEmulator, match="mips cannot be run"):
        emulated.ready(spec("mips"))
