"""Holds the words for platforms to those of `docker build --platform`."""

from __future__ import annotations

import pytest

from buildgraph.errors import InputError
from buildgraph.oci.platforms import directory_name, parse_platform, serves


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/x86-64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v8.0", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("armhf", "linux/arm/v7"),
        ("armel", "linux/arm/v6"),
        ("linux/armv7l", "linux/arm/v7"),
        ("Linux/AARCH64", "linux/arm64"),
        ("i386", "linux/386"),
        ("linux/i686", "linux/386"),
        ("linux/riscv64", "linux/riscv64"),
    ],
)
def test_platforms_are_normalised(text: str, expected: str) -> None:
    assert str(parse_platform(text)) == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("linux/../../x", "not a platform", "os/arch"),
        ("linux/..", "not a platform", "os/arch"),
        ("linux//v7", "not a platform", "os/arch"),
        ("linux/arm64/v8/x", "not a platform", "os/arch"),
        ("/amd64", "not a platform", "os/arch"),
        ("linux", "not a platform", "os/arch"),
        ("", "not a platform", "os/arch"),
        ("linux/amd64\n", "not a platform", "os/arch"),
        ("linux/ａmd64", "not a platform", "os/arch"),
        ("linux/arm46", "unknown architecture 'arm46'", "'arm64'"),
        ("linux/amd46", "unknown architecture", "'amd64'"),
        ("linux/vax", "unknown architecture", "riscv64"),
        ("plan9/amd64", "unknown system 'plan9'", "linux/"),
        ("windows/amd64", "images for windows cannot be built", ""),
        ("linux/arm/v9", "unknown variant 'v9' of arm", "v5, v6, v7, v8"),
        ("linux/amd64/v5", "unknown variant 'v5' of amd64", "v1, v2"),
    ],
)
def test_what_is_no_platform(text: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_platform(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("have", "want", "distance"),
    [
        ("linux/arm64", "linux/arm64/v8", 0),
        ("linux/arm64", "linux/arm64/v9", 1),
        ("linux/arm64/v9", "linux/arm64", None),
        ("linux/arm/v6", "linux/arm/v7", 1),
        ("linux/arm/v5", "linux/arm/v7", 2),
        ("linux/arm/v7", "linux/arm/v6", None),
        ("linux/amd64", "linux/amd64/v3", 2),
        ("linux/amd64/v3", "linux/amd64", None),
        ("linux/386", "linux/amd64", None),
    ],
)
def test_which_image_serves_which_platform(have: str, want: str, distance: int | None) -> None:
    assert serves(parse_platform(have), parse_platform(want)) == distance


def test_a_directory_is_one_component() -> None:
    assert directory_name(parse_platform("linux/arm")) == "linux_arm_v7"
