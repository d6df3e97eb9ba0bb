"""Knows docker's rules for what an image's config and options say of the main process; must not
know how a process is started.

Source: image-spec config.md; docker's rules for ENTRYPOINT, CMD, ENV, USER, WORKDIR, STOPSIGNAL.
"""

from __future__ import annotations

import posixpath
import signal

from msgspec import Struct

from buildgraph.dockerfile.signals import parse_signal
from buildgraph.engine.container.options import RunOptions
from buildgraph.engine.users import Identity, user_of
from buildgraph.errors import InputError, Location
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Image, ImageConfig
from buildgraph.sandbox.spec import PATH

_COMMAND_LINE = Location("command line")


class MainProcess(Struct, frozen=True):
    """What runs, as whom, where and with what."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    who: Identity

    @property
    def groups(self) -> tuple[int, ...]:
        """All supplementary groups: the primary one is among them, as docker has it."""
        return (self.who.gid, *self.who.groups)


def command_of(image: Image, options: RunOptions) -> tuple[str, ...]:
    """Return what runs: ENTRYPOINT followed by the arguments, or by CMD where none are given.

    An overridden entrypoint drops the image's CMD. Raises InputError where nothing is left.
    """
    config = image.config
    if options.entrypoint is not None:
        args = (*options.entrypoint, *options.args)
    else:
        args = (*(config.entrypoint or ()), *(options.args or config.cmd or ()))
    if not args:
        raise InputError("the image has neither ENTRYPOINT nor CMD", hint="give a command after --")
    return args


def main_process(image: Image, options: RunOptions, view: RootView, hostname: str) -> MainProcess:
    """Return the main process. Raises InputError for an unknown user or a missing command."""
    config = image.config
    who = user_of(view, config.user if options.user is None else options.user)
    return MainProcess(
        command_of(image, options),
        _environment(config, options, who, hostname),
        _workdir(config, options),
        who,
    )


def _environment(
    config: ImageConfig, options: RunOptions, who: Identity, hostname: str
) -> tuple[tuple[str, str], ...]:
    env = {"PATH": PATH, "HOSTNAME": hostname}
    if options.tty:
        env["TERM"] = "xterm"
    env |= dict(config.env)
    for name, value in options.env:
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    env.setdefault("HOME", who.home)
    return tuple(env.items())


def _workdir(config: ImageConfig, options: RunOptions) -> str:
    if options.workdir is not None and not options.workdir.startswith("/"):
        raise InputError(
            f"the working directory {options.workdir!r} is not absolute", hint="start it with /"
        )
    return posixpath.normpath(f"/{options.workdir or config.working_dir or '/'}".replace("//", "/"))


def stop_signal_of(image: Image, options: RunOptions) -> int:
    """Return the signal that asks the container to end: the option's, STOPSIGNAL, else TERM.

    Raises InputError for a name that is none.
    """
    text = options.stop_signal or image.config.stop_signal
    return parse_signal(text, _COMMAND_LINE) if text else int(signal.SIGTERM)
