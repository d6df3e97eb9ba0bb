"""Knows how repositories are named and which names are refused; runs no git."""

from __future__ import annotations

import base64

import pytest

from buildgraph.errors import InputError, Location
from buildgraph.fetch.git_url import GitReference, is_git_url, parse_git, submodule_url

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git://h/p", True),
        ("ssh://h/p", True),
        ("SSH://h/p", True),
        ("git@h:p/q", True),
        ("me@h:/abs/p.git", True),
        ("https://h/p.git", True),
        ("http://h:80/a/p.git?ref=x", True),
        ("https://h/p.git#v1:dir", True),
        ("https://h/p", False),
        ("https://h/p.git/x.tar", False),
        ("https://x.git", False),
        ("https://h/p?x=.git", False),
        ("file:///p.git", False),
        ("ext::sh -c x", False),
        ("/a/p.git", False),
        ("./p.git", False),
        ("h/p.git", False),
        ("//app:image", False),
        ("//app:x@py=3.12", False),
        (":image", False),
        ("-", False),
        ("", False),
    ],
)
def test_what_is_a_git_url(text: str, expected: bool) -> None:
    assert is_git_url(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/p.git", GitReference("https://h/p.git")),
        ("https://h/p.git#v1", GitReference("https://h/p.git", "v1")),
        ("https://h/p.git#:a/b", GitReference("https://h/p.git", "", "a/b")),
        ("git@h:p#v1:/a//b/./", GitReference("git@h:p", "v1", "a/b")),
        ("https://h/p.git?tag=v1", GitReference("https://h/p.git", "refs/tags/v1")),
        ("https://h/p.git?branch=a/b", GitReference("https://h/p.git", "refs/heads/a/b")),
        ("https://h/p.git?ref=a%2Fb&subdir=d", GitReference("https://h/p.git", "a/b", "d")),
        (
            "https://h/p.git?checksum=ABCD&keep-git-dir=1&submodules=false",
            GitReference("https://h/p.git", checksum="abcd", keep_git_dir=True, submodules=False),
        ),
        ("https://h/p.git?keep-git-dir", GitReference("https://h/p.git", keep_git_dir=True)),
        ("https://h/p.git?mtime=commit", GitReference("https://h/p.git", preserve_times=True)),
        (
            f"https://h/p.git?ref=v1&commit={COMMIT}&fetch-by-commit=true",
            GitReference("https://h/p.git", "v1", checksum=COMMIT, fetch_by_commit=True),
        ),
        ("ssh://git:word@h:22/p", GitReference("ssh://git@h:22/p")),
        ("git://[::1]:9418/p", GitReference("git://[::1]:9418/p")),
    ],
)
def test_names_are_read_as_buildkit_reads_them(text: str, expected: GitReference) -> None:
    assert parse_git(text) == expected


def test_a_login_is_sent_but_never_shown() -> None:
    found = parse_git("https://me:s%40cret@h:8443/p.git#v1:d")
    assert found.remote == "https://h:8443/p.git"
    assert (found.host, found.shown) == ("h:8443", "https://h:8443/p.git#v1:d")
    assert found.authorization == "basic " + base64.b64encode(b"me:s@cret").decode()
    assert "cret" not in repr(found)
    assert parse_git(found.full_remote).authorization == found.authorization
    with pytest.raises(InputError) as failed:
        parse_git("https://me:hunter2@h/p.git#--upload-pack=x")
    assert "hunter2" not in str(failed.value)
    with pytest.raises(InputError) as failed:
        parse_git("ftp://me:hunter2@h/p.git")
    assert "hunter2" not in f"{failed.value} {failed.value.hint}"


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        (f"git://h/p#{COMMIT}", COMMIT),
        (f"git://h/p?commit={COMMIT}", COMMIT),
        (f"git://h/p?ref=v1&commit={COMMIT}", None),
        (f"git://h/p?ref=v1&commit={COMMIT}&fetch-by-commit=1", COMMIT),
        ("git://h/p#0123456", None),
        ("git://h/p", None),
    ],
)
def test_a_whole_commit_needs_no_asking(text: str, commit: str | None) -> None:
    assert parse_git(text).commit == commit


# A61: nothing of a name may be an option, a program or a place of this machine.
BAD = [
    "ext::sh -c touch% /tmp/x",
    "file:///etc/x.git",
    "/etc/x.git",
    "fd::3",
    "ftp://h/p.git",
    "git://-oProxyCommand=x/p",
    "ssh://-oProxyCommand=x/p",
    "ssh://me@-oProxyCommand=x/p",
    "ssh://-l@h/p",
    "git@-oProxyCommand=x:p",
    "git@h:-p",
    "git://h/-p",
    "git://h:99999/p",
    "git://h:x/p",
    "git://h/p q",
    "git://h/p\n",
    "git://h/",
    "git://h",
    "git:///p",
    "https://h/p",
    "git://h/p#--upload-pack=touch",
    "git://h/p#-x",
    "git://h/p#a..b",
    "git://h/p#a b",
    "git://h/p#a~1",
    "git://h/p#a^",
    "git://h/p#refs/heads/*",
    "git://h/p#@{1}",
    "git://h/p#a.lock",
    "git://h/p#/a",
    "git://h/p#a/",
    "git://h/p#@",
    "git://h/p?ref=--upload-pack",
    "git://h/p#:../x",
    "git://h/p#:a/../../x",
    "git://h/p#:.git/hooks",
    "git://h/p#:a%0ab",
    "git://h/p?subdir=a%1bb",
    "https://\0me:x@h/p.git",
    "https://me:x y@h/p.git",
    "git://h/p#:a/.GIT",
    "git://h/p?subdir=..",
    "git://h/p?depth=1",
    "git://h/p?ref=a&ref=b",
    "git://h/p?ref=a&tag=b",
    "git://h/p?ref=a#b",
    "git://h/p?subdir=a#:b",
    "git://h/p?checksum=xyz",
    "git://h/p?checksum=abcd&commit=abcd",
    "git://h/p?submodules=maybe",
    "git://h/p?mtime=now",
    "git://h/p?fetch-by-commit=1",
]


@pytest.mark.parametrize("text", BAD)
def test_bad_names_are_refused_with_a_place(text: str) -> None:
    with pytest.raises(InputError) as failed:
        parse_git(text, Location("Dockerfile", 3))
    assert failed.value.where == Location("Dockerfile", 3)


def test_an_unknown_key_is_named_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="'sub-dir'") as failed:
        parse_git("git://h/p?sub-dir=a")
    assert failed.value.hint == "did you mean 'subdir'?"


@pytest.mark.parametrize(
    ("parent", "url", "expected"),
    [
        ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
        ("https://h/a/b.git", "./c", "https://h/a/b.git/c"),
        ("git@h:a/b", "../../c", "git@h:c"),
        ("git://h/a", "https://other/x", "https://other/x"),
    ],
)
def test_submodules_are_found_from_their_parent(parent: str, url: str, expected: str) -> None:
    assert submodule_url(parse_git(parent), url).remote == expected


@pytest.mark.parametrize(
    "url",
    [
        "/etc/x",
        "file:///etc/x",
        "ext::sh",
        "../../../x",
        "-u",
        "x",
        "--upload-pack=x",
        "ssh://-oProxyCommand=x/p",
        "https://h/p?x",
    ],
)
def test_submodules_cannot_name_what_a_dockerfile_cannot(url: str) -> None:
    with pytest.raises(InputError):
        submodule_url(parse_git("https://h/a/b.git"), url)


def test_a_login_goes_with_relative_submodules_alone() -> None:
    parent = parse_git("https://me:word@h/a/b.git")
    assert submodule_url(parent, "../c").login == "me:word"
    assert submodule_url(parent, "https://other/c").login == ""
