"""Knows what a way out leaves on the host when its builder is killed; must not know who made it.

A record below /run/buildgraph says what must be undone, and is held by `flock` while its owner
lives: the kernel lets go of it however the owner ends, a reboot included, after which the directory
is empty. Whoever finds a record that can be locked undoes it. Needs the standard library alone, so
that looking for leftovers costs a process that has none a single call.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from buildgraph.sandbox import nftables as nft

RECORDS: Final = Path("/run/buildgraph")
PREFIX: Final = "bg-"


class TooManyRecords(Exception):
    """No name is left for another record."""


class Record(Struct):
    """What must be undone if this process is killed."""

    name: str
    network: str = ""
    forwarding: dict[str, str] = field(default_factory=dict)  # interface -> value before
    fd: int = -1

    def save(self) -> None:
        """Write it to its file, which `fd` is."""
        data = {"name": self.name, "network": self.network, "forwarding": self.forwarding}
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps(data).encode(), 0)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file meanwhile; records are made and swept below it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def open_record() -> Record:
    """Make our record and hold it; its number is short, for an interface name has 15 bytes."""
    for number in range(10_000):
        name = f"{PREFIX}{number}"
        path = RECORDS / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        record = Record(name, fd=fd)
        record.save()
        return record
    raise TooManyRecords


def sweep() -> list[Record]:
    """Undo the records of dead builders and return those of living ones. Holds the lock."""
    living, dead = [], []
    for path in sorted(RECORDS.glob(f"{PREFIX}*")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            raw = json.loads(os.read(fd, 1 << 16) or b"{}")
        except ValueError:
            raw = {}
        record = Record(path.name, raw.get("network", ""), raw.get("forwarding", {}), fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead.append(record)
        except BlockingIOError:
            os.close(fd)
            living.append(record)
    for record in dead:
        table = nft.Table(record.name)
        with contextlib.suppress(OSError):
            table.delete()
        table.close()
        undo(record, living)
    return living


def undo(record: Record, living: list[Record]) -> None:
    """Switch forwarding back, or leave that to a living builder, and remove the record."""
    others = [other for other in living if other.name != record.name]
    for name, value in record.forwarding.items():
        heir = others[0] if others else None
        if heir is not None:
            _inherit(heir, name, value)
        else:
            with contextlib.suppress(OSError):
                Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text(value)
    with contextlib.suppress(FileNotFoundError):
        (RECORDS / record.name).unlink()
    os.close(record.fd)


def _inherit(heir: Record, name: str, value: str) -> None:
    """Write into a living builder's record that it switches `name` back at its end."""
    heir.forwarding.setdefault(name, value)
    heir.fd = os.open(RECORDS / heir.name, os.O_RDWR | os.O_CLOEXEC)
    try:
        heir.save()
    finally:
        os.close(heir.fd)


def sweep_leftovers() -> int:
    """Undo what dead builders left on the host's network and return how many of them there were.

    For the start of a program: cheap where there is nothing, safe beside living builders, and for
    an ordinary user, who leaves nothing, no work at all. Never raises.
    """
    try:
        names = [name for name in os.listdir(RECORDS) if name.startswith(PREFIX)]
    except OSError:
        return 0
    if not any(_is_free(RECORDS / name) for name in names):
        return 0
    try:
        with locked(RECORDS / "lock"):
            return len(names) - len(sweep())
    except OSError:
        return 0


def _is_free(path: Path) -> bool:
    """Say whether nobody holds a record."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
