"""Knows how a command is run by hand where a step would run: in the file system of any step, or of
one that failed; must not know how either came to be.
"""

from __future__ import annotations

import dataclasses
import os
import sys

import click

from buildgraph.cli.attach import Ends, Runnable, attached, say_how_it_ended
from buildgraph.cli.build import catch_signals
from buildgraph.cli.entry import guarded, report
from buildgraph.cli.options import progress_mode, progress_option, store_option
from buildgraph.cli.run import RunFlags, built_image, options_of, run_image
from buildgraph.cli.session import Session, Settings
from buildgraph.engine.prepare import Overrides
from buildgraph.engine.run_step import FailedStep
from buildgraph.errors import BuildgraphError, InputError
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.spec import SandboxSpec

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
        image = built_image(session, label, progress_mode(progress))
        if isinstance(image, int):
            return image
        # Volumes belong to containers; what a step sees is its layers.
        image = dataclasses.replace(image, config=dataclasses.replace(image.config, volumes=()))
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


def shell_after_failure(session: Session) -> None:
    """Open a shell where a RUN failed, if one did and there is a terminal. Never raises.

    The file system is as the step left it; environment, user, directory and mounts are the
    step's, secrets included.
    """
    failed = session.take_failed()
    if failed is None:
        return
    if not (os.isatty(0) and os.isatty(2)):
        sys.stderr.write("buildgraph: --on-error shell: there is no terminal for a shell here\n")
        return
    sys.stderr.write(f"buildgraph: a shell where {failed.title} failed; leave it with `exit`\n")
    try:
        run_step(session.sandbox, step_with(failed, (_SHELL,)), tty=True)
    except BuildgraphError as error:
        report(error)


def step_with(failed: FailedStep, args: tuple[str, ...]) -> SandboxSpec:
    """Return the sandbox of a failed step with another command, over what the step has written."""
    limits = dataclasses.replace(failed.spec.limits, timeout=None, log=1 << 62)
    # A work directory is marked until a step has ended well; another one has no such mark.
    work = failed.scratch.directory("work-again")
    return dataclasses.replace(failed.spec, args=args, limits=limits, work=work, init=True)


def run_step(sandbox: SandboxHost, spec: SandboxSpec, *, tty: bool) -> int:
    """Run a step's sandbox with our streams and return the exit code."""
    env = dict(spec.env)
    if tty:
        env.setdefault("TERM", os.environ.get("TERM", "xterm"))
    spec = dataclasses.replace(spec, tty=tty, env=tuple(env.items()))

    def start(ends: Ends) -> Runnable:
        return sandbox.start(spec, ends.output, errors=ends.errors, stdin=ends.stdin, tty=ends.tty)

    status = attached(start, interactive=tty, tty=tty, grace=10.0)
    say_how_it_ended(status, spec.limits, sandbox.memory)
    return status.code
