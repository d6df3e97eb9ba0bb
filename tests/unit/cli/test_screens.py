from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from buildgraph import events as ev
from buildgraph.cli import progress_json, progress_plain
from buildgraph.cli.progress_live import Frame, _Running, _State
from buildgraph.cli.screen import make_listener
from buildgraph.errors import BuildFailed, InputError, InputErrors, Interrupted, Location

DIGEST = "sha256:" + "ab" * 32
WHERE = Location("app/Dockerfile", 3, 1, 9, "RUN make")
FAILURE = BuildFailed("RUN make said no", WHERE, label="//app:image", log=("bad",), replay="r 1")
ENV = {"COLUMNS": "100", "TERM": "xterm"}


def story(ok: bool = True) -> Iterator[ev.Event]:
    yield ev.BuildStarted(0.0, ("//app:image",), 4, "/store")
    yield ev.NodeFinished(0.1, 1, "//app:image", "FROM base", True, 9.0)
    yield ev.NodeStarted(
        0.1, 2, "//app:image", "RUN make", reason="src/main.c changed", where=WHERE
    )
    yield ev.NodeOutput(0.5, 2, b"hello\xc3")
    yield ev.NodeOutput(0.6, 2, b"\xa9 \x1b[2J\r\n1%\r2%\r100%\n::error::x\nno end")
    yield ev.NodeProgress(0.7, 2, "fetch x", 10, 20)
    yield ev.NodeProgress(0.8, 2, "fetch x", 11, 20)
    yield ev.Notice(0.9, "waiting for a lock", "warning")
    if ok:
        yield ev.NodeFinished(3.1, 2, "//app:image", "RUN make", False, 3.0, "sha256:cd", 1500)
        yield ev.ImageBuilt(3.2, "//app:image", DIGEST, "sha256:ef", 2000, 2, ("out.tar",))
    else:
        yield ev.NodeStarted(3.0, 3, "//app:image", "RUN test")
        yield ev.NodeFailed(3.1, 2, "//app:image", "RUN make", 3.0, FAILURE)
        yield ev.NodeCancelled(3.1, 3, "//app:image", "RUN test")
        yield ev.NodeCancelled(3.1, 4, "//app:image", "never began")
    yield ev.BuildFinished(3.3, ok, int(ok), 1, int(not ok), 2 * int(not ok))


def show(mode: str, ok: bool = True) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    screen = make_listener(mode, out, err, ENV)
    for event in story(ok):
        screen(event)
    screen.close()
    screen.close()
    screen(ev.Notice(9, "too late"))
    assert screen.has_shown(FAILURE) is (mode != "json" and not ok)
    assert not screen.has_shown(InputError("another"))
    return out.getvalue(), err.getvalue()


# -- plain -------------------------------------------------------------------------------


def test_plain_tells_a_build_line_by_line() -> None:
    out, err = show("plain")
    assert out == ""
    assert err == (
        "building //app:image: 4 nodes\n"
        "#1 //app:image FROM base CACHED\n"
        "#2 //app:image RUN make\n"
        "#2 because src/main.c changed\n"
        "#2 0.5 helloé ^[[2J\n"
        "#2 0.5 100%\n"
        "#2 0.5 ::error::x\n"
        "#2 fetch x 10 B / 20 B\n"
        "warning: waiting for a lock\n"
        "#2 3.0 no end\n"
        "#2 //app:image RUN make DONE 3.0s 1.5 kB\n"
        "built 1, cached 1 in 3.3s\n"
    )


def test_plain_ends_a_failed_build_with_the_failure() -> None:
    _, err = show("plain", ok=False)
    assert "#2 //app:image RUN make FAILED 3.0s\n#3 //app:image RUN test CANCELLED\n" in err
    assert "never began" not in err
    assert err.endswith(
        "\nerror: //app:image: RUN make said no\n"
        "  --> app/Dockerfile:3:1\n"
        "   |\n"
        " 3 | RUN make\n"
        "   | ^^^^^^^^\n"
        "its last 1 line of output:\n"
        "  bad\n"
        "replay: r 1\n"
        "\n"
        "failed 1, built 0, cached 1, cancelled 2 in 3.3s\n"
    )


def test_plain_counts_hits_of_a_large_graph() -> None:
    err = io.StringIO()
    screen = make_listener("plain", io.StringIO(), err, ENV)
    for n in range(progress_plain.CACHED_LINES + 1234):
        screen(ev.NodeFinished(0.1, n, "//a:image", "RUN x", True, 1.0))
    screen.close()
    lines = err.getvalue().splitlines()
    assert len(lines) == progress_plain.CACHED_LINES + 1
    assert lines[-1] == "1,234 more were CACHED"


def test_plain_defuses_labels_and_titles() -> None:
    err = io.StringIO()
    screen = make_listener("plain", io.StringIO(), err, ENV)
    screen(ev.NodeStarted(0, 1, "//a:\x1b[2J", "RUN \x1b]0;x\x07 ##[error]", reason="\x9bx"))
    screen(ev.Notice(0, "::set-env name=x::y", "info", Location("a\nb")))
    screen.close()
    text = err.getvalue()
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "##[" not in text
    assert len(text.splitlines()) == 3


def test_plain_loses_no_line_of_several_threads() -> None:
    err = io.StringIO()
    screen = make_listener("plain", io.StringIO(), err, ENV)

    def work(node: int) -> None:
        for n in range(200):
            screen(ev.NodeOutput(0.1, node, f"{node}:{n} a".encode()))
            screen(ev.NodeOutput(0.1, node, b"b\n"))

    threads = [threading.Thread(target=work, args=(node,)) for node in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    screen.close()
    for node in range(8):
        mine = [line for line in err.getvalue().splitlines() if line.startswith(f"#{node} ")]
        assert mine == [f"#{node} 0.0 {node}:{n} ab" for n in range(200)]


def test_an_interrupted_step_is_cancelled_and_no_failure() -> None:
    for mode in ("plain", "json", "quiet"):
        out, err = io.StringIO(), io.StringIO()
        screen = make_listener(mode, out, err, ENV)
        screen(ev.NodeStarted(0, 1, "//a:image", "RUN x"))
        screen(ev.NodeFailed(1, 1, "//a:image", "RUN x", 1.0, Interrupted("interrupted")))
        screen.close()
        text = out.getvalue() + err.getvalue()
        assert "fail" not in text.lower()
        assert "error" not in text
        assert mode == "quiet" or "cancelled" in text.lower()


# -- json --------------------------------------------------------------------------------


def test_json_tells_a_build_as_objects() -> None:
    out, err = show("json")
    assert err == ""
    assert out.isascii()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["event"] for row in rows[:3]] == ["build_started", "node_finished", "node_started"]
    assert rows[2]["where"] == {
        "path": "app/Dockerfile",
        "line": 3,
        "column": 1,
        "end_column": 9,
        "text": "RUN make",
    }
    output = "".join(row["text"] for row in rows if row["event"] == "node_output")
    assert output == "helloé \x1b[2J\r\n1%\r2%\r100%\n::error::x\nno end"
    assert rows[-2]["digest"] == DIGEST
    assert rows[-1]["ok"] is True


def test_json_tells_a_failure_with_everything() -> None:
    out, _ = show("json", ok=False)
    (failed,) = (json.loads(line) for line in out.splitlines() if '"node_failed"' in line)
    assert failed["error"] == {
        "kind": "BuildFailed",
        "exit_code": 1,
        "message": "RUN make said no",
        "where": {"path": "app/Dockerfile", "line": 3, "column": 1, "end_column": 9}
        | {"text": "RUN make"},
        "hint": None,
        "label": "//app:image",
        "log": ["bad"],
        "replay": "r 1",
    }
    several = progress_json.error_fields(InputErrors([InputError("a"), InputError("b")]))
    assert [each["message"] for each in several["errors"]] == ["a", "b"]


def test_json_shows_a_cut_character_at_the_end() -> None:
    out = io.StringIO()
    screen = make_listener("json", out, io.StringIO(), ENV)
    screen(ev.NodeOutput(0, 1, b"##[x]\xc3"))
    screen(ev.NodeCancelled(1, 1, "//a", "RUN"))
    screen.close()
    assert "##" not in out.getvalue()
    texts = [json.loads(line).get("text") for line in out.getvalue().splitlines()]
    assert texts == ["##[x]", "\\xc3", None]


def test_json_documents_every_event_and_field() -> None:
    text = progress_json.__doc__ or ""
    for kind in ev.Event.__args__:  # type: ignore[attr-defined]
        row = re.search(rf"^    {progress_json._name(kind)}\s+(.*(?:\n {{20}}.*)*)", text, re.M)
        assert row, kind
        for name in kind.__struct_fields__:
            expected = "text" if (kind, name) == (ev.NodeOutput, "data") else name
            assert name == "time" or expected in row[1].split(), (kind, name)


# -- quiet -------------------------------------------------------------------------------


def test_quiet_says_nothing_of_a_build_that_goes_well() -> None:
    assert show("quiet") == ("", "warning: waiting for a lock\n")


def test_quiet_says_what_went_wrong() -> None:
    out, err = show("quiet", ok=False)
    assert out == ""
    assert "error: //app:image: RUN make said no\n" in err
    assert "built" not in err


# -- which -------------------------------------------------------------------------------


@contextmanager
def terminal() -> Iterator[tuple[TextIO, bytearray]]:
    """Yield the program's end of a terminal, and what came out of the other end."""
    master, slave = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while data := os.read(master, 65536):
                seen.extend(data)
        except OSError:  # Linux says EIO when the last writer is gone
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with open(slave, "w", encoding="utf-8") as stream:
        yield stream, seen
    reader.join()
    os.close(master)


@pytest.mark.parametrize(
    ("mode", "env", "kind"),
    [
        ("auto", {"TERM": "xterm"}, "LiveScreen"),
        ("tty", {"TERM": "xterm", "CI": "true"}, "LiveScreen"),
        ("auto", {"TERM": "xterm", "CI": "true"}, "PlainScreen"),
        ("auto", {"TERM": "dumb"}, "PlainScreen"),
        ("tty", {"TERM": "dumb"}, "PlainScreen"),
        ("auto", {}, "PlainScreen"),
        ("plain", {"TERM": "xterm"}, "PlainScreen"),
        ("json", {"TERM": "xterm"}, "JsonScreen"),
        ("quiet", {"TERM": "xterm"}, "QuietScreen"),
        ("auto", {"TERM": "xterm", "BUILDKIT_PROGRESS": "rawjson"}, "JsonScreen"),
        ("auto", {"TERM": "xterm", "BUILDKIT_PROGRESS": "none"}, "QuietScreen"),
        ("plain", {"TERM": "xterm", "BUILDKIT_PROGRESS": "none"}, "PlainScreen"),
    ],
)
def test_the_screen_fits_mode_and_terminal(mode: str, env: dict[str, str], kind: str) -> None:
    with terminal() as (stream, _):
        screen = make_listener(mode, stream, stream, env)
        screen.close()
    assert type(screen).__name__ == kind


@pytest.mark.parametrize("mode", ["auto", "tty"])
def test_without_a_terminal_it_is_plain(mode: str) -> None:
    screen = make_listener(mode, io.StringIO(), io.StringIO(), {"TERM": "xterm"})
    screen.close()
    assert type(screen).__name__ == "PlainScreen"


# -- live --------------------------------------------------------------------------------


def frame_rows(state: _State, wide: int = 80, high: int = 24) -> list[str]:
    rows = Frame(unicode=True).rows(state, time.monotonic() - 5, wide, high)
    assert all(row.cell_len <= wide for row in rows)
    assert len(rows) < high
    return [row.plain for row in rows]


def running(count: int, output: bytes = b"") -> _State:
    state = _State(total=100_000, built=3, cached=17)
    for n in range(count):
        node = _Running(f"//app{n}:image", f"RUN step {n}", time.monotonic() - 1, 10.0)
        node.last.feed(output)
        state.running[n] = node
    return state


def test_the_frame_says_counts_and_running_nodes() -> None:
    head, node, detail = frame_rows(running(1, b"cc main.c\n"), wide=100)
    assert head.startswith("Building 5.0s ")
    assert head.endswith(" 20/100,000 · 3 built · 17 cached · 1 running · ≥9s left")
    assert node.startswith("  //app0:image RUN step 0  ")
    assert node.endswith(" 1.0s of ~10.0s")
    assert detail == "    cc main.c"


def test_the_frame_fits_any_window() -> None:
    for high in (2, 3, 5, 24, 100):
        for wide in (1, 5, 20, 79, 300):
            state = running(50, b"long " * 100)
            state.running[0].title = "日本語 " * 50
            frame_rows(state, wide, max(high, 3))


def test_the_frame_counts_what_it_has_no_room_for() -> None:
    rows = frame_rows(running(1000), high=8)
    assert rows[-1] == "  and 995 more"


def test_the_frame_shows_how_far_a_transfer_is() -> None:
    state = running(1, b"older output\n")
    state.running[0].progress = ev.NodeProgress(1, 0, "libc6", 1_200_000, 2_800_000)
    assert frame_rows(state)[-1] == "    libc6 1.2 MB / 2.8 MB"


def test_the_frame_does_without_unicode() -> None:
    rows = Frame(unicode=False).rows(running(1), time.monotonic(), 100, 24)
    assert all(row.plain.isascii() for row in rows)


def live(ok: bool, until: bytes = b"") -> str:
    """Return what a terminal gets; the progress lasts until this is there, or for 20 s."""
    with terminal() as (stream, seen):
        screen = make_listener("tty", stream, stream, ENV)
        for event in story(ok):
            screen(event)
            if isinstance(event, ev.NodeProgress):
                end = time.monotonic() + 20
                while until not in seen and time.monotonic() < end:
                    time.sleep(0.05)
        screen.close()
        assert screen.has_shown(FAILURE) is not ok
    return seen.decode().replace("\r\n", "\n")


def test_live_draws_while_it_runs_and_cleans_up() -> None:
    text = live(ok=True, until=b"11 B / 20 B")
    assert "Building " in text
    assert "fetch x 11 B / 20 B" in text
    assert "✓" in text
    tail = text[text.rindex("\x1b[J") :]
    assert tail == "\x1b[Jbuilt 1, cached 1 in 3.3s\n"


def test_live_shows_a_failure_as_plain_does() -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", live(ok=False))
    _, plain = show("plain", ok=False)
    ending = plain[plain.index("\nerror:") :]
    assert text.endswith(ending)


def test_live_lets_no_sequence_of_a_step_through() -> None:
    text = live(ok=True, until=b"11 B / 20 B")
    assert "\x1b[2J" not in text


def test_a_build_with_nothing_to_do_loads_no_rich() -> None:
    script = """
import pty, os, sys
from buildgraph import events as ev
from buildgraph.cli.screen import make_listener
master, slave = pty.openpty()
err = open(slave, "w")
screen = make_listener("tty", err, err, {"TERM": "xterm"})
screen(ev.BuildStarted(0, ("//a",), 9, ""))
for n in range(9):
    screen(ev.NodeFinished(0, n, "//a", "RUN", True, 1.0))
screen(ev.BuildFinished(0.05, True, 0, 9, 0, 0))
screen.close()
assert "rich" not in sys.modules, "loaded"
err.close()
print(os.read(master, 999).decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "built 0, cached 9 in 0.05s" in done.stdout


def test_events_cost_next_to_nothing() -> None:
    events = [ev.NodeFinished(0, n, "//a:image", "RUN", True, 1.0) for n in range(20_000)]
    with terminal() as (stream, _):
        screen = make_listener("tty", stream, stream, ENV)
        begun = time.process_time()
        for event in events:
            screen(event)
        spent = time.process_time() - begun
        screen.close()
    assert spent / len(events) < 500e-6  # processor seconds; a hundredth of it here


@pytest.mark.parametrize("mode", ["plain", "json", "tty"])
def test_a_reader_that_is_gone_does_not_stop_a_build(mode: str) -> None:
    master, slave = pty.openpty()
    os.close(master)
    with open(slave, "w", encoding="utf-8") as stream:
        screen = make_listener(mode, stream, stream, ENV)
        for event in story():
            screen(event)
        screen.close()
