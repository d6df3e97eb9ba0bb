"""Knows which rules the library has; must not know what any of them does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from buildgraph.boxfile.schema import RuleSpec


def rule_specs() -> Mapping[str, RuleSpec]:
    """Return the rules of the library by name, for `Workspace.open`.

    Imports what describes the rules and nothing of what carries them out.
    """
    # Here and not above: a build that finds nothing to do never asks.
    from buildgraph_rules.debian.rule import SPEC as DEBIAN

    return MappingProxyType({spec.name: spec for spec in (DEBIAN,)})
