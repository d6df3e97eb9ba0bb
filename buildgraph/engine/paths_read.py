"""Knows where values of a workspace hold paths, by their types; must not know which target they are
of, or what the files are for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from buildgraph.boxfile.schema import DirPath, FilePath, ListOf, MapOf, Record, Type
from buildgraph.boxfile.target import DirContext, Value
from buildgraph.errors import Location
from buildgraph.fields import field_names


def paths_in(value: Value, kind: Type) -> Iterator[tuple[str, Location]]:
    """Yield the paths that a value holds where its type says so."""
    data = value.data
    if isinstance(data, DirContext):
        yield data.path, value.where
    elif isinstance(kind, FilePath | DirPath) and isinstance(data, str):
        yield data, value.where
    elif isinstance(data, tuple) and isinstance(kind, ListOf):
        for item in data:
            yield from paths_in(item, kind.item)
    elif isinstance(data, Mapping):
        types = {a.name: a.type for a in kind.fields} if isinstance(kind, Record) else {}
        for key, item in data.items():
            inner = kind.value if isinstance(kind, MapOf) else types.get(key)
            if inner is not None:
                yield from paths_in(item, inner)


def instances(value: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """Yield the values of some kinds that a value of ours holds."""
    if isinstance(value, kinds):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from instances(item, kinds)
    else:
        for name in field_names(value) or ():
            yield from instances(getattr(value, name), kinds)


def files_at(root: str, path: str) -> Iterable[str]:
    """Yield a file, or all files below a directory, from `root`; nothing where nothing is."""
    full = os.path.join(root, path)
    if os.path.isdir(full):
        for directory, _, names in os.walk(full):
            for name in names:
                yield os.path.relpath(os.path.join(directory, name), root)
    elif os.path.lexists(full):
        yield path
