"""Knows where a repository says how its images are built and called: compose and bake files,
Makefiles, scripts, CI; must not know what a Dockerfile says.

Scripts are read as text, never run: of a command `docker build` (and its kin) the tags, the
Dockerfile, the context, the stage and plain arguments are taken, with the variables that the same
file sets. What cannot be understood is passed over.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct, field

from buildgraph import limits
from buildgraph.boxfile import yaml
from buildgraph.boxfile.bake import read_bake
from buildgraph.boxfile.compose_import import read_builds
from buildgraph.boxfile.imported import DOCKERFILE, Imported
from buildgraph.errors import InputError

COMPOSE: Final = re.compile(r"(docker-)?compose(\.[\w-]+)?\.ya?ml")
BAKE: Final = re.compile(r"docker-bake(\.[\w-]+)?\.(hcl|json)")
_MAKE: Final = re.compile(r"GNUmakefile|[Mm]akefile|.+\.mk|[Jj]ustfile|Jenkinsfile")
_SCRIPT: Final = re.compile(r".+\.(sh|bash)")
_CI: Final = re.compile(
    r"\.gitlab-ci\.ya?ml|\.circleci/config\.ya?ml|azure-pipelines\.ya?ml|cloudbuild\.ya?ml"
    r"|Taskfile\.ya?ml|\.github/workflows/[^/]+\.ya?ml|\.woodpecker\.ya?ml"
)
_ASSIGNMENT: Final = re.compile(
    r"^[ \t-]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*(?::=|\?=|=|:(?=[ \t]))[ \t]*(\S.*?)[ \t]*$",
    re.MULTILINE,
)
_VARIABLE: Final = re.compile(r"\$(?:\$?\{(\w+)(?::-([^}]*))?\}|\((\w+)\)|\$?(\w+))")
_BUILD: Final = re.compile(
    r"\b(?:docker|podman|buildah|nerdctl)\s+(?:buildx\s+|image\s+)?(?:build|bud)\s"
)
_ENDS: Final = re.compile(r"(?:&&|\|\||[;|&>]|\s#)")
_ONE_WORD: Final = frozenset(  # flags of docker build that take no value
    "--pull --no-cache --push --load --rm --force-rm --squash --quiet -q --compress -D".split()
)


class Known(Struct, frozen=True):
    """A build that some file tells of; paths are relative to the root, "" is the root."""

    source: str  # "compose.yaml", "Makefile:12"
    name: str
    context: str
    dockerfile: str
    tags: tuple[str, ...] = ()
    stage: str | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)


def find_builds(root: str, files: list[str], problems: list[str]) -> list[Known]:
    """Return the builds that the files (relative to `root`) tell of; what cannot be read is said
    in `problems`.
    """
    out: list[Known] = []
    for path in files:
        name = path.rpartition("/")[2]
        declared = COMPOSE.fullmatch(name) or BAKE.fullmatch(name)
        scripted = _MAKE.fullmatch(name) or _SCRIPT.fullmatch(name) or _CI.fullmatch(path)
        if not declared and not scripted:
            continue
        text = _read(os.path.join(root, path))
        if text is None:
            continue
        if declared:
            try:
                out += _declared(root, path, text)
            except InputError as error:
                problems.append(f"{path} was not understood: {error}".replace("\n", "; "))
        else:
            out += _scripted(root, path, text)
    return out


def _read(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            data = file.read(limits.BOXFILE_BYTES + 1)
    except OSError:
        return None
    return None if len(data) > limits.BOXFILE_BYTES else data.decode("utf-8", "replace")


def _declared(root: str, path: str, text: str) -> Iterator[Known]:
    directory = path.rpartition("/")[0]
    if COMPOSE.fullmatch(path.rpartition("/")[2]):
        builds = read_builds(text, path, _read(os.path.join(root, directory, ".env")) or "").builds
    else:
        builds = read_bake(text, path).builds
    for build in builds:
        found = _known(root, path, directory, build)
        if found is not None:
            yield found


def _known(root: str, source: str, directory: str, build: Imported) -> Known | None:
    context = _inside(directory, build.context)
    if context is None or build.inline is not None:
        return None
    dockerfile = _inside(context, build.dockerfile or DOCKERFILE)
    if dockerfile is None or not os.path.isfile(os.path.join(root, dockerfile)):
        return None
    contexts = {k: v for k, v in build.contexts.items() if v.startswith("target:")}
    return Known(
        source,
        build.name,
        context,
        dockerfile,
        tuple(build.tags),
        build.stage,
        build.args,
        contexts,
    )


def _inside(directory: str, path: str) -> str | None:
    """Return a path below the root, None for one that leaves it or is none."""
    if "$" in path or "://" in path or path.startswith(("/", "~")):
        return None
    found = os.path.normpath(os.path.join(directory, path)).replace(os.sep, "/")
    if found == ".." or found.startswith("../"):
        return None
    return "" if found == "." else found


# --- scripts ----------------------------------------------------------------------------------


def _scripted(root: str, path: str, text: str) -> Iterator[Known]:
    variables: dict[str, str] = {}
    for match in _ASSIGNMENT.finditer(text):
        variables.setdefault(match[1], match[2].strip("\"'"))
    joined = re.sub(r"\\\r?\n", lambda m: " \0", text)  # NUL: a line was joined here
    for number, line in _numbered(joined):
        for match in _BUILD.finditer(line):
            words = _words(_ENDS.split(line[match.end() :])[0].replace("\0", " "), variables)
            yield from _command(root, f"{path}:{number}", path.rpartition("/")[0], words)
    if path.startswith(".github/"):
        yield from _actions(root, path, text)


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    number = 1
    for line in text.split("\n"):
        yield number, line
        number += 1 + line.count("\0")


def _words(text: str, variables: Mapping[str, str]) -> list[str]:
    for _ in range(4):  # variables in variables
        text = _VARIABLE.sub(
            lambda m: variables.get(m[1] or m[3] or m[4] or "", m[2] or m[0]), text
        )
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


class _Words(Struct):
    """The words of a `docker build` that matter."""

    tags: list[str] = field(default_factory=list)
    args: dict[str, str] = field(default_factory=dict)
    dockerfile: str | None = None
    stage: str | None = None
    place: str | None = None


def _command(root: str, source: str, directory: str, words: list[str]) -> Iterator[Known]:
    said = _sorted_out(words)
    for base in dict.fromkeys(("", directory)):  # from the root, else from beside the script
        context = _inside(base, said.place) if said.place else None
        if context is None:
            continue
        found = _inside(base, said.dockerfile) if said.dockerfile else _inside(context, DOCKERFILE)
        if found is not None and os.path.isfile(os.path.join(root, found)):
            yield Known(
                source, _short(said.tags), context, found, tuple(said.tags), said.stage, said.args
            )
            return


def _sorted_out(words: list[str]) -> _Words:
    out = _Words()
    at = 0
    while at < len(words):
        word = words[at]
        flag, equals, value = word.partition("=")
        at += 1
        if not word.startswith("-") or word == "-":
            out.place = word
            continue
        if not equals and flag not in _ONE_WORD and at < len(words):
            value = words[at]
            at += 1
        if flag in ("-t", "--tag"):
            out.tags.append(value)
        elif flag in ("-f", "--file"):
            out.dockerfile = value
        elif flag == "--target":
            out.stage = value
        elif flag == "--build-arg" and "=" in value and "$" not in value:
            name, _, text = value.partition("=")
            out.args[name] = text
    return out


def _short(tags: list[str] | tuple[str, ...]) -> str:
    return tags[0].rpartition("/")[2].partition(":")[0] if tags else ""


def _actions(root: str, path: str, text: str) -> Iterator[Known]:
    """Yield the builds of docker/build-push-action steps of a workflow."""
    node = yaml.compose(text, path, [])
    for step in _steps(node):
        uses, given = step.get("uses"), step.get("with")
        if uses is None or given is None or not isinstance(uses.value, yaml.Scalar):
            continue
        if "build-push-action" not in uses.value.text or not isinstance(given.value, yaml.Mapping):
            continue
        values = {
            e.key.text: e.value.text
            for e in given.value.entries
            if isinstance(e.value, yaml.Scalar)
        }
        context = _inside("", values.get("context", "."))
        if context is None:
            continue
        dockerfile = (
            _inside("", values["file"]) if "file" in values else _inside(context, DOCKERFILE)
        )
        if dockerfile is None or not os.path.isfile(os.path.join(root, dockerfile)):
            continue
        tags = tuple(t for t in re.split(r"[,\s]+", values.get("tags", "")) if t and "{{" not in t)
        yield Known(
            f"{path}:{uses.key.where.line}",
            _short(tags),
            context,
            dockerfile,
            tags,
            values.get("target"),
        )


def _steps(node: yaml.Node | None) -> Iterator[yaml.Mapping]:
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if isinstance(here, yaml.Mapping):
            if here.get("uses") is not None:
                yield here
            waiting += [entry.value for entry in reversed(here.entries)]
        elif isinstance(here, yaml.Sequence):
            waiting += reversed(here.items)
