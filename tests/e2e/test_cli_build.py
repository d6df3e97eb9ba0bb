"""Knows what `build` and its kin print, write and exit with; must not know how."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from e2e.building import BOTH, Bench, interpreter
from e2e.harness import clean_environment, me
from e2e.images import flatten, listing, read_archive, read_layout

TWO = "FROM base\nCOPY f /f\nRUN rm /bin/vi && echo made >/made && ln /made /hard && ln -s made /soft\n"


@BOTH
def test_every_form_of_output_is_the_same_image(who: Bench) -> None:
    directory = who.directory({"f": "f"}, TWO)
    top = who.workspace.path(directory + "-out")
    top.mkdir()
    top.chmod(0o777)
    outputs = {
        "layout": f"type=oci,tar=false,dest={top}/layout",
        "archive": f"type=oci,dest={top}/a.tar",
        "docker": f"type=docker,dest={top}/d.tar",
        "tar": f"type=tar,dest={top}/root.tar",
        "local": str(top / "root"),
        "nothing": "type=cacheonly",
    }
    words = [word for value in outputs.values() for word in ("-o", value)]
    files = ["--iidfile", f"{top}/iid", "--metadata-file", f"{top}/meta.json"]
    said = who.run(
        "build",
        *who.base([]),
        directory,
        *words,
        *files,
        "-t",
        "example.com/x:1",
        "--progress=json",
    )
    (digest,) = said.digests.values()
    layout, archive = read_layout(top / "layout"), read_archive(top / "a.tar")
    docker = read_archive(top / "d.tar")
    assert layout == archive
    assert docker.document == layout.document
    assert docker.layers == layout.layers
    with tarfile.open(top / "d.tar") as file:
        reader = file.extractfile("manifest.json")
        assert reader is not None
        (entry,) = json.load(reader)
    assert entry["RepoTags"] == ["example.com/x:1"]
    tree = flatten([(top / "root.tar").read_bytes()])
    assert listing(tree) == listing(layout.tree)
    assert (top / "root/made").read_text() == "made\n"
    assert (top / "root/hard").stat().st_ino == (top / "root/made").stat().st_ino
    assert not (top / "root/bin/vi").is_symlink()
    assert (top / "iid").read_text() == layout.manifest["config"]["digest"]  # as docker's image id
    meta = json.loads((top / "meta.json").read_text())
    assert meta["containerimage.digest"] == digest
    assert meta["containerimage.descriptor"]["digest"] == digest
    assert meta["containerimage.config.digest"] == layout.manifest["config"]["digest"]
    assert meta["image.name"] == "example.com/x:1"
    index = json.loads((top / "layout/index.json").read_text())
    assert index["manifests"][0]["digest"] == digest


@pytest.mark.parametrize("compression", ["gzip", "zstd", "uncompressed"])
def test_compressions_hold_the_same_layers(root_bench: Bench, compression: str) -> None:
    directory = root_bench.directory({"f": "f"}, TWO)
    archive = root_bench.workspace.path(f"{directory}.tar")
    words = [directory, "-o", f"type=oci,dest={archive},compression={compression}"]
    root_bench.run("build", *root_bench.base(words), *words)
    image = read_archive(archive)
    kinds = {layer["mediaType"].rpartition(".")[2] for layer in image.manifest["layers"]}
    ends = {"gzip": "tar+gzip", "zstd": "tar+zstd", "uncompressed": "tar"}
    # A base's blob stays as it was pulled: here, an uncompressed one.
    assert {kind.partition("+")[2] for kind in kinds} <= {ends[compression].partition("+")[2], ""}
    assert image.tree["made"].content == b"made\n"


def test_a_tar_to_stdout_has_nothing_else_in_it(root_bench: Bench) -> None:
    directory = root_bench.directory({"f": "f"}, "FROM scratch\nCOPY f /\n")
    for flag in ("-", "type=tar,dest=-", "type=oci,dest=-", "type=docker,dest=-"):
        done = subprocess.run(
            [interpreter(), "-m", "buildgraph", "build", directory, "-o", flag],
            cwd=root_bench.workspace.root,
            env=clean_environment(me()) | {"BUILDGRAPH_STORE": str(root_bench.workspace.store())},
            capture_output=True,
            check=True,
        )
        path = root_bench.workspace.path(f"{directory}.stdout")
        path.write_bytes(done.stdout)
        with tarfile.open(path) as archive:
            assert archive.getmembers()


def test_quiet_prints_the_digest_alone(root_bench: Bench) -> None:
    directory = root_bench.directory({"f": "f"}, "FROM scratch\nCOPY f /q\n")
    said = root_bench.run("build", "-q", directory)
    assert said.stdout.startswith("sha256:")
    assert (said.stdout.count("\n"), said.stderr) == (1, "")
    assert root_bench.run("build", "-q", directory).stdout == said.stdout


def test_results_go_to_stdout_and_the_rest_to_stderr(root_bench: Bench) -> None:
    directory = root_bench.directory({"f": "f"}, "FROM base\nRUN echo loud-output\n")
    words = [directory]
    said = root_bench.run("build", *root_bench.base(words), *words)
    assert "loud-output" in said.stderr
    assert "\033" not in said.stderr
    (line,) = said.stdout.splitlines()
    assert line.startswith(f"//{directory}:image sha256:")


def test_keep_going_builds_what_can_be_built(root_bench: Bench) -> None:
    top = root_bench.directory(
        {
            "Boxfile.yaml": "workspace: {name: w}\n",
            "a/Dockerfile": "FROM scratch\nCOPY missing /\n",
            "b/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
            "c/Boxfile.yaml": 'targets: {image: {dockerfile_inline: "FROM x", contexts: {x: "//a"}}}\n',
        }
    )
    said = root_bench.run("build", "-k", "//...", "--progress", "json", cwd=top, expect=2)
    assert list(said.digests) == ["//b:image"]
    assert "'missing' not found" in said.stderr
    assert root_bench.run("build", "//b", "--progress", "json", cwd=top).built == []


def test_docker_habits(root_bench: Bench, tmp_path: Path) -> None:
    directory = root_bench.directory(
        {"f": "f", "Other": "FROM scratch\nCOPY f /other\n"}, "FROM scratch\nCOPY f /\n"
    )
    assert root_bench.build_in(".", cwd=directory).has("f")
    assert root_bench.build_in(directory, "-f", f"{directory}/Other").has("other")
    assert root_bench.build_in(str(root_bench.workspace.path(directory))).has("f")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Dockerfile").write_text("FROM scratch\nCOPY g /\n")
    (outside / "g").write_text("g")
    assert root_bench.build_in(str(outside)).has("g")


EXITS = [
    (["build", "nothere"], 2, "nothere"),
    (["build", "//nothere"], 2, "nothere"),
    (["build", "--frobnicate"], 2, "frobnicate"),
    (["biuld"], 2, "did you mean"),
    (["build", "ok", "-o", "type=registry"], 2, "has no name"),
    (["build", "ok", "-o", "type=oci"], 2, "dest is missing"),
    (["build", "ok", "-o", "type=tarball,dest=x"], 2, "unknown type"),
    (["build", "ok", "-o", "type=oci,dest=/proc/x"], 3, "/proc/x"),
    (["build", "ok", "--secret", "id=x,src=/nowhere,mode=3"], 2, "--secret"),
    (["build", "ok", "--platform", "windows"], 2, "windows"),
    (["build", "ok", "--build-context", "x=nothere"], 2, "nothere"),
    (["build", "ok", "-t", "UPPER"], 2, "UPPER"),
    (["build", "ok", "--store", "/proc/store"], 3, "/proc/store"),
    (["replay", "nothing"], 2, "nothing"),
    (["explain", "nothere"], 2, "nothere"),
    (["plan", "nothere"], 2, "nothere"),
    (["build", "fails"], 1, "ended with exit code 9"),
]


@pytest.mark.parametrize(("words", "code", "message"), EXITS, ids=[" ".join(w) for w, *_ in EXITS])
def test_exit_codes_say_whose_move_it_is(
    root_bench: Bench, words: list[str], code: int, message: str
) -> None:
    ok = root_bench.directory({}, "FROM scratch\nCOPY Dockerfile /\n")
    fails = root_bench.directory({}, "FROM base\nRUN exit 9\n")
    real = [{"ok": ok, "fails": fails}.get(word, word) for word in words]
    more = root_bench.base(real) if words[0] == "build" else []
    said = root_bench.run(words[0], *more, *real[1:], expect=code)
    assert message in said.stderr
    assert "Traceback" not in said.stderr


def test_an_error_shows_the_line_with_a_caret_and_a_hint(root_bench: Bench) -> None:
    said = root_bench.fail("FROM base\nRUNN x\n").stderr.splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("error:"))
    assert said[at + 1].startswith("  --> c")
    assert said[at + 1].endswith("/Dockerfile:2:1")
    assert "RUNN x" in said[at + 3]
    assert said[at + 4].strip(" |") == "^^^^"
    assert said[at + 5] == "hint: did you mean 'RUN'?"


@BOTH
def test_run_starts_the_image(who: Bench) -> None:
    directory = who.directory(
        {
            "Dockerfile": "FROM base\nENV X=env\nWORKDIR /w\nUSER app\n"
            'ENTRYPOINT ["/bin/sh", "-c"]\nCMD ["echo $X $(pwd) $(id -u); exit 5"]\n',
            "Boxfile.yaml": "workspace: {name: w}\ntargets:\n  image:\n"
            '    contexts: {base: "oci-layout://busybox-layout"}\n',
        }
    )
    (who.workspace.path(directory) / "busybox-layout").symlink_to(who.layout)
    said = who.run("run", ":image", cwd=directory, expect=5)
    assert said.stdout == "env /w 1000\n"
    said = who.run("run", "-e", "X=cli", ":image", "--", "echo $X", cwd=directory)
    assert said.stdout == "cli\n"


def test_list_plan_and_doctor(root_bench: Bench) -> None:
    top = root_bench.directory(
        {
            "Boxfile.yaml": "workspace: {name: w}\n",
            "a/Dockerfile": "FROM scratch\nCOPY Dockerfile /x\n",
        }
    )
    assert root_bench.run("list", cwd=top).stdout.split() == ["//a", "image"]
    planned = root_bench.run("plan", "//a", cwd=top).stdout
    assert planned.startswith("build ")
    assert "COPY Dockerfile /x" in planned
    assert root_bench.run("build", "-n", "//a", cwd=top).stdout == planned
    (row,) = [
        json.loads(x) for x in root_bench.run("plan", "--json", "//a", cwd=top).stdout.splitlines()
    ]
    assert (row["verdict"], row["line"]) == ("build", 2)
    root_bench.run("build", "//a", cwd=top)
    assert "1 hit" in root_bench.run("plan", "//a", cwd=top).stdout
    assert root_bench.run("doctor", expect=None).code in (0, 3)
    assert root_bench.run("cache", "du").stdout


def test_a_reader_that_leaves_is_no_failure(root_bench: Bench) -> None:
    lines = "RUN seq 1 20000\n"
    directory = root_bench.directory({}, f"FROM base\n{lines}COPY Dockerfile /piped\n")
    command = " ".join(
        [interpreter(), "-m", "buildgraph", "build", *root_bench.base([]), directory]
    )
    for mode in ("plain", "json"):
        done = subprocess.run(
            [
                "bash",
                "-c",
                f"{command} --no-cache --progress {mode} 2>&1 | head -1; echo ${{PIPESTATUS[0]}}",
            ],
            cwd=root_bench.workspace.root,
            env=clean_environment(me()) | {"BUILDGRAPH_STORE": str(root_bench.workspace.store())},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.splitlines()[-1] in ("0", "141"), done.stdout
        assert "Traceback" not in done.stderr + done.stdout
