"""Knows what an unfolded stage is, as data, and the words for platforms; must not know how a
Dockerfile becomes one.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from buildgraph.errors import Location
from buildgraph.fetch.git_url import GitReference
from buildgraph.graph.ops import InlineFile, Network
from buildgraph.oci.types import HistoryEntry, ImageConfig, Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
PROXY_ARGS = frozenset(
    name
    for base in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (base, base.lower())
)
# What an ARG says to a scanner; no step sees it (1.3).
SCANS = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
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
        "SOURCE_DATE_EPOCH",
        *SCANS,
    }
)


class ScratchRef(Struct, frozen=True):
    """No file system at all."""


class StageRef(Struct, frozen=True):
    """An earlier stage of the same Dockerfile."""

    index: int


class ContextRef(Struct, frozen=True):
    """A named context of the target; "" is the build context itself."""

    name: str


class ImageRef(Struct, frozen=True):
    """An image that nothing in the workspace defines."""

    reference: str


SourceRef = ScratchRef | StageRef | ContextRef | ImageRef


class ServerFile(Struct, frozen=True):
    """One file of an http(s) server, under the name it gets; see HttpOp."""

    url: str
    name: str
    checksum: str | None


class ServerRef(Struct, frozen=True):
    """Files of servers, one directory of them."""

    files: tuple[ServerFile, ...]


class RepositoryRef(Struct, frozen=True):
    """The tree of a commit of a git repository."""

    reference: GitReference


CopySource = SourceRef | ServerRef | RepositoryRef


class MountIR(Struct, frozen=True):
    """One RUN --mount, expanded; `source` where it has a `from`."""

    type: str
    options: tuple[tuple[str, str], ...]
    source: SourceRef | None
    where: Location


class RunIR(Struct, frozen=True):
    """RUN, ready to be executed in the stage's file system."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    network: Network | None
    security: str
    mounts: tuple[MountIR, ...]
    script: bytes | None


class CopyIR(Struct, frozen=True):
    """COPY or ADD with everything expanded; `dest` is absolute."""

    source: CopySource
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


class WorkdirIR(Struct, frozen=True):
    """WORKDIR; `path` is absolute and normal."""

    path: str
    user: str


class StepIR(Struct, frozen=True):
    """One instruction: what it does to files (None: nothing) and what history says."""

    action: RunIR | CopyIR | WorkdirIR | None
    history: HistoryEntry
    title: str
    where: Location


class StageIR(Struct, frozen=True):
    """A stage, unfolded."""

    index: int
    name: str
    base: SourceRef
    platform: Platform
    steps: tuple[StepIR, ...]
    config: ImageConfig
    where: Location


class BuildArgs(Struct, frozen=True):
    """What a build is parameterised with."""

    args: Mapping[str, str]
    target: Platform
    build: Platform
    epoch: int
    contexts: frozenset[str] = frozenset()  # names of named contexts, lower case


class Unfolded(Struct, frozen=True):
    """The stages one target needs, in file order, and which build arguments were used."""

    stages: tuple[StageIR, ...]
    target: int
    consumed: frozenset[str]


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
