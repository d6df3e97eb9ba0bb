"""Knows the keys of `RUN --mount=`; must not know how anything is mounted.

A record is checked twice: when the file is parsed, as far as its values hold no variables, and
once they are expanded. Source: shared reference, section 1.6.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from buildgraph.dockerfile.instructions import Mount
from buildgraph.dockerfile.wording import quote
from buildgraph.errors import InputError, Location, did_you_mean

_ALIASES = {
    "dst": "target",
    "destination": "target",
    "src": "source",
    "ro": "readonly",
    "rw": "readwrite",
}
_COMMON = ("target", "readonly", "readwrite")
_OWNER = ("mode", "uid", "gid")
MOUNT_KEYS = {
    "bind": (*_COMMON, "source", "from"),
    "cache": (*_COMMON, "id", "sharing", "from", "source", *_OWNER),
    "tmpfs": (*_COMMON, "size"),
    "secret": (*_COMMON, "id", "source", "env", "required", *_OWNER),
    "ssh": (*_COMMON, "id", "required", *_OWNER),
}
_ALL_KEYS = sorted({key for keys in MOUNT_KEYS.values() for key in keys} | {"type"})
# What docker run and podman take (A37); none of it ever reaches mount(2).
_PROPAGATION = frozenset(
    "bind-propagation private rprivate shared rshared slave rslave unbindable runbindable z u exec "
    "noexec suid nosuid dev nodev relabel consistency bind-nonrecursive".split()
)
_FLAG_KEYS = ("readonly", "readwrite", "required")
_SHARING = ("shared", "private", "locked")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
_SIZE = r"([0-9]{1,18})(\.[0-9]{1,9})? ?([kmgtp]?)(i?b?)"
_VARIABLE = re.compile(r"\$.")
_NUMBER = re.compile(r"[0-9]{1,10}")
_MODE = re.compile(r"0*[0-7]{1,4}")


def parse_mount(record: str, where: Location) -> Mount:
    """Read one `--mount` record: keys canonical, values unexpanded, the last of equal keys wins.

    Raises InputError for an unknown type or key, a key that the type does not have, a value that
    is wrong and holds no variable, and a variable in `from`.
    """
    options: dict[str, str] = {}
    for field in split_record(record, where):
        written, equals, value = field.partition("=")
        key = written.strip().lower()
        key = _ALIASES.get(key, key)
        if key not in _ALL_KEYS:
            raise _unknown(written, key, record, field, where)
        if not equals:
            if key not in _FLAG_KEYS:
                raise _error(
                    f"{quote(written)} needs a value", record, field, where, f"write {written}=…"
                )
            value = "true"
        if key == "from" and _VARIABLE.search(value):
            raise _error(
                "'from' takes no variables",
                record,
                field,
                where,
                "name a stage with `FROM image AS name` and use that name",
            )
        options[key] = value
    return _checked(options.pop("type", "bind"), options, where)


def expand_mount(mount: Mount, expand: Callable[[str], str]) -> Mount:
    """Expand every value but `from`, and check what could not be checked before.

    Raises InputError as `parse_mount` does.
    """
    options = {key: value if key == "from" else expand(value) for key, value in mount.options}
    return _checked(expand(mount.type), options, mount.where)


def secret_name(mount: Mount) -> str:
    """Return the id of a secret: the one it is given, else the name of its file."""
    options = dict(mount.options)
    return options.get("id") or posixpath.basename(options.get("target", ""))


def parse_size(text: str, where: Location) -> int:
    """Read a size such as `64m`, `1.5g` or `4096` as bytes; units are powers of 1024."""
    match = re.fullmatch(_SIZE, text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise InputError(f"{quote(text)} is no size", where, "write for instance 64m or 1g")
    whole, fraction, unit, _ = match.groups()
    factor = 1 << (10 * " kmgtp".index(unit.lower() or " "))
    digits = (fraction or ".0")[1:]
    return int(whole) * factor + int(digits) * factor // int("1" + "0" * len(digits))


def split_record(record: str, where: Location) -> list[str]:
    """Split one CSV record; a field in double quotes may hold commas and doubled quotes.

    Raises InputError for a quote in the middle of a field or one that stays open.
    """
    fields: list[str] = []
    position = 0
    while True:
        if record.startswith('"', position):
            field, position = _quoted_field(record, position, where)
        else:
            comma = record.find(",", position)
            end = len(record) if comma < 0 else comma
            field, position = record[position:end], end
            if '"' in field:
                raise InputError(
                    "a quote inside a mount option", where, "quote the whole key=value field"
                )
        fields.append(field)
        if position >= len(record):
            return fields
        position += 1


def _quoted_field(record: str, start: int, where: Location) -> tuple[str, int]:
    pieces: list[str] = []
    position = start + 1
    while True:
        close = record.find('"', position)
        if close < 0:
            raise InputError("a quoted mount option does not end", where)
        pieces.append(record[position:close])
        position = close + 1
        if record.startswith('"', position):
            pieces.append('"')
            position += 1
            continue
        if position < len(record) and record[position] != ",":
            raise InputError(
                "text after a quoted mount option", where, "quote the whole key=value field"
            )
        return "".join(pieces), position


def _checked(kind: str, options: dict[str, str], where: Location) -> Mount:
    if not _VARIABLE.search(kind):
        kind = kind.lower()
        if kind not in MOUNT_KEYS:
            raise InputError(
                f"unknown mount type {quote(kind)}",
                where,
                did_you_mean(kind[:60], MOUNT_KEYS) or f"types are {', '.join(MOUNT_KEYS)}",
            )
        for key in options:
            if key not in MOUNT_KEYS[kind]:
                raise InputError(
                    f"{'an' if kind == 'ssh' else 'a'} {kind} mount has no {key!r}",
                    where,
                    f"it has {', '.join(MOUNT_KEYS[kind])}",
                )
        _check_required(kind, options, where)
    canonical: dict[str, str] = {}
    for key, value in options.items():
        canonical_key, canonical_value = _canonical(key, value, where)
        canonical.pop(canonical_key, None)
        canonical[canonical_key] = canonical_value
    if kind == "secret" and "source" in canonical:
        canonical["id"] = canonical.pop("source")
    return Mount(kind, tuple(canonical.items()), where)


def _check_required(kind: str, options: dict[str, str], where: Location) -> None:
    if kind != "secret":
        return
    if "id" in options and "source" in options:
        raise InputError("a secret mount has both id and source, which mean the same", where)
    if not any(options.get(key) for key in ("id", "source", "target")):
        raise InputError("a secret mount needs an id or a target", where, "add id=NAME")


def _canonical(key: str, value: str, where: Location) -> tuple[str, str]:
    """Check one value, unless it holds a variable, and give it its one spelling."""
    if _VARIABLE.search(value):
        return key, value
    if key in _FLAG_KEYS:
        if value not in _TRUE and value not in _FALSE:
            raise InputError(f"{key} is true or false, not {quote(value)}", where)
        if key == "readwrite":
            return "readonly", "false" if value in _TRUE else "true"
        return key, "true" if value in _TRUE else "false"
    if key == "sharing":
        if value.lower() not in _SHARING:
            raise InputError(
                f"unknown sharing {quote(value)}",
                where,
                did_you_mean(value[:60], _SHARING) or f"it is {', '.join(_SHARING)}",
            )
        return key, value.lower()
    _check_value(key, value, where)
    return key, value


def _check_value(key: str, value: str, where: Location) -> None:
    if key == "size":
        parse_size(value, where)
    elif key in _OWNER:
        _check_number(key, value, where)
    elif key == "env" and ("=" in value or "\0" in value):
        raise InputError(f"{quote(value)} cannot be the name of a variable", where)
    elif key == "target" and _is_root(value):
        raise InputError("a mount cannot cover the root directory", where)


def _is_root(target: str) -> bool:
    """A relative target is joined with the working directory later, which may be anything."""
    return target.startswith("/") and posixpath.normpath(f"/{target.lstrip('/')}") == "/"


def _check_number(key: str, value: str, where: Location) -> None:
    good = (_MODE if key == "mode" else _NUMBER).fullmatch(value)
    if good is None or (key != "mode" and int(value) >= 2**32 - 1):
        wanted = "an octal mode such as 0400" if key == "mode" else "a number"
        raise InputError(f"{key} is {wanted}, not {quote(value)}", where)


def _unknown(written: str, key: str, record: str, field: str, where: Location) -> InputError:
    if not field:
        return InputError("an empty mount option", where, "remove the comma before or after it")
    hint = did_you_mean(key[:60], [*_ALL_KEYS, *_ALIASES])
    if key in _PROPAGATION:
        hint = "mounts of a build are private, without setuid programs or devices; nothing to say"
    return _error(f"unknown key {quote(written)}", record, field, where, hint)


def _error(message: str, record: str, field: str, where: Location, hint: str | None) -> InputError:
    """Point at the field itself where the flag's own text still shows it."""
    column = where.column - 1 + len("--mount=") + record.index(field) if field in record else -1
    if field and where.column and where.text[column : column + len(field)] == field:
        where = Location(where.path, where.line, column + 1, column + 1 + len(field), where.text)
    return InputError(message, where, hint)
