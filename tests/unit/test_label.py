"""Knows the grammar of labels and patterns; needs no disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph.errors import InputError, Location
from buildgraph.label import (
    LABEL_CHARACTERS,
    AllBelow,
    AllInPackage,
    AtPath,
    Label,
    OneTarget,
    Selection,
    is_package,
    join,
    parse_label,
    parse_pattern,
)

WORD = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True)
COMPONENT = st.from_regex(r"@?[\w+~-][\w.+~-]{0,8}", fullmatch=True)
PAIR = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,4}=[A-Za-z0-9_.+~-]{1,4}", fullmatch=True)


@st.composite
def labels(draw: st.DrawFn) -> Label:
    package = "/".join(draw(st.lists(COMPONENT, max_size=4)))
    name = draw(WORD.filter(lambda word: word != "all"))
    pairs = draw(st.lists(PAIR, max_size=2))
    return Label(package, name + ("@" + ",".join(pairs) if pairs else ""))


@given(labels())
def test_a_label_survives_being_written(label: Label) -> None:
    assert parse_label(str(label), "elsewhere") == label
    assert parse_label(label.short, "elsewhere") == label
    assert parse_label(f":{label.name}", label.package) == label
    assert parse_pattern(str(label), "elsewhere").what == OneTarget(label)
    excluded = parse_pattern(f"-{label}", "elsewhere")
    assert excluded.exclude
    assert excluded.what == OneTarget(label)


@given(labels())
def test_a_matrix_suffix_is_taken_apart_without_loss(label: Label) -> None:
    suffix = ",".join(f"{key}={value}" for key, value in label.matrix)
    assert label.base_name + ("@" + suffix if suffix else "") == label.name


@given(st.text(max_size=20), st.sampled_from(["", "a", "a/b"]))
def test_any_text_is_a_pattern_or_an_input_error(text: str, package: str) -> None:
    for parse in (parse_label, parse_pattern):
        try:
            parse(text, package)
        except InputError:
            pass


@given(labels())
def test_every_package_of_a_label_is_one(label: Label) -> None:
    assert is_package(label.package)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("//a/b:c", Label("a/b", "c")),
        ("//a/b", Label("a/b", "image")),
        ("//:c", Label("", "c")),
        ("//", Label("", "image")),
        (":c", Label("pkg", "c")),
        ("c", Label("pkg", "c")),
        ("c.d+e-f", Label("pkg", "c.d+e-f")),
        ("//packages/@acme/web", Label("packages/@acme/web", "image")),
        ("//app:compat@py=3.12", Label("app", "compat@py=3.12")),
        ("compat@py=3.12,os=trixie", Label("pkg", "compat@py=3.12,os=trixie")),
    ],
)
def test_labels(text: str, expected: Label) -> None:
    assert parse_label(text, "pkg") == expected


def test_the_matrix_of_a_label() -> None:
    label = parse_label("//app:compat@py=3.12,os=trixie", "")
    assert label.base_name == "compat"
    assert label.matrix == (("py", "3.12"), ("os", "trixie"))
    assert Label("app", "image").matrix == ()


def test_the_short_form_names_the_default_target() -> None:
    assert Label("a/b", "image").short == "//a/b"
    assert Label("a/b", "c").short == "//a/b:c"
    assert Label("", "image").short == "//:image"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "the label is empty", None),
        ("x" * (LABEL_CHARACTERS + 1), "the label is longer than 1024 characters", None),
        (
            "@repo//a:b",
            "'@repo//a:b': labels of other repositories (@repo//) are reserved for later",
            None,
        ),
        ("//a:", "'//a:' is not a label: the name is missing", None),
        ("//a//b:c", "'//a//b:c' is not a label: there is an empty directory name in it", None),
        ("///a", "'///a' is not a label: there is an empty directory name in it", None),
        ("//a/", "'//a/' is not a label: there is an empty directory name in it", None),
        ("//a/../b", "'//a/../b' is not a label: '..' cannot be in a package path", None),
        ("//a b:c", "'//a b:c' is not a label: ' ' cannot be in a package path", None),
        ("//a:b c", "'//a:b c' is not a label: ' ' cannot be in a name", None),
        ("//a:b/c", "'//a:b/c' is not a label: '/' cannot be in a name", None),
        ("//a:b:c", "'//a:b:c' is not a label: ':' cannot be in a name", None),
        ("//a:.b", "'//a:.b' is not a label: a name starts with a letter, digit or '_'", None),
        (
            "//a:b@3.12",
            "'//a:b@3.12' is not a label: a matrix suffix is written @key=value,key=value",
            None,
        ),
        (
            "//a@py=3.12",
            "'//a@py=3.12' is not a label: a matrix suffix belongs to a name",
            "write '//a:image@py=3.12'",
        ),
        ("//a/...", "'//a/...' is a pattern; one target is wanted here", None),
        (":all", "':all' is a pattern; one target is wanted here", None),
        (
            "a/b:c",
            "'a/b:c' is not a label",
            "labels of other packages start at the root: '//pkg/a/b:c'",
        ),
        ("//.../a", "'//.../a' is not a label: '...' must come last", None),
    ],
)
def test_what_is_no_label(text: str, message: str, hint: str | None) -> None:
    where = Location("Boxfile.yaml", 3, 7)
    with pytest.raises(InputError) as caught:
        parse_label(text, "pkg", where)
    assert caught.value.message == message
    assert caught.value.hint == hint
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("//...", AllBelow("")),
        ("...", AllBelow("pkg")),
        ("./...", AllBelow("pkg")),
        ("//a/...", AllBelow("a")),
        ("a/...", AllBelow("pkg/a")),
        ("../a/...", AllBelow("a")),
        ("//a/...:all", AllBelow("a")),
        ("//a/...:*", AllBelow("a")),
        ("//...:all", AllBelow("")),
        ("//a:all", AllInPackage("a")),
        ("//a:*", AllInPackage("a")),
        ("//:all", AllInPackage("")),
        (":all", AllInPackage("pkg")),
        (":*", AllInPackage("pkg")),
        ("a:all", AllInPackage("pkg/a")),
        ("//a:b", OneTarget(Label("a", "b"))),
        ("//a", OneTarget(Label("a", "image"))),
        (":b", OneTarget(Label("pkg", "b"))),
        ("a/b:c", OneTarget(Label("pkg/a/b", "c"))),
        ("../x:c", OneTarget(Label("x", "c"))),
        ("app", AtPath("pkg/app", Label("pkg", "app"))),
        ("./app", AtPath("pkg/app")),
        ("app/", AtPath("pkg/app")),
        (".", AtPath("pkg")),
        ("..", AtPath("")),
        ("./a/b", AtPath("pkg/a/b")),
        ("a/b/Dockerfile", AtPath("pkg/a/b/Dockerfile")),
        ("my dir", AtPath("pkg/my dir")),
    ],
)
def test_patterns(text: str, expected: Selection) -> None:
    assert parse_pattern(text, "pkg").what == expected
    assert not parse_pattern(text, "pkg").exclude
    excluded = parse_pattern("-" + text, "pkg")
    assert excluded.exclude
    assert excluded.what == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the label is empty"),
        ("-", "the label is empty"),
        ("../..", "'../..' leaves the workspace"),
        ("/etc", "'/etc' is an absolute path"),
        ("//a/...:b", "'//a/...:b' is not a pattern: only 'all' or '*' may follow '...:'"),
        ("//a/.../b", "'//a/.../b' is not a label: '...' must come last"),
        ("@r//...", "'@r//...': labels of other repositories (@repo//) are reserved for later"),
    ],
)
def test_what_is_no_pattern(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_pattern(text, "pkg")
    assert caught.value.message == message


def test_paths_are_joined_by_their_text() -> None:
    assert join("a/b", "../c/./d//e") == "a/c/d/e"
    assert join("", ".") == ""
    assert join("a", "../..") is None
