"""Knows what ADD makes of git repositories; must not know how they are read (tests/unit/fetch)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.building import BOTH, Bench, needs
from e2e.images import text
from unit.transport.scripted_server import End, Seen, Server, reply

pytestmark = needs("git")


@dataclass
class Repository:
    """A repository, served as plain files."""

    top: Path
    server: Server | None = None

    def git(self, *words: str) -> str:
        env = {
            **os.environ,
            **{
                f"GIT_{who}_{what}": "x@example.com"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_COMMITTER_DATE": "2001-02-03T04:05:06Z",
        }
        done = subprocess.run(
            ["git", *words],
            cwd=self.top / "work",
            env=env,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, name: str, content: str) -> str:
        """Commit one file; return the commit."""
        path = self.top / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", name)
        self.publish()
        return self.git("rev-parse", "HEAD")

    def publish(self) -> None:
        self.git("push", "-q", "--mirror", "../served.git")
        self.git("--git-dir=../served.git", "update-server-info")

    def __call__(self, seen: Seen) -> Iterable[bytes | End]:
        path = self.top / seen.target.partition("?")[0].lstrip("/")
        if not path.is_file():
            return reply(404)
        return reply(200, path.read_bytes(), {"Content-Type": "text/plain"})

    def url(self, rest: str = "") -> str:
        assert self.server is not None
        return self.server.url(f"/served.git{rest}")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    made = Repository(tmp_path)
    (tmp_path / "work").mkdir()
    made.git("init", "-q", "-b", "main", "--bare", "../served.git")
    made.git("init", "-q", "-b", "main")
    made.commit("sub/f", "first")
    with Server(made) as server:
        made.server = server
        yield made


@BOTH
def test_a_repository_is_its_tree(who: Bench, repository: Repository) -> None:
    (repository.top / "work" / "tool").write_text("x")
    (repository.top / "work" / "tool").chmod(0o755)
    (repository.top / "work" / "link").symlink_to("tool")
    repository.commit("top", "t")
    built = who.build(
        f"FROM base\nADD {repository.url()} /d\nADD {repository.url('#main:sub')} /s\n"
    )
    assert built.made == text("""
        d 755 0:0 d
        l 0:0 d/link -> tool
        d 755 0:0 d/sub
        f 644 0:0 d/sub/f = 'first'
        f 755 0:0 d/tool = 'x'
        f 644 0:0 d/top = 't'
        d 755 0:0 s
        f 644 0:0 s/f = 'first'
    """)
    assert {built.image.tree[p].mtime for p in ("d/top", "d/sub", "s/f")} == {315532800}


def test_a_commit_is_the_key(root_bench: Bench, repository: Repository) -> None:
    dockerfile = f"FROM scratch\nADD {repository.url('#main')} /d\n"
    first = root_bench.build(dockerfile)
    assert root_bench.build(dockerfile).result.built == []
    repository.git("commit", "-q", "--allow-empty", "-m", "nothing")
    repository.publish()
    again = root_bench.build(dockerfile)  # another commit with the same files: one step, same layer
    assert again.digest == first.digest
    assert len(again.result.built) == 1
    repository.commit("sub/f", "second")
    assert root_bench.build(dockerfile).content("d/sub/f") == "second"


def test_a_whole_commit_is_asked_for_once(root_bench: Bench, repository: Repository) -> None:
    commit = repository.commit("g", "g")
    dockerfile = f"FROM scratch\nADD {repository.url(f'#{commit}')} /d\n"
    root_bench.build(dockerfile)
    assert repository.server is not None
    asked = len(repository.server.seen)
    assert root_bench.build(dockerfile, None, "--offline").result.built == []
    assert root_bench.build(dockerfile).result.built == []
    assert len(repository.server.seen) == asked


def test_a_checksum_holds_a_branch_to_a_commit(root_bench: Bench, repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    good = f"FROM scratch\nADD --checksum={commit[:12]} {repository.url('#main')} /d\n"
    assert root_bench.build(good).content("d/sub/f") == "first"
    repository.commit("sub/f", "moved on")
    said = root_bench.fail(good)
    assert "Dockerfile:2:" in said.stderr
    assert commit[:12] in said.stderr


def test_the_git_directory_comes_where_asked_for(root_bench: Bench, repository: Repository) -> None:
    built = root_bench.build(f"FROM scratch\nADD --keep-git-dir {repository.url()} /d\n")
    assert built.has("d/.git/HEAD")


def test_a_missing_branch_and_offline(root_bench: Bench, repository: Repository) -> None:
    said = root_bench.fail(f"FROM scratch\nADD {repository.url('#nowhere')} /d\n")
    assert "no branch or tag 'nowhere'" in said.stderr
    assert "Dockerfile:2:" in said.stderr
    said = root_bench.fail(
        f"FROM scratch\nADD {repository.url('#main')} /d\n", None, "--offline", expect=3
    )
    assert "--offline" in said.stderr


def test_plans_ask_which_commit(root_bench: Bench, repository: Repository) -> None:
    directory = root_bench.directory({}, f"FROM scratch\nADD {repository.url()} /d\n")
    words = ["build", directory, "-o", "type=cacheonly"]
    assert "1 build, 1 depends" in root_bench.run(*words, "-n").stdout
    root_bench.run(*words)
    assert "2 hit" in root_bench.run(*words, "-n").stdout
    repository.commit("new", "n")
    said = root_bench.run(*words, "-n").stdout
    assert "1 build, 1 depends" in said
    assert "the commit" in said
