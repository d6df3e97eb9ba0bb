"""Knows which system calls a container may make and compiles that to BPF; must not install it.

The list is that of moby's default profile. What it does not name is answered EPERM, what is newer
than the table ENOSYS (so that libc falls back), `clone3` ENOSYS (its flags lie in memory that a
filter cannot read). Other ABIs of the same machine have other numbers: i386 on x86_64 has a list of
its own, calls of x32 are refused, and a process of any other is killed.
"""

from __future__ import annotations

import errno
import struct
from functools import lru_cache
from typing import Final

from msgspec import Struct

from buildgraph.sandbox.spec import CAPABILITIES
from buildgraph.sandbox.syscalls import numbers
from buildgraph.sandbox.syscalls_i386 import numbers_i386

PROFILE_VERSION: Final = "3"  # part of a step's key: a changed list may change what a step sees

# fmt: off
_ALLOWED: Final = """
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat
fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr
fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer
getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday
getuid getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
io_cancel ioctl io_destroy io_getevents io_pgetevents ioprio_get ioprio_set io_setup io_submit
kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link
linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat
madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod
mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall
munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64
preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 ptrace
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir
rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam
sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid
setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit
set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setxattr setxattrat
shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat
statfs statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
utimensat utimes vfork vmsplice wait4 waitid write writev arch_prctl modify_ldt
""".split()

# What 32-bit programs have beside those.
_ALLOWED_32: Final = """
_llseek _newselect chown32 clock_adjtime64 clock_getres_time64 clock_gettime64
clock_nanosleep_time64 fadvise64_64 fchown32 fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64
futex_time64 getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32 getuid32
io_pgetevents_time64 ipc lchown32 lstat64 mmap2 mq_timedreceive_time64 mq_timedsend_time64
ppoll_time64 pselect6_time64 recvmmsg_time64 rt_sigtimedwait_time64
sched_rr_get_interval_time64 semtimedop_time64 sendfile64 setfsgid32 setfsuid32 setgid32
setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 sigprocmask sigreturn stat64
statfs64 timer_gettime64 timer_settime64 timerfd_gettime64 timerfd_settime64 truncate64
ugetrlimit utimensat_time64 waitpid
""".split()

_WITH_CAPABILITY: Final = {
    "DAC_READ_SEARCH": ["open_by_handle_at"],
    "SYS_ADMIN": [
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open",
        "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount",
        "umount2", "unshare",
    ],
    "SYS_BOOT": ["reboot"],
    "SYS_CHROOT": ["chroot"],
    "SYS_MODULE": ["delete_module", "init_module", "finit_module"],
    "SYS_PACCT": ["acct"],
    "SYS_PTRACE": ["kcmp", "pidfd_getfd", "process_madvise"],
    "SYS_RAWIO": ["iopl", "ioperm"],
    "SYS_TIME": ["settimeofday", "clock_settime", "clock_settime64", "stime"],
    "SYS_TTY_CONFIG": ["vhangup"],
    "SYS_NICE": ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    "SYSLOG": ["syslog"],
    "BPF": ["bpf"],
    "PERFMON": ["perf_event_open"],
}
# fmt: on

# linux/audit.h
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_AUDIT_I386: Final = 0x40000003
_X32_BIT: Final = 0x40000000

# linux/bpf_common.h, linux/seccomp.h; seccomp_data: nr, arch, ip, args[6]
_LD: Final = 0x20
_AND: Final = 0x54
_JA: Final = 0x05
_JEQ: Final = 0x15
_JGE: Final = 0x35
_RET: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_EPERM: Final = _ERRNO | errno.EPERM
_ENOSYS: Final = _ERRNO | errno.ENOSYS

_AF_ALG: Final = 38
_AF_VSOCK: Final = 40
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C
_PERSONALITIES: Final = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
# NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET
_NAMESPACE_FLAGS: Final = 0x7E020000

_Code = list[tuple[int, int, int, int]]  # (code, jump if true, jump if false, k)


def _ret(value: int) -> _Code:
    return [(_RET, 0, 0, value)]


def _load_arg(index: int) -> _Code:
    return [(_LD, 0, 0, 16 + 8 * index)]  # the low half: all four values are 32 bits wide


def _one_of(index: int, values: tuple[int, ...], inside: int, outside: int) -> _Code:
    """Return `inside` when the argument is one of `values`, else `outside`."""
    code = _load_arg(index)
    for at, value in enumerate(values):
        code.append((_JEQ, len(values) - at, 0, value))
    return code + _ret(outside) + _ret(inside)


def _rules(capabilities: frozenset[str], names: dict[str, int]) -> dict[int, _Code]:
    """Return number -> code that decides it, for every call with an answer of its own."""
    allowed = set(_ALLOWED)
    for capability, calls in _WITH_CAPABILITY.items():
        if capability in capabilities:
            allowed |= set(calls)
    rules: dict[str, _Code] = {name: _ret(_ALLOW) for name in allowed}
    rules["socket"] = _one_of(0, (_AF_ALG, _AF_VSOCK), _EPERM, _ALLOW)
    rules["personality"] = _one_of(0, _PERSONALITIES, _ALLOW, _EPERM)
    rules["ioctl"] = _one_of(1, (_TIOCSTI, _TIOCLINUX), _EPERM, _ALLOW)
    if "clone" not in allowed:
        masked = [*_load_arg(0), (_AND, 0, 0, _NAMESPACE_FLAGS), (_JEQ, 1, 0, 0)]
        rules["clone"] = masked + _ret(_EPERM) + _ret(_ALLOW)
        rules["clone3"] = _ret(_ENOSYS)
    return {names[name]: code for name, code in rules.items() if name in names}


class _Range(Struct, frozen=True):
    """Calls from `first` up to the next range have one answer."""

    first: int
    code: tuple[tuple[int, int, int, int], ...]


def _ranges(rules: dict[int, _Code], newest: int) -> list[_Range]:
    found: list[_Range] = []
    for number in range(newest + 2):
        code = tuple(rules.get(number, _ret(_EPERM if number <= newest else _ENOSYS)))
        if not found or found[-1].code != code:
            found.append(_Range(number, code))
    return found


def _tree(ranges: list[_Range]) -> _Code:
    """Return a binary search over the ranges; jumps reach 255, so long ones hop through JA."""
    if len(ranges) == 1:
        return list(ranges[0].code)
    middle = len(ranges) // 2
    left, right = _tree(ranges[:middle]), _tree(ranges[middle:])
    return [(_JGE, 0, 1, ranges[middle].first), (_JA, 0, 0, len(left)), *left, *right]


def _i386(capabilities: frozenset[str], socketcall: bool) -> _Code:
    """Return the decision about a call of 32-bit x86."""
    names = numbers_i386()
    rules = _rules(capabilities, names)
    rules |= {names[name]: _ret(_ALLOW) for name in _ALLOWED_32}
    # Its address family lies in memory, so it would let AF_ALG and AF_VSOCK through.
    rules[names["socketcall"]] = _ret(_ALLOW if socketcall else _ENOSYS)
    return _tree(_ranges(rules, max(names.values())))


@lru_cache(maxsize=16)
def compile_filter(machine: str, capability_mask: int, *, socketcall: bool = False) -> bytes:
    """Return the filter as struct sock_filter[] (8 bytes an instruction), seccomp(2).

    `socketcall` lets 32-bit x86 programs have sockets by the call that old ones know alone.
    Raises KeyError for a machine without a table: then there is no filter, and the caller says so.
    """
    names = numbers(machine)
    capabilities = frozenset(
        name for bit, name in enumerate(CAPABILITIES) if capability_mask >> bit & 1
    )
    own: _Code = [(_LD, 0, 0, 0)]
    other = _ret(_KILL)
    if machine == "x86_64":
        own += [(_JGE, 0, 1, _X32_BIT), *_ret(_EPERM)]
        other = [(_JEQ, 1, 0, _AUDIT_I386), *other, (_LD, 0, 0, 0)]
        other += _i386(capabilities, socketcall)
    own += _tree(_ranges(_rules(capabilities, names), max(names.values())))
    code: _Code = [(_LD, 0, 0, 4), (_JEQ, 0, 1, _AUDIT_ARCH[machine]), (_JA, 0, 0, len(other))]
    return b"".join(struct.pack("<HBBI", *one) for one in [*code, *other, *own])
