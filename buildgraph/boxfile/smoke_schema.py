"""Knows which keys a `smoke` target may hold, as one table; must not know what they come to
(`smoke_view.py`).

Services have compose's words, so that a compose file is read by the same table. Words that would
give a service more rights than a RUN step are refused with the reason.
"""

from __future__ import annotations

from typing import Final

from buildgraph.boxfile.schema import (
    ENVIRONMENT_NAME,
    Attribute,
    Bool,
    ByShape,
    Choice,
    ContextPlace,
    Decimal,
    Duration,
    FilePath,
    Int,
    LabelRef,
    ListOf,
    MapOf,
    Record,
    RuleSpec,
    Size,
    Text,
)

SERVICE_NAME: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_SERVICE: Final = Text(SERVICE_NAME, "the name of a service")
_TEXT: Final = Text(multiline=True)
_TEXTS: Final = ListOf(_TEXT, single=True)
_COMMAND: Final = ByShape(scalar=_TEXT, sequence=ListOf(_TEXT))
_ENVIRONMENT: Final = ByShape(
    sequence=ListOf(_TEXT),
    mapping=MapOf(ByShape(scalar=_TEXT, nothing=True), ENVIRONMENT_NAME, "the name of a variable"),
)
CONDITIONS: Final = {
    "started": "started",
    "healthy": "healthy",
    "completed": "completed",
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "completed",
}
_CONDITION: Final = Choice(tuple(CONDITIONS))

HEALTHCHECK: Final = Record(
    (
        Attribute("test", _COMMAND, "CMD and words, CMD-SHELL and a text, or NONE."),
        Attribute("interval", Duration(), "Time between two probes."),
        Attribute("timeout", Duration(), "Most time of one probe."),
        Attribute("retries", Int(1), "Failed probes in a row until it is unhealthy."),
        Attribute("start_period", Duration(), "Time in which failed probes do not count."),
        Attribute("start_interval", Duration(), "Time between two probes in that period."),
        Attribute("disable", Bool(), "No healthcheck, whatever the image says.", default=False),
    )
)

_NO_RIGHTS: Final = "a service gets no more rights than a RUN step"
_HIDDEN: Final = "nothing of the host is shown to a service"
REFUSED: Final[tuple[tuple[str, str], ...]] = (
    ("privileged", _NO_RIGHTS),
    ("security_opt", _NO_RIGHTS),
    ("devices", _HIDDEN),
    ("device_cgroup_rules", _HIDDEN),
    ("pid", _HIDDEN),
    ("ipc", _HIDDEN),
    ("uts", _HIDDEN),
    ("userns_mode", _NO_RIGHTS),
    ("cgroup", _HIDDEN),
    ("cgroup_parent", _HIDDEN),
    ("gpus", _HIDDEN),
    ("runtime", "there is one runtime"),
    ("credential_spec", _HIDDEN),
)
_PORTS: Final = (
    "ports",
    "checks are made from inside the test's network, so no port of the host is opened",
)

_MOUNT: Final = Record(
    (
        Attribute("type", Choice(("volume", "bind", "tmpfs")), "What it is.", required=True),
        Attribute("source", _TEXT, "Name of a volume, or a path below the package."),
        Attribute("target", _TEXT, "Where it is seen.", required=True),
        Attribute("read_only", Bool(), "Whether it cannot be written.", default=False),
        Attribute(
            "tmpfs",
            Record((Attribute("size", Size(), "Size."), Attribute("mode", Int(), "Mode."))),
            "Of a tmpfs.",
        ),
    )
)

SERVICE: Final = (
    Attribute("image", ContextPlace(), "The image: a label or oci-layout://DIR."),
    Attribute("command", _COMMAND, "Instead of the image's CMD."),
    Attribute("entrypoint", _COMMAND, "Instead of the image's ENTRYPOINT; drops its CMD."),
    Attribute("environment", _ENVIRONMENT, "Variables; a bare name takes its value from outside."),
    Attribute("env_file", ListOf(FilePath(), single=True), "Files with variables.", default=()),
    Attribute(
        "depends_on",
        ByShape(
            scalar=_SERVICE,
            sequence=ListOf(_SERVICE, unique=True),
            mapping=MapOf(
                ByShape(
                    scalar=_CONDITION,
                    mapping=Record(
                        (
                            Attribute("condition", _CONDITION, "What to wait for.", "started"),
                            Attribute("required", Bool(), "Whether it must be there.", True),
                            Attribute("restart", Bool(), "Without effect here.", False),
                        )
                    ),
                ),
                SERVICE_NAME,
                "the name of a service",
            ),
        ),
        "Services to wait for: started, healthy or completed.",
    ),
    Attribute("healthcheck", HEALTHCHECK, "When the service is healthy; default: the image's."),
    Attribute(
        "volumes",
        ListOf(ByShape(scalar=_TEXT, mapping=_MOUNT)),
        "NAME:/path, /path, or ./path:/path:ro of the package.",
        default=(),
    ),
    Attribute("tmpfs", ListOf(_TEXT, single=True), "Places in memory: /path[:options].", ()),
    Attribute("memory", Size(), "Most memory."),
    Attribute("mem_limit", Size(), "The same, in compose's older word."),
    Attribute("memory_swap", Size(), "Most memory and swap."),
    Attribute("memswap_limit", Size(), "The same, in compose's older word."),
    Attribute("cpus", Decimal(), "Most processors."),
    Attribute("pids", Int(1), "Most processes."),
    Attribute("pids_limit", Int(1), "The same, in compose's older word."),
    Attribute("shm_size", Size(), "Size of /dev/shm."),
    Attribute(
        "ulimits",
        MapOf(
            ByShape(
                scalar=Int(-1),
                mapping=Record(
                    (
                        Attribute("soft", Int(-1), "Soft limit.", required=True),
                        Attribute("hard", Int(-1), "Hard limit.", required=True),
                    )
                ),
            ),
            "[a-z]+",
            "the name of a limit",
        ),
        "Limits of its processes: nofile, core, …",
        default=(),
    ),
    Attribute("cap_add", ListOf(Text()), "Capabilities to add.", default=()),
    Attribute("cap_drop", ListOf(Text()), "Capabilities to drop.", default=()),
    Attribute("read_only", Bool(), "Whether the root cannot be written.", default=False),
    Attribute("user", Text(), "User, or user:group."),
    Attribute("working_dir", Text(), "Working directory."),
    Attribute("hostname", Text(), "Host name; default: the service's name."),
    Attribute("stop_signal", Text(r"(SIG)?[A-Z0-9+-]+|\d+", "a signal"), "How it is stopped."),
    Attribute("stop_grace_period", Duration(), "Time from that signal to SIGKILL."),
    Attribute("scale", Int(1, 100), "How many containers.", default=1),
    Attribute("init", Bool(), "Whether an init of ours is process 1.", default=False),
    Attribute("aliases", ListOf(_SERVICE), "More names in the network.", default=()),
    Attribute(
        "networks",
        ByShape(
            sequence=ListOf(Text()),
            mapping=MapOf(
                ByShape(
                    mapping=Record((Attribute("aliases", ListOf(_SERVICE), "More names."),)),
                    nothing=True,
                )
            ),
        ),
        "All services share one network; only `aliases` say something.",
    ),
    Attribute(
        "network",
        Choice(("none", "default")),
        "none: the other services alone; default: a way out as well.",
    ),
)

SERVICE_RECORD: Final = Record(
    SERVICE,
    refused=(
        *REFUSED,
        _PORTS,
        ("network_mode", "every service is in the test's own network; see `network`"),
    ),
)

# -- checks --------------------------------------------------------------------------------------

_WITHIN: Final = Attribute("within", Duration(), "Try again until then; default: once.")
_TIMEOUT: Final = Attribute("timeout", Duration(), "Most time of one attempt; default: 30s.")
_CONTAINS: Final = Attribute("contains", _TEXTS, "Texts that are in it.", default=())
_MATCHES: Final = Attribute("matches", _TEXTS, "Regular expressions found in it.", default=())
_EXCLUDES: Final = Attribute("excludes", _TEXTS, "Regular expressions not found in it.", ())
_EQUALS: Final = Attribute("equals", _TEXT, "The whole of it, but for a last line break.")
_TEXT_CHECKS: Final = (_CONTAINS, _MATCHES, _EXCLUDES)
_EXPECTED: Final = ByShape(scalar=_TEXT, mapping=Record((*_TEXT_CHECKS, _EQUALS)))
_IN: Final = Attribute("in", _SERVICE, "The service.")
_OF_IMAGE: Final = (
    _IN,
    Attribute("image", LabelRef(), "The image, where it is not a service's."),
)
METHODS: Final = ("get", "head", "post", "put", "patch", "delete", "options")
_URL: Final = Text(r"https?://\S+", "a URL such as http://app:8080/health")

HTTP: Final = Record(
    (
        *(Attribute(m, _URL, f"URL of a {m.upper()}.") for m in METHODS),
        Attribute("headers", MapOf(_TEXT), "Headers to send.", default=()),
        Attribute("body", _TEXT, "What to send."),
        Attribute(
            "status",
            ListOf(Text(r"[1-5](\d\d|xx)", "a status such as 200 or 2xx"), single=True),
            "Expected status; default: 2xx.",
            default=(),
        ),
        Attribute("response_headers", MapOf(_TEXT), "Expressions in the answer's headers.", ()),
        *_TEXT_CHECKS,
        Attribute("json", MapOf(_TEXT), "Path in the answer ($.items[0].name) -> value.", ()),
        Attribute("verify", Bool(), "Whether TLS certificates must be good.", default=True),
        Attribute("ca", FilePath(), "Certificates to trust instead of the system's."),
        _WITHIN,
        _TIMEOUT,
    ),
    one_of=METHODS,
)
_ADDRESS: Final = Text(r"\S+:\d{1,5}", "HOST:PORT")
TCP: Final = ByShape(
    scalar=_ADDRESS,
    mapping=Record(
        (
            Attribute("connect", _ADDRESS, "HOST:PORT.", required=True),
            Attribute("send", _TEXT, "What to send."),
            *_TEXT_CHECKS,
            _WITHIN,
            _TIMEOUT,
        )
    ),
)
EXEC: Final = Record(
    (
        _IN,
        Attribute("run", _COMMAND, "Words of a command, or a text for /bin/sh.", required=True),
        Attribute("exit_code", Int(0, 255), "Expected exit code.", default=0),
        Attribute("stdout", _EXPECTED, "What it writes."),
        Attribute("stderr", _EXPECTED, "What it complains of."),
        Attribute("user", Text(), "User; default: the service's."),
        Attribute("working_dir", Text(), "Working directory; default: the service's."),
        Attribute("environment", _ENVIRONMENT, "Variables besides the service's."),
        _WITHIN,
        _TIMEOUT,
    )
)
LOGS: Final = Record(
    (Attribute("service", _SERVICE, "The service."), *_TEXT_CHECKS, _WITHIN),
)
EXIT: Final = ByShape(
    scalar=_SERVICE,
    mapping=Record(
        (
            Attribute("service", _SERVICE, "The service that ends.", required=True),
            Attribute("code", Int(0, 255), "Expected exit code.", default=0),
            _WITHIN,
        )
    ),
)
FILE: Final = Record(
    (
        *_OF_IMAGE,
        Attribute("path", Text(r"/.*", "an absolute path"), "The file.", required=True),
        Attribute("exists", Bool(), "Whether it must be there.", default=True),
        Attribute("type", Choice(("file", "directory", "link")), "What it is."),
        Attribute("mode", Text(r"0?[0-7]{3,4}", "a mode such as 0644"), "Its mode."),
        Attribute("owner", Text(r"\S+", "uid or uid:gid, names or numbers"), "Its owner."),
        *_TEXT_CHECKS,
        Attribute("sha256", Text(r"[0-9a-f]{64}", "64 hex digits"), "Its digest."),
        _WITHIN,
    )
)
CONFIG: Final = Record(
    (
        *_OF_IMAGE,
        Attribute("root", Bool(), "false: its user must not be root."),
        Attribute("user", Text(), "USER as written."),
        Attribute("ports", ListOf(Text(), single=True), "Ports that are exposed.", default=()),
        Attribute("labels", MapOf(_TEXT), "Labels, with their whole values.", default=()),
        Attribute("environment", MapOf(_TEXT), "Variables, with their values.", default=()),
        Attribute("entrypoint", ListOf(_TEXT), "ENTRYPOINT."),
        Attribute("command", ListOf(_TEXT), "CMD."),
        Attribute("working_dir", Text(), "WORKDIR."),
        Attribute("volumes", ListOf(Text(), single=True), "Places that are volumes.", default=()),
        Attribute("stop_signal", Text(), "STOPSIGNAL."),
    )
)
LIMITS: Final = Record(
    (
        *_OF_IMAGE,
        Attribute("size", Size(), "Most bytes of all layers, uncompressed."),
        Attribute("layers", Int(), "Most layers."),
        Attribute(
            "forbidden_paths",
            ListOf(Text(r"/.*", "an absolute path"), single=True),
            "Paths, with * and **, that no layer may have.",
            default=(),
        ),
        Attribute("forbid_secrets", Bool(), "Look for private keys and tokens.", default=False),
    )
)
KINDS: Final = ("http", "tcp", "exec", "logs", "exit", "file", "config", "limits")
CHECK: Final = Record(
    (
        Attribute("name", Text(), "What it is called in reports."),
        Attribute("http", HTTP, "A request."),
        Attribute("tcp", TCP, "A connection."),
        Attribute("exec", EXEC, "A command in a service."),
        Attribute("logs", LOGS, "What a service wrote."),
        Attribute("exit", EXIT, "How a service ended."),
        Attribute("file", FILE, "A file of a service or of an image."),
        Attribute("config", CONFIG, "The config of an image."),
        Attribute("limits", LIMITS, "Size, layers and forbidden things of an image."),
    ),
    one_of=KINDS,
)

SMOKE: Final = RuleSpec(
    "smoke",
    "A test that runs images.",
    (
        Attribute("image", LabelRef(), "The image that checks are about; default: a service's."),
        Attribute(
            "services",
            MapOf(SERVICE_RECORD, SERVICE_NAME, "the name of a service"),
            "Containers to run, in compose's words.",
            default=(),
        ),
        Attribute("compose", FilePath(), "A compose file with the services."),
        Attribute(
            "structure_tests",
            ListOf(FilePath(), single=True),
            "Files of container-structure-test, schema 2.0.0.",
            default=(),
        ),
        Attribute("checks", ListOf(CHECK), "What must be true.", default=()),
        Attribute(
            "network",
            Choice(("none", "default")),
            "none: the services reach each other alone; default: a way out as well.",
            default="none",
        ),
        Attribute("timeout", Duration(), "Most time of the whole test; default: 5m."),
    ),
)
