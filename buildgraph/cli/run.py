"""Knows the options of `buildgraph run`, spelt as docker spells them, and its course: build, start,
follow; must not know how a container is made.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
from msgspec import Struct

from buildgraph import events as ev
from buildgraph.cli.attach import Ends, Runnable, attached, say_how_it_ended
from buildgraph.cli.build import catch_signals
from buildgraph.cli.choose import choose
from buildgraph.cli.entry import guarded, report
from buildgraph.cli.options import progress_option, store_option
from buildgraph.cli.recall import recallable, recalled, warn
from buildgraph.cli.remember import put_answer, see_run
from buildgraph.cli.screen import make_listener, report_rest
from buildgraph.cli.session import Session, Settings
from buildgraph.engine.container.options import Publish, RunOptions
from buildgraph.engine.container.parse import (
    parse_address,
    parse_host,
    parse_publish,
    parse_size,
    parse_tmpfs,
    parse_ulimit,
    parse_variable,
    parse_volume,
    read_env_file,
)
from buildgraph.engine.container.running import ImageContainer
from buildgraph.engine.container.start import Streams, open_container
from buildgraph.engine.deliver import Deliverer, DeliveryOptions, assemble
from buildgraph.engine.history import Chronicle
from buildgraph.engine.looked import LookedAt
from buildgraph.errors import BuildgraphError, InputError
from buildgraph.oci.types import Image
from buildgraph.sandbox.host import ExitStatus
from buildgraph.sandbox.spec import Limits, SandboxSpec
from buildgraph_cache.objects import snapshot_ref

_NOT_STARTED: Final = 125  # docker's: the failure is ours and not the command's
_NETWORKS: Final = {"none": "none", "default": "default", "bridge": "default", "host": "host"}

_FLAGS: Final = (
    click.option("-i", "--interactive", is_flag=True, help="Pass standard input on."),
    click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
    click.option("--rm", is_flag=True, help="Accepted: a container never outlives its run."),
    click.option("-e", "--env", "variables", multiple=True, metavar="NAME[=VALUE]"),
    click.option("--env-file", "env_files", multiple=True, metavar="FILE"),
    click.option("-u", "--user", metavar="USER[:GROUP]"),
    click.option("-w", "--workdir", metavar="DIR"),
    click.option("--entrypoint", metavar="COMMAND", help='Instead of the image\'s; "" for none.'),
    click.option("-h", "--hostname", metavar="NAME"),
    click.option("--name", metavar="NAME", help="Its name in its network."),
    click.option(
        "--network",
        type=click.Choice(list(_NETWORKS)),
        default="none",
        show_default=True,
        help="What it can reach.",
    ),
    click.option(
        "-p", "--publish", multiple=True, metavar="[[ADDRESS:]HOSTPORT:]PORT",
        help="Reach its port from here; on 127.0.0.1 unless an address is given.",
    ),
    click.option("--add-host", "hosts", multiple=True, metavar="NAME:ADDRESS"),
    click.option("--dns", multiple=True, metavar="ADDRESS"),
    click.option(
        "-v", "--volume", "volumes", multiple=True, metavar="[SOURCE:]TARGET[:ro|rw]",
        help="A volume, or a directory of yours: that one read-only unless you write rw.",
    ),
    click.option("--tmpfs", multiple=True, metavar="TARGET[:OPTIONS]"),
    click.option("--read-only", is_flag=True, help="Let nothing be written outside of mounts."),
    click.option("-m", "--memory", metavar="SIZE"),
    click.option("--memory-swap", metavar="SIZE", help="Memory and swap together; -1: no limit."),
    click.option("--cpus", type=click.FloatRange(0.01), metavar="NUMBER"),
    click.option("--pids-limit", type=click.IntRange(-1), metavar="NUMBER"),
    click.option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]"),
    click.option("--shm-size", metavar="SIZE"),
    click.option("--cap-add", multiple=True, metavar="NAME"),
    click.option("--cap-drop", multiple=True, metavar="NAME"),
    click.option(
        "--security-opt", multiple=True, metavar="OPTION",
        help="seccomp=unconfined, no-new-privileges[=true|false].",
    ),
    click.option("--privileged", is_flag=True, help="Every right there is inside. Dangerous."),
    click.option("--init", is_flag=True, help="A process 1 of ours that forwards and reaps."),
    click.option("--stop-signal", metavar="SIGNAL"),
    click.option("--stop-timeout", type=click.FloatRange(0), metavar="SECONDS"),
    click.option("--keep", metavar="DIR", help="Afterwards put what it wrote there."),
)  # fmt: skip


class RunFlags(Struct, frozen=True, kw_only=True):
    """The words of one command line, as click gives them."""

    interactive: bool = False
    tty: bool = False
    rm: bool = False
    variables: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    user: str | None = None
    workdir: str | None = None
    entrypoint: str | None = None
    hostname: str | None = None
    name: str | None = None
    network: str = "none"
    publish: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    read_only: bool = False
    memory: str | None = None
    memory_swap: str | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    ulimits: tuple[str, ...] = ()
    shm_size: str | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    privileged: bool = False
    init: bool = False
    stop_signal: str | None = None
    stop_timeout: float | None = None
    keep: str | None = None


def run_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add every flag of `run` to a command."""
    for flag in reversed(_FLAGS):
        function = flag(function)
    return function


# Options end at the target, as at docker's image: what follows is the command's own.
@click.command(
    "run", context_settings={"allow_interspersed_args": False, "help_option_names": ["--help"]}
)
@click.argument("target", default=".")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@run_flags
@progress_option
@store_option
@guarded
def command(
    target: str, arguments: tuple[str, ...], progress: str, store: str | None, **given: Any
) -> int:
    """Build a target's image if need be and run it; what it writes is thrown away.

    ARGUMENTS replace the image's CMD; a -- before them is left out. Options stand before the
    target. Exits with the command's own code: 125 where it could not be started, 126 where it is
    no program, 127 where there is none, 128 and the signal where one ended it.
    """
    flags = RunFlags(**given)
    args = arguments[1:] if arguments[:1] == ("--",) else arguments
    options = options_of(flags, args, os.environ)
    ports = tuple(parse_publish(text) for text in flags.publish)
    settings = Settings(store=store)
    return build_and_run(target, options, ports, flags, settings, progress)


def options_of(flags: RunFlags, args: tuple[str, ...], environ: Any) -> RunOptions:
    """Return what the flags ask for. Raises InputError for what they cannot mean."""
    env = [pair for path in flags.env_files for pair in read_env_file(path, environ)]
    env += [parse_variable(text, environ) for text in flags.variables]
    entrypoint = None
    if flags.entrypoint is not None:
        entrypoint = (flags.entrypoint,) if flags.entrypoint else ()
    no_new_privs, seccomp = _security(flags.security_opt)
    return RunOptions(
        args=args,
        env=tuple(env),
        user=flags.user,
        workdir=flags.workdir,
        entrypoint=entrypoint,
        hostname=flags.hostname,
        network=_NETWORKS[flags.network],  # type: ignore[arg-type]  # the table has the words
        hosts=tuple(parse_host(text) for text in flags.hosts),
        dns=tuple(f"nameserver {parse_address(text, '--dns')}" for text in flags.dns),
        limits=_limits(flags),
        cap_add=flags.cap_add,
        cap_drop=flags.cap_drop,
        read_only=flags.read_only,
        mounts=(
            *(parse_volume(text) for text in flags.volumes),
            *(parse_tmpfs(text) for text in flags.tmpfs),
        ),
        init=flags.init,
        tty=flags.tty,
        stop_signal=flags.stop_signal,
        stop_grace=10.0 if flags.stop_timeout is None else flags.stop_timeout,
        no_new_privs=no_new_privs,
        seccomp=seccomp,
        insecure=flags.privileged,
    )


def _limits(flags: RunFlags) -> Limits:
    values: dict[str, Any] = {"log": 1 << 62}  # it goes to the caller, who has it under control
    if flags.memory is not None:
        values["memory"] = parse_size(flags.memory, "--memory")
    if flags.memory_swap is not None:
        if "memory" not in values:
            raise InputError("--memory-swap counts memory too: give --memory with it")
        unlimited = flags.memory_swap == "-1"
        both = 1 << 60 if unlimited else parse_size(flags.memory_swap, "--memory-swap")
        if both < values["memory"]:
            raise InputError("--memory-swap is memory and swap together: not below --memory")
        values["memory_swap"] = both
    if flags.cpus is not None:
        values["cpus"] = flags.cpus
    if flags.pids_limit is not None:
        values["pids"] = flags.pids_limit if flags.pids_limit > 0 else None
    if flags.shm_size is not None:
        values["shm"] = parse_size(flags.shm_size, "--shm-size")
    return Limits(ulimits=tuple(parse_ulimit(text) for text in flags.ulimits), **values)


def _security(texts: tuple[str, ...]) -> tuple[bool, bool]:
    """Return (no new privileges, list of system calls)."""
    no_new_privs, seccomp = True, True
    for text in texts:
        key, _, value = text.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            no_new_privs = value != "false"
        elif key == "seccomp" and value == "unconfined":
            seccomp = False
        else:
            raise InputError(
                f"--security-opt {text} is not understood",
                hint="seccomp=unconfined, no-new-privileges=true, no-new-privileges=false",
            )
    return no_new_privs, seccomp


def build_and_run(
    target: str,
    options: RunOptions,
    ports: tuple[Publish, ...],
    flags: RunFlags,
    settings: Settings,
    progress: str,
) -> int:
    """Build what is missing of one target, run its image, and return the command's exit code."""
    catch_signals()
    with Session(settings, os.environ, os.getcwd()) as session:
        seen = LookedAt()
        image = built_image(session, target, progress, seen)
        if isinstance(image, int):
            return image
        try:
            return run_image(session, image, options, ports, flags, seen)
        except BuildgraphError as error:
            report(error)
            return _NOT_STARTED


def built_image(
    session: Session, target: str, progress: str, seen: LookedAt | None = None
) -> Image | int:
    """Build what is missing of one target and return its image, or the exit code of a failure.

    `seen` gets all files that decided about it, where a later look at them can tell that nothing
    has changed.
    """
    screen = make_listener(progress, sys.stderr, sys.stderr, os.environ)
    listener = Quiet(screen)
    try:
        workspace, chosen = choose(session, (target,), None)
        prepared = session.prepare(workspace, chosen, listener)
        if len(prepared.plans) != 1:
            raise InputError(f"{target} means {len(prepared.plans)} images; run needs one")
        session.sandbox.prepare(slots=1)
        with session.open_graph(prepared) as graph:
            deliverer = Deliverer(session.store, session.layers, DeliveryOptions(), session.epoch)
            chronicle = Chronicle(listener)
            result = graph.build(deliverer.deliveries(prepared), chronicle)
            chronicle.write(session.store, prepared, result.outcomes, result.images)
            if seen is not None and not result.errors:
                see_run(session, prepared, graph, seen)
        if not session.store.read_only:
            session.store.sync()
    finally:
        screen.close()
    if result.errors:
        return report_rest(screen, result.errors)
    ((plan, *_),) = prepared.plans.values()
    return assemble(plan, result.outcomes, session.epoch)


def run_image(
    session: Session,
    image: Image,
    options: RunOptions,
    ports: tuple[Publish, ...],
    flags: RunFlags,
    seen: LookedAt | None = None,
) -> int:
    """Run an image with our streams; return the exit code. Raises where it could not start.

    With `seen` the container is written down, so that the same command starts it at once.
    """
    sandbox, asked = session.sandbox, _asks_for_limits(options)
    with ExitStack() as stack:
        network = place = None
        if ports:
            if options.network == "host":
                raise InputError("--publish has no meaning with --network=host")
            outside = options.network == "default"
            network = stack.enter_context(sandbox.private_network(outside=outside))
            place = network.attach(flags.name or options.hostname or "container")
            for port in ports:
                found = network.publish(place, port.port, host=port.host, host_port=port.host_port)
                sys.stderr.write(f"buildgraph: {port.host}:{found} -> {port.port}\n")

        def start(ends: Ends) -> Runnable:
            streams = Streams(ends.output, ends.errors, ends.stdin, ends.tty)
            made = open_container(
                session.store, session.layers, sandbox, image, options, streams, network=place
            )
            warn(sandbox.warnings, made.spec, asked=asked)
            if seen and not ports:
                write_down(session, image, made.spec, options, flags, seen)
            return made

        def finish(container: Runnable, _status: ExitStatus) -> None:
            if flags.keep is not None:
                from buildgraph.cli.keep import keep_changes

                assert isinstance(container, ImageContainer)
                keep_changes(Path(container.upper), Path(flags.keep))

        status = attached(
            start,
            interactive=flags.interactive,
            tty=flags.tty,
            grace=options.stop_grace,
            finish=finish,
        )
    say_how_it_ended(status, options.limits, sandbox.memory)
    return status.code


def write_down(
    session: Session,
    image: Image,
    spec: SandboxSpec,
    options: RunOptions,
    flags: RunFlags,
    seen: LookedAt,
) -> None:
    """Keep the container for the same command, where nothing else decided about it."""
    read_elsewhere = flags.env_files or any("=" not in text for text in flags.variables)
    if read_elsewhere or flags.keep is not None or not recallable(spec):
        return
    known = recalled(
        spec,
        random_name=options.hostname is None,
        interactive=flags.interactive,
        grace=options.stop_grace,
        asked_for_limits=_asks_for_limits(options),
    )
    refs = [snapshot_ref(layer.diff_id.removeprefix("sha256:")) for layer in image.chain.layers]
    put_answer(session, seen, json.dumps(known.plain()).encode(), refs)


def _asks_for_limits(options: RunOptions) -> bool:
    limits = options.limits
    return limits.memory is not None or limits.cpus is not None or limits.pids != Limits().pids


class Quiet:
    """Passes events on once something is really built: hits are no news before a run."""

    def __init__(self, listener: ev.Listener):
        self._listener = listener
        self._held: list[ev.Event] | None = []

    def __call__(self, event: ev.Event) -> None:
        """Take one event."""
        if self._held is None:
            self._listener(event)
            return
        self._held.append(event)
        if isinstance(event, ev.NodeStarted | ev.NodeFailed | ev.Notice):
            held, self._held = self._held, None
            for old in held:
                self._listener(old)
