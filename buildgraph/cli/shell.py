"""Knows how a command is run by hand in the file system of any step; must not know how that came to
be.
"""

from __future__ import annotations

import os

import click
from msgspec.structs import replace

from buildgraph.cli.build import catch_signals
from buildgraph.cli.entry import guarded
from buildgraph.cli.options import progress_option, store_option
from buildgraph.cli.run import RunFlags, built_image, options_of, run_image
from buildgraph.cli.session import Session, Settings
from buildgraph.engine.prepare import Overrides
from buildgraph.errors import InputError

_SHELL = "/bin/sh"


@click.command("shell")
@click.argument("target", metavar="TARGET[@STEP]")
@click.option("-c", "--command", "text", metavar="TEXT", help="Run this and leave.")
@click.option("--shell", metavar="PATH", default=_SHELL, show_default=True)
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Default: the step's.")
@click.option(
    "--network",
    type=click.Choice(["default", "none", "host"]),
    default="default",
    show_default=True,
    help="What it can reach.",
)
@progress_option
@store_option
@guarded
def command(
    target: str,
    text: str | None,
    shell: str,
    user: str | None,
    network: str,
    progress: str,
    store: str | None,
) -> int:
    """Open a shell in the file system of a target, or of one of its steps; it changes nothing.

    STEP is a line of the Dockerfile (`//app@12`: as it is after the instruction on line 12) or
    the name of a stage (`//app@builder`). What the step needs is built first. User, directory and
    environment are the step's.
    """
    label, stage, line = split_step(target)
    settings = Settings(store=store, overrides=Overrides(stage=stage, until=line))
    tty = os.isatty(0) and text is None
    flags = RunFlags(
        interactive=True,
        tty=tty,
        user=user,
        entrypoint=shell,
        network=network,
        security_opt=("no-new-privileges=false",),  # as RUN has it
    )
    options = options_of(flags, () if text is None else ("-c", text), os.environ)
    catch_signals()
    with Session(settings, os.environ, os.getcwd()) as session:
        image = built_image(session, label, progress)
        if isinstance(image, int):
            return image
        # Volumes belong to containers; what a step sees is its layers.
        image = replace(image, config=replace(image.config, volumes=()))
        return run_image(session, image, options, (), flags)


def split_step(target: str) -> tuple[str, str | None, int]:
    """Split `LABEL[@STAGE|@LINE]` into the label, the stage or None, and the line or 0.

    An @ with = behind it belongs to the label: a member of a matrix.
    """
    label, at, step = target.rpartition("@")
    if not at or "=" in step or "/" in step:
        return target, None, 0
    if not step:
        raise InputError(f"{target}: no step stands after the @", hint="a line, or a stage's name")
    if step.isascii() and step.isdigit():
        if not int(step[:9]):
            raise InputError(f"{target}: the first line of a Dockerfile is 1")
        return label or ".", None, int(step[:9])
    return label or ".", step, 0
