"""Knows how to run a command in a container that `test --keep` holds; must not know how it runs."""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import nullcontext

import click

from buildgraph.cli.entry import guarded
from buildgraph.cli.hold import connect
from buildgraph.cli.options import store_option
from buildgraph.cli.places import default_store
from buildgraph.cli.terminal import raw_terminal
from buildgraph.errors import HostError, InputError


@click.command("enter", context_settings={"ignore_unknown_options": True})
@click.argument("identity", metavar="ID/SERVICE")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Default: the service's own.")
@store_option
@guarded
def command(identity: str, arguments: tuple[str, ...], user: str | None, store: str | None) -> int:
    """Run a command in a container that `buildgraph test --keep` holds; by default a shell.

    Exits with the command's own code.
    """
    hold, _, name = identity.partition("/")
    if not re.fullmatch("[0-9a-f]+", hold) or not name:
        raise InputError(f"{identity!r} is not ID/SERVICE", hint="`test --keep` prints them")
    root = store or default_store(os.environ, os.geteuid())
    tty = os.isatty(0) and os.isatty(1)
    request = {
        "name": name,
        "args": list(arguments) or ["/bin/sh"],
        "user": user,
        "tty": tty,
    }
    try:
        client = connect(os.path.join(root, "tmp", hold))
    except OSError as error:
        raise InputError(
            f"no test is held under {hold}",
            hint="`buildgraph test LABEL --keep` must run meanwhile, with the same --store",
        ) from error
    with client, raw_terminal(0) if tty else nullcontext():
        socket.send_fds(client, [json.dumps(request).encode()], [0, 1, 2])
        answer = _answer(client)
    if "error" in answer:
        raise InputError(str(answer["error"]), hint=str(answer["hint"] or "") or None)
    return int(str(answer["code"]))


def _answer(client: socket.socket) -> dict[str, object]:
    data = b""
    while piece := client.recv(65536):
        data += piece
    if not data:
        raise HostError("the test has ended")
    found = json.loads(data)
    assert isinstance(found, dict)
    return found
