"""Knows every flag of `buildgraph build` by its spelling, and which of them `plan` and `explain`
share; must not know what any flag does.

A new flag is one line in a table below and one field of `BuildFlags`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from msgspec import Struct

from buildgraph.cli.options import afterwards_options, progress_option
from buildgraph.oci.handover.handed import ENGINES

F = TypeVar("F", bound=Callable[..., Any])
Flag = Callable[[F], F]


class BuildFlags(Struct, frozen=True, kw_only=True):
    """The words of one command line, as click gives them; the names are those in the tables."""

    # what is built
    targets: tuple[str, ...] = ()
    file: str | None = None
    build_args: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    stage: str | None = None
    platforms: tuple[str, ...] = ()
    # how steps run
    secrets: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    network: str | None = None
    add_host: tuple[str, ...] = ()
    ulimit: tuple[str, ...] = ()
    shm_size: str | None = None
    memory: str | None = None
    memory_swap: str | None = None
    timeout: float | None = None
    # what is looked up
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    offline: bool = False
    # what comes out
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    push: bool = False
    load: str | None = None
    iidfile: str | None = None
    metadata_file: str | None = None
    # how it goes on
    jobs: int | None = None
    keep_going: bool = False
    on_error: str = "stop"
    dry_run: bool = False
    check: bool = False
    call: str = "build"
    quiet: bool = False
    progress: str = "auto"
    events: str | None = None
    junit: str | None = None
    profile: str | None = None
    report: str | None = None
    store: str | None = None


def many(*names: str, metavar: str, help: str = "") -> Flag[Any]:  # noqa: A002 - click's word
    """Return a flag that may be given several times."""
    return click.option(*names, multiple=True, metavar=metavar, help=help or None)


# What says which graph is meant: `build`, `plan` and `explain` read these alike.
INPUT: tuple[Flag[Any], ...] = (
    click.argument("targets", nargs=-1),
    click.option("-f", "--file", metavar="FILE", help="The Dockerfile, for a PATH; - is stdin."),
    many("--build-arg", "build_args", metavar="NAME[=VALUE]"),
    many(
        "--build-context",
        "contexts",
        metavar="NAME=PLACE",
        help="A directory, oci-layout://DIR[:TAG|@DIGEST], a git URL, or //label.",
    ),
    click.option("--target", "stage", metavar="STAGE", help="Build this stage."),
    many("--platform", "platforms", metavar="OS/ARCH"),
    many("--allow", metavar="NAME", help="Grant security.insecure or network.host to steps."),
)

RUNNING: tuple[Flag[Any], ...] = (
    many("--secret", "secrets", metavar="id=ID[,src=FILE|,env=NAME]"),
    many("--ssh", metavar="default|ID[=SOCKET]", help="Lend steps an ssh agent."),
    click.option(
        "--network", type=click.Choice(["default", "none", "host"]), help="What RUN can reach."
    ),
    many("--add-host", metavar="NAME:ADDRESS", help="A line of the steps' /etc/hosts."),
    many("--ulimit", metavar="NAME=SOFT[:HARD]", help="A limit of setrlimit(2) for steps."),
    click.option("--shm-size", metavar="SIZE", help="The size of /dev/shm [default: 64m]."),
    click.option("--memory-swap", metavar="SIZE", help="Most memory and swap together; -1: any."),
    click.option("-m", "--memory", metavar="SIZE", help="Most memory of a step, as 512m or 4g."),
    click.option("--timeout", type=float, metavar="SECONDS", help="Most time of a step."),
)

LOOKUP: tuple[Flag[Any], ...] = (
    click.option("--no-cache", is_flag=True, help="Look nothing up; results are still kept."),
    many("--no-cache-filter", metavar="STAGE", help="... for these stages."),
    click.option("--pull", is_flag=True, help="Resolve packages and images anew."),
    click.option("--offline", is_flag=True, help="Fetch nothing."),
)

RESULT: tuple[Flag[Any], ...] = (
    many("-t", "--tag", "tags", metavar="NAME:TAG", help="Name the result."),
    many("--label", "labels", metavar="NAME=VALUE"),
    many(
        "--annotation",
        "annotations",
        metavar="[PART:]NAME=VALUE",
        help="PART: manifest, index, manifest-descriptor, index-descriptor, with [OS/ARCH] or not.",
    ),
    many(
        "-o",
        "--output",
        "outputs",
        metavar="type=TYPE,dest=PATH",
        help="oci, docker, tar, local, registry or cacheonly; a bare path is local, - a tar.",
    ),
    click.option("--push", is_flag=True, help="Push the result under its tags: type=registry."),
    click.option(
        "--load",
        type=click.Choice(ENGINES),
        metavar="[docker|podman|containerd]",
        help="Hand the result to an engine of this machine; without a word: docker.",
    ),
    click.option("--iidfile", metavar="FILE", help="Write the image's id there, as docker does."),
    click.option("--metadata-file", metavar="FILE", help="Write digests there, as buildx does."),
)

CONDUCT: tuple[Flag[Any], ...] = (
    click.option("-j", "--jobs", type=click.IntRange(1), help="How many steps run at once."),
    click.option("-k", "--keep-going", is_flag=True, help="After a failure, build what can be."),
    click.option(
        "--on-error",
        type=click.Choice(["stop", "shell"]),
        default="stop",
        help="After a failed RUN, a shell where it failed.",
    ),
    click.option("-n", "--dry-run", is_flag=True, help="Only say what would be built."),
    click.option("--check", is_flag=True, help="Only check the Dockerfiles: --call=check."),
    click.option(
        "--call",
        default="build",
        metavar="CALL[,format=json]",
        help="Instead of building: check, outline or targets.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print the image's id alone."),
    progress_option,
    click.option(
        "--events", metavar="FILE", help="Write what happens there, a JSON object a line."
    ),
    click.option("--junit", metavar="FILE", help="Write JUnit's XML there: a case for each step."),
    afterwards_options,
)


def flags(*tables: tuple[Flag[Any], ...]) -> Callable[[F], F]:
    """Return a decorator that adds tables of flags to a command, in the order of `--help`."""

    def add(command: F) -> F:
        for table in reversed(tables):
            for flag in reversed(table):
                command = flag(command)
        return command

    return add
