"""Each case of tests/golden comes to its recorded plan: the nodes for an arm64 image built on an
amd64 machine, its history and its config, or the reason why there is none; `--update-golden`
rewrites them.

Bases are stand-ins with a PATH and a command; no file of a context is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError, InputErrors, Location
from buildgraph.fields import told
from buildgraph.graph.lower import Lowering, ResolvedImage, TargetInput, TargetPlan
from buildgraph.graph.ops import ContextSpec, Node
from buildgraph.graph.stage_ir import BuildArgs
from buildgraph.oci.config import config_json
from buildgraph.oci.types import ImageConfig, Platform

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/Dockerfile"))
HERE, IMAGE = Platform("linux", "amd64"), Platform("linux", "arm64")
EPOCH = 315_532_800
WITHOUT_PLAN = {"many-stages": "RUN --device is not supported", "expansion": "no sha256:HEX"}


@pytest.mark.parametrize("case", CASES)
def test_plan(case: str, request: pytest.FixtureRequest) -> None:
    plan = "".join(f"{line}\n" for line in planned((GOLDEN / case / "Dockerfile").read_bytes()))
    assert ("error: " in plan) == (case in WITHOUT_PLAN)
    assert WITHOUT_PLAN.get(case, "") in plan
    recorded = GOLDEN / case / "plan.txt"
    if request.config.getoption("--update-golden", default=False):
        recorded.write_text(plan)
    assert recorded.exists(), "record it with --update-golden"
    assert plan == recorded.read_text()


def test_platforms_of_what_is_copied_from() -> None:
    """An image is for the platform asked for, whichever the stage is on (BuildKit's code)."""
    lines = [*planned(b"FROM --platform=$BUILDPLATFORM a\nRUN --mount=from=b,target=/b x\n")]
    assert lines[0].startswith("0 on [] linux/amd64 | FROM a |")
    assert lines[1].startswith("1 on [] linux/arm64 | FROM b |")
    assert lines[2].startswith("2 on [0, 1] linux/amd64 | 0: RUN ")


def planned(text: bytes) -> Iterator[str]:
    """Yield the lines of a plan."""
    file = parse(text, "Dockerfile")
    lowering = Lowering(image, ensure)
    args = BuildArgs({}, IMAGE, HERE, EPOCH)
    target = TargetInput("//:image", file, ContextSpec("/context", (), "context"), {}, args)
    try:
        plan = lowering.add_image(target)
    except InputError as error:
        for one in error.errors if isinstance(error, InputErrors) else (error,):
            yield f"error: {one}"
        return
    for node in lowering.graph().nodes:
        yield shown(node)
    for entry, made in plan.history:
        yield f"history: {'nothing' if made is None else made}: {entry.created_by!r}"
    document = json.loads(config_json(plan.config, ()))
    for key, value in document["config"].items():
        yield f"config {key}: {json.dumps(value, ensure_ascii=False)}"


def image(reference: str, platform: Platform, where: Location) -> ResolvedImage:
    env = (("PATH", "/usr/bin:/bin"), ("FROM_BASE", "yes"))
    config = ImageConfig(platform=platform, env=env, cmd=("from-base",))
    return ResolvedImage(reference, f"digest of {reference}", config)


def ensure(label: str, platform: Platform) -> TargetPlan:
    raise AssertionError("no case names a target")


def shown(node: Node) -> str:
    """Return a node as a line: what it stands on, what it does, and how that is said."""
    inputs = ", ".join("nothing" if one is None else str(one) for one in node.inputs)
    op = json.dumps(plain(node.op), ensure_ascii=False)
    title = f"{node.stage}: {node.title}" if node.stage else node.title
    return f"{node.id} on [{inputs}] {node.platform} | {title} | {op}"


def plain(value: Any) -> Any:
    """Return an op as JSON, defaults left out."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    fields = told(value)
    if fields is None:
        return value
    return {"is": type(value).__name__, **{name: plain(item) for name, item in fields.items()}}
