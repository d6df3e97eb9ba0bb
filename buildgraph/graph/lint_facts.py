"""Knows what a Dockerfile asks its target for, read off its text; must not know what the target
gives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from buildgraph.boxfile.lint import DockerfileFacts
from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.mounts import secret_name
from buildgraph.dockerfile.scope import global_scope
from buildgraph.graph.lint_stages import OWN_MEANING, mentions_of_trigger
from buildgraph.graph.stage_refs import mentions

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def facts_of(dockerfile: ast.Dockerfile, build_args: Mapping[str, str]) -> DockerfileFacts:
    """Return which ARGs, names and secrets a Dockerfile speaks of."""
    args: set[str] = {name for arg in dockerfile.global_args for name, _ in arg.pairs}
    names: set[str] = set()
    secrets: set[str] = set()
    decided = True
    scope = global_scope(dockerfile, build_args)
    for stage in dockerfile.stages:
        image = scope.decided(stage.from_.image, stage.from_)
        decided = decided and image is not None
        names.add(image or "")
        for one in stage.body:
            names.update(mentions(one))
            if isinstance(one, ast.Arg):
                args.update(name for name, _ in one.pairs)
            elif isinstance(one, ast.Run):
                secrets.update(secret_name(m) for m in one.mounts if m.type == "secret")
                secrets.update("$" for m in one.mounts if "$" in m.type)
            elif isinstance(one, ast.OnBuild):
                _take_trigger(one.trigger, args, names, secrets)
    return DockerfileFacts(
        None if any("$" in name for name in args) else frozenset(args) | OWN_MEANING,
        frozenset(n.removesuffix(":latest").lower() for n in names) if decided else None,
        None if any("$" in name for name in secrets) else frozenset(secrets),
    )


def _take_trigger(trigger: str, args: set[str], names: set[str], secrets: set[str]) -> None:
    """A trigger is text; what looks like a use in it is one."""
    if trigger[:3].upper() == "ARG":
        args.update(_WORD.findall(trigger))
    names.update(mentions_of_trigger(trigger))
    secrets.update(re.findall(r"\bid=([^\s,\"']+)", trigger))
