"""Knows how unfolded stages of many targets become one graph of nodes; must not know what any
file contains or whether a node will hit.

Identical steps over identical inputs become one node, whichever targets ask for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.dockerfile.instructions import Dockerfile
from buildgraph.errors import InputError, Location
from buildgraph.graph.ops import (
    ContextSource,
    ContextSpec,
    CopyOp,
    ExecOp,
    GitOp,
    HttpOp,
    ImageOp,
    MkdirOp,
    Network,
    Node,
    NodeGraph,
    Op,
    PackagesOp,
    RunMount,
    StageSource,
    Surroundings,
)
from buildgraph.graph.run_op import check_granted, hostname_of, mount_options
from buildgraph.graph.stage_ir import (
    BuildArgs,
    ContextRef,
    CopyIR,
    ImageRef,
    RepositoryRef,
    RunIR,
    ScratchRef,
    ServerRef,
    SourceRef,
    StageIR,
    StageRef,
    StepIR,
    WorkdirIR,
)
from buildgraph.graph.stages import Unfolder
from buildgraph.oci.types import HistoryEntry, ImageConfig, Platform
from buildgraph.transport.urls import parse_url


class LabelBinding(Struct, frozen=True):
    """A named context that is another target's image."""

    label: str


class DirBinding(Struct, frozen=True):
    """A named context that is a local directory."""

    spec: ContextSpec


class ImageBinding(Struct, frozen=True):
    """A named context that is an image from outside, under the name it was resolved by."""

    reference: str


Binding = LabelBinding | DirBinding | ImageBinding


class ResolvedImage(Struct, frozen=True):
    """What resolving found out about an outside image."""

    reference: str
    digest: str
    config: ImageConfig


class TargetInput(Struct, frozen=True):
    """One image target with everything that its Dockerfile is read with."""

    label: str
    dockerfile: Dockerfile
    context: ContextSpec
    bindings: Mapping[str, Binding]
    build: BuildArgs
    stage: str | None = None
    network: Network = "default"
    preserve_times: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    allow: frozenset[str] = frozenset()  # what the command line grants, see run_op
    around: Surroundings = field(default_factory=Surroundings)


class TargetPlan(Struct, frozen=True):
    """What a target comes to: the node its files are, its config, and its history.

    `history` pairs an entry with the node that makes its layer; None: the entry stands as it is.
    """

    label: str
    platform: Platform
    node: int | None
    config: ImageConfig
    history: tuple[tuple[HistoryEntry, int | None], ...]
    nodes: tuple[int, ...] = ()


class _Stage(Struct):
    """Where a lowered stage stands."""

    node: int | None
    config: ImageConfig
    history: list[tuple[HistoryEntry, int | None]] = field(default_factory=list)


_MARK = (1 << 30) - 1  # a small int takes least room; equal marks are told apart by looking

FindImage = Callable[[str, Platform, Location], ResolvedImage]


class Lowering:
    """Collects nodes of several targets; `add_*` in dependency order, then `graph()`."""

    def __init__(self, image: FindImage, ensure: Callable[[str, Platform], TargetPlan]):
        """`ensure` adds a target that another one names and was not added yet."""
        self._image = image
        self._ensure = ensure
        self._nodes: list[Node] = []
        # By hash: a tuple to compare with would take as much room as the node itself.
        self._known: dict[int, int] = {}
        self._shared: dict[int, list[str]] = {}
        self._environments: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
        self._contexts: list[ContextSpec] = []
        self._context_ids: dict[ContextSpec, int] = {}
        self.plans: dict[tuple[str, Platform], TargetPlan] = {}
        self.unused_args: dict[str, frozenset[str]] = {}

    def graph(self) -> NodeGraph:
        """Return everything added so far."""
        return NodeGraph(tuple(self._nodes), tuple(self._contexts), self._shared)

    def add_packages(
        self,
        label: str,
        op: PackagesOp,
        config: ImageConfig,
        where: Location,
        build: Platform | None = None,
    ) -> TargetPlan:
        """Add a root file system made from packages; `build` is this machine's platform."""
        slot = f"{label} {config.platform} packages"
        title = _for(config.platform, build, f"packages ({len(op.packages)})")
        node = self._node(op, config.platform, (), (label, "", title, where, slot))
        entry = HistoryEntry(f"debian packages: {len(op.packages)} # buildgraph")
        plan = TargetPlan(label, config.platform, node, config, ((entry, node),), (node,))
        self.plans[label, config.platform] = plan
        return plan

    def add_image(self, target: TargetInput) -> TargetPlan:
        """Unfold and lower one Dockerfile; the targets it names must have been added before."""
        unfolder = Unfolder(
            target.dockerfile,
            target.build,
            lambda ref, platform, where: self._base_config(target, ref, platform, where),
        )
        unfolded = unfolder.unfold(target.stage)
        self.unused_args[target.label] = frozenset(target.build.args) - unfolded.consumed
        before = len(self._nodes)
        stages: dict[int, _Stage] = {}
        touched: list[int] = []
        for stage in unfolded.stages:
            stages[stage.index] = self._lower_stage(target, stage, stages, touched)
        final = stages[unfolded.target]
        config = final.config
        if config.platform == target.build.build:
            # What a stage on $BUILDPLATFORM makes is made for the platform that was asked for.
            config = replace(config, platform=target.build.target)
        if target.labels:
            config = replace(
                config, labels=tuple({**dict(config.labels), **dict(target.labels)}.items())
            )
        # A target that this one names for one of its platforms alone is added in between.
        created = [n.id for n in self._nodes[before:] if n.label == target.label]
        nodes = tuple(dict.fromkeys([*touched, *created]))
        platform = target.build.target
        plan = TargetPlan(target.label, platform, final.node, config, tuple(final.history), nodes)
        self.plans[target.label, platform] = plan
        return plan

    # -- bases -------------------------------------------------------------------------

    def _base_config(
        self, target: TargetInput, ref: SourceRef, platform: Platform, where: Location
    ) -> ImageConfig:
        bound = self._bound(target, ref, platform, where)
        match bound:
            case TargetPlan():
                return bound.config
            case ResolvedImage():
                return bound.config
            case ContextSpec():
                name = ref.name if isinstance(ref, ContextRef) else ""
                raise InputError(
                    f"the context {name!r} is a directory and cannot be a base image",
                    where,
                    "FROM scratch and COPY --from it instead",
                )

    def _bound(
        self, target: TargetInput, ref: SourceRef, platform: Platform, where: Location
    ) -> TargetPlan | ResolvedImage | ContextSpec:
        """Return what a name outside the Dockerfile stands for."""
        if isinstance(ref, ContextRef):
            if not ref.name:
                return target.context
            binding = target.bindings[ref.name]
            match binding:
                case LabelBinding(label):
                    return self._ensure(label, platform)
                case DirBinding(spec):
                    return spec
                case ImageBinding(reference):
                    return self._image(reference, platform, where)
        assert isinstance(ref, ImageRef)
        return self._image(ref.reference, platform, where)

    # -- stages ------------------------------------------------------------------------

    def _lower_stage(
        self,
        target: TargetInput,
        stage: StageIR,
        stages: Mapping[int, _Stage],
        touched: list[int],
    ) -> _Stage:
        here = self._start(target, stage, stages)
        here.config = stage.config
        name = stage.name or str(stage.index)
        prefix = f"{target.label} {stage.platform} {name}/"
        counts: Counter[str] = Counter()  # by kind: a new COPY does not make every RUN a new step
        for step in stage.steps:
            node: int | None = None
            if step.action is not None:
                kind = type(step.action).__name__.removesuffix("IR").lower()
                slot = f"{prefix}{kind}{counts[kind]}"
                counts[kind] += 1
                title = _for(stage.platform, target.build.build, step.title)
                about = (target.label, name, title, step.where, slot)
                node = self._step(target, stage, step, here, stages, about)
                here.node = node
                touched.append(node)
            here.history.append((step.history, node))
        return here

    def _start(self, target: TargetInput, stage: StageIR, stages: Mapping[int, _Stage]) -> _Stage:
        base = stage.base
        if isinstance(base, ScratchRef):
            return _Stage(None, stage.config)
        if isinstance(base, StageRef):
            parent = stages[base.index]
            return _Stage(parent.node, stage.config, list(parent.history))
        bound = self._bound(target, base, stage.platform, stage.where)
        if isinstance(bound, TargetPlan):
            return _Stage(bound.node, stage.config, list(bound.history))
        assert isinstance(bound, ResolvedImage)
        history: list[tuple[HistoryEntry, int | None]] = [(h, None) for h in bound.config.history]
        return _Stage(
            self._image_node(target, bound, stage.platform, stage.where), stage.config, history
        )

    def _image_node(
        self, target: TargetInput, image: ResolvedImage, platform: Platform, where: Location
    ) -> int:
        slot = f"image {image.reference} {platform}"
        about = (target.label, "", f"FROM {image.reference}", where, slot)
        return self._node(ImageOp(image.reference, image.digest), platform, (), about)

    def _source(
        self,
        target: TargetInput,
        ref: SourceRef,
        stages: Mapping[int, _Stage],
        inputs: list[int | None],
        where: Location,
    ) -> ContextSource | StageSource:
        node: int | None = None
        if isinstance(ref, StageRef):
            node = stages[ref.index].node
        elif not isinstance(ref, ScratchRef):
            # As in BuildKit, whatever platform this stage is on: `--from=image` in a stage on
            # $BUILDPLATFORM brings what the target needs. A stage can say otherwise.
            platform = target.build.target
            bound = self._bound(target, ref, platform, where)
            if isinstance(bound, ContextSpec):
                return ContextSource(self._context(bound), bound.owners)
            if isinstance(bound, TargetPlan):
                node = bound.node
            else:
                node = self._image_node(target, bound, platform, where)
        inputs.append(node)
        return StageSource(len(inputs) - 1)

    def _fetched(
        self,
        target: TargetInput,
        ref: ServerRef | RepositoryRef,
        inputs: list[int | None],
        about: tuple[str, str, str, Location, str],
    ) -> StageSource:
        """Add the nodes that bring what a step copies from another machine.

        They are the same for every platform. Files of several servers lie on top of each other,
        so that one copy sees them all.
        """
        keep = target.preserve_times
        ops: list[tuple[HttpOp | GitOp, str]]
        if isinstance(ref, RepositoryRef):
            ops = [(GitOp(ref.reference, keep), ref.reference.shown)]
        else:
            ops = [
                (HttpOp(f.url, f.name, f.checksum, keep), parse_url(f.url).shown) for f in ref.files
            ]
        label, stage, _, where, slot = about
        node: int | None = None
        for number, (op, shown) in enumerate(ops):
            told = (label, stage, f"fetch {shown}", where, f"{slot} source{number}")
            node = self._node(op, target.build.build, (node,), told)
        inputs.append(node)
        return StageSource(len(inputs) - 1)

    def _step(
        self,
        target: TargetInput,
        stage: StageIR,
        step: StepIR,
        here: _Stage,
        stages: Mapping[int, _Stage],
        about: tuple[str, str, str, Location, str],
    ) -> int:
        inputs: list[int | None] = [here.node]
        action = step.action
        op: Op
        match action:
            case RunIR():
                op = self._exec(target, action, stages, inputs, step.where)
            case CopyIR():
                source: ContextSource | StageSource
                keep = target.preserve_times
                if isinstance(action.source, ServerRef | RepositoryRef):
                    source = self._fetched(target, action.source, inputs, about)
                    keep = True  # its date is no accident, and it knows the epoch already
                else:
                    source = self._source(target, action.source, stages, inputs, step.where)
                op = CopyOp(
                    source,
                    action.paths,
                    action.inline,
                    action.dest,
                    action.chown,
                    action.chmod,
                    action.exclude,
                    action.parents,
                    action.link,
                    action.unpack,
                    preserve_times=keep,
                )
            case WorkdirIR():
                op = MkdirOp(action.path, action.user)
            case None:
                raise AssertionError("a step without an action makes no node")
        return self._node(op, stage.platform, tuple(inputs), about)

    def _exec(
        self,
        target: TargetInput,
        run: RunIR,
        stages: Mapping[int, _Stage],
        inputs: list[int | None],
        where: Location,
    ) -> ExecOp:
        network = run.network or target.network
        check_granted(run.security, network, target.allow, where)
        mounts: list[RunMount] = []
        for mount in run.mounts:
            index: int | None = None
            context: int | None = None
            if mount.source is not None:
                source = self._source(target, mount.source, stages, inputs, mount.where)
                if isinstance(source, StageSource):
                    index = source.input
                else:
                    context = source.context
            options = mount_options(mount, target.build.args)
            where_to = options.pop("target", "")
            mounts.append(
                RunMount(
                    mount.type,  # type: ignore[arg-type]  # the parser knows the closed list
                    where_to,
                    tuple(sorted(options.items())),
                    index,
                    context,
                )
            )
        return ExecOp(
            run.args,
            self._environments.setdefault(run.env, run.env),
            run.cwd,
            run.user,
            network,
            hostname_of(target.build.args),
            tuple(mounts),
            run.security,  # type: ignore[arg-type]  # the parser knows the closed list
            run.script,
            target.preserve_times,
            target.around,
        )

    # -- nodes -------------------------------------------------------------------------

    def _context(self, spec: ContextSpec) -> int:
        index = self._context_ids.get(spec)
        if index is None:
            index = self._context_ids[spec] = len(self._contexts)
            self._contexts.append(spec)
        return index

    def _node(
        self,
        op: Op,
        platform: Platform,
        inputs: tuple[int | None, ...],
        about: tuple[str, str, str, Location, str],
    ) -> int:
        label, stage, title, where, slot = about
        contexts, asker = _contexts_of(op), _asker(op, label)
        mark = hash((op, platform, inputs, contexts, asker)) & _MARK
        while (index := self._known.get(mark)) is not None:
            node = self._nodes[index]
            alike = (node.inputs, node.op, node.platform) == (inputs, op, platform)
            if alike and (_contexts_of(node.op), _asker(node.op, node.label)) == (contexts, asker):
                if slot != node.slot:
                    self._shared.setdefault(index, []).append(slot)
                return index
            mark = (mark + 1) & _MARK
        index = self._known[mark] = len(self._nodes)
        self._nodes.append(Node(index, op, platform, inputs, label, stage, title, where, slot))
        return index


def _contexts_of(op: Op) -> tuple[int, ...]:
    """Context indices take no part in an op's equality, but two contexts are two nodes."""
    if isinstance(op, CopyOp) and isinstance(op.source, ContextSource):
        return (op.source.context,)
    if isinstance(op, ExecOp):
        return tuple(m.context for m in op.mounts if m.context is not None)
    return ()


def _asker(op: Op, label: str) -> str:
    """A server may answer one target's secrets and not another's."""
    return label if isinstance(op, HttpOp | GitOp) else ""


def _for(platform: Platform, build: Platform | None, title: str) -> str:
    """Name the platform of a step where it is not this machine's, as several look alike."""
    return title if build is None or platform == build else f"{title} [{platform}]"


def needs_directory(graph: NodeGraph) -> list[bool]:
    """Say for each node whether a RUN will stand on its files or read them.

    Such a layer is made as a directory at once; the others go straight into a blob.
    """
    wanted = [False] * len(graph.nodes)
    for node in reversed(graph.nodes):
        reads: Iterable[int | None]
        if isinstance(node.op, ExecOp):
            reads = node.inputs
        else:
            reads = node.inputs[1:]
            if wanted[node.id]:
                reads = node.inputs
        for source in reads:
            if source is not None:
                wanted[source] = True
    return wanted
