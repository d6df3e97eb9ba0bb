"""Knows what was found in a context the last time, and whether it is surely as it was then; must
not know what is asked of it.

A context that has not changed is not walked, sorted and put together again: one lstat(2) an entry
tells (`context.observation`), and what was found is taken from the store. That is the stat cache's
promise for a whole directory. An answer to a question that the files decide holds as long as all
that was read for it; answers that were found in different builds have different observations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct, field

from buildgraph.context.observation import Found, Observation
from buildgraph.context.tree import ContextTree
from buildgraph.engine.records import question
from buildgraph.graph.ops import ContextSpec
from buildgraph_cache.store import Store

KIND: Final = "context"
_VERSION: Final = 1
_PARTS: Final = 8  # observations of one context; beyond that they only cost


class _Part(Struct):
    """Answers that hold while an observation does."""

    seen: Observation
    answers: dict[str, str]
    asked: set[str] = field(default_factory=set)  # in this build
    found: Found | None = None  # as it is now
    looked: bool = False

    def holds(self) -> bool:
        """Say whether all is as it was, looking once."""
        if not self.looked:
            self.found = self.seen.look()
            self.looked = True
        return self.found is not None


class SeenContext:
    """What is known of one context. Not safe to share between threads."""

    def __init__(self, store: Store, spec: ContextSpec):
        self.key = question("context", _VERSION, spec.root, spec.ignore, spec.owners)
        self._learnt: dict[str, str] = {}
        self._parts = _read(store.get_record(KIND, self.key))

    def answer(self, asked: str) -> str | None:
        """Return what was found the last time, if it surely would be found again."""
        for part in self._parts:
            if asked in part.answers:
                if part.holds():
                    part.asked.add(asked)
                    return part.answers[asked]
        return None

    def learn(self, asked: str, answer: str) -> None:
        """Take note of what was found in the context's tree."""
        self._learnt[asked] = answer

    def forget(self) -> None:
        """Forget everything: files have changed since they were looked at."""
        self._learnt.clear()
        self._parts.clear()

    def found(self) -> Iterator[Found]:
        """Yield what answers rest on."""
        yield from (p.found for p in self._parts if p.found is not None and p.asked)

    def to_keep(self, tree: ContextTree, found: Found) -> bytes | None:
        """Return what the next build should know; None: what is kept already.

        `tree` is what was learnt from, and `found` what was found in it. Only what this build asked
        for is kept.
        """
        if not self._learnt:
            return None
        seen = tree.observation(found)
        if not seen.settled:
            return None
        parts = [_Part(seen, self._learnt)]
        for part in self._parts:
            answers = {one: part.answers[one] for one in part.asked - self._learnt.keys()}
            if answers and len(parts) < _PARTS:
                parts.append(_Part(part.seen, answers))
        value = [[part.seen.as_json(), part.answers] for part in parts]
        return json.dumps(value, separators=(",", ":")).encode()


def _read(data: bytes | None) -> list[_Part]:
    """Return what was kept; nothing where it is not what `to_keep` writes."""
    if data is None:
        return []
    try:
        value: list[tuple[list[Any], dict[str, str]]] = json.loads(data)
        return [_Part(Observation.from_json(seen), dict(answers)) for seen, answers in value]
    except (ValueError, TypeError):
        return []
