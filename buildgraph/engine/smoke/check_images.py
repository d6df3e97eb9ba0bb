"""Knows when checks of an image's config and limits hold; needs no container and must not know of
any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from buildgraph.boxfile.smoke import ConfigCheck, LimitsCheck, Wanted
from buildgraph.engine.smoke.expect import shorten
from buildgraph.engine.smoke.results import Attempt
from buildgraph.engine.smoke.world import World
from buildgraph.oci.types import ImageConfig

_SHOWN: Final = 20  # findings of one kind
_ROOT: Final = re.compile(r"(|0+|root)(:.*)?")


def config_attempt(check: ConfigCheck, world: World) -> Attempt:
    """Compare an image's config."""
    config = world.image(check.subject).config
    found: list[str] = []
    if check.root is not None and bool(_ROOT.fullmatch(config.user)) is not check.root:
        found.append(
            f"its user is {config.user or 'root (USER is not set)'}"
            if not check.root
            else f"its user is {config.user}, not root"
        )
    for name, wanted, had in (
        ("user", check.user, config.user),
        ("working directory", check.working_dir, config.working_dir),
        ("stop signal", check.stop_signal, config.stop_signal),
    ):
        if wanted is not None and wanted != had:
            found.append(f"{name} {shorten(had)}, not {shorten(wanted)}")
    for name, words, had_words in (
        ("entrypoint", check.entrypoint, config.entrypoint),
        ("command", check.command, config.cmd),
    ):
        if words is not None and words != (had_words or ()):
            found.append(f"{name} {list(had_words or ())}, not {list(words)}")
    found += _named("label", check.labels, dict(config.labels))
    found += _named("variable", check.environment, dict(config.env))
    found += [f"variable {name} is set" for name in check.unset if name in dict(config.env)]
    found += _places(check, config)
    return Attempt(tuple(found), f"read the config of {check.subject}", _told(config))


def _named(kind: str, wanted: Iterable[Wanted], had: dict[str, str]) -> list[str]:
    out: list[str] = []
    for each in wanted:
        value = had.get(each.name)
        if value is None:
            out.append(f"there is no {kind} {each.name}")
        elif not (re.search(each.value, value) if each.regex else each.value == value):
            out.append(f"{kind} {each.name} is {shorten(value)}, not {shorten(each.value)}")
    return out


def _places(check: ConfigCheck, config: ImageConfig) -> list[str]:
    ports = {_port(p) for p in config.exposed_ports}
    volumes = {v.rstrip("/") or "/" for v in config.volumes}
    out = [f"port {p} is not exposed" for p in check.ports if _port(p) not in ports]
    out += [f"port {p} is exposed" for p in check.closed_ports if _port(p) in ports]
    out += [f"{v} is no volume" for v in check.volumes if (v.rstrip("/") or "/") not in volumes]
    out += [f"{v} is a volume" for v in check.no_volumes if (v.rstrip("/") or "/") in volumes]
    return out


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


def _told(config: ImageConfig) -> str:
    rows = (
        ("user", config.user or "(root)"),
        ("entrypoint", list(config.entrypoint or ())),
        ("command", list(config.cmd or ())),
        ("working directory", config.working_dir or "/"),
        ("ports", " ".join(config.exposed_ports) or "none"),
        ("volumes", " ".join(config.volumes) or "none"),
    )
    return "\n".join(f"{name}: {value}" for name, value in rows)


def limits_attempt(check: LimitsCheck, world: World) -> Attempt:
    """Look for what an image must not exceed or hold."""
    image = world.image(check.subject)
    size = sum(layer.size for layer in image.chain.layers)
    count = len(image.chain.layers)
    found: list[str] = []
    if check.size is not None and size > check.size:
        found.append(f"{size} bytes of layers, more than {check.size}")
    if check.layers is not None and count > check.layers:
        found.append(f"{count} layers, more than {check.layers}")
    if check.forbidden_paths:
        patterns = [(text, _glob(text)) for text in check.forbidden_paths]
        hits = [
            f"layer {layer} has /{path}, forbidden by {text}"
            for layer, path in world.layer_paths(image)
            for text, pattern in patterns
            if pattern.fullmatch(f"/{path}")
        ]
        found += _some(hits)
    if check.forbid_secrets:
        found += _some(
            [f"layer {n} has /{path}: {what}" for n, path, what in world.layer_secrets(image)]
        )
    told = f"{count} layers, {size} bytes uncompressed"
    return Attempt(tuple(found), f"look through the layers of {check.subject}", told)


def _some(hits: list[str]) -> list[str]:
    more = len(hits) - _SHOWN
    return [*hits[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _glob(text: str) -> re.Pattern[str]:
    """Return the expression for a path with `*` (within a name), `**` (any depth) and `?`."""
    out: list[str] = []
    at = 0
    while at < len(text):
        if text.startswith("/**/", at):
            out.append("/(?:.*/)?")
            at += 4
        elif text.startswith("**", at):
            out.append(".*")
            at += 2
        elif text[at] == "*":
            out.append("[^/]*")
            at += 1
        elif text[at] == "?":
            out.append("[^/]")
            at += 1
        else:
            out.append(re.escape(text[at]))
            at += 1
    return re.compile("".join(out), re.DOTALL)
