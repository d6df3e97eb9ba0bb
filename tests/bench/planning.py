"""Knows how long planning takes for a node when there are many; must not know any builder.

A program of its own, so that its memory is its own: `planning.py NODES` prints one JSON object.
The graph is images of ten steps each that all stand on one base, a new Dockerfile for each of
them. Timed are parsing, unfolding and lowering, keys, and letting the scheduler go over nodes that
are all cached; not the reading of files, which other workloads have. What counts is processor time:
one thread does it all, and the machine may be shared.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "cache"), str(ROOT / "rules")]

from buildgraph.dockerfile.parser import parse  # noqa: E402
from buildgraph.engine.scheduler import Scheduler, ranks  # noqa: E402
from buildgraph.errors import Location  # noqa: E402
from buildgraph.graph.keys import exec_key  # noqa: E402
from buildgraph.graph.lower import (  # noqa: E402
    LabelBinding,
    Lowering,
    ResolvedImage,
    TargetInput,
    TargetPlan,
)
from buildgraph.graph.ops import ContextSpec, ExecOp, NodeGraph  # noqa: E402
from buildgraph.graph.stage_ir import BuildArgs  # noqa: E402
from buildgraph.oci.types import Platform  # noqa: E402

_STEPS = 10
_EPOCH = 315532800
_HERE = Platform("linux", "amd64")


def _text(first: str, image: int) -> str:
    return "\n".join([f"FROM {first}", *(f"RUN make {image} {n}" for n in range(_STEPS))])


def _lower(nodes: int) -> tuple[NodeGraph, float, float]:
    """Return a graph of about `nodes` nodes, and seconds for parsing and for lowering."""

    def ensure(label: str, platform: Platform) -> TargetPlan:
        return graph.plans[label, platform]

    def image(reference: str, platform: Platform, where: Location) -> ResolvedImage:
        raise AssertionError("nothing from outside")

    parsing = lowering = 0.0
    graph = Lowering(image, ensure)
    build = BuildArgs({}, _HERE, _HERE, _EPOCH, frozenset({"base"}))
    bindings = {"base": LabelBinding("//base:image")}
    for number in range(nodes // _STEPS):
        label = f"//p{number}:image" if number else "//base:image"
        text = _text("base" if number else "scratch", number)
        began = time.process_time()
        file = parse(text, f"p{number}/Dockerfile")
        parsed = time.process_time()
        context = ContextSpec(f"/work/p{number}", (), f"p{number}/")
        graph.add_image(TargetInput(label, file, context, bindings, build))
        lowering += time.process_time() - parsed
        parsing += parsed - began
    return graph.graph(), parsing, lowering


def _key(graph: NodeGraph) -> float:
    began = time.process_time()
    for node in graph.nodes:
        assert isinstance(node.op, ExecOp)
        exec_key(node.op, node.platform, _EPOCH, f"sha256:{node.id:064}", (), "1")
    return time.process_time() - began


def _schedule(graph: NodeGraph) -> float:
    began = time.process_time()
    inputs = graph.needs()
    scheduler = Scheduler(inputs, ranks(inputs, [1.0] * len(inputs)), jobs=2)
    scheduler.run(lambda node: True, lambda node: None)
    return time.process_time() - began


def main(nodes: int) -> dict[str, float]:
    """Return microseconds a node for each part and in all, seconds, and the peak of memory."""
    graph, parsing, lowering = _lower(nodes)
    parts = {
        "parse": parsing,
        "lower": lowering,
        "key": _key(graph),
        "schedule": _schedule(graph),
    }
    total = sum(parts.values())
    count = len(graph.nodes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "nodes": count,
        "seconds": total,
        "microseconds": total / count * 1e6,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
        **{f"{name}_microseconds": spent / count * 1e6 for name, spent in parts.items()},
    }


if __name__ == "__main__":
    gc.set_threshold(50_000, 20, 50)  # as buildgraph/__main__.py
    json.dump(main(int(sys.argv[1])), sys.stdout)
