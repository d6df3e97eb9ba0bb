"""Knows the words for platforms: how they are written, which there are, and which image serves
which; must not know what is built for them.

Words and aliases are those of `docker build --platform` (containerd's platforms package).
"""

from __future__ import annotations

import re
from typing import Final

from buildgraph.errors import InputError, Location, did_you_mean
from buildgraph.oci.types import Platform

# Go's GOARCH for linux; variants where there are some, best first: each runs those after it.
_VARIANTS: Final[dict[str, tuple[str, ...]]] = {
    "386": (),
    "amd64": ("v4", "v3", "v2", "v1"),
    "arm": ("v8", "v7", "v6", "v5"),
    "arm64": ("v9", "v8"),
    "loong64": (),
    "mips": (),
    "mipsle": (),
    "mips64": (),
    "mips64le": (),
    "ppc64": (),
    "ppc64le": (),
    "riscv64": (),
    "s390x": (),
}
_DEFAULT: Final = {"amd64": "v1", "arm": "v7", "arm64": "v8"}
_ALIASES: Final = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
    "mips64el": ("mips64le", ""),
    "ppc64el": ("ppc64le", ""),
}
_OTHER_SYSTEMS: Final = frozenset(
    {"windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "wasi", "wasip1"}
)
_PART: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z", re.ASCII)  # one path component (A69)


def parse_platform(text: str, where: Location | None = None) -> Platform:
    """Parse `os/arch[/variant]`, `arch` or `os`, aliases and default variants normalised.

    `linux/arm64/v8` is `linux/arm64`, `linux/arm` is `linux/arm/v7`. Each part is one path
    component, since outputs name directories after them (A69). Raises InputError, with a
    suggestion, for a system or an architecture that there is no building for.
    """
    parts = text.split("/")
    if len(parts) > 3 or parts == ["linux"] or not all(_PART.match(part) for part in parts):
        raise InputError(f"not a platform: {text!r}", where, "write os/arch, as linux/amd64")
    parts = [part.lower() for part in parts]
    if parts[0] in _OTHER_SYSTEMS:
        raise InputError(f"images for {parts[0]} cannot be built, only for linux", where)
    if len(parts) == 1:
        parts = ["linux", *parts]
    if parts[0] != "linux":
        raise InputError(f"unknown system {parts[0]!r} in {text!r}", where, "write linux/ARCH")
    arch, implied = _ALIASES.get(parts[1], (parts[1], ""))
    if arch not in _VARIANTS:
        near = did_you_mean(arch, [*_VARIANTS, *_ALIASES])
        hint = near or f"one of {', '.join(_VARIANTS)}"
        raise InputError(f"unknown architecture {parts[1]!r} in {text!r}", where, hint)
    return Platform("linux", arch, _variant(arch, parts[2] if len(parts) == 3 else implied, where))


def _variant(arch: str, variant: str, where: Location | None) -> str:
    known = _VARIANTS[arch]
    if variant and arch in ("arm", "arm64"):
        variant = "v" + variant.removeprefix("v").removesuffix(".0")
    if variant and known and variant not in known and not variant.startswith(tuple(_minor(known))):
        raise InputError(
            f"unknown variant {variant!r} of {arch}", where, f"one of {', '.join(reversed(known))}"
        )
    if arch == "arm":
        return variant or _DEFAULT[arch]
    return "" if variant == _DEFAULT.get(arch, "") else variant


def _minor(known: tuple[str, ...]) -> list[str]:
    return [f"{name}." for name in known]  # arm64's v8.1 and so on


def serves(have: Platform, want: Platform) -> int | None:
    """Say how far an image for `have` is from what `want` asks: 0 the same, None not fit for it.

    A newer variant of a processor runs what was made for an older one, not the other way round.
    """
    if (have.os, have.architecture) != (want.os, want.architecture):
        return None
    default = _DEFAULT.get(want.architecture, "")
    has, wants = have.variant or default, want.variant or default
    if has == wants:
        return 0
    order = _VARIANTS.get(want.architecture, ())
    if has not in order or wants not in order or order.index(has) < order.index(wants):
        return None
    return order.index(has) - order.index(wants)


def directory_name(platform: Platform) -> str:
    """Return the directory of a platform in an output that is split by platform: `linux_arm64`."""
    return str(platform).replace("/", "_")
