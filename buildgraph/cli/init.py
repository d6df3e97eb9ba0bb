"""Knows the course of `buildgraph init`: which Dockerfiles there are, what is written for them and
what is said of it; must not know how names are found or a Boxfile is spelt.

A directory with a Dockerfile is a target as it is, so a Boxfile is written only where there is
something to say: what a neighbour makes, another context, tags, a second Dockerfile. What is there
is never overwritten.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

import click
from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph import limits
from buildgraph.boxfile.draft import Draft, DraftTarget, Plain, write_boxfile
from buildgraph.boxfile.files import begins_workspace, find_root
from buildgraph.boxfile.imported import plain
from buildgraph.boxfile.loader import BOXFILE
from buildgraph.boxfile.tagging import Known, find_builds
from buildgraph.cli.entry import guarded
from buildgraph.cli.escape import no_commands, safe
from buildgraph.cli.import_ import tell_problems, workspace_name, write_new
from buildgraph.cli.words import plural
from buildgraph.errors import InputError
from buildgraph.graph.siblings import Link, Maker, find_links, outside_names
from buildgraph.label import DEFAULT_NAME, Label, is_package, name_problem

_MAIN: Final = ("Dockerfile", "Containerfile")
_OTHER: Final = re.compile(
    r"(?:Dockerfile|Containerfile)[.-](?P<after>[\w.-]+)|(?P<before>[\w.-]+)\.Dockerfile",
    re.IGNORECASE,
)
_SKIPPED: Final = frozenset(("node_modules", "__pycache__"))
_KEPT_HIDDEN: Final = frozenset((".github", ".circleci"))
_FILES: Final = 200_000  # looked at, before we say that this is no repository


class _Found(Struct):
    """A Dockerfile, or one way of building one, and what is written of it."""

    label: Label
    dockerfile: str  # relative to the root
    known: Known | None = None
    names: list[str] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


@click.command("init")
@click.argument("directory", default=".")
@click.option("-n", "--dry-run", is_flag=True, help="Print what would be written, write nothing.")
@guarded
def command(directory: str, dry_run: bool) -> int:
    """Make DIRECTORY a workspace: find Dockerfiles, link those that use each other's images.

    Names come from compose and bake files, Makefiles, scripts, CI files and directories. A Boxfile
    that is there is left alone.
    """
    root = os.path.realpath(directory)
    if not os.path.isdir(root):
        raise InputError(f"{directory} is no directory")
    name = _own_name(root)
    files = list(_files(root))
    problems: list[str] = []
    found = _targets(root, files, find_builds(root, files, problems), problems)
    if not found:
        raise InputError(f"there is no Dockerfile in {directory}", hint="buildgraph init DIRECTORY")
    _link(found)
    written = _write(root, found, name, dry_run)
    for line in problems:
        click.echo(no_commands(safe(f"warning: {line}")), err=True)
    if not dry_run:
        if written:
            tell_problems(root, "...")
        click.echo(f"{plural(len(found), 'target')}; next: buildgraph list, buildgraph build //...")
    return 0


def _own_name(root: str) -> str | None:
    """Return the name of the workspace to be, None where it is one already.

    Raises InputError inside of another one.
    """
    above = find_root(root)
    if above is not None and above != root and begins_workspace(above):
        raise InputError(f"{root} is in the workspace {above}", hint=f"buildgraph init {above}")
    return workspace_name(root, inside=True)


def _files(root: str) -> Iterator[str]:
    """Yield every file that may matter, relative to the root, in order."""
    count = 0
    for parent, directories, names in os.walk(root):
        here = os.path.relpath(parent, root)
        here = "" if here == "." else here.replace(os.sep, "/") + "/"
        directories[:] = sorted(
            name
            for name in directories
            if name not in _SKIPPED
            and (not name.startswith(".") or name in _KEPT_HIDDEN)
            and not (not here and name == "out")
        )
        if "CACHEDIR.TAG" in names or "pyvenv.cfg" in names or "oci-layout" in names:
            directories[:] = []
            continue
        for name in sorted(names):
            count += 1
            if count > _FILES:
                raise InputError(f"there are more than {_FILES:,} files in {root}")
            yield here + name


# --- targets ----------------------------------------------------------------------------------


def _targets(root: str, files: list[str], builds: list[Known], problems: list[str]) -> list[_Found]:
    out: dict[Label, _Found] = {}
    for path in files:
        directory, _, name = path.rpartition("/")
        target = _name(name)
        if target is None or directory.startswith("."):
            continue
        if not is_package(directory) or name_problem(target):
            problems.append(f"{path} is left out: its name cannot be in a label")
            continue
        label = Label(directory, target)
        if label not in out:
            out[label] = _Found(label, path)
    by_file: dict[str, list[_Found]] = {}
    for one in out.values():
        by_file.setdefault(one.dockerfile, []).append(one)
    for known in builds:
        _assign(out, by_file, known)
    for one in out.values():
        one.names = _names(root, one, problems)
    return sorted(out.values(), key=lambda one: one.label)


def _name(file: str) -> str | None:
    if file in _MAIN:
        return DEFAULT_NAME
    match = _OTHER.fullmatch(file)
    if match is None or file.lower().endswith((".dockerignore", ".md", ".j2", ".tmpl", "~")):
        return None
    return match["after"] or match["before"]


def _assign(out: dict[Label, _Found], by_file: dict[str, list[_Found]], known: Known) -> None:
    """Give a build to the target of its Dockerfile; a second, different one becomes a target."""
    there = by_file.get(known.dockerfile)
    if not there:
        return
    for one in there:
        if one.known is None:
            one.known = known
            return
        mine = (one.known.context, one.known.stage, dict(one.known.args))
        if mine == (known.context, known.stage, dict(known.args)):
            tags = tuple(dict.fromkeys((*one.known.tags, *known.tags)))
            one.known = replace(one.known, tags=tags)
            return
    name = known.name or (known.stage or "")
    label = Label(there[0].label.package, name)
    if not name or name_problem(name) or label in out:
        return
    out[label] = _Found(label, known.dockerfile, known)
    there.append(out[label])


def _names(root: str, one: _Found, problems: list[str]) -> list[str]:
    from buildgraph.dockerfile.parser import parse

    try:
        with open(os.path.join(root, one.dockerfile), "rb") as file:
            parsed = parse(file.read(limits.DOCKERFILE_BYTES + 1), one.dockerfile)
        return outside_names(parsed, one.known.args if one.known else {})
    except InputError as error:
        problems.append(str(error).replace("\n", "; "))
    except OSError as error:
        problems.append(f"{one.dockerfile}: {error.strerror}")
    return []


def _link(found: list[_Found]) -> None:
    makers = [
        Maker(
            str(one.label),
            one.known.tags if one.known else (),
            one.label.package.rpartition("/")[2]
            if one.label.name == DEFAULT_NAME
            else one.label.name,
        )
        for one in found
    ]
    edges: dict[str, set[str]] = {str(one.label): set() for one in found}
    by_build = {(o.known.source, o.known.name): o for o in found if o.known is not None}
    for one in found:
        links = find_links(str(one.label), one.names, makers)
        for name, other in (one.known.contexts if one.known else {}).items():
            assert one.known is not None
            maker = by_build.get((one.known.source, other.removeprefix("target:")))
            if maker is not None and name not in {link.name for link in links}:
                links.append(Link(name, str(maker.label), one.known.source))
        for link in links:
            if not _reaches(edges, link.maker, str(one.label)):
                edges[str(one.label)].add(link.maker)
                one.links.append(link)


def _reaches(edges: dict[str, set[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        here = waiting.pop()
        if here == goal:
            return True
        if here not in seen:
            seen.add(here)
            waiting += edges[here]
    return False


# --- Boxfiles ---------------------------------------------------------------------------------


def _write(root: str, found: list[_Found], name: str | None, dry_run: bool) -> list[str]:
    packages: dict[str, list[_Found]] = {"": []}
    for one in found:
        packages.setdefault(one.label.package, []).append(one)
    written: list[str] = []
    for package, members in packages.items():
        draft = Draft([target for one in members if (target := _draft(one, root))])
        directory = os.path.join(root, package)
        if not package:
            draft.workspace = name
        if not draft.targets and draft.workspace is None:
            continue
        shown = f"{package}/{BOXFILE}" if package else BOXFILE
        if os.path.lexists(os.path.join(directory, BOXFILE)):
            click.echo(f"{safe(shown)} is there already and stays as it is")
            continue
        text = write_boxfile(draft)
        if dry_run:
            click.echo(f"# {safe(shown)}\n{text}", nl=False)
        else:
            written.append(write_new(directory, text))
            click.echo(f"wrote {safe(shown)}")
        for one in members:
            for link in one.links:
                line = f"  {one.label.short}: {link.name} is {link.maker}, by {link.by}"
                click.echo(no_commands(safe(line)), err=dry_run)
    return written


def _draft(one: _Found, root: str) -> DraftTarget | None:
    """Return what has to be written of a target, None where its Dockerfile says it all."""
    package = one.label.package
    directory, _, file = one.dockerfile.rpartition("/")
    fields: dict[str, Plain] = {}
    if file not in _MAIN or directory != package:
        fields["dockerfile"] = plain(os.path.relpath(one.dockerfile, package or "."))
    known = one.known
    if known is not None:
        if known.context != package:
            fields["context"] = plain(os.path.relpath(known.context or ".", package or "."))
        if known.stage:
            fields["stage"] = known.stage
        args: dict[str, Plain] = {
            name: plain(value)
            for name, value in known.args.items()
            if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)
        }
        if args:
            fields["args"] = args
        tags: list[Plain] = [plain(tag) for tag in dict.fromkeys(known.tags) if "$" not in tag]
        if tags:
            fields["tags"] = tags
    if one.links:
        fields["contexts"] = {link.name: _nearest(link.maker, package) for link in one.links}
    if not fields:
        return None
    notes = [f"from {known.source}"] if known is not None else []
    return DraftTarget(one.label.name, fields, notes)


def _nearest(label: str, package: str) -> str:
    owner, _, name = label[2:].partition(":")
    return f":{name}" if owner == package else label
