"""Knows what the keys of a smoke target, of compose files and of structure tests come to, and what
is said of mistakes; needs no container.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from buildgraph.boxfile.smoke import (
    CommandCheck,
    Dependency,
    ExecCheck,
    Expected,
    FileCheck,
    Health,
    HttpCheck,
    ImageName,
    MemoryPlace,
    NamedVolume,
    PackageBind,
    SmokeTarget,
    Subject,
    TcpCheck,
    Ulimit,
)
from buildgraph.boxfile.workspace import Workspace
from buildgraph.errors import InputError, InputErrors
from buildgraph.label import Label

IMAGE = Label("app", "image")


def read(top: Path, body: str, files: Mapping[str, str] | None = None) -> SmokeTarget:
    """Return the smoke target of package `app` whose keys are `body`."""
    (top / "app").mkdir(exist_ok=True)
    (top / "Boxfile.yaml").write_text("workspace: {name: t}\n")
    (top / "app/Dockerfile").write_text("FROM scratch\n")
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    (top / "app/Boxfile.yaml").write_text(
        f"targets:\n  image: {{}}\n  t:\n    rule: smoke\n{lines}"
    )
    for name, text in (files or {}).items():
        (top / "app" / name).write_text(text)
    workspace = Workspace.open(str(top))
    targets = workspace.closure([Label("app", "t")])
    return workspace.smoke(targets[-1])


def mistakes(top: Path, body: str, files: Mapping[str, str] | None = None) -> list[str]:
    """Return all messages, with hints in brackets; every one has a place."""
    with pytest.raises(InputError) as caught:
        read(top, body, files)
    error = caught.value
    singles = error.errors if isinstance(error, InputErrors) else (error,)
    assert all(single.where is not None and single.where.line for single in singles)
    return [s.message + (f" [{s.hint}]" if s.hint else "") for s in singles]


WEB = 'services: {web: {image: ":image"}}\n'


# -- services ----------------------------------------------------------------------------


def test_a_service_in_composes_words(tmp_path: Path) -> None:
    body = """\
services:
  db: {image: "oci-layout://layout:1"}
  web:
    image: ":image"
    command: serve --port "80 80"
    entrypoint: [/bin/entry]
    environment: [A=1, B=, OUTSIDE]
    env_file: vars
    depends_on: {db: {condition: service_healthy}}
    healthcheck: {test: curl localhost, interval: 1m30s, retries: 5, start_period: 500ms}
    volumes:
      - data:/data
      - /anonymous
      - ./conf:/conf:ro
      - {type: volume, source: more, target: /more, read_only: true}
      - {type: tmpfs, target: /fast, tmpfs: {size: 1M, mode: 448}}
    tmpfs: ["/run:size=64m,mode=0755"]
    mem_limit: 256M
    cpus: 0.5
    pids_limit: 100
    shm_size: 1g
    ulimits: {nofile: 1024, core: {soft: 0, hard: -1}}
    cap_drop: [ALL]
    cap_add: [CAP_NET_RAW]
    read_only: true
    user: app:app
    working_dir: /srv
    stop_signal: SIGINT
    stop_grace_period: 3s
    scale: 2
    init: true
    networks: {back: {aliases: [w]}, front: }
checks: [{tcp: "db:1"}]
"""
    target = read(tmp_path, body, {"vars": ""})
    web = target.service("web")
    assert web.image == IMAGE
    assert web.command == ("serve", "--port", "80 80")
    assert web.entrypoint == ("/bin/entry",)
    assert web.environment == (("A", "1"), ("B", ""), ("OUTSIDE", None))
    assert [f.path for f in web.env_files] == ["app/vars"]
    assert [(d.service, d.condition) for d in web.depends_on] == [("db", "healthy")]
    assert web.health == Health(("CMD-SHELL", "curl localhost"), 90 * 10**9, None, 5, 5 * 10**8)
    assert [v for v in web.volumes if not isinstance(v, PackageBind)] == [
        NamedVolume("data", "/data"),
        NamedVolume("", "/anonymous"),
        NamedVolume("more", "/more", True),
        MemoryPlace("/fast", 1 << 20, 0o700),
        MemoryPlace("/run", 64 << 20, 0o755),
    ]
    (bind,) = (v for v in web.volumes if isinstance(v, PackageBind))
    assert (bind.path, bind.target) == ("app/conf", "/conf")
    assert (web.memory, web.cpus, web.pids, web.shm) == (256 << 20, 0.5, 100, 1 << 30)
    assert web.ulimits == (Ulimit("nofile", 1024, 1024), Ulimit("core", 0, -1))
    assert (web.cap_add, web.cap_drop, web.read_only) == (("NET_RAW",), ("ALL",), True)
    assert (web.user, web.working_dir, web.stop_signal) == ("app:app", "/srv", "SIGINT")
    assert (web.stop_grace, web.scale, web.init, web.aliases) == (3 * 10**9, 2, True, ("w",))
    assert target.service("db").image is not None
    assert target.network == "none"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("db", [("db", "started")]),
        ("[db]", [("db", "started")]),
        ("{db: healthy}", [("db", "healthy")]),
        ("{db: service_completed_successfully}", [("db", "completed")]),
    ],
)
def test_ways_to_depend(tmp_path: Path, written: str, meant: list[tuple[str, str]]) -> None:
    body = f"""\
services:
  db: {{image: ":image"}}
  web: {{image: ":image", depends_on: {written}}}
"""
    needs: tuple[Dependency, ...] = read(tmp_path, body).service("web").depends_on
    assert [(need.service, need.condition) for need in needs] == meant


def test_one_service_may_ask_for_a_way_out(tmp_path: Path) -> None:
    assert read(tmp_path, 'services: {a: {image: ":image", network: default}}').network == "default"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("privileged: true", "services.w.privileged is refused"),
        ("volumes: [/var/run/docker.sock:/s]", "the host path '/var/run/docker.sock' is refused"),
        ("volumes: [~/x:/s]", "the host path '~/x' is refused"),
        ('volumes: ["../x:/s:ro"]', "'../x' leaves the package, so it is refused"),
        ('volumes: ["./x:/s"]', "'./x' can be mounted for reading only [./x:/s:ro]"),
        ("volumes: [a:/x, b:/x]", "two volumes are mounted on /x"),
        ("volumes: [a:relative]", "'relative' is no place for a volume"),
        ("network_mode: host", "services.w.network_mode is refused"),
        ("cap_add: [sys_admin]", "cap_add: SYS_ADMIN is refused"),
        ("memory: 1M, mem_limit: 1M", "'memory' and 'mem_limit' mean the same: one is enough"),
        ("command: 'a \"b'", "command: no closing quotation"),
        ("healthcheck: {test: [curl, x]}", "healthcheck.test: what is it to run?"),
        ("ulimits: {files: 3}", "there is no limit 'files'"),
        ("depends_on: [x]", "there is no service 'x'"),
        ("enviroment: {}", "an entry of services.w has no key 'enviroment'"),
        ("cpus: lots", "services.w.cpus: expected a number above 0, found 'lots'"),
        ("scale: 1000", "services.w.scale: 1000 is not between 1 and 100"),
        ("environment: [1x=2]", "environment: '1x' is not the name of a variable"),
    ],
)
def test_mistakes_in_a_service(tmp_path: Path, keys: str, message: str) -> None:
    (said,) = mistakes(tmp_path, f'services: {{w: {{image: ":image", {keys}}}}}')
    assert said.startswith(message)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    body = """\
services:
  a: {image: ":image", depends_on: [b], volumes: [/etc:/e]}
  b: {image: ":image", depends_on: [a]}
  c: {image: ./x}
checks:
  - exec: {run: ls}
  - exec: {in: bb, run: ls}
  - http: {get: "http://a/", matches: "(", json: {"a[": 1}}
  - logs: {service: a}
  - file: {in: a, path: /x, exists: false, mode: "0644"}
"""
    said = mistakes(tmp_path, body)
    assert [text.partition(" [")[0] for text in said] == [
        "the host path '/etc' is refused",
        "services wait for each other: a -> b -> a",
        "image: a directory is not an image",
        "in which service?",
        "there is no service 'bb'",
        "'(' is not a regular expression: missing ), unterminated subpattern at position 0",
        "'a[' is not a path in JSON",
        "logs: what is to be in them?",
        "a file that must not exist has no other properties",
    ]


def test_a_test_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "doc: nothing") == ["a smoke target needs 'services' or 'checks'"]


# -- checks ------------------------------------------------------------------------------


def test_short_and_long_forms_of_checks(tmp_path: Path) -> None:
    body = (
        WEB
        + """\
checks:
  - tcp: web:80
  - {name: talks, tcp: {connect: "web:80", send: x, contains: y, within: 2s, timeout: 1s}}
  - exec: {run: ls | wc}
  - exec: {in: web, run: [a, b], stdout: c, stderr: {equals: d}}
  - http: {post: "http://web/x", body: b, status: 2xx, json: {$.a: 3.10}}
  - exit: web
  - file: {image: ":image", path: /a, mode: "644"}
  - file: {path: /b}
  - exec: {run: ls | wc}
"""
    )
    checks = read(tmp_path, body).checks
    assert checks[0].what == TcpCheck("web", 80)
    assert (checks[1].name, checks[1].within, checks[1].timeout) == ("talks", 2 * 10**9, 10**9)
    assert checks[2].what == ExecCheck("web", ("/bin/sh", "-c", "ls | wc"))
    assert checks[3].what == ExecCheck(
        "web", ("a", "b"), stdout=Expected(("c",)), stderr=Expected(equals="d")
    )
    assert isinstance(checks[4].what, HttpCheck)
    assert checks[4].what.json == (("$.a", "3.10"),)
    assert checks[4].name == "http POST http://web/x"
    assert checks[6].what == FileCheck(Subject(image=IMAGE), "/a", mode=0o644)
    assert checks[7].what == FileCheck(Subject(service="web"), "/b")
    assert [c.name for c in checks if "ls" in c.name] == [
        "exec web: ls | wc",
        "exec web: ls | wc #2",
    ]


def test_an_image_alone_needs_no_service(tmp_path: Path) -> None:
    target = read(tmp_path, 'image: ":image"\nchecks: [{config: {root: false}}]')
    assert target.services == ()
    assert str(target.checks[0].what) == "config //app:image"


def test_exactly_one_kind_of_check(tmp_path: Path) -> None:
    said = mistakes(tmp_path, WEB + "checks: [{tcp: 'web:1', exit: web}]")
    assert "not both" in said[0]
    (hint,) = mistakes(tmp_path, WEB + "checks: [{htpt: x, tcp: 'web:1'}]")
    assert hint == "an entry of checks has no key 'htpt' [did you mean 'http'?]"


# -- compose -----------------------------------------------------------------------------

COMPOSE = """\
version: "3"
services:
  web:
    build: .
    ports: ["80:80"]
    restart: always
    volumes: ["./conf:/conf", "data:/data"]
    environment: {LEVEL: "${LEVEL:-info}", PRICE: "$$5"}
    depends_on: [db]
  db:
    image: postgres:16
volumes: {data: }
x-more: 1
"""


def test_a_compose_file_describes_services(tmp_path: Path) -> None:
    body = "compose: compose.yaml\nchecks: [{tcp: 'web:80'}, {config: {in: web, root: true}}]"
    target = read(tmp_path, body, {"compose.yaml": COMPOSE})
    web, db = target.services
    assert web.image == IMAGE
    assert db.image == ImageName("postgres:16")
    assert web.environment == (("LEVEL", "info"), ("PRICE", "$5"))
    assert [type(v) for v in web.volumes] == [PackageBind, NamedVolume]
    assert [text for text, _ in target.warnings] == [
        "web.ports is left out: checks are made from inside the network",
        "web.restart is left out: a service that ends is a finding",
    ]


def test_what_a_compose_file_must_not_say(tmp_path: Path) -> None:
    compose = """\
services:
  web:
    build: .
    privileged: true
    network_mode: host
    volumes: [/:/host]
    imagee: x
    environment: ["A=${B}"]
secrets: {}
servcies: {}
"""
    body = "compose: c.yaml\nchecks: [{tcp: 'web:80'}]"
    said = mistakes(tmp_path, body, {"c.yaml": compose})
    no_value = "variables of the environment are not read, so B has no value"
    assert sorted(said) == sorted(
        (
            "web.privileged is refused [a service gets no more rights than a RUN step]",
            "web.network_mode is refused [every service is in the test's own network]",
            "a service has no key 'imagee' [did you mean 'image'?]",
            f"{no_value} [give it a default: ${{B:-value}}]",
            "secrets is refused [a test has no secrets]",
            "a compose file has no key 'servcies' [did you mean 'services'?]",
        )
    )
    only = "services: {web: {build: ., volumes: ['/:/host']}}"
    (said,) = mistakes(tmp_path, body, {"c.yaml": only})
    assert said.startswith("the host path '/' is refused")


# -- structure tests -----------------------------------------------------------------------


def test_structure_tests_become_checks(tmp_path: Path) -> None:
    structure = """\
schemaVersion: "2.0.0"
globalEnvVars: [{key: A, value: $PATH}]
commandTests:
  - name: runs
    command: tool
    args: [--version]
    setup: [[make, it]]
    expectedOutput: [^1]
    envVars: [{key: B, value: 2}]
    exitCode: 3
fileExistenceTests: [{name: there, path: /x, uid: 5}]
fileContentTests: [{name: says, path: /x, excludedContents: [no]}]
metadataTest: {cmd: [], exposedPorts: ["80"], labels: [{key: l, value: "1.*", isRegex: true}]}
"""
    body = 'image: ":image"\nstructure_tests: s.yaml'
    command, file, content, config = read(tmp_path, body, {"s.yaml": structure}).checks
    about = Subject(image=IMAGE)
    assert command.what == CommandCheck(
        about,
        ("tool", "--version"),
        (("make", "it"),),
        (),
        (("A", "$PATH"), ("B", "2")),
        exit_code=3,
        stdout=Expected(matches=("^1",)),
    )
    assert file.what == FileCheck(about, "/x", owner="5:")
    assert content.what == FileCheck(about, "/x", type="file", content=Expected(excludes=("no",)))
    assert config.name == "metadata"
    assert config.where.path == "app/s.yaml"


def test_structure_tests_that_are_refused(tmp_path: Path) -> None:
    structure = """\
schemaVersion: 1.0.0
licenseTests: [{debian: true}]
containerRunOptions: {privileged: true}
commandTests: [{name: a, comand: b}]
"""
    body = 'image: ":image"\nstructure_tests: s.yaml'
    said = mistakes(tmp_path, body, {"s.yaml": structure})
    assert said[0] == "schemaVersion: '1.0.0' is not 2.0.0"
    assert said[1].startswith("licenseTests is refused [licenses are not looked for")
    assert said[2].startswith("containerRunOptions.privileged is refused [")
    assert set(said[3:]) == {
        "an entry of commandTests has no key 'comand' [did you mean 'command'?]",
        "an entry of commandTests needs 'command'",
    }
