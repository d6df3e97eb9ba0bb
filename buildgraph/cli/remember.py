"""Knows what has to be written down after a build so that the same command can be answered by stat
alone; must not know how that is checked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence

from buildgraph import events as ev
from buildgraph.cli.choose import lasts
from buildgraph.cli.session import OpenGraph, Session
from buildgraph.cli.unchanged import invocation_key
from buildgraph.engine.deliver import DeliveryOptions
from buildgraph.engine.looked import LookedAt
from buildgraph.engine.prepare import Prepared
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


def see_run(session: Session, prepared: Prepared, graph: OpenGraph, seen: LookedAt) -> None:
    """Add to `seen` all that decided what image a command runs; nothing where stats cannot tell."""
    if session.store.read_only or not _tells_all(session, prepared, DeliveryOptions()):
        return
    if session.workspace.variables_read:  # whoever starts it again does not look at them
        return
    found = _looked_at(session, prepared, graph)
    if found is not None:
        seen.add_all(found)


def put_answer(session: Session, items: LookedAt, payload: bytes, refs: Sequence[str]) -> None:
    """Keep the answer to this very command; nothing, where a file is too young to be trusted."""
    began = time.time_ns() - int((time.monotonic() - session.started) * 1e9)
    table = encode(items, payload, began)
    if table is not None:
        session.store.put_record(KIND, invocation_key(sys.argv[1:]), table, refs=tuple(refs))


def _looked_at(session: Session, prepared: Prepared, graph: OpenGraph) -> LookedAt | None:
    """Return every file and directory that was read, as it was; None where one is gone."""
    looked_at = LookedAt()
    looked_at.add_contexts(graph.sources)
    root = session.workspace.root
    try:
        for name in {*prepared.observed, *session.workspace.files_read}:  # git's too, by now
            looked_at.add(os.path.normpath(os.path.join(root, name)))
    except OSError:
        return None
    return looked_at


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
