"""Each form of a report is what its readers expect of it."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from buildgraph.cli.lint_explain import KNOWN
from buildgraph.cli.lint_report import Report, flattened, merged
from buildgraph.cli.report_github import prefix_of, write_github
from buildgraph.cli.report_json import json_value, write_json
from buildgraph.cli.report_sarif import write_sarif
from buildgraph.cli.report_text import write_text
from buildgraph.dockerfile.instructions import Warning as Finding
from buildgraph.errors import InputError, InputErrors, Location

TEXT = b"FROM scratch\nMAINTAINER x\nRUN a \\\n  b\n"
ONE = Finding(
    "MaintainerDeprecated",
    "Maintainer: 100% deprecated,\nreally",
    Location("app/Dockerfile", 2, 1, 11, "MAINTAINER x"),
    "a label says the same",
    fix='LABEL authors="x"',
    end_line=2,
)
TWO = Finding(
    "AptListsLeft", "lists stay", Location("app/Dockerfile", 3, 1, 4, "RUN a \\"), end_line=4
)
FATAL = Finding("UnusedArg", "unused", Location("b file/Dockerfile", 9), fatal=True)
ERROR = InputError("no stage 'x'", Location("app/Boxfile.yaml", 7, 3, 5, "  x: y"), "did you?")
REPORT = Report(
    (ONE, TWO, FATAL),
    (ERROR,),
    {"app/Dockerfile": TEXT, "app/Boxfile.yaml": b"x: y\n"},
    2,
    "/repo/sub",
)
CLEAN = Report((), files=3, root="/repo")


def test_text() -> None:
    text = write_text(REPORT, strict=False, color=False, env={"COLUMNS": "100"})
    assert text == (
        "warning: Maintainer: 100% deprecated,\n"
        "  really [MaintainerDeprecated]\n"
        "  --> app/Dockerfile:2:1\n"
        "   |\n"
        " 2 | MAINTAINER x\n"
        "   | ^^^^^^^^^^\n"
        "why: a label says the same\n"
        'fix: LABEL authors="x"\n'
        "\n"
        "warning: lists stay [AptListsLeft]\n"
        "  --> app/Dockerfile:3:1\n"
        "   |\n"
        " 3 | RUN a \\\n"
        "   | ^^^\n"
        "\n"
        "error: unused [UnusedArg]\n"
        "  --> b file/Dockerfile:9\n"
        "\n"
        "error: no stage 'x'\n"
        "  --> app/Boxfile.yaml:7:3\n"
        "   |\n"
        " 7 |   x: y\n"
        "   |   ^^\n"
        "hint: did you?\n"
        "\n"
        "2 errors, 2 warnings in 2 files\n"
    )
    assert write_text(CLEAN, strict=True, color=False, env={}) == "no warnings in 3 files\n"
    strict = write_text(REPORT, strict=True, color=False, env={})
    assert "warning:" not in strict
    assert strict.endswith("4 errors in 2 files\n")


def test_colour_and_safety() -> None:
    evil = Finding("R", "a\x1b[2J", Location("x\x1b[31m", 1, 1, 2, "\x1b]0;t\x07"))
    text = write_text(Report((evil,)), strict=False, color=True, env={})
    assert "\x1b[1;33mwarning:\x1b[0m" in text
    assert "\x1b[2J" not in text
    assert "\x1b]0" not in text
    assert "\x1b" not in write_text(Report((evil,)), strict=False, color=False, env={})


def test_json_is_buildx_shape() -> None:
    value = json.loads(write_json(REPORT, strict=False))
    assert value == json_value(REPORT, strict=False)
    first, second, third = value["warnings"]
    assert first == {
        "ruleName": "MaintainerDeprecated",
        "description": "a label says the same",
        "detail": "Maintainer: 100% deprecated,\nreally",
        "severity": "warning",
        "fix": 'LABEL authors="x"',
        "location": {
            "sourceIndex": 0,
            "ranges": [{"start": {"line": 2, "character": 0}, "end": {"line": 2, "character": 10}}],
        },
    }
    (place,) = second["location"]["ranges"]
    assert place == {"start": {"line": 3, "character": 0}, "end": {"line": 4, "character": 0}}
    assert "location" not in third  # its file could not be read
    assert third["severity"] == "error"
    assert [source["filename"] for source in value["sources"]] == [
        "app/Dockerfile",
        "app/Boxfile.yaml",
    ]
    assert base64.b64decode(value["sources"][0]["data"]) == TEXT
    assert value["buildError"]["message"] == "no stage 'x'"
    assert value["buildError"]["location"]["sourceIndex"] == 1
    assert json_value(CLEAN, strict=True) == {"warnings": [], "sources": []}


def check_sarif(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold what the schema of SARIF 2.1.0 demands of what we write; return the results."""
    assert value["version"] == "2.1.0"
    (run,) = value["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids))
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
    for base in run["originalUriBaseIds"].values():
        assert re.fullmatch(r"file:///(?:\S*/)?", base["uri"])
    prints = []
    for result in run["results"]:
        assert result["message"]["text"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert ids[result["ruleIndex"]] == result["ruleId"]
        for location in result.get("locations", ()):
            artifact = location["physicalLocation"]["artifactLocation"]
            assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", artifact["uri"])
            assert not artifact["uri"].startswith("/")
            assert artifact["uriBaseId"] in run["originalUriBaseIds"]
            region = location["physicalLocation"].get("region", {"startLine": 1})
            assert all(number >= 1 for number in region.values())
            assert region.get("endLine", region["startLine"]) >= region["startLine"]
            if "endColumn" in region:
                assert region["endColumn"] > region["startColumn"]
        prints += list(result.get("partialFingerprints", {}).values())
    assert len(prints) == len(set(prints))
    results: list[dict[str, Any]] = run["results"]
    return results


def test_sarif() -> None:
    value = json.loads(write_sarif(REPORT, KNOWN, strict=False, prefix="sub/"))
    results = check_sarif(value)
    assert value["runs"][0]["originalUriBaseIds"]["SRCROOT"]["uri"] == "file:///repo/"
    assert [one["level"] for one in results] == ["warning", "warning", "error", "error"]
    places = [one["locations"][0]["physicalLocation"] for one in results]
    assert [place["artifactLocation"]["uri"] for place in places] == [
        "sub/app/Dockerfile",
        "sub/app/Dockerfile",
        "sub/b%20file/Dockerfile",
        "sub/app/Boxfile.yaml",
    ]
    assert places[0]["region"] == {"startLine": 2, "startColumn": 1, "endColumn": 11}
    assert places[2]["region"] == {"startLine": 9}
    assert check_sarif(json.loads(write_sarif(CLEAN, KNOWN, strict=False, prefix=""))) == []
    nowhere = Report((), (InputError("x"),), root="/r")
    (result,) = check_sarif(json.loads(write_sarif(nowhere, KNOWN, strict=False, prefix="")))
    assert "locations" not in result


def test_fingerprints_stay_when_lines_move() -> None:
    def prints(*findings: Finding) -> list[str]:
        value = json.loads(write_sarif(Report(findings), KNOWN, strict=False, prefix=""))
        return [one["partialFingerprints"]["buildgraph/v1"] for one in check_sarif(value)]

    moved = Finding(ONE.rule, ONE.message, Location("app/Dockerfile", 8, 1, 11, "MAINTAINER x"))
    assert prints(ONE) == prints(moved)
    first, second = prints(ONE, moved)  # twice the same line, two findings
    assert first != second
    assert prints(ONE) != prints(TWO)


def test_github_annotations() -> None:
    lines = write_github(REPORT, strict=False, prefix="sub/").splitlines()
    first = "::warning file=sub/app/Dockerfile,line=2,col=1,endColumn=11,title=MaintainerDeprecated"
    last = "::error file=sub/app/Boxfile.yaml,line=7,col=3,endColumn=5,title=buildgraph"
    why = 'a label says the same%0AFix: LABEL authors="x"'
    assert lines == [
        f"{first}::Maintainer: 100%25 deprecated,%0Areally%0A{why}",
        "::warning file=sub/app/Dockerfile,line=3,endLine=4,title=AptListsLeft::lists stay",
        "::error file=sub/b file/Dockerfile,line=9,title=UnusedArg::unused",
        f"{last}::no stage 'x'%0Adid you?",
    ]
    odd = Finding("R", "a\r\nb::error::c", Location("a,b:c%", 1))
    (line,) = write_github(Report((odd,)), strict=True, prefix="").splitlines()
    assert line == "::error file=a%2Cb%3Ac%25,line=1,title=R::a%0D%0Ab::error::c"
    assert write_github(CLEAN, strict=False, prefix="") == ""


@pytest.mark.parametrize(
    ("root", "workspace", "prefix"),
    [
        ("/repo/sub", "/repo", "sub/"),
        ("/repo", "/repo", ""),
        ("/repo", "", ""),
        ("/x", "/repo", ""),
    ],
)
def test_paths_are_those_of_the_repository(root: str, workspace: str, prefix: str) -> None:
    assert prefix_of(root, {"GITHUB_WORKSPACE": workspace} if workspace else {}) == prefix


def test_findings_are_merged_and_errors_flattened() -> None:
    assert merged([TWO, ONE, ONE]) == (ONE, TWO)
    other = InputError("first", Location("a", 1))
    assert flattened([InputErrors([ERROR, other]), ERROR]) == (other, ERROR)
