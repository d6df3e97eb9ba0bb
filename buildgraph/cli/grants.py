"""Knows the words by which a command line lends steps something of the user's or of the host's;
must not know what becomes of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from buildgraph.errors import InputError, did_you_mean
from buildgraph.graph.run_op import ENTITLEMENTS
from buildgraph.limits import STEP_LOG_BYTES

_UNLIMITED = 1 << 62


def parse_grants(texts: tuple[str, ...]) -> frozenset[str]:
    """Parse `--allow`: names of what a Dockerfile alone cannot have. Raises InputError."""
    names = [name for text in texts for name in text.split(",") if name]
    for name in names:
        if name not in ENTITLEMENTS:
            hint = did_you_mean(name[:60], ENTITLEMENTS) or f"it is {' or '.join(ENTITLEMENTS)}"
            raise InputError(f"--allow {name}: there is nothing of this name to grant", hint=hint)
    return frozenset(names)


def parse_agent(text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Parse `--ssh default|ID[=SOCKET]` to an id and the path of an agent's socket.

    Raises InputError where there is no agent, and for key files, which ssh-add(1) gives to one.
    """
    identity, _, place = text.partition("=")
    path = place or environ.get("SSH_AUTH_SOCK", "")
    if not identity:
        raise InputError(f"--ssh {text}: expected default or ID[=SOCKET]")
    if not path:
        raise InputError(
            f"--ssh {text}: no agent is running (SSH_AUTH_SOCK is not set)",
            hint="start one: eval $(ssh-agent); ssh-add",
        )
    try:
        kind = os.stat(path).st_mode
    except OSError as error:
        raise InputError(f"--ssh {text}: {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(kind):
        raise InputError(
            f"--ssh {text}: {path} is no agent's socket",
            hint=f"give keys to an agent: ssh-add {path}, then --ssh {identity}",
        )
    return identity, os.path.abspath(path)


def log_limit(environ: Mapping[str, str]) -> int:
    """Return how many bytes of a step's output are kept: BUILDKIT_STEP_LOG_MAX_SIZE, -1 = all."""
    text = environ.get("BUILDKIT_STEP_LOG_MAX_SIZE", "")
    if not text:
        return STEP_LOG_BYTES
    if text == "-1":
        return _UNLIMITED
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InputError(f"BUILDKIT_STEP_LOG_MAX_SIZE is {text!r}", hint="a number of bytes, or -1")
    return int(text)
