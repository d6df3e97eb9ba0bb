"""A build tells programs what happened, in a file of events, JUnit's XML and to CI systems."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from e2e.building import BOTH, Bench

FILE = "FROM base\nRUN echo hello; touch /a\nRUN echo '::error::no' ; exit 3\n"


@BOTH
def test_a_failed_build(who: Bench) -> None:
    directory = who.directory({}, FILE)
    words = who.base([directory])
    result = who.run(
        "build", *words, directory, "--events", "e.jsonl", "--junit", "j.xml", expect=1,
        env={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(who.workspace.path("s.md"))},
    )  # fmt: skip
    rows = [json.loads(line) for line in who.workspace.read("e.jsonl").splitlines()]
    kinds = [row["event"] for row in rows]
    assert kinds[0] == "stream"
    assert kinds[-1] == "stream_ended"
    assert kinds.count("node_failed") == 1
    failed = next(row for row in rows if row["event"] == "node_failed")
    assert failed["error"]["where"]["line"] == 3
    suite = ElementTree.fromstring(who.workspace.read("j.xml"))[0]
    assert suite.get("failures") == "1"
    lines = [line for line in result.stderr.splitlines() if line.startswith("::")]
    assert lines[0].startswith(f"::error file={directory}/Dockerfile,line=3")
    assert "exit 3" in who.workspace.read("s.md")


def test_an_error_before_anything_is_built(who: Bench) -> None:
    directory = who.directory({}, "FROM base\nRUNN x\n")
    who.run("build", directory, "--events", "f.jsonl", "--junit", "k.xml", expect=2)
    rows = [json.loads(line) for line in who.workspace.read("f.jsonl").splitlines()]
    (error,) = [row["error"] for row in rows if row["event"] == "error"]
    assert error["where"]["line"] == 2
    assert 'errors="1"' in who.workspace.read("k.xml")


def test_a_build_with_nothing_to_do_writes_them_too(who: Bench) -> None:
    directory = who.directory({"f": "1"}, "FROM scratch\nCOPY f /\n")
    for name in ("1", "2"):
        who.run("build", directory, "--events", "n.jsonl")
        assert "image_built" in who.workspace.read("n.jsonl"), name
        who.workspace.path("n.jsonl").unlink()


def test_what_builds_nothing_writes_no_events(who: Bench) -> None:
    directory = who.directory({}, "FROM scratch\n")
    for flag in ("--dry-run", "--check"):
        said = who.run("build", directory, flag, "--events", "x.jsonl", expect=2).stderr
        assert "nothing is to be built" in said
