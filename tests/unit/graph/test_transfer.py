from __future__ import annotations

import pytest

from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError
from buildgraph.fetch.git_url import parse_git
from buildgraph.graph.keys import git_key, http_key
from buildgraph.graph.ops import GitOp, HttpOp
from buildgraph.graph.stage_ir import ContextRef, RepositoryRef, ServerRef
from buildgraph.graph.transfer import Part, is_remote, parts_of

LOCAL = ContextRef("")
PIN = "sha256:" + "ab" * 32
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def parts(line: str, dest: str = "/d/", checksum: str | None = None) -> list[Part]:
    (item,) = parse(f"FROM x\n{line} {dest}\n".encode(), "Dockerfile").stages[0].body
    return parts_of(item, LOCAL, item.sources, dest, checksum)  # type: ignore[arg-type, union-attr]


def test_what_comes_from_one_place_is_one_copy() -> None:
    found = parts("ADD a b https://h/x https://i/y%20z http://j/r.git c d")
    assert [(type(p.source).__name__, p.paths) for p in found] == [
        ("ContextRef", ("a", "b")),
        ("ServerRef", ("x", "y z")),
        ("RepositoryRef", ("/",)),
        ("ContextRef", ("c", "d")),
    ]
    assert [is_remote(p) for p in found] == [False, True, True, False]
    assert [p.unpack for p in found] == [None, False, False, None]


def test_heredocs_go_with_files_at_hand() -> None:
    item = parse(b"FROM x\nADD https://h/x <<f /d/\nhi\nf\n", "D").stages[0].body[0]
    found = parts_of(item, LOCAL, ("https://h/x",), "/d/", None)  # type: ignore[arg-type]
    assert [p.source == LOCAL for p in found] == [False, True]
    assert parts("COPY a") == [Part(LOCAL, ("a",), False)]


def test_only_where_asked_for_is_an_archive_of_a_server_unpacked() -> None:
    for flag, unpack in (("", False), ("--unpack=false", False), ("--unpack", None)):
        assert parts(f"ADD {flag} https://h/x.tar")[0].unpack is unpack


def test_a_name_is_no_pattern() -> None:
    (part,) = parts("ADD https://h/a*%5b1%5d%3f")
    assert part.paths == (r"a\*\[1\]\?",)
    assert isinstance(part.source, ServerRef)
    assert part.source.files[0].name == "a*[1]?"


def test_checksums_are_for_what_they_can_say_something_about() -> None:
    (part,) = parts("ADD https://h/x", checksum=PIN)
    assert isinstance(part.source, ServerRef)
    assert part.source.files[0].checksum == PIN
    (part,) = parts("ADD https://h/x.git#main", checksum=COMMIT[:9])
    assert isinstance(part.source, RepositoryRef)
    assert part.source.reference.checksum == COMMIT[:9]
    for line, checksum in (
        ("ADD a", PIN),
        ("ADD https://h/x", "sha512:ab"),
        ("ADD https://h/x", PIN.upper()),
        ("ADD https://h/x.git", PIN),
        (f"ADD https://h/x.git?checksum={COMMIT}", "ffff"),
    ):
        with pytest.raises(InputError) as caught:
            parts(line, checksum=checksum)
        assert caught.value.where is not None
        assert caught.value.where.line == 2


@pytest.mark.parametrize(
    "line", ["COPY https://u:pw@h/x", "COPY git@h:x", "ADD https://u:pw@h/", "ADD http://u:pw@h:x/"]
)
def test_what_is_refused_shows_no_login(line: str) -> None:
    with pytest.raises(InputError) as caught:
        parts(line)
    assert "pw" not in caught.value.message


def test_the_keys_are_of_what_is_there() -> None:
    one, other = HttpOp("https://h/x", "x"), HttpOp("https://i/y?z", "x", PIN)
    assert http_key(one, 1, PIN, None).digest == http_key(other, 1, PIN, None).digest
    assert http_key(one, 1, PIN, None).digest != http_key(one, 1, PIN, 5).digest
    assert http_key(one, 1, PIN, None).digest != http_key(HttpOp("h", "y"), 1, PIN, None).digest
    assert (one.pinned, other.pinned) == (False, True)
    here, there = (GitOp(parse_git(f"https://{h}/x.git#main")) for h in "hi")
    assert git_key(here, 1, COMMIT).digest == git_key(there, 1, COMMIT).digest
    kept = [GitOp(parse_git(f"https://{h}/x.git?keep-git-dir=true")) for h in "hi"]
    assert git_key(kept[0], 1, COMMIT).digest != git_key(kept[1], 1, COMMIT).digest
    seen = {
        git_key(GitOp(parse_git(f"https://h/x.git{end}")), 1, COMMIT).digest
        for end in ("", "#:sub", "?submodules=false", "?mtime=commit", "?keep-git-dir=1")
    }
    assert len(seen) == 5
    assert GitOp(parse_git(f"https://h/x.git#{COMMIT}")).pinned
    assert GitOp(parse_git(f"https://h/x.git?ref=main&checksum={COMMIT}")).pinned
    assert not GitOp(parse_git("https://h/x.git?checksum=0123456")).pinned
    assert not here.pinned
