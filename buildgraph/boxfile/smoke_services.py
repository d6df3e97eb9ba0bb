"""Knows what the keys of a service come to; must not know whether they were written in a Boxfile or
in a compose file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Final

from buildgraph.boxfile.smoke import (
    Condition,
    Dependency,
    EnvFile,
    Health,
    MemoryPlace,
    NamedVolume,
    PackageBind,
    Service,
    ServiceImage,
    Ulimit,
    Volume,
)
from buildgraph.boxfile.smoke_fields import Fields, plain, text_or_none
from buildgraph.boxfile.smoke_schema import CONDITIONS
from buildgraph.boxfile.target import DirContext, LabelContext, LayoutContext, Value
from buildgraph.errors import Location
from buildgraph.label import join

_VOLUME_NAME: Final = r"[a-zA-Z0-9][a-zA-Z0-9_.-]*"
_SIZE: Final = re.compile(r"(\d+)([kmg]?)b?", re.IGNORECASE)
ULIMITS: Final = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime "
    "sigpending stack"
).split()
_WHY_NOT: Final = "a service sees files of its package only, and only for reading"


def read_service(
    name: str,
    fields: Fields,
    package: str,
    image: ServiceImage,
    image_where: Location,
    *,
    lenient: bool = False,
) -> Service:
    """Return a service; what is wrong goes to the fields' errors.

    `lenient` takes a bind that does not say `ro` for one that does: compose files never say it.
    """
    cpus = fields.text("cpus")
    return Service(
        name=name,
        where=fields.where,
        image=image,
        image_where=image_where,
        command=fields.words("command"),
        entrypoint=fields.words("entrypoint"),
        environment=fields.environment("environment"),
        env_files=tuple(EnvFile(plain(v), v.where) for v in fields.items("env_file")),
        depends_on=_dependencies(fields),
        health=_health(fields),
        volumes=_volumes(fields, package, lenient),
        memory=_one(fields, "memory", "mem_limit"),
        memory_swap=_one(fields, "memory_swap", "memswap_limit"),
        cpus=None if cpus is None else float(cpus),
        pids=_one(fields, "pids", "pids_limit"),
        shm=fields.number("shm_size"),
        ulimits=_ulimits(fields),
        cap_add=_capabilities(fields, "cap_add"),
        cap_drop=_capabilities(fields, "cap_drop"),
        read_only=fields.flag("read_only"),
        user=fields.text("user"),
        working_dir=fields.text("working_dir"),
        hostname=fields.text("hostname"),
        stop_signal=fields.text("stop_signal"),
        stop_grace=fields.number("stop_grace_period"),
        scale=fields.number("scale") or 1,
        init=fields.flag("init"),
        aliases=_aliases(fields),
    )


def boxfile_image(fields: Fields) -> ServiceImage | None:
    """Return the image of a service of a Boxfile, None after an error."""
    value = fields.value("image")
    match value.data:
        case LabelContext(label):
            return label
        case LayoutContext():
            return value.data
        case DirContext(path):
            hint = f'write "//{path}"'
            fields.error("image: a directory is not an image", value.where, hint)
        case None:
            fields.error("a service needs 'image'", fields.where)
        case _:
            fields.error("image: expected a label or oci-layout://DIR", value.where)
    return None


def _one(fields: Fields, name: str, older: str) -> int | None:
    if fields.given(name) and fields.given(older):
        fields.error(f"{name!r} and {older!r} mean the same: one is enough", fields.place(older))
    found = fields.number(name)
    return fields.number(older) if found is None else found


def _dependencies(fields: Fields) -> tuple[Dependency, ...]:
    value = fields.value("depends_on")
    if isinstance(value.data, tuple):
        return tuple(Dependency(plain(v), "started", v.where) for v in value.data)
    if not isinstance(value.data, Mapping):
        text = text_or_none(value)
        return () if text is None else (Dependency(text, "started", value.where),)
    out: list[Dependency] = []
    for name, item in value.data.items():
        word = text_or_none(item)
        if isinstance(item.data, Mapping):
            word = text_or_none(item.data["condition"])
        condition: Condition = CONDITIONS[word or "started"]  # type: ignore[assignment]
        out.append(Dependency(name, condition, item.key or item.where))
    return tuple(out)


def _health(fields: Fields) -> Health | None:
    inner = fields.record("healthcheck")
    if inner is None:
        return None
    if inner.flag("disable"):
        return Health(("NONE",))
    test: tuple[str, ...] | None = None
    value = inner.value("test")
    if isinstance(value.data, tuple) and value.given:
        test = tuple(plain(item) for item in value.data)
        shell = test[:1] == ("CMD-SHELL",) and len(test) == 2
        if not (shell or test == ("NONE",) or (test[:1] == ("CMD",) and len(test) > 1)):
            hint = "[CMD, word, …], [CMD-SHELL, text] or [NONE]; a bare text is for the shell"
            inner.error("healthcheck.test: what is it to run?", value.where, hint)
    elif (text := text_or_none(value)) is not None:
        test = ("NONE",) if text == "NONE" else ("CMD-SHELL", text)
    return Health(
        test,
        inner.number("interval"),
        inner.number("timeout"),
        inner.number("retries"),
        inner.number("start_period"),
        inner.number("start_interval"),
    )


# -- volumes -------------------------------------------------------------------------------------


def _volumes(fields: Fields, package: str, lenient: bool) -> tuple[Volume, ...]:
    found: list[Volume | None] = []
    for value in fields.items("volumes"):
        if isinstance(value.data, Mapping):
            long = Fields(value.data, value.where, fields.errors)
            found.append(_long_volume(long, package, lenient))
        else:
            found.append(_short_volume(fields, plain(value), value.where, package, lenient))
    for value in fields.items("tmpfs"):
        found.append(_tmpfs(fields, value))
    out = tuple(volume for volume in found if volume is not None)
    targets = [volume.target for volume in out]
    for target in sorted({t for t in targets if targets.count(t) > 1}):
        fields.error(f"two volumes are mounted on {target}", fields.place("volumes"))
    return out


def _short_volume(
    fields: Fields, text: str, where: Location, package: str, lenient: bool
) -> Volume | None:
    parts = text.split(":")
    if len(parts) == 1:
        return NamedVolume("", target) if (target := _target(fields, text, where)) else None
    options = parts[2].split(",") if len(parts) == 3 else []
    known = {"ro", "rw", "z", "Z", "cached", "delegated", "consistent", "nocopy"}
    if len(parts) > 3 or not set(options) <= known:
        fields.error(f"{text!r} is not a volume", where, "SOURCE:/target[:ro]")
        return None
    return _mount(fields, parts[0], parts[1], where, package, "ro" in options or None, lenient)


def _long_volume(fields: Fields, package: str, lenient: bool) -> Volume | None:
    source, target = fields.text("source"), fields.text("target") or ""
    kind = fields.text("type")
    if kind == "tmpfs":
        options = fields.record("tmpfs")
        size = options.number("size") if options else None
        mode = options.number("mode") if options else None
        clean = _target(fields, target, fields.where)
        return MemoryPlace(clean, size or 0, 0o1777 if mode is None else mode) if clean else None
    read_only = fields.flag("read_only") or None
    if source is None:
        clean = _target(fields, target, fields.where)
        return NamedVolume("", clean) if clean else None
    if kind == "bind" and not source.startswith((".", "/", "~")):
        source = f"./{source}"
    return _mount(fields, source, target, fields.where, package, read_only, lenient)


def _mount(
    fields: Fields,
    source: str,
    target: str,
    where: Location,
    package: str,
    read_only: bool | None,
    lenient: bool,
) -> Volume | None:
    clean = _target(fields, target, where)
    if clean is None:
        return None
    if source.startswith(("/", "~")):
        fields.error(f"the host path {source!r} is refused", where, _WHY_NOT)
        return None
    if source.startswith("."):
        inside = join(package, source)
        if inside is None or not (package == "" or f"{inside}/".startswith(f"{package}/")):
            fields.error(f"{source!r} leaves the package, so it is refused", where, _WHY_NOT)
            return None
        if not read_only and not lenient:
            fields.error(
                f"{source!r} can be mounted for reading only", where, f"{source}:{clean}:ro"
            )
            return None
        return PackageBind(inside, clean, where)
    if not re.fullmatch(_VOLUME_NAME, source):
        hint = f"./{source} is a path of the package"
        fields.error(f"{source!r} is not the name of a volume", where, hint)
        return None
    return NamedVolume(source, clean, bool(read_only))


def _target(fields: Fields, text: str, where: Location) -> str | None:
    if not text.startswith("/") or posixpath.normpath(text) == "/" or ".." in text.split("/"):
        fields.error(f"{text!r} is no place for a volume", where, "an absolute path below /")
        return None
    return "/" + posixpath.normpath(text).lstrip("/")


def _tmpfs(fields: Fields, value: Value) -> MemoryPlace | None:
    path, _, rest = plain(value).partition(":")
    target = _target(fields, path, value.where)
    size, mode = 0, 0o1777
    for option in filter(None, rest.split(",")):
        key, _, text = option.partition("=")
        amount = _SIZE.fullmatch(text)
        if key == "size" and amount:
            size = int(amount[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[amount[2].lower()]
        elif key == "mode" and re.fullmatch("[0-7]{3,4}", text):
            mode = int(text, 8)
        elif key not in ("rw", "noexec", "exec", "nosuid", "nodev", "uid", "gid"):
            fields.error(f"{option!r} is not an option of a tmpfs", value.where, "size=, mode=")
    return MemoryPlace(target, size, mode) if target else None


# -- the rest ------------------------------------------------------------------------------------


def _ulimits(fields: Fields) -> tuple[Ulimit, ...]:
    data = fields.value("ulimits").data
    out: list[Ulimit] = []
    for name, value in (data if isinstance(data, Mapping) else {}).items():
        if name not in ULIMITS:
            fields.error(f"there is no limit {name!r}", value.key, ", ".join(ULIMITS))
        if isinstance(value.data, Mapping):
            inner = Fields(value.data, value.where, fields.errors)
            soft, hard = inner.number("soft"), inner.number("hard")
        else:
            soft = hard = value.data if isinstance(value.data, int) else None
        if soft is not None and hard is not None:
            out.append(Ulimit(name, soft, hard))
    return tuple(out)


def _capabilities(fields: Fields, name: str) -> tuple[str, ...]:
    out = []
    for value in fields.items(name):
        text = plain(value).upper().removeprefix("CAP_")
        # What these open is the kernel, not the container; none of them is for a test.
        if name == "cap_add" and text in ("ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "BPF"):
            fields.error(
                f"cap_add: {text} is refused", value.where, "name what the service really needs"
            )
        out.append(text)
    return tuple(out)


def _aliases(fields: Fields) -> tuple[str, ...]:
    names = list(fields.texts("aliases"))
    networks = fields.value("networks").data
    for value in (networks if isinstance(networks, Mapping) else {}).values():
        if isinstance(value.data, Mapping):
            names += Fields(value.data, value.where, fields.errors).texts("aliases")
    return tuple(dict.fromkeys(names))
