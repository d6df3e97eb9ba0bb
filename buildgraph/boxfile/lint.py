"""Knows what in a Boxfile has no effect, given what each target's Dockerfile asks for; must not
know how a Dockerfile is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct, field

from buildgraph.boxfile.target import ImageTarget
from buildgraph.errors import Location, did_you_mean

_SKIP = re.compile(r"\s*#\s*check\s*=\s*skip\s*=\s*([^;]*)")
# Whoever fetches sources asks for these by itself; no RUN mounts them.
_FOR_FETCHING = ("GIT_AUTH_", "HTTP_AUTH_")

REASONS = MappingProxyType(
    {
        "BoxfileUnusedArg": "an argument that no ARG declares reaches nothing",
        "BoxfileUnusedContext": "a named context that no FROM, --from or mount names is an edge of "
        "the graph for nothing: the target is built again when it changes",
        "BoxfileUnusedSecret": "a secret that no RUN mounts is asked for and reaches nothing",
        "BoxfileDuplicateTag": "of two images under one name, the one that is ready last wins",
    }
)
# rule -> (what it complains of, what it does not); the Dockerfile is `FROM base` and `ARG MODE`
EXAMPLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "BoxfileUnusedArg": (
            "targets:\n  image:\n    args: {MOD: release}  # the Dockerfile says ARG MODE\n",
            "targets:\n  image:\n    args: {MODE: release}\n",
        ),
        "BoxfileUnusedContext": (
            'targets:\n  image:\n    contexts: {bsae: "//base"}  # the Dockerfile says FROM base\n',
            'targets:\n  image:\n    contexts: {base: "//base"}\n',
        ),
        "BoxfileUnusedSecret": (
            "targets:\n  image:\n    secrets: [{id: token, env: TOKEN}]  # no RUN mounts it\n",
            "targets:\n  image:\n    dockerfile: Dockerfile\n",
        ),
        "BoxfileDuplicateTag": (
            "targets:\n  a: {tags: [shop/app:1]}\n  b: {tags: [shop/app:1]}\n",
            "targets:\n  a: {tags: [shop/app:1]}\n  b: {tags: [shop/app:1-debug]}\n",
        ),
    }
)


class DockerfileFacts(Struct, frozen=True):
    """What a Dockerfile asks its target for; None where that depends on what is not known."""

    args: frozenset[str] | None
    names: frozenset[str] | None  # of FROM, --from and mounts, as contexts are compared
    secrets: frozenset[str] | None


class BoxfileWarning(Struct, frozen=True):
    """A rule that fired."""

    rule: str
    message: str
    where: Location
    fix: str = ""

    @property
    def reason(self) -> str:
        """Why the rule exists."""
        return REASONS[self.rule]


class _Uses(Struct):
    """Whether anybody uses what is written at a place: with `extends`, several targets share it."""

    warning: BoxfileWarning
    used: bool = False


class _Ledger(Struct):
    """The places that were looked at."""

    places: dict[tuple[str, Location], _Uses] = field(default_factory=dict)

    def note(self, warning: BoxfileWarning, *, used: bool) -> None:
        """Take in a place with the warning for the case that no target uses it."""
        entry = self.places.setdefault((warning.rule, warning.where), _Uses(warning))
        entry.used |= used


def lint_targets(
    targets: Sequence[tuple[ImageTarget, DockerfileFacts]],
) -> list[BoxfileWarning]:
    """Return what is wrong with image targets, by place."""
    ledger = _Ledger()
    for target, facts in targets:
        _note_args(target, facts, ledger)
        _note_contexts(target, facts, ledger)
        _note_secrets(target, facts, ledger)
    found = [entry.warning for entry in ledger.places.values() if not entry.used]
    found += _duplicate_tags([target for target, _ in targets])
    return sorted(found, key=lambda one: (one.where, one.rule))


def _note_args(target: ImageTarget, facts: DockerfileFacts, ledger: _Ledger) -> None:
    if facts.args is None:
        return
    for arg in target.args:
        near = did_you_mean(arg.name, sorted(facts.args))
        warning = BoxfileWarning(
            "BoxfileUnusedArg",
            f"The Dockerfile declares no ARG {arg.name}",
            arg.key,
            near or "remove it, or declare it in the Dockerfile",
        )
        ledger.note(warning, used=arg.name in facts.args)


def _note_contexts(target: ImageTarget, facts: DockerfileFacts, ledger: _Ledger) -> None:
    if facts.names is None:
        return
    for context in target.contexts:
        name = context.name.removesuffix(":latest").lower()
        near = did_you_mean(name, sorted(facts.names))
        warning = BoxfileWarning(
            "BoxfileUnusedContext",
            f"No FROM, --from or mount of the Dockerfile names {context.name!r}",
            context.key,
            near or "remove it",
        )
        ledger.note(warning, used=name in facts.names)


def _note_secrets(target: ImageTarget, facts: DockerfileFacts, ledger: _Ledger) -> None:
    if facts.secrets is None:
        return
    for secret in target.secrets:
        near = did_you_mean(secret.id, sorted(facts.secrets))
        warning = BoxfileWarning(
            "BoxfileUnusedSecret",
            f"No RUN mounts the secret {secret.id!r}",
            secret.where,
            near or f"RUN --mount=type=secret,id={secret.id} …, or remove it",
        )
        fetching = secret.id.startswith(_FOR_FETCHING)
        ledger.note(warning, used=fetching or secret.id in facts.secrets)


def _duplicate_tags(targets: Sequence[ImageTarget]) -> Iterator[BoxfileWarning]:
    first: dict[str, ImageTarget] = {}
    for target in targets:
        for tag in target.tags:
            name = tag.text if ":" in tag.text.rpartition("/")[2] else f"{tag.text}:latest"
            other = first.setdefault(name, target)
            if other.label != target.label:
                message = f"{other.label} and {target.label} both get the tag {tag.text}"
                yield BoxfileWarning("BoxfileDuplicateTag", message, tag.where)


def skips(text: str, rule: str, line: int) -> bool:
    """Say whether `# check=skip=` in a Boxfile skips a rule for what stands in a line.

    At the top of the file it counts for all of it, in the comment right above a line for that.
    """
    lines = text.split("\n")
    wanted = {rule, "all"}
    for at in range(len(lines)):
        if not lines[at].lstrip().startswith("#"):
            break
        if wanted & _rules_in(lines[at]):
            return True
    for at in range(line - 2, -1, -1):
        if at >= len(lines) or not lines[at].lstrip().startswith("#"):
            break
        if wanted & _rules_in(lines[at]):
            return True
    return False


def _rules_in(line: str) -> set[str]:
    match = _SKIP.match(line)
    return {name.strip() for name in match[1].split(",")} if match else set()
