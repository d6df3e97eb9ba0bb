"""Knows how to answer `build` when nothing at all has changed since the same command last built;
must not know how anything is built, and imports next to nothing.

The answer is the text the last build ended with. It is given only if every file and directory
that build looked at still has the same stat, what it wrote is still there, the variables that its
Boxfiles read have the same values, and the image is still in the store; else None, and the whole
way is gone. Once a day the whole way is gone anyway, so that the store sees what is in use.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence

from buildgraph import __version__
from buildgraph.cli.places import index_of, say, store_of

# Commands that must do their work again, or whose output is not a few lines of text.
_NOT_ANSWERED = (
    "--pull",
    "--no-cache",
    "-n",
    "--dry-run",
    "--progress=json",
    "json",
    "--progress=rawjson",
    "rawjson",
)
_SWITCHES = (
    "--no-cache",
    "--pull=",
    "--check",
    "--call",
    "--events",
    "--junit",
    "--profile",
    "--report",
)
# Whose command this is; later an ordinary user's process is root of its own namespace.
_WHO = os.geteuid()
_ENVIRONMENT = ("SOURCE_DATE_EPOCH", "XDG_CACHE_HOME", "HOME")


def invocation_key(arguments: Sequence[str]) -> str:
    """Return the key of a command: its words, where it stands, and the variables it reads."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith("BUILDGRAPH_")
    }
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        # A build argument without a value takes it from the environment.
        name = value if flag == "--build-arg" else flag.removeprefix("--build-arg=")
        if name != flag and "=" not in name:
            environ[name] = os.environ.get(name, "\0unset")
    parts = [__version__, os.getcwd(), _WHO, list(arguments), sorted(environ.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def answer(arguments: Sequence[str]) -> bool:
    """Print what the last build said and return True, if nothing has changed since."""
    if any(word in _NOT_ANSWERED or word.startswith(_SWITCHES) for word in arguments):
        return False
    if "GITHUB_STEP_SUMMARY" in os.environ:
        return False  # a summary is written of every build
    index = index_of(store_of(arguments))
    if index is None:
        return False
    from buildgraph_cache.invocation import check

    payload = check(index, invocation_key(arguments))
    if payload is None:
        return False
    value = json.loads(payload)
    if not all(_still_there(*written) for written in value["written"]):
        return False
    # What templates of Boxfiles read.
    if any(os.environ.get(name) != text for name, text in value["env"].items()):
        return False
    say(value["text"])
    return True


def _still_there(path: str, size: int, mtime_ns: int, inode: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns, found.st_ino) == (size, mtime_ns, inode)
