"""USER's text becomes numbers by the image's own files."""

from __future__ import annotations

import pytest

from buildgraph.engine.users import Identity, lookup
from buildgraph.errors import InputError

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/srv/app:/bin/sh
1234:x:0:0:evil:/:/bin/sh
short:x:5
"""
GROUP = b"""root:x:0:
app:x:1001:
wheel:x:10:app,other
audio:x:29:app
1001:x:0:
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (), "/root")),
        ("root", Identity(0, 0, (), "/root")),
        ("app", Identity(1000, 1001, (10, 29), "/srv/app")),
        ("1000", Identity(1000, 1001, (10, 29), "/srv/app")),
        ("app:wheel", Identity(1000, 10, (), "/srv/app")),
        ("1000:1000", Identity(1000, 1000, (), "/srv/app")),
        ("4711", Identity(4711, 0, (), "/")),
        ("4711:1001", Identity(4711, 1001, (), "/")),
        (":10", Identity(0, 10, (), "/root")),
        # A user *named* 1234 with uid 0 exists; the number is meant (A48).
        ("1234", Identity(1234, 0, (), "/")),
    ],
)
def test_lookup(user: str, expected: Identity) -> None:
    assert lookup(user, PASSWD, GROUP) == expected


@pytest.mark.parametrize("user", ["nobody", "app:nogroup", "99999999999999", "short", "3000000000"])
def test_unknown_is_an_error(user: str) -> None:
    with pytest.raises(InputError):
        lookup(user, PASSWD, GROUP)


def test_long_lines_and_huge_files_are_bounded() -> None:
    passwd = b"a" * 70_000 + b":x:0:0::/:\n" + b"ok:x:5:6::/home:\n"
    assert lookup("ok", passwd, b"").uid == 5
    with pytest.raises(InputError):
        lookup("a" * 70_000, passwd, b"")
