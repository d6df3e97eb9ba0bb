"""Holds that a build says something before it loads what it needs: counted in modules, since no
clock may fail a test."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from buildgraph import __version__
from buildgraph.cli.first_word import greet
from e2e.harness import HEAVY


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    return tmp_path


def _command(context: Path, *words: str) -> list[str]:
    return ["-m", "buildgraph", "build", "--store", str(context / "s"), *words, str(context)]


def test_a_log_begins_before_anything_is_loaded(context: Path) -> None:
    command = [sys.executable, "-X", "importtime", *_command(context)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    before, found, after = done.stderr.partition(
        f"buildgraph {__version__}, store {context / 's'}\n"
    )
    assert found
    loaded = {line.rpartition("|")[2].strip() for line in before.splitlines()}
    assert "buildgraph.cli.first_word" in loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert "click" in after


def test_a_terminal_gets_a_word_that_the_next_line_covers(context: Path) -> None:
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, *_command(context)], env=environ, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:
            pass  # the other end is gone
    os.close(ours)
    assert process.returncode == 0
    word, rest = shown[:8], shown[8:]
    assert word == b"loading\r"
    assert all(len(line) > len(word) for line in rest.replace(b"\x1b[2K", b"").splitlines() if line)


@pytest.mark.parametrize(
    "words",
    [
        ["build", "-q", "//:image"],
        ["build", "-kq"],
        ["build", "--progress=json"],
        ["build", "--progress", "quiet"],
        ["build", "--call=outline", "."],
        ["build", "--help"],
        ["test", "--json"],
        ["list"],
        ["run", "//:image"],
        [],
    ],
)
def test_nothing_is_said_where_something_else_is_asked_for(
    words: list[str], tmp_path: Path
) -> None:
    with (tmp_path / "err").open("w+") as err:
        greet(words, {}, err.fileno())
        assert not err.tell()


def test_a_variable_can_ask_for_silence_too(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w+") as err:
        greet(["build", "."], {"BUILDKIT_PROGRESS": "rawjson"}, err.fileno())
        assert not err.tell()
        greet(["build", "."], {}, err.fileno())
        assert (tmp_path / "err").read_text().startswith("buildgraph ")
