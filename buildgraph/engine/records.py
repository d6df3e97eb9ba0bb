"""Knows what the engine remembers of nodes in the store and under which kind and key; must not know
how the store keeps it. What is remembered of images, builds and tests is of kept, history and
smoke.verdict.

| kind      | key                    | value                                                   |
|-----------|------------------------|---------------------------------------------------------|
| node      | NodeKey                | the layer it made, its preimage, seconds                |
| slot      | Node.slot              | the last key built there, and why it was built          |
| listing   | tree digest            | blob with the names and digests the tree digest covers  |
| memo      | sha256 of a question   | an answer about immutable layers                        |
| context   | sha256 of a directory  | what was found in it, and what tells that it still is   |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from buildgraph.graph.explain import Listing, Reason
from buildgraph.graph.keys import NodeKey, Preimage, canonical
from buildgraph.oci.types import Layer
from buildgraph_cache.digest import Digest, sha256_digest
from buildgraph_cache.objects import blob_ref
from buildgraph_cache.store import Store

_KINDS = {"0": "file", "1": "hard link", "2": "link", "5": "directory"}


class NodeRecord(Struct, frozen=True):
    """What a node came to; `layer` None: it changed no file."""

    layer: Layer | None
    preimage: Preimage
    seconds: float


class SlotRecord(Struct, frozen=True):
    """What was last built at a place of a Dockerfile."""

    key: str
    seconds: float
    reasons: tuple[Reason, ...]


def load_node(store: Store, key: Digest) -> NodeRecord | None:
    """Return the record of a key, or None."""
    raw = store.get_record("node", key)
    if raw is None:
        return None
    value = json.loads(raw)
    layer = value["layer"]
    return NodeRecord(
        None if layer is None else Layer(Digest(layer[0]), layer[1]),
        value["preimage"],
        value["seconds"],
    )


def save_node(store: Store, key: NodeKey, layer: Layer | None, seconds: float) -> None:
    """Remember what a key came to. Call it last: a record promises that its layer exists."""
    value = {
        "layer": None if layer is None else [layer.diff_id, layer.size],
        "preimage": key.preimage,
        "seconds": round(seconds, 4),
    }
    store.put_record("node", key.digest, canonical(value), seconds=seconds)


def load_slot(store: Store, slot: str) -> SlotRecord | None:
    """Return what was last built at `slot`, or None."""
    raw = store.get_record("slot", slot)
    if raw is None:
        return None
    value = json.loads(raw)
    reasons = tuple(Reason(*r) for r in value["reasons"])
    return SlotRecord(value["key"], value["seconds"], reasons)


def save_slots(
    store: Store, slots: Sequence[str], key: Digest, seconds: float, reasons: tuple[Reason, ...]
) -> None:
    """Remember what was built at `slots` and why."""
    value = canonical(
        {
            "key": key,
            "seconds": round(seconds, 4),
            "reasons": [[r.what, r.old, r.new] for r in reasons],
        }
    )
    if len(slots) == 1:
        store.put_record("slot", slots[0], value)
    else:
        store.put_records("slot", [(slot, value, ()) for slot in slots])


def save_listing(store: Store, tree: str, rows: bytes) -> None:
    """Keep the rows behind a tree digest, so that `explain` can name the file that changed."""
    if store.get_record("listing", tree) is None:
        blob = store.put_blob(rows)
        store.put_record("listing", tree, blob.encode(), refs=(blob_ref(blob),))


def has_listing(store: Store, tree: str) -> bool:
    """Return whether the rows behind a tree digest are kept, and keep them."""
    return store.get_record("listing", tree) is not None


def load_listing(store: Store, tree: str) -> Listing | None:
    """Return the names behind a tree digest, or None where they are gone."""
    raw = store.get_record("listing", tree)
    if raw is None:
        return None
    try:
        with open(store.open_blob(Digest(raw.decode())), "rb") as file:
            rows: list[list[Any]] = json.loads(file.read())
    except FileNotFoundError:
        return None
    return {
        str(name): (f"{_KINDS.get(kind, kind)} {mode:o}", str(content))
        for _, name, kind, mode, _, _, content, *_ in rows
    }


def question(*parts: Any) -> str:
    """Return the key of a memo: questions about layers have one answer for ever."""
    return sha256_digest(canonical(list(parts)))


def load_memo(store: Store, key: str) -> Any:
    """Return a remembered answer, or None."""
    raw = store.get_record("memo", key)
    return None if raw is None else json.loads(raw)


def save_memo(store: Store, key: str, answer: Any) -> None:
    """Remember an answer."""
    store.put_record("memo", key, canonical(answer))
