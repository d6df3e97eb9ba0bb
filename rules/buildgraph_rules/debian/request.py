"""Knows what a target of the rule asks for: which packages of which archives; must not know what
the archives answer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit, urlunsplit

from msgspec.structs import replace

from buildgraph.boxfile.target import Target, text_of
from buildgraph.errors import BuildgraphError, HostError, InputError, Location
from buildgraph.label import join
from buildgraph_cache.digest import Digest
from buildgraph_rules.debian.control import BinaryPackage, parse_request
from buildgraph_rules.debian.lock import is_pool_path
from buildgraph_rules.debian.pins import Pin, Resolution
from buildgraph_rules.debian.resolve import Request
from buildgraph_rules.debian.sources import (
    ArchiveSource,
    Keyring,
    KeyringFile,
    default_keyrings,
    machine_sources,
    normal_uri,
    parse_line,
    snapshot_uri,
    without_login,
)

Archives = tuple[ArchiveSource, ...]

# What decides about the answer; anything else of a target may change without asking again.
_LISTS = ("packages", "mirror", "suite", "components", "keyring")
_FLAGS = ("essential", "recommends")


def request_digest(target: Target, architecture: str) -> Digest:
    """Return the digest of everything in the target that decides which packages it gets."""
    words = {
        "version": 1,
        "architecture": architecture,
        "snapshot": target.text("snapshot"),
        **{name: list(target.texts(name)) for name in _LISTS},
        **{name: target.flag(name) for name in _FLAGS},
    }
    data = json.dumps(words, sort_keys=True).encode()
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def requests(target: Target, architecture: str) -> list[Request]:
    """Return the packages asked for. Raises InputError for one of another architecture."""
    found = []
    for item in target.items("packages"):
        try:
            relation = parse_request(text_of(item))
        except ValueError as error:
            raise InputError(str(error), item.where) from error
        if relation.qualifier not in ("", architecture, "all", "any", "native"):
            raise InputError(
                f"{text_of(item)}: an image has packages of one architecture, here {architecture}",
                item.where,
            )
        found.append(Request(relation, item.where))
    return found


def archives(target: Target, architecture: str, workspace: str) -> Archives:
    """Return the archives of a target: those it names, else the machine's own.

    Raises InputError for attributes that do not fit together, HostError where the machine has no
    archive.
    """
    snapshot = target.value("snapshot")
    mirrors, suites = target.items("mirror"), target.texts("suite")
    keyrings = _keyrings(target, workspace)
    if not mirrors:
        if snapshot.data is not None:
            raise InputError(
                "`snapshot` needs a `mirror`: the machine's sources have no past",
                snapshot.where,
                hint="mirror: https://SNAPSHOTS/archive/debian/@SNAPSHOTID@",
            )
        own = machine_sources(architecture)
        return _with_keyrings(_of_suites(own, suites, _components(target)), keyrings)
    time = text_of(snapshot) if snapshot.data is not None else ""
    found: list[ArchiveSource] = []
    for mirror in mirrors:
        named = _named(text_of(mirror), target, architecture, mirror.where)
        if urlsplit(next(iter(named)).uri).username:
            raise InputError(
                "an archive with a password in a Boxfile",
                mirror.where,
                hint="put the login into this machine's apt sources, for the same host",
            )
        found.extend(_at(source, time) for source in named)
    return _with_keyrings(found, keyrings)


def pinned(
    target: Target,
    architecture: str,
    request: Digest,
    sources: Archives,
    packages: Sequence[BinaryPackage],
) -> Resolution:
    """Return the resolution of selected packages. Raises KeyError, ValueError for a bad index."""
    pins = []
    for package in sorted(packages, key=lambda package: package.name):
        path = package.path.removeprefix("./")
        if not is_pool_path(path):
            raise ValueError(f"package {package.name} has the path {path!r}")
        pins.append(
            Pin(
                package.name,
                package.version,
                package.architecture,
                path,
                package.size,
                package.sha256,
                package.archive,
            )
        )
    plain = tuple(
        replace(source, uri=without_login(source.uri), keyrings=(), signers=())
        for source in sources
    )
    return Resolution(str(target.label), architecture, request, plain, tuple(pins))


def logins(architecture: str) -> Mapping[tuple[str, str], str]:
    """Return the logins of the machine's sources by (scheme, host and port); {} where none are."""
    try:
        sources = machine_sources(architecture)
    except BuildgraphError:
        return {}
    parts = [urlsplit(source.uri) for source in sources]
    return {
        (p.scheme, p.netloc.rpartition("@")[2]): p.netloc.rpartition("@")[0]
        for p in parts
        if p.username
    }


def with_login(uri: str, known: Mapping[tuple[str, str], str]) -> str:
    """Return the URI with the login for its own scheme, host and port, if there is one."""
    parts = urlsplit(uri)
    login = known.get((parts.scheme, parts.netloc))
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}")) if login else uri


def _named(text: str, target: Target, architecture: str, where: Location) -> list[ArchiveSource]:
    if text.split(None, 1)[0] in ("deb", "deb-src"):
        sources = list(parse_line(text, where, architecture))
        if not sources:
            raise InputError("the line names no binary archive for this architecture", where)
        return sources
    suites = target.texts("suite")
    if not suites:
        raise InputError("`mirror` without `suite`", where, hint="suite: trixie")
    components = _components(target)
    uri = normal_uri(text, where)
    return [
        ArchiveSource(uri, suite, () if suite.endswith("/") else components) for suite in suites
    ]


def _components(target: Target) -> tuple[str, ...]:
    return target.texts("components") or ("main",)


def _of_suites(
    own: Archives, suites: Sequence[str], components: tuple[str, ...]
) -> Sequence[ArchiveSource]:
    """Return the machine's archives, or other suites of its first one."""
    if not suites:
        return own
    return [replace(own[0], suite=suite, components=components) for suite in suites]


def _at(source: ArchiveSource, time: str) -> ArchiveSource:
    if not time:
        return source
    return replace(source, uri=snapshot_uri(source.uri, time), check_valid_until=False)


def _with_keyrings(sources: Sequence[ArchiveSource], keyrings: Sequence[Keyring]) -> Archives:
    """Fill in keyrings: the target's for all, else the machine's where a source has none."""
    if keyrings:
        return tuple(replace(s, keyrings=tuple(keyrings), signers=()) for s in sources)
    default = default_keyrings()
    return tuple(s if s.keyrings else replace(s, keyrings=default) for s in sources)


def _keyrings(target: Target, workspace: str) -> list[Keyring]:
    return [KeyringFile(path) for path in _keyring_paths(target, workspace)]


def _keyring_paths(target: Target, workspace: str) -> Iterator[str]:
    for item in target.items("keyring"):
        text = text_of(item)
        inside = text if text.startswith("/") else join(target.label.package, text)
        if inside is None:
            raise InputError(f"keyring {text!r} leaves the workspace", item.where)
        path = os.path.join(workspace, inside)
        if not os.path.isfile(path):
            kind = HostError if text.startswith("/") else InputError
            raise kind(f"keyring {text} does not exist", item.where)
        yield path
