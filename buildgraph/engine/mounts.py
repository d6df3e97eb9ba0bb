"""Knows what each RUN --mount shows a step and what of that belongs into the step's key; must not
know how a mount is made.

A read-only or discarded source is identified by its files' content. The contents of cache mounts
and the values of secrets never enter a key (design, "Identity").
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import assert_never

from msgspec import Struct

from buildgraph import limits
from buildgraph.dockerfile.mounts import parse_size
from buildgraph.engine.agent import lent_agent
from buildgraph.engine.cache_mounts import CacheMounts, Owner, has_source, owner_of
from buildgraph.engine.sources import Sources
from buildgraph.engine.work import Work
from buildgraph.errors import InputError, Location
from buildgraph.graph.ops import ExecOp, Node, RunMount
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain
from buildgraph.sandbox.spec import Bind, FileMount, Mount, OverlayMount, Tmpfs
from buildgraph_cache.store import Store


class SecretSource(Struct, frozen=True):
    """Where the value of a secret is: a variable or a file of the user's, one of them."""

    env: str | None = None
    path: str | None = None


Secrets = Mapping[str, Mapping[str, SecretSource]]  # by target label; "" are the command line's


class Shown(Struct, frozen=True):
    """What a step sees beside its layers. `fleeting` are targets that mean nothing later."""

    mounts: tuple[Mount, ...]
    env: Mapping[str, str]  # what secrets become
    fleeting: frozenset[str] = frozenset()


class MountSources:
    """Opens the mounts of a step."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        sources: Sources,
        secrets: Secrets,
        environ: Mapping[str, str],
        agents: Mapping[str, str] | None = None,
    ):
        """`agents` are sockets by id."""
        self._store = store
        self._layers = layers
        self._sources = sources
        self._caches = CacheMounts(store, sources)
        self._agents = agents or {}
        self._secrets = secrets
        self._environ = environ

    def identities(self, node: Node, op: ExecOp, chains: tuple[Chain, ...]) -> list[str | None]:
        """Return for each mount what it shows, as it goes into the key."""
        out: list[str | None] = []
        for mount in op.mounts:
            if mount.type == "bind" or (mount.type == "cache" and has_source(mount)):
                out.append(self._sources.mounted(mount, chains, node.where))
            else:
                out.append(None)
        return out

    @contextmanager
    def opened(self, work: Work, op: ExecOp) -> Iterator[Shown]:
        """Yield what the step is shown; locks are held, and sockets listened on, meanwhile."""
        mounts: list[Mount] = []
        env: dict[str, str] = {}
        fleeting: set[str] = set()
        with ExitStack() as stack:
            caches = self._caches.open(work, op, stack)
            for index, mount in enumerate(op.mounts):
                options = dict(mount.options)
                match mount.type:
                    case "bind":
                        mounts.append(self._bind(work, mount, options, stack))
                    case "tmpfs":
                        size = parse_size(options.get("size", "0"), work.node.where)
                        mounts.append(Tmpfs(mount.target, size))
                    case "cache":
                        mounts.append(caches[index])
                    case "secret":
                        self._secret(work, mount, options, mounts, env)
                    case "ssh":
                        mounts.extend(self._ssh(work, mount, options, stack))
                        fleeting.add(mount.target)
                    case _:
                        assert_never(mount.type)
            yield Shown(tuple(mounts), env, frozenset(fleeting))

    def _bind(
        self, work: Work, mount: RunMount, options: Mapping[str, str], stack: ExitStack
    ) -> Mount:
        places = self._sources.directory(mount, work.sources, work.node.where)
        read_only = options.get("readonly", "true") == "true"
        if not places:  # a stage without files
            places = (stack.enter_context(self._store.new_scratch()).directory("nothing"),)
        if len(places) == 1 and read_only:
            return Bind(places[0], mount.target, read_only=True)
        if len(places) == 1 and not os.path.isdir(places[0]):
            copy = f"{stack.enter_context(self._store.new_scratch()).path}/file"
            shutil.copy2(places[0], copy)
            stat = os.stat(places[0])
            os.chown(copy, stat.st_uid, stat.st_gid)
            os.chmod(copy, stat.st_mode & 0o7777)
            return Bind(copy, mount.target, read_only=False)
        return OverlayMount(places, mount.target, read_only)  # what is written there is discarded

    def _ssh(
        self, work: Work, mount: RunMount, options: Mapping[str, str], stack: ExitStack
    ) -> list[Mount]:
        identity = options.get("id") or "default"
        agent = self._agents.get(identity)
        if agent is None:
            if options.get("required") == "true":
                raise InputError(
                    f"the ssh agent {identity!r} is required and was not given",
                    work.node.where,
                    f"--ssh {identity}",
                )
            return []
        scratch = stack.enter_context(self._store.new_scratch())
        own = owner_of(options, Owner(0, 0, 0o600))
        path = stack.enter_context(
            lent_agent(agent, scratch.path, "agent", mode=own.mode, uid=own.uid, gid=own.gid)
        )
        return [Bind(path, mount.target, read_only=True)]

    def _secret(
        self,
        work: Work,
        mount: RunMount,
        options: Mapping[str, str],
        mounts: list[Mount],
        env: dict[str, str],
    ) -> None:
        identity = options.get("id") or os.path.basename(mount.target)
        value = find_secret(
            self._secrets, self._environ, work.node.label, identity, work.node.where
        )
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
        target = mount.target or f"/run/secrets/{os.path.basename(identity)}"
        own = owner_of(options, Owner(0, 0, 0o400))
        mounts.append(FileMount(target, value, own.mode, own.uid, own.gid))


def find_secret(
    secrets: Secrets,
    environ: Mapping[str, str],
    label: str,
    identity: str,
    where: Location | None = None,
) -> bytes | None:
    """Return the value of a secret for a target; None where none is given, or its variable not set.

    Raises InputError for one that cannot be read or is too large.
    """
    source = secrets.get("", {}).get(identity) or secrets.get(label, {}).get(identity)
    value = None if source is None else read_secret(source, identity, environ)
    if value is not None and len(value) > limits.SECRET_BYTES:
        raise InputError(f"the secret {identity!r} is larger than 500 KiB", where)
    return value


def read_secret(source: SecretSource, identity: str, environ: Mapping[str, str]) -> bytes | None:
    """Return a secret's value, cut off one byte over its cap; None where its variable is not set.

    Raises InputError where its file cannot be read.
    """
    if source.env is not None:
        text = environ.get(source.env)
        return None if text is None else text.encode("utf-8", "surrogateescape")
    assert source.path is not None
    try:
        with open(source.path, "rb") as file:
            return file.read(limits.SECRET_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the secret {identity!r}: {error.strerror}") from error
