"""Knows docker's texts for volumes, limits, hosts and ports of a container; must not know who wrote
them. A value that is not understood is refused, with what would be.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Mapping
from typing import Final

from buildgraph.dockerfile.mounts import parse_size as read_size
from buildgraph.engine.container.options import HostBind, Publish, Volume
from buildgraph.engine.container.volumes import is_volume_name
from buildgraph.errors import InputError, Location
from buildgraph.sandbox.spec import Tmpfs

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_VARIABLE: Final = re.compile(r"[^\s=]+")
_ENV_FILE_BYTES: Final = 1 << 20


def parse_size(text: str, flag: str) -> int:
    """Read a size such as 64m or 1g as bytes."""
    return read_size(text, Location(flag))


def parse_volume(text: str, flag: str = "--volume", *, writable: bool = False) -> Volume | HostBind:
    """Read `[SOURCE:]TARGET[:ro|rw|nocopy]`; a source with a slash or dot first is a directory.

    A directory of the host is read-only unless `rw` is written, or `writable`. A named volume is
    writable unless `ro` is written.
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InputError(f"{flag} {text}: expected [SOURCE:]TARGET[:OPTIONS]")
    options = set(parts.pop().split(",")) if len(parts) == 3 else set()
    unknown = options - {"ro", "rw", "nocopy"}
    if unknown or {"ro", "rw"} <= options:
        raise InputError(f"{flag} {text}: options are ro, rw and nocopy")
    target = _target(parts[-1], text, flag)
    if len(parts) == 1:
        return Volume(target, None, "ro" in options, "nocopy" not in options)
    source = parts[0]
    if source[0] in "/.~":
        return HostBind(
            source, target, not writable if not options & {"ro", "rw"} else "ro" in options
        )
    if not is_volume_name(source):
        raise InputError(
            f"{flag} {text}: {source!r} cannot be the name of a volume",
            hint=f"for a directory write ./{source}",
        )
    return Volume(target, source, "ro" in options, "nocopy" not in options)


def _target(path: str, text: str, flag: str) -> str:
    if not path.startswith("/") or posixpath.normpath(path).lstrip("/") == "":
        raise InputError(f"{flag} {text}: {path!r} is not an absolute path below /")
    return posixpath.normpath(f"/{path.lstrip('/')}")


def parse_tmpfs(text: str, flag: str = "--tmpfs") -> Tmpfs:
    """Read `TARGET[:size=64m,mode=1777,uid=N,gid=N,exec,ro]`; as docker: noexec without a word."""
    path, _, rest = text.partition(":")
    values: dict[str, int] = {}
    noexec, read_only = True, False
    for option in filter(None, rest.split(",")):
        key, equals, value = option.partition("=")
        if key == "size" and equals:
            values["size"] = parse_size(value, flag)
        elif key == "mode" and re.fullmatch("[0-7]{1,5}", value):
            values["mode"] = int(value, 8)
        elif key in ("uid", "gid") and value.isdigit():
            values[key] = int(value)
        elif option in ("exec", "noexec"):
            noexec = option == "noexec"
        elif option in ("ro", "rw"):
            read_only = option == "ro"
        elif option not in ("nosuid", "nodev"):
            raise InputError(
                f"{flag} {text}: unknown option {option!r}",
                hint="size=, mode=, uid=, gid=, exec, noexec, ro, rw",
            )
    return Tmpfs(_target(path, text, flag), noexec=noexec, read_only=read_only, **values)


def parse_ulimit(text: str, flag: str = "--ulimit") -> tuple[str, int, int]:
    """Read `NAME=SOFT[:HARD]`; -1 and unlimited mean none."""
    name, equals, values = text.partition("=")
    numbers = [-1 if part == "unlimited" else _integer(part) for part in values.split(":")]
    if not equals or not 1 <= len(numbers) <= 2 or None in numbers:
        raise InputError(f"{flag} {text}: expected NAME=SOFT[:HARD], as nofile=1024:4096")
    soft, hard = numbers[0], numbers[-1]
    assert soft is not None
    assert hard is not None
    return name, soft, hard


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-1|[0-9]{1,18}", text) else None


def parse_host(text: str, flag: str = "--add-host") -> tuple[str, str]:
    """Read `NAME:ADDRESS` or `NAME=ADDRESS` as (name, address)."""
    found = re.fullmatch(r"([^:=]+)[:=](.+)", text)
    if found is None or not _HOST_NAME.fullmatch(found[1]):
        raise InputError(f"{flag} {text}: expected NAME:ADDRESS")
    return found[1], parse_address(found[2].strip("[]"), f"{flag} {text}")


def parse_address(text: str, what: str) -> str:
    """Return an IP address, checked."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InputError(f"{what}: {text!r} is no IP address") from None


def parse_publish(text: str, flag: str = "--publish") -> Publish:
    """Read `[[ADDRESS:]HOSTPORT:]PORT[/tcp]`; without an address the host's loopback alone."""
    body, _, protocol = text.partition("/")
    if protocol not in ("", "tcp"):
        raise InputError(f"{flag} {text}: only tcp can be published")
    address, ports = "127.0.0.1", body
    if body.startswith("["):
        address, _, ports = body[1:].partition("]:")
    elif body.count(":") >= 2:
        address, _, ports = body.partition(":")
    host_port, _, port = ports.rpartition(":")
    if not _is_port(port) or not (host_port == "" or _is_port(host_port)):
        raise InputError(f"{flag} {text}: expected [[ADDRESS:]HOSTPORT:]PORT")
    return Publish(int(port), parse_address(address, f"{flag} {text}"), int(host_port or 0))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65536


def parse_variable(
    text: str, environ: Mapping[str, str], flag: str = "--env"
) -> tuple[str, str | None]:
    """Read `NAME=VALUE`; a bare NAME takes the caller's value, or takes the image's away."""
    name, equals, value = text.partition("=")
    if not _VARIABLE.fullmatch(name):
        raise InputError(f"{flag} {text}: expected NAME[=VALUE]")
    return name, value if equals else environ.get(name)


def read_env_file(path: str, environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Read docker's env-file: a NAME[=VALUE] a line, taken as it is, # begins a comment line."""
    try:
        with open(path, "rb") as file:
            data = file.read(_ENV_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _ENV_FILE_BYTES:
        raise InputError(f"{path} is larger than 1 MiB")
    out = []
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        text = line.lstrip()
        if text and not text.startswith("#"):
            out.append(parse_variable(text, environ, f"{path}:{number}:"))
    return [(name, value) for name, value in out if value is not None]
