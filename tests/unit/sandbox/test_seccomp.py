"""The compiled filter, run by a small interpreter of classic BPF."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.sandbox.seccomp import compile_filter
from buildgraph.sandbox.spec import CAPABILITIES, SandboxSpec
from buildgraph.sandbox.syscalls import numbers
from buildgraph.sandbox.syscalls_i386 import numbers_i386

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
I386 = 0x40000003
DEFAULT = SandboxSpec((), ("x",)).capability_mask


def decide(program: bytes, arch: int, number: int, *args: int) -> int:
    """Return what the kernel would for one call."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *args, *[0] * (6 - len(args)))
    at, value = 0, 0
    for _ in range(len(program)):
        code, yes, no, k = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            value = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            value &= k
        elif code == 0x05:
            at += k
        elif code == 0x15:
            at += yes if value == k else no
        elif code == 0x35:
            at += yes if value >= k else no
        else:
            assert code == 0x06
            return int(k)
    raise AssertionError("the program does not end")


def ask(machine: str, name: str, *args: int, mask: int = DEFAULT) -> int:
    program = compile_filter(machine, mask)
    return decide(program, ARCH[machine], numbers(machine)[name], *args)


MACHINES = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@MACHINES
@pytest.mark.parametrize(
    "name",
    [
        "read",
        "write",
        "openat",
        "execve",
        "ptrace",
        "mknodat",
        "chroot",
        "futex",
        "statx",
        "clone",
        "newfstatat",
        "seccomp",
        "landlock_create_ruleset",
        "fchmodat2",
        "io_setup",
        "capset",
    ],
)
def test_allowed(machine: str, name: str) -> None:
    assert ask(machine, name) == ALLOW


@MACHINES
@pytest.mark.parametrize(
    "name",
    [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "fsopen",
        "io_uring_setup",
        "userfaultfd",
        "perf_event_open",
        "open_by_handle_at",
        "pivot_root",
        "kexec_load",
        "init_module",
        "reboot",
        "settimeofday",
        "syslog",
        "move_mount",
        "open_tree",
    ],
)
def test_refused(machine: str, name: str) -> None:
    assert ask(machine, name) == EPERM


@MACHINES
def test_arguments_decide(machine: str) -> None:
    assert ask(machine, "clone3") == ENOSYS
    assert ask(machine, "clone", 17) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask(machine, "clone", flag | 17) == EPERM
    for family in range(46):
        assert ask(machine, "socket", family) == (EPERM if family in (38, 40) else ALLOW)
    for persona in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert ask(machine, "personality", persona) == ALLOW
    assert ask(machine, "personality", 0x40000) == EPERM
    assert ask(machine, "ioctl", 0, 0x5412) == EPERM
    assert ask(machine, "ioctl", 0, 0x5413) == ALLOW


def test_other_abis() -> None:
    program = compile_filter("x86_64", DEFAULT)
    assert decide(program, I386, 20) == ALLOW  # getpid
    assert decide(program, ARCH["x86_64"], 0x40000000 + 1) == EPERM
    assert decide(program, ARCH["x86_64"], 0xFFFFFFFF) == EPERM
    assert decide(compile_filter("aarch64", DEFAULT), ARCH["x86_64"], 0) == KILL


def test_32_bit_x86_has_a_list_of_its_own() -> None:
    program = compile_filter("x86_64", DEFAULT)
    table = numbers_i386()

    def ask_32(name: str, *args: int) -> int:
        return decide(program, I386, table[name], *args)

    assert {ask_32(name) for name in ("mmap2", "stat64", "_llseek", "futex_time64")} == {ALLOW}
    assert {ask_32(name) for name in ("mount", "umount", "keyctl", "bpf", "unshare")} == {EPERM}
    assert ask_32("clone3") == ENOSYS
    assert ask_32("clone", 0x10000000) == EPERM
    assert [ask_32("socket", family) for family in (2, 38, 40)] == [ALLOW, EPERM, EPERM]
    assert ask_32("socketcall", 1) == ENOSYS
    asked = compile_filter("x86_64", DEFAULT, socketcall=True)
    assert decide(asked, I386, table["socketcall"], 1) == ALLOW
    assert decide(program, I386, max(table.values()) + 1) == ENOSYS


def test_a_capability_brings_its_calls_to_32_bit_x86() -> None:
    mask = DEFAULT | 1 << CAPABILITIES.index("SYS_ADMIN")
    program = compile_filter("x86_64", mask)
    assert decide(program, I386, numbers_i386()["umount"]) == ALLOW


@MACHINES
def test_what_is_newer_than_the_table(machine: str) -> None:
    program = compile_filter(machine, DEFAULT)
    assert decide(program, ARCH[machine], max(numbers(machine).values()) + 1) == ENOSYS


@MACHINES
@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("SYS_ADMIN", "mount"),
        ("SYS_ADMIN", "clone3"),
        ("SYS_PTRACE", "kcmp"),
        ("BPF", "bpf"),
        ("SYS_TIME", "clock_settime"),
        ("DAC_READ_SEARCH", "open_by_handle_at"),
        ("SYSLOG", "syslog"),
    ],
)
def test_a_capability_brings_its_calls(machine: str, capability: str, name: str) -> None:
    bit = 1 << CAPABILITIES.index(capability)
    assert ask(machine, name, mask=DEFAULT | bit) == ALLOW
    assert ask(machine, name) != ALLOW


def test_no_chroot_without_its_capability() -> None:
    assert ask("x86_64", "chroot", mask=0) == EPERM


@given(number=st.integers(0, 2**32 - 1), args=st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_every_call_has_an_answer(number: int, args: list[int]) -> None:
    program = compile_filter("x86_64", DEFAULT)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096, "BPF_MAXINSNS"
    assert decide(program, ARCH["x86_64"], number, *args) in (ALLOW, EPERM, ENOSYS)
