"""Knows how a Dockerfile ends early: what it would be if it stopped after a line; must not know why
anybody wants to stop there.
"""

from __future__ import annotations

from msgspec.structs import replace

from buildgraph.dockerfile.instructions import Dockerfile
from buildgraph.errors import InputError


def up_to(dockerfile: Dockerfile, line: int) -> Dockerfile:
    """Return the file with nothing that begins after `line`; its last stage is where that is.

    Raises InputError where no stage has begun by then.
    """
    stages = [stage for stage in dockerfile.stages if stage.from_.where.line <= line]
    if not stages:
        first = f", its first FROM on {dockerfile.stages[0].from_.where.line}" * bool(
            dockerfile.stages
        )
        raise InputError(f"no stage of {dockerfile.path} has begun by line {line}{first}")
    body = tuple(one for one in stages[-1].body if one.where.line <= line)
    return replace(dockerfile, stages=(*stages[:-1], replace(stages[-1], body=body)))
