"""Knows the events of a few builds, as two workers make them; must not know what is made of them."""

from __future__ import annotations

from collections.abc import Iterator

from buildgraph import events as ev
from buildgraph.errors import BuildFailed, Interrupted, Location

APP, LIB, SMOKE = "//app:image", "//lib:image", "//app:smoke"
FILE = "app/Dockerfile"
KEY = "sha256:" + "0123456789ab" + "c" * 52
EVIL = "</script><script>alert(1)</script><!--\x1b[31mred\x1b[0m\u202e\ud800"
FAILED = BuildFailed(
    f"RUN {EVIL} ended with exit code 3",
    Location(FILE, 4, 1, 5, "RUN x"),
    "look",
    label=APP,
    log=("only the last",),
    replay="buildgraph replay 0123456789ab",
)


def opening() -> Iterator[ev.Event]:
    """A hit, then three steps on two workers; the last is still running."""
    yield ev.Notice(0.1, "no pin", "warning", Location("Boxfile.yaml", 3))
    yield ev.BuildStarted(0.5, (APP, LIB), 6, "/s", 2)
    yield ev.NodeFinished(
        0.6, 0, LIB, "FROM base", True, 9.0, "sha256:1", 1000, "", Location("lib/Dockerfile", 1),
        (), None, 0.55, KEY,
    )  # fmt: skip
    yield ev.NodeStarted(
        0.8, 1, APP, "COPY src /src", "build", "file a.c: x -> y", 1.0, Location(FILE, 2),
        (0,), 0, 0.6,
    )  # fmt: skip
    yield ev.NodeStarted(0.7, 2, LIB, "RUN make lib", "", "the command", None, None, (0,), 1, 0.6)
    yield ev.NodeProgress(0.8, 2, "fetch x", 10, 100)
    yield ev.NodeProgress(1.0, 2, "fetch x", 100, 100)
    yield ev.NodeProgress(1.0, 2, "configuring (1/2)")
    yield ev.NodeProgress(1.2, 2, "configuring (2/2)")
    yield ev.NodeFinished(
        1.6, 1, APP, "COPY src /src", False, 0.8, "sha256:2", 2000, "build", Location(FILE, 2),
        (0,), 0, 0.6, KEY, ("file a.c: x -> y", "and 3 more"),
    )  # fmt: skip
    yield ev.NodeStarted(
        1.7, 3, APP, f"RUN {EVIL}", "build", "not built here before", None, Location(FILE, 4),
        (1,), 0, 1.6,
    )  # fmt: skip
    yield ev.NodeOutput(1.8, 3, b"one\r\n" + EVIL.encode("utf-8", "backslashreplace") + b"\ntail")


def _library() -> Iterator[ev.Event]:
    yield ev.NodeFinished(
        2.6, 2, LIB, "RUN make lib", False, 1.9, "sha256:3", 300, "", Location("lib/Dockerfile", 2),
        (0,), 1, 0.6, KEY, ("the command: a -> b",),
    )  # fmt: skip
    yield ev.ImageBuilt(
        2.8, LIB, "sha256:" + "d" * 64, "sha256:e", 1300, 2, needs=(2,), worker=1, began=2.6
    )


def good() -> Iterator[ev.Event]:
    """A build that comes to its end, with a test."""
    yield from opening()
    yield from _library()
    yield ev.NodeFinished(
        3.7, 3, APP, f"RUN {EVIL}", False, 2.0, "", 0, "build", Location(FILE, 4),
        (1,), 0, 1.6, KEY, ("not built here before",),
    )  # fmt: skip
    yield from tested(ok=True)
    yield ev.BuildFinished(5.0, True, 3, 1, 0, 0, ((f"{APP} RUN", 2.0),))


def tested(*, ok: bool) -> Iterator[ev.Event]:
    """A test with two services that runs on the second worker."""
    yield ev.SmokeStarted(3.8, SMOKE, ("db", "app"), 2, "an image")
    yield ev.SmokeNote(3.9, SMOKE, "db", "started", 0.1)
    yield ev.SmokeNote(4.0, SMOKE, "db", "healthy", 0.2)
    yield ev.SmokeNote(4.0, SMOKE, "app", "started", 0.2)
    yield ev.CheckFinished(4.3, SMOKE, "http", True, 0.2)
    if not ok:
        yield ev.SmokeNote(4.35, SMOKE, "app", "ended with exit code 2", 0.5)
    complaints = () if ok else (f"no answer {EVIL}",)
    yield ev.CheckFinished(4.5, SMOKE, "exec", ok, 0.1, complaints, Location("Boxfile.yaml", 9))
    yield ev.SmokeFinished(
        4.8, SMOKE, ok, False, 1.0, 2 if ok else 1, int(not ok), needs=(3,), worker=1, began=3.7
    )


def failing() -> Iterator[ev.Event]:
    """A step says no; one never runs."""
    yield from opening()
    yield ev.NodeFailed(
        2.2, 3, APP, f"RUN {EVIL}", 0.5, FAILED, "build", (1,), 0, 1.6, KEY,
        ("not built here before",),
    )  # fmt: skip
    yield from _library()
    yield ev.NodeCancelled(2.9, 4, APP, "COPY --from=build /x /x", "", Location(FILE, 6), (0, 3))
    yield ev.BuildFinished(3.0, False, 2, 1, 1, 1)


def interrupted() -> Iterator[ev.Event]:
    """Ctrl-C while two steps run; of one nothing more is heard."""
    yield from opening()
    error = Interrupted("interrupted")
    yield ev.NodeFailed(2.2, 3, APP, f"RUN {EVIL}", 0.5, error, "build", (1,), 0, 1.6, KEY)
    yield ev.NodeCancelled(2.3, 4, APP, "COPY --from=build /x /x", "", Location(FILE, 6), (0, 3))
    yield ev.BuildFinished(2.3, False, 1, 1, 0, 1)
