"""Knows which orders of instructions make steps run again for nothing, and what package managers
leave in a layer; must not know files or images.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping

from msgspec import Struct

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.checks import scopes
from buildgraph.dockerfile.checks_findings import Findings
from buildgraph.graph.lint_shell import SYSTEM, Install, commands, installs, text_of
from buildgraph.graph.lint_stages import StageGraph

_MOST_INSTRUCTIONS = 2000
_APT = ("apt-get", "apt", "aptitude")
_LISTS = "/var/lib/apt/lists"
_LISTS_GO = re.compile(r"(?:\brm\b|\bfind\b)[^\n;&|]*/var/lib/(?:apt|\{)|\bdist-?clean\b")
_APT_VERBS = frozenset(
    "install upgrade dist-upgrade full-upgrade build-dep source download satisfy reinstall".split()
)
_SOURCES = frozenset("src app lib source sources cmd internal pkg code".split())
# Of this build, by the words of CI systems. LLVM_COMMIT and its kin pin somebody else's.
_CHANGES = re.compile(
    r"(?:CI_|APP_|GIT_|SOURCE_)?COMMIT(?:_(?:SHA|HASH|ID|SHORT_SHA))?"
    r"|(?:GIT|COMMIT|SHORT|GITHUB|CIRCLE)_(?:SHA1?|HASH|REV|REVISION|DESCRIBE)"
    r"|GITHUB_RUN_(?:ID|NUMBER)|VCS_(?:REF|REVISION)|REVISION"
    r"|BUILD_?(?:DATE|TIME|TIMESTAMP|NUMBER|ID)|(?:BUILD_)?TIMESTAMP",
    re.IGNORECASE,
)
_PLACEHOLDERS = frozenset(
    ("", "unknown", "dev", "development", "none", "local", "head", "n/a", "0", "unset", "undefined")
)


class _Run(Struct, frozen=True):
    """A RUN with what matters of it here."""

    at: int  # its place in the stage
    run: ast.Run
    installs: list[Install]


def check_layers(
    dockerfile: ast.Dockerfile,
    graph: StageGraph,
    asked: Collection[int],
    build_args: Mapping[str, str],
    environments: Mapping[int, Mapping[str, str]],
    findings: Findings,
) -> None:
    """Run the checks of this module over all stages; `asked` are those that become images."""
    if sum(len(stage.body) for stage in dockerfile.stages) > _MOST_INSTRUCTIONS:
        return  # a program wrote it, and every pair of lines is looked at here
    final = graph.bases_of([*asked, len(dockerfile.stages) - 1])
    runs = [_runs_of(stage) for stage in dockerfile.stages]
    for index, stage in enumerate(dockerfile.stages):
        _check_copies(stage, runs[index], findings)
        _check_changing_args(stage, runs[index], findings)
    _check_apt(graph, final, runs, findings)
    _check_pip(dockerfile, final, build_args, environments, findings)


def _runs_of(stage: ast.StageText) -> list[_Run]:
    return [
        _Run(at, one, installs(one))
        for at, one in enumerate(stage.body)
        if isinstance(one, ast.Run)
    ]


# --- orders ------------------------------------------------------------------------------------


def _check_copies(stage: ast.StageText, runs: list[_Run], findings: Findings) -> None:
    """Report a COPY of sources above the first RUN that installs what the sources only use."""
    known: set[str] = set()  # families of what was installed above
    above = {run.at: [install.family for install in run.installs] for run in runs}
    for at, one in enumerate(stage.body):
        known.update(above.get(at, ()))
        if not isinstance(one, ast.Copy | ast.Add):
            continue
        source = _sources(one)
        if source is None:
            continue
        if one.dest == "/":
            known |= SYSTEM  # whose configuration may be what is copied
        run, install = _next_install(runs, at, known)
        if run is None or install is None:
            continue
        line = run.run.where.line
        verb = "COPY" if isinstance(one, ast.Copy) else "ADD"
        rule = "CacheBustingOrder" if source == ".git" else "CopyBustsDependencies"
        message = (
            f"{verb} {source} stands above line {line} ({install.shown}), which runs again "
            f"whenever {'a commit is made' if source == '.git' else 'any of its files changes'}"
        )
        findings.add(rule, message, one, word=source, fix=_order_fix(install, line))
        return  # the first one busts the cache, whatever the others do


def _order_fix(install: Install, line: int) -> str:
    if not install.manifests:
        return f"move line {line} above it"
    names = " ".join(install.manifests)
    return f"copy {names} alone, RUN {install.shown}, and copy the rest after it"


def _sources(one: ast.Copy | ast.Add) -> str | None:
    """Return the source that brings a lot of what changes often, None if there is none."""
    if isinstance(one, ast.Copy) and (one.from_ is not None or one.parents):
        return None
    for source in one.sources:
        path = posixpath.normpath("/" + source.lstrip("/")).lstrip("/")
        if path in ("", "*"):
            return source
        if path == ".git" or path in _SOURCES:
            return source.rstrip("/")
    return None


def _next_install(
    runs: list[_Run], at: int, known: Collection[str]
) -> tuple[_Run | None, Install | None]:
    for run in runs:
        if run.at < at or any(mount.type in ("cache", "bind") for mount in run.run.mounts):
            continue  # what it downloads is kept, or what it reads is not what was copied
        for install in run.installs:
            if install.family not in known:
                return run, install
    return None, None


def _check_changing_args(stage: ast.StageText, runs: list[_Run], findings: Findings) -> None:
    for at, one in enumerate(stage.body):
        if not isinstance(one, ast.Arg):
            continue
        for name, default in one.pairs:
            if not _CHANGES.fullmatch(name) or (default or "").lower() not in _PLACEHOLDERS:
                continue
            busted = [
                run
                for run in runs
                if run.at > at and run.installs and not re.search(rf"\b{name}\b", text_of(run.run))
            ]
            if busted:
                first, last = busted[0], busted[-1]
                message = (
                    f"ARG {name} changes from build to build, and line {first.run.where.line} "
                    f"({first.installs[0].shown}) runs again whenever it does"
                )
                fix = f"declare it below line {last.run.where.line}"
                findings.add("CacheBustingOrder", message, one, word=name, fix=fix)


# --- what is left behind -----------------------------------------------------------------------


def _check_apt(
    graph: StageGraph, final: Collection[int], runs: list[list[_Run]], findings: Findings
) -> None:
    """Report package lists that stay in an image, and lists that are older than the installs."""
    for index, here in enumerate(runs):
        for run in here:
            verbs = _apt_verbs(run.run)
            if "update" not in verbs:
                continue
            later = _stale_install(graph, runs, index, run) if not verbs & _APT_VERBS else None
            if later is not None:
                message = (
                    f"apt-get update stands alone, so line {later} installs from lists as old as "
                    "this step's cache"
                )
                fix = "apt-get update && apt-get install … in one RUN"
                findings.add("AptUpdateAlone", message, run.run, fix=fix)
            elif index in final and not _lists_go(run.run):
                message = "apt's package lists stay in the layer"
                fix = "add `&& rm -rf /var/lib/apt/lists/*` to this RUN"
                findings.add("AptListsLeft", message, run.run, fix=fix)


def _apt_verbs(run: ast.Run) -> set[str]:
    found: set[str] = set()
    for words in commands(run) if "apt" in text_of(run) else ():
        if words[0] in _APT:
            plain = [word for word in words[1:] if not word.startswith("-")]
            found.update(plain[:2])
    return found


def _stale_install(
    graph: StageGraph, runs: list[list[_Run]], index: int, after: _Run
) -> int | None:
    """Return the line of an install further down that has no update of its own."""
    for child in (index, *(i for i, parent in enumerate(graph.parents) if parent == index)):
        for run in runs[child]:
            if child == index and run.at <= after.at:
                continue
            verbs = _apt_verbs(run.run)
            if "update" in verbs:
                break
            if "install" in verbs:
                return run.run.where.line
    return None


def _lists_go(run: ast.Run) -> bool:
    if _LISTS_GO.search(text_of(run)):
        return True
    return _mounted(run, _LISTS)


def _mounted(run: ast.Run, path: str) -> bool:
    """Say whether a mount keeps what is written to `path` out of the layer."""
    for mount in run.mounts:
        target = dict(mount.options).get("target", "")
        if mount.type in ("cache", "tmpfs") and (
            "$" in target or f"{path}/".startswith(target.rstrip("/") + "/")
        ):
            return True
    return False


def _check_pip(
    dockerfile: ast.Dockerfile,
    final: Collection[int],
    build_args: Mapping[str, str],
    environments: Mapping[int, Mapping[str, str]],
    findings: Findings,
) -> None:
    for index, one, scope in scopes(dockerfile, build_args, environments):
        if index not in final or not isinstance(one, ast.Run):
            continue
        text = text_of(one)
        if "pip" not in text:
            continue
        if "PIP_NO_CACHE_DIR" in scope.names or "PIP_NO_CACHE_DIR" in text or ".cache" in text:
            continue
        if any(mount.type in ("cache", "tmpfs") for mount in one.mounts):
            continue
        if any(map(_keeps_downloads, commands(one))):
            message = "pip's cache of downloads stays in the layer"
            fix = "pip install --no-cache-dir …, or a cache mount on /root/.cache/pip"
            findings.add("PipCacheLeft", message, one, fix=fix)


def _keeps_downloads(words: list[str]) -> bool:
    if words[0] not in ("pip", "pip3") or "install" not in words[1:3]:
        return False
    options = {word.partition("=")[0] for word in words}
    return not options & {"--no-cache-dir", "--no-index", "--cache-dir"}
