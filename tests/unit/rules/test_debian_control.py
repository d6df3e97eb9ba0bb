from __future__ import annotations

import pytest

from buildgraph_rules.debian.control import (
    Index,
    Universe,
    binary_package,
    paragraphs,
    parse_paragraph,
    parse_request,
)
from buildgraph_rules.debian.relation import Relation, parse_relation, parse_relations

PACKAGES = b"""\
Package: zeta
Version: 1.0
Architecture: amd64
Priority: required
Provides: letter (= 3), greek
Filename: pool/z.deb

Package: alpha
Version: 2:1.0-1
Architecture: all
Essential: yes
Depends: zeta (>= 1), letter | other
Description: first
 more
Filename: pool/a.deb

Package: alpha
Version: 3
Architecture: amd64
Provides: letter

Package: alien
Version: 1
Architecture: s390x
"""


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("foo", Relation("foo")),
        (" foo:any (>= 1.2-3) ", Relation("foo", ">=", "1.2-3", "any")),
        ("foo(<<2)", Relation("foo", "<<", "2")),
        ("foo (< 2)", Relation("foo", "<=", "2")),
        ("foo (> 2)", Relation("foo", ">=", "2")),
        ("libstdc++6 (= 1:12~) [amd64] <!nocheck>", Relation("libstdc++6", "=", "1:12~")),
    ],
)
def test_relations(text: str, relation: Relation) -> None:
    assert parse_relation(text) == relation


@pytest.mark.parametrize("text", ["", "foo (1)", "foo >= 1", "foo (>= )", "-foo", "foo bar"])
def test_bad_relations(text: str) -> None:
    with pytest.raises(ValueError, match="bad package relation"):
        parse_relation(text)


def test_groups_and_alternatives() -> None:
    groups = parse_relations("a | b (>= 1),\n c,")
    assert [[r.name for r in group] for group in groups] == [["a", "b"], ["c"]]


def test_paragraphs_keep_their_place() -> None:
    assert list(paragraphs("\nA: 1\nB: 2\n\n \nC: 3\n")) == [(2, "A: 1\nB: 2"), (6, "C: 3")]


def test_fields_of_several_lines() -> None:
    fields = parse_paragraph("A: 1\n two\n  .\n# comment\nB:\n\tx\nC-d: y:z")
    assert fields == {"a": "1\ntwo\n .", "b": "\nx", "c-d": "y:z"}


@pytest.mark.parametrize("text", [" x", "A 1", "A: 1\na: 2", ": 1", "A : 1"])
def test_bad_paragraphs(text: str) -> None:
    with pytest.raises(ValueError, match=r"field|continuation"):
        parse_paragraph(text)


@pytest.mark.parametrize(
    "text",
    [
        "Package: ../x\nVersion: 1\nArchitecture: all",
        "Package: xy\nVersion: 1 2\nArchitecture: all",
        "Package: xy\nVersion: 1\nArchitecture: a/b",
        "Version: 1\nArchitecture: all",
    ],
)
def test_names_that_would_become_paths_are_checked(text: str) -> None:
    with pytest.raises(ValueError, match="bad"):
        binary_package(text)


def test_an_index_finds_every_version() -> None:
    universe = Universe([Index(PACKAGES, 0)], "amd64")
    assert [p.version for p in universe.candidates("alpha")] == ["2:1.0-1", "3"]
    assert universe.candidates("alien") == ()
    assert universe.candidates("alph") == ()
    assert universe.required() == ["alpha", "zeta"]


def test_only_the_newest_version_provides() -> None:
    universe = Universe([Index(PACKAGES, 0)], "amd64")
    assert [p.name for p in universe.providers("letter")] == ["zeta"]
    assert universe.providers("let") == ()
    assert universe.providers("zeta") == ()
    (zeta,) = universe.candidates("zeta")
    assert zeta.provides == (("letter", "3"), ("greek", None))


def test_the_newest_archive_does_not_win_by_place() -> None:
    one = Index(b"Package: xy\nVersion: 2\nArchitecture: all\n", 0)
    two = Index(b"Package: xy\nVersion: 10\nArchitecture: all\n", 1)
    three = Index(b"Package: xy\nVersion: 10\nArchitecture: all\n", 2)
    found = Universe([one, two, three], "amd64").candidates("xy")
    assert [(p.version, p.archive) for p in found] == [("10", 1), ("10", 2), ("2", 0)]


def test_an_empty_index() -> None:
    assert list(Index(b"", 0).names()) == []


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("foo", Relation("foo")),
        ("foo=1.2-3", Relation("foo", "=", "1.2-3")),
        ("foo:amd64=1", Relation("foo", "=", "1", "amd64")),
    ],
)
def test_requests(text: str, relation: Relation) -> None:
    assert parse_request(text) == relation


@pytest.mark.parametrize("text", ["foo=", "foo (>= 1)", "=1", "foo=1=2 3"])
def test_bad_requests(text: str) -> None:
    with pytest.raises(ValueError, match="bad package"):
        parse_request(text)
