"""Knows which repositories had a blob when it was last pulled or pushed; must not know how either
is done.

A push asks for such a blob to be mounted instead of sending it. A home is a hint: where the blob is
gone the registry takes an upload instead.
"""

from __future__ import annotations

from typing import Final

from buildgraph_cache.digest import Digest
from buildgraph_cache.store import Store

_KIND: Final = "blob-home"
_HOMES: Final = 8


def homes(store: Store, digest: Digest) -> tuple[str, ...]:
    """Return names of repositories that had a blob when it was last pulled or pushed."""
    data = store.get_record(_KIND, digest)
    return tuple(data.decode().split("\n")) if data else ()


def remember_home(store: Store, digest: Digest, name: str) -> None:
    """Remember that a repository has a blob; the last few are kept."""
    known = homes(store, digest)
    if store.read_only or known[:1] == (name,):
        return
    kept = [name, *(home for home in known if home != name)][:_HOMES]
    store.put_record(_KIND, digest, "\n".join(kept).encode(), ())
