"""Knows the instructions of the Dockerfile language as data; must not know how text becomes them.

Every instruction carries `where` (its first line, with the text for a caret), `end_line` and
`source`, its text as written with continuations joined (what history shows). Words that the
builder expands are kept unexpanded here. Source: shared reference, section 1.
"""

from __future__ import annotations

from msgspec import Struct

from buildgraph.errors import Location


class Base(Struct, frozen=True, kw_only=True):
    """What every instruction has."""

    where: Location
    end_line: int
    source: str  # "RUN make  all", keyword upper-cased, continuations joined
    keyword: str  # as written: "run"
    skip_checks: tuple[str, ...] = ()  # from a `# check=skip=` comment right above
    experimental_checks: tuple[str, ...] = ()  # from `# check=experimental=`, likewise


class Heredoc(Struct, frozen=True):
    """A here-document: `<<-"EOF"` has chomp (the body's tabs are gone), and expand False."""

    name: str
    body: str
    expand: bool
    chomp: bool
    where: Location
    fd: int | None = None


class Mount(Struct, frozen=True):
    """One `--mount=` record, keys canonical (target, source, from, id, ...), values unexpanded."""

    type: str
    options: tuple[tuple[str, str], ...]
    where: Location


class From(Base, frozen=True, kw_only=True):
    """FROM [--platform=P] image [AS name]."""

    image: str
    name: str | None = None  # lower case
    platform: str | None = None
    comment: str = ""  # description right above
    as_keyword: str = "AS"
    name_as_written: str | None = None
    comments: tuple[str, ...] = ()  # every comment line right above, directives left out


class Run(Base, frozen=True, kw_only=True):
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


class Command(Base, frozen=True, kw_only=True):
    """CMD or ENTRYPOINT; `shell` text is wrapped with SHELL later; `exec` may be empty."""

    shell: str | None = None
    exec: tuple[str, ...] | None = None


class Cmd(Command, frozen=True, kw_only=True):
    """CMD."""


class Entrypoint(Command, frozen=True, kw_only=True):
    """ENTRYPOINT."""


class Transfer(Base, frozen=True, kw_only=True):
    """What COPY and ADD share; sources and dest unexpanded; heredocs are sources too."""

    sources: tuple[str, ...]
    heredocs: tuple[Heredoc, ...] = ()
    dest: str
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    exclude: tuple[str, ...] = ()


class Copy(Transfer, frozen=True, kw_only=True):
    """COPY."""

    from_: str | None = None
    parents: bool = False


class Add(Transfer, frozen=True, kw_only=True):
    """ADD."""

    checksum: str | None = None
    keep_git_dir: bool = False
    unpack: bool | None = None


class Env(Base, frozen=True, kw_only=True):
    """ENV; `legacy` is the form without `=`."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


class LabelInstruction(Base, frozen=True, kw_only=True):
    """LABEL; keys are expanded too."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


class Arg(Base, frozen=True, kw_only=True):
    """ARG; a None value means no default (`ARG X`), "" means empty (`ARG X=`)."""

    pairs: tuple[tuple[str, str | None], ...]
    comment: str = ""
    comments: tuple[str, ...] = ()


class Workdir(Base, frozen=True, kw_only=True):
    """WORKDIR."""

    path: str


class User(Base, frozen=True, kw_only=True):
    """USER."""

    user: str


class Expose(Base, frozen=True, kw_only=True):
    """EXPOSE; each word may expand to several ports."""

    ports: tuple[str, ...]


class Volume(Base, frozen=True, kw_only=True):
    """VOLUME."""

    paths: tuple[str, ...]


class StopSignal(Base, frozen=True, kw_only=True):
    """STOPSIGNAL."""

    signal: str


class HealthcheckInstruction(Base, frozen=True, kw_only=True):
    """HEALTHCHECK; `test` is ("NONE",), ("CMD", args...) or ("CMD-SHELL", text).

    Durations are nanoseconds; 0 inherits, for the retries too.
    """

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Shell(Base, frozen=True, kw_only=True):
    """SHELL."""

    args: tuple[str, ...]


class OnBuild(Base, frozen=True, kw_only=True):
    """ONBUILD; `trigger` is the text of the instruction to run in a child (heredocs included)."""

    trigger: str


class Maintainer(Base, frozen=True, kw_only=True):
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


class Directives(Struct, frozen=True):
    """Parser directives from the top of the file."""

    syntax: str | None = None
    escape: str = "\\"
    check: str | None = None  # raw text of `# check=`
    where: tuple[tuple[str, Location], ...] = ()


class Warning(Struct, frozen=True):  # noqa: A001  BuildKit's word; import the module, not the name
    """A build check that fired; `fatal` where `# check=error=true` asks for an error."""

    rule: str
    message: str
    where: Location
    reason: str = ""  # why the rule exists, in a sentence
    fatal: bool = False
    fix: str = ""  # what to write instead, where there is one answer
    end_line: int = 0  # of the instruction; 0: the line of `where` alone


class StageText(Struct, frozen=True):
    """One FROM and what follows it, unexpanded."""

    from_: From
    body: tuple[Instruction, ...]


class Dockerfile(Struct, frozen=True):
    """A parsed file: ARGs before the first FROM, then stages."""

    path: str
    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[StageText, ...]
    warnings: tuple[Warning, ...] = ()
