"""Knows how a Dockerfile's stages unfold: which are needed, what each instruction means once its
variables are expanded, and what config results; must not know about nodes, files or the disk.

A stage is read with three things at hand: the build arguments, the config of its base, and the
state an earlier stage left (ARGs are inherited by a stage built FROM another, shared reference
1.3). The result is a list of `StepIR`s: what changes the file system, and what history says.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from buildgraph.dockerfile import instructions as ins
from buildgraph.dockerfile.expand import expand, expand_words, heredoc_expand
from buildgraph.dockerfile.mounts import expand_mount
from buildgraph.dockerfile.parser import parse_onbuild
from buildgraph.dockerfile.ports import parse_ports
from buildgraph.errors import InputError, Location, did_you_mean, raise_all
from buildgraph.graph.ops import InlineFile, Network
from buildgraph.oci.types import Healthcheck, HistoryEntry, ImageConfig, Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
PROXY_ARGS = frozenset(
    name
    for base in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (base, base.lower())
)
# Build arguments that steer the builder and never become variables by themselves (1.3).
KNOBS = frozenset(
    {
        "BUILDKIT_CACHE_MOUNT_NS",
        "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
        "BUILDKIT_INLINE_CACHE",
        "BUILDKIT_MULTI_PLATFORM",
        "BUILDKIT_SANDBOX_HOSTNAME",
        "BUILDKIT_SYNTAX",
        "BUILDKIT_BUILD_NAME",
        "BUILDKIT_DOCKERFILE_CHECK",
        "BUILDKIT_SBOM_SCAN_CONTEXT",
        "BUILDKIT_SBOM_SCAN_STAGE",
        "SOURCE_DATE_EPOCH",
    }
)


@dataclass(frozen=True, slots=True)
class ScratchRef:
    """No file system at all."""


@dataclass(frozen=True, slots=True)
class StageRef:
    """An earlier stage of the same Dockerfile."""

    index: int


@dataclass(frozen=True, slots=True)
class ContextRef:
    """A named context of the target; "" is the build context itself."""

    name: str


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that nothing in the workspace defines."""

    reference: str


SourceRef = ScratchRef | StageRef | ContextRef | ImageRef


@dataclass(frozen=True, slots=True)
class MountIR:
    """One RUN --mount, expanded; `source` where it has a `from`."""

    type: str
    options: tuple[tuple[str, str], ...]
    source: SourceRef | None
    where: Location


@dataclass(frozen=True, slots=True)
class RunIR:
    """RUN, ready to be executed in the stage's file system."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    network: Network | None
    security: str
    mounts: tuple[MountIR, ...]
    script: bytes | None


@dataclass(frozen=True, slots=True)
class CopyIR:
    """COPY or ADD with everything expanded; `dest` is absolute."""

    source: SourceRef
    paths: tuple[str, ...]
    inline: tuple[InlineFile, ...]
    dest: str
    chown: str | None
    chmod: str | None
    exclude: tuple[str, ...]
    parents: bool
    link: bool
    unpack: bool | None
    add: bool


@dataclass(frozen=True, slots=True)
class WorkdirIR:
    """WORKDIR; `path` is absolute and normal."""

    path: str
    user: str


@dataclass(frozen=True, slots=True)
class StepIR:
    """One instruction: what it does to files (None: nothing) and what history says."""

    action: RunIR | CopyIR | WorkdirIR | None
    history: HistoryEntry
    title: str
    where: Location


@dataclass(frozen=True, slots=True)
class StageIR:
    """A stage, unfolded."""

    index: int
    name: str
    base: SourceRef
    platform: Platform
    steps: tuple[StepIR, ...]
    config: ImageConfig
    where: Location


@dataclass(frozen=True, slots=True)
class BuildArgs:
    """What a build is parameterised with."""

    args: Mapping[str, str]
    target: Platform
    build: Platform
    epoch: int
    contexts: frozenset[str] = frozenset()  # names of named contexts, lower case


@dataclass(frozen=True, slots=True)
class Unfolded:
    """The stages one target needs, in file order, and which build arguments were used."""

    stages: tuple[StageIR, ...]
    target: int
    consumed: frozenset[str]


ConfigOf = Callable[[SourceRef, Platform, Location], ImageConfig]


@dataclass(slots=True)
class _State:
    """The mutable face of a stage while its instructions are read."""

    config: ImageConfig
    env: dict[str, str]  # the build environment: ENV and ARG, later line wins
    image_env: dict[str, str]
    args: dict[str, str]  # ARGs in scope, for the history of RUN
    cwd: str
    cmd_set: bool = False
    steps: list[StepIR] = field(default_factory=list)

    def child(self) -> _State:
        """Return the state a stage built FROM this one starts with."""
        config = replace(self.config, on_build=(), history=())
        return _State(config, dict(self.env), dict(self.image_env), dict(self.args), self.cwd)


def platform_args(build: BuildArgs, stage: str) -> dict[str, str]:
    """Return the predefined platform arguments (1.3); `stage` is the requested target."""
    out: dict[str, str] = {}
    for prefix, platform in (("TARGET", build.target), ("BUILD", build.build)):
        out[f"{prefix}PLATFORM"] = str(platform)
        out[f"{prefix}OS"] = platform.os
        out[f"{prefix}ARCH"] = platform.architecture
        out[f"{prefix}VARIANT"] = platform.variant
        out[f"{prefix}OSVERSION"] = ""
    out["TARGETSTAGE"] = stage
    return out


def parse_platform(text: str, where: Location | None = None) -> Platform:
    """Parse `os/arch[/variant]` in Go's words, normalising the common aliases (A69)."""
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(
        p.isascii() and p and all(c.isalnum() or c in "._-" for c in p) for p in parts
    ):
        raise InputError(f"not a platform: {text!r}", where, "write os/arch, as linux/amd64")
    if len(parts) == 1:
        parts = ["linux", parts[0]]
    system, arch = parts[0].lower(), parts[1].lower()
    variant = parts[2].lower() if len(parts) == 3 else ""
    arch, implied = {
        "x86_64": ("amd64", ""),
        "x86-64": ("amd64", ""),
        "aarch64": ("arm64", ""),
        "armhf": ("arm", "v7"),
        "armel": ("arm", "v6"),
        "i386": ("386", ""),
    }.get(arch, (arch, ""))
    variant = variant or implied
    if (arch, variant) in {("arm64", "v8"), ("amd64", "v1")}:
        variant = ""
    if arch == "arm" and not variant:
        variant = "v7"
    return Platform(system, arch, variant)


class Unfolder:
    """Unfolds one Dockerfile for one target stage and platform."""

    def __init__(self, file: ins.Dockerfile, build: BuildArgs, config_of: ConfigOf):
        self._file = file
        self._build = build
        self._config_of = config_of
        self._escape = file.directives.escape
        self._consumed: set[str] = set()
        self._globals: dict[str, str] = {}
        self._states: dict[int, _State] = {}
        self._names = [(s.from_.name or "").lower() for s in file.stages]

    # -- which stages ------------------------------------------------------------------

    def target_index(self, stage: str | None) -> int:
        """Return the index of the requested stage: by name, else the last."""
        if stage is None:
            return len(self._file.stages) - 1
        for index in range(len(self._names) - 1, -1, -1):
            if self._names[index] == stage.lower():
                return index
        names = [n for n in self._names if n]
        where = Location(self._file.path)
        raise InputError(f"no stage named {stage!r}", where, did_you_mean(stage.lower(), names))

    def unfold(self, stage: str | None) -> Unfolded:
        """Return the stages that the requested one needs, unfolded in file order."""
        target = self.target_index(stage)
        last = self._file.stages[target].from_.name
        self._read_globals(stage or last or "default")
        bases = self._bases()
        needed = self._reachable(target, bases, {})
        while True:
            self._states.clear()
            done: list[StageIR] = []
            triggers: dict[int, list[ins.Instruction]] = {}
            for index in sorted(needed):
                done.append(self._stage(index, bases[index], triggers))
            again = self._reachable(target, bases, triggers)
            if again == needed:
                return Unfolded(tuple(done), target, frozenset(self._consumed))
            needed = again

    def _read_globals(self, stage: str) -> None:
        self._globals = platform_args(self._build, stage)
        for name in list(self._globals):
            if name in self._build.args:
                self._globals[name] = self._build.args[name]
                self._consumed.add(name)
        for arg in self._file.global_args:
            for name, default in arg.pairs:
                name = self._text(name, self._globals, arg.where)
                if name in self._build.args:
                    self._globals[name] = self._build.args[name]
                    self._consumed.add(name)
                elif default is not None:
                    self._globals[name] = self._text(default, self._globals, arg.where)

    def _bases(self) -> list[tuple[SourceRef, Platform]]:
        out: list[tuple[SourceRef, Platform]] = []
        errors: list[InputError] = []
        for index, stage in enumerate(self._file.stages):
            try:
                out.append(self._base(index, stage.from_))
            except InputError as error:
                errors.append(error)
                out.append((ScratchRef(), self._build.target))
        raise_all(errors)
        return out

    def _base(self, index: int, from_: ins.From) -> tuple[SourceRef, Platform]:
        image = self._text(from_.image, self._globals, from_.where)
        if not image:
            raise InputError(
                f"the base image {from_.image!r} is empty once its variables are expanded",
                from_.where,
                "give the ARG a default, or pass --build-arg",
            )
        platform = self._build.target
        if from_.platform is not None:
            text = self._text(from_.platform, self._globals, from_.where)
            if not text:
                raise InputError(f"the platform {from_.platform!r} is empty", from_.where)
            platform = parse_platform(text, from_.where)
        for earlier in range(index - 1, -1, -1):
            if self._names[earlier] and self._names[earlier] == image:
                return StageRef(earlier), platform
        if image == "scratch":
            return ScratchRef(), platform
        if _context_name(image) in self._build.contexts:
            return ContextRef(_context_name(image)), platform
        return ImageRef(image), platform

    def source(self, name: str, index: int, where: Location) -> SourceRef:
        """Return what `--from=name` means inside stage `index`.

        Stage names win over contexts and images; the last of duplicate names is meant (1.5).
        """
        if "$" in name:
            raise InputError(
                f"--from={name} holds a variable, and --from is not expanded",
                where,
                "name a stage instead: FROM <image> AS <name>, where FROM is expanded",
            )
        lower = name.lower()
        if lower == "scratch":
            return ScratchRef()
        for position in range(len(self._names) - 1, -1, -1):
            if self._names[position] == lower and lower:
                return self._earlier(position, index, name, where)
        if _context_name(lower) in self._build.contexts:
            return ContextRef(_context_name(lower))
        if name.isdigit() and int(name) < len(self._file.stages):
            return self._earlier(int(name), index, name, where)
        if name.isdigit():
            raise InputError(f"there is no stage {name}", where, f"{len(self._names)} stages exist")
        return ImageRef(name)

    def _earlier(self, position: int, index: int, name: str, where: Location) -> SourceRef:
        if position < index:
            return StageRef(position)
        here = self._file.stages[index].from_.name or f"number {index}"
        if position == index:
            raise InputError(f"stage {here!r} cannot copy from itself", where)
        raise InputError(
            f"stage {name!r} is used in stage {here!r} but must be defined before it",
            where,
            f"{name!r} begins at line {self._file.stages[position].from_.where.line}",
        )

    def _reachable(
        self,
        target: int,
        bases: list[tuple[SourceRef, Platform]],
        triggers: Mapping[int, list[ins.Instruction]],
    ) -> frozenset[int]:
        seen: set[int] = set()
        work = [target]
        errors: list[InputError] = []
        while work:
            index = work.pop()
            if index in seen:
                continue
            seen.add(index)
            refs: list[SourceRef] = [bases[index][0]]
            for item in (*triggers.get(index, ()), *self._file.stages[index].body):
                for name in _mentions(item):
                    try:
                        refs.append(self.source(name, index, item.where))
                    except InputError as error:
                        errors.append(error)
            work.extend(ref.index for ref in refs if isinstance(ref, StageRef))
        raise_all(errors)
        return frozenset(seen)

    # -- one stage ---------------------------------------------------------------------

    def _stage(
        self,
        index: int,
        base: tuple[SourceRef, Platform],
        triggers: dict[int, list[ins.Instruction]],
    ) -> StageIR:
        ref, platform = base
        stage = self._file.stages[index]
        where = stage.from_.where
        if isinstance(ref, StageRef):
            parent = self._states[ref.index]
            state, on_build = parent.child(), parent.config.on_build
        else:
            state, on_build = self._fresh(ref, platform, where)
        self._states[index] = state
        errors: list[InputError] = []
        for text in on_build:
            trigger = parse_onbuild(text, self._file.path, where)
            triggers.setdefault(index, []).append(trigger)
        for item in (*triggers.get(index, ()), *stage.body):
            try:
                self._instruction(state, item, index)
            except InputError as error:
                errors.append(error)
        raise_all(errors)
        env = tuple(state.image_env.items())
        config = replace(state.config, env=env, working_dir=state.cwd, platform=platform)
        state.config = config
        name = stage.from_.name or ""
        return StageIR(index, name, ref, platform, tuple(state.steps), config, where)

    def _fresh(
        self, ref: SourceRef, platform: Platform, where: Location
    ) -> tuple[_State, tuple[str, ...]]:
        if isinstance(ref, ScratchRef):
            config = ImageConfig(platform=platform, env=(("PATH", DEFAULT_PATH),))
        else:
            config = self._config_of(ref, platform, where)
        env = dict(config.env)
        env.setdefault("PATH", DEFAULT_PATH)
        on_build = config.on_build
        config = replace(config, on_build=(), history=())
        return _State(config, dict(env), dict(env), {}, config.working_dir or "/"), on_build

    def _text(self, word: str, env: Mapping[str, str], where: Location) -> str:
        return expand(word, env, self._escape, where=where)

    def _instruction(self, state: _State, item: ins.Instruction, index: int) -> None:
        _check_supported(item)
        handler = _HANDLERS.get(type(item))
        if handler is None:
            raise InputError(f"{item.keyword} cannot stand here", item.where)
        handler(self, state, item, index)

    def _note(
        self,
        state: _State,
        item: ins.Instruction,
        action: RunIR | CopyIR | WorkdirIR | None = None,
        created_by: str | None = None,
    ) -> None:
        text = created_by or item.source
        history = HistoryEntry(text, action is None, author=state.config.author)
        state.steps.append(StepIR(action, history, _title(item.source), item.where))

    # -- instructions ------------------------------------------------------------------

    def _arg(self, state: _State, item: ins.Arg, index: int) -> None:
        scope = {**state.env}
        for name, default in item.pairs:
            name = self._text(name, scope, item.where)
            if name in self._build.args:
                value: str | None = self._build.args[name]
                self._consumed.add(name)
            elif default is not None:
                value = self._text(default, {**state.env}, item.where)
            elif name == "SOURCE_DATE_EPOCH":
                value = str(self._build.epoch)
            else:
                value = self._globals.get(name)
            if value is not None:
                state.env[name] = value
                state.args[name] = value
        self._note(state, item)

    def _env(self, state: _State, item: ins.Env, index: int) -> None:
        snapshot = dict(state.env)  # one environment per instruction: ENV a=x b=$a uses the old a
        for key, word in item.pairs:
            name = self._text(key, snapshot, item.where)
            if not name:
                raise InputError("a variable needs a name", item.where)
            value = self._text(word, snapshot, item.where)
            state.env[name] = value
            state.image_env[name] = value
            state.args.pop(name, None)
        self._note(state, item)

    def _label(self, state: _State, item: ins.LabelInstruction, index: int) -> None:
        labels = dict(state.config.labels)
        for key, word in item.pairs:
            name = self._text(key, state.env, item.where)
            labels[name] = self._text(word, state.env, item.where)
        state.config = replace(state.config, labels=tuple(labels.items()))
        self._note(state, item)

    def _run(self, state: _State, item: ins.Run, index: int) -> None:
        script: bytes | None = None
        if item.exec is not None:
            args = item.exec
        else:
            text = item.shell or ""
            if item.script and text.startswith("#!"):
                script = text.encode(errors="surrogateescape")
                args = ()
            else:
                args = (*(state.config.shell or DEFAULT_SHELL), text)
        env = dict(state.env)
        env.setdefault("SOURCE_DATE_EPOCH", str(self._build.epoch))
        mounts = tuple(self._mount(state, m, index) for m in item.mounts)
        action = RunIR(
            args,
            tuple(sorted(env.items())),
            state.cwd,
            state.config.user,
            item.network,  # type: ignore[arg-type]  # the parser knows the closed list
            item.security or "sandbox",
            mounts,
            script,
        )
        shown = " ".join(args) if script is None else item.shell or ""
        values = [f"{k}={v}" for k, v in sorted(state.args.items())]
        prefix = f"|{len(values)} {' '.join(values)} " if values else ""
        self._note(state, item, action, f"RUN {prefix}{shown}")

    def _mount(self, state: _State, mount: ins.Mount, index: int) -> MountIR:
        mount = expand_mount(mount, lambda word: self._text(word, state.env, mount.where))
        options = dict(mount.options)
        from_ = options.pop("from", None)
        source = None if from_ is None else self.source(from_, index, mount.where)
        if options.get("target"):
            options["target"] = posixpath.normpath(
                posixpath.join("/", state.cwd, options["target"])
            ).replace("//", "/")
        if mount.type == "bind" and source is None:
            source = ContextRef("")
        return MountIR(mount.type, tuple(options.items()), source, mount.where)

    def _transfer(self, state: _State, item: ins.Copy | ins.Add, index: int) -> None:
        add = isinstance(item, ins.Add)
        source: SourceRef = ContextRef("")
        if isinstance(item, ins.Copy) and item.from_ is not None:
            source = self.source(item.from_, index, item.where)
        where = item.where
        paths = tuple(self._text(s, state.env, where) for s in item.sources)
        for path in paths:
            _check_local(path, add, where)
        inline = tuple(
            InlineFile(
                doc.name,
                (heredoc_expand(doc.body, state.env, where=doc.where) if doc.expand else doc.body)
                .encode(errors="surrogateescape"),
            )
            for doc in item.heredocs
        )
        dest = self._text(item.dest, state.env, where)
        action = CopyIR(
            source,
            paths,
            inline,
            _destination(state.cwd, dest),
            None if item.chown is None else self._text(item.chown, state.env, where),
            None if item.chmod is None else self._text(item.chmod, state.env, where),
            item.exclude,
            isinstance(item, ins.Copy) and item.parents,
            item.link,
            item.unpack if isinstance(item, ins.Add) else False,
            add,
        )
        self._note(state, item, action)

    def _workdir(self, state: _State, item: ins.Workdir, index: int) -> None:
        path = self._text(item.path, state.env, item.where)
        state.cwd = posixpath.normpath(posixpath.join("/", state.cwd, path))
        if state.cwd.startswith("//"):  # POSIX keeps exactly two leading slashes
            state.cwd = state.cwd[1:]
        action = WorkdirIR(state.cwd, state.config.user) if state.cwd != "/" else None
        self._note(state, item, action)

    def _user(self, state: _State, item: ins.User, index: int) -> None:
        state.config = replace(state.config, user=self._text(item.user, state.env, item.where))
        self._note(state, item)

    def _command(self, state: _State, item: ins.Cmd | ins.Entrypoint, index: int) -> None:
        shell = state.config.shell or DEFAULT_SHELL
        args = (*shell, item.shell) if item.shell is not None else item.exec
        if isinstance(item, ins.Cmd):
            state.config = replace(state.config, cmd=args)
            state.cmd_set = True
        else:
            # ENTRYPOINT clears an inherited CMD, not one set in this same stage (1.4).
            cmd = state.config.cmd if state.cmd_set else None
            state.config = replace(state.config, entrypoint=args or None, cmd=cmd)
        self._note(state, item)

    def _expose(self, state: _State, item: ins.Expose, index: int) -> None:
        ports = set(state.config.exposed_ports)
        for word in item.ports:
            for text in expand_words(word, state.env, self._escape, where=item.where):
                ports.update(parse_ports(text, item.where))
        state.config = replace(state.config, exposed_ports=tuple(sorted(ports)))
        self._note(state, item)

    def _volume(self, state: _State, item: ins.Volume, index: int) -> None:
        volumes = set(state.config.volumes)
        for word in item.paths:
            path = self._text(word, state.env, item.where)
            if not path:
                raise InputError("VOLUME needs a path", item.where)
            volumes.add(path)
        state.config = replace(state.config, volumes=tuple(sorted(volumes)))
        self._note(state, item)

    def _stop_signal(self, state: _State, item: ins.StopSignal, index: int) -> None:
        text = self._text(item.signal, state.env, item.where)
        state.config = replace(state.config, stop_signal=text)
        self._note(state, item)

    def _healthcheck(self, state: _State, item: ins.HealthcheckInstruction, index: int) -> None:
        health = Healthcheck(
            item.test,
            item.interval,
            item.timeout,
            item.start_period,
            item.start_interval,
            item.retries,
        )
        state.config = replace(state.config, healthcheck=health)
        self._note(state, item)

    def _shell(self, state: _State, item: ins.Shell, index: int) -> None:
        state.config = replace(state.config, shell=item.args)
        self._note(state, item)

    def _on_build(self, state: _State, item: ins.OnBuild, index: int) -> None:
        on_build = (*state.config.on_build, item.trigger)
        state.config = replace(state.config, on_build=on_build)
        self._note(state, item)

    def _maintainer(self, state: _State, item: ins.Maintainer, index: int) -> None:
        state.config = replace(state.config, author=item.name)
        self._note(state, item)


_HANDLERS: Mapping[type, Callable[..., None]] = {
    ins.Arg: Unfolder._arg,
    ins.Env: Unfolder._env,
    ins.LabelInstruction: Unfolder._label,
    ins.Run: Unfolder._run,
    ins.Copy: Unfolder._transfer,
    ins.Add: Unfolder._transfer,
    ins.Workdir: Unfolder._workdir,
    ins.User: Unfolder._user,
    ins.Cmd: Unfolder._command,
    ins.Entrypoint: Unfolder._command,
    ins.Expose: Unfolder._expose,
    ins.Volume: Unfolder._volume,
    ins.StopSignal: Unfolder._stop_signal,
    ins.HealthcheckInstruction: Unfolder._healthcheck,
    ins.Shell: Unfolder._shell,
    ins.OnBuild: Unfolder._on_build,
    ins.Maintainer: Unfolder._maintainer,
}


def _context_name(image: str) -> str:
    """Named contexts are matched without the implied tag: `name` and `name:latest` are one."""
    return image.removesuffix(":latest").lower()


def _mentions(item: ins.Instruction) -> list[str]:
    """Return the names an instruction reads from: `--from` and mounts' `from`."""
    if isinstance(item, ins.Copy):
        return [item.from_] if item.from_ is not None else []
    if isinstance(item, ins.Run):
        return [v for m in item.mounts for k, v in m.options if k == "from"]
    return []


def _destination(cwd: str, dest: str) -> str:
    """Return `dest` made absolute, keeping what says "into this directory" as a trailing slash."""
    into = dest.endswith("/") or dest in ("", ".") or dest.endswith("/.")
    path = posixpath.normpath(posixpath.join("/", cwd, dest)).replace("//", "/")
    return path if path == "/" or not into else path + "/"


def _title(source: str) -> str:
    first, _, rest = source.partition("\n")
    return first + (" …" if rest.strip() else "")


def _check_local(path: str, add: bool, where: Location) -> None:
    remote = path.startswith(("http://", "https://", "git@", "git://", "ssh://"))
    if not remote:
        return
    if not add:
        raise InputError(f"COPY cannot read {path}", where, "ADD can read URLs")
    raise InputError(
        f"ADD of {path}: URLs and git repositories are not supported yet",
        where,
        "fetch it in a RUN step, or copy a local file",
    )


def _check_supported(item: ins.Instruction) -> None:
    """Refuse what is not built yet; nothing is ever ignored."""
    if isinstance(item, ins.Run):
        if item.devices:
            raise InputError("RUN --device is not supported", item.where)
        if item.security not in (None, "sandbox"):
            raise InputError(
                f"RUN --security={item.security} is not supported",
                item.where,
                "every step runs in the sandbox; see `buildgraph doctor`",
            )
