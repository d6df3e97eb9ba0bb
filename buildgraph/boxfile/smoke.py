"""Knows what a smoke test is, as data: services, and checks on them and on images; must not know
YAML, nor how anything is run.

Times are nanoseconds, sizes bytes. Paths of files are relative to the workspace's root.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct, field

from buildgraph.boxfile.target import LayoutContext
from buildgraph.errors import Location
from buildgraph.label import Label

SECOND: Final = 1_000_000_000  # every duration here is in nanoseconds, as compose and Go have them
Condition = Literal["started", "healthy", "completed"]


class ImageName(Struct, frozen=True):
    """An image of outside under its name; only a compose file says it like this."""

    reference: str


ServiceImage = Label | LayoutContext | ImageName


class Dependency(Struct, frozen=True):
    """What must be true of another service before this one starts."""

    service: str
    condition: Condition
    where: Location


class Health(Struct, frozen=True):
    """A healthcheck as written; None = the image's, or docker's default.

    `test` is ("NONE",), ("CMD", word…) or ("CMD-SHELL", text).
    """

    test: tuple[str, ...] | None = None
    interval: int | None = None
    timeout: int | None = None
    retries: int | None = None
    start_period: int | None = None
    start_interval: int | None = None


class NamedVolume(Struct, frozen=True):
    """A volume that lives as long as the test; an empty name is the service's own."""

    name: str
    target: str
    read_only: bool = False


class PackageBind(Struct, frozen=True):
    """A file or directory of the package, seen read-only."""

    path: str
    target: str
    where: Location


class MemoryPlace(Struct, frozen=True):
    """A tmpfs; `size` 0 is the kernel's default."""

    target: str
    size: int = 0
    mode: int = 0o1777


Volume = NamedVolume | PackageBind | MemoryPlace


class Ulimit(Struct, frozen=True):
    """A limit of setrlimit(2); -1 is none."""

    name: str
    soft: int
    hard: int


class EnvFile(Struct, frozen=True):
    """A file with variables."""

    path: str
    where: Location


class Service(Struct, frozen=True, kw_only=True):
    """One kind of container of a test. None: as the image says.

    In `environment` a value None is taken from the environment of whoever runs the test.
    """

    name: str
    where: Location
    image: ServiceImage
    image_where: Location
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str | None], ...] = ()
    env_files: tuple[EnvFile, ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    health: Health | None = None
    volumes: tuple[Volume, ...] = ()
    memory: int | None = None
    memory_swap: int | None = None
    cpus: float | None = None
    pids: int | None = None
    shm: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    read_only: bool = False
    user: str | None = None
    working_dir: str | None = None
    hostname: str | None = None
    stop_signal: str | None = None
    stop_grace: int | None = None
    scale: int = 1
    init: bool = False
    aliases: tuple[str, ...] = ()

    def container_name(self, number: int) -> str:
        """Return what its container of a number, from 1, is called."""
        return f"{self.name}-{number}" if self.scale > 1 else self.name


# -- checks --------------------------------------------------------------------------------------


class Expected(Struct, frozen=True):
    """What a text must be like: texts in it, expressions found and not found, the whole of it."""

    contains: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    equals: str | None = None

    @property
    def anything(self) -> bool:
        """Say whether every text will do."""
        return not (self.contains or self.matches or self.excludes or self.equals is not None)


class Subject(Struct, frozen=True):
    """What a check is about: a service, or an image."""

    service: str | None = None
    image: Label | None = None

    def __str__(self) -> str:
        return self.service if self.service is not None else str(self.image)


class HttpCheck(Struct, frozen=True):
    """A request and what the answer must be like."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    status: tuple[str, ...] = ()  # "200", "2xx"; () = 2xx
    response_headers: tuple[tuple[str, str], ...] = ()  # values are expressions
    answer: Expected = Expected()
    json: tuple[tuple[str, str], ...] = ()
    verify: bool = True
    ca: str | None = None

    def __str__(self) -> str:
        return f"http {self.method} {self.url}"


class TcpCheck(Struct, frozen=True):
    """A connection; with `send` or expectations also a talk."""

    host: str
    port: int
    send: str | None = None
    answer: Expected = Expected()

    def __str__(self) -> str:
        return f"tcp {self.host}:{self.port}"


class ExecCheck(Struct, frozen=True):
    """A command in a running service."""

    service: str
    args: tuple[str, ...]
    exit_code: int = 0
    stdout: Expected = Expected()
    stderr: Expected = Expected()
    user: str | None = None
    working_dir: str | None = None
    environment: tuple[tuple[str, str | None], ...] = ()

    def __str__(self) -> str:
        shell = self.args[:2] == ("/bin/sh", "-c") and len(self.args) == 3
        return f"exec {self.service}: {self.args[2] if shell else ' '.join(self.args)}"


class CommandCheck(Struct, frozen=True):
    """A command in a fresh container of an image, after `setup` in the same file system.

    Variables are set on top of the image's; `$NAME` in them and in the words of the command means
    the image's variable. (A commandTest of container-structure-test.)
    """

    subject: Subject
    args: tuple[str, ...]
    setup: tuple[tuple[str, ...], ...] = ()
    teardown: tuple[tuple[str, ...], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    exit_code: int = 0
    stdout: Expected = Expected()
    stderr: Expected = Expected()

    def __str__(self) -> str:
        return f"command {' '.join(self.args)}"


class LogsCheck(Struct, frozen=True):
    """What a service wrote."""

    service: str
    text: Expected

    def __str__(self) -> str:
        return f"logs {self.service}"


class ExitCheck(Struct, frozen=True):
    """A service that ends."""

    service: str
    code: int = 0

    def __str__(self) -> str:
        return f"exit {self.service}: {self.code}"


class FileCheck(Struct, frozen=True):
    """A file of a running service, or of an image.

    `permissions` is a text such as `-rw-r--r--`, `executable_by` a word of
    container-structure-test: owner, group, other, any.
    """

    subject: Subject
    path: str
    exists: bool = True
    type: str | None = None
    mode: int | None = None
    owner: str | None = None
    content: Expected = Expected()
    sha256: str | None = None
    permissions: str | None = None
    executable_by: str | None = None

    def __str__(self) -> str:
        return f"file {self.subject}:{self.path}"


class Wanted(Struct, frozen=True):
    """A variable or label that must be there; `regex`: the value is an expression."""

    name: str
    value: str
    regex: bool = False


class ConfigCheck(Struct, frozen=True):
    """What an image's config must say; None: anything."""

    subject: Subject
    root: bool | None = None
    user: str | None = None
    ports: tuple[str, ...] = ()
    closed_ports: tuple[str, ...] = ()
    labels: tuple[Wanted, ...] = ()
    environment: tuple[Wanted, ...] = ()
    unset: tuple[str, ...] = ()  # variables that must not be there
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    working_dir: str | None = None
    volumes: tuple[str, ...] = ()
    no_volumes: tuple[str, ...] = ()
    stop_signal: str | None = None

    def __str__(self) -> str:
        return f"config {self.subject}"


class LimitsCheck(Struct, frozen=True):
    """What an image must not exceed or hold."""

    subject: Subject
    size: int | None = None
    layers: int | None = None
    forbidden_paths: tuple[str, ...] = ()
    forbid_secrets: bool = False

    def __str__(self) -> str:
        return f"limits {self.subject}"


CheckKind = (
    HttpCheck
    | TcpCheck
    | ExecCheck
    | CommandCheck
    | LogsCheck
    | ExitCheck
    | FileCheck
    | ConfigCheck
    | LimitsCheck
)


class Check(Struct, frozen=True):
    """One thing that must be true; tried again for `within`, each time for at most `timeout`."""

    name: str
    what: CheckKind
    where: Location
    within: int = 0
    timeout: int | None = None


class SmokeTarget(Struct, frozen=True, kw_only=True):
    """A target of the rule `smoke`, with what its compose file and structure tests say."""

    label: Label
    where: Location
    services: tuple[Service, ...] = ()
    checks: tuple[Check, ...] = ()
    network: Literal["none", "default"] = "none"
    timeout: int | None = None
    doc: str = ""
    warnings: tuple[tuple[str, Location], ...] = field(default=())

    def service(self, name: str) -> Service:
        """Return the service of this name. Raises KeyError."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(name)


def images_of(target: SmokeTarget) -> list[tuple[Label, Location]]:
    """Return the targets whose images a test runs or looks at, each with a place that says so."""
    found: dict[Label, Location] = {}
    for service in target.services:
        if isinstance(service.image, Label):
            found.setdefault(service.image, service.image_where)
    for check in target.checks:
        match check.what:
            case CommandCheck() | FileCheck() | ConfigCheck() | LimitsCheck():
                if check.what.subject.image is not None:
                    found.setdefault(check.what.subject.image, check.where)
            case HttpCheck() | TcpCheck() | ExecCheck() | LogsCheck() | ExitCheck():
                pass
    return list(found.items())
