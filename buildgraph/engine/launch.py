"""Knows how an image's config becomes a running container; must not know who started it.

Source: image-spec config.md; docker's rules for ENTRYPOINT, CMD, USER and WORKDIR.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from buildgraph import limits
from buildgraph.engine.run_step import lower_directories
from buildgraph.engine.users import lookup
from buildgraph.errors import InputError
from buildgraph.graph.ops import Network
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Image
from buildgraph.sandbox.host import ExitStatus, SandboxHost
from buildgraph.sandbox.spec import SandboxSpec
from buildgraph_cache.store import Store


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line changes of what the image says."""

    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    workdir: str | None = None
    entrypoint: str | None = None
    network: Network = "none"


def command_of(image: Image, options: RunOptions) -> tuple[str, ...]:
    """Return what runs: ENTRYPOINT followed by the arguments, or by CMD where none are given.

    An overridden entrypoint drops the image's CMD, as docker does.
    """
    config = image.config
    if options.entrypoint is not None:
        return (options.entrypoint, *options.args)
    return (*(config.entrypoint or ()), *(options.args or config.cmd or ()))


def launch(
    store: Store,
    layers: LayerStore,
    sandbox: SandboxHost,
    image: Image,
    options: RunOptions,
    output: Callable[[bytes], None],
    cancel: threading.Event,
) -> ExitStatus:
    """Run a container of the image to its end; its writes are thrown away.

    Raises InputError where the image and the options name no command or an unknown user.
    """
    args = command_of(image, options)
    if not args:
        raise InputError("the image has neither ENTRYPOINT nor CMD", hint="give a command after --")
    config = image.config
    view = RootView(layers, image.chain)
    who = lookup(
        config.user if options.user is None else options.user,
        view.read_file("etc/passwd", limits.PASSWD_BYTES) or b"",
        view.read_file("etc/group", limits.PASSWD_BYTES) or b"",
    )
    env = {**dict(config.env), **dict(options.env)}
    env.setdefault("HOME", who.home)
    env.setdefault("HOSTNAME", "buildgraph")
    with store.new_scratch() as scratch:
        spec = SandboxSpec(
            lowers=tuple(lower_directories(layers, image.chain)),
            upper=scratch.upper,
            work=scratch.work,
            args=args,
            env=tuple(env.items()),
            cwd=options.workdir or config.working_dir or "/",
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            network=options.network,
            no_new_privs=True,
        )
        return sandbox.run(spec, output, cancel)
