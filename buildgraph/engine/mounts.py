"""Knows what each RUN --mount shows a step and what of that belongs into the step's key; must not
know how a mount is made.

A read-only or discarded source is identified by its files' content. The contents of cache mounts
and the values of secrets never enter a key (design, "Identity").
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from buildgraph import limits
from buildgraph.dockerfile.mounts import parse_size
from buildgraph.engine.sources import Sources
from buildgraph.engine.work import Work
from buildgraph.errors import HostError, InputError, Location
from buildgraph.graph.ops import ExecOp, Node, RunMount
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain
from buildgraph.sandbox.spec import Bind, FileMount, Mount, OverlayMount, Tmpfs
from buildgraph_cache.store import Store


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where the value of a secret is: a variable or a file of the user's, one of them."""

    env: str | None = None
    path: str | None = None


class MountSources:
    """Opens the mounts of a step."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        sources: Sources,
        secrets: Mapping[str, Mapping[str, SecretSource]],
        environ: Mapping[str, str],
    ):
        """`secrets` by target label; "" holds those of the command line."""
        self._store = store
        self._layers = layers
        self._sources = sources
        self._secrets = secrets
        self._environ = environ

    def identities(self, node: Node, op: ExecOp, chains: tuple[Chain, ...]) -> list[str | None]:
        """Return for each mount what it shows, as it goes into the key."""
        out: list[str | None] = []
        for mount in op.mounts:
            if mount.type == "bind" or (mount.type == "cache" and _has_source(mount)):
                out.append(self._sources.mounted(mount, chains, node.where).digest)
            else:
                out.append(None)
        return out

    @contextmanager
    def opened(self, work: Work, op: ExecOp) -> Iterator[tuple[tuple[Mount, ...], dict[str, str]]]:
        """Yield the mounts and the variables that secrets become; locks are held meanwhile."""
        mounts: list[Mount] = []
        env: dict[str, str] = {}
        with ExitStack() as stack:
            for mount in op.mounts:
                options = dict(mount.options)
                match mount.type:
                    case "bind":
                        mounts.append(self._bind(work, mount, options))
                    case "tmpfs":
                        size = parse_size(options.get("size", "0"), work.node.where)
                        mounts.append(Tmpfs(mount.target, size))
                    case "cache":
                        mounts.append(self._cache(work, mount, options, stack))
                    case "secret":
                        self._secret(work, mount, options, mounts, env)
                    case "ssh":
                        raise InputError("ssh mounts are not supported yet", work.node.where)
            yield tuple(mounts), env

    def _bind(self, work: Work, mount: RunMount, options: Mapping[str, str]) -> Mount:
        directory = self._sources.directory(mount, work.sources, work.node.where)
        if options.get("readonly", "true") == "true" and len(directory) == 1:
            return Bind(directory[0], mount.target, read_only=True)
        return OverlayMount(directory, mount.target)  # what is written there is discarded

    def _cache(
        self, work: Work, mount: RunMount, options: Mapping[str, str], stack: ExitStack
    ) -> Mount:
        identity = options.get("id") or mount.target
        owner = (options.get("uid", "0"), options.get("gid", "0"), options.get("mode", "0755"))
        base = (
            self._sources.mounted(mount, work.sources, work.node.where).digest
            if _has_source(mount)
            else "/".join(owner)
        )
        name = f"{len(identity)}:{identity}:{base}"
        sharing = options.get("sharing", "shared")
        if sharing not in ("shared", "private", "locked"):
            raise InputError(f"unknown sharing mode {sharing!r}", work.node.where)
        if sharing == "locked":
            stack.enter_context(
                self._store.key_lock(f"cache-{name}", on_wait=lambda t: work.progress(t, 0, 0))
            )
        path = stack.enter_context(self._store.cache_mount(name, private=sharing == "private"))
        with self._store.key_lock(f"new-cache-{name}"):
            if not os.listdir(path):
                self._prepare_cache(path, owner, work.node.where)
                if _has_source(mount):
                    self._sources.copy_to(mount, work.sources, work.node.where, path)
        return Bind(path, mount.target, read_only=options.get("readonly") == "true")

    def _prepare_cache(self, path: str, owner: tuple[str, str, str], where: Location) -> None:
        try:
            os.chmod(path, int(owner[2], 8))
            os.chown(path, int(owner[0]), int(owner[1]))
        except ValueError as error:
            raise InputError(f"bad owner or mode of a cache mount: {error}", where) from error
        except OSError as error:
            raise HostError(f"cannot prepare a cache mount: {error.strerror}", where) from error

    def _secret(
        self,
        work: Work,
        mount: RunMount,
        options: Mapping[str, str],
        mounts: list[Mount],
        env: dict[str, str],
    ) -> None:
        identity = options.get("id") or os.path.basename(mount.target)
        value = self._value(work.node, identity)
        if value is None:
            if options.get("required") == "true":
                raise InputError(
                    f"the secret {identity!r} is required and was not given",
                    work.node.where,
                    f"--secret id={identity},src=FILE, or `secrets:` in the Boxfile",
                )
            return
        if name := options.get("env"):
            env[name] = value.decode("utf-8", "surrogateescape")
            if not mount.target:
                return
        target = mount.target or f"/run/secrets/{identity}"
        mode = int(options.get("mode", "0400"), 8)
        uid, gid = int(options.get("uid", "0")), int(options.get("gid", "0"))
        mounts.append(FileMount(target, value, mode, uid, gid))

    def _value(self, node: Node, identity: str) -> bytes | None:
        source = self._secrets.get("", {}).get(identity) or self._secrets.get(node.label, {}).get(
            identity
        )
        if source is None:
            return None
        if source.env is not None:
            text = self._environ.get(source.env)
            return None if text is None else text.encode("utf-8", "surrogateescape")
        assert source.path is not None
        try:
            with open(source.path, "rb") as file:
                value = file.read(limits.SECRET_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read the secret {identity!r}: {error.strerror}") from error
        if len(value) > limits.SECRET_BYTES:
            raise InputError(f"the secret {identity!r} is larger than 500 KiB")
        return value


def _has_source(mount: RunMount) -> bool:
    return mount.input is not None or mount.context is not None
