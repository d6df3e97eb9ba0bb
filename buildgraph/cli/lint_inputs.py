"""Knows which Dockerfiles and Boxfiles the words after `lint` mean, and reads them as a build
would; must not know any check.

A word is what `build` takes, or a directory with packages below it, or a file. A Dockerfile that
no target is made of is looked at alone: nobody knows its context then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from msgspec import Struct

from buildgraph import limits
from buildgraph.boxfile.files import begins_workspace, find_root
from buildgraph.boxfile.loader import BOXFILE
from buildgraph.boxfile.target import DockerfileAt, ImageTarget, group_target, image_target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.opening import workspace_at
from buildgraph.dockerfile.directives import check_frontend
from buildgraph.dockerfile.parser import parse
from buildgraph.engine.prepare import DEFAULT_EPOCH, Overrides, Preparer
from buildgraph.errors import InputError, Location
from buildgraph.graph.lower import TargetInput
from buildgraph.graph.ops import ContextSpec
from buildgraph.graph.stage_ir import BuildArgs
from buildgraph.label import Label, parse_label
from buildgraph.oci.types import Platform

STDIN = "-"


class Subject(Struct, frozen=True):
    """One Dockerfile as one target, or nobody, reads it."""

    input: TargetInput
    target: ImageTarget | None = None
    text: bytes | None = None  # where it is no file of the workspace
    knows_context: bool = True


class Subjects(Struct):
    """What is to be looked at, and what could not be read."""

    found: list[Subject]
    errors: list[InputError]
    boxfiles: list[str]
    whole: bool = False  # every target of the workspace is among them


class Reader:
    """Reads the targets and files of one workspace; nothing is built, fetched or stored."""

    def __init__(self, workspace: Workspace, host: Platform, overrides: Overrides):
        self.workspace = workspace
        self._host = host
        self._overrides = overrides
        self.given = overrides.dockerfile  # what came over stdin: its name and text
        self._preparer = Preparer(
            workspace,
            epoch=DEFAULT_EPOCH,
            host=host,
            overrides=overrides,
            resolve_rule=_never,
            load_image=_never,
        )

    def base(self, label: str, platform: Platform) -> TargetInput | Mapping[str, str] | None:
        """Return what a base that is a target is read with, or the variables its rule gives."""
        target = self.workspace.target(parse_label(label, ""))
        if target.rule == "image":
            return self._preparer.read(target.label, requested=False)[0]
        return dict(target.pairs("env")) if "env" in target.attrs else None

    def labels(self, labels: Iterable[Label]) -> Subjects:
        """Read targets; groups are opened, and what is not made of a Dockerfile left out."""
        out = Subjects([], [], [])
        wanted: list[Label] = []
        for label in labels:
            target = self.workspace.target(label)
            if target.rule == "group":
                try:
                    wanted += self.workspace.members(group_target(target))
                except InputError as error:
                    out.errors.append(error)
            wanted.append(label)
        try:
            self.workspace.closure(wanted)
        except InputError as error:
            out.errors.append(error)
        packages: dict[str, None] = {}
        for label in dict.fromkeys(wanted):
            target = self.workspace.target(label)
            packages[label.package] = None
            if target.rule != "image":
                continue
            try:
                inputs = self._preparer.read(label, requested=True)
            except InputError as error:
                out.errors.append(error)
                continue
            out.found += [Subject(one, image_target(target)) for one in inputs]
        for path in packages:
            name = self.workspace.package(path).boxfile
            out.boxfiles += [name] if name is not None else []
        return out

    def file(self, text: bytes, shown: str, context: str | None) -> Subject:
        """Read a Dockerfile that no target is made of. Raises InputError."""
        dockerfile = parse(text, shown)
        args = dict(self._overrides.args)
        check_frontend(dockerfile.directives, shown, args.get("BUILDKIT_SYNTAX", ""))
        build = BuildArgs(args, self._host, self._host, DEFAULT_EPOCH, frozenset())
        spec = ContextSpec(context or self.workspace.root, _ignored(context), "context")
        made = TargetInput(shown, dockerfile, spec, {}, build, self._overrides.stage)
        return Subject(made, None, text, context is not None)


def read_words(reader: Reader, package: str, words: Sequence[str], file: str | None) -> Subjects:
    """Return what the words mean; none mean everything in and below the directory `package`."""
    workspace = reader.workspace
    if file is not None:
        return _alone(reader, file, words)
    labels: list[Label] = []
    files: list[str] = []
    problems: list[InputError] = []
    below = f"//{package}/..." if package else "//..."
    for word in words or [below]:
        if word == STDIN or (os.path.isfile(word) and not word.startswith("//")):
            files.append(word)
            continue
        try:
            labels += _expand(workspace, word, package)
        except InputError as error:
            problems.append(error)
    alone: list[Subject] = []
    for name in files:
        try:
            known = _labels_of_file(workspace, name)
            labels += known
            if not known:
                alone.append(reader.file(*_read(workspace, name), None))
        except InputError as error:
            problems.append(error)
    out = reader.labels(dict.fromkeys(labels))
    out.found += alone
    out.errors += problems
    out.whole = (not words and not package) or "//..." in words
    return out


def workspace_of(words: Sequence[str], cwd: str) -> tuple[Workspace, str]:
    """Open the workspace of the current directory, or of the one directory that is meant."""
    at, root = cwd, find_root(cwd) or cwd
    if len(words) == 1 and not words[0].startswith("//") and os.path.isdir(words[0]):
        there = os.path.realpath(words[0])
        other = find_root(there) or there
        if not _inside(there, root) or (other != root and begins_workspace(other)):
            at, root = there, other
    workspace = workspace_at(root)
    return workspace, workspace.package_of(at)


def _inside(path: str, directory: str) -> bool:
    return f"{path}/".startswith(directory.rstrip("/") + "/")


def _expand(workspace: Workspace, word: str, package: str) -> list[Label]:
    if os.path.isdir(word) and not word.startswith("//"):
        # A directory means its targets, as for build, or those below where it has none.
        here = workspace.package_of(os.path.abspath(word))
        try:
            return workspace.expand([f"//{here}:all" if here else "//:all"])
        except InputError:
            if workspace.discover(here) in ([], [here]):
                raise
            return workspace.expand([f"//{here}/..." if here else "//..."])
    return workspace.expand([word], package)


def _labels_of_file(workspace: Workspace, name: str) -> list[Label]:
    """Return the targets that a Boxfile holds, or that are made of a Dockerfile."""
    real = os.path.realpath(name)
    inside = real.startswith(workspace.root.rstrip("/") + "/")
    if name == STDIN or not inside:
        return []
    path = os.path.relpath(real, workspace.root)
    directory, _, base = path.rpartition("/")
    other = find_root(real)
    if other is not None and other != workspace.root and begins_workspace(other):
        return []  # a workspace inside this one has targets of its own
    if base == BOXFILE:
        return workspace.expand([f"//{directory}:all"])
    parts = directory.split("/") if directory else []
    found: list[Label] = []
    for count in range(len(parts), -1, -1):  # the package that holds it, then those above
        at = "/".join(parts[:count])
        if at in workspace.discover(at)[:1]:
            found += _made_of(workspace, at, path)
    return found


def _made_of(workspace: Workspace, package: str, path: str) -> list[Label]:
    found = []
    for target in workspace.package(package).targets.values():
        if target.rule == "image":
            made_of = image_target(target).dockerfile
            if isinstance(made_of, DockerfileAt) and made_of.path == path:
                found.append(target.label)
    return found


def _alone(reader: Reader, file: str, words: Sequence[str]) -> Subjects:
    """`lint -f FILE [PATH]`: one Dockerfile, with the context it is built in where one is given."""
    if len(words) > 1 or (words and not os.path.isdir(words[0])):
        raise InputError("-f goes with one PATH", hint="buildgraph lint -f FILE [PATH]")
    text, shown = _read(reader.workspace, file)
    context = os.path.realpath(words[0]) if words else None
    try:
        return Subjects([reader.file(text, shown, context)], [], [])
    except InputError as error:
        return Subjects([], [error], [])


def _read(workspace: Workspace, name: str) -> tuple[bytes, str]:
    if name == STDIN:
        return sys.stdin.buffer.read(limits.DOCKERFILE_BYTES + 1), "<stdin>"
    real = os.path.realpath(name)
    try:
        with open(real, "rb") as opened:
            data = opened.read(limits.DOCKERFILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}", Location(name)) from error
    inside = real.startswith(workspace.root.rstrip("/") + "/")
    return data, os.path.relpath(real, workspace.root) if inside else name


def _ignored(context: str | None) -> tuple[str, ...]:
    if context is None:
        return ()
    try:
        with open(os.path.join(context, ".dockerignore"), "rb") as file:
            return tuple(
                file.read(limits.BOXFILE_BYTES).decode(errors="surrogateescape").split("\n")
            )
    except OSError:
        return ()


def _never(*_: object) -> NoReturn:
    raise AssertionError("nothing is resolved while targets are only read")
