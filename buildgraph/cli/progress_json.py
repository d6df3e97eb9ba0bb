r"""Knows how a build is told to a program: one JSON object a line, in the order things happened;
must not know how it looks to a person.

Every object has `event` and `time` (seconds since the build began, monotonic). The rest:

    build_started   targets nodes store jobs
    node_started    node label title stage reason expected where needs worker began
    node_output     node text                 (text: what a step wrote, in pieces as they came;
                                               bytes that are no UTF-8 as \xNN)
    node_progress   node text done total      (bytes; total 0 = unknown)
    node_finished   node label title cached seconds layer size stage where needs worker began
                    key reasons               (seconds of a cached node: what it took back then)
    node_failed     node label title seconds error stage needs worker began key reasons
    node_cancelled  node label title stage where needs
    notice          text level where          (level: info | warning)
    image_built     label digest config size layers outputs platform needs worker began
    smoke_started   label services checks reason run
    smoke_note      label service text seconds
    check_finished  label check ok seconds complaints where
    smoke_finished  label ok cached seconds passed failed reason runs runs_passed needs worker began
    build_finished  ok built cached failed cancelled critical_path ([name, seconds] pairs)

`node` is a number that is good for this build alone; `needs` has those that it stands on. `worker`
is the number of the worker that did it, null for the thread that decides, and `began` when that
one took it up. `key` is what a node was looked up by, and `reasons` say why it was not cached.
`where` is null or {path, line, column, end_column, text}. `error` is {kind, exit_code, message,
where, hint}, with {label, log, replay} for a failed command and {errors} for several input errors.
Fields are only ever added.
"""

from __future__ import annotations

import codecs
import json
import re
import threading
from typing import Any, Final, TextIO

from msgspec.structs import asdict

from buildgraph import events as ev
from buildgraph.cli import words
from buildgraph.cli.console import without_logins
from buildgraph.cli.writer import Writer
from buildgraph.errors import BuildFailed, BuildgraphError, InputErrors, Location

_ENDS: Final = (ev.NodeFinished, ev.NodeFailed, ev.NodeCancelled)


class JsonScreen:
    """Writes events to `out` as JSON lines."""

    def __init__(self, out: TextIO):
        self._writer = Writer(out)
        self._lock = threading.Lock()
        self._closed = False
        # A character may be cut between two pieces of output.
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def __call__(self, event: ev.Event) -> None:
        """Write one event."""
        with self._lock:
            if self._closed:
                return
            event = words.as_meant(event)
            if isinstance(event, _ENDS):
                self._flush(event.time, event.node)
            row = {"event": _name(type(event)), **_fields(event)}
            if isinstance(event, ev.NodeOutput):
                del row["data"]
                row["text"] = self._decoder(event.node).decode(event.data)
            self._writer.write(json_line(row), essential=not isinstance(event, ev.NodeOutput))

    def write(self, row: dict[str, Any]) -> None:
        """Write an object that is no event."""
        with self._lock:
            self._writer.write(json_line(row))

    @property
    def broken(self) -> bool:
        """Say whether not everything could be written."""
        return self._writer.broken

    def close(self) -> None:
        """Wait for a reader that reads."""
        with self._lock:
            self._closed = True
        self._writer.close()

    def has_shown(self, error: BuildgraphError) -> bool:
        """Say no: a program has read it, a person has not."""
        del error
        return False

    def _decoder(self, node: int) -> codecs.IncrementalDecoder:
        if node not in self._decoders:
            self._decoders[node] = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        return self._decoders[node]

    def _flush(self, time: float, node: int) -> None:
        decoder = self._decoders.pop(node, None)
        if decoder is not None and (text := decoder.decode(b"", final=True)):
            self._writer.write(
                json_line(
                    {"event": "node_output", "time": round(time, 6), "node": node, "text": text}
                )
            )


def error_fields(error: BuildgraphError) -> dict[str, Any]:
    """Return an error as JSON values."""
    fields: dict[str, Any] = {
        "kind": type(error).__name__,
        "exit_code": error.exit_code,
        "message": error.message,
        "where": asdict(without_logins(error.where)) if error.where else None,
        "hint": error.hint,
    }
    if isinstance(error, BuildFailed):
        fields |= {"label": error.label, "log": error.log, "replay": error.replay}
    if isinstance(error, InputErrors):
        fields["errors"] = [error_fields(each) for each in error.errors]
    return fields


def _name(kind: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _fields(event: ev.Event) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, BuildgraphError):
            value = error_fields(value)
        elif isinstance(value, Location):
            value = asdict(without_logins(value))
        elif isinstance(value, float):
            value = round(value, 6)
        row[name] = value
    return row


def json_line(row: dict[str, Any]) -> str:
    """Return an object as one line that nobody who shows it finds a command in."""
    # ASCII, so that no terminal and no CI system finds anything in it to obey; that "##" is how
    # commands of some begin, anywhere in a line.
    return json.dumps(row, separators=(",", ":")).replace("##", "#\\u0023") + "\n"
