"""Knows how to print what this machine offers; must not know how that is found out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from buildgraph.cli.entry import guarded
from buildgraph.cli.opening import workspace_at
from buildgraph.cli.options import store_option
from buildgraph.cli.places import default_store

if TYPE_CHECKING:
    from buildgraph.oci.registry.places import Endpoint


@click.command("doctor")
@store_option
@guarded
def command(store: str | None) -> None:
    """Say what this machine offers and lacks, in words."""
    from buildgraph.sandbox.probe import probe

    place = store or default_store(os.environ, os.geteuid())
    findings = probe(place)
    for finding in findings:
        mark = "ok  " if finding.ok else "LACKS"
        click.echo(f"{mark:<6} {finding.name}: {finding.detail}")
        if finding.hint and not finding.ok:
            click.echo(f"       hint: {finding.hint}")
    click.echo(f"store  {place}")
    for line in _registries():
        click.echo(line)


def _registries() -> Iterator[str]:
    """Yield how each registry is spoken to that anything is configured for, as one view."""
    from buildgraph.boxfile.files import find_root
    from buildgraph.engine.images import registry_settings
    from buildgraph.errors import BuildgraphError
    from buildgraph.oci.registry.credentials import CredentialStore
    from buildgraph.oci.registry.places import Places

    try:
        root = find_root(os.getcwd())
        settings = registry_settings(workspace_at(root)) if root else {}
        places = Places(os.environ, settings)
        known = CredentialStore(os.environ)
        for name in places.configured():
            domain, _, path = name.removeprefix("*.").partition("/")
            yield f"registry {name}"
            for endpoint in places.endpoints(domain, path or "NAME"):
                yield f"       {_words(endpoint)}"
            who = known.find(domain)
            if who is not None:
                yield f"       as {who.username or 'a token'}"
    except BuildgraphError as error:
        yield f"LACKS  registries: {error}"


def _words(endpoint: Endpoint) -> str:
    words = [" or ".join(f"{scheme}://{endpoint.host}" for scheme in endpoint.schemes)]
    words[0] += f"{endpoint.prefix}/{endpoint.repository}"
    words += ["mirror"] if endpoint.mirror else []
    words += ["pull"] if endpoint.pull else []
    words += ["push"] if endpoint.push else []
    words += [f"by {endpoint.use} only"] if endpoint.use != "all" else []
    words += [] if endpoint.verify else ["any certificate"]
    words += [] if endpoint.trusted else ["no password is sent"]
    words += [f"trusts {path}" for path in endpoint.ca]
    words += [f"shows {certificate}" for certificate, _ in endpoint.client]
    return ", ".join(words) + (f"  ({endpoint.said_by})" if endpoint.said_by else "")
