"""A spec as data: what is refused, what is said, and that JSON gives it back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from buildgraph.errors import InputError
from buildgraph.sandbox.spec import (
    CAPABILITIES,
    DEFAULT_CAPABILITIES,
    Bind,
    FileMount,
    Limits,
    Mount,
    OverlayMount,
    SandboxSpec,
    Tmpfs,
    describe,
    from_json,
    to_json,
    without_secrets,
)

SPEC = SandboxSpec(
    lowers=("/store/b", "/store/a"),
    upper="/store/up",
    work="/store/work",
    args=("/bin/sh", "-c", "make"),
    env=(("PATH", "/bin"), ("A", "ü\udcff")),
    mounts=(
        Bind("/ctx", "/src"),
        Tmpfs("/tmp", 1 << 20),
        OverlayMount(("/x", "/y"), "/m"),
        FileMount("/run/secrets/token", b"\0\xffsecret"),
    ),
    groups=(5, 6),
    limits=Limits(memory=1 << 28, cpus=1.5, timeout=60),
    cap_drop=("NET_RAW",),
)


def test_json_gives_back_the_same_spec() -> None:
    assert from_json(to_json(SPEC)) == SPEC


@given(
    args=st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1),
    content=st.binary(),
    uid=st.integers(0, 2**32 - 2),
    cpus=st.none() | st.floats(0.1, 64),
)
def test_json_gives_back_any_spec(args: list[str], content: bytes, uid: int, cpus: Any) -> None:
    spec = SandboxSpec(
        (), tuple(args), uid=uid, mounts=(FileMount("/s", content),), limits=Limits(cpus=cpus)
    )
    assert from_json(to_json(spec)) == spec


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"args": ["x"]}', "nul"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a saved sandbox"):
        from_json(text)


def test_secrets_are_left_out_of_what_is_kept() -> None:
    kept = to_json(without_secrets(SPEC))
    assert "secret" not in kept.replace("/run/secrets/token", "")
    assert from_json(kept).mounts[:3] == SPEC.mounts[:3]
    assert "secret" not in repr(SPEC.mounts[3]).replace("/run/secrets/token", "")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"args": ()}, "command is empty"),
    ({"args": ("a\0b",)}, "NUL"),
    ({"env": (("A", "\0"),)}, "NUL"),
    ({"cwd": "tmp"}, "not an absolute path"),
    ({"lowers": ("a",)}, "not an absolute path"),
    ({"work": None}, "go together"),
    ({"network": "bridge"}, "unknown network"),
    ({"hostname": "a/b"}, "host name"),
    ({"hostname": "x" * 65}, "host name"),
    ({"cap_add": ("CAP_NOSUCH",)}, "unknown capability"),
    ({"uid": -1}, "user or group id"),
    ({"gid": 2**32 - 1}, "user or group id"),
    ({"groups": (2**40,)}, "user or group id"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_cannot_be_meant_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SPEC, **change)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "",
        "x",
        "/..",
        "/a/../b",
        "/./a",
        "/proc",
        "/proc/self",
        "/sys/fs",
        "/dev",
        "/dev/pts",
        "//dev//null",
        "/a\0",
    ],
)
def test_places_that_are_no_place_for_a_mount(target: str) -> None:
    mounts: list[Mount] = [Bind("/x", target), Tmpfs(target), FileMount(target, b"")]
    for mount in mounts:
        with pytest.raises(InputError):
            replace(SPEC, mounts=(mount,))


@pytest.mark.parametrize("target", ["/dev/shm", "/process", "/devel", "/system", "/a//b/"])
def test_places_that_are_fine(target: str) -> None:
    replace(SPEC, mounts=(Tmpfs(target),))


@pytest.mark.parametrize(
    "mount", [Bind("x", "/m"), OverlayMount((), "/m"), OverlayMount(("x",), "/m")]
)
def test_sources_are_absolute(mount: Mount) -> None:
    with pytest.raises(InputError):
        replace(SPEC, mounts=(mount,))


def test_capabilities() -> None:
    assert len(DEFAULT_CAPABILITIES) == 14
    plain = SandboxSpec((), ("x",))
    assert plain.capability_mask == 0xA80425FB
    assert replace(plain, cap_drop=("all",)).capability_mask == 0
    one = replace(plain, cap_drop=("ALL",), cap_add=("cap_net_admin",))
    assert one.capabilities == {"NET_ADMIN"}
    every = replace(plain, cap_add=("ALL",), cap_drop=("SYS_ADMIN",))
    assert every.capabilities == set(CAPABILITIES) - {"SYS_ADMIN"}


def test_described_before_anything_is_done() -> None:
    text = "\n".join(describe(SPEC))
    for words in (
        "/store/b over /store/a",
        "writes to /store/up",
        "/ctx on /src, read only",
        "empty memory file system on /tmp, 1 MiB",
        "/x over /y on /m, writes discarded",
        "file of 8 bytes on /run/secrets/token, mode 400",
        "limit memory to 256 MiB",
        "limit to 1.5 processors",
        "stop after 60 s",
        "user 0:0, groups 5 6",
        "in / run '/bin/sh -c make'",
    ):
        assert words in text
    assert "secret" not in text.replace("/run/secrets/token", "")
    assert "the HOST's network" in "\n".join(describe(replace(SPEC, network="host")))
