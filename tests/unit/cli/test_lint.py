"""`lint` reads what is meant as a build would, runs every check on it, and names what it cannot."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from buildgraph.boxfile.lint import EXAMPLES as BOXFILE_EXAMPLES
from buildgraph.cli.lint_build import findings, last_line, refuse
from buildgraph.cli.lint_explain import KNOWN
from buildgraph.cli.lint_inputs import Reader, Subjects, read_words, workspace_of
from buildgraph.cli.lint_report import Report
from buildgraph.cli.lint_run import run_lint
from buildgraph.dockerfile.checks_examples import EXAMPLES
from buildgraph.dockerfile.rules import REASONS
from buildgraph.engine.prepare import Overrides
from buildgraph.errors import BuildFailed, InputError
from buildgraph.graph.lint_rules import RULES
from buildgraph.oci.types import Platform

HOST = Platform("linux", "amd64")
Files = dict[str, str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(files: Files) -> None:
    Path("Boxfile.yaml").write_text("workspace: {name: w}\n")
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def reader(words: tuple[str, ...], **overrides: Any) -> tuple[Reader, str]:
    workspace, package = workspace_of(words, os.getcwd())
    return Reader(workspace, HOST, Overrides(**overrides)), package


def subjects(*words: str, file: str | None = None, **overrides: Any) -> Subjects:
    made, package = reader(words, **overrides)
    return read_words(made, package, words, file)


def lint(*words: str, file: str | None = None, skip: tuple[str, ...] = (), **more: Any) -> Report:
    made, package = reader(words, **more)
    found = read_words(made, package, words, file)
    return run_lint(made, found, skip=skip, stage=more.get("stage"))


def fired(*words: str, **more: Any) -> list[tuple[str, str, int]]:
    report = lint(*words, **more)
    assert not report.errors, report.errors
    return [(one.rule, one.where.path, one.where.line) for one in report.findings]


MAINTAINER = "FROM scratch\nMAINTAINER x\n"


# --- what is meant ------------------------------------------------------------------------------


def test_words() -> None:
    write(
        {
            "a/Dockerfile": MAINTAINER,
            "a/b/Dockerfile": MAINTAINER,
            "c/Boxfile.yaml": "targets:\n  image: {dockerfile: Own}\n  group: {rule: group, targets: [//a]}\n",
            "c/Own": MAINTAINER,
            "d/Dockerfile.dev": MAINTAINER,
        }
    )

    def paths(*words: str) -> list[str]:
        return [path for _, path, _ in fired(*words)]

    everything = ["a/Dockerfile", "a/b/Dockerfile", "c/Own"]
    assert paths() == everything
    assert paths("//...") == everything
    assert paths("//a/...") == everything[:2]
    assert paths("a") == everything[:1]
    assert paths("//a/b:image") == everything[1:2]
    assert paths("//c:group") == everything[:1]
    assert paths("c/Own") == paths("c/Boxfile.yaml")[1:] == ["c/Own"]
    assert paths("d/Dockerfile.dev") == ["d/Dockerfile.dev"]
    assert paths("a/Dockerfile", "d/Dockerfile.dev") == ["a/Dockerfile", "d/Dockerfile.dev"]
    os.chdir("a")
    assert paths() == everything[:2]
    os.chdir("../d")
    assert lint().errors[0].message == "'//d/...' matches no target"


def test_a_directory_without_targets_means_those_below() -> None:
    write({"x/a/Dockerfile": MAINTAINER, "x/b/Dockerfile": MAINTAINER})
    assert len(fired("x")) == 2


def test_a_directory_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    write({})
    other = tmp_path_factory.mktemp("other")
    (other / "Dockerfile").write_text(MAINTAINER)
    assert fired(str(other)) == [("MaintainerDeprecated", "Dockerfile", 2)]
    assert fired(str(other / "Dockerfile")) == [("MaintainerDeprecated", f"{other}/Dockerfile", 2)]


def test_workspaces_inside_and_plain_directories() -> None:
    write({"in/Boxfile.yaml": "workspace: {name: inner}\n", "in/a/Dockerfile": MAINTAINER})
    assert fired("in/a/Dockerfile") == [("MaintainerDeprecated", "in/a/Dockerfile", 2)]
    assert fired("in") == [("MaintainerDeprecated", "a/Dockerfile", 2)]
    os.remove("Boxfile.yaml")
    write_alone = Path("plain/Dockerfile")
    write_alone.parent.mkdir()
    write_alone.write_text(MAINTAINER)
    assert fired("plain") == [("MaintainerDeprecated", "plain/Dockerfile", 2)]


def test_a_file_with_a_context() -> None:
    write({"x.Dockerfile": "FROM scratch\nCOPY a.md /\n", "ctx/.dockerignore": "*.md\n"})
    assert fired(file="x.Dockerfile") == []  # nobody knows its context
    assert fired("ctx", file="x.Dockerfile") == [("CopyIgnoredFile", "x.Dockerfile", 2)]
    with pytest.raises(InputError, match="one PATH"):
        lint("//x", file="x.Dockerfile")


def test_errors_are_collected_and_the_rest_is_checked() -> None:
    write(
        {
            "a/Dockerfile": "FROM scratch\nRNU x\nCOPPY\n",
            "b/Dockerfile": MAINTAINER,
            "c/Boxfile.yaml": "targets: {image: {stage: tset}}\n",
            "c/Dockerfile": "FROM scratch AS test\n",
            "d/Dockerfile": "# syntax=example.com/x\nFROM scratch\n",
        }
    )
    report = lint()
    assert [(e.where.path, e.where.line) for e in report.errors if e.where] == [
        ("a/Dockerfile", 2),
        ("a/Dockerfile", 3),
        ("c/Boxfile.yaml", 1),
        ("d/Dockerfile", 1),
    ]
    assert [one.rule for one in report.findings] == ["MaintainerDeprecated"]
    assert report.errors[2].hint == "did you mean 'test'?"
    assert report.exit_code(strict=False) == 2


def test_exit_codes() -> None:
    write({"Dockerfile": MAINTAINER})
    assert (lint().exit_code(strict=False), lint().exit_code(strict=True)) == (0, 1)
    write({"Dockerfile": "# check=error=true\n" + MAINTAINER})
    assert lint().exit_code(strict=False) == 1
    write({"Dockerfile": "# check=error=true\nFROM scratch\n"})
    assert lint().exit_code(strict=True) == 0


# --- what is checked ----------------------------------------------------------------------------


def test_skipping_from_outside() -> None:
    write({"Dockerfile": MAINTAINER + "CMD x\n"})
    rules = [rule for rule, _, _ in fired()]
    assert rules == ["MaintainerDeprecated", "JSONArgsRecommended"]
    assert [rule for rule, _, _ in fired(skip=("MaintainerDeprecated",))] == rules[1:]
    assert fired(skip=("all",)) == []
    args = (("BUILDKIT_DOCKERFILE_CHECK", "skip=JSONArgsRecommended"),)
    assert [rule for rule, _, _ in fired(args=args)] == rules[:1]


def test_every_stage_or_what_one_needs() -> None:
    text = "FROM scratch AS a\nMAINTAINER x\nFROM a AS b\nMAINTAINER y\nFROM scratch AS c\nMAINTAINER z\n"
    write({"Dockerfile": text})
    assert [line for _, _, line in fired()] == [2, 4, 6]
    assert [line for _, _, line in fired(stage="b")] == [2, 4]
    assert [line for _, _, line in fired(stage="C")] == [6]
    report = lint(stage="cc")
    assert report.errors[0].hint == "did you mean 'c'?"


def test_one_file_of_several_targets_is_reported_once() -> None:
    boxfile = "targets:\n  a: {dockerfile: D}\n  b: {dockerfile: D, stage: y}\n"
    write({"x/Boxfile.yaml": boxfile, "x/D": "FROM scratch AS y\nMAINTAINER x\nFROM y\n"})
    assert fired() == [("MaintainerDeprecated", "x/D", 2)]


def test_targets_choose_stages() -> None:
    text = "FROM scratch AS x\nCOPY a /\nFROM scratch AS y\nCOPY a /\nFROM scratch AS z\nCOPY a /\n"
    boxfile = "targets:\n  a: {dockerfile: D}\n  b: {dockerfile: D, stage: y}\n"
    write({"p/Boxfile.yaml": boxfile, "p/D": text})
    assert fired() == [("UnusedStage", "p/D", 1)]
    assert fired("p") == []  # somebody else may build it


def test_bases_that_are_targets_complete_what_is_known() -> None:
    write(
        {
            "base/Dockerfile": "FROM scratch\nENV HOME_DIR=/home\n",
            "mid/Boxfile.yaml": 'targets: {image: {contexts: {base: "//base"}}}\n',
            "mid/Dockerfile": "FROM base\nENV MID=1\nFROM base AS last\nENV LAST=$HOME_DIR\n",
            "app/Boxfile.yaml": 'targets: {image: {contexts: {mid: "//mid"}}}\n',
            "app/Dockerfile": "FROM mid\nWORKDIR $HOME_DIR\nUSER $LAST$LASST\n",
        }
    )
    assert fired("app") == [("UndefinedVar", "app/Dockerfile", 3)]
    (one,) = lint("app").findings
    assert one.message.endswith("(did you mean $LAST?)")


def layout(directory: Path, architecture: str, env: list[str]) -> None:
    """Write an OCI layout with one image that has no layers."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(value: Any, kind: str) -> dict[str, Any]:
        data = json.dumps(value).encode()
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    image = "application/vnd.oci.image"
    config = {
        "os": "linux",
        "architecture": architecture,
        "config": {"Env": env},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{image}.manifest.v1+json",
        "config": put(config, f"{image}.config.v1+json"),
        "layers": [],
    }
    index = {"schemaVersion": 2, "manifests": [put(manifest, f"{image}.manifest.v1+json")]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def test_bases_in_layouts(tmp_path: Path) -> None:
    for name, architecture in (("right", "amd64"), ("wrong", "arm64")):
        layout(tmp_path / "layouts" / name, architecture, ["KNOWN=1"])
        boxfile = f'targets: {{image: {{contexts: {{base: "oci-layout://../layouts/{name}"}}}}}}\n'
        write({f"{name}/Boxfile.yaml": boxfile, f"{name}/Dockerfile": "FROM base\nUSER $KNOWN$X\n"})
    assert fired("right") == [("UndefinedVar", "right/Dockerfile", 2)]
    assert fired("wrong") == [
        ("InvalidBaseImagePlatform", "wrong/Dockerfile", 1),
        ("UndefinedVar", "wrong/Dockerfile", 2),
    ]
    (one, _) = lint("wrong").findings
    assert one.message == (
        "Base image base was pulled with platform 'linux/arm64', expected 'linux/amd64'"
    )
    write({"wrong/Dockerfile": "# check=skip=InvalidBaseImagePlatform\nFROM base\n"})
    assert fired("wrong") == []


def test_ignored_sources() -> None:
    write(
        {
            "Dockerfile": "FROM scratch\nARG F=b.md\nCOPY a.txt a.md $F /x/\nADD docs/ /d\n"
            "COPY --from=x a.md /\nCOPY . /\n# check=skip=CopyIgnoredFile\nCOPY a.md /\n",
            ".dockerignore": "*.md\ndocs\n",
        }
    )
    assert fired() == [
        ("CopyIgnoredFile", "Dockerfile", 3),
        ("CopyIgnoredFile", "Dockerfile", 3),
        ("CopyIgnoredFile", "Dockerfile", 4),
    ]
    found = lint().findings
    assert [one.where.column for one in found] == [1, 12, 5]  # $F is not there to be marked
    assert found[1].fix == "add the line '!a.md' below '*.md' in .dockerignore"
    write({".dockerignore": "*.md\n!a.md\n"})
    assert fired() == []
    write({".dockerignore": "*\n", "Dockerfile.dockerignore": "\n"})
    assert fired() == []


def test_secrets_among_what_is_copied() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nx\n"
    write(
        {
            "Dockerfile": "FROM scratch\nCOPY --exclude=ex . /x\nCOPY src/*.pem /y/\nCOPY src/a.txt /\n",
            "deploy.key": key,
            "src/server.pem": key,
            "src/ca.pem": "-----BEGIN CERTIFICATE-----\n",
            "src/a.txt": "x",
            "ex/other.key": key,
            "ignored.key": key,
            ".dockerignore": "ignored.*\n",
        }
    )
    found = lint().findings
    assert [(one.rule, one.where.line) for one in found] == [
        ("SecretFileInLayer", 2),
        ("SecretFileInLayer", 3),
    ]
    assert (
        "brings deploy.key (a private key), src/server.pem (a private key) into" in found[0].message
    )
    assert "brings src/server.pem (a private key) into" in found[1].message
    assert fired(skip=("SecretFileInLayer",)) == []


def test_inline_dockerfiles_are_placed_in_the_boxfile() -> None:
    boxfile = (
        "targets:\n  a:\n    dockerfile_inline: |\n"
        "      FROM scratch\n      # c\n      COPY <<E /x\n      $UNKNOWN\n      E\n      MAINTAINER x\n"
    )
    write({"x/Boxfile.yaml": boxfile})
    assert fired() == [
        ("UndefinedVar", "x/Boxfile.yaml", 6),
        ("MaintainerDeprecated", "x/Boxfile.yaml", 9),
    ]
    first, second = lint().findings
    assert (first.end_line, second.where.column) == (8, 7)


def test_boxfile_rules_are_among_the_rest() -> None:
    boxfile = "# x\ntargets:\n  image:\n    # check=skip=BoxfileUnusedArg\n    args: {A: x}\n  b:\n    args: {B: x}\n"
    write({"x/Boxfile.yaml": boxfile, "x/Dockerfile": "FROM scratch\n"})
    assert fired() == [("BoxfileUnusedArg", "x/Boxfile.yaml", 7)]
    assert fired(skip=("BoxfileUnusedArg",)) == []
    write({"x/Boxfile.yaml": "# check=skip=all\n" + boxfile})
    assert fired() == []


def test_unknown_rules_are_named_unless_any_kind_of_rule_has_that_name() -> None:
    known = ",".join(KNOWN)
    write({"Dockerfile": f"# check=skip={known},Nonsense;experimental=all\nFROM scratch\n"})
    assert fired() == []  # it skips this one too
    write({"Dockerfile": "# check=skip=AptListLeft\nFROM scratch\n"})
    assert fired() == [("UnknownRule", "Dockerfile", 1)]


def test_every_rule_has_an_example() -> None:
    assert set(KNOWN) == {*REASONS, *RULES, *BOXFILE_EXAMPLES}
    assert set(EXAMPLES) == set(REASONS)
    for name, rule in KNOWN.items():
        assert rule.id == name
        assert rule.reason
        assert "\n" not in rule.reason
        assert rule.reason[-1] != "."


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_of_buildkits_rules(name: str) -> None:
    if name == "InvalidBaseImagePlatform":
        return  # its example is about an image
    bad, good = EXAMPLES[name]
    files = {".dockerignore": "*.md\n"}
    write(files | {"Dockerfile": bad.replace("  # and .dockerignore has *.md", "")})
    assert name in [rule for rule, _, _ in fired()]
    write({"Dockerfile": good})
    assert fired() == []


def test_the_example_of_a_secret() -> None:
    write({"Dockerfile": "FROM alpine\nCOPY . /app\n", ".git-credentials": "https://a:b@c\n"})
    assert fired() == [("SecretFileInLayer", "Dockerfile", 2)]
    write({"Dockerfile": RULES["SecretFileInLayer"].good})
    assert fired() == []


# --- what a build says --------------------------------------------------------------------------


def test_the_last_line_of_a_build() -> None:
    write({"Dockerfile": "FROM scratch AS a\nMAINTAINER a\nFROM scratch AS b\nMAINTAINER b\n"})
    inputs = [one.input for one in subjects().found]
    # Only what is built is spoken of.
    assert last_line(findings(inputs)) == "1 warning found (buildgraph lint or --check shows them)"
    write({"Dockerfile": "FROM scratch\n"})
    assert last_line(findings([one.input for one in subjects().found])) == ""


def test_a_build_is_refused_where_the_file_asks_for_it() -> None:
    def refused(text: str, **more: Any) -> str:
        write({"Dockerfile": text})
        try:
            refuse([one.input for one in subjects(**more).found])
        except BuildFailed as error:
            assert error.where is not None
            return f"{error.where.line} {error.message}"
        return ""

    assert refused(MAINTAINER) == ""
    assert refused("# check=error=true\n" + MAINTAINER).startswith("3 1 check failed")
    assert refused("# check=error=false\n" + MAINTAINER) == ""
    assert refused("# check=skip=MaintainerDeprecated;error=true\n" + MAINTAINER) == ""
    # What docker builds is built: our own rules refuse nothing.
    own = "# check=error=true\nFROM scratch\nRUN pip install x\nRUN apt-get update\n"
    assert refused(own) == ""
    args = (("BUILDKIT_DOCKERFILE_CHECK", "error=true"),)
    assert refused(MAINTAINER, args=args) != ""
    # Stages that are not built are not in the way.
    assert refused("# check=error=true\nFROM scratch AS a\nMAINTAINER x\nFROM scratch\n") == ""
