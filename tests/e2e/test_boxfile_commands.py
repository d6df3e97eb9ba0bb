"""Knows what `fmt`, `rules` and `schema` print and change."""

from __future__ import annotations

import json
import re

from e2e.harness import Workspace


def test_fmt_rules_and_schema() -> None:
    with Workspace() as workspace:
        workspace.write("Boxfile.yaml", 'workspace: {rules: ["//tools"]}\n')
        workspace.write(
            "tools/greet.rule.yaml",
            "doc: It greets.\nattributes: {who: {doc: Whom., default: you}}\ndockerfile: FROM a\n",
        )
        workspace.write("app/Boxfile.yaml", "targets:\n    a: { rule : greet } # b\n", 0o640)
        told = workspace.run("fmt", "--check", expect=1).stdout
        assert told == "app/Boxfile.yaml is not laid out; run: buildgraph fmt app/Boxfile.yaml\n"
        assert workspace.run("fmt").stdout == "app/Boxfile.yaml\n"
        assert workspace.read("app/Boxfile.yaml") == "targets:\n  a: {rule: greet} # b\n"
        assert workspace.path("app/Boxfile.yaml").stat().st_mode & 0o777 == 0o640
        workspace.run("fmt", "--check", "app", "Boxfile.yaml")
        assert re.search("^greet +It greets.$", workspace.run("rules").stdout, re.M)
        assert "who          Whom. (text) Default: you." in workspace.run("rules", "greet").stdout
        (row,) = workspace.run("rules", "--json", "greet").stdout.splitlines()
        assert json.loads(row)["attributes"][0]["name"] == "who"
        assert "did you mean 'greet'?" in workspace.run("rules", "gret", expect=2).stderr
        found = json.loads(workspace.run("schema").stdout)
        assert "who" in found["$defs"]["rule.greet"]["properties"]
        workspace.write("app/Boxfile.yaml", "targets: [\n")
        assert "app/Boxfile.yaml:1:10" in workspace.run("fmt", expect=2).stderr
