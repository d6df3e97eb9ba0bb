"""Knows how USER's text becomes numbers by the image's own passwd and group files; must not know
the host's.

Rules as docker has them: a number is a uid and never a name (A48); an explicit group drops the
supplementary groups; without one they are those that list the user. Files are read from inside
the image with caps (A47). Source: passwd(5), group(5); shared reference 1.4.
"""

from __future__ import annotations

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import HostError, InputError, Location
from buildgraph.oci.rootview import RootView

_MAX_ID = 2**31 - 1  # what docker accepts


class Identity(Struct, frozen=True):
    """Who a process is."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def user_of(view: RootView, user: str, where: Location | None = None) -> Identity:
    """Return who a USER is, by the image's own files. Raises InputError as `lookup` does."""
    return lookup(user, _small_file(view, "etc/passwd"), _small_file(view, "etc/group"), where)


def _small_file(view: RootView, path: str) -> bytes:
    """Return a small file of the image; b"" where there is none or it is no regular file (A47)."""
    try:
        return view.read_file(path, limits.PASSWD_BYTES) or b""
    except (OSError, HostError):
        return b""


def lookup(user: str, passwd: bytes, group: bytes, where: Location | None = None) -> Identity:
    """Return who `user[:group]` is; "" is root.

    Raises InputError for a name that the image does not know.
    """
    name, _, wanted = user.partition(":")
    name = name or "0"
    rows = _rows(passwd, 7)
    row: list[str] | None
    if _is_number(name):
        uid = _number(name, where)
        row = next((r for r in rows if r[2] == str(uid)), None)
        gid = _to_int(row[3]) if row else 0
    else:
        row = next((r for r in rows if r[0] == name), None)
        if row is None:
            raise InputError(
                f"the image has no user {name!r}",
                where,
                "create it in a RUN step (useradd), or give a number",
            )
        uid, gid = _to_int(row[2]), _to_int(row[3])
    home = (row[5] if row else "") or "/"
    if wanted:
        return Identity(uid, _group(wanted, group, where), (), home)
    login = row[0] if row else None
    extra = {
        _to_int(r[2])
        for r in _rows(group, 4)
        if login is not None and login in r[3].split(",") and r[2].isdigit()
    }
    extra.discard(gid)
    return Identity(uid, gid, tuple(sorted(extra)), home)


def _group(wanted: str, group: bytes, where: Location | None) -> int:
    if _is_number(wanted):
        return _number(wanted, where)
    for row in _rows(group, 4):
        if row[0] == wanted:
            return _to_int(row[2])
    raise InputError(
        f"the image has no group {wanted!r}",
        where,
        "create it in a RUN step (groupadd), or give a number",
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str, where: Location | None) -> int:
    value = int(text) if len(text) < 12 else _MAX_ID + 1
    if value > _MAX_ID:
        raise InputError(f"{text} is too large for a user or group id", where)
    return value


def _to_int(text: str) -> int:
    return int(text) if _is_number(text) and len(text) < 12 else 0


def _rows(data: bytes, fields: int) -> list[list[str]]:
    """Return well-formed rows; lines that are too long, short or malformed are passed over."""
    out = []
    for line in data[: limits.PASSWD_BYTES].split(b"\n"):
        if not line or line.startswith(b"#") or len(line) > limits.PASSWD_LINE_BYTES:
            continue
        row = line.decode("utf-8", "surrogateescape").split(":")
        if len(row) >= fields and _is_number(row[2]):
            out.append(row)
    return out
