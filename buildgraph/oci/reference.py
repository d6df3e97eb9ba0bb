"""Knows how an image is named, as docker reads names; must not know where it is.

Source: the grammar of `distribution/reference` (the package docker, podman and BuildKit share).
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.errors import InputError
from buildgraph_cache.digest import Digest

DEFAULT_DOMAIN: Final = "docker.io"
_LEGACY_DOMAIN: Final = "index.docker.io"
_OFFICIAL: Final = "library/"
_NAME_BYTES: Final = 255

_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?\Z")
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z", re.ASCII)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Reference(Struct, frozen=True, order=True):
    """A parsed name; at least one of tag and digest is set once `with_default_tag` was asked."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Domain and path."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The short form people write: `alpine:3` for `docker.io/library/alpine:3`."""
        short = self.path
        if short.startswith(_OFFICIAL) and "/" not in short.removeprefix(_OFFICIAL):
            short = short.removeprefix(_OFFICIAL)
        hidden = self.domain == DEFAULT_DOMAIN and _split_domain(short) == (self.domain, self.path)
        return (short if hidden else self.name) + self._suffix()

    def with_default_tag(self) -> Reference:
        """Return this with the tag `latest` where neither tag nor digest is given."""
        return self if self.tag or self.digest else replace(self, tag="latest")

    def pinned(self, digest: Digest) -> Reference:
        """Return this with a digest."""
        return replace(self, digest=digest)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


def parse_reference(text: str) -> Reference:
    """Return `[domain/]path[:tag][@digest]` parsed, the domain filled in as docker does.

    The round trip `parse_reference(str(ref)) == ref` holds. Raises InputError that says which
    part is wrong.
    """
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.match(digest):
        raise _bad(text, f"{_shown(digest)} is not a digest", "sha256: and 64 hexadecimal digits")
    head, colon, tag = rest.rpartition(":")
    if colon and "/" not in tag:
        if not _TAG.match(tag):
            raise _bad(
                text,
                f"{_shown(tag)} is not a tag",
                "letters, digits, '_', '.', '-', at most 128, not beginning with '.' or '-'",
            )
        rest = head
    else:
        tag = ""
    domain, path = _split_domain(rest)
    _check(text, domain, path)
    return Reference(domain, path, tag, digest)


def _split_domain(rest: str) -> tuple[str, str]:
    first, slash, path = rest.partition("/")
    is_domain = slash and (
        "." in first or ":" in first or first == "localhost" or first.lower() != first
    )
    if not is_domain:
        first, path = DEFAULT_DOMAIN, rest
    if first == _LEGACY_DOMAIN:
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return first, path


def _check(text: str, domain: str, path: str) -> None:
    if not _DOMAIN.match(domain):
        raise _bad(text, f"{_shown(domain)} is not a host name", None)
    if not _PATH.match(path):
        if path.lower() != path and _PATH.match(path.lower()):
            raise _bad(
                text,
                "the repository must be in lower case",
                f"did you mean {_shown(text.lower())}?",
            )
        raise _bad(
            text,
            f"{_shown(path.removeprefix(_OFFICIAL))} is not a repository",
            "lower-case letters and digits, separated by '/', '.', '_', '__' or '-'",
        )
    if len(domain) + 1 + len(path) > _NAME_BYTES:
        raise _bad(text, f"the name is longer than {_NAME_BYTES} characters", None)
    if re.match(r"[a-f0-9]{64}\Z", path.removeprefix(_OFFICIAL)):
        raise _bad(text, "64 hexadecimal digits are an image id, not a name", None)


def _bad(text: str, why: str, hint: str | None) -> InputError:
    return InputError(f"invalid image reference {_shown(text)}: {why}", hint=hint)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _NAME_BYTES else text[:_NAME_BYTES] + "…")
