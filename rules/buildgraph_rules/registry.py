"""Knows which rules the library has and where each is written; must not know what any of them does.

A rule is a module, or the template of a Dockerfile in a file NAME.rule.yaml beside this one, which
is read as a workspace's own rule is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from buildgraph.boxfile.schema import RuleSpec

TEMPLATES: Final = ("c_binary", "jvm_app", "node_app", "python_app", "static_site")


def rule_specs(directory: str = os.path.dirname(__file__)) -> Mapping[str, RuleSpec]:
    """Return the rules of the library by name, for `Workspace.open`.

    Reads and imports what describes a rule when somebody asks for that rule, and never what
    carries it out. `directory` is where the templates lie.
    """
    # Here and not above: a build that finds nothing to do never asks.
    from buildgraph.boxfile.rule_files import RuleTable

    table = RuleTable({})
    table.add("debian", _debian)
    for name in TEMPLATES:
        table.add(name, partial(_template, directory, name), shipped=True)
    return table


def _debian() -> RuleSpec:
    from buildgraph_rules.debian.spec import SPEC

    return SPEC


def _template(directory: str, name: str) -> RuleSpec:
    from buildgraph.boxfile.rule_files import SUFFIX, read_rule

    path = os.path.join(directory, name + SUFFIX)
    with open(path, encoding="utf-8") as file:
        return read_rule(file.read(), path, name, shipped=True)
