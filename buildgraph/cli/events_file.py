r"""Knows how a build is written to a file for a program: one JSON object a line, as it happens;
must not know what the program makes of it.

The schema, version 1. Every line is one object with `event` (a word) and `time` (seconds since the
build began, monotonic). The first line is `stream`, the last one `stream_ended`: a file without it
is of a program that was killed. Between them stand the events of `--progress json`, whose fields
`cli/progress_json.py` lists, and `error`. A reader skips events and fields it does not know;
fields are only ever added, and `version` rises when one changes its meaning.

    stream          version program ("buildgraph") program_version command (list) started (seconds
                    since 1970)
    error           error     what ended the command outside of any node: an unreadable Boxfile, an
                              image that no registry has. {kind, exit_code, message, where, hint},
                              with {errors} for several input errors
    stream_ended    (nothing)

A build that comes to its end has `build_started` (with the number of nodes), for each node that
was not known `node_started`, any number of `node_output` and `node_progress`, then one of
`node_finished`, `node_failed`, `node_cancelled`; for each known node `node_finished` alone, with
`cached`; `image_built` for each target; `build_finished` with the counts. All text is ASCII: other
characters and those that a terminal or a CI system could obey are written as \uXXXX.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Final, TextIO

from buildgraph import __version__
from buildgraph.cli.progress_json import JsonScreen, error_fields, json_line
from buildgraph.cli.textfile import cannot_write
from buildgraph.errors import BuildgraphError, HostError, InputError
from buildgraph.events import Event

_VERSION: Final = 1


class EventsFile:
    """Writes events to the file `path`, replacing it; each line is there as soon as it happened."""

    def __init__(self, path: str):
        """Open the file. Raises InputError, HostError."""
        if path == "-":
            raise InputError(
                "--events - : give a file", hint="--progress json writes events to stdout"
            )
        head = {
            "event": "stream",
            "time": 0.0,
            "version": _VERSION,
            "program": "buildgraph",
            "program_version": __version__,
            "command": sys.argv[1:],
            "started": round(time.time(), 3),
        }
        self._file = _begun(path, json_line(head))
        self._path = path
        self._time = 0.0
        self._screen = JsonScreen(self._file)

    def __call__(self, event: Event) -> None:
        """Write one event."""
        self._time = max(self._time, event.time)
        self._screen(event)

    def failed(self, error: BuildgraphError) -> None:
        """Write an error that belongs to no node."""
        row = {"event": "error", "time": round(self._time, 6), "error": error_fields(error)}
        self._screen.write(row)

    def close(self) -> None:
        """Write the last line. Raises HostError where the disk did not take all of it."""
        self._screen.write({"event": "stream_ended", "time": round(self._time, 6)})
        self._screen.close()
        broken = self._screen.broken
        try:
            self._file.close()
        except OSError:
            broken = True
        if broken:
            raise HostError(f"not all events could be written to {self._path}")


def _begun(path: str, line: str) -> TextIO:
    """Open a file and write its first line.

    Not through the screen: that starts a thread, and an ordinary user has to enter a user
    namespace before there is one. Raises HostError.
    """
    try:
        file = open(path, "w", encoding="ascii")
        try:
            os.write(file.fileno(), line.encode("ascii"))
        except OSError:
            file.close()
            raise
    except OSError as error:
        raise cannot_write(path, error) from error
    return file
