"""Two images can be compared however they are named, and past builds are written down."""

from __future__ import annotations

import json

import pytest

from e2e.building import BOTH, Bench
from e2e.harness import Workspace


@BOTH
def test_two_builds_of_a_target(who: Bench) -> None:
    directory = who.directory({"f": "1\n"}, "FROM scratch\nCOPY f /f\nENV A=1\n")
    who.run("build", directory)
    path = who.workspace.path(directory)
    (path / "f").write_text("1\n\x1b]2;\x07\n")
    (path / "g").write_text("")
    (path / "Dockerfile").write_text("FROM scratch\nCOPY f g /\nENV A=2\n")
    who.run("build", directory, "-o", f"type=oci,dest={path}.oci.tar")
    who.run("build", directory, "-o", f"type=oci,tar=false,dest={path}.oci")
    target = f"//{directory}"
    said = who.run("diff", f"{target}@previous", target, "--text", expect=1).stdout
    assert "~ env A 1 -> 2" in said
    assert "+ g  -rw-r--r-- 0:0 0 B" in said
    assert "size 2 -> 8" in said
    assert "+^[]2;^G" in said
    assert "\x1b" not in said
    for other in (f"oci-archive:{path}.oci.tar", f"oci-layout://{path}.oci", f"{path}.oci"):
        assert "the same image" in who.run("diff", other, target).stdout
    value = json.loads(who.run("diff", f"{target}@previous", target, "--json", expect=1).stdout)
    assert [(f["path"], f["change"]) for f in value["files"]] == [("f", "changed"), ("g", "added")]
    assert value["files"][1]["after"]["digest"].startswith("sha256:e3b0c4")
    assert value["same"] is False

    rows = [json.loads(x) for x in who.run("history", target, "--json").stdout.splitlines()]
    assert len(rows) == 2, "builds that made nothing new are not listed"
    assert rows[0]["digest"] == value["after"]["digest"]
    assert rows[0]["first_miss"].startswith("COPY")
    assert rows[1]["reason"] == "not built here before"
    assert "CREATED BY" in who.run("history", "--image", f"{path}.oci.tar").stdout
    assert "COPY f /f" in who.run("history", "--image", f"{target}@previous").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("diff", "//app", "//app@previous"), "no image of //app before the last one"),
        (("diff", "//app", "//other"), "//other has no image in the store"),
        (("diff", "//app", "//nowhere"), "there is no directory 'nowhere'"),
        (("diff", "//app", "x.tar"), "x.tar is no OCI archive"),
        (("diff", "//app", "//..."), "one image is wanted here"),
        (("history", "//other"), "no build of //other is written down"),
    ],
)
def test_what_is_not_there_is_said(
    compared: Workspace, words: tuple[str, ...], message: str
) -> None:
    result = compared.run(*words, expect=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def compared() -> object:
    with Workspace() as made:
        made.write("Boxfile.yaml", "workspace: {name: w}\n")
        made.write("app/Dockerfile", "FROM scratch\nENV A=1\n")
        made.write("other/Dockerfile", "FROM scratch\n")
        made.write("x.tar", b"nothing")
        made.run("build", "//app")
        yield made


def test_a_collection_leaves_the_history_and_says_what_is_gone(workspace: Workspace) -> None:
    workspace.write("Boxfile.yaml", "workspace: {name: w}\n")
    workspace.write("app/f", "1")
    workspace.write("app/Dockerfile", "FROM scratch\nCOPY f /\n")
    workspace.run("build", "//app")
    workspace.write("app/f", "2")
    workspace.run("build", "//app")
    workspace.run("diff", "//app@previous", "//app", expect=1)
    workspace.run("cache", "gc")
    assert len(workspace.run("history", "//app", "--json").stdout.splitlines()) == 2
