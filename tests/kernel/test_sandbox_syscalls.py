"""Each call of the probe table, made by number from inside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from buildgraph.sandbox.spec import Bind
from buildgraph.sandbox.syscalls import numbers

EPERM, ENOSYS, EFAULT, EINVAL = 1, 38, 14, 22

# name -> (arguments, the error it must give); None = it must not be refused as unknown or forbidden
TABLE: dict[str, tuple[list[int], int | None]] = {
    "keyctl": ([0], EPERM),
    "add_key": ([0], EPERM),
    "request_key": ([0], EPERM),
    "bpf": ([0, 0, 0], EPERM),
    "mount": ([0, 0, 0, 0, 0], EPERM),
    "umount2": ([0, 0], EPERM),
    "pivot_root": ([0, 0], EPERM),
    "unshare": ([0x10000000], EPERM),
    "setns": ([0, 0], EPERM),
    "io_uring_setup": ([1, 0], EPERM),
    "io_uring_enter": ([0, 0], EPERM),
    "userfaultfd": ([0], EPERM),
    "perf_event_open": ([0], EPERM),
    "fsopen": ([0, 0], EPERM),
    "fsmount": ([0, 0], EPERM),
    "move_mount": ([0, 0, 0, 0, 0], EPERM),
    "open_tree": ([0, 0, 0], EPERM),
    "mount_setattr": ([0, 0, 0, 0, 0], EPERM),
    "open_by_handle_at": ([0, 0, 0], EPERM),
    "init_module": ([0, 0, 0], EPERM),
    "finit_module": ([0, 0, 0], EPERM),
    "delete_module": ([0, 0], EPERM),
    "kexec_load": ([0, 0, 0, 0], EPERM),
    "reboot": ([0, 0, 0], EPERM),
    "swapon": ([0, 0], EPERM),
    "acct": ([0], EPERM),
    "settimeofday": ([0, 0], EPERM),
    "clock_settime": ([0, 0], EPERM),
    "sethostname": ([0, 0], EPERM),
    "setdomainname": ([0, 0], EPERM),
    "syslog": ([10, 0, 0], EPERM),
    "quotactl": ([0, 0, 0, 0], EPERM),
    "kcmp": ([0, 0, 0, 0, 0], EPERM),
    "personality": ([0x0040000], EPERM),  # ADDR_NO_RANDOMIZE
    "clone": ([0x10000011, 0, 0, 0, 0], EPERM),  # a user namespace
    "clone3": ([0, 0], ENOSYS),
    "socket": ([38, 5, 0], EPERM),  # AF_ALG
    "ioctl": ([0, 0x5412, 0], EPERM),  # TIOCSTI
    "mknod": ([0, 0, 0], EFAULT),
    "chroot": ([0], EFAULT),
    "execve": ([0, 0, 0], EFAULT),
    "memfd_create": ([0, 0], EFAULT),
    "landlock_create_ruleset": ([0, 0, 1], None),
    "getrandom": ([0, 0, 0], None),
    "personality_query": ([0xFFFFFFFF], None),
    "openat2": ([0, 0, 0, 0], EINVAL),
    "futex_waitv": ([0, 0, 0, 0, 0], None),
}

PROGRAM = """
import ctypes, json, sys
call = ctypes.CDLL(None, use_errno=True).syscall
out = {}
for name, number, args in json.loads(sys.argv[1]):
    ctypes.set_errno(0)
    done = call(ctypes.c_long(number), *map(ctypes.c_long, args))
    out[name] = [done, ctypes.get_errno()]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def python_binds() -> tuple[Bind, ...]:
    if not Path("/usr/bin/python3").exists():
        pytest.skip("machine: no /usr/bin/python3 to run inside")
    return tuple(Bind(path, path) for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path))


def ask(box: Any, binds: tuple[Bind, ...], calls: list[tuple[str, int, list[int]]]) -> Any:
    result = box.run(["/usr/bin/python3", "-S", "-c", PROGRAM, json.dumps(calls)], mounts=binds)
    assert result.code == 0, result.out
    return json.loads(result.out)


def test_probe_table(box: Any, python_binds: tuple[Bind, ...]) -> None:
    table = numbers(os.uname().machine)
    calls = [
        (name, table[name.removesuffix("_query")], args)
        for name, (args, _) in TABLE.items()
        if name.removesuffix("_query") in table
    ]
    got = ask(box, python_binds, calls)
    wrong = {}
    for name, (done, error) in got.items():
        wanted = TABLE[name][1]
        bad = error in (EPERM, ENOSYS) if wanted is None else (done, error) != (-1, wanted)
        if bad:
            wrong[name] = (done, error, wanted)
    assert not wrong, "name: (result, errno, wanted)"


def test_vsock_and_newer_calls(box: Any, python_binds: tuple[Bind, ...]) -> None:
    table = numbers(os.uname().machine)
    got = ask(box, python_binds, [("vsock", table["socket"], [40, 1, 0]), ("new", 10_000, [])])
    assert got["vsock"] == [-1, EPERM]
    assert got["new"] == [-1, ENOSYS]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine: has no other ABI")
def test_x32_calls_are_refused(box: Any, python_binds: tuple[Bind, ...]) -> None:
    got = ask(
        box, python_binds, [("getpid", 0x40000000 + 39, []), ("keyctl", 0x40000000 + 250, [0])]
    )
    assert got["getpid"] == [-1, EPERM]
    assert got["keyctl"] == [-1, EPERM]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine: has no other ABI")
def test_i386_calls_have_a_list_of_their_own(box: Any, python_binds: tuple[Bind, ...]) -> None:
    """mov eax, N; int 0x80; ret: run from memory made executable."""
    code = (
        "import ctypes, mmap, os\n"
        "def call(n):\n"
        "    m = mmap.mmap(-1, 4096, prot=7)\n"
        r"    m.write(b'\xb8' + n.to_bytes(4, 'little') + b'\xcd\x80\xc3')"
        "\n"
        "    at = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "    return ctypes.CFUNCTYPE(ctypes.c_int)(at)()\n"
        "print(call(20) == os.getpid(), call(288), call(102))"  # getpid, keyctl, socketcall
    )
    result = box.run(["/usr/bin/python3", "-S", "-c", code], mounts=python_binds)
    assert result.out.split() == ["True", str(-EPERM), str(-ENOSYS)], result.out


def test_everything_is_allowed_without_the_list(
    rootbox: Any, python_binds: tuple[Bind, ...]
) -> None:
    table = numbers(os.uname().machine)
    args = ["/usr/bin/python3", "-S", "-c", PROGRAM, json.dumps([("u", table["unshare"], [0])])]
    result = rootbox.run(args, mounts=python_binds, seccomp=False)
    assert json.loads(result.out) == {"u": [0, 0]}
