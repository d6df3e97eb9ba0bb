"""The language of `-o`, and how what was pushed is called."""

from __future__ import annotations

import pytest

from buildgraph.engine.outputs import Output, parse_output
from buildgraph.engine.pushing import destination, names_told
from buildgraph.errors import InputError
from buildgraph.oci.image import Artifact
from buildgraph.oci.types import MEDIA_MANIFEST, Descriptor
from buildgraph_cache.digest import Digest

DIGEST = Digest("sha256:" + "a" * 64)
ARTIFACT = Artifact(Descriptor(MEDIA_MANIFEST, DIGEST, 1), ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=docker", Output("load")),
        ("type=docker,name=a/b:1", Output("load", names=("a/b:1",))),
        ("type=docker,dest=-", Output("docker", "-")),
        ("type=registry", Output("registry")),
        (
            "type=image,push=true,name=a/b,push-by-digest=true",
            Output("registry", names=("a/b",), by_digest=True),
        ),
        (
            "type=registry,name=a/b,name-canonical=true",
            Output("registry", names=("a/b",), canonical=True),
        ),
        ("type=registry,oci-mediatypes=true,force-compression=false", Output("registry")),
    ],
)
def test_outputs(text: str, expected: Output) -> None:
    assert parse_output(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=registry,unpack=true", "unpack is not supported"),
        ("type=registry,oci-mediatypes=false", "oci-mediatypes is not supported"),
        ("type=docker,force-compression=true", "force-compression is not supported"),
        ("type=registry,annotation-index.a=b", "annotation-index.a is not supported"),
        ("type=registry,dest=x", "a registry has no dest"),
        ("type=oci,push-by-digest=true,dest=x", "unknown option 'push-by-digest'"),
        ("type=oci", "dest is missing"),
    ],
)
def test_outputs_that_are_none(text: str, said: str) -> None:
    with pytest.raises(InputError) as failure:
        parse_output(text)
    assert said in failure.value.message


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (Output("registry"), ["docker.io/library/t:1"]),
        (Output("registry", names=("h.example/a:2",)), ["h.example/a:2"]),
        (Output("registry", names=("h.example/a",), by_digest=True), ["h.example/a"]),
        (
            Output("registry", names=("h.example/a",), by_digest=True, canonical=True),
            [f"h.example/a@{DIGEST}"],
        ),
        (
            Output("registry", names=("h.example/a:2",), canonical=True),
            ["h.example/a:2", f"h.example/a@{DIGEST}"],
        ),
    ],
)
def test_names_that_are_told(output: Output, expected: list[str]) -> None:
    assert names_told(output, ["docker.io/library/t:1"], ARTIFACT) == expected


def test_nothing_is_pushed_to_a_digest() -> None:
    with pytest.raises(InputError, match="nothing can be pushed to it"):
        destination(f"h.example/a@{DIGEST}")
