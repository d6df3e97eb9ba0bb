"""Knows how a target of the rule `smoke` becomes a `SmokeTarget`, with the files it names; must not
know the disk: the text of a file comes from whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from buildgraph.boxfile.compose import ComposeFile, read_compose
from buildgraph.boxfile.smoke import Check, Service, SmokeTarget, Subject
from buildgraph.boxfile.smoke_checks import Default, read_check, services_of
from buildgraph.boxfile.smoke_fields import Errors, Fields, plain
from buildgraph.boxfile.smoke_services import boxfile_image, read_service
from buildgraph.boxfile.structure_test import read_structure_test
from buildgraph.boxfile.target import Target
from buildgraph.errors import InputError, Location, did_you_mean, raise_all
from buildgraph.label import Label

MAX_CONTAINERS = 200  # of one test

Read = Callable[[str, Location], str]  # path from the workspace's root, who wants it -> text


def smoke_target(target: Target, read: Read) -> SmokeTarget:
    """Return the typed view of a target of the rule `smoke`; all that is wrong is raised at once.

    `read` gives the text of a file; its InputError is one of the errors.
    """
    errors: Errors = []
    fields = Fields(target.attrs, target.where, errors)
    found = ComposeFile()
    if fields.given("compose"):
        value = fields.value("compose")
        with_text(
            read,
            plain(value),
            value.where,
            errors,
            lambda path, text: found.extend(read_compose(text, path, errors)),
        )
    services = [*found.services, *_services(target, fields, found)]
    default = _default(target, services)
    checks = list(_checks(fields, default))
    for value in fields.items("structure_tests"):
        subject = default()
        if subject is None:
            fields.error("of which image?", value.where, "say it with 'image:' of the target")
            continue
        with_text(
            read,
            plain(value),
            value.where,
            errors,
            lambda path, text: checks.extend(
                read_structure_test(text, path, subject, errors)  # noqa: B023  called at once
            ),
        )
    _cross_check(services, checks, errors)
    if not checks and not services and not errors:
        fields.error("a smoke target needs 'services' or 'checks'")
    raise_all(sorted(errors, key=_position))
    asked = "default" in (fields.text("network"), *_networks(target))
    network: Literal["none", "default"] = "default" if asked else "none"
    return SmokeTarget(
        label=target.label,
        where=target.where,
        services=tuple(services),
        checks=tuple(checks),
        network=network,
        timeout=fields.number("timeout"),
        doc=target.doc,
        warnings=tuple(found.warnings),
    )


def with_text(
    read: Read, path: str, where: Location, errors: Errors, use: Callable[[str, str], None]
) -> None:
    """Read a file and use its text; that it cannot be read is one of the errors."""
    try:
        text = read(path, where)
    except InputError as error:
        errors.append(error)
        return
    use(path, text)


def _position(error: InputError) -> tuple[str, int, int]:
    where = error.where
    return (where.path, where.line, where.column) if where else ("", 0, 0)


def _services(target: Target, fields: Fields, compose: ComposeFile) -> Iterator[Service]:
    known = {service.name for service in compose.services}
    for name, value in target.entries("services").items():
        where = value.key or value.where
        if name in known:
            fields.error(f"the compose file has a service {name!r} too", where)
        if not isinstance(value.data, Mapping):
            raise TypeError(f"{value.where}: no service")
        inner = Fields(value.data, where, fields.errors)
        image = boxfile_image(inner)
        service = read_service(
            name,
            inner,
            target.label.package,
            image or target.label,
            inner.value("image").where,
        )
        yield service


def _networks(target: Target) -> Iterator[str]:
    for value in target.entries("services").values():
        if isinstance(value.data, Mapping) and value.data["network"].data is not None:
            yield str(value.data["network"].data)


def _default(target: Target, services: list[Service]) -> Default:
    image = target.value("image").data

    def default() -> Subject | None:
        if isinstance(image, Label):
            for service in services:
                if service.image == image:
                    return Subject(service=service.name)
            return Subject(image=image)
        return Subject(service=services[0].name) if len(services) == 1 else None

    return default


def _checks(fields: Fields, default: Default) -> Iterator[Check]:
    seen: dict[str, int] = {}
    for value in fields.items("checks"):
        if not isinstance(value.data, Mapping):
            raise TypeError(f"{value.where}: no check")
        check = read_check(Fields(value.data, value.where, fields.errors), default)
        if check is None:
            continue
        seen[check.name] = seen.get(check.name, 0) + 1
        if seen[check.name] > 1:  # a report, and --filter, need names that tell them apart
            check = Check(
                f"{check.name} #{seen[check.name]}",
                check.what,
                check.where,
                check.within,
                check.timeout,
            )
        yield check


def _cross_check(services: list[Service], checks: list[Check], errors: Errors) -> None:
    names = {service.name: service for service in services}
    for check in checks:
        for name in services_of(check):
            if name not in names:
                hint = did_you_mean(name, names)
                errors.append(InputError(f"there is no service {name!r}", check.where, hint))
    for service in services:
        for need in service.depends_on:
            if need.service not in names:
                hint = did_you_mean(need.service, names)
                message = f"there is no service {need.service!r}"
                errors.append(InputError(message, need.where, hint))
    _refuse_cycle(names, errors)
    _refuse_same_names(services, errors)
    count = sum(service.scale for service in services)
    if count > MAX_CONTAINERS:
        where = services[-1].where
        errors.append(InputError(f"{count} containers; at most {MAX_CONTAINERS} in a test", where))


def _refuse_cycle(names: Mapping[str, Service], errors: Errors) -> None:
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> bool:
        if name in done or name not in names:
            return False
        path.append(name)
        for need in names[name].depends_on:
            if need.service in path:
                ring = [*path[path.index(need.service) :], need.service]
                words = " -> ".join(ring)
                errors.append(InputError(f"services wait for each other: {words}", need.where))
                return True
            if visit(need.service):
                return True
        path.pop()
        done.add(name)
        return False

    for name in names:
        if visit(name):
            return


def _refuse_same_names(services: list[Service], errors: Errors) -> None:
    owners: dict[str, str] = {}
    for service in services:
        for name in (service.name, *service.aliases):
            owner = owners.setdefault(name.lower(), service.name)
            if owner != service.name:
                errors.append(InputError(f"{name!r} is a name of {owner!r} too", service.where))
