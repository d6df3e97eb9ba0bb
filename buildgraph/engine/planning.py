"""Knows what a build of a graph would do, by looking up keys as far as they can be known; must not
know how to do it.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from buildgraph.engine import records
from buildgraph.engine.build import explain_key
from buildgraph.engine.identify import Identifier
from buildgraph.engine.prepare import Prepared
from buildgraph.graph.explain import Reason
from buildgraph.graph.ops import ImageOp, Node
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain
from buildgraph_cache.store import Store


class Verdict(enum.Enum):
    """What would happen to a node."""

    HIT = "hit"
    MISS = "build"
    UNKNOWN = "depends"  # an input would be built first; its result decides


class Step(Struct, frozen=True):
    """One node of a plan; `last_reasons` is why it was last built."""

    node: Node
    verdict: Verdict
    reasons: tuple[Reason, ...] = ()
    expected: float | None = None
    last_reasons: tuple[Reason, ...] = ()


def plan(
    prepared: Prepared,
    store: Store,
    layers: LayerStore,
    identifier: Identifier,
    *,
    no_cache: bool = False,
) -> list[Step]:
    """Return a step for each node that makes something, in the order of the graph."""
    chains: dict[int, Chain] = {}
    out: list[Step] = []
    for node in prepared.graph.nodes:
        if isinstance(node.op, ImageOp):
            chains[node.id] = prepared.chains[node.op.digest]
            continue
        slot = records.load_slot(store, node.slot)
        expected = slot.seconds if slot else None
        last = slot.reasons if slot else ()
        if any(i is not None and i not in chains for i in node.inputs):
            out.append(Step(node, Verdict.UNKNOWN, (), expected, last))
            continue
        if (why := identifier.unknown(node)) is not None:
            out.append(Step(node, Verdict.MISS, (Reason(why),), expected, last))
            continue
        inputs = tuple(Chain() if i is None else chains[i] for i in node.inputs)
        parent = inputs[0] if inputs else Chain()
        key = identifier.key(node, parent, inputs)
        record = None if no_cache else records.load_node(store, key.digest)
        if record is None or (record.layer is not None and not layers.available(record.layer)):
            reasons = (Reason("--no-cache"),) if no_cache else explain_key(store, key, slot)
            out.append(Step(node, Verdict.MISS, reasons, expected, last))
            continue
        chains[node.id] = parent if record.layer is None else parent.push(record.layer)
        out.append(Step(node, Verdict.HIT, (), record.seconds, last))
    return out
