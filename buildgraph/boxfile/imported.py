"""Knows a build as compose and bake describe it, and how it becomes a target of a Boxfile; must not
know the syntax of either.

Paths of the other tool are relative to its file or absolute; a Boxfile's are relative to itself.
What a target cannot say is noted: nothing is dropped in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field

from buildgraph.boxfile.draft import Draft, DraftTarget, Plain
from buildgraph.label import name_problem

_REMOTE: Final = re.compile(r"[a-z][a-z0-9+.-]*://|git@|github\.com/")
_ARGUMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEPT: Final = re.compile("\ue000([A-Za-z0-9_]+)\ue001")  # private use: in no file of anybody
DOCKERFILE: Final = "Dockerfile"


class Imported(Struct):
    """One build. `contexts` values: `target:NAME` for another build, else as the tool has it."""

    name: str
    context: str = "."
    dockerfile: str | None = None  # relative to the context, as both tools have it
    inline: str | None = None
    stage: str | None = None
    args: dict[str, str] = field(default_factory=dict)
    contexts: dict[str, str] = field(default_factory=dict)
    platforms: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    secrets: list[dict[str, str]] = field(default_factory=list)  # id, and env or src
    network: str | None = None
    doc: str = ""
    notes: list[str] = field(default_factory=list)

    def leave_out(self, what: str, why: str = "") -> None:
        """Note that something is not in the target."""
        self.notes.append(f"not carried over: {what}" + (f" ({why})" if why else ""))


def draft_of(
    builds: Iterable[Imported],
    groups: dict[str, list[str]],
    *,
    here: str,
    out: str,
    notes: Iterable[str] = (),
    variables: Mapping[str, str] | None = None,
    empty_is_none: bool = False,
) -> Draft:
    """Return the Boxfile in directory `out` for the builds of a file in directory `here`.

    Groups whose name a build has already get one behind it, `-all`. `variables` with their
    defaults stay variables, of the workspace and from the environment; with `empty_is_none` an
    empty one has its default too.
    """
    draft = Draft(notes=list(notes))
    for name, default in (variables or {}).items():
        draft.variables[name] = _variable(name, default, empty_is_none)
    builds = list(builds)
    names = {build.name for build in builds}
    for build in builds:
        draft.targets.append(_Writer(build, names, here, out).target())
    for name, members in groups.items():
        own = f"{name}-all" if name in names else name
        target = DraftTarget(own, {"rule": "group"})
        if own != name:
            target.notes.append(f"the group {name!r}; a target has that name")
        known: list[Plain] = []
        for member in dict.fromkeys(members):
            if member in names or member in groups:
                grouped = member in groups and member in names and member != name
                known.append(f":{member}-all" if grouped else f":{member}")
            else:
                target.notes.append(f"not carried over: the member {member!r}, which is nowhere")
        target.fields["targets"] = known
        target.disabled = not known
        draft.targets.append(target)
    for target in draft.targets:
        target.notes = [told(note) for note in target.notes]
    draft.notes = [told(note) for note in draft.notes]
    return draft


class _Writer:
    """Makes one target."""

    def __init__(self, build: Imported, names: set[str], here: str, out: str) -> None:
        self._build = build
        self._names = names
        self._here = os.path.abspath(here)
        self._out = os.path.abspath(out)
        self._target = DraftTarget(build.name, notes=list(build.notes))

    def target(self) -> DraftTarget:
        build, target = self._build, self._target
        if problem := name_problem(build.name):
            target.disabled = True
            target.notes.append(f"not carried over: {build.name!r}: {problem}")
        if build.doc:
            target.fields["doc"] = plain(build.doc)
        self._place()
        if build.stage:
            target.fields["stage"] = plain(build.stage)
        self._args()
        self._contexts()
        for name, value in (("platforms", build.platforms), ("tags", build.tags)):
            if value:
                target.fields[name] = [plain(item) for item in dict.fromkeys(value)]
        for name, pairs in (("labels", build.labels), ("annotations", build.annotations)):
            if pairs:
                target.fields[name] = {key: plain(text) for key, text in pairs.items()}
        self._secrets()
        if build.network in ("none", "host"):
            target.fields["network"] = build.network
        elif build.network not in (None, "default"):
            self._leave_out(f"network {build.network}", "none, host or default")
        return target

    def _leave_out(self, what: str, why: str) -> None:
        self._target.notes.append(f"not carried over: {what} ({why})")

    def _place(self) -> None:
        build, fields = self._build, self._target.fields
        if _REMOTE.match(build.context):
            self._leave_out(f"context {build.context}", "only directories can be contexts here")
            self._target.disabled = True
            return
        context = os.path.normpath(os.path.join(self._here, build.context))
        where = self._relative(context)
        if where.startswith(".."):
            self._target.notes.append(f"{where} is above this Boxfile; it must be in the workspace")
        if where != ".":
            fields["context"] = plain(where)
        if build.inline is not None:
            fields["dockerfile_inline"] = plain(build.inline)
            return
        dockerfile = os.path.normpath(os.path.join(context, build.dockerfile or DOCKERFILE))
        found = self._relative(dockerfile)
        if found != DOCKERFILE:
            fields["dockerfile"] = plain(found)

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._out).replace(os.sep, "/")

    def _args(self) -> None:
        args: dict[str, Plain] = {}
        for name, value in self._build.args.items():
            if _ARGUMENT.fullmatch(name):
                args[name] = plain(value)
            else:
                self._leave_out(f"argument {name}", "not the name of an ARG")
        if args:
            self._target.fields["args"] = args

    def _contexts(self) -> None:
        contexts: dict[str, Plain] = {}
        for name, value in self._build.contexts.items():
            if value.startswith("target:"):
                other = value.removeprefix("target:")
                if other in self._names:
                    contexts[name] = f":{other}"
                else:
                    self._leave_out(f"context {name}={value}", "no such target is here")
            elif value.startswith("oci-layout://"):
                contexts[name] = plain(value)
            elif _REMOTE.match(value):
                self._leave_out(
                    f"context {name}={value}", f"--build-context {name}={value} at the command line"
                )
            else:
                path = self._relative(os.path.join(self._here, value))
                contexts[name] = plain(path if "/" in path or path == "." else f"./{path}")
        if contexts:
            self._target.fields["contexts"] = contexts

    def _secrets(self) -> None:
        secrets: list[Plain] = []
        for secret in self._build.secrets:
            value: dict[str, Plain] = {"id": plain(secret["id"])}
            if "env" in secret:
                value["env"] = plain(secret["env"])
            elif "src" in secret:
                path = os.path.expanduser(secret["src"])
                found = self._relative(os.path.join(self._here, path))
                if os.path.isabs(path) or found.startswith(".."):
                    self._leave_out(
                        f"secret {secret['id']} from {secret['src']}",
                        f"outside of the workspace: --secret id={secret['id']},src=...",
                    )
                    continue
                value["src"] = plain(found)
            else:
                value["env"] = plain(secret["id"])
            secrets.append(value)
        if secrets:
            self._target.fields["secrets"] = secrets


def variable(name: str) -> str:
    """Return what stands in a text for a variable that stays one."""
    return f"\ue000{name}\ue001"


def variables_in(text: str) -> list[str]:
    """Return the variables that stay in a text."""
    return _KEPT.findall(text)


def settled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its variables replaced by values, which may hold variables too."""
    return _KEPT.sub(lambda match: settled(values.get(match[1], ""), values), text)


def told(text: str) -> str:
    """Return a text as a person reads it: `${NAME}` for a variable."""
    return _KEPT.sub(lambda match: f"${{{match[1]}}}", text)


def plain(text: str) -> str:
    """Return a text of another tool as a Boxfile has it.

    Braces of templates mean themselves; variables that stay are templates.
    """
    escaped = re.sub(r"\{\{|\{%|\{#", lambda match: '{{ "' + match[0] + '" }}', text)
    return _KEPT.sub(lambda match: f"{{{{ vars.{match[1]} }}}}", escaped)


def _variable(name: str, default: str, empty_is_none: bool) -> str:
    """Return the value of a workspace's variable: the environment's, else the default."""
    parts: list[str] = []
    for index, piece in enumerate(_KEPT.split(default)):
        if index % 2:
            parts.append(f"vars.{piece}")
        elif piece:
            quoted = piece.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
            parts.append(f"'{quoted}'")
    chosen = " ~ ".join(parts) or "''"
    return f"{{{{ env.{name} | default({chosen}{', true' if empty_is_none else ''}) }}}}"


def parse_secret(text: str) -> dict[str, str] | None:
    """Parse `id=ID[,src=FILE|,env=NAME][,type=...]`; None for what is none."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if not fields.get("id"):
        return None
    out = {"id": fields["id"]}
    source = fields.get("src") or fields.get("source")
    if fields.get("type") == "env" and source:
        return out | {"env": source}
    if "env" in fields:
        return out | {"env": fields["env"]}
    return out | ({"src": source} if source else {})
