"""Knows a compose file as the description of a test's services; must not know the rest of what
compose does with it.

Keys that say how services are published, restarted or named are left alone with a warning; keys
that would give a service more rights than a RUN step are errors, as in a Boxfile. Variables are
never taken from the environment: `${NAME:-default}` is its default, `${NAME}` an error, so that a
test is the same for everybody. Source: the Compose Specification, 05-services, 12-interpolation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.boxfile import yaml
from buildgraph.boxfile.schema import Attribute, Bool, ByShape, ListOf, MapOf, Record, Text
from buildgraph.boxfile.smoke import ImageName, Service, ServiceImage
from buildgraph.boxfile.smoke_fields import Errors, Fields, text_or_none
from buildgraph.boxfile.smoke_schema import REFUSED, SERVICE, SERVICE_NAME
from buildgraph.boxfile.smoke_services import read_service
from buildgraph.boxfile.target import Value
from buildgraph.boxfile.values import Keys, Scope, parse_fields
from buildgraph.boxfile.wording import found, quoted
from buildgraph.errors import Location
from buildgraph.label import DEFAULT_NAME, Label, join

_BUILD: Final = ByShape(
    scalar=Text(),
    mapping=Record(
        (
            Attribute("context", Text(), "Directory."),
            Attribute("dockerfile", Text(), "The target says which."),
            Attribute("target", Text(), "The target says which stage."),
            Attribute("args", ByShape(sequence=ListOf(Text()), mapping=MapOf(Text())), "As above."),
            Attribute("tags", ListOf(Text()), "As above."),
            Attribute("labels", ByShape(sequence=ListOf(Text()), mapping=MapOf(Text())), "…"),
            Attribute("no_cache", Bool(), "…"),
        )
    ),
)
_OWN: Final = ("image", "aliases", "network")  # keys that compose has otherwise, or has not
_SERVICE: Final = (
    *(attribute for attribute in SERVICE if attribute.name not in _OWN),
    Attribute("image", Text(), "The image's name."),
    Attribute("build", _BUILD, "The directory of the target."),
)
IGNORED: Final = {
    "ports": "checks are made from inside the network",
    "expose": "services reach each other on every port",
    "restart": "a service that ends is a finding",
    "container_name": "a service is known by its own name",
    "labels": "nobody reads them here",
    "logging": "logs are always kept",
    "profiles": "every service is started",
    "deploy": "there is one machine",
    "pull_policy": "images come from the workspace",
    "platform": "a test runs on this machine's",
    "stdin_open": "nobody types",
    "tty": "nobody looks",
    "develop": "nothing is watched",
    "extra_hosts": "names of other machines mean nothing here",
    "domainname": "",
    "annotations": "nobody reads them here",
    "oom_score_adj": "",
    "mem_reservation": "",
    "mem_swappiness": "",
    "cpu_shares": "",
    "cpuset": "",
    "links": "services find each other by name",
}
_LATER: Final = ("extends", "secrets", "configs", "volumes_from", "group_add", "sysctls", "dns")
_REFUSED: Final = {**dict(REFUSED), "network_mode": "every service is in the test's own network"}
_FILE_KEYS: Final = ("services", "version", "name", "volumes", "networks")
_FILE_REFUSED: Final = {
    "secrets": "a test has no secrets",
    "configs": "mount the file: volumes: [./file:/path:ro]",
    "include": "name the services here",
}
_VARIABLE: Final = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<name>[A-Za-z_]\w*)"
    r"|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<sign>:?[-?+])(?P<word>[^{}]*))?\}|(?P<bad>))"
)


class ComposeFile(Struct):
    """What a compose file says that matters for a test."""

    services: list[Service] = field(default_factory=list)
    warnings: list[tuple[str, Location]] = field(default_factory=list)

    def extend(self, other: ComposeFile) -> None:
        """Take over what another one says."""
        self.services += other.services
        self.warnings += other.warnings


def read_compose(text: str, path: str, errors: Errors) -> ComposeFile:
    """Return the services of the compose file `path`; what is wrong goes to `errors`."""
    out = ComposeFile()
    root = yaml.compose(text, path, errors)
    if root is None:
        return out
    scope = Scope(path.rpartition("/")[0], errors)
    if not isinstance(root, yaml.Mapping):
        scope.error(f"expected a compose file, found {found(root)}", root.where)
        return out
    for entry in root.entries:
        name = entry.key.text
        if name in _FILE_REFUSED:
            scope.error(f"{name} is refused", entry.key.where, _FILE_REFUSED[name])
        elif name not in _FILE_KEYS and not name.startswith("x-"):
            hint = scope.near(name, _FILE_KEYS)
            scope.error(f"a compose file has no key {quoted(name)}", entry.key.where, hint)
    services = root.get("services")
    if services is None or not isinstance(services.value, yaml.Mapping):
        scope.error("a compose file needs 'services'", root.where)
        return out
    for entry in services.value.entries:
        _service(entry, scope, out)
    return out


def _service(entry: yaml.Entry, scope: Scope, out: ComposeFile) -> None:
    name, where = entry.key.text, entry.key.where
    if not re.fullmatch(SERVICE_NAME, name):
        scope.error(f"{quoted(name)} is not the name of a service", where)
    if not isinstance(entry.value, yaml.Mapping):
        scope.error(f"{name}: expected a mapping, found {found(entry.value)}", entry.value.where)
        return
    for inner in entry.value.entries:
        key = inner.key.text
        if key in IGNORED:
            why = f": {IGNORED[key]}" if IGNORED[key] else ""
            out.warnings.append((f"{name}.{key} is left out{why}", inner.key.where))
    node = _interpolated(entry.value, scope)
    assert isinstance(node, yaml.Mapping)
    keys = Keys(_SERVICE, "a service", _LATER, tuple(IGNORED), True, f"{name}.", _REFUSED)
    before = len(scope.errors)
    values = parse_fields(node.entries, keys, where, scope)
    if len(scope.errors) > before:
        return
    values["aliases"] = Value((), where, given=False)
    fields = Fields(values, where, scope.errors)
    image, image_where = _image(fields, scope)
    if image is not None:
        service = read_service(name, fields, scope.package, image, image_where, lenient=True)
        out.services.append(service)


def _image(fields: Fields, scope: Scope) -> tuple[ServiceImage | None, Location]:
    build = fields.value("build")
    if build.given:
        directory = text_or_none(build)
        inner = fields.record("build")
        if inner is not None:
            directory = inner.text("context") or "."
        package = join(scope.package, directory or ".")
        if package is None or (directory or "").startswith(("/", "~")) or "://" in str(directory):
            fields.error(f"build: {quoted(str(directory))} is not in the workspace", build.where)
            return None, build.where
        return Label(package, DEFAULT_NAME), build.where
    text = fields.text("image")
    if text is None:
        fields.error("a service needs 'image' or 'build'")
        return None, fields.where
    return ImageName(text), fields.value("image").where


def _interpolated(node: yaml.Node, scope: Scope) -> yaml.Node:
    """Return a node with `${NAME:-default}` replaced in every value."""
    match node:
        case yaml.Mapping():
            entries = tuple(replace(e, value=_interpolated(e.value, scope)) for e in node.entries)
            return replace(node, entries=entries)
        case yaml.Sequence():
            return replace(node, items=tuple(_interpolated(i, scope) for i in node.items))
        case yaml.Scalar():
            if "$" not in node.text:
                return node
            return dataclasses.replace(node, text=_VARIABLE.sub(_replace(node, scope), node.text))


def _replace(node: yaml.Scalar, scope: Scope) -> Callable[[re.Match[str]], str]:
    def one(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name, sign = match["name"] or match["braced"], match["sign"] or ""
        if name is None:
            scope.error(f"{quoted(node.text)}: a '$' is written '$$'", node.where)
        elif sign.endswith("-"):
            return match["word"] or ""
        elif not sign.endswith("+"):
            scope.error(
                f"variables of the environment are not read, so {name} has no value",
                node.where,
                f"give it a default: ${{{name}:-value}}",
            )
        return ""

    return one
