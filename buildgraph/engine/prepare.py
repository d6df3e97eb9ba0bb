"""Knows how requested targets become one lowered graph: reading Dockerfiles and ignore files,
binding names to targets and images; must not know how a node is executed.

Everything it reads is noted in `observed`, so that a later call can tell by stat alone that
nothing changed.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph import limits
from buildgraph.boxfile.smoke import ImageName, SmokeTarget
from buildgraph.boxfile.target import (
    DirContext,
    DockerfileAt,
    DockerfileInline,
    ImageTarget,
    LabelContext,
    LayoutContext,
    Target,
    group_target,
    image_target,
    text_of,
)
from buildgraph.boxfile.workspace import Workspace
from buildgraph.dockerfile.cut import up_to
from buildgraph.dockerfile.directives import check_frontend
from buildgraph.dockerfile.instructions import Dockerfile
from buildgraph.dockerfile.parser import parse
from buildgraph.engine.images import LAYOUT, split_layout
from buildgraph.engine.inline import parse_inline
from buildgraph.errors import InputError, Location, raise_all
from buildgraph.graph.lower import (
    Binding,
    DirBinding,
    ImageBinding,
    LabelBinding,
    Lowering,
    ResolvedImage,
    TargetInput,
    TargetPlan,
)
from buildgraph.graph.ops import ContextSpec, Network, NodeGraph, PackagesOp, Surroundings
from buildgraph.graph.run_op import granted, insecure_steps
from buildgraph.graph.stage_ir import KNOBS, PROXY_ARGS, BuildArgs
from buildgraph.label import Label, parse_label
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.types import Chain, ImageConfig, Platform
from buildgraph.transport.urls import strip_logins

DEFAULT_EPOCH = 315532800  # 1980-01-01T00:00:00Z: zip and wheels cannot say anything earlier


class Overrides(Struct, frozen=True):
    """What a command line changes in the targets it asks for (never in their dependencies)."""

    args: tuple[tuple[str, str], ...] = ()
    contexts: tuple[tuple[str, str | ContextSpec], ...] = ()
    stage: str | None = None
    until: int = 0  # a line of the Dockerfile: nothing after it counts, and the last stage is meant
    platforms: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    network: Network | None = None
    around: Surroundings = field(default_factory=Surroundings)
    # What came over stdin or the network instead of lying in the workspace.
    context: ContextSpec | None = None
    dockerfile: tuple[str, bytes] | None = None  # the name it is shown by, and its text
    allow: frozenset[str] = frozenset()  # granted to dependencies as well


class RulePlan(Struct, frozen=True):
    """What a rule of the library makes of a target."""

    op: PackagesOp
    config: ImageConfig


RuleResolver = Callable[[Target, Platform], RulePlan]
ImageLoader = Callable[[str, Platform, Location], tuple[ResolvedImage, Chain]]


OutsideImage = tuple[ImageConfig, Chain]


class SmokePlan(Struct, frozen=True):
    """A smoke test with the images it runs or looks at: those of targets, and those of outside."""

    target: SmokeTarget
    plans: dict[Label, TargetPlan]
    outside: dict[LayoutContext | ImageName, OutsideImage]

    @property
    def needs(self) -> tuple[int, ...]:
        """The nodes that must be done before it can run."""
        return tuple(sorted({p.node for p in self.plans.values() if p.node is not None}))


class Prepared(Struct):
    """A graph with the targets that were asked for; `chains` of outside images by digest."""

    graph: NodeGraph
    plans: dict[str, list[TargetPlan]]
    chains: dict[str, Chain]
    targets: dict[str, Target]
    warnings: list[tuple[str, Location | None]] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    inputs: tuple[TargetInput, ...] = ()  # each image target, once a platform
    smokes: list[SmokePlan] = field(default_factory=list)


class Preparer:
    """Prepares one build of one workspace."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        epoch: int,
        host: Platform,
        overrides: Overrides,
        resolve_rule: RuleResolver,
        load_image: ImageLoader,
    ):
        self._workspace = workspace
        self._epoch = epoch
        self._host = host
        self._overrides = overrides
        self._resolve_rule = resolve_rule
        self._load_image = load_image
        self._requested: set[str] = set()
        self._chains: dict[str, Chain] = {}
        self._targets: dict[str, Target] = {}
        self._images: dict[tuple[str, Platform], ResolvedImage] = {}
        self._parsed: dict[str, Dockerfile] = {}
        self._ignores: dict[tuple[str, str], ContextSpec] = {}
        self._inputs: list[TargetInput] = []
        self._failed: dict[tuple[str, Platform], InputError] = {}
        self._lowering = Lowering(self._image, self._ensure)
        self.observed: list[str] = []
        self.warnings: list[tuple[str, Location | None]] = []

    def prepare(
        self, labels: Sequence[Label], *, smokes: bool = False, tests: Sequence[Label] = ()
    ) -> Prepared:
        """Lower every requested target and what it needs; all input errors are raised at once.

        With `smokes` only the smoke tests among the targets count, and their images are built but
        not delivered; without it they are left out as pushes are, and asking for nothing else is an
        error. `tests` are smoke tests to run beside.
        """
        members = opened_groups(self._workspace, labels)
        rules = {label: self._workspace.target(label).rule for label in members}
        found = [label for label, rule in rules.items() if rule == "smoke"]
        wanted = [] if smokes else [label for label in members if rules[label] not in DEEDS]
        _check_choice(labels, wanted, rules, smokes)
        self._requested = {str(label) for label in wanted}
        tests = [*(found if smokes else ()), *tests]
        roots = [*wanted, *tests]
        closure = self._workspace.closure(roots)
        self._targets = {str(t.label): t for t in closure}
        plans: dict[str, list[TargetPlan]] = {}
        errors: list[InputError] = []
        broken: set[str] = set()
        by_platform = self._platforms(roots)
        for target in closure:
            for platform in by_platform.get(str(target.label), ()):
                try:
                    has_files = target.rule not in ("group", *DEEDS)
                    if has_files and not self._stands_on(target, broken):
                        self._ensure(str(target.label), platform)
                except InputError as error:
                    broken.add(str(target.label))
                    if error not in errors:  # of a target that several need
                        errors.append(error)
        planned = self._smoke_plans(tests, broken, errors)
        raise_all(errors)
        for label in wanted:
            name = str(label)
            plans[name] = [self._lowering.plans[name, p] for p in by_platform[name]]
        self._check_args(wanted)
        self.warnings.extend(insecure_steps(self._lowering.graph()))
        self.observed.extend(self._workspace.files_read)
        return Prepared(
            self._lowering.graph(),
            plans,
            self._chains,
            self._targets,
            self.warnings,
            self.observed,
            tuple(self._inputs),
            planned,
        )

    def _smoke_plans(
        self, tests: Sequence[Label], broken: set[str], errors: list[InputError]
    ) -> list[SmokePlan]:
        out: list[SmokePlan] = []
        for label in tests:
            target = self._workspace.target(label)
            if self._stands_on(target, broken):
                continue
            smoke = self._workspace.smoke(target)
            self.warnings.extend(smoke.warnings)
            plan = SmokePlan(smoke, {}, {})
            try:
                for needed, _ in self._workspace.needs(target):
                    plan.plans[needed] = self._ensure(str(needed), self._host)
                for service in smoke.services:
                    if not isinstance(service.image, Label):
                        found = self._outside(service.image, service.image_where)
                        plan.outside[service.image] = found
            except InputError as error:
                errors.append(error)
            out.append(plan)
        return out

    def _outside(self, image: LayoutContext | ImageName, where: Location) -> OutsideImage:
        if isinstance(image, ImageName):
            reference = image.reference
        else:
            binding = self._binding(image, where)
            assert isinstance(binding, ImageBinding)
            reference = binding.reference
        found = self._image(reference, self._host, where)
        return found.config, self._chains[found.digest]

    def read(self, label: Label, *, requested: bool) -> list[TargetInput]:
        """Return an image target with all that its Dockerfile is read with, once a platform.

        Nothing is lowered and no image is asked for. The overrides count where it is `requested`.
        Raises InputError.
        """
        if requested:
            self._requested.add(str(label))
        target = image_target(self._workspace.target(label))
        return [self._input(target, platform) for platform in self._own_platforms(label)]

    # -- which targets, on which platforms -----------------------------------------------

    def _platforms(self, wanted: Sequence[Label]) -> dict[str, list[Platform]]:
        """Return the platforms that each target is certainly needed for.

        Those that are asked for, and this machine's for what stands below targets of this machine
        alone. Of the others only their users' FROM lines say which platforms they need.
        """
        out: dict[str, list[Platform]] = {}
        native: list[Label] = []
        for label in wanted:
            out[str(label)] = list(dict.fromkeys(self._own_platforms(label)))
            if out[str(label)] == [self._host]:
                native.append(label)
        for needed in self._workspace.closure(native):
            out.setdefault(str(needed.label), [self._host])
        return out

    def _own_platforms(self, label: Label) -> tuple[Platform, ...]:
        if self._overrides.platforms:
            return tuple(self._platform(text) for text in self._overrides.platforms)
        target = self._workspace.target(label)
        located = target.items("platforms") if "platforms" in target.attrs else ()
        found = tuple(self._platform(text_of(item), item.where) for item in located)
        return found or (self._host,)

    def _platform(self, text: str, where: Location | None = None) -> Platform:
        return self._host if text == "local" else parse_platform(text, where)

    def _stands_on(self, target: Target, broken: set[str]) -> bool:
        """One mistake is one error: what needs a broken target is not reported again."""
        return bool(broken) and any(
            str(needed.label) in broken for needed in self._workspace.closure([target.label])
        )

    def _ensure(self, label: str, platform: Platform) -> TargetPlan:
        plan = self._lowering.plans.get((label, platform))
        if plan is not None:
            return plan
        if (label, platform) in self._failed:
            raise self._failed[label, platform]  # the same one, so that it is told once
        try:
            return self._add(label, platform)
        except InputError as error:
            self._failed[label, platform] = error
            raise

    def _add(self, label: str, platform: Platform) -> TargetPlan:
        target = self._targets.get(label)
        if target is None:
            target = self._workspace.target(parse_label(label, ""))
            self._targets[label] = target
        if target.rule == "image":
            spec = self._input(image_target(target), platform)
            self._inputs.append(spec)
            return self._lowering.add_image(spec)
        if target.rule == "group":
            raise InputError(f"{label} is a group and has no files of its own", target.where)
        rule = self._resolve_rule(target, platform)
        return self._lowering.add_packages(label, rule.op, rule.config, target.where, self._host)

    def _check_args(self, wanted: Sequence[Label]) -> None:
        for label in wanted:
            unused = set(self._lowering.unused_args.get(str(label), ()))
            for name in sorted(unused - PROXY_ARGS - KNOBS):  # no ARG needed
                self.warnings.append((f"{label}: no ARG uses the build argument {name}", None))

    # -- one image target ------------------------------------------------------------------

    def _input(self, target: ImageTarget, platform: Platform) -> TargetInput:
        name = str(target.label)
        overrides = self._overrides if name in self._requested else Overrides()
        if overrides.dockerfile is None:
            dockerfile, ignore = self._dockerfile(target)
        else:
            shown, text = overrides.dockerfile
            dockerfile, ignore = parse(text, shown), None
        if overrides.until:
            dockerfile = up_to(dockerfile, overrides.until)
        context = overrides.context or self._context(target.context, ignore, target.ignore)
        bindings: dict[str, Binding] = {}
        for named in target.contexts:
            bindings[named.name.removesuffix(":latest").lower()] = self._binding(
                named.ref, named.where
            )
        for key, value in overrides.contexts:
            bindings[key.removesuffix(":latest").lower()] = self._parse_context(value)
        args = {a.name: a.value for a in target.args} | dict(overrides.args)
        check_frontend(dockerfile.directives, dockerfile.path, args.get("BUILDKIT_SYNTAX", ""))
        build = BuildArgs(args, platform, self._host, self._epoch, frozenset(bindings))
        return TargetInput(
            name,
            dockerfile,
            context,
            bindings,
            build,
            overrides.stage
            or (target.stage.text if target.stage and not overrides.until else None),
            overrides.network or target.network,
            target.timestamps == "preserve",
            (*target.labels, *overrides.labels),
            granted(self._overrides.allow, self._overrides.network),
            overrides.around,
        )

    def _dockerfile(self, target: ImageTarget) -> tuple[Dockerfile, str | None]:
        """Return the parsed file and the path of the ignore file beside it, if there is one."""
        source = target.dockerfile
        if isinstance(source, DockerfileInline):
            return parse_inline(source), None
        assert isinstance(source, DockerfileAt)
        path = source.path
        beside = path + ".dockerignore"
        self.observed.append(os.path.join(self._workspace.root, posixpath.dirname(path)))
        has_ignore = os.path.lexists(os.path.join(self._workspace.root, beside))
        if path not in self._parsed:
            text = self._workspace.read(path, limits.DOCKERFILE_BYTES, source.where)
            self._parsed[path] = parse(text, path)
        return self._parsed[path], beside if has_ignore else None

    def _context(
        self, directory: str, ignore_file: str | None, patterns: tuple[str, ...] | None
    ) -> ContextSpec:
        base = os.path.join(self._workspace.root, directory)
        root = os.path.normpath(base)
        shown = f"context {directory or '.'}"
        if patterns is not None:
            return ContextSpec(root, patterns, shown, "ignore")
        known = self._ignores.get((root, ignore_file or ""))
        if known is not None:
            return known
        name = ignore_file or posixpath.join(directory, ".dockerignore")
        spec = ContextSpec(root, (), shown, name)
        self.observed.append(root)
        if os.path.lexists(os.path.join(self._workspace.root, name)):
            data = self._workspace.read(name, limits.BOXFILE_BYTES, Location(name))
            lines = data.decode("utf-8", "surrogateescape").split("\n")
            spec = replace(spec, ignore=tuple(lines))
        self._ignores[root, ignore_file or ""] = spec
        return spec

    def _binding(self, ref: LabelContext | DirContext | LayoutContext, where: Location) -> Binding:
        match ref:
            case LabelContext(label):
                return LabelBinding(str(label))
            case DirContext(path):
                return DirBinding(self._context(path, None, None))
            case LayoutContext(path, tag, digest):
                place = os.path.join(self._workspace.root, path)
                suffix = f"@{digest}" if digest else f":{tag}" if tag else ""
                return ImageBinding(f"oci-layout://{place}{suffix}")

    def _parse_context(self, value: str | ContextSpec) -> Binding:
        """Parse the value of `--build-context NAME=value`, relative to the current directory."""
        if isinstance(value, ContextSpec):
            return DirBinding(value)
        if value.startswith("//"):
            return LabelBinding(str(parse_label(value, "")))
        if value.startswith("oci-layout://"):
            return ImageBinding("oci-layout://" + os.path.abspath(value[len("oci-layout://") :]))
        if value.startswith("docker-image://"):
            return ImageBinding(value[len("docker-image://") :])
        if "://" in value:
            raise InputError(
                f"--build-context {strip_logins(value)}: this kind is not supported",
                hint="a directory, oci-layout://dir[:tag], docker-image://ref, //label, an http(s) "
                "URL or a git repository",
            )
        root = os.path.abspath(value)
        if not os.path.isdir(root):
            raise InputError(f"--build-context {value}: no such directory")
        self.observed.append(root)
        ignore: tuple[str, ...] = ()
        name = os.path.join(root, ".dockerignore")
        if os.path.isfile(name):
            self.observed.append(name)
            with open(name, "rb") as file:
                ignore = tuple(
                    file.read(limits.BOXFILE_BYTES).decode(errors="surrogateescape").split("\n")
                )
        return DirBinding(ContextSpec(root, ignore, f"context {value}", name))

    def _image(self, reference: str, platform: Platform, where: Location) -> ResolvedImage:
        found = self._images.get((reference, platform))
        if found is None:
            found, chain = self._load_image(reference, platform, where)
            if reference.startswith(LAYOUT):
                directory = split_layout(reference[len(LAYOUT) :])[0]
                self.observed.append(os.path.join(directory, "index.json"))
            self._images[reference, platform] = found
            self._chains[found.digest] = chain
        return found


DEEDS = ("smoke", "push")  # rules of what is done with images rather than made


def opened_groups(workspace: Workspace, labels: Sequence[Label]) -> list[Label]:
    """Return the targets in order, each once, groups replaced by what they hold."""
    out: dict[Label, None] = {}
    seen: set[Label] = set()
    left = list(reversed(labels))
    while left:
        label = left.pop()
        if label in seen:
            continue
        seen.add(label)
        target = workspace.target(label)
        if target.rule == "group":
            left += reversed(workspace.members(group_target(target)))
        else:
            out[label] = None
    return list(out)


def _check_choice(
    labels: Sequence[Label], wanted: Sequence[Label], rules: Mapping[Label, str], smokes: bool
) -> None:
    """Refuse to do nothing: no smoke test to run, or nothing but deeds to build."""
    if smokes and labels and "smoke" not in rules.values():
        raise InputError(
            f"there is no smoke test among {len(labels)} targets"
            if len(labels) > 1
            else f"{labels[0]} is not a smoke test",
            hint="a target with `rule: smoke` is one",
        )
    deed = next((label for label, rule in rules.items() if rule in DEEDS), None)
    if not smokes and deed is not None and not wanted:
        what, command = ("smoke test", "test") if rules[deed] == "smoke" else ("push", "push")
        raise InputError(
            f"{deed} is a {what}: there is nothing to build",
            hint=f"buildgraph {command} {deed.short}",
        )
