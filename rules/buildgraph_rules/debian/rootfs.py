"""Knows how packages become a root file system, from .deb files to clean tree; must not know where
the packages came from or how a sandbox works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from buildgraph.errors import HostError, InputError, Location
from buildgraph.rootpath import Root
from buildgraph_rules.debian.cleaning import clean
from buildgraph_rules.debian.configure import Run, plan, set_up, tear_down
from buildgraph_rules.debian.database import (
    read_file,
    unfinished,
    write_database,
    write_entries,
    write_file,
)
from buildgraph_rules.debian.deb import Deb, read_deb
from buildgraph_rules.debian.keystore import settle_keystore
from buildgraph_rules.debian.resolve import configure_order
from buildgraph_rules.debian.unpack import Unpacked, unpack

_MASTERS: Final = (("passwd.master", "etc/passwd"), ("group.master", "etc/group"))
_MASTER_DIRECTORY: Final = "usr/share/base-passwd"
_CERTIFICATES: Final = "/usr/share/ca-certificates/"
_BUNDLE: Final = "etc/ssl/certs/ca-certificates.crt"
_SMALL_FILE: Final = 4 * 1024 * 1024

Note = Callable[[str], None]


def build(
    debs: Sequence[Deb],
    directory: str,
    run: Run,
    *,
    configured: bool,
    files: Sequence[tuple[str, str]],
    epoch: int,
    where: Location,
    note: Note,
) -> None:
    """Make a root file system in an empty directory.

    With `configured`, packages are installed as dpkg would have; else files are laid out and
    nothing runs. `files` are written last. Not atomic. Raises HostError, InputError, and what
    `run` raises.
    """
    by_name = {deb.name: deb for deb in debs}
    order = configure_order({name: deb.package for name, deb in by_name.items()})
    if configured:
        _install(by_name, order, directory, run, epoch, where, note)
    else:
        _lay_out(by_name, order, directory, note)
    with Root.at(directory) as root:
        for path, text in files:
            write_file(root, path, text.encode())


def _install(
    debs: Mapping[str, Deb],
    order: Sequence[str],
    directory: str,
    run: Run,
    epoch: int,
    where: Location,
    note: Note,
) -> None:
    if "dpkg" not in debs:
        raise InputError(
            "packages cannot be configured without dpkg among them",
            where,
            hint="leave `essential` on, add dpkg to the packages, or set `configure: false`",
        )
    steps = plan(debs, order, epoch)
    note("unpacking")
    unpacked = unpack([debs[name] for name in steps.unpacked], directory, conffiles_aside=True)
    with Root.at(directory) as root:
        write_database(root, unpacked)
        set_up(root, [debs[name] for name in steps.staged])
        for number, command in enumerate(steps.commands, 1):
            note(f"configuring ({number}/{len(steps.commands)})")
            run(command.argv, dict(command.env), directory)
        left = unfinished(root)
        if left:
            raise HostError("packages were left unconfigured: " + ", ".join(left[:10]), where)
        tear_down(root)
        clean(root)
        settle_keystore(root, epoch)


def _lay_out(debs: Mapping[str, Deb], order: Sequence[str], directory: str, note: Note) -> None:
    """Unpack, and do by hand the little that an image without any script cannot do without."""
    note("unpacking")
    unpacked = unpack([debs[name] for name in order], directory, conffiles_aside=False)
    with Root.at(directory) as root:
        write_entries(root, unpacked)
        for master, target in _MASTERS:
            data = read_file(root, f"{_MASTER_DIRECTORY}/{master}", _SMALL_FILE)
            if data is not None and read_file(root, target, _SMALL_FILE) is None:
                write_file(root, target, data)
        bundle = b"".join(_certificates(root, unpacked))
        if bundle and read_file(root, _BUNDLE, _SMALL_FILE) is None:
            write_file(root, _BUNDLE, bundle)


def _certificates(root: Root, packages: Sequence[Unpacked]) -> Iterator[bytes]:
    """Yield every certificate of ca-certificates, in the order of update-ca-certificates(8)."""
    paths = [path for unpacked in packages for path in unpacked.paths]
    for path in sorted(paths):
        if path.startswith(_CERTIFICATES) and path.endswith(".crt"):
            data = read_file(root, path, _SMALL_FILE)
            if data is not None:
                yield data.rstrip(b"\n") + b"\n"


def read_all(paths: Sequence[str]) -> list[Deb]:
    """Read the control parts of .deb files. Raises HostError."""
    return [read_deb(path) for path in paths]
