"""Knows every rule that `lint` has, and prints what they are for; must not know when one fires."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import click

from buildgraph.boxfile import lint as boxfile
from buildgraph.dockerfile import rules as text
from buildgraph.dockerfile.checks_examples import EXAMPLES
from buildgraph.errors import InputError, did_you_mean
from buildgraph.graph.lint_rules import RULES as GRAPH_RULES
from buildgraph.graph.lint_rules import Rule


def _all() -> Iterator[Rule]:
    for name, reason in text.REASONS.items():
        yield Rule(name, reason, *EXAMPLES[name])
    yield from GRAPH_RULES.values()
    for name, reason in boxfile.REASONS.items():
        yield Rule(name, reason, *boxfile.EXAMPLES[name])


KNOWN: Mapping[str, Rule] = MappingProxyType({rule.id: rule for rule in _all()})


def list_rules() -> None:
    """Print every rule with its reason, those of other tools first."""
    room = max(map(len, KNOWN))
    for title, names in (
        ("BuildKit's checks", text.REASONS),
        ("of a Dockerfile's graph", GRAPH_RULES),
        ("of a Boxfile", boxfile.REASONS),
    ):
        click.echo(f"{title}:")
        for name in names:
            note = " (experimental)" if name in text.EXPERIMENTAL else ""
            click.echo(f"  {name:<{room}}  {KNOWN[name].reason}{note}")


def explain_rule(name: str) -> None:
    """Print what a rule is for, with an example each way. Raises InputError for no rule."""
    rule = KNOWN.get(name) or next(
        (r for r in KNOWN.values() if r.id.lower() == name.lower()), None
    )
    if rule is None:
        hint = did_you_mean(name, KNOWN) or "buildgraph lint --list shows all"
        raise InputError(f"there is no rule {name!r}", hint=hint)
    note = "; asked for by `# check=experimental=`" if rule.id in text.EXPERIMENTAL else ""
    click.echo(f"{rule.id}: {rule.reason}{note}.\n")
    for title, example in (("It complains of", rule.bad), ("It does not of", rule.good)):
        click.echo(f"{title}:\n")
        click.echo("".join(f"    {line}".rstrip() + "\n" for line in example.splitlines()))
    click.echo(
        f"To have none of it: `# check=skip={rule.id}` at the top of the file, or above a line."
    )
