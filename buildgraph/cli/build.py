"""Knows the options of `buildgraph build` and what they ask for; must not know how it is done."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from buildgraph import events as ev
from buildgraph.cli.choose import choose
from buildgraph.cli.entry import Terminated, guarded, report
from buildgraph.cli.options import parse_fields, parse_pairs, progress_option, store_option
from buildgraph.cli.remember import remember
from buildgraph.cli.screen import make_listener
from buildgraph.cli.session import Session, Settings
from buildgraph.engine.deliver import Deliverer, DeliveryOptions
from buildgraph.engine.mounts import SecretSource
from buildgraph.engine.outputs import compression_of, parse_output
from buildgraph.engine.prepare import Overrides
from buildgraph.errors import BuildgraphError, InputError
from buildgraph.sandbox.spec import Limits

_HELP = """Build targets, or a directory with a Dockerfile.

TARGETS are labels (//app:image, //app, :image), patterns (//..., //app/...), or a PATH that holds
a Dockerfile, as `docker build PATH` takes it. Without any, the target of the current directory.
"""


@click.command("build", help=_HELP)
@click.argument("targets", nargs=-1)
@click.option("-f", "--file", metavar="FILE", help="The Dockerfile, for a PATH.")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME:TAG", help="Name the result.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]")
@click.option(
    "--build-context",
    "contexts",
    multiple=True,
    metavar="NAME=PLACE",
    help="A directory, oci-layout://DIR[:TAG|@DIGEST], or //label.",
)
@click.option("--target", "stage", metavar="STAGE", help="Build this stage.")
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH")
@click.option("--secret", "secrets", multiple=True, metavar="id=ID[,src=FILE|,env=NAME]")
@click.option(
    "--network", type=click.Choice(["default", "none", "host"]), help="What RUN can reach."
)
@click.option("--no-cache", is_flag=True, help="Look nothing up; results are still kept.")
@click.option("--no-cache-filter", multiple=True, metavar="STAGE", help="... for these stages.")
@click.option("--pull", is_flag=True, help="Resolve packages and images anew.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE")
@click.option("--annotation", "annotations", multiple=True, metavar="NAME=VALUE")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="type=TYPE,dest=PATH",
    help="oci, docker, tar, local or cacheonly; a bare path is local, - a tar on stdout.",
)
@click.option("--iidfile", metavar="FILE", help="Write the image's digest there.")
@click.option("--metadata-file", metavar="FILE", help="Write digests there, as buildx does.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="How many steps run at once.")
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, build what can be.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be built.")
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@click.option("--memory", metavar="SIZE", help="Most memory of a step, as 512m or 4g.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Most time of a step.")
@click.option("-q", "--quiet", is_flag=True, help="Print the digest alone.")
@progress_option
@store_option
@guarded
def command(
    targets: tuple[str, ...],
    file: str | None,
    tags: tuple[str, ...],
    build_args: tuple[str, ...],
    contexts: tuple[str, ...],
    stage: str | None,
    platforms: tuple[str, ...],
    secrets: tuple[str, ...],
    network: str | None,
    no_cache: bool,
    no_cache_filter: tuple[str, ...],
    pull: bool,
    labels: tuple[str, ...],
    annotations: tuple[str, ...],
    outputs: tuple[str, ...],
    iidfile: str | None,
    metadata_file: str | None,
    jobs: int | None,
    keep_going: bool,
    dry_run: bool,
    offline: bool,
    memory: str | None,
    timeout: float | None,
    quiet: bool,
    progress: str,
    store: str | None,
) -> int:
    """Parse the options and build."""
    environ = os.environ
    wanted = tuple(parse_output(text) for text in outputs)
    overrides = Overrides(
        parse_pairs(build_args, "--build-arg", environ),
        parse_pairs(contexts, "--build-context"),
        stage,
        tuple(p for text in platforms for p in text.split(",") if p),
        parse_pairs(labels, "--label"),
        network,  # type: ignore[arg-type]  # click holds it to the three words
    )
    settings = Settings(
        store,
        jobs or 0,
        keep_going,
        no_cache,
        tuple(s for text in no_cache_filter for s in text.split(",")),
        offline,
        pull,
        compression_of(wanted),
        overrides,
        dict(_secret(text) for text in secrets),
        Limits(memory=_memory(memory), timeout=timeout),
    )
    delivery = DeliveryOptions(
        wanted,
        tags,
        parse_pairs(annotations, "--annotation"),
        settings.compression,
        iidfile,
        metadata_file,
    )
    if dry_run:
        from buildgraph.cli.plan import show_plan

        return show_plan(targets, file, settings, as_json=progress == "json")
    return run_build(targets, file, settings, delivery, "quiet" if quiet else progress)


def run_build(
    targets: tuple[str, ...],
    file: str | None,
    settings: Settings,
    delivery: DeliveryOptions,
    progress: str,
) -> int:
    """Build and return the exit code; every error has been shown by then."""
    catch_signals()
    screen = make_listener(progress, sys.stdout, sys.stderr, os.environ)
    try:
        with Session(settings, os.environ, os.getcwd()) as session:
            workspace, chosen = choose(session, targets, file)
            prepared = session.prepare(workspace, chosen, screen)
            with session.open_graph(prepared) as graph:
                deliverer = Deliverer(session.store, session.layers, delivery, session.epoch)
                result = graph.build(deliverer.deliveries(prepared), screen)
                if not session.store.read_only:
                    session.store.sync()
                screen.close()
                if not result.errors:
                    deliverer.finish(result.images)
                    text = last_words(result.images, progress)
                    remember(session, prepared, graph, result.images, delivery, text)
                    if not any(output.dest == "-" for output in delivery.outputs):
                        click.echo(text, nl=False)
    except BuildgraphError as error:
        screen.close()
        if screen.has_shown(error):
            return error.exit_code
        raise
    finally:
        screen.close()
    for failure in result.errors:
        if not screen.has_shown(failure):
            report(failure)
    return max((failure.exit_code for failure in result.errors), default=0)


def last_words(images: Sequence[ev.ImageBuilt], progress: str) -> str:
    """Return what a build says at its end: a line an image; nothing where events say it."""
    if progress == "json":
        return ""
    in_order = sorted(images, key=lambda image: image.label)
    if progress == "quiet":
        return "".join(f"{image.digest}\n" for image in in_order)
    return "".join(summary(image) + "\n" for image in in_order)


def summary(image: ev.ImageBuilt) -> str:
    """Return the line that says what was built."""
    platform = f" ({image.platform})" if image.platform else ""
    where = "".join(f"\n  -> {output}" for output in image.outputs)
    return f"{image.label}{platform} {image.digest}{where}"


def catch_signals() -> None:
    """Turn SIGTERM and SIGHUP into an orderly end: what runs is stopped and cleaned up."""

    def terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGHUP, terminated)


def _secret(text: str) -> tuple[str, SecretSource]:
    fields = parse_fields(text, "--secret")
    identity = fields.pop("id", "")
    fields.pop("type", None)
    source = fields.pop("src", None) or fields.pop("source", None)
    env = fields.pop("env", None)
    if not identity or fields:
        raise InputError(f"--secret {text}: expected id=ID,src=FILE or id=ID,env=NAME")
    if source is None and env is None:
        env = identity  # as docker: the variable of the same name
    return identity, SecretSource(env, os.path.abspath(source) if source else None)


def _memory(text: str | None) -> int | None:
    if text is None:
        return None
    from buildgraph.dockerfile.mounts import parse_size
    from buildgraph.errors import Location

    return parse_size(text, Location("--memory"))
