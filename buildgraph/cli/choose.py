"""Knows what the words after `build` mean: labels and patterns, or what docker takes there: a
directory, a stream, a repository, a server; must not know what is done with what they mean.
"""

from __future__ import annotations

import json
import os

from msgspec.structs import replace

from buildgraph.boxfile.files import find_root
from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.contexts import (
    STDIN,
    dockerfile_of,
    fetch_context,
    fetch_named,
    is_remote,
    read_dockerfile,
)
from buildgraph.cli.opening import workspace_at
from buildgraph.cli.session import Session
from buildgraph.engine.prepare import Overrides
from buildgraph.errors import InputError
from buildgraph.label import Label

# Stands where a target must have a Dockerfile and the command line gives another.
_PLACEHOLDER = "FROM scratch\n"


def choose(
    session: Session, words: tuple[str, ...], file: str | None
) -> tuple[Workspace, list[Label]]:
    """Return the workspace and the targets that are meant; none given means the directory's own.

    What is not on this machine yet is fetched, and lasts as long as the session. stdin is read at
    most once. Raises InputError, HostError.
    """
    if file == STDIN and STDIN in words:
        raise InputError("stdin cannot be both the context and the Dockerfile")
    _fetch_named_contexts(session)
    if len(words) == 1 and is_remote(words[0]):
        return _remote(session, words[0], file)
    if file is not None:
        return _directory(session, words, file)
    if len(words) == 1 and _is_outside(session, words[0]):
        directory = os.path.realpath(words[0])
        workspace = _open(session, find_root(directory) or directory)
        return workspace, workspace.expand(["."], directory)
    return session.workspace, session.workspace.expand(words or ["."], session.package)


def _is_outside(session: Session, word: str) -> bool:
    """Say whether a word is a directory that the current workspace does not hold."""
    if word.startswith("//") or not os.path.isdir(word):
        return False
    real = os.path.realpath(word)
    root = session.workspace.root.rstrip("/") + "/"
    return real != session.workspace.root and not real.startswith(root)


def _directory(
    session: Session, words: tuple[str, ...], file: str
) -> tuple[Workspace, list[Label]]:
    """`build -f FILE PATH`: a target made up for the occasion, in a workspace that holds both."""
    if len(words) != 1:
        raise InputError("-f goes with exactly one PATH", hint="buildgraph build -f FILE PATH")
    context = os.path.realpath(words[0])
    if not os.path.isdir(context):
        raise InputError(f"{words[0]} is no directory", hint="-f goes with a PATH, not a label")
    if file == STDIN or "://" in file or _is_pipe(file):
        _override(session, dockerfile=read_dockerfile(session, file))
        inside = context == session.workspace.root or not _is_outside(session, context)
        workspace = _open(session, session.workspace.root if inside else context)
        return workspace, _declare(workspace, context, {"dockerfile_inline": _PLACEHOLDER})
    dockerfile = os.path.abspath(file)
    if not os.path.isfile(dockerfile):
        raise InputError(f"there is no file {file}")
    root = session.workspace.root
    if os.path.commonpath([root, context, dockerfile]) != root:
        root = os.path.commonpath([context, os.path.dirname(dockerfile)])
    workspace = _open(session, root)
    where = os.path.relpath(dockerfile, context)
    return workspace, _declare(workspace, context, {"dockerfile": where})


def _remote(session: Session, word: str, file: str | None) -> tuple[Workspace, list[Label]]:
    """`build -`, `build URL`: a target made up for the occasion, in a workspace of its own."""
    fetched = fetch_context(session, word)
    if fetched.dockerfile is not None and file is not None:
        raise InputError(
            f"-f {file} and {word} are both the Dockerfile", hint="leave -f out, or give an archive"
        )
    if file is not None and (file == STDIN or "://" in file):
        dockerfile = read_dockerfile(session, file)
    else:
        dockerfile = fetched.dockerfile or dockerfile_of(fetched, file)
    _override(session, context=fetched.spec, dockerfile=dockerfile)
    # An empty directory: what a stranger's archive holds is no Boxfile of ours.
    directory = session.hold(session.store.new_scratch()).directory("workspace")
    os.mkdir(os.path.join(directory, fetched.name))
    workspace = _open(session, directory)
    context = os.path.join(workspace.root, fetched.name)
    return workspace, _declare(workspace, context, {"dockerfile_inline": _PLACEHOLDER})


def _open(session: Session, root: str) -> Workspace:
    session.workspace = workspace_at(root)
    return session.workspace


def _declare(workspace: Workspace, context: str, attributes: dict[str, str]) -> list[Label]:
    package = os.path.relpath(context, workspace.root)
    package = "" if package == "." else package
    workspace.declare(package, json.dumps({"targets": {"image": attributes}}))
    return [Label(package, "image")]


def _is_pipe(file: str) -> bool:
    return os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file)


def _fetch_named_contexts(session: Session) -> None:
    """Bring named contexts that are repositories or archives of a server here."""
    contexts = session.settings.overrides.contexts
    if not any(isinstance(value, str) and is_remote(value) for _, value in contexts):
        return
    fetched = tuple(
        (name, fetch_named(session, name, value))
        if isinstance(value, str) and is_remote(value)
        else (name, value)
        for name, value in contexts
    )
    _override(session, contexts=fetched)


def _override(session: Session, **changes: object) -> None:
    """Change what the command line asks for, now that it is known what it means."""
    overrides: Overrides = replace(session.settings.overrides, **changes)
    session.settings = replace(session.settings, overrides=overrides)


def lasts(overrides: Overrides) -> bool:
    """Say whether all that was read lies where a later command can look at it again."""
    specs = [overrides.context, *(value for _, value in overrides.contexts)]
    return overrides.dockerfile is None and all(isinstance(s, str) or s is None for s in specs)
