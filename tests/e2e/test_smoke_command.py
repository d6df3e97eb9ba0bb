"""Knows what `buildgraph test`, `logs` and `enter` take and print; must not know how a test runs."""

from __future__ import annotations

import json
import re
import signal
import xml.etree.ElementTree as ET

import pytest

from e2e.building import BOTH, Bench
from e2e.harness import assert_nothing_left, leftovers
from e2e.smoking import WEB, smoke

pytestmark = pytest.mark.kernel
HTTP = '  - http: {get: "http://web:8080/", within: 10s}\n'


# -- which tests ---------------------------------------------------------------------------


def test_a_pattern_means_the_smoke_tests_alone(root_bench: Bench) -> None:
    made = smoke(root_bench, WEB + "checks:\n" + HTTP)
    said = root_bench.run("test", f"//{made.package}/...", "--progress", "quiet", "--json", "-")
    (test,) = json.loads(said.stdout)["tests"]
    assert test["label"] == made.label
    built = root_bench.run("build", f"//{made.package}/...", "-o", "type=cacheonly")
    assert f"//{made.package}:image sha256:" in built.stdout
    assert "smoke" not in built.stdout


def test_nothing_to_test_and_nothing_to_build_are_said(root_bench: Bench) -> None:
    made = smoke(root_bench, WEB + "checks:\n" + HTTP)
    image = f"//{made.package}:image"
    none = root_bench.run("test", image, expect=2).stderr
    assert f"{image} is not a smoke test" in none
    wrong = root_bench.run("build", made.label, expect=2).stderr
    assert "is a smoke test: there is nothing to build" in wrong
    assert f"hint: buildgraph test {made.label}" in wrong


def test_a_failed_test_stops_no_other_and_a_failed_build_is_not_a_test(root_bench: Bench) -> None:
    images = """\
  broken:
    dockerfile_inline: |
      FROM base
      RUN exit 3
    contexts: {base: "oci-layout://LAYOUT"}
    network: none
"""
    more = """\
checks:
  - tcp: web:1
  - tcp: {connect: "web:8080", within: 5s}
  - limits: {in: web, layers: 9}
"""
    bad = smoke(root_bench, WEB + more)
    good = smoke(root_bench, WEB + "checks:\n" + HTTP)
    both = root_bench.run("test", bad.label, good.label, expect=1).stdout
    assert f"{bad.label} FAILED in" in both
    assert f"{good.label} passed in" in both
    unbuilt = smoke(root_bench, 'checks: [{limits: {image: ":broken", layers: 9}}]', images=images)
    said = unbuilt.run(expect=1)
    assert "ended with exit code 3" in said.stderr
    assert "passed" not in said.stdout


def test_filters_choose_checks_by_name(root_bench: Bench) -> None:
    body = WEB + "checks:\n  - {name: one, tcp: 'web:1'}\n  - {name: two, tcp: 'web:2'}\n" + HTTP
    made = smoke(root_bench, body)
    assert [c["name"] for c in made.report("--filter", "http")["checks"]] == [
        "http GET http://web:8080/"
    ]
    none = made.run("--filter", "three", expect=2).stderr
    assert "no check is called 'three'" in none
    assert "hint: checks: http GET http://web:8080/, one, two" in none
    assert not made.report(expect=1)["ok"], "the others have no verdict by that"


# -- reports -------------------------------------------------------------------------------


def test_reports_for_machines(root_bench: Bench) -> None:
    body = """\
services:
  web:
    image: ":image"
    command: [sh, -c, 'printf "\\\\033]0;evil\\\\007<&>\\\\n::error::x\\\\n"; exec httpd -f -p 8080']
checks:
  - {name: "<first>", tcp: {connect: "web:8080", within: 5s}}
  - exec: {in: web, run: 'printf "\\\\033[2J"; exit 4'}
"""
    made = smoke(root_bench, body)
    files = [made.bench.workspace.path(name) for name in ("junit.xml", "report.json")]
    result = made.run("--junit", str(files[0]), "--json", str(files[1]), expect=1)
    suite = ET.parse(files[0]).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    first, second = suite.findall("testcase")
    assert first.get("name") == "<first>"
    failure = second.find("failure")
    assert failure is not None
    assert failure.get("message") == "exit code 4, not 0"
    assert second.get("file") == f"{made.package}/Boxfile.yaml"
    (test,) = json.loads(files[1].read_text())["tests"]
    assert [c["ok"] for c in test["checks"]] == [True, False]
    shown = result.stdout + result.stderr
    assert "\x1b" not in shown
    assert "^[]0;evil^G<&>" in shown
    assert not re.search(r"^\s*::error::", shown, re.MULTILINE)
    raw = made.bench.run("logs", made.label, "web", "--raw").stdout
    assert raw.startswith("\x1b]0;evil\x07<&>\n::error::x\n"), "what is kept is raw"
    assert "web | ^[]0;evil" in made.bench.run("logs", made.label).stdout


def test_events_for_machines(root_bench: Bench) -> None:
    made = smoke(root_bench, WEB + "checks:\n" + HTTP)
    events = made.run("--progress", "json").events
    kinds = [e["event"] for e in events]
    wanted = ["smoke_started", "smoke_note", "check_finished", "smoke_finished", "build_finished"]
    assert [kind for kind in kinds if kind in wanted] == wanted
    (end,) = [e for e in events if e["event"] == "smoke_finished"]
    assert (end["ok"], end["cached"], end["passed"], end["failed"]) == (True, False, 1, 0)


def test_logs_that_nobody_kept(root_bench: Bench) -> None:
    made = smoke(root_bench, WEB + "checks:\n" + HTTP)
    assert "no logs of" in root_bench.run("logs", made.label, expect=2).stderr
    made.run()
    said = root_bench.run("logs", made.label, "wob", expect=2).stderr
    assert "the test had no service 'wob'" in said


def test_a_compose_file_is_run(root_bench: Bench) -> None:
    compose = """\
services:
  web:
    build: .
    ports: ["8080:8080"]
  asks:
    build: .
    command: ["sh", "-c", "wget -q -O - http://web:8080/ && echo $$WORD"]
    environment: {WORD: "${WORD:-fallback}"}
    depends_on: [web]
"""
    body = """\
compose: compose.yaml
checks:
  - exit: asks
  - logs: {service: asks, contains: [hello, fallback], within: 2s}
"""
    result = smoke(root_bench, body, {"compose.yaml": compose}).run("--progress", "plain")
    assert "web.ports is left out" in result.stderr
    assert "passed" in result.stdout


# -- keep and enter ------------------------------------------------------------------------


@BOTH
def test_what_is_kept_up_can_be_entered_as_it_says(who: Bench) -> None:
    body = 'services: {web: {image: ":image", user: app}}\nchecks:\n' + HTTP
    made = smoke(who, body)
    before = leftovers()
    process = who.workspace.start(
        "test", made.label, "--progress", "quiet", "--keep", user=who.user
    )
    assert process.stderr is not None
    seen = ""
    while "Ctrl-C" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    assert f"{made.label}: all checks passed; its containers are up. To enter:" in seen
    found = re.search(r"buildgraph (enter \w+/web -- )sh", seen)
    assert found, seen
    words = found[1].split()
    said = who.run(*words, "sh", "-c", "id -un; hostname; echo no >&2; exit 7", expect=7)
    assert (said.stdout, said.stderr) == ("app\nweb\n", "no\n")
    asked = who.run("enter", words[1], "-u", "root", "--", "id", "-u")
    assert asked.stdout == "0\n"
    wrong = who.run("enter", words[1].replace("/web", "/wob"), "--", "id", expect=2)
    assert "wob is not up" in wrong.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    gone = who.run(*words, "id", expect=2)
    assert "no test is held under" in gone.stderr
    assert_nothing_left(before)


def test_keep_is_for_one_test(root_bench: Bench) -> None:
    one = smoke(root_bench, WEB + "checks:\n" + HTTP)
    two = smoke(root_bench, WEB + "checks:\n" + HTTP)
    said = root_bench.run("test", one.label, two.label, "--keep", expect=2).stderr
    assert "--keep goes with one test, not with 2" in said
