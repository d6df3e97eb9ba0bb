"""Knows what targets read of the workspace, as far as that can be said without asking a server or
running a step; must not know what has changed, or what the answer is for.

The same preparation as for a build is done, except that a base image which is not known on this
machine stands there empty. What that could hide is counted as read: such a base may have ONBUILD
lines, so its users may read their whole context; and where a path in a COPY needs a variable that
only such a base could define, the whole context counts too.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.boxfile.loader import BOXFILE, in_package
from buildgraph.boxfile.smoke import EnvFile, PackageBind
from buildgraph.boxfile.target import LayoutContext, Target, Value
from buildgraph.boxfile.workspace import Workspace
from buildgraph.context.ignore import IgnoreRules
from buildgraph.context.remembered import NoStatCache
from buildgraph.context.tree import ContextTree
from buildgraph.dockerfile import instructions as ins
from buildgraph.engine.defining import LOCK
from buildgraph.engine.paths_read import files_at, instances, paths_in
from buildgraph.engine.prepare import (
    DEFAULT_EPOCH,
    Overrides,
    Prepared,
    Preparer,
    RulePlan,
)
from buildgraph.engine.reads import (
    DOCKERFILE,
    IGNORE_FILE,
    ContextAt,
    ContextRead,
    PathRead,
    Reading,
)
from buildgraph.engine.selecting import mounted_as_copy, select
from buildgraph.engine.treewalk import walk
from buildgraph.errors import InputError, Location
from buildgraph.fields import compared
from buildgraph.filetree import Kind
from buildgraph.graph.lower import DirBinding, ResolvedImage, TargetInput, TargetPlan
from buildgraph.graph.ops import (
    ContextSource,
    ContextSpec,
    CopyOp,
    ExecOp,
    ImageOp,
    Node,
    PackagesOp,
)
from buildgraph.label import Label
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.types import Chain, ImageConfig, Platform

# What is asked for an outside image; None: nothing is known of it on this machine.
FindImage = Callable[[str, Platform, Location], ResolvedImage | None]


class _Taken(Struct, frozen=True):
    """What one step takes from one context; without `op`, all of it may be taken."""

    spec: ContextSpec
    op: CopyOp | None
    title: str
    stage: str
    where: Location


class Outline:
    """What the targets of one workspace read. Holds no file open."""

    def __init__(self, workspace: Workspace, find_image: FindImage):
        self.workspace = workspace
        self.targets: dict[str, Target] = {}
        self.failed: dict[str, InputError] = {}  # targets that cannot be read, and why
        self._find_image = find_image
        self._unknown: set[str] = set()  # digests that stand for images we know nothing of
        self._vague: dict[str, bool] = {}
        self._kept: dict[int, tuple[ContextSpec, ContextAt | None]] = {}
        self._host = parse_platform(f"linux/{os.uname().machine}")
        self._preparer = Preparer(
            workspace,
            epoch=DEFAULT_EPOCH,
            host=self._host,
            overrides=Overrides(),
            resolve_rule=_nothing_of_rule,
            load_image=self._image,
        )
        self._inputs: dict[str, list[TargetInput]] = {}
        self._plans: dict[str, list[TargetPlan]] = {}
        self._prepared: Prepared | None = None

    def add(self, labels: Sequence[Label]) -> None:
        """Look at these targets; to be called once. Raises InputError of Boxfiles only."""
        for label in labels:
            self.targets[str(label)] = self.workspace.target(label)
        images = [label for label in labels if self.targets[str(label)].rule == "image"]
        if not images:
            return
        try:
            self._take(self._preparer.prepare(images))
        except InputError:
            for label in images:  # which of them it is
                try:
                    self._take(self._preparer.prepare([label]))
                except InputError as error:
                    self.failed[str(label)] = error

    def _take(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._plans.update(prepared.plans)
        self._inputs = {}
        for spec in prepared.inputs:
            self._inputs.setdefault(spec.label, []).append(spec)

    def _image(
        self, reference: str, platform: Platform, where: Location
    ) -> tuple[ResolvedImage, Chain]:
        found = self._find_image(reference, platform, where)
        if found is None:
            digest = f"unknown:{reference}"
            self._unknown.add(digest)
            found = ResolvedImage(reference, digest, ImageConfig(platform=platform))
        return found, Chain()

    # -- what is read ------------------------------------------------------------------------

    def contexts(self, label: str) -> Iterator[ContextRead]:
        """Yield what the steps of an image target take from directories of the workspace."""
        for taken in self._taken(label):
            context = self._context(taken.spec)
            if context is None:
                continue
            op = taken.op
            about = (taken.title, taken.stage, taken.where)
            if op is None:
                yield ContextRead(context, None, *about)
            else:
                yield ContextRead(context, op.paths, *about, op.exclude, op.parents)

    def _context(self, spec: ContextSpec) -> ContextAt | None:
        known = self._kept.get(id(spec))
        if known is None:
            root = self.relative(spec.root)
            name = spec.ignore_name or spec.name
            real = self.relative(os.path.realpath(spec.root))
            made = None if root is None else ContextAt(root, spec.ignore, name, real)
            known = self._kept[id(spec)] = spec, made
        return known[1]

    def _taken(self, label: str) -> Iterator[_Taken]:
        vague = self._may_read_all(label)
        for spec in self._inputs.get(label, ()) if vague else ():
            bound = [b.spec for b in spec.bindings.values() if isinstance(b, DirBinding)]
            for context in (spec.context, *bound):
                yield _Taken(context, None, vague, "", Location(spec.dockerfile.path))
        if vague or self._prepared is None:
            return
        graph = self._prepared.graph
        for node in self._nodes(label):
            op = node.op
            if isinstance(op, CopyOp) and isinstance(op.source, ContextSource):
                if op.paths:
                    context = graph.contexts[op.source.context]
                    yield _Taken(context, op, node.title, node.stage, node.where)
            elif isinstance(op, ExecOp):
                for mount in op.mounts:
                    if mount.context is not None:
                        context = graph.contexts[mount.context]
                        copied = mounted_as_copy(mount)
                        yield _Taken(context, copied, node.title, node.stage, node.where)

    def paths(self, label: str) -> Iterator[PathRead]:
        """Yield the files beside contexts that a target reads. Raises InputError."""
        target = self.targets[label]
        if target.rule == "image":
            yield from self._image_paths(target)
        else:
            spec = self.workspace.rules.get(target.rule)
            for attribute in spec.attributes if spec else ():
                value = target.attrs.get(attribute.name)
                if value is not None:
                    role = f"the {attribute.name} of {label}"
                    yield from (
                        PathRead(path, role, where)
                        for path, where in paths_in(value, attribute.type)
                    )
        if target.rule == "smoke":
            for found in instances(self.workspace.smoke(target), (PackageBind, EnvFile)):
                yield PathRead(found.path, "a file of the test", found.where)

    def _image_paths(self, target: Target) -> Iterator[PathRead]:
        for spec in self._inputs.get(str(target.label), ())[:1]:
            dockerfile = spec.dockerfile.path
            if target.attrs["dockerfile_inline"].data is None:
                yield PathRead(dockerfile, DOCKERFILE, Location(dockerfile))
                beside = f"{dockerfile}.dockerignore"
                yield PathRead(beside, IGNORE_FILE, Location(beside))
            bound = [b.spec for b in spec.bindings.values() if isinstance(b, DirBinding)]
            for context in (spec.context, *bound):
                root = self.relative(context.root)
                if root is not None:
                    name = in_package(root, ".dockerignore")
                    yield PathRead(name, IGNORE_FILE, Location(name))
        for name, value in target.entries("contexts").items():
            if isinstance(value.data, LayoutContext):
                yield PathRead(value.data.path, f"the image {name}", value.where)

    def files(self, label: str) -> set[str]:
        """Return every file that a target reads, from the workspace's root; those that are there.

        Raises InputError, for a COPY of what is missing as well.
        """
        package = self.targets[label].label.package
        names = {BOXFILE, LOCK, in_package(package, BOXFILE)}
        names.update(read.path for read in self.paths(label))
        out: set[str] = set()
        for name in names:
            out.update(files_at(self.workspace.root, name))
        for read in self._taken(label):
            root = self.relative(read.spec.root)
            if root is None:
                continue
            with ContextTree(read.spec.root, rules_of(read.spec), NoStatCache()) as tree:
                if read.op is None:
                    items = walk(tree, "", IgnoreRules())
                else:
                    chosen = select(read.op, tree, read.where)
                    items = [item for group in chosen.groups for item in group.items]
                    out.update(in_package(root, path) for path in chosen.archives)
                kinds = (Kind.FILE, Kind.SYMLINK)
                out.update(in_package(root, i.path) for i in items if i.stat.kind in kinds)
        return out

    def reading(self) -> Reading:
        """Return what every target that was added needs and reads. Raises InputError."""
        names = self.targets
        return Reading(
            {n: [str(x) for x, _ in self.workspace.needs(t)] for n, t in names.items()},
            {name: list(self.paths(name)) for name in names},
            {name: list(self.contexts(name)) for name in names},
            frozenset(path for path in self.workspace.files_read if not path.endswith("/")),
            {name: self._seen(name) for name in names},
        )

    def _seen(self, label: str) -> str:
        """Return a digest over what the users of a target notice of it when they are unfolded.

        That is its config (variables, ONBUILD, the directory, ...) and whether all of it is known.
        """
        configs = [
            plain(replace(plan.config, labels=(), history=()))
            for plan in self._plans.get(label, ())
        ]
        known = self._may_read_all(label), self._env_unknown(label)
        text = repr((configs, known)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=12).hexdigest()

    @property
    def observed(self) -> Sequence[str]:
        """Return the absolute paths that decided what was read, beside the workspace's files."""
        return tuple(self._preparer.observed)

    @property
    def lasts(self) -> bool:
        """Say whether files alone decide what is read: no image's name may mean another soon."""
        graph = () if self._prepared is None else self._prepared.graph.nodes
        return not self.failed and not any(
            isinstance(node.op, ImageOp)
            and node.op.digest not in self._unknown
            and "@sha256:" not in node.op.reference
            for node in graph
        )

    def relative(self, directory: str) -> str | None:
        """Return an absolute directory from the workspace's root; None: it is not in there."""
        root = self.workspace.root
        if directory == root:
            return ""
        prefix = root.rstrip("/") + "/"
        return directory[len(prefix) :] if directory.startswith(prefix) else None

    # -- what it comes to --------------------------------------------------------------------

    def steps(self, label: str) -> list[tuple[Node, Any]]:
        """Return the steps of an image target, each with a value that says what it does.

        Equal values do the same, as far as the step itself is concerned: not where it lies in a
        file, not what is in the files it reads, nor what another target gives it.
        """
        nodes = self._nodes(label)
        place = {node.id: number for number, node in enumerate(nodes)}
        return [(node, self._step(node, place)) for node in nodes]

    def _step(self, node: Node, place: Mapping[int, int]) -> Any:
        assert self._prepared is not None
        graph = self._prepared.graph
        contexts: list[Any] = []
        op = node.op
        if isinstance(op, CopyOp) and isinstance(op.source, ContextSource):
            contexts.append(self._plain_context(graph.contexts[op.source.context]))
        if isinstance(op, ExecOp):
            used = (m.context for m in op.mounts if m.context is not None)
            contexts.extend(self._plain_context(graph.contexts[context]) for context in used)
        inputs: list[Any] = []
        for number in node.inputs:
            base = None if number is None else graph.nodes[number].op
            if isinstance(base, ImageOp):
                inputs.append(self._plain_image(base))
            else:
                inputs.append(place.get(number, "outside") if number is not None else None)
        what = self._plain_image(op) if isinstance(op, ImageOp) else plain(op)
        return str(node.platform), what, tuple(inputs), tuple(contexts)

    def _plain_image(self, op: ImageOp) -> Any:
        return op.reference.replace(self.workspace.root + "/", "//"), op.digest.replace(
            self.workspace.root + "/", "//"
        )

    def _plain_context(self, spec: ContextSpec) -> Any:
        root = self.relative(spec.root)
        return spec.root if root is None else root, rules_of(spec).patterns, spec.owners

    def settings(self, label: str) -> dict[str, Any]:
        """Return what a target's definition says, by attribute, without what `steps` show."""
        target = self.targets[label]
        shown: tuple[str, ...] = ("doc",)
        if target.rule == "image" and not self._may_read_all(label):
            shown = ("doc", "dockerfile", "dockerfile_inline", "context", "args", "ignore", "stage")
        out = {name: plain(value) for name, value in target.attrs.items() if name not in shown}
        out["rule"] = target.rule
        if target.rule == "smoke":
            out["what the test says"] = plain(self.workspace.smoke(target))
        if target.rule == "image":
            plans = self._plans.get(label, ())
            out["the image's config"] = [
                (plain(plan.config), [plain(entry) for entry, _ in plan.history]) for plan in plans
            ]
        return out

    def uses_image(self, label: str, name: str) -> bool:
        """Say whether a target is made with an outside image of this canonical name."""
        from buildgraph.oci.reference import parse_reference

        for node in self._involved(label):
            if isinstance(node.op, ImageOp) and "oci-layout://" not in node.op.reference:
                if str(parse_reference(node.op.reference).with_default_tag()) == name:
                    return True
        return False

    # -- what may be hidden ------------------------------------------------------------------

    def _nodes(self, label: str) -> list[Node]:
        if self._prepared is None:
            return []
        nodes = self._prepared.graph.nodes
        ids = dict.fromkeys(n for plan in self._plans.get(label, ()) for n in plan.nodes)
        return [nodes[number] for number in ids]

    def _involved(self, label: str) -> Iterator[Node]:
        """Yield a target's own steps and what they stand on directly."""
        if self._prepared is None:
            return
        nodes = self._prepared.graph.nodes
        seen: set[int] = set()
        for plan in self._plans.get(label, ()):
            ids = [*plan.nodes, plan.node]
            ids += [i for number in plan.nodes for i in nodes[number].inputs]
            for number in ids:
                if number is not None and number not in seen:
                    seen.add(number)
                    yield nodes[number]

    def _may_read_all(self, label: str) -> str:
        """Return why a target may read its whole context, "" if it does not."""
        if label in self.failed:
            return "it cannot be read"
        for node in self._involved(label):
            op = node.op
            if isinstance(op, ImageOp) and op.digest in self._unknown:
                if self._is_base(label, op.reference):
                    return f"the base {op.reference} is not known here and may have ONBUILD lines"
        if self._env_unknown(label) and any(map(_has_variable_paths, self._inputs.get(label, ()))):
            return "a path in it needs a variable that only its base could define"
        return ""

    def _is_base(self, label: str, reference: str) -> bool:
        for spec in self._inputs.get(label, ()):
            for stage in spec.dockerfile.stages:
                text = stage.from_.image
                if "$" in text or text == reference or text.lower() in spec.bindings:
                    return True
        return False

    def _env_unknown(self, label: str) -> bool:
        """Say whether a target's base may define variables that we do not see."""
        stack = [label]
        while stack:  # what is needed first, each target once
            name = stack[-1]
            if name in self._vague:
                stack.pop()
                continue
            target = self.targets.get(name)
            if target is None or name not in self._plans or self._stands_on_unknown(name):
                self._vague[name] = True
                continue
            needed = [str(other) for other, _ in self.workspace.needs(target)]
            waiting = [other for other in needed if other not in self._vague]
            if waiting:
                stack.extend(waiting)
            else:
                self._vague[name] = any(self._vague[other] for other in needed)
        return self._vague[label]

    def _stands_on_unknown(self, label: str) -> bool:
        return any(
            isinstance(node.op, PackagesOp)
            or (isinstance(node.op, ImageOp) and node.op.digest in self._unknown)
            for node in self._involved(label)
        )


def rules_of(spec: ContextSpec) -> IgnoreRules:
    """Return the ignore rules of a context. Raises InputError."""
    return IgnoreRules.parse("\n".join(spec.ignore), spec.ignore_name or spec.name)


def plain(value: Any) -> Any:
    """Return a value of ours as tuples and texts, without the places where it was written."""
    if isinstance(value, Value):
        return plain(value.data)
    if isinstance(value, Location):
        return None
    # What takes no part in equality is no part of what it says: numbers of contexts, functions.
    names = compared(value)
    if names is not None:
        return (type(value).__name__, *(plain(getattr(value, name)) for name in names))
    if isinstance(value, Mapping):
        return tuple((key, plain(item)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(map(repr, value)))
    if isinstance(value, enum.Enum):
        return value.name
    return value


def _nothing_of_rule(target: Target, platform: Platform) -> RulePlan:
    # The label makes it another node than that of another target.
    return RulePlan(
        PackagesOp((), configure=False, recipe=str(target.label)), ImageConfig(platform=platform)
    )


def _has_variable_paths(spec: TargetInput) -> bool:
    for stage in spec.dockerfile.stages:
        for item in stage.body:
            if isinstance(item, ins.Copy | ins.Add):
                if any("$" in source for source in item.sources):
                    return True
            elif isinstance(item, ins.Run):
                if any("$" in (v or "") for m in item.mounts for k, v in m.options):
                    return True
    return False
