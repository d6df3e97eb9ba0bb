"""Knows how the kernel comes to run programs of another architecture: by itself, by an emulator
that the machine registered, or by one registered for our containers alone; must not know what
such a program is for.

Since Linux 6.7 each user namespace may have handlers of its own. Ours are registered in the
containers' namespace, through a mount that is attached nowhere: the machine is not touched, no
step sees it, and it is gone with the zygote. Flag F opens the emulator once, at registration, so
that nothing of it has to be inside. Sources: Documentation/admin-guide/binfmt-misc.rst, elf(5).
"""

from __future__ import annotations

import _socket
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from buildgraph import kernel as k
from buildgraph.sandbox.wire import receive, send

HANDLERS: Final = "/proc/sys/fs/binfmt_misc"
_PLACES: Final = "/usr/bin:/usr/local/bin:/bin:/usr/libexec/qemu-binfmt"
_PT_LOAD: Final = 1
_PT_INTERP: Final = 3
_BASE: Final = 0x400000
_ARGV0_SINCE: Final = 6  # the version of qemu that understands flag P
_TIMEOUT: Final = 10.0


class _Machine(NamedTuple):
    """How an architecture looks in an ELF header, and its words for `exit(0)`."""

    qemu: str
    bits: int
    little: bool
    number: int  # e_machine
    flags: int  # e_flags
    exit: str  # hexadecimal


# By Go's name of the architecture.
_MACHINES: Final = {
    "386": _Machine("i386", 32, True, 3, 0, "b801000000 31db cd80"),
    "amd64": _Machine("x86_64", 64, True, 62, 0, "b83c000000 31ff 0f05"),
    "arm": _Machine("arm", 32, True, 40, 0x05000000, "0000a0e3 0170a0e3 000000ef"),
    "arm64": _Machine("aarch64", 64, True, 183, 0, "000080d2 a80b80d2 010000d4"),
    "loong64": _Machine("loongarch64", 64, True, 258, 0x43, "04008003 0b748103 00002b00"),
    "mips64le": _Machine("mips64el", 64, True, 8, 0x80000007, "c2130224 00000424 0c000000"),
    "ppc64le": _Machine("ppc64le", 64, True, 21, 2, "01000038 00006038 02000044"),
    "riscv64": _Machine("riscv64", 64, True, 243, 0, "13050000 9308d005 73000000"),
    "s390x": _Machine("s390x", 64, False, 22, 0, "a7290000 0a01"),
}
ARCHITECTURES: Final = tuple(_MACHINES)
_OWN: Final = {"x86_64": "amd64", "aarch64": "arm64"}  # uname -m -> what its kernel runs itself


def tiny_program(architecture: str) -> bytes:
    """Return a static program of the architecture that ends at once with status 0."""
    return elf(architecture, bytes.fromhex(_MACHINES[architecture].exit))


def elf(architecture: str, code: bytes) -> bytes:
    """Return a static ELF program whose only segment is `code`, executable and writable, elf(5)."""
    m = _MACHINES[architecture]
    order = "<" if m.little else ">"
    head, segment = (64, 56) if m.bits == 64 else (52, 32)
    start = head + segment
    ident = b"\x7fELF" + bytes([m.bits // 32, 1 if m.little else 2, 1]) + bytes(9)
    word = "Q" if m.bits == 64 else "I"
    header = struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        2, m.number, 1, _BASE + start, head, 0, m.flags, head, segment, 1, 0, 0, 0,
    )  # fmt: skip
    size = start + len(code)
    if m.bits == 64:
        fields = (_PT_LOAD, 7, 0, _BASE, _BASE, size, size, 0x10000)
        program = struct.pack(f"{order}IIQQQQQQ", *fields)
    else:
        fields = (_PT_LOAD, 0, _BASE, _BASE, size, size, 7, 0x10000)
        program = struct.pack(f"{order}IIIIIIII", *fields)
    return ident + header + program + code


def own_architecture() -> str:
    """Return Go's name of what the processor itself runs, "" where we do not know it."""
    return _OWN.get(os.uname().machine, "")


@lru_cache(maxsize=1)
def native_architectures() -> tuple[str, ...]:
    """Return Go's names of what the processor itself runs here; a 64-bit x86 may run i386 too."""
    own = own_architecture()
    if own == "amd64" and not any(h.takes(tiny_program("386")) for h in machine_handlers()):
        return (own, "386") if runs_here("386") else (own,)
    return (own,) if own else ()


def runs_here(architecture: str) -> bool:
    """Ask the kernel: start a tiny program of the architecture outside of any sandbox."""
    if architecture not in _MACHINES:
        return False
    fd = os.memfd_create("tiny", 0)  # not close-on-exec: an emulator opens it by its name
    try:
        os.write(fd, tiny_program(architecture))
        done = subprocess.run(
            [f"/proc/self/fd/{fd}"],
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        os.close(fd)
    return done.returncode == 0


# -- what the machine has ------------------------------------------------------------------------


class Handler(NamedTuple):
    """A handler that the machine's kernel has; `fixed` = its emulator was opened beforehand."""

    name: str
    interpreter: str
    fixed: bool
    offset: int
    magic: bytes
    mask: bytes

    def takes(self, program: bytes) -> bool:
        """Say whether the kernel would give it this program."""
        part = program[self.offset : self.offset + len(self.magic)]
        if len(part) < len(self.magic):
            return False
        mask = self.mask or b"\xff" * len(self.magic)
        return all((a ^ b) & m == 0 for a, b, m in zip(part, self.magic, mask, strict=True))


def machine_handlers(directory: str = HANDLERS) -> list[Handler]:
    """Return the handlers that are registered and enabled; [] where none can be seen."""
    found: list[Handler] = []
    try:
        names = sorted(os.listdir(directory))
        if Path(directory, "status").read_text().strip() != "enabled":
            return []
    except OSError:
        return []
    for name in names:
        if name in ("register", "status"):
            continue
        try:
            handler = parse_handler(name, Path(directory, name).read_text(errors="replace"))
        except OSError:
            continue  # unregistered meanwhile
        if handler is not None:
            found.append(handler)
    return found


def parse_handler(name: str, text: str) -> Handler | None:
    """Return what the kernel says of one handler; None for a disabled one or one by extension."""
    lines = text.splitlines()
    pairs = dict(line.split(" ", 1) for line in lines if " " in line)
    if "enabled" not in lines or "magic" not in pairs or "interpreter" not in pairs:
        return None
    try:
        return Handler(
            name,
            pairs["interpreter"],
            "F" in pairs.get("flags:", ""),
            int(pairs.get("offset", "0")),
            bytes.fromhex(pairs["magic"]),
            bytes.fromhex(pairs.get("mask", "")),
        )
    except ValueError:
        return None


def is_static(path: str) -> bool:
    """Say whether a file is a program that needs no loader and no libraries, elf(5)."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            if head[:4] != b"\x7fELF" or len(head) < 64:
                return False
            order = "<" if head[5] == 1 else ">"
            wide = head[4] == 2
            at = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
            size, count = struct.unpack_from(f"{order}HH", head, 54 if wide else 42)
            file.seek(at)
            table = file.read(min(size * count, 1 << 16))
    except OSError:
        return False
    kinds = [
        struct.unpack_from(f"{order}I", table, start)[0]
        for start in range(0, len(table) - 3, max(size, 4))
    ]
    return bool(kinds) and _PT_INTERP not in kinds


def qemu_name(architecture: str) -> str:
    """Return what qemu calls an architecture, "" for one that it is not asked about here."""
    machine = _MACHINES.get(architecture)
    return machine.qemu if machine else ""


def find_emulator(
    architecture: str, handlers: Sequence[Handler] = (), places: str = _PLACES
) -> str | None:
    """Return a static emulator of this machine for an architecture, or None.

    qemu under its usual names (Debian calls it qemu-aarch64-static, since release 13 also
    qemu-aarch64), or what a handler of the machine names.
    """
    machine = _MACHINES.get(architecture)
    if machine is None:
        return None
    names = (f"qemu-{machine.qemu}-static", f"qemu-{machine.qemu}")
    named = [shutil.which(name, path=places) for name in names]
    named += [h.interpreter for h in handlers if h.takes(tiny_program(architecture))]
    return next((path for path in named if path and is_static(path)), None)


def understands_argv0(interpreter: str) -> bool:
    """Say whether an emulator is new enough for flag P; qemu tells its version."""
    try:
        done = subprocess.run(
            [interpreter, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.search(r"version (\d+)\.", done.stdout)
    return found is not None and int(found[1]) >= _ARGV0_SINCE


def registration(architecture: str, interpreter: str, *, argv0: bool = True) -> bytes:
    """Return the line that registers an emulator for an architecture's programs.

    Flags: F opens it now, O and C let setuid programs keep their meaning, P keeps argv[0].
    """
    program = tiny_program(architecture)
    little = _MACHINES[architecture].little
    # The ABI's byte and, of the type, the bit that tells programs from position-independent ones.
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8
    mask += b"\xfe\xff\xff\xff" if little else b"\xff\xfe\xff\xff"
    texts = ["".join(f"\\x{byte:02x}" for byte in part) for part in (program[:20], mask)]
    flags = "POCF" if argv0 else "OCF"
    name = f"qemu-{_MACHINES[architecture].qemu}"
    return os.fsencode(f":{name}:M::{texts[0]}:{texts[1]}:{interpreter}:{flags}")


# -- in the containers' namespace ----------------------------------------------------------------


def own_handlers(userns: int, lines: Sequence[bytes], architecture: str) -> tuple[int, str]:
    """Register emulators in a user namespace and try one; return an fd and "", or -1 and why not.

    The handlers live as long as any such fd. Called in a process that may enter the namespace.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            _register_inside(theirs, userns, lines, architecture)
        except OSError as error:
            send(theirs, {"error": str(error)})
        finally:
            os._exit(0)
    theirs.close()
    answer, fds = receive(ours)
    os.waitpid(pid, 0)
    ours.close()
    if answer is None or "error" in answer:
        for fd in fds:
            os.close(fd)
        return -1, str((answer or {}).get("error", "the process that registers died"))
    return fds[0], ""


def _register_inside(
    sock: _socket.socket, userns: int, lines: Sequence[bytes], architecture: str
) -> None:
    k.setns(userns, k.CLONE_NEWUSER)
    k.unshare(k.CLONE_NEWNS)  # to mount, the mount namespace too has to belong to the user's
    mount = k.new_filesystem("binfmt_misc", {})
    refused = ""
    for line in lines:
        try:
            _write(mount, "register", line)
        except OSError as error:
            refused = f": {error}"  # which may be another's than the one that is wanted
    if not runs_here(architecture):
        raise OSError(f"the emulator of {architecture} does not start{refused}")
    send(sock, {}, (mount,))


def _write(directory: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
