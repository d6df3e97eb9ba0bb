"""Knows how the files of a build context bear on checks: what is ignored, what looks secret; must
not know any other check.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from buildgraph.context.ignore import IgnoreRules
from buildgraph.context.remembered import NoStatCache
from buildgraph.context.tree import ContextTree
from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.checks import ignored_source, scopes
from buildgraph.dockerfile.checks_findings import Findings
from buildgraph.dockerfile.scope import Scope
from buildgraph.engine.selecting import select
from buildgraph.errors import BuildgraphError, InputError
from buildgraph.filetree import FileTree, Kind
from buildgraph.graph.lint_secrets import BIGGEST, HEAD_BYTES, what_secret
from buildgraph.graph.ops import ContextSource, ContextSpec, CopyOp

_MOST_READ = 3000  # files of one context
_SHOWN = 3
_ELSEWHERE = ("http://", "https://", "git@", "git://", "ssh://")


def check_files(
    dockerfile: ast.Dockerfile,
    context: ContextSpec,
    build_args: Mapping[str, str],
    environments: Mapping[int, Mapping[str, str]],
    findings: Findings,
) -> None:
    """Report sources of COPY and ADD that are ignored, and files among them that hold secrets.

    What cannot be expanded or read is left to the build. Never raises.
    """
    try:
        rules = IgnoreRules.parse("\n".join(context.ignore), context.ignore_name or context.name)
        tree = ContextTree(context.root, rules, NoStatCache())
    except BuildgraphError:
        return
    with tree:
        secrets = _Secrets(tree)
        for _, one, scope in scopes(dockerfile, build_args, environments):
            if isinstance(one, ast.Add) or (isinstance(one, ast.Copy) and one.from_ is None):
                paths = _paths(one, scope)
                _check_ignored(one, paths, rules, findings)
                _check_secrets(one, paths, tree, secrets, findings)


def _paths(one: ast.Copy | ast.Add, scope: Scope) -> list[str]:
    decided = (scope.decided(source, one) for source in one.sources)
    return [path for path in decided if path and not path.startswith(_ELSEWHERE)]


def _check_ignored(
    one: ast.Copy | ast.Add, paths: list[str], rules: IgnoreRules, findings: Findings
) -> None:
    if any(pattern.startswith("!") for pattern in rules.patterns):
        return
    for path in paths:
        warning = ignored_source(one, path, rules.excludes)
        if warning is not None:
            pattern = rules.excluded_by(path.strip("/"))
            fix = f"add the line '!{path.strip('/')}' below '{pattern}' in {rules.name}"
            findings.add(warning.rule, warning.message, one, word=path, fix=fix)


def _check_secrets(
    one: ast.Copy | ast.Add,
    paths: list[str],
    tree: FileTree,
    secrets: _Secrets,
    findings: Findings,
) -> None:
    found: dict[str, str] = {}
    for path, size in _selected(one, paths, tree):
        if size <= BIGGEST and (words := secrets.words(path)):
            found[path] = words
    if not found:
        return
    shown = [f"{path} ({words})" for path, words in list(found.items())[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    verb = "COPY" if isinstance(one, ast.Copy) else "ADD"
    message = f"{verb} brings {', '.join(shown)}{more} into a layer"
    first = next(iter(found))
    fix = f"list {first} in .dockerignore; a step that needs it: RUN --mount=type=secret,id=…"
    findings.add("SecretFileInLayer", message, one, fix=fix)


def _selected(one: ast.Copy | ast.Add, paths: list[str], tree: FileTree) -> list[tuple[str, int]]:
    """Return the files of the context that an instruction takes, and their sizes."""
    out: dict[str, int] = {}
    for path in paths:
        op = CopyOp(
            source=ContextSource(0),
            paths=(path,),
            inline=(),
            dest="/",
            exclude=one.exclude,
            parents=isinstance(one, ast.Copy) and one.parents,
            unpack=False,
        )
        try:
            selection = select(op, tree, one.where)
        except (BuildgraphError, OSError):
            continue  # not there, or not to be read: the build says so
        for group in selection.groups:
            out.update(
                (item.path, item.stat.size) for item in group.items if item.stat.kind is Kind.FILE
            )
    return list(out.items())


class _Secrets:
    """What secrets the files of a context hold, each file read at most once."""

    def __init__(self, tree: ContextTree):
        self._tree = tree
        self._known: dict[str, str] = {}
        self._left = _MOST_READ

    def words(self, path: str) -> str:
        """Return in words what secret a file holds, "" for none."""
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = what_secret(path, partial(self._head, path))
        return found

    def _head(self, path: str) -> bytes:
        if self._left <= 0:
            return b""
        self._left -= 1
        try:
            fd = self._tree.open(path)
        except (InputError, OSError):
            return b""
        try:
            return os.read(fd, HEAD_BYTES)
        except OSError:
            return b""
        finally:
            os.close(fd)
