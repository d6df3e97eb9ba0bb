"""Knows what a container is, as data; must not know how the kernel is asked for it.

A spec is complete: the same spec over the same directories starts the same container. It is
parsed at this door (`SandboxSpec` refuses what cannot be meant), saved as JSON beside a failed
step, and told in words by `describe` before anything is executed.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any, Final, Literal, assert_never

from msgspec import Struct
from msgspec.structs import asdict, replace

from buildgraph.errors import InputError
from buildgraph.fields import field_names
from buildgraph.limits import GIB, MIB, STEP_LOG_BYTES

Network = Literal["none", "host", "default"]

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# linux/capability.h, in the order of their bits
CAPABILITIES: Final = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()

# What docker gives a container.
DEFAULT_CAPABILITIES: Final = frozenset(
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
    "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE".split()
)

# The union of what moby, BuildKit and buildah hide.
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# asm-generic/resource.h, by docker's names
ULIMITS: Final = {
    name: number
    for number, name in enumerate(
        "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice "
        "rtprio rttime".split()
    )
}

# Nothing of the user's is ever put here: these are ours, made before any code of the image runs.
_RESERVED: Final = ("/proc", "/sys", "/dev")
_RESERVED_EXCEPT: Final = ("/dev/shm", "/dev/mqueue")


class Bind(Struct, frozen=True):
    """A directory or file of the host seen at `target`.

    `beneath` is a path below `source` that is shown instead of it, made where it is missing. It
    is resolved inside `source` when the container starts, whatever links others put there.
    """

    source: str
    target: str
    read_only: bool = True
    beneath: str = ""


class Tmpfs(Struct, frozen=True):
    """An empty file system in memory at `target`; `size` in bytes, 0 = the kernel's half of RAM."""

    target: str
    size: int = 0
    mode: int = 0o1777
    uid: int = 0
    gid: int = 0
    noexec: bool = False
    read_only: bool = False


class OverlayMount(Struct, frozen=True):
    """Directories seen merged at `target`, first on top; writes are discarded at the end."""

    lowers: tuple[str, ...]
    target: str
    read_only: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class FileMount:
    """A file at `target` whose bytes live in memory alone (a secret, a generated file)."""

    target: str
    content: bytes = dataclasses.field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


Mount = Bind | Tmpfs | OverlayMount | FileMount


class Limits(Struct, frozen=True):
    """What a container may use; None = no limit of its own. Bytes, seconds, processors."""

    memory: int | None = None
    memory_swap: int | None = None  # memory and swap together, as docker counts it
    cpus: float | None = None
    pids: int | None = 4096
    nofile: tuple[int, int] = (1024, 524_288)  # soft, hard
    core: int = 0
    # (name as docker has it, soft, hard), -1 = no limit; the same name above gives way
    ulimits: tuple[tuple[str, int, int], ...] = ()
    shm: int = 64 * MIB
    timeout: float | None = None
    log: int = STEP_LOG_BYTES


class SandboxSpec(Struct, frozen=True):
    """A container. Raises InputError for what cannot be meant.

    `lowers` are absolute directories, TOP first. `upper` and `work` are None for a root nobody
    may write. Ids are those seen inside. `env` is the whole environment. `groups` are all the
    supplementary groups. With `init` process 1 is ours, which starts the command, forwards signals
    and reaps; without it the command itself is process 1, as docker has it. `insecure` gives every
    capability and system call and hides nothing: for what was asked for by name alone.
    `architecture` is Go's name of what the programs are, "" = this machine's.
    """

    lowers: tuple[str, ...]
    args: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    env: tuple[tuple[str, str], ...] = (("PATH", PATH),)
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    hostname: str = "buildgraph"
    mounts: tuple[Mount, ...] = ()
    network: Network = "default"
    limits: Limits = Limits()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privs: bool = False
    seccomp: bool = True
    read_only_root: bool = False
    masked: tuple[str, ...] = MASKED_PATHS
    readonly: tuple[str, ...] = READONLY_PATHS
    tty: bool = False
    dns: tuple[str, ...] = ()  # lines of /etc/resolv.conf; () = the network's own
    hosts: tuple[str, ...] = ()  # lines added to /etc/hosts
    init: bool = True
    make_cwd: bool = False  # make the working directory where it is missing, root's, 0755
    insecure: bool = False
    architecture: str = ""

    def __post_init__(self) -> None:
        _check_spec(self)

    @property
    def capabilities(self) -> frozenset[str]:
        """Names, without CAP_, of what the container's root may do."""
        if self.insecure:
            return frozenset(CAPABILITIES)
        chosen = set() if "ALL" in map(_bare, self.cap_drop) else set(DEFAULT_CAPABILITIES)
        for name in map(_bare, self.cap_add):
            chosen |= set(CAPABILITIES) if name == "ALL" else {name}
        return frozenset(chosen - set(map(_bare, self.cap_drop)))

    @property
    def capability_mask(self) -> int:
        """The same as a bit mask."""
        return sum(1 << CAPABILITIES.index(name) for name in self.capabilities)

    @property
    def filtered(self) -> bool:
        """Say whether only the system calls of the allow-list may be made."""
        return self.seccomp and not self.insecure


def _bare(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _check_spec(spec: SandboxSpec) -> None:
    if not spec.args:
        raise InputError("nothing to run: the command is empty")
    _check_texts(spec)
    if (spec.upper is None) != (spec.work is None):
        raise InputError("upper and work go together")
    if spec.network not in ("none", "host", "default"):
        raise InputError(f"unknown network {spec.network!r}", hint="none, host or default")
    for name in map(_bare, (*spec.cap_add, *spec.cap_drop)):
        if name not in CAPABILITIES and name != "ALL":
            raise InputError(f"unknown capability {name!r}")
    for id_ in (spec.uid, spec.gid, *spec.groups):
        if not 0 <= id_ < 2**32 - 1:
            raise InputError(f"{id_} cannot be a user or group id")
    for mount in spec.mounts:
        _check_mount(mount)
    _check_ulimits(spec.limits)


def _check_ulimits(limits: Limits) -> None:
    for name, soft, hard in limits.ulimits:
        if name not in ULIMITS:
            raise InputError(f"unknown limit {name!r}", hint=f"one of {' '.join(sorted(ULIMITS))}")
        if soft < -1 or hard < -1 or (hard != -1 and not -1 < soft <= hard):
            raise InputError(f"the limit {name}={soft}:{hard} is wrong", hint="NAME=SOFT[:HARD]")


def _check_texts(spec: SandboxSpec) -> None:
    for text in (*spec.args, *(part for pair in spec.env for part in pair), spec.cwd):
        if "\0" in text:
            raise InputError("a NUL byte can be in no argument, variable or path of a process")
    for path in (*spec.lowers, spec.upper or "/", spec.work or "/", spec.cwd):
        if not path.startswith("/"):
            raise InputError(f"{path!r} is not an absolute path")
    if not _is_hostname(spec.hostname):
        raise InputError(f"{spec.hostname!r} cannot be a host name")


def _is_hostname(name: str) -> bool:
    return 0 < len(name) <= 64 and all(c.isascii() and (c.isalnum() or c in "-._") for c in name)


def _check_mount(mount: Mount) -> None:
    target = mount.target
    parts = [part for part in target.split("/") if part]
    if not target.startswith("/") or not parts or ".." in parts or "." in parts or "\0" in target:
        raise InputError(f"{target!r} is no place for a mount", hint="an absolute path below /")
    clean = "/" + "/".join(parts)
    reserved = any(clean == r or clean.startswith(r + "/") for r in _RESERVED)
    if reserved and clean not in _RESERVED_EXCEPT:
        raise InputError(f"nothing may be mounted on {clean}", hint="/proc, /sys and /dev are ours")
    match mount:
        case Bind(source=source):
            sources: tuple[str, ...] = (source,)
        case OverlayMount(lowers=lowers):
            sources = lowers
            if not lowers:
                raise InputError(f"the mount on {clean} has no source")
        case Tmpfs() | FileMount():
            sources = ()
        case _:
            assert_never(mount)
    for source in sources:
        if not source.startswith("/"):
            raise InputError(f"{source!r} is not an absolute path")


# -- JSON ---------------------------------------------------------------------------------------

_MOUNT_KINDS: Final[dict[str, type[Mount]]] = {
    "bind": Bind,
    "tmpfs": Tmpfs,
    "overlay": OverlayMount,
    "file": FileMount,
}


def _mount_to_json(mount: Mount) -> dict[str, Any]:
    kind = next(name for name, cls in _MOUNT_KINDS.items() if isinstance(mount, cls))
    out: dict[str, Any] = {"kind": kind}
    for name in field_names(mount) or ():
        value = getattr(mount, name)
        out[name] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    return out


def _mount_from_json(raw: dict[str, Any]) -> Mount:
    values = dict(raw)
    cls = _MOUNT_KINDS[values.pop("kind")]
    if "content" in values:
        values["content"] = base64.b64decode(values["content"])
    if "lowers" in values:
        values["lowers"] = tuple(values["lowers"])
    return cls(**values)


def to_json(spec: SandboxSpec) -> str:
    """Return the spec as one JSON object; `from_json` gives back an equal spec.

    FileMount contents are in it: whoever saves it for replay leaves secrets out first
    (`without_secrets`).
    """
    out: dict[str, Any] = asdict(spec)
    out["mounts"] = [_mount_to_json(mount) for mount in spec.mounts]
    out["limits"] = asdict(spec.limits)
    return json.dumps(out, sort_keys=True)


def from_json(text: str) -> SandboxSpec:
    """Return the spec that `to_json` wrote. Raises InputError for anything else."""
    try:
        raw = json.loads(text)
        raw["mounts"] = tuple(_mount_from_json(mount) for mount in raw["mounts"])
        limits = dict(raw["limits"])
        limits["nofile"] = tuple(limits["nofile"])
        limits["ulimits"] = tuple((str(n), int(s), int(h)) for n, s, h in limits["ulimits"])
        raw["limits"] = Limits(**limits)
        raw["env"] = tuple((key, value) for key, value in raw["env"])
        for key, value in raw.items():
            if isinstance(value, list):
                raw[key] = tuple(value)
        return SandboxSpec(**raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"not a saved sandbox: {error}") from error


def without_secrets(spec: SandboxSpec) -> SandboxSpec:
    """Return the spec with empty FileMounts, fit to be written to disk."""
    mounts = tuple(
        FileMount(m.target, b"", m.mode, m.uid, m.gid) if isinstance(m, FileMount) else m
        for m in spec.mounts
    )
    return replace(spec, mounts=mounts)


# -- words --------------------------------------------------------------------------------------


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _describe_mount(mount: Mount) -> str:
    match mount:
        case Bind(source, target, read_only, beneath):
            place = f"{beneath} in {source}" if beneath else source
            return f"{place} on {target}, {'read only' if read_only else 'writable'}"
        case Tmpfs(target, size, mode):
            room = _size(size) if size else "half of the memory"
            return f"empty memory file system on {target}, {room}, mode {mode:o}"
        case OverlayMount(lowers, target, read_only):
            rights = "read only" if read_only else "writes discarded"
            return f"{' over '.join(lowers)} on {target}, {rights}"
        case FileMount(target, content, mode, uid, gid):
            return f"file of {len(content)} bytes on {target}, mode {mode:o}, owner {uid}:{gid}"
        case _:
            assert_never(mount)


def _describe_limits(limits: Limits) -> list[str]:
    lines = [f"limit open files to {limits.nofile[0]}:{limits.nofile[1]}, core {limits.core}"]
    lines += [f"limit {name} to {soft}:{hard}" for name, soft, hard in limits.ulimits]
    if limits.memory is not None:
        lines.append(f"limit memory to {_size(limits.memory)}")
    if limits.memory_swap is not None:
        lines.append(f"limit memory and swap to {_size(limits.memory_swap)}")
    if limits.cpus is not None:
        lines.append(f"limit to {limits.cpus:g} processors")
    if limits.pids is not None:
        lines.append(f"limit processes to {limits.pids}")
    if limits.timeout is not None:
        lines.append(f"stop after {limits.timeout:g} s")
    return lines


def describe(spec: SandboxSpec) -> list[str]:
    """Return each operation the sandbox will do, in order and in words. Touches nothing."""
    root = " over ".join(spec.lowers[:3]) + (" over …" if len(spec.lowers) > 3 else "")
    networks = {
        "none": "own network with loopback alone",
        "host": "the HOST's network",
        "default": "own network with a way out; host and metadata addresses dropped",
    }
    rights = "system calls of the allow-list" if spec.filtered else "all system calls"
    hidden = [] if spec.insecure else [f"hide {' '.join(spec.masked)}"]
    hidden += [] if spec.insecure else [f"read only {' '.join(spec.readonly)}"]
    return [
        "new process, mount, ipc, host name, cgroup and user namespaces",
        f"root: {len(spec.lowers)} layers, {root or 'empty'}"
        + (f", writes to {spec.upper}" if spec.upper else ", read only"),
        "own /dev, fresh /proc, /sys read only",
        *(["INSECURE: every capability and system call, nothing hidden"] if spec.insecure else []),
        *hidden,
        f"network: {networks[spec.network]}",
        *(_describe_mount(mount) for mount in spec.mounts),
        *(["make the root read only"] if spec.read_only_root or spec.upper is None else []),
        *_describe_limits(spec.limits),
        f"host name {spec.hostname}",
        f"user {spec.uid}:{spec.gid}, groups {' '.join(map(str, spec.groups)) or 'none'}",
        f"capabilities {' '.join(sorted(spec.capabilities)) or 'none'}; {rights}"
        + ("; no new privileges" if spec.no_new_privs else ""),
        "a terminal of its own" if spec.tty else "no terminal, own session",
        f"in {spec.cwd} run {' '.join(spec.args)!r} "
        + ("under our own process 1" if spec.init else "as process 1"),
    ]
