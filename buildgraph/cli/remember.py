"""Knows what has to be written down after a build so that the same command can be answered by stat
alone; must not know how that is checked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from buildgraph import events as ev
from buildgraph.cli.choose import lasts
from buildgraph.cli.session import OpenGraph, Session
from buildgraph.cli.unchanged import invocation_key
from buildgraph.engine.deliver import DeliveryOptions
from buildgraph.engine.prepare import Prepared
from buildgraph.filetree import FileStat, Kind
from buildgraph.graph.ops import GitOp, HttpOp
from buildgraph_cache.invocation import KIND, encode
from buildgraph_cache.objects import blob_ref

_REPEATABLE = ("oci", "docker", "cacheonly")  # outputs whose presence one stat can tell


def remember(
    session: Session,
    prepared: Prepared,
    graph: OpenGraph,
    images: Iterable[ev.ImageBuilt],
    delivery: DeliveryOptions,
    text: str,
) -> None:
    """Write down what this command looked at, what it wrote and what it said.

    Nothing is written where a stat could not tell that all is as it was: outputs to stdout or
    into a directory of files, secrets from files, files that changed while we built, sources on
    other machines that may have something else tomorrow.
    """
    if session.store.read_only or not _tells_all(session, prepared, delivery):
        return
    written = []
    for path in _written(delivery):
        try:
            found = os.lstat(path)
        except OSError:
            return
        written.append([path, found.st_size, found.st_mtime_ns, found.st_ino])
    items = _looked_at(session, prepared, graph)
    if items is not None:
        value = {"text": text, "written": written, "env": dict(session.workspace.variables_read)}
        payload = json.dumps(value).encode()
        refs = tuple(blob_ref(image.digest) for image in images if image.config)  # type: ignore[arg-type]
        put_answer(session, items, payload, refs)


def seen_by_run(
    session: Session, prepared: Prepared, graph: OpenGraph
) -> dict[str, FileStat] | None:
    """Return all that decided what image a command runs; None where stats cannot tell."""
    if session.store.read_only or not _tells_all(session, prepared, DeliveryOptions()):
        return None
    if session.workspace.variables_read:  # whoever starts it again does not look at them
        return None
    return _looked_at(session, prepared, graph)


def put_answer(
    session: Session, items: Mapping[str, FileStat], payload: bytes, refs: Sequence[str]
) -> None:
    """Keep the answer to this very command; nothing, where a file is too young to be trusted."""
    began = time.time_ns() - int((time.monotonic() - session.started) * 1e9)
    table = encode(items.items(), payload, began)
    if table is not None:
        session.store.put_record(KIND, invocation_key(sys.argv[1:]), table, refs=tuple(refs))


def _looked_at(
    session: Session, prepared: Prepared, graph: OpenGraph
) -> dict[str, FileStat] | None:
    """Return every file and directory that was read, as it was; None where one is gone."""
    items: dict[str, FileStat] = dict(graph.sources.observed())
    root = session.workspace.root
    for name in {*prepared.observed, *session.workspace.files_read}:  # git's too, by now
        path = os.path.normpath(os.path.join(root, name))
        # What a link leads to may change while the link stays.
        for place in {path, os.path.realpath(path)}:
            if place not in items:
                try:
                    items[place] = _stat(place)
                except OSError:
                    return None
    return items


def _tells_all(session: Session, prepared: Prepared, delivery: DeliveryOptions) -> bool:
    """Say whether the stats of files alone tell that a build would do the same."""
    if any(o.type not in _REPEATABLE or o.dest == "-" for o in delivery.outputs):
        return False
    if not lasts(session.settings.overrides) or session.workspace.volatile:
        return False
    return session.settings.offline or not _asks_somebody(prepared)


def _asks_somebody(prepared: Prepared) -> bool:
    """Say whether a source is on another machine and no checksum or commit says what it is."""
    ops = (node.op for node in prepared.graph.nodes)
    return any(isinstance(op, HttpOp | GitOp) and not op.pinned for op in ops)


def _written(delivery: DeliveryOptions) -> list[str]:
    out = [path for path in (delivery.iidfile, delivery.metadata_file) if path]
    for output in delivery.outputs:
        if output.type == "oci" and not output.tar:
            out.append(os.path.join(output.dest, "index.json"))
        elif output.type != "cacheonly":
            out.append(output.dest)
    return [os.path.abspath(path) for path in out]


def _stat(path: str) -> FileStat:
    found = os.lstat(path)
    return FileStat(
        Kind.FILE,  # what matters here are the numbers
        found.st_mode & 0o7777,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        ino=found.st_ino,
    )
