"""Knows what `lint` and `build --check` print and exit with; must not know how they find it."""

from __future__ import annotations

import json

from e2e.building import BOTH, Bench
from e2e.harness import Workspace

WARNING = "FROM base\nCOPY f /f\nCMD echo hello\n"


@BOTH
def test_lint_says_where_why_and_what_to_write(who: Bench) -> None:
    directory = who.directory({"f": "f", "Dockerfile": WARNING})
    said = who.run("lint", directory)
    assert said.stderr == ""
    assert said.stdout == (
        "warning: JSON arguments recommended for CMD to prevent unintended behavior related to OS "
        "signals [JSONArgsRecommended]\n"
        f"  --> {directory}/Dockerfile:3:1\n"
        "   |\n"
        " 3 | CMD echo hello\n"
        "   | ^^^\n"
        "why: a shell in between does not pass signals on to the program\n"
        'fix: CMD ["echo", "hello"]\n'
        "\n"
        "1 warning in 1 file\n"
    )
    who.run("lint", directory, "--strict", expect=1)
    who.run("lint", directory, "--skip", "JSONArgsRecommended", "--strict")
    typo = who.run("lint", directory, "--skip", "JSONArgRecommended", expect=2)
    assert "did you mean 'JSONArgsRecommended'?" in typo.stderr
    broken = who.directory({"Dockerfile": "FROM base\nRNU x\n"})
    said = who.run("lint", broken, expect=2)
    assert "did you mean 'RUN'?" in said.stdout


def test_lint_speaks_to_programs(root_bench: Bench) -> None:
    directory = root_bench.directory({"f": "f", "Dockerfile": WARNING})
    value = json.loads(root_bench.run("lint", directory, "--format", "json").stdout)
    (warning,) = value["warnings"]
    assert warning["ruleName"] == "JSONArgsRecommended"
    assert warning["location"]["ranges"][0]["start"]["line"] == 3
    sarif = json.loads(root_bench.run("lint", directory, "--format", "sarif").stdout)
    assert sarif["runs"][0]["results"][0]["ruleId"] == "JSONArgsRecommended"
    top = {"GITHUB_WORKSPACE": str(root_bench.workspace.root)}
    said = root_bench.run("lint", directory, "--format", "github", env=top)
    assert said.stdout.startswith(f"::warning file={directory}/Dockerfile,line=3,col=1,")
    assert "JSONArgsRecommended" in root_bench.run("lint", "--list").stdout
    said = root_bench.run("lint", "--explain", "AptListsLeft")
    assert "rm -rf /var/lib/apt/lists/*" in said.stdout


def test_build_looks_instead_of_building(root_bench: Bench) -> None:
    text = (
        "# VERSION of it\nARG VERSION=1\n# app runs\nFROM base AS app\nARG VERSION\n" + WARNING[10:]
    )
    directory = root_bench.directory({"f": "f", "Dockerfile": text})
    base = root_bench.base([])
    said = root_bench.run("build", *base, "--check", directory)
    assert "[JSONArgsRecommended]" in said.stdout
    said = root_bench.run("build", *base, "--call=check,format=json", directory)
    assert json.loads(said.stdout)["warnings"]
    said = root_bench.run("build", *base, "--call", "outline", "--build-arg=VERSION=2", directory)
    assert said.stdout == (
        "TARGET:      app\nDESCRIPTION: runs\n\n"
        "BUILD ARG  VALUE  DESCRIPTION\nVERSION    2      of it\n"
    )
    said = root_bench.run("build", *base, "--call=targets", directory)
    assert said.stdout == "TARGET         DESCRIPTION\napp (default)  runs\n"
    said = root_bench.run("build", *base, "--call=target", directory, expect=2)
    assert "did you mean 'targets'?" in said.stderr


@BOTH
def test_a_build_counts_its_warnings_once(who: Bench) -> None:
    directory = who.directory({"f": f"asked by {who.user}", "Dockerfile": WARNING})
    words = ("build", *who.base([]), directory, "--progress=plain")
    line = "1 warning found (buildgraph lint or --check shows them)"
    assert line in who.run(*words).stderr
    assert line not in who.run(*words).stderr  # nothing was built
    quiet = who.directory({"f": "g", "Dockerfile": WARNING})
    said = who.run("build", *who.base([]), quiet, "-q")
    assert said.stderr == ""


def test_a_file_may_ask_to_be_refused(root_bench: Bench) -> None:
    text = "# check=error=true\n" + WARNING
    said = root_bench.fail(text, {"f": "f"}, expect=1)
    assert "JSONArgsRecommended" in said.stderr
    assert "Dockerfile:4:1" in said.stderr
    given = "BUILDKIT_DOCKERFILE_CHECK=skip=JSONArgsRecommended"
    root_bench.build(text, {"f": "f"}, "--build-arg", given)


def test_an_unknown_frontend_is_named(root_bench: Bench) -> None:
    text = "# syntax=example.com/front:1\nFROM base\n"
    said = root_bench.fail(text)
    assert "the frontend 'example.com/front:1', which is not fetched" in said.stderr
    assert "Dockerfile:1:10" in said.stderr
    root_bench.build(text, {}, "--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1")
    root_bench.build("# syntax=docker/dockerfile:1-labs\nFROM base\n")


def test_what_a_rule_of_the_library_does_is_not_its_users_to_mend(workspace: Workspace) -> None:
    workspace.write("Boxfile.yaml", "targets: {image: {rule: c_binary}}\n")
    workspace.write("hello.c", "int main(void) { return 0; }\n")
    assert workspace.run("lint").stdout.startswith("no warnings in ")
