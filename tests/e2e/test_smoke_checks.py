"""Knows what each kind of check accepts and what it says when it fails, on real containers."""

from __future__ import annotations

import pytest

from e2e.building import BOTH, Bench
from e2e.smoking import WEB, smoke

pytestmark = pytest.mark.kernel

GOOD = """\
services:
  web: {image: ":image", environment: {COLOR: green}, volumes: ["./conf:/conf:ro"]}
  once: {image: ":image", command: [sh, -c, "echo done; exit 3"]}
checks:
  - http: {get: "http://web:8080/", contains: hello, within: 10s}
  - http:
      get: "http://web:8080/state.json"
      status: [200, 304]
      response_headers: {content-length: "^[0-9]+$"}
      json: {$.ok: true, "$.items[0].name": first, "items[-1].count": 3}
  - http: {get: "http://web:8080/none", status: 4xx}
  - tcp: web:8080
  - tcp: {connect: "web:8080", send: "GET / HTTP/1.0\\r\\n\\r\\n", matches: "^hel+o$"}
  - exec: {in: web, run: "id -u; echo $COLOR; cat /conf/a", stdout: {matches: "^0$", contains: [green, bound]}}
  - exec: {in: web, run: [sh, -c, "echo oh >&2; exit 5"], exit_code: 5, stderr: {equals: oh}}
  - exec: {in: web, run: id -un, user: app, working_dir: /www, stdout: {equals: app}}
  - exec: {in: web, run: "nslookup web", stdout: {excludes: "can't"}}
  - logs: {service: once, contains: done, excludes: error, within: 5s}
  - exit: {service: once, code: 3}
  - file: {in: web, path: /www/index.html, mode: "0644", owner: root:root, type: file, contains: hello}
  - file: {in: web, path: /www/none, exists: false}
  - file: {image: ":image", path: /bin/ls, type: link}
  - file:
      image: ":image"
      path: /www/index.html
      sha256: 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03
  - config: {in: web, root: true, ports: [8080], command: [httpd, -f, -p, "8080", -h, /www]}
  - limits: {in: web, size: 20M, layers: 2, forbid_secrets: true, forbidden_paths: [/root/**]}
"""


@BOTH
def test_every_kind_of_check_can_hold(who: Bench) -> None:
    made = smoke(who, GOOD, {"conf/a": "bound\n"})
    report = made.report("--timeout", "20", expect=None)
    wrong = {c["name"]: c["complaints"] for c in report["checks"] if not c["ok"]}
    assert not wrong
    assert report["ok"], report["reason"]
    assert len(report["checks"]) == 17
    assert report["services"][1]["states"] == ["ended with exit code 3"]


BAD = [
    ('http: {get: "http://web:8080/none"}', "status 404, not 2xx", "GET http://web:8080/none"),
    ('http: {get: "http://web:8080/", contains: bye}', "the body does not contain 'bye'", "hello"),
    ('http: {get: "http://web:81/"}', "connection refused", "GET http://web:81/"),
    ('http: {get: "http://wob:81/"}', "no container of this network is called 'wob'", "wob"),
    (
        'http: {get: "http://web:8080/state.json", json: {$.ok: false}}',
        "json $.ok is 'true', not 'false'",
        '"items"',
    ),
    (
        'http: {get: "http://web:8080/state.json", json: {"$.items[1].name": x}}',
        "json $.items[1].name: $.items has no [1]",
        "200 OK",
    ),
    ("tcp: web:81", "connection refused", "connect to web:81"),
    ("exec: {in: web, run: exit 7}", "exit code 7, not 0", "in web: /bin/sh -c 'exit 7'"),
    ("exec: {in: web, run: echo no, stdout: yes}", "stdout does not contain 'yes'", "no"),
    ("exec: {in: web, run: [nowhere]}", "exit code 127, not 0", "nowhere"),
    (
        "exec: {in: web, run: [sleep, '60'], timeout: 500ms}",
        "it did not end within 0.5 s",
        "sleep 60",
    ),
    (
        "logs: {service: web, contains: never}",
        "the log of web does not contain 'never'",
        "read the log",
    ),
    ("exit: {service: web, within: 300ms}", "web still runs", "wait for web"),
    ("file: {in: web, path: /none}", "/none is not there", "look at /none of web"),
    ("file: {in: web, path: /bin/busybox, mode: '0700'}", "mode 0755, not 0700", "-rwxr-xr-x 0:0"),
    (
        'file: {image: ":image", path: /www/index.html, owner: app}',
        "owner 0:0, not app",
        "-rw-r--r--",
    ),
    ("config: {in: web, root: false}", "its user is root (USER is not set)", "command: ['httpd'"),
    ("limits: {in: web, size: 1000}", "bytes of layers, more than 1000", "2 layers"),
    (
        "limits: {in: web, forbidden_paths: '/**/busybox'}",
        "layer 1 has /bin/busybox, forbidden by /**/busybox",
        "look through",
    ),
]


def test_a_failing_check_says_what_was_asked_and_what_came(root_bench: Bench) -> None:
    checks = "".join(f"  - {body}\n" for body, _, _ in BAD)
    made = smoke(
        root_bench, f"{WEB}checks:\n  - tcp: {{connect: 'web:8080', within: 9s}}\n{checks}"
    )
    report = made.report(expect=1)
    assert [c["ok"] for c in report["checks"]].count(True) == 1
    found = {c["name"]: c for c in report["checks"]}
    said = made.fail("--no-cache")
    for body, complaint, detail in BAD:
        near = [c for c in found.values() if any(complaint in text for text in c["complaints"])]
        assert near, f"{body}: {complaint}"
        told = [c for c in near if detail in f"{c['request']}\n{c['answer']}"]
        assert told, f"{body}: {detail}: {near}"
        assert complaint in said
    assert f"--> {made.package}/Boxfile.yaml:15:9" in said
    assert "service web (//" in said


def test_secrets_in_any_layer_are_found(root_bench: Bench) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    images = """\
  leaky:
    dockerfile_inline: |
      FROM base
      COPY key /srv/key
      RUN rm /srv/key
    contexts: {base: "oci-layout://LAYOUT"}
    network: none
"""
    body = 'checks:\n  - limits: {image: ":leaky", forbid_secrets: true}\n'
    made = smoke(root_bench, body, {"key": key}, images)
    assert "layer 2 has /srv/key: a private key" in made.fail()


def test_structure_tests_are_read_as_they_are(root_bench: Bench) -> None:
    structure = """\
schemaVersion: 2.0.0
globalEnvVars: [{key: PLACE, value: /www}]
commandTests:
  - name: setup persists
    setup: [[touch, /made], [sh, -c, "echo $PLACE > /place"]]
    command: cat
    args: [/place]
    expectedOutput: ["^/www$"]
    teardown: [[rm, /made]]
  - name: fails as told
    command: sh
    args: [-c, "echo oops >&2; exit 2"]
    expectedError: [oops]
    excludedOutput: [.]
    exitCode: 2
fileExistenceTests:
  - {name: page, path: /www/index.html, permissions: -rw-r--r--, uid: 0, gid: 0}
  - {name: tmp, path: /tmp, permissions: dtrwxrwxrwx}
  - {name: busybox, path: /bin/busybox, isExecutableBy: any}
  - {name: nothing, path: /nothing, shouldExist: false}
fileContentTests:
  - {name: says, path: /www/index.html, expectedContents: [hel+o], excludedContents: [bye]}
metadataTest:
  exposedPorts: ["8080"]
  cmd: [httpd, -f, -p, "8080", -h, /www]
  envVars: [{key: PATH, value: "^/b", isRegex: true}]
"""
    body = 'image: ":image"\nstructure_tests: structure.yaml\n'
    made = smoke(root_bench, body, {"structure.yaml": structure})
    report = made.report("--timeout", "20", expect=None)
    assert {c["name"]: c["complaints"] for c in report["checks"] if not c["ok"]} == {}
    assert len(report["checks"]) == 8
    assert report["ok"]
    made.write("structure.yaml", structure.replace("hel+o", "bye").replace("exitCode: 2", ""))
    said = made.fail()
    assert "check says failed" in said
    assert "check fails as told failed" in said
    assert "exit code 2, not 0" in said
