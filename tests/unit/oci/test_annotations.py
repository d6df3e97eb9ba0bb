"""The language of annotations, and which part of an image gets which."""

from __future__ import annotations

import pytest

from buildgraph.errors import InputError
from buildgraph.oci.annotations import Annotation, check_parts, pairs_for, parse_annotation
from buildgraph.oci.types import Platform

ARM = Platform("linux", "arm64")
AMD = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", [Annotation("a", "b")]),
        ("a=b=c", [Annotation("a", "b=c")]),
        ("a=x:y", [Annotation("a", "x:y")]),
        ("a=", [Annotation("a", "")]),
        ("manifest:a=b", [Annotation("a", "b", "manifest")]),
        ("index:a=b", [Annotation("a", "b", "index")]),
        ("index,manifest:a=b", [Annotation("a", "b", "index"), Annotation("a", "b", "manifest")]),
        ("manifest-descriptor:a:b=c", [Annotation("a:b", "c", "manifest-descriptor")]),
        ("index-descriptor:a=b", [Annotation("a", "b", "index-descriptor")]),
        ("manifest[linux/arm64]:a=b", [Annotation("a", "b", "manifest", ARM)]),
        (
            "manifest-descriptor[linux/amd64]:a=b",
            [Annotation("a", "b", "manifest-descriptor", AMD)],
        ),
        (
            "org.opencontainers.image.created",
            [Annotation("org.opencontainers.image.created", None)],
        ),
    ],
)
def test_annotations(text: str, expected: list[Annotation]) -> None:
    assert list(parse_annotation(text)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "has no value"),
        ("=b", "the name is missing"),
        (":a=b", "the name is missing"),
        ("manifest:=b", "the name is missing"),
        ("config:a=b", "there is no part 'config'"),
        ("manifest[linux/arm64:a=b", "there is no part"),
        ("index[linux/arm64]:a=b", "an index is of no platform"),
        ("manifest[nonsense]:a=b", "nonsense"),
        ("manifest,:a=b", "there is no part ''"),
    ],
)
def test_annotations_that_are_none(text: str, said: str) -> None:
    with pytest.raises(InputError) as failure:
        parse_annotation(text)
    assert said in failure.value.message


def test_the_last_and_the_closest_count() -> None:
    given = [
        one
        for text in ("manifest[linux/arm64]:a=arm", "a=1", "a=2", "b=3", "index:a=4")
        for one in parse_annotation(text)
    ]
    assert pairs_for(given, "manifest", AMD, 0) == (("a", "2"), ("b", "3"))
    assert pairs_for(given, "manifest", ARM, 0) == (("a", "arm"), ("b", "3"))
    assert pairs_for(given, "index", None, 0) == (("a", "4"),)
    assert pairs_for(given, "index-descriptor", None, 0) == ()


def test_created_is_the_epoch_where_it_is_asked_for() -> None:
    name = "org.opencontainers.image.created"
    given = [*parse_annotation(name), *parse_annotation(f"index:{name}=today")]
    assert pairs_for(given, "manifest", AMD, 315532800) == ((name, "1980-01-01T00:00:00Z"),)
    assert pairs_for(given, "index", None, 315532800) == ((name, "today"),)


def test_an_index_has_to_be_there() -> None:
    check_parts(parse_annotation("index:a=b"), "//x:y", indexed=True)
    check_parts(parse_annotation("manifest-descriptor:a=b"), "//x:y", indexed=False)
    for part in ("index", "index-descriptor"):
        with pytest.raises(InputError, match=f"no {part} that a"):
            check_parts(parse_annotation(f"{part}:a=b"), "//x:y", indexed=False)
