"""Knows how a build is shown on a terminal while it runs; must not know how lines of a log look,
except that failures end a build the same way on every screen.

    ✓   3.1s //base:image RUN apt-get update                    <- what is done scrolls away
    Building 12.3s ━━━━━━━━━━━───────── 23/42 · 5 built · 18 cached · 2 running · ≥5s left
      //app:image  RUN make -j2                                        3.2s of ~8.0s
        cc -O2 -c src/main.c
      //db:image   fetch                                                        0.4s
        libc6_2.36_amd64.deb 1.2 MB / 2.8 MB
      and 3 more

The frame at the bottom is drawn by a thread of its own, at most FRAMES times a second, out of
what events left in `_State`; so an event costs the build a dictionary entry, and a terminal that
is held or slow costs it nothing. Each frame is one write. How many rows the last frame takes is
computed again from its lines when the window has changed, because terminals wrap what they hold.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TextIO

from msgspec import Struct, field

from buildgraph import events as ev
from buildgraph.cli import words
from buildgraph.cli.console import columns, wants_color
from buildgraph.cli.escape import LastLine, clip, safe, width
from buildgraph.cli.progress_plain import Ending, notice
from buildgraph.cli.writer import Writer
from buildgraph.errors import BuildgraphError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FRAMES: Final = 10  # a second
_FIRST: Final = 0.3  # seconds until the first one: a build with nothing to do never loads rich
_SHOWN: Final = 10  # running nodes, in a window that is high enough
_SCROLL: Final = 2_000  # finished nodes kept for a terminal that is held
_BAR: Final = 20
_NAME: Final = 40  # columns for a label
# The whole row, before it is written again: erasing only what is right of the text leaves a row
# as long as it was for some terminals, which then wrap it when the window gets narrower.
_ERASE: Final = "\x1b[2K"


class _Running(Struct):
    """A node that runs: what the frame shows of it."""

    label: str
    title: str
    since: float  # on our clock
    expected: float | None
    last: LastLine = field(default_factory=LastLine)
    progress: ev.NodeProgress | None = None


class _State(Struct):
    """What the frame is drawn from."""

    total: int = 0
    built: int = 0
    cached: int = 0
    failed: int = 0
    cancelled: int = 0
    running: dict[int | str, _Running] = field(default_factory=dict)  # in the order they began

    @property
    def done(self) -> int:
        return self.built + self.cached + self.failed + self.cancelled


class LiveScreen:
    """Draws a frame below what scrolls by; see `Screen` for what it promises."""

    def __init__(self, err: TextIO, env: Mapping[str, str]):
        self._env = env
        self._descriptor = err.fileno()
        self._writer = Writer(err)
        self._color = wants_color(err, env)
        self._ending = Ending(self._color, env)
        self._frame = Frame(_unicode(err))
        self._lock = threading.Lock()
        self._state = _State()
        self._scroll: deque[Text] = deque()
        self._skipped = 0
        self._began = time.monotonic()
        self._rows: list[int] = []  # columns of each row of the frame that stands there
        self._closing = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    def __call__(self, event: ev.Event) -> None:
        """Take in one event; the next frame shows it."""
        with self._lock:
            if self._closed:
                return
            event = words.as_meant(event)
            self._ending.add(event)
            self._take(event)

    def close(self) -> None:
        """Take the frame away, and write the ending."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._closing.set()
        self._thread.join()  # it never waits for the terminal, so this is quick
        self._draw(last=True)
        self._writer.write(self._ending.text())
        self._writer.close()

    def has_shown(self, error: BuildgraphError) -> bool:
        """Say whether the ending had this error."""
        return self._ending.has_shown(error)

    # -- events ------------------------------------------------------------------------

    def _take(self, event: ev.Event) -> None:
        state = self._state
        match event:
            case ev.BuildStarted():
                state.total = event.nodes
                self._began = time.monotonic() - event.time
            case ev.NodeStarted():
                state.running[event.node] = _Running(
                    event.label, event.title, self._began + event.time, event.expected
                )
            case ev.NodeOutput() | ev.NodeProgress():
                self._note(event)
            case ev.NodeFinished() | ev.NodeFailed() | ev.NodeCancelled():
                self._end(event)
            case ev.Notice():
                self._keep(self._frame.notice(event))
            case ev.SmokeStarted():
                title = words.smoke_title(event)
                begun = self._began + event.time
                state.running[event.label] = _Running(event.label, title, begun, None)
            case ev.SmokeNote() | ev.CheckFinished() | ev.SmokeFinished():
                self._smoke(event)
            case _:
                pass  # the ending's, or the command's

    def _note(self, event: ev.NodeOutput | ev.NodeProgress) -> None:
        running = self._state.running.get(event.node)
        if running is None:
            return
        if isinstance(event, ev.NodeOutput):
            running.last.feed(event.data)
            running.progress = None
        else:
            running.progress = event

    def _end(self, event: ev.NodeFinished | ev.NodeFailed | ev.NodeCancelled) -> None:
        state = self._state
        began = state.running.pop(event.node, None)
        match event:
            case ev.NodeFinished(cached=True):
                state.cached += 1
                return
            case ev.NodeFinished():
                state.built += 1
            case ev.NodeFailed():
                state.failed += 1
            case ev.NodeCancelled():
                state.cancelled += 1
                if began is None:
                    return
        self._keep(self._frame.ended(event))

    def _smoke(self, event: ev.SmokeNote | ev.CheckFinished | ev.SmokeFinished) -> None:
        good, text = words.smoke_line(event)
        if isinstance(event, ev.SmokeNote):
            running = self._state.running.get(event.label)
            if running is not None and good:
                running.last.feed(text.encode() + b"\n")
                return
        elif isinstance(event, ev.SmokeFinished):
            self._state.running.pop(event.label, None)
        self._keep(self._frame.smoke(event.label, good, text))

    def _keep(self, line: Text) -> None:
        if len(self._scroll) >= _SCROLL:
            self._scroll.popleft()
            self._skipped += 1
        self._scroll.append(line)

    # -- drawing -----------------------------------------------------------------------

    def _run(self) -> None:
        pause = _FIRST
        while not self._closing.wait(pause) and not self._writer.broken:
            if not self._writer.pending:  # else the terminal is behind: a later frame says it all
                self._draw()
            pause = 1 / FRAMES

    def _draw(self, last: bool = False) -> None:
        wide = columns(self._env, self._descriptor)
        high = _rows(self._descriptor)
        with self._lock:
            scroll = list(self._scroll)
            self._scroll.clear()
            if self._skipped:
                scroll.insert(0, self._frame.skipped(self._skipped))
                self._skipped = 0
            # The last column stays free: some terminals wrap when it is filled.
            rows = [] if last else self._frame.rows(self._state, self._began, wide - 1, high)
        if last and not scroll and not self._rows:
            return  # nothing was ever drawn
        console = self._console(wide)
        up = sum(max(-(-taken // wide), 1) for taken in self._rows) - 1
        text = [f"\r\x1b[{up}A" if up > 0 else "\r"]
        for line in scroll:
            if line.no_wrap:
                line.truncate(wide - 1, overflow="ellipsis")
            text.append(f"{_ERASE}{_render(console, line)}\n")
        text.append("\n".join(_ERASE + _render(console, row) for row in rows))
        text.append("\x1b[J" if rows else _ERASE + "\x1b[J")
        self._rows = [width(row.plain) for row in rows]
        self._writer.write("".join(text))

    def _console(self, wide: int) -> Console:
        from rich.console import Console

        return Console(
            width=max(wide, 1),
            force_terminal=True,
            color_system="standard" if self._color else None,
            no_color=not self._color,
            highlight=False,
            markup=False,
            legacy_windows=False,
        )


class Frame:
    """Puts a state into rows; `unicode` says whether the terminal can show more than ASCII."""

    def __init__(self, unicode: bool):
        self._unicode = unicode

    def rows(self, state: _State, began: float, wide: int, high: int) -> list[Text]:
        """Return the rows of the frame, none longer than `wide`, fewer than `high`."""
        now = time.monotonic()
        rows = [self._head(state, now - began, now, wide)]
        room = max(min(high - 3, 2 * _SHOWN), 0)
        shown = min(len(state.running), _SHOWN, room)
        running = list(itertools.islice(state.running.values(), shown))
        # Last lines of output fill what is left once every node has its row.
        spare = room - shown
        name = max((width(safe(each.label)) for each in running), default=0)
        name = min(name, _NAME, wide // 3)
        for each in running:
            rows.append(self._node(each, now, name, wide))
            if spare > 0 and (detail := self._detail(each)):
                row = self._styled("    " + clip(detail, max(wide - 4, 0)), "dim")
                rows.append(self._cut(row, wide))
                spare -= 1
        if shown < len(state.running):
            more = self._styled(f"  and {len(state.running) - shown:,} more", "dim")
            rows.append(self._cut(more, wide))
        return rows

    def ended(self, event: ev.NodeFinished | ev.NodeFailed | ev.NodeCancelled) -> Text:
        """Return the line that stays of a node; it is cut to the window when it is drawn."""
        if isinstance(event, ev.NodeCancelled):
            mark, style, took = "-", "yellow", "cancelled"
        elif isinstance(event, ev.NodeFailed):
            mark, style, took = "✗" if self._unicode else "x", "red", words.seconds(event.seconds)
        else:
            mark, style, took = "✓" if self._unicode else "+", "green", words.seconds(event.seconds)
        text = self._styled("", "")
        text.append(f"{mark} ", style).append(f"{took:>6} ", "dim")
        text.append(f"{safe(event.label)} ", "cyan").append(safe(event.title))
        text.no_wrap = True  # one row; the log has it in full
        return text

    def smoke(self, label: str, good: bool, told: str) -> Text:
        """Return the line that stays of a check or a test."""
        mark = ("✓" if good else "✗") if self._unicode else ("+" if good else "x")
        text = self._styled("", "")
        text.append(f"{mark} ", "green" if good else "red").append(f"{safe(label)} ", "cyan")
        text.append(told)
        text.no_wrap = True
        return text

    def notice(self, event: ev.Notice) -> Text:
        """Return a notice as a line."""
        return self._styled(notice(event), "yellow" if event.level == "warning" else "dim")

    def skipped(self, count: int) -> Text:
        """Return the line that stands for lines that were not kept."""
        return self._styled(f"[{count:,} lines not shown: the terminal was too slow]", "dim")

    def _head(self, state: _State, elapsed: float, now: float, wide: int) -> Text:
        dot = " · " if self._unicode else ", "
        text = self._styled("", "")
        text.append(f"Building {words.seconds(elapsed)} ", "bold")
        if state.total and wide >= 80:
            full = int(min(state.done / state.total, 1.0) * _BAR)
            heavy, light = ("━", "─") if self._unicode else ("#", "-")
            text.append(heavy * full, "green").append(light * (_BAR - full) + " ", "dim")
        text.append(f"{min(state.done, state.total):,}/{state.total:,}")
        for count, word, style in (
            (state.failed, "failed", "red"),
            (state.built, "built", ""),
            (state.cached, "cached", ""),
            (len(state.running), "running", ""),
        ):
            if count:
                text.append(dot).append(f"{count:,} {word}", style)
        left = max(
            (r.expected - (now - r.since) for r in state.running.values() if r.expected), default=0
        )
        if left >= 1:  # other nodes may follow these
            text.append(f"{dot}{'≥' if self._unicode else '>'}{round(left)}s left", "dim")
        return self._cut(text, wide)

    def _node(self, each: _Running, now: float, name: int, wide: int) -> Text:
        spent = words.seconds(max(now - each.since, 0))
        if each.expected and each.expected >= 1:
            spent += f" of ~{words.seconds(each.expected)}"
        label = clip(safe(each.label), name)
        text = self._styled("", "")
        text.append(f"  {label}{' ' * (name - width(label))} ", "cyan")
        room = max(wide - name - 3 - len(spent) - 1, 0)
        title = clip(safe(each.title), room)
        text.append(title + " " * (room - width(title)))
        text.append(f" {spent}", "dim")
        return self._cut(text, wide)

    def _detail(self, each: _Running) -> str:
        if each.progress is not None:
            return words.progress(each.progress.text, each.progress.done, each.progress.total)
        return each.last.text().expandtabs(4)

    def _styled(self, text: str, style: str) -> Text:
        from rich.text import Text

        return Text(text, style)

    def _cut(self, text: Text, wide: int) -> Text:
        text.truncate(max(wide, 1), overflow="ellipsis" if self._unicode else "crop")
        return text


def _render(console: Console, text: Text) -> str:
    """Return `text` with its colours, on one line however long it is."""
    with console.capture() as captured:
        console.print(text, end="", soft_wrap=True)
    return captured.get()


def _unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", "") or "").lower().replace("-", "") == "utf8"


def _rows(descriptor: int) -> int:
    try:
        return os.get_terminal_size(descriptor).lines or 24
    except OSError:
        return 24
