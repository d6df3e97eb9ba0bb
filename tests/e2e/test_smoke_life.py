"""Knows how the services of a test come and go: order, health, deaths, interrupts, and that nothing
of ours stays; must not know what single checks say.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

from e2e.building import BOTH, Bench
from e2e.harness import assert_nothing_left, leftovers
from e2e.smoking import WEB, Smoke, smoke

pytestmark = pytest.mark.kernel
HTTP = '  - http: {get: "http://web:8080/", within: 10s}\n'


# -- order -------------------------------------------------------------------------------


@BOTH
def test_services_wait_for_what_they_depend_on(who: Bench) -> None:
    body = """\
services:
  c: {image: ":image", command: [sh, -c, "test -e /shared/b && exec httpd -f -p 8080"],
      depends_on: {b: completed}, volumes: ["shared:/shared"]}
  b: {image: ":image", command: [sh, -c, "test -e /shared/a && touch /shared/b"],
      depends_on: {a: service_healthy}, volumes: ["shared:/shared"]}
  a: {image: ":image", command: [sh, -c, "sleep 0.3; touch /shared/a; exec sleep 60"],
      volumes: ["shared:/shared"], healthcheck: {test: [CMD, test, -e, /shared/a], interval: 1s}}
checks:
  - tcp: {connect: "c:8080", within: 5s}
"""
    made = smoke(who, body)
    notes = [
        (e["service"], e["text"])
        for e in made.run("--progress", "json").events
        if e["event"] == "smoke_note"
    ]
    assert [n for n in notes if n[1] != "ended with exit code 0"] == [
        ("a", "started"),
        ("a", "healthy"),
        ("b", "started"),
        ("c", "started"),
    ]


def test_a_health_check_of_the_image_counts(root_bench: Bench) -> None:
    images = """\
  well:
    dockerfile_inline: |
      FROM base
      HEALTHCHECK --interval=1s --retries=2 CMD test -e /tmp/well
      CMD ["sh", "-c", "sleep 0.2; touch /tmp/well; exec sleep 60"]
    contexts: {base: "oci-layout://LAYOUT"}
"""
    body = 'services: {w: {image: ":well"}}\nchecks:\n  - exec: {in: w, run: test -e /tmp/well}\n'
    assert smoke(root_bench, body, images=images).report()["ok"]


def test_an_unhealthy_service_ends_the_test(root_bench: Bench) -> None:
    body = """\
services:
  sick: {image: ":image", command: [sleep, "60"],
         healthcheck: {test: echo not today; exit 9, interval: 100ms, retries: 2}}
  web: {image: ":image", depends_on: {sick: healthy}}
checks:
"""
    said = smoke(root_bench, body + HTTP).fail()
    why = "it ended early: sick is unhealthy: its healthcheck ended with exit code 9: not today"
    assert why in said
    assert "not made: http GET http://web:8080/" in said
    assert re.search(r"service web \(//s\d+:image\): waiting for what it depends on", said)


def test_health_that_nobody_has_is_an_error_of_the_author(root_bench: Bench) -> None:
    body = """\
services:
  a: {image: ":image"}
  web: {image: ":image", depends_on: {a: healthy}}
checks:
"""
    said = smoke(root_bench, body + HTTP).fail(expect=2)
    assert "a has no healthcheck, so it never becomes healthy" in said
    assert "Boxfile.yaml:" in said


def test_scale_makes_several_containers_under_one_name(root_bench: Bench) -> None:
    body = """\
services:
  many: {image: ":image", scale: 3}
  asks: {image: ":image", command: [sleep, "60"]}
checks:
  - http: {get: "http://many:8080/", within: 5s}
  - exec:
      in: asks
      run: "for n in 1 2 3; do wget -q -O - http://many-$n:8080/ || exit 1; done"
      stdout: {matches: "(hello\\n){3}"}
      within: 5s
"""
    assert smoke(root_bench, body).report()["ok"]


# -- deaths ------------------------------------------------------------------------------


@BOTH
def test_a_service_that_dies_ends_the_test_at_once(who: Bench) -> None:
    body = """\
services:
  web: {image: ":image", command: [sh, -c, "echo first; echo last words; exit 3"]}
checks:
  - http: {get: "http://web:8080/", within: 60s}
  - tcp: web:8080
"""
    begun = time.monotonic()
    said = smoke(who, body).fail()
    assert time.monotonic() - begun < 15
    assert "it ended early: web ended with exit code 3" in said
    assert "last words" in said
    assert re.search(r"service web \(//s\d+:image\): ended with exit code 3", said)


def test_a_service_without_memory_is_said_to_be_so(root_bench: Bench) -> None:
    body = """\
services:
  web: {image: ":image", memory: 16M,
        command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=300M count=1"]}
checks:
"""
    said = smoke(root_bench, body + HTTP).fail()
    assert "out of memory (limit 16 MiB)" in said


def test_a_failed_forerunner_is_named_with_who_waits(root_bench: Bench) -> None:
    body = """\
services:
  setup: {image: ":image", command: [sh, -c, exit 4]}
  web: {image: ":image", depends_on: {setup: service_completed_successfully}}
checks:
"""
    said = smoke(root_bench, body + HTTP).fail()
    assert "setup ended with exit code 4, and web waits for it to complete" in said


def test_time_is_up(root_bench: Bench) -> None:
    body = """\
services: {web: {image: ":image", command: [sleep, "60"]}}
timeout: 700ms
checks:
"""
    said = smoke(root_bench, body + HTTP).fail()
    assert "it ended early: its time is up" in said


def test_a_service_that_cannot_start_says_where_it_is_written(root_bench: Bench) -> None:
    body = 'services: {web: {image: ":image", user: nobodyknows}}\nchecks:\n' + HTTP
    said = smoke(root_bench, body).fail(expect=2)
    assert "the image has no user 'nobodyknows'" in said
    assert "Boxfile.yaml:" in said


# -- rights ------------------------------------------------------------------------------

REFUSED_KEYS = [
    ("privileged: true", "privileged is refused", "no more rights than a RUN step"),
    ("network_mode: host", "network_mode is refused", "the test's own network"),
    ("pid: host", "pid is refused", "nothing of the host"),
    ("devices: [/dev/kmsg]", "devices is refused", "nothing of the host"),
    ("ports: [80]", "ports is refused", "no port of the host"),
]
REFUSED_VALUES = [
    ("volumes: [/etc:/x]", "the host path '/etc' is refused", "its package only"),
    ("volumes: [/var/run/docker.sock:/d]", "'/var/run/docker.sock' is refused", "package only"),
    ('volumes: ["../x:/x:ro"]', "leaves the package", "its package only"),
    ("cap_add: [SYS_ADMIN]", "SYS_ADMIN is refused", "really needs"),
]


@pytest.mark.parametrize("told", [REFUSED_KEYS, REFUSED_VALUES])
def test_no_service_gets_more_rights_than_a_step(
    root_bench: Bench, told: list[tuple[str, str, str]]
) -> None:
    services = "".join(
        f'  s{i}: {{image: ":image", {keys}}}\n' for i, (keys, _, _) in enumerate(told)
    )
    said = smoke(root_bench, f"services:\n{services}checks:\n{HTTP}").fail(expect=2)
    for _, message, hint in told:
        assert message in said, said
        assert hint in said, said


def test_a_link_out_of_the_package_leads_nowhere(root_bench: Bench) -> None:
    body = 'services:\n  web: {image: ":image", volumes: ["./out:/out:ro"]}\nchecks:\n' + HTTP
    made = smoke(root_bench, body)
    root_bench.workspace.path(f"{made.package}/out").symlink_to("/etc/shadow")
    assert "cannot mount" in made.fail(expect=2)


# -- nothing stays -----------------------------------------------------------------------


def start_and_wait(made: Smoke, text: str, *args: str):
    """Start a test and return it once it has said `text`."""
    bench = made.bench
    before = leftovers()
    process = bench.workspace.start(
        "test", made.label, "--progress", "plain", *args, user=bench.user
    )
    assert process.stderr is not None
    seen = ""
    while text not in seen:
        line = process.stderr.readline()
        assert line, f"{text!r} was never said: {seen}"
        seen += line
    return before, process, seen


@BOTH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(who: Bench, number: signal.Signals) -> None:
    body = """\
services:
  web: {image: ":image", scale: 3, command: [sh, -c, "trap '' TERM; sleep 600 & wait"]}
checks:
"""
    before, process, _ = start_and_wait(smoke(who, body + HTTP), "web-1 started")
    begun = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert time.monotonic() - begun < 5
    assert_nothing_left(before)


MANY = """\
services:
  web: {image: ":image", scale: 100}
timeout: 120s
checks:
  - exec: {in: web, run: "true"}
"""


def test_a_hundred_containers_leave_nothing(root_bench: Bench) -> None:
    before = leftovers()
    report = smoke(root_bench, MANY).report()
    assert len(report["services"][0]["states"]) == 100
    assert_nothing_left(before)


def test_a_hundred_containers_killed_half_way_leave_nothing(root_bench: Bench) -> None:
    made = smoke(root_bench, MANY.replace('"true"', "exit 0"))
    before, process, seen = start_and_wait(made, "web-50 started")
    assert seen.count(" started") < 100
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 15
    while (left := leftovers() - before).processes or left.mounts or left.namespaces:
        assert time.monotonic() < end, left
        time.sleep(0.1)
    smoke(root_bench, WEB + "checks:\n" + HTTP).run()  # the next start sweeps the rest
    assert_nothing_left(before)
    store = root_bench.workspace.store(root_bench.user)
    if list((store / "tmp").iterdir()):
        # What a dying process still held is for the start after that one.
        root_bench.run("cache", "gc")
    assert not list((store / "tmp").iterdir())


# -- what is remembered ------------------------------------------------------------------


def test_a_passed_test_is_run_again_when_something_of_it_changed(root_bench: Bench) -> None:
    body = """\
services:
  web: {image: ":image", env_file: vars, volumes: ["./conf:/conf:ro"], environment: [OUTSIDE]}
checks:
"""
    made = smoke(root_bench, body + HTTP, {"vars": "A=1\n", "conf/a": "1\n"})

    def cached(*args: str, **more) -> bool:
        return bool(made.report(*args, **more)["cached"])

    assert not cached()
    assert cached()
    made.bench.workspace.touch(f"{made.package}/conf/a")
    assert cached()
    assert not cached("--no-cache")
    for change in (
        lambda: made.write("conf/a", "2\n"),
        lambda: made.write("vars", "A=2\n"),
        lambda: made.write("www/index.html", "other\n"),
    ):
        change()
        assert not cached()
    assert not cached(env={"OUTSIDE": "hunter22"})
    record = made.bench.workspace.store(made.bench.user)
    index = b"".join(p.read_bytes() for p in record.glob("*.sqlite*"))
    assert b"hunter22" not in index
    made.write("www/index.html", "hello\n")
    assert cached(), "the first state is known"


def test_why_a_test_runs_again_is_said(root_bench: Bench) -> None:
    made = smoke(root_bench, WEB + "checks:\n" + HTTP)
    made.run()
    text = made.bench.workspace.read(f"{made.package}/Boxfile.yaml")
    made.write("Boxfile.yaml", text.replace("within: 10s", "within: 11s"))
    said = made.run("--progress", "plain").stderr
    assert re.search(
        r"because check http GET http://web:8080/ within: 10000000000 -> 11000000000", said
    ), said


def test_a_failed_test_is_never_remembered_as_passed(root_bench: Bench) -> None:
    made = smoke(root_bench, WEB + "checks:\n  - tcp: web:1\n")
    made.fail()
    made.fail()


def test_runs_find_what_is_flaky(root_bench: Bench) -> None:
    body = WEB + "checks:\n  - exec: {in: web, run: 'test -e /www/index.html'}\n"
    report = smoke(root_bench, body).report("--runs", "3")
    assert (report["runs"], report["runs_passed"]) == (3, 3)
    flaky = smoke(
        root_bench,
        "services: {web: {image: ':image'}}\n"
        'checks:\n  - exec: {in: web, run: \'case $(head -c1 /dev/urandom | hexdump -e "1/1 \\"%d\\"") in *[02468]) ;; *) exit 1;; esac\'}\n',
    )
    result = flaky.run("--runs", "6", "--progress", "quiet", "--json", "-", expect=None)
    (told,) = json.loads(result.stdout)["tests"]
    assert told["runs"] == 6
    assert result.code == (0 if told["runs_passed"] == 6 else 1)
