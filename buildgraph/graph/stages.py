"""Knows how a Dockerfile's stages unfold: which are needed, what each instruction means once its
variables are expanded, and what config results; must not know about nodes, files or the disk.

A stage is read with three things at hand: the build arguments, the config of its base, and the
state an earlier stage left (ARGs are inherited by a stage built FROM another, shared reference
1.3). The result is a list of `StepIR`s: what changes the file system, and what history says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.dockerfile import instructions as ins
from buildgraph.dockerfile.expand import expand, expand_words, heredoc_expand
from buildgraph.dockerfile.mounts import expand_mount
from buildgraph.dockerfile.parser import parse_onbuild
from buildgraph.dockerfile.ports import parse_ports
from buildgraph.dockerfile.signals import parse_signal
from buildgraph.errors import InputError, Location, raise_all
from buildgraph.graph.ops import InlineFile
from buildgraph.graph.run_op import absolute, place, with_agents
from buildgraph.graph.stage_ir import (
    DEFAULT_PATH,
    DEFAULT_SHELL,
    SCANS,
    BuildArgs,
    ContextRef,
    CopyIR,
    MountIR,
    RunIR,
    ScratchRef,
    SourceRef,
    StageIR,
    StageRef,
    StepIR,
    Unfolded,
    WorkdirIR,
)
from buildgraph.graph.stage_refs import References
from buildgraph.graph.transfer import is_remote, parts_of
from buildgraph.limits import DOCKERFILE_ERRORS, STEP_VARIABLES
from buildgraph.oci.types import Healthcheck, HistoryEntry, ImageConfig, Platform
from buildgraph.transport.urls import strip_logins

ConfigOf = Callable[[SourceRef, Platform, Location], ImageConfig]


class _State(Struct):
    """The mutable face of a stage while its instructions are read."""

    config: ImageConfig
    env: dict[str, str]  # the build environment: ENV and ARG, later line wins
    image_env: dict[str, str]
    args: dict[str, str]  # ARGs in scope, for the history of RUN
    cwd: str
    # What grows by one with each instruction is in the config when the stage is done.
    labels: dict[str, str]
    ports: set[str]
    volumes: set[str]
    on_build: list[str] = field(default_factory=list)
    cmd_set: bool = False
    steps: list[StepIR] = field(default_factory=list)

    @classmethod
    def of(cls, config: ImageConfig, env: dict[str, str], args: dict[str, str], cwd: str) -> _State:
        """Return the state that a stage on an image of this config begins with."""
        image_env = dict(config.env)
        image_env.setdefault("PATH", DEFAULT_PATH)
        labels, ports, volumes = dict(config.labels), set(config.exposed_ports), set(config.volumes)
        config = replace(config, on_build=(), history=())
        # ENV is set anew, so an ARG that hid one does so in its own stage alone.
        return cls(config, {**env, **image_env}, image_env, args, cwd, labels, ports, volumes)

    def finished(self, platform: Platform) -> ImageConfig:
        """Return the config that the stage comes to."""
        return replace(
            self.config,
            env=tuple(self.image_env.items()),
            working_dir=self.cwd,
            platform=platform,
            labels=tuple(self.labels.items()),
            exposed_ports=tuple(sorted(self.ports)),
            volumes=tuple(sorted(self.volumes)),
            on_build=tuple(self.on_build),
        )


class Unfolder:
    """Unfolds one Dockerfile for one target stage and platform."""

    def __init__(self, file: ins.Dockerfile, build: BuildArgs, config_of: ConfigOf):
        self._file = file
        self._build = build
        self._config_of = config_of
        self._escape = file.directives.escape
        self._consumed: set[str] = set()
        self._states: dict[int, _State] = {}
        self._names = References(file, build)
        self._seen = 0  # variables of all stages and RUN steps

    # -- which stages ------------------------------------------------------------------

    def unfold(self, stage: str | None) -> Unfolded:
        """Return the stages that the requested one needs, unfolded in file order."""
        names = self._names
        target = names.target_index(stage)
        last = self._file.stages[target].from_.name
        names.read_globals(stage or last or "default")
        bases = names.bases()
        needed = names.reachable(target, bases, {})
        while True:
            self._states.clear()
            self._seen = 0
            done: list[StageIR] = []
            triggers: dict[int, list[ins.Instruction]] = {}
            for index in sorted(needed):
                done.append(self._stage(index, bases[index], triggers))
            again = names.reachable(target, bases, triggers)
            if again == needed:
                return Unfolded(tuple(done), target, frozenset(self._consumed | names.consumed))
            needed = again

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
            state = _State.of(parent.config, parent.env, dict(parent.args), parent.cwd)
            on_build = parent.config.on_build
        else:
            state, on_build = self._fresh(ref, platform, where)
        self._count(state.env, where)
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
                if len(errors) >= DOCKERFILE_ERRORS or self._seen > STEP_VARIABLES:
                    break
        raise_all(errors)
        config = state.config = state.finished(platform)
        name = stage.from_.name or ""
        return StageIR(index, name, ref, platform, tuple(state.steps), config, where)

    def _fresh(
        self, ref: SourceRef, platform: Platform, where: Location
    ) -> tuple[_State, tuple[str, ...]]:
        if isinstance(ref, ScratchRef):
            config = ImageConfig(platform=platform)
        else:
            config = self._config_of(ref, platform, where)
        return _State.of(config, {}, {}, config.working_dir or "/"), config.on_build

    def _count(self, env: Mapping[str, str], where: Location) -> None:
        """Raise InputError where many stages or steps with many variables each are too much."""
        self._seen += len(env)
        if self._seen > STEP_VARIABLES:
            raise InputError(
                f"more than {STEP_VARIABLES} variables, counted in each stage and each RUN",
                where,
                "join steps, or put the variables into a file",
            )

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
        title = _title(text if isinstance(action, CopyIR) else item.source)
        state.steps.append(StepIR(action, history, title, item.where))

    # -- instructions ------------------------------------------------------------------

    def _arg(self, state: _State, item: ins.Arg, index: int) -> None:
        names = [self._text(name, state.env, item.where) for name, _ in item.pairs]
        for name, (_, default) in zip(names, item.pairs, strict=True):
            if name in self._build.args:
                value: str | None = self._build.args[name]
                self._consumed.add(name)
            elif default is not None:
                value = self._text(default, state.env, item.where)
            elif name == "SOURCE_DATE_EPOCH":
                value = str(self._build.epoch)
            else:
                value = self._names.globals.get(name)
            if value is not None and name not in SCANS:
                state.env[name] = value
                state.args[name] = value
        self._note(state, item)

    def _env(self, state: _State, item: ins.Env, index: int) -> None:
        # One environment per instruction: ENV a=x b=$a uses the old a.
        pairs = [
            (self._text(key, state.env, item.where), self._text(word, state.env, item.where))
            for key, word in item.pairs
        ]
        if not all(name for name, _ in pairs):
            raise InputError("a variable needs a name", item.where)
        for name, value in pairs:
            state.env[name] = value
            state.image_env[name] = value
            state.args.pop(name, None)
        self._note(state, item)

    def _label(self, state: _State, item: ins.LabelInstruction, index: int) -> None:
        for key, word in item.pairs:
            name = self._text(key, state.env, item.where)
            state.labels[name] = self._text(word, state.env, item.where)
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
        self._count(env, item.where)
        mounts = with_agents(tuple(self._mount(state, m, index) for m in item.mounts), env)
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
        source = None if from_ is None else self._names.source(from_, index, mount.where)
        if options.get("target") or mount.type not in ("secret", "ssh"):
            options["target"] = place(options.get("target", ""), state.cwd, mount.where)
        if mount.type == "bind" and source is None:
            source = ContextRef("")
        return MountIR(mount.type, tuple(options.items()), source, mount.where)

    def _transfer(self, state: _State, item: ins.Copy | ins.Add, index: int) -> None:
        add = isinstance(item, ins.Add)
        source: SourceRef = ContextRef("")
        if isinstance(item, ins.Copy) and item.from_ is not None:
            source = self._names.source(item.from_, index, item.where)
        where = item.where
        paths = tuple(self._text(s, state.env, where) for s in item.sources)
        inline = tuple(
            InlineFile(
                doc.name,
                (
                    heredoc_expand(doc.body, state.env, where=doc.where) if doc.expand else doc.body
                ).encode(errors="surrogateescape"),
            )
            for doc in item.heredocs
        )
        dest = self._text(item.dest, state.env, where)
        checksum = None
        if isinstance(item, ins.Add) and item.checksum is not None:
            checksum = self._text(item.checksum, state.env, where)
        place = _destination(state.cwd, dest)
        parts = parts_of(item, source, paths, place, checksum)
        created_by = strip_logins(item.source) if any(map(is_remote, parts)) else None
        for part in parts:
            action = CopyIR(
                part.source,
                part.paths,
                inline if part is parts[-1] else (),
                place,
                None if item.chown is None else self._text(item.chown, state.env, where),
                None if item.chmod is None else self._text(item.chmod, state.env, where),
                item.exclude,
                isinstance(item, ins.Copy) and item.parents,
                item.link,
                part.unpack,
                add,
            )
            self._note(state, item, action, created_by)

    def _workdir(self, state: _State, item: ins.Workdir, index: int) -> None:
        path = self._text(item.path, state.env, item.where)
        state.cwd = absolute(state.cwd, path)
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
        for word in item.ports:
            for text in expand_words(word, state.env, self._escape, where=item.where):
                state.ports.update(parse_ports(text, item.where))
        self._note(state, item)

    def _volume(self, state: _State, item: ins.Volume, index: int) -> None:
        for word in item.paths:
            path = self._text(word, state.env, item.where)
            if not path:
                raise InputError("VOLUME needs a path", item.where)
            state.volumes.add(path)
        self._note(state, item)

    def _stop_signal(self, state: _State, item: ins.StopSignal, index: int) -> None:
        text = self._text(item.signal, state.env, item.where)
        parse_signal(text, item.where)
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
        state.on_build.append(item.trigger)  # history tells a trigger where it runs (1.4)

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


def _destination(cwd: str, dest: str) -> str:
    """Return `dest` made absolute, keeping what says "into this directory" as a trailing slash."""
    into = dest.endswith(("/", "/.")) or dest in ("", ".")
    path = absolute(cwd, dest)
    return path if path == "/" or not into else path + "/"


def _title(source: str) -> str:
    first, _, rest = source.partition("\n")
    if "  " in first or "\t" in first:
        # The indentation of continued lines says nothing once they are one.
        first = re.sub("[ \t]{2,}", " ", first)
    return first + (" …" if rest.strip() else "")


def _check_supported(item: ins.Instruction) -> None:
    """Refuse what is not built yet; nothing is ever ignored."""
    if isinstance(item, ins.Run):
        if item.devices:
            raise InputError(
                "RUN --device is not supported: no step sees a device of the host",
                item.where,
                "do this work in a container that is run with the device",
            )
