"""A shell completes commands, options and labels, and asks no Boxfile that it need not ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from e2e.harness import Workspace, clean_environment, me

_DRIVER = r"""
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
source <(buildgraph completion bash)
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE}
    COMP_WORDS=(buildgraph)
    _buildgraph
    printf '%s' "$COMP_LINE>"
    printf ' %s' "${COMPREPLY[@]}"
    printf '\n'
done
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Workspace]:
    with Workspace() as made:
        made.write(
            "Boxfile.yaml",
            "workspace: {name: w}\ntargets: {every: {rule: group, targets: ['//...']}}\n",
        )
        made.write("app/api/Dockerfile", "FROM scratch\n")
        made.write(
            "app/api/Boxfile.yaml", "targets:\n  debug: {doc: with tools, dockerfile: Dockerfile}\n"
        )
        made.write("broken/Boxfile.yaml", "targets: [\n")
        made.write("lib/Dockerfile", "FROM scratch\n")
        made.write("node_modules/x/Dockerfile", "FROM scratch\n")
        yield made


@pytest.fixture(scope="module")
def environment(place: Workspace) -> dict[str, str]:
    bin_directory = place.top / "bin"
    bin_directory.mkdir()
    program = bin_directory / "buildgraph"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m buildgraph "$@"\n')
    program.chmod(0o755)
    base: dict[str, str] = clean_environment(me())
    return base | {"PATH": f"{bin_directory}{os.pathsep}{base.get('PATH', os.defpath)}"}


LINES = {
    "buildgraph bui": "build",
    "buildgraph build //a": "//app/",
    "buildgraph build //app/": "//app/... //app/api:",
    "buildgraph build //app/api:": "debug",
    "buildgraph build -k //app/api:d": "debug",
    "buildgraph build //n": "",
    "buildgraph build -//li": "-//lib",
    "buildgraph build --progress q": "quiet",
    "buildgraph build --progress=q": "quiet",
    "buildgraph build --keep-g": "--keep-going",
    "buildgraph build --keep-going //li": "//lib",
    "buildgraph test //broken:": "",
    "buildgraph cache g": "gc",
    "buildgraph build ev": "every",
    "buildgraph login x": "",
    "buildgraph build 'x": "",
}


def test_bash(place: Workspace, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", _DRIVER],
        input="".join(f"{line}\n" for line in LINES),
        cwd=place.root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said = dict(line.split(">", 1) for line in done.stdout.splitlines())
    assert {line: words.strip() for line, words in said.items()} == LINES
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_parse(place: Workspace, shell: str) -> None:
    script = place.run("completion", shell).stdout
    assert "__complete" in script
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"machine: {shell} is not installed")
    subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=20)


def test_in_a_subdirectory_and_outside_of_any_workspace(
    place: Workspace, environment: dict[str, str]
) -> None:
    said = place.run("__complete", "fish", "buildgraph build :", cwd="app/api").stdout
    assert said.splitlines() == [":debug\twith tools"]
    assert (
        place.run("__complete", "fish", "buildgraph build //x/y/", cwd="app").stdout
        == "//x/y/...\tall targets here and below\n"
    )
    assert place.run("__complete", "bash").code == 0
