"""Knows in which order the scripts of unpacked packages run, as data, and what stands in for a
running system meanwhile; must not know how a command is run.

The way is that of debootstrap's second stage. The bootstrap set (all that packages take for
granted) is unpacked without any script having run, so its preinst scripts run late, and then it is
configured. Outside of it a package with a preinst script is left to dpkg as a .deb: such a script
may divert files or make users, and only dpkg then does the right thing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from buildgraph.rootpath import Root
from buildgraph_rules.debian.control import BinaryPackage
from buildgraph_rules.debian.database import read_file, write_file
from buildgraph_rules.debian.deb import Deb
from buildgraph_rules.debian.resolve import bootstrap_set, closure, pre_depends

Run = Callable[[Sequence[str], Mapping[str, str], str], None]  # argv, env, root; cwd is /

STAGING: Final = "var/cache/buildgraph"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FIRST: Final = ("base-passwd", "base-files")  # users and directories that every script expects
_POLICY: Final = "usr/sbin/policy-rc.d"
_DAEMON: Final = "usr/sbin/start-stop-daemon"
_ASIDE: Final = f"{_DAEMON}.buildgraph"


class Command(Struct, frozen=True):
    """A command to run in the root, as uid 0."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]


class Plan(Struct, frozen=True):
    """How a set of packages gets installed."""

    unpacked: tuple[str, ...]  # by us, in this order
    staged: tuple[str, ...]  # as .deb, for dpkg to unpack
    commands: tuple[Command, ...]


def plan(debs: Mapping[str, Deb], order: Sequence[str], epoch: int) -> Plan:
    """Return what to unpack and what to run; `order` is `configure_order` of the same packages."""
    packages = {name: deb.package for name, deb in debs.items()}
    bootstrap = bootstrap_set(packages)
    staged = [n for n in order if n not in bootstrap and "preinst" in debs[n].files]
    env = environment(epoch)
    commands = [
        Command(
            (f"/var/lib/dpkg/info/{debs[n].database_name}.preinst", "install"),
            _script(env, n, debs),
        )
        for n in order
        if n in bootstrap and "preinst" in debs[n].files
    ]
    commands += [
        _dpkg(env, "--force-depends", "--configure", name) for name in _FIRST if name in bootstrap
    ]
    if rest := _qualified(debs, order, bootstrap - {*_FIRST}):
        commands.append(_dpkg(env, "--configure", *rest))
    commands += _staged_commands(debs, order, bootstrap, staged, env)
    commands.append(_dpkg(env, "--configure", "--pending"))
    unpacked = tuple(name for name in order if name not in staged)
    return Plan(unpacked, tuple(staged), tuple(commands))


def environment(epoch: int) -> tuple[tuple[str, str], ...]:
    """Return what scripts see: nobody to ask, no clock, no chance in the order of hashes."""
    return (
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("DEBCONF_NOWARNINGS", "yes"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("HOME", "/root"),
        ("LC_ALL", "C"),
        ("PATH", _PATH),
        ("PERL_HASH_SEED", "0"),
        ("PYTHONHASHSEED", "0"),
        ("SOURCE_DATE_EPOCH", str(epoch)),
        ("TERM", "dumb"),
        ("TZ", "UTC"),
    )


def staged_path(deb: Deb) -> str:
    """Return where a .deb lies in the root while dpkg needs it."""
    return f"{STAGING}/{deb.name}.deb"


def set_up(root: Root, staged: Sequence[Deb]) -> None:
    """Put in place what the scripts need and must not have. Before any of them runs."""
    try:
        os.close(root.open(_POLICY, os.O_PATH))
    except FileNotFoundError:
        # invoke-rc.d(8): 101 = this action is forbidden
        write_file(root, _POLICY, b"#!/bin/sh\nexit 101\n", 0o755)
    if _rename(root, _DAEMON, _ASIDE):
        write_file(root, _DAEMON, b"#!/bin/sh\nexit 0\n", 0o755)
    parent = root.make_dirs("etc")
    try:
        os.symlink("../proc/self/mounts", "mtab", dir_fd=parent)
    except FileExistsError:
        pass
    finally:
        os.close(parent)
    for deb in staged:
        # A copy and not a link: what runs in the root may write to it
        _copy(root, deb.path, staged_path(deb))


def tear_down(root: Root) -> None:
    """Take away the stand-ins; what a script put in their place stays."""
    _remove_ours(root, _POLICY, b"exit 101\n")
    _rename(root, _ASIDE, _DAEMON)


def _staged_commands(
    debs: Mapping[str, Deb],
    order: Sequence[str],
    bootstrap: set[str],
    staged: Sequence[str],
    env: tuple[tuple[str, str], ...],
) -> Iterator[Command]:
    """Unpack in order; what a package Pre-Depends on is configured before."""
    packages: dict[str, BinaryPackage] = {name: deb.package for name, deb in debs.items()}
    before = pre_depends(packages)
    configured = set(bootstrap)
    batch: list[str] = []
    for name in staged:
        needed = closure(packages, before[name]) - configured
        if needed:
            if batch:
                yield _unpack(env, debs, batch)
                batch = []
            yield _dpkg(env, "--no-triggers", "--configure", *_qualified(debs, order, needed))
            configured |= needed
        batch.append(name)
    if batch:
        yield _unpack(env, debs, batch)


def _unpack(env: tuple[tuple[str, str], ...], debs: Mapping[str, Deb], names: list[str]) -> Command:
    files = [f"/{staged_path(debs[name])}" for name in names]
    return _dpkg(env, "--no-triggers", "--unpack", *files)


def _dpkg(env: tuple[tuple[str, str], ...], *arguments: str) -> Command:
    # Nothing of a build is worth an fsync before its end
    return Command(("/usr/bin/dpkg", "--force-unsafe-io", *arguments), env)


def _qualified(debs: Mapping[str, Deb], order: Sequence[str], names: set[str]) -> list[str]:
    return [debs[name].database_name for name in order if name in names]


def _script(
    env: tuple[tuple[str, str], ...], name: str, debs: Mapping[str, Deb]
) -> tuple[tuple[str, str], ...]:
    """Return what dpkg(1) tells a maintainer script, besides `env`."""
    version = debs["dpkg"].package.version if "dpkg" in debs else ""
    return (
        *env,
        ("DPKG_ADMINDIR", "/var/lib/dpkg"),
        ("DPKG_MAINTSCRIPT_ARCH", debs[name].package.architecture),
        ("DPKG_MAINTSCRIPT_NAME", "preinst"),
        ("DPKG_MAINTSCRIPT_PACKAGE", name),
        ("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1"),
        ("DPKG_ROOT", ""),
        ("DPKG_RUNNING_VERSION", version.partition("-")[0]),
    )


def _rename(root: Root, old: str, new: str) -> bool:
    """Rename within one directory; False where there is nothing to rename."""
    try:
        parent, name = root.parent(old)
    except FileNotFoundError:
        return False
    try:
        os.rename(name, new.rpartition("/")[2], src_dir_fd=parent, dst_dir_fd=parent)
    except FileNotFoundError:
        return False
    finally:
        os.close(parent)
    return True


def _remove_ours(root: Root, path: str, ending: bytes) -> None:
    data = read_file(root, path, 4096)
    ours = data is not None and data.endswith(ending)
    if ours:
        parent, name = root.parent(path)
        try:
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)


def _copy(root: Root, source: str, target: str) -> None:
    write_file(root, target, b"")
    out = root.open(target, os.O_WRONLY | os.O_NOFOLLOW)
    with open(source, "rb") as file, open(out, "wb") as copy:
        while piece := file.read(1024 * 1024):
            copy.write(piece)
