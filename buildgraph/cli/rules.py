"""Knows how to print the kinds of target and their attributes; must not know what they do."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import click

from buildgraph.boxfile.schema import COMMON, Attribute, RuleSpec
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.errors import InputError, did_you_mean


@click.command("rules")
@click.argument("names", nargs=-1, metavar="[RULE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@guarded
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the kinds of target, or the attributes of some."""
    workspace, _ = open_workspace(os.getcwd())
    rules = workspace.rules
    for name in names:
        if name not in rules:
            raise InputError(f"there is no rule {name!r}", hint=did_you_mean(name, rules))
    chosen = [rules[name] for name in names or sorted(rules)]
    if as_json:
        for rule in chosen:
            click.echo(json.dumps(_row(rule), ensure_ascii=False))
    elif names:
        click.echo("\n\n".join("\n".join(_whole(rule)) for rule in chosen))
    else:
        width = max(len(rule.name) for rule in chosen)
        for rule in chosen:
            click.echo(f"{rule.name:<{width}}  {rule.doc}")


def _row(rule: RuleSpec) -> Mapping[str, Any]:
    from buildgraph.boxfile.describe import type_words

    rows = [
        {
            "name": attribute.name,
            "type": type_words(attribute.type),
            "doc": attribute.doc,
            "required": attribute.required,
            "default": None if attribute.default == () else attribute.default,
        }
        for attribute in (*rule.attributes, *COMMON)
    ]
    return {"rule": rule.name, "doc": rule.doc, "attributes": rows}


def _whole(rule: RuleSpec) -> Iterator[str]:
    yield f"{rule.name}: {rule.doc}"
    yield from _lines(rule.attributes)
    yield "  of every target:"
    yield from _lines(COMMON)


def _lines(attributes: tuple[Attribute, ...]) -> Iterator[str]:
    from buildgraph.boxfile.describe import default_words, type_words

    columns = max(60, min(100, shutil.get_terminal_size().columns))
    width = max((len(attribute.name) for attribute in attributes), default=0)
    for attribute in attributes:
        default = default_words(attribute)
        end = " Required." if attribute.required else f" Default: {default}." if default else ""
        text = f"{attribute.doc} ({type_words(attribute.type)}){end}"
        first = f"  {attribute.name:<{width}}  "
        yield textwrap.fill(
            text,
            columns,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_on_hyphens=False,
        )
