"""Knows what the words after `build` mean: labels and patterns, or a directory as docker takes it;
must not know what is done with what they mean.
"""

from __future__ import annotations

import json
import os

from buildgraph.boxfile.files import find_root
from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.session import Session
from buildgraph.errors import InputError
from buildgraph.label import Label


def choose(
    session: Session, words: tuple[str, ...], file: str | None
) -> tuple[Workspace, list[Label]]:
    """Return the workspace and the targets that are meant; none given means the directory's own."""
    if file is not None:
        return _docker(session, words, file)
    if len(words) == 1 and _is_outside(session, words[0]):
        from buildgraph_rules.registry import rule_specs

        directory = os.path.realpath(words[0])
        root = find_root(directory) or directory
        workspace = Workspace.open(root, rules=rule_specs())
        session.workspace = workspace
        return workspace, workspace.expand(["."], directory)
    return session.workspace, session.workspace.expand(words or ["."], session.package)


def _is_outside(session: Session, word: str) -> bool:
    """Say whether a word is a directory that the current workspace does not hold."""
    if word.startswith("//") or not os.path.isdir(word):
        return False
    real = os.path.realpath(word)
    root = session.workspace.root.rstrip("/") + "/"
    return real != session.workspace.root and not real.startswith(root)


def _docker(session: Session, words: tuple[str, ...], file: str) -> tuple[Workspace, list[Label]]:
    """`build -f FILE PATH`: a target made up for the occasion, in a workspace that holds both."""
    if len(words) != 1:
        raise InputError("-f goes with exactly one PATH", hint="buildgraph build -f FILE PATH")
    context, dockerfile = os.path.realpath(words[0]), os.path.abspath(file)
    if not os.path.isdir(context):
        raise InputError(f"{words[0]} is no directory", hint="-f goes with a PATH, not a label")
    if not os.path.isfile(dockerfile):
        raise InputError(f"there is no file {file}")
    root = session.workspace.root
    if os.path.commonpath([root, context, dockerfile]) != root:
        root = os.path.commonpath([context, os.path.dirname(dockerfile)])
    from buildgraph_rules.registry import rule_specs

    workspace = Workspace.open(root, rules=rule_specs())
    session.workspace = workspace
    package = os.path.relpath(context, root)
    package = "" if package == "." else package
    attributes = {"dockerfile": os.path.relpath(dockerfile, context)}
    workspace.declare(package, json.dumps({"targets": {"image": attributes}}))
    return workspace, [Label(package, "image")]
