"""Knows how `list`, `query` and `affected` are answered from what was read before; must not know
how a workspace is read.

Whatever is odd (a flag that is not plain, a name that is not found, a file that defines targets and
has changed) is left to the whole way, which knows how to say what is wrong.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from buildgraph import __version__
from buildgraph.cli.places import default_store, index_of, say

TYPE_CHECKING = False  # typing's own costs a module that the quick way does without
if TYPE_CHECKING:
    import threading

    from buildgraph.boxfile.workspace import Workspace
    from buildgraph.engine.earlier import Changes, Earlier
    from buildgraph.engine.index import Index
    from buildgraph.engine.reads import Reading

KIND = "index"
# Flags by command; True: a value follows.
_FLAGS: Mapping[str, Mapping[str, bool]] = {
    "list": {"--json": False},
    "query": {"--output": True, "--store": True},
    "affected": {
        "--since": True,
        "--why": False,
        "--targets": True,
        "--json": False,
        "--store": True,
    },
}


def answer(arguments: Sequence[str]) -> bool:
    """Print the answer and return True, if all that it comes from is known and as it was."""
    command, flags, words = _parse(arguments)
    if not command or any(n.startswith(f"BUILDGRAPH_{command.upper()}_") for n in os.environ):
        return False
    store = flags.get("--store", [default_store(os.environ, os.geteuid())])[-1]
    began = time.time_ns()
    data = _read(store, command == "affected")
    if data is None:
        return False
    from buildgraph.engine.index import NotKnown
    from buildgraph.errors import BuildgraphError

    try:
        asked = _Asked(data, flags, words, store)
        index = _as_it_is(data, began, store)
        text = None if index is None else _WAYS[command](asked, index)
    except (BuildgraphError, NotKnown, OSError):
        return False
    if text is None:
        return False
    say(text)
    return True


def _as_it_is(data: bytes, began_ns: int, store: str) -> Index | None:
    """Return the index of a workspace as it is now; None where all of it must be read for that."""
    from buildgraph.engine.index import Index, changed, packed, unpacked

    value = unpacked(data)
    moved = changed(value)
    if moved:
        from buildgraph.cli.renewing import renew

        fresh = renew(value, moved, began_ns, store)
        if fresh is None:
            return None
        _write(store, fresh["reading"] is not None, packed(fresh))
        return Index(fresh)
    return None if moved is None else Index(value)


def keep(
    workspace: Workspace,
    package: str,
    began_ns: int,
    store: str | None,
    reading: Reading | None = None,
    observed: Sequence[str] = (),
) -> None:
    """Keep all targets of a workspace for later questions from this directory.

    Only in a store that is there already. Failing is no failure: the next question reads again.
    """
    from buildgraph.engine.index import encode
    from buildgraph.errors import BuildgraphError

    path = store or default_store(os.environ, os.geteuid())
    if index_of(path) is None:
        return
    try:
        data = encode(workspace, package, began_ns, reading, (*observed, *_upwards(workspace.root)))
    except (BuildgraphError, OSError):
        return
    if data is not None:
        _write(path, reading is not None, data)


def _write(store: str, reads: bool, data: bytes) -> None:
    from buildgraph.errors import BuildgraphError
    from buildgraph_cache.store import Store

    try:
        with Store.open(store, fall_back=True) as opened:
            if not opened.read_only:
                opened.put_record(KIND, _key(reads), data)
    except (BuildgraphError, OSError):
        return


def _upwards(root: str) -> list[str]:
    """Return the directories from here up to the root: a workspace's file could appear in one."""
    here = os.path.realpath(os.getcwd())
    out = [here]
    while here != root and here != os.path.dirname(here):
        here = os.path.dirname(here)
        out.append(here)
    return out


def _key(reads: bool) -> str:
    """Return the key of an index; one with what is read is larger, so only `affected` loads it."""
    from buildgraph.engine.index import FORMAT

    return f"{__version__}\0{FORMAT}\0{os.path.realpath(os.getcwd())}" + "\0reads" * reads


def _read(store: str, reads: bool) -> bytes | None:
    if index_of(store) is None:
        return None
    from buildgraph.errors import BuildgraphError
    from buildgraph_cache.store import Store

    try:
        with Store.open(store, fall_back=True) as opened:
            return opened.get_record(KIND, _key(reads))
    except (BuildgraphError, OSError):
        return None


def _parse(arguments: Sequence[str]) -> tuple[str, dict[str, list[str]], list[str]]:
    """Return command, flags and words; no command where only the whole way knows what is meant."""
    command, *rest = arguments
    known = _FLAGS.get(command, {})
    flags: dict[str, list[str]] = {}
    words: list[str] = []
    at = 0
    while at < len(rest):
        word = rest[at]
        at += 1
        if word == "--":
            words += rest[at:]
            break
        if not word.startswith("-"):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in known or bool(equals) > known[name]:
            return "", {}, []
        if known[name] and not equals:
            if at == len(rest):
                return "", {}, []
            value = rest[at]
            at += 1
        flags.setdefault(name, []).append(value)
    return command if known else "", flags, words


class _Asked:
    """One command line; git is asked while the index is still being read."""

    def __init__(
        self, data: bytes, flags: Mapping[str, Sequence[str]], words: Sequence[str], store: str
    ) -> None:
        self.flags = flags
        self.words = words
        self.store = store
        self._found: list[tuple[Earlier, Changes] | BaseException] = []
        self._asking: threading.Thread | None = None
        if "--since" in flags:
            import threading

            from buildgraph.engine.index import root_of

            arguments = (root_of(data), flags["--since"][-1])
            self._asking = threading.Thread(target=self._ask, args=arguments, daemon=True)
            self._asking.start()

    def _ask(self, root: str, since: str) -> None:
        try:
            from buildgraph.engine.earlier import Earlier

            earlier = Earlier(root, since)
            self._found.append((earlier, earlier.changes()))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits for it
            self._found.append(error)

    def earlier(self) -> tuple[Earlier, Changes] | None:
        """Return what git said. Raises what asking it raised."""
        if self._asking is None:
            return None
        self._asking.join()
        found = self._found[0]
        if isinstance(found, BaseException):
            raise found
        return found


def _list(asked: _Asked, index: Index) -> str:
    from buildgraph.cli.answers import list_text

    rows = [index.row(name) for name in index.expand(asked.words or ["//..."])]
    return list_text(rows, as_json="--json" in asked.flags)


QUICK_OUTPUTS = ("label", "label_kind", "location", "json", "jsonl", "dot", "graph", "mermaid")


def _query(asked: _Asked, index: Index) -> str | None:
    from buildgraph.cli.answers import query_text
    from buildgraph.graph.query import Evaluation

    output = asked.flags.get("--output", ["label"])[-1]
    if not asked.words or output not in QUICK_OUTPUTS:
        return None
    question = Evaluation(" ".join(asked.words), index)
    return query_text(question.order(question.run()), output, index)


def _affected(asked: _Asked, index: Index) -> str | None:
    from buildgraph.cli.answers import affected_text
    from buildgraph.engine.affected import Causes, add_content, downstream, reach_of
    from buildgraph.engine.defining import defines

    reading = index.reading()
    found_out = asked.earlier()
    if asked.words or found_out is None or reading is None:
        return None
    earlier, changes = found_out
    if any(os.path.islink(f"{index.root}/{path}") for path in changes.paths):
        return None
    causes = Causes()
    reach = reach_of(index.root, reading)
    if any(path in reading.defining or defines(path) for path in changes.paths):
        from buildgraph.cli.renewing import add_redefined

        if not add_redefined(causes, index.root, earlier, changes, reading, reach, asked.store):
            return None
    add_content(causes, index.root, changes, reach)
    found = downstream(causes, index.graph(()))
    return affected_text(
        found,
        index.expand(asked.flags["--targets"]) if "--targets" in asked.flags else None,
        lambda name: index.kind(name)[0],
        why="--why" in asked.flags,
        as_json="--json" in asked.flags,
    )


_WAYS = {"list": _list, "query": _query, "affected": _affected}
