"""Knows Linux system calls by name and number; must not know what anybody uses them for.

Only what Python's `os` lacks. Standard library alone, so that a program started with `python -I
-S` can use it. Every wrapper raises OSError with the call's name and argument in it. Calls are
made through `ctypes.PyDLL`, which keeps the interpreter lock: none of them blocks for long, and a
child made by `clone3` must own the lock that its only thread held.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

_libc: Final = ctypes.PyDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long

_MACHINE: Final = os.uname().machine

# Numbers: asm-generic/unistd.h; above 424 they are the same on every architecture.
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}.get(_MACHINE, -1)
_SYS_CAPSET: Final = {"x86_64": 126, "aarch64": 91}.get(_MACHINE, -1)
_SYS_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159}.get(_MACHINE, -1)
_SYS_SETNS: Final = {"x86_64": 308, "aarch64": 268}.get(_MACHINE, -1)
_SYS_UNSHARE: Final = {"x86_64": 272, "aarch64": 97}.get(_MACHINE, -1)
_SYS_KEYCTL: Final = {"x86_64": 250, "aarch64": 219}.get(_MACHINE, -1)
_SYS_RENAMEAT2: Final = {"x86_64": 316, "aarch64": 276}.get(_MACHINE, -1)
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_SYS_CLONE3: Final = 435
_SYS_CLOSE_RANGE: Final = 436
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
AT_SYMLINK_NOFOLLOW: Final = 0x100

# linux/sched.h
CLONE_NEWTIME: Final = 0x00000080
CLONE_PIDFD: Final = 0x00001000
CLONE_PARENT: Final = 0x00008000
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE_INTO_CGROUP: Final = 0x200000000

# linux/mount.h
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
MOUNT_ATTR_RDONLY: Final = 0x01
MOUNT_ATTR_NOSUID: Final = 0x02
MOUNT_ATTR_NODEV: Final = 0x04
MOUNT_ATTR_NOEXEC: Final = 0x08
MOUNT_ATTR_IDMAP: Final = 0x00100000
MS_RDONLY: Final = 1
MS_NODEV: Final = 4
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2

# linux/fs.h
RENAME_EXCHANGE: Final = 2

# linux/openat2.h
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

# linux/prctl.h, linux/securebits.h
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_SECUREBITS: Final = 28
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
SECCOMP_MODE_FILTER: Final = 2
KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522

PER_LINUX32: Final = 0x0008
PROC_SUPER_MAGIC: Final = 0x9FA0
SYSFS_MAGIC: Final = 0x62656572
OVERLAYFS_SUPER_MAGIC: Final = 0x794C7630
CGROUP2_SUPER_MAGIC: Final = 0x63677270

_long = ctypes.c_long


def _check(result: int, call: str, what: object = "") -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}", str(what) if what != "" else None)
    return result


def _bytes(path: str | bytes) -> bytes:
    return path if isinstance(path, bytes) else os.fsencode(path)


def unshare(flags: int) -> None:
    """Give this process new namespaces, unshare(2)."""
    _check(_syscall(_long(_SYS_UNSHARE), _long(flags)), "unshare", hex(flags))


def setns(fd: int, kind: int) -> None:
    """Join the namespace `fd` refers to, which must be of type `kind` (0 = any), setns(2)."""
    _check(_syscall(_long(_SYS_SETNS), _long(fd), _long(kind)), "setns", hex(kind))


def clone(flags: int, *, cgroup: int = -1) -> tuple[int, int]:
    """Fork with new namespaces and return (pid, pidfd); (0, -1) in the child, clone3(2).

    The caller must be single-threaded: no at-fork handler runs. The pidfd is the caller's and
    closed on exec. `cgroup` is a directory fd of a version 2 cgroup to start in. With CLONE_PARENT
    the child is a sibling, and its end is told as the caller's own would be.
    """
    pidfd = ctypes.c_int(-1)
    if cgroup >= 0:
        flags |= CLONE_INTO_CGROUP
    args = struct.pack(
        "<11Q",
        flags | CLONE_PIDFD,
        ctypes.addressof(pidfd),
        0,
        0,
        0 if flags & CLONE_PARENT else 17,  # SIGCHLD
        0,
        0,
        0,
        0,
        0,
        cgroup if cgroup >= 0 else 0,
    )
    buffer = ctypes.create_string_buffer(args, len(args))
    pid = _syscall(_long(_SYS_CLONE3), ctypes.byref(buffer), _long(len(args)))
    _check(pid, "clone3", hex(flags))
    return pid, (pidfd.value if pid else -1)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Attach a file system the old way, mount(2)."""
    done = _libc.mount(
        _bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data)
    )
    _check(done, "mount", target)


def umount(target: str, flags: int = 0) -> None:
    """Detach a file system, umount2(2)."""
    _check(_libc.umount2(_bytes(target), ctypes.c_int(flags)), "umount", target)


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root of this mount namespace and put the old one on `old`, pivot_root(2)."""
    _check(_syscall(_long(_SYS_PIVOT_ROOT), _bytes(new), _bytes(old)), "pivot_root", new)


def open_tree(directory: int, path: str, flags: int) -> int:
    """Return an O_PATH fd of a mount, or of a detached copy of it, open_tree(2)."""
    if not path:
        flags |= AT_EMPTY_PATH
    fd = _syscall(
        _long(_SYS_OPEN_TREE), _long(directory), _bytes(path), _long(flags | OPEN_TREE_CLOEXEC)
    )
    return _check(fd, "open_tree", path)


def move_mount(mount_fd: int, directory: int, path: str = "") -> None:
    """Attach the detached mount `mount_fd` on `path` below `directory`, move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    done = _syscall(
        _long(_SYS_MOVE_MOUNT),
        _long(mount_fd),
        b"",
        _long(directory),
        _bytes(path),
        _long(flags),
    )
    _check(done, "move_mount", path)


def fsopen(kind: str) -> int:
    """Begin a new file system of type `kind` and return its configuration fd, fsopen(2)."""
    return _check(_syscall(_long(_SYS_FSOPEN), _bytes(kind), _long(FSOPEN_CLOEXEC)), "fsopen", kind)


def fsconfig(fd: int, key: str, value: str | bytes | None = None) -> None:
    """Set one option; a value of None sets a flag, fsconfig(2). its log is in the error."""
    command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
    raw = None if value is None else _bytes(value)
    done = _syscall(_long(_SYS_FSCONFIG), _long(fd), _long(command), _bytes(key), raw, _long(0))
    if done < 0:
        code = ctypes.get_errno()
        shown = value.decode(errors="replace") if isinstance(value, bytes) else value
        raise OSError(code, f"fsconfig {key}={shown}: {os.strerror(code)}{_fs_log(fd)}")


def fscreate(fd: int) -> None:
    """Make the superblock that `fd` describes, fsconfig(2) FSCONFIG_CMD_CREATE."""
    done = _syscall(
        _long(_SYS_FSCONFIG), _long(fd), _long(FSCONFIG_CMD_CREATE), None, None, _long(0)
    )
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"fsconfig create: {os.strerror(code)}{_fs_log(fd)}")


def _fs_log(fd: int) -> str:
    """Return what the kernel wrote into the configuration's log, as ` (text; text)`."""
    lines: list[str] = []
    while len(lines) < 8:
        try:
            line = os.read(fd, 1024)
        except OSError:
            break
        lines.append(line.decode(errors="replace").strip())
    return f" ({'; '.join(lines)})" if lines else ""


def fsmount(fd: int, attributes: int) -> int:
    """Return a detached mount of the superblock made by `fscreate`, fsmount(2)."""
    mounted = _syscall(_long(_SYS_FSMOUNT), _long(fd), _long(FSMOUNT_CLOEXEC), _long(attributes))
    return _check(mounted, "fsmount")


def new_filesystem(kind: str, options: dict[str, str | None], attributes: int = 0) -> int:
    """Return a detached mount of a new file system. The caller closes it."""
    fd = fsopen(kind)
    try:
        for key, value in options.items():
            fsconfig(fd, key, value)
        fscreate(fd)
        return fsmount(fd, attributes)
    finally:
        os.close(fd)


def mount_setattr(
    fd: int,
    path: str = "",
    *,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns: int = 0,
    recursive: bool = False,
) -> None:
    """Change the attributes of a mount, mount_setattr(2)."""
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    attr = struct.pack("<4Q", set_, clear, propagation, userns)
    done = _syscall(
        _long(_SYS_MOUNT_SETATTR),
        _long(fd),
        _bytes(path),
        _long(flags),
        attr,
        ctypes.c_size_t(len(attr)),
    )
    _check(done, "mount_setattr", path)


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` below `directory` under the rules `resolve`, openat2(2); closed on exec."""
    how = struct.pack("<3Q", flags | os.O_CLOEXEC, mode, resolve)
    fd = _syscall(
        _long(_SYS_OPENAT2), _long(directory), _bytes(path), how, ctypes.c_size_t(len(how))
    )
    return _check(fd, "openat2", path)


def exchange(first: str, second: str) -> None:
    """Let two paths of one file system change places in one step, renameat2(2)."""
    done = _syscall(
        _long(_SYS_RENAMEAT2),
        _long(AT_FDCWD),
        _bytes(first),
        _long(AT_FDCWD),
        _bytes(second),
        _long(RENAME_EXCHANGE),
    )
    _check(done, "renameat2", second)


def statfs_type(fd: int) -> int:
    """Return the magic number of the file system `fd` is on, fstatfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(ctypes.c_int(fd), buffer), "fstatfs", fd)
    return int(struct.unpack_from("<q", buffer.raw)[0])


def sethostname(name: str) -> None:
    """Set the host name of this uts namespace, sethostname(2)."""
    raw = name.encode()
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), "sethostname", name)


def personality(value: int) -> None:
    """Set the execution domain, which exec keeps, personality(2)."""
    _check(_libc.personality(ctypes.c_ulong(value)), "personality", hex(value))


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> int:
    """Ask or change something of this process, prctl(2)."""
    done = _libc.prctl(ctypes.c_int(option), _long(arg2), _long(arg3), _long(0), _long(0))
    return _check(done, "prctl", option)


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability sets, given as bit masks, capset(2)."""
    header = struct.pack("<Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = struct.pack(
        "<6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    _check(_syscall(_long(_SYS_CAPSET), header, data), "capset")


def drop_bounding(keep: int) -> None:
    """Take every capability that is not in `keep` out of the bounding set, for good."""
    drop, failed = _libc.prctl, 0
    for bit in range(64):
        if not keep >> bit & 1 and drop(PR_CAPBSET_DROP, _long(bit), _long(0), _long(0)) < 0:
            failed = ctypes.get_errno()
            break  # EINVAL: past the kernel's last capability
    if failed and failed != errno.EINVAL:
        raise OSError(failed, f"prctl PR_CAPBSET_DROP: {os.strerror(failed)}")


def setfsuid(uid: int, gid: int) -> None:
    """Set the ids used for files, setfsuid(2); the caller checks that it may."""
    _libc.setfsgid(ctypes.c_uint(gid))
    _libc.setfsuid(ctypes.c_uint(uid))


def setgroups_raw(groups: tuple[int, ...]) -> None:
    """Set the supplementary groups, setgroups(2)."""
    raw = struct.pack(f"<{len(groups)}I", *groups)
    _check(_syscall(_long(_SYS_SETGROUPS), _long(len(groups)), raw), "setgroups", groups)


def seccomp_filter(program: bytes) -> None:
    """Install a classic BPF filter (8 bytes an instruction) on this thread, seccomp(2)."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    fprog_buffer = ctypes.create_string_buffer(fprog, len(fprog))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(fprog_buffer))


def join_session_keyring() -> None:
    """Give this process an empty session keyring, keyctl(2)."""
    done = _syscall(_long(_SYS_KEYCTL), _long(KEYCTL_JOIN_SESSION_KEYRING), None)
    _check(done, "keyctl")


def close_from(first: int) -> None:
    """Close every fd from `first` up, close_range(2)."""
    if _syscall(_long(_SYS_CLOSE_RANGE), _long(first), _long(0xFFFFFFFF), _long(0)) < 0:
        os.closerange(first, 1 << 20)
