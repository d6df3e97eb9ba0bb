"""`watch` builds again what a change affects, survives mistakes, and ends cleanly."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.building import BOTH, Bench
from e2e.harness import assert_nothing_left, leftovers


class Watched:
    """A running `watch`, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        self.text = ""

    def until(self, words: str, within: float = 20.0) -> str:
        """Wait until it says `words`; return what it said since the last time."""
        end = time.monotonic() + within
        assert self._process.stderr is not None
        descriptor = self._process.stderr.fileno()
        while words not in self.text:
            left = end - time.monotonic()
            ready = left > 0 and select.select([descriptor], [], [], left)[0]
            data = os.read(descriptor, 65536) if ready else b""
            assert data, f"{words!r} was not said:\n{self.text}"
            self.text += data.decode()
        said, self.text = self.text, ""
        return said


@contextmanager
def watching(who: Bench, *words: str) -> Iterator[Watched]:
    process = who.workspace.start("watch", *words, "--progress", "plain", user=who.user)
    try:
        yield Watched(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@BOTH
def test_a_change_is_built(who: Bench) -> None:
    directory = who.directory({"f": "1", ".dockerignore": "*.swp\n"}, "FROM scratch\nCOPY . /\n")
    path = who.workspace.path(directory)
    before = leftovers()
    with watching(who, f"//{directory}") as watched:
        assert "building" in watched.until("Ctrl-C ends it")
        (path / "f").write_text("2")
        said = watched.until("Ctrl-C ends it")
        assert f"changed: {directory}/f" in said
        assert "built 1" in said
        (path / "x.swp").write_text("")
        (path / "Dockerfile").write_text("FROM scratch\nCOPPY . /\n")
        said = watched.until("Ctrl-C ends it")
        assert f"changed: {directory}/Dockerfile\n" in said, "the swap file is nobody's"
        assert "failed (exit code 2)" in said
        (path / "Dockerfile").write_text("FROM scratch\nCOPY f /g\n")
        assert "done in" in watched.until("Ctrl-C ends it")
    assert_nothing_left(before)


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_while_a_step_runs(who: Bench, busy: bool) -> None:
    command = "sleep 60" if busy else "true"
    layout = f"oci-layout://{who.layout}"
    directory = who.directory({}, f"FROM base\nRUN echo begun; {command}\n")
    who.workspace.write(
        f"{directory}/Boxfile.yaml", f"targets: {{image: {{contexts: {{base: '{layout}'}}}}}}\n"
    )
    before = leftovers()
    with watching(who, f"//{directory}") as watched:
        watched.until("begun\n" if busy else "Ctrl-C ends it")
        if busy:
            time.sleep(0.3)
    assert_nothing_left(before)
