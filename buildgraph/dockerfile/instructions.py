"""Knows the instructions of the Dockerfile language as data; must not know how text becomes them.

Every instruction carries `where` (its first line, with the text for a caret), `end_line` and
`source`, its text as written with continuations joined (what history shows). Words that the
builder expands are kept unexpanded here. Source: shared reference, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from buildgraph.errors import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What every instruction has."""

    where: Location
    end_line: int
    source: str  # "RUN make  all", keyword upper-cased, continuations joined
    keyword: str  # as written: "run"
    skip_checks: tuple[str, ...] = ()  # from a `# check=skip=` comment right above
    experimental_checks: tuple[str, ...] = ()  # from `# check=experimental=`, likewise


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: `<<-"EOF"` has chomp (the body's tabs are gone), and expand False."""

    name: str
    body: str
    expand: bool
    chomp: bool
    where: Location
    fd: int | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """One `--mount=` record, keys canonical (target, source, from, id, ...), values unexpanded."""

    type: str
    options: tuple[tuple[str, str], ...]
    where: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Base):
    """FROM [--platform=P] image [AS name]."""

    image: str
    name: str | None = None  # lower case
    platform: str | None = None
    comment: str = ""  # description right above
    as_keyword: str = "AS"
    name_as_written: str | None = None
    comments: tuple[str, ...] = ()  # every comment line right above, directives left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Base):
    """RUN; exactly one of `shell` (text for SHELL) and `exec` (argument vector) is set.

    A shell-form heredoc keeps its bodies in `shell`: with `script` True the whole body is the
    script (only a heredoc was given), otherwise text and bodies as the shell expects them.
    """

    shell: str | None = None
    exec: tuple[str, ...] | None = None
    heredocs: tuple[Heredoc, ...] = ()
    script: bool = False
    mounts: tuple[Mount, ...] = ()
    network: str | None = None
    security: str | None = None
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Base):
    """CMD or ENTRYPOINT; `shell` text is wrapped with SHELL later; `exec` may be empty."""

    shell: str | None = None
    exec: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Command):
    """CMD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Command):
    """ENTRYPOINT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Base):
    """What COPY and ADD share; sources and dest unexpanded; heredocs are sources too."""

    sources: tuple[str, ...]
    heredocs: tuple[Heredoc, ...] = ()
    dest: str
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Transfer):
    """COPY."""

    from_: str | None = None
    parents: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Transfer):
    """ADD."""

    checksum: str | None = None
    keep_git_dir: bool = False
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Base):
    """ENV; `legacy` is the form without `=`."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelInstruction(Base):
    """LABEL; keys are expanded too."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Base):
    """ARG; a None value means no default (`ARG X`), "" means empty (`ARG X=`)."""

    pairs: tuple[tuple[str, str | None], ...]
    comment: str = ""
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Base):
    """WORKDIR."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Base):
    """USER."""

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Base):
    """EXPOSE; each word may expand to several ports."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Base):
    """VOLUME."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Base):
    """STOPSIGNAL."""

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthcheckInstruction(Base):
    """HEALTHCHECK; `test` is ("NONE",), ("CMD", args...) or ("CMD-SHELL", text).

    Durations are nanoseconds; 0 inherits, for the retries too.
    """

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Base):
    """SHELL."""

    args: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Base):
    """ONBUILD; `trigger` is the text of the instruction to run in a child (heredocs included)."""

    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Base):
    """MAINTAINER."""

    name: str


Instruction = (
    From
    | Run
    | Cmd
    | Entrypoint
    | Copy
    | Add
    | Env
    | LabelInstruction
    | Arg
    | Workdir
    | User
    | Expose
    | Volume
    | StopSignal
    | HealthcheckInstruction
    | Shell
    | OnBuild
    | Maintainer
)


@dataclass(frozen=True, slots=True)
class Directives:
    """Parser directives from the top of the file."""

    syntax: str | None = None
    escape: str = "\\"
    check: str | None = None  # raw text of `# check=`
    where: tuple[tuple[str, Location], ...] = ()


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001  BuildKit's word; import the module, not the name
    """A build check that fired; `fatal` where `# check=error=true` asks for an error."""

    rule: str
    message: str
    where: Location
    reason: str = ""  # why the rule exists, in a sentence
    fatal: bool = False
    fix: str = ""  # what to write instead, where there is one answer
    end_line: int = 0  # of the instruction; 0: the line of `where` alone


@dataclass(frozen=True, slots=True)
class StageText:
    """One FROM and what follows it, unexpanded."""

    from_: From
    body: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A parsed file: ARGs before the first FROM, then stages."""

    path: str
    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[StageText, ...]
    warnings: tuple[Warning, ...] = ()
