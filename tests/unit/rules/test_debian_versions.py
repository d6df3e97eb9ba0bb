from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph_rules.debian.version import compare, is_version, satisfies

# Each sorts below the next (Debian policy 5.6.12, and the cases of dpkg's own t-version)
ASCENDING = [
    "~~",
    "~~a",
    "~",
    "0",
    "0.1~rc1",
    "0.1",
    "1a",  # letters sort below everything else but the end
    "1.0~beta1~svn1245",
    "1.0~beta1",
    "1.0",
    "1.0-0.1",
    "1.0-1~bpo1",
    "1.0-1",
    "1.0-1+b1",
    "1.0-1.1",
    "1.0-2",
    "1.0a",
    "1.0+dfsg",
    "1.0.1",
    "1.2",
    "1.10",
    "2",
    "2.0.7pre1",
    "2.0.7r",
    "12a.5",
    "1:0.1",
    "1:0.4",
    "2:0",
]
EQUAL = [("1.0", "1.0-0"), ("0:1.0", "1.0"), ("1.0", "1.00"), ("1.a", "1.a0"), ("1.0-", "1.0")]


@pytest.mark.parametrize("pair", EQUAL)
def test_equal_versions(pair: tuple[str, str]) -> None:
    assert compare(*pair) == 0


@pytest.mark.parametrize(
    ("operator", "holds"),
    [("<<", False), ("<=", True), ("=", True), (">=", True), (">>", False)],
)
def test_relations_of_equal_versions(operator: str, holds: bool) -> None:
    assert satisfies("1.0-0", operator, "1.0") is holds  # type: ignore[arg-type]


def test_no_operator_admits_everything() -> None:
    assert satisfies("1", None, "")


@pytest.mark.parametrize("text", ["", "1 0", "1_0", "a:1", "1/2"])
def test_what_is_no_version(text: str) -> None:
    assert not is_version(text)


_VERSIONS = st.from_regex(r"([0-9]:)?[0-9][0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,4})?", fullmatch=True)


@given(_VERSIONS, _VERSIONS, _VERSIONS)
def test_the_order_is_total(one: str, two: str, three: str) -> None:
    assert compare(one, two) == -compare(two, one)
    if compare(one, two) <= 0 and compare(two, three) <= 0:
        assert compare(one, three) <= 0


def test_the_table_ascends() -> None:
    for low, high in itertools.combinations(ASCENDING, 2):
        assert compare(low, high) < 0, (low, high)


def test_dpkg_says_the_same() -> None:
    dpkg = shutil.which("dpkg")
    if dpkg is None:
        pytest.skip("no dpkg on this machine")
    for low, high in itertools.pairwise(v for v in ASCENDING if v[0].isdigit()):
        subprocess.run([dpkg, "--compare-versions", low, "lt", high], check=True)
