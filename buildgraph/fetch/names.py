"""Knows which name a file of a server gets; must not know what is in the file.

The name is the last part of the URL that the author wrote, as docker has it. Never one that the
server chooses: neither Content-Disposition nor where a redirect leads is looked at (A62).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from buildgraph.errors import InputError, Location
from buildgraph.transport.urls import Url

UNNAMED: Final = "__unnamed__"  # as BuildKit has it; only for a destination that gives the name
_NAME_BYTES: Final = 255


def file_name(url: Url, where: Location | None = None, *, into: bool) -> str:
    """Return the plain base name for the content of `url`, in os.fsdecode form.

    `into` says that the file goes into a directory and so needs a name of its own. Raises
    InputError for a URL that has none, and for one that is not plain.
    """
    raw = unquote_to_bytes(url.path.rpartition("/")[2])
    name = raw.decode("utf-8", "surrogateescape")
    if raw in (b"", b".", b".."):
        if into:
            raise InputError(
                f"{url.shown} does not end in a file name, and the destination names only a "
                "directory",
                where,
                "give the file a name: let the destination end in one",
            )
        return UNNAMED
    if any(byte < 0x20 or byte in b"/\\\x7f" for byte in raw) or len(raw) > _NAME_BYTES:
        raise InputError(
            f"{name[:80]!r}, the end of {url.shown}, is no plain file name",
            where,
            "slashes, backslashes and control characters are refused, also as %2f",
        )
    return name
