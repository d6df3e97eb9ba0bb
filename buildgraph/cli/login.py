"""Knows how a user says who they are to a registry; must not know how that is kept."""

from __future__ import annotations

import os
import sys

import click

from buildgraph.cli.entry import guarded
from buildgraph.errors import InputError
from buildgraph.oci.reference import DEFAULT_DOMAIN


@click.command("login")
@click.argument("registry", default=DEFAULT_DOMAIN)
@click.option("-u", "--username", metavar="NAME")
@click.option("-p", "--password", metavar="PASSWORD", help="Better: --password-stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@guarded
def command(registry: str, username: str | None, password: str | None, password_stdin: bool) -> int:
    """Check a name and a password at a REGISTRY (host or host:port) and keep them.

    They are kept where docker keeps them: by a credential helper if config.json names one, else
    in config.json.
    """
    from buildgraph.oci.registry.credentials import Credentials, CredentialStore
    from buildgraph.oci.registry.places import Places
    from buildgraph.oci.registry.session import Registries

    domain = _domain(registry)
    store = CredentialStore(os.environ)
    if password_stdin and password is not None:
        raise InputError("--password and --password-stdin are one too many")
    if password is not None:
        click.echo("warning: other users can see --password in the list of processes", err=True)
    if username is None:
        if not sys.stdin.isatty() or password_stdin:
            raise InputError("a name is missing", hint="-u NAME --password-stdin")
        username = str(click.prompt("Name", err=True))
    if password_stdin:
        password = sys.stdin.read(64 * 1024).rstrip("\r\n")
    elif password is None:
        if not sys.stdin.isatty():
            raise InputError("a password is missing", hint="give --password-stdin")
        password = str(click.prompt("Password", hide_input=True, err=True))
    if not username or not password:
        raise InputError("the name or the password is empty")
    given = Credentials(username, password)
    with Registries(Places(os.environ), store, environ=os.environ) as registries:
        registries.check(domain, given)
    click.echo(f"{domain}: kept in {store.save(domain, given)}")
    return 0


@click.command("logout")
@click.argument("registry", default=DEFAULT_DOMAIN)
@guarded
def logout(registry: str) -> int:
    """Forget the name and the password of a REGISTRY."""
    from buildgraph.oci.registry.credentials import CredentialStore

    domain = _domain(registry)
    known = CredentialStore(os.environ).erase(domain)
    click.echo(f"{domain}: {'forgotten' if known else 'nothing was kept'}")
    return 0


def _domain(text: str) -> str:
    """Return `host[:port]` of what may be written as a URL."""
    name = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    for suffix in ("/v1", "/v2"):
        name = name.removesuffix(suffix)
    if name in ("index.docker.io", "registry-1.docker.io"):
        name = DEFAULT_DOMAIN
    if not name or any(c in name for c in "/@?# ") or name.startswith("-"):
        raise InputError(f"{text!r} is no registry", hint="host or host:port")
    return name
