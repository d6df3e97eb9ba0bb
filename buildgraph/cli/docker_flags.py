"""Knows docker's flags that mean nothing here, or that are refused, and why; must not know what a
build does.

Whoever replaces `docker build` in a script keeps their flags. What changes no image is taken with
a word about it; what an image or somebody after us relies upon is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import click

from buildgraph.engine.fields import parse_bool, parse_fields
from buildgraph.errors import InputError, raise_all
from buildgraph.oci.handover.handed import ENGINES

_SAID: Final = "buildgraph.said"
_WRONG: Final = "buildgraph.wrong"
_NO_ATTESTATION: Final = "attestations are not made yet"

# Flags that Go's parser takes as `--flag=false` too.
_SWITCHES: Final = frozenset(
    (
        "--check",
        "--compress",
        "--disable-content-trust",
        "--force-rm",
        "--no-cache",
        "--pull",
        "--push",
        "--quiet",
        "--rm",
        "--squash",
    )
)
_SHORT: Final = ("-f", "-m", "-o", "-t")


def plain_switches(arguments: Iterable[str]) -> list[str]:
    """Return a command line with `--flag=true` as `--flag`, without `--flag=false`, and with
    `-f FILE` for `-f=FILE`, which docker's parser takes too.

    Raises click's UsageError for another value.
    """
    out: list[str] = []
    rest = iter(_with_engine(arguments))
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            return [*out, word, *rest]
        if equals and name in _SHORT:
            out += [name, value]
            continue
        if not equals or name not in _SWITCHES:
            out.append(word)
            continue
        try:
            on = parse_bool(value, name)
        except InputError as error:
            raise click.UsageError(error.message) from error
        if on:
            out.append(name)
    return out


def _with_engine(arguments: Iterable[str]) -> list[str]:
    """Return a command line in which `--load` always has a value: an engine, or none of them.

    docker's flag is a switch, so that the word behind it is a target unless it is an engine's name.
    """
    words = list(arguments)
    out: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*out, word, *words]
        name, equals, value = word.partition("=")
        if name != "--load" or (equals and value in ENGINES):
            out.append(word)
        elif not equals:
            out.append(f"--load={words.pop(0) if words and words[0] in ENGINES else ENGINES[0]}")
        else:
            try:
                on = parse_bool(value, name)
            except InputError as error:
                raise click.UsageError(f"{error.message}, or {', '.join(ENGINES)}") from error
            out += [f"--load={ENGINES[0]}"] if on else []
    return out


class DockerCommand(click.Command):
    """A command whose switches may be written as docker's are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words."""
        return super().parse_args(ctx, plain_switches(args))


def said(ctx: click.Context) -> Sequence[str]:
    """Return a line for each flag that was given and means nothing here.

    Raises InputError for those that are refused.
    """
    raise_all(list(ctx.meta.get(_WRONG, ())))
    lines: list[str] = ctx.meta.get(_SAID, [])
    return lines


def _given(value: object) -> bool:
    return value not in (None, False, ())


def _ignored(*names: str, why: str, **more: Any) -> Callable[[Any], Any]:
    """Return a flag that is taken and does nothing."""

    def note(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if _given(value):
            ctx.meta.setdefault(_SAID, []).append(f"{names[0]} has no effect: {why}")

    return click.option(*names, callback=note, expose_value=False, hidden=True, **more)


def _refused(*names: str, why: str, hint: str, **more: Any) -> Callable[[Any], Any]:
    """Return a flag that is refused."""

    def refuse(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if _given(value):
            ctx.meta.setdefault(_WRONG, []).append(InputError(f"{names[0]}: {why}", hint=hint))

    return click.option(*names, callback=refuse, expose_value=False, hidden=True, **more)


def _attestation(name: str) -> Callable[[Any], Any]:
    """Return `--provenance` or `--sbom`: only `false` can be kept."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is None or value.lower() in ("false", "0", "f") or _disabled(value):
            return
        error = InputError(
            f"{name}={value}: {_NO_ATTESTATION}", hint=f"leave it out, or {name}=false"
        )
        ctx.meta.setdefault(_WRONG, []).append(error)

    return click.option(name, metavar="VALUE", callback=check, expose_value=False, hidden=True)


def _disabled(value: str) -> bool:
    try:
        return parse_bool(parse_fields(value, "").get("disabled", "false"), "")
    except InputError:
        return False


def _attest(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    for value in values:
        if not _disabled(value):
            error = InputError(f"--attest {value}: {_NO_ATTESTATION}", hint="leave it out")
            ctx.meta.setdefault(_WRONG, []).append(error)


def _switch(**more: Any) -> dict[str, Any]:
    return {"is_flag": True, **more}


_NO_CONTAINERS: Final = "no step leaves a container behind"
_NO_DAEMON: Final = "there is no daemon that it could speak to"
_STORE: Final = "what was built is found again in the store (--store)"
_OF_A_STEP: Final = "a step is limited by --memory, --timeout and --ulimit"

DOCKER: tuple[Callable[[Any], Any], ...] = (
    _ignored("--rm", why=_NO_CONTAINERS, **_switch()),
    _ignored("--force-rm", why=_NO_CONTAINERS, **_switch()),
    _ignored("--compress", why=_NO_DAEMON, **_switch()),
    _ignored("--builder", why=_NO_DAEMON),
    _ignored("--disable-content-trust", why="images are known by their digests", **_switch()),
    _ignored("--isolation", why="it is a word of Windows"),
    _ignored("--security-opt", why="steps always run under seccomp", multiple=True),
    _ignored("--cache-from", why=_STORE, multiple=True),
    _ignored("--cache-to", why=_STORE, multiple=True),
    _ignored("-c", "--cpu-shares", why=_OF_A_STEP, type=int),
    _ignored("--cpu-period", why=_OF_A_STEP, type=int),
    _ignored("--cpu-quota", why=_OF_A_STEP, type=int),
    _ignored("--cpuset-cpus", why=_OF_A_STEP),
    _ignored("--cpuset-mems", why=_OF_A_STEP),
    _ignored("-D", "--debug", why="errors always say all that is known", **_switch()),
    _refused(
        "--cgroup-parent",
        why="a step has a control group of its own below the one buildgraph runs in",
        hint="run buildgraph itself in that group: systemd-run --scope --slice=NAME buildgraph ...",
    ),
    _refused(
        "--squash",
        why="layers are kept as they are, since other images share them",
        hint="copy what is wanted into a last stage: FROM scratch, COPY --from=build / /",
        **_switch(),
    ),
    _refused(
        "--policy", why="source policies are not supported", hint="leave it out", multiple=True
    ),
    _attestation("--provenance"),
    _attestation("--sbom"),
    click.option("--attest", multiple=True, callback=_attest, expose_value=False, hidden=True),
)
