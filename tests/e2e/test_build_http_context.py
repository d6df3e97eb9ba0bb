"""Knows what a build makes of contexts and Dockerfiles of servers; must not know how bytes
travel (tests/unit/transport).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from e2e.building import BOTH, Bench
from e2e.images import listing, text
from e2e.test_build_add import member, tar
from e2e.test_build_add_url import Files
from unit.transport.scripted_server import Server

TREE = tar(
    (member("Dockerfile"), b"FROM scratch\nCOPY f /d/\n"),
    (member("f", uid=5, gid=6), b"of the archive"),
)


@pytest.fixture
def files() -> Files:
    return Files({"/t.tgz": gzip.compress(TREE), "/Dockerfile": b"FROM scratch\nLABEL a=b\n"})


@pytest.fixture
def server(files: Files) -> Iterator[Server]:
    with Server(files) as made:
        yield made


@BOTH
def test_a_named_context_is_an_archives_tree(who: Bench, server: Server) -> None:
    named = f"--build-context=n={server.url('/t.tgz')}"
    built = who.build("FROM scratch\nCOPY --from=n f /\n", None, named)
    assert listing(built.image.tree) == text("    f 644 5:6 f = 'of the archive'\n")


def test_a_named_context_is_one_file_else(root_bench: Bench, server: Server, files: Files) -> None:
    files.files["/x/plain.txt"] = b"just text"
    named = f"--build-context=n={server.url('/x/plain.txt')}"
    built = root_bench.build("FROM scratch\nCOPY --from=n / /d/\n", None, named)
    assert built.content("d/plain.txt") == "just text"
    again = root_bench.build("FROM scratch\nCOPY --from=n / /d/\n", None, named, "--offline")
    assert again.digest == built.digest
    assert len(server.seen) == 1
    bare = f"--build-context=n={server.url('/')}"
    files.files["/"] = b"index"
    assert "file name" in root_bench.fail("FROM scratch\nCOPY --from=n / /\n", None, bare).stderr


def test_a_context_or_a_dockerfile_of_a_server_is_built(
    root_bench: Bench, server: Server, files: Files
) -> None:
    built = root_bench.build_in(server.url("/t.tgz"))
    assert built.content("d/f") == "of the archive"
    assert root_bench.build_in(server.url("/t.tgz")).digest == built.digest
    assert "if-none-match" in server.seen[1].headers
    built = root_bench.build_in(server.url("/Dockerfile"))
    assert not built.image.tree
    files.files["/Dockerfile"] = b"FROM scratch\nCOPY x /\n"
    words = ["build", server.url("/Dockerfile"), "-o", "type=cacheonly"]
    assert "not found in the context" in root_bench.run(*words, expect=2).stderr
    said = root_bench.run("build", server.url("/none"), "-o", "type=cacheonly", expect=3).stderr
    assert "does not exist (HTTP 404" in said
