"""Knows with which rules a workspace is opened; must not know the command line.

Imports no click: quick answers open workspaces too.
"""

from __future__ import annotations

from buildgraph.boxfile.workspace import Workspace


def workspace_at(root: str) -> Workspace:
    """Open the workspace at `root` with the rules that come with this program."""
    from buildgraph_rules.registry import rule_specs

    return Workspace.open(root, rules=rule_specs())
