"""Knows how to start the same container again when nothing that decided about it has changed; must
not know how anything is built, and imports next to nothing but the sandbox.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from buildgraph.cli.places import index_of, store_of
from buildgraph.cli.unchanged import invocation_key


def run_again(arguments: Sequence[str]) -> int | None:
    """Run what this very command ran last and return its exit code; None = go the whole way."""
    place = os.path.abspath(store_of(arguments))
    index = index_of(place)
    if index is None:
        return None
    from buildgraph_cache.invocation import check

    payload = check(index, invocation_key(arguments))
    if payload is None:
        return None
    if os.geteuid() != 0:
        from buildgraph.sandbox.userns import enter

        enter()
    from buildgraph.errors import BuildgraphError
    from buildgraph.sandbox.host import SandboxHost

    try:
        with SandboxHost(place) as sandbox:
            sandbox.prepare(slots=1)  # an interpreter of its own, which starts while we import
            from buildgraph.cli.recall import Recalled, run_recalled

            return run_recalled(sandbox, Recalled(**json.loads(payload)))
    except BuildgraphError as error:
        from buildgraph.cli.entry import report

        report(error)
        return 125
    except KeyboardInterrupt:
        return 130


def leave(code: int) -> None:
    """Exit at once: the interpreter's own tidying takes longer than the container did."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
