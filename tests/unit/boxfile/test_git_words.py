"""Knows what git says in templates, beside what git itself says of the same repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from buildgraph.boxfile import git as git_words
from buildgraph.boxfile.git import Git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git says what is right")


def run(root: Path, *arguments: str) -> str:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }  # fmt: skip
    command = ["git", "-c", "init.defaultBranch=main", "-C", str(root), *arguments]
    return subprocess.run(
        command, env=environ, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "app").mkdir(parents=True)
    run(root, "init", "-q")
    (root / "app" / "f").write_text("1")
    run(root, "add", ".")
    run(root, "commit", "-q", "-m", "one")
    return root


def without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: str) -> str:
        raise AssertionError(f"asked git {arguments}")

    monkeypatch.setattr(git_words.Git, "_run", lambda self, *arguments: refuse(*arguments))


def test_commit_and_branch_are_read_from_files(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = run(repository, "rev-parse", "HEAD")
    run(repository, "checkout", "-q", "-b", "feature/x")
    without_git(monkeypatch)
    git = Git(str(repository / "app"))
    assert (git.look("sha"), git.look("short")) == (sha, sha[:12])
    assert git.look("branch") == "feature/x"
    assert str(repository / ".git" / "HEAD") in git.observed
    assert str(repository / ".git" / "refs" / "heads" / "feature" / "x") in git.observed
    assert not git.volatile


def test_packed_and_linked_and_detached(repository: Path, tmp_path: Path) -> None:
    sha = run(repository, "rev-parse", "HEAD")
    run(repository, "pack-refs", "--all")
    git = Git(str(repository))
    assert git.look("sha") == sha
    assert str(repository / ".git" / "packed-refs") in git.observed
    # It would appear here if somebody committed.
    assert str(repository / ".git" / "refs" / "heads") in git.observed
    run(repository, "worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    linked = Git(str(tmp_path / "linked"))
    assert (linked.look("sha"), linked.look("branch")) == (sha, "other")
    run(repository, "checkout", "-q", "--detach")
    detached = Git(str(repository))
    assert detached.look("sha") == sha
    with pytest.raises(LookupError, match="no branch"):
        detached.look("branch")


def test_tags_and_changes_are_asked_of_git(repository: Path) -> None:
    git = Git(str(repository))
    with pytest.raises(LookupError, match="no tag"):
        git.look("tag")
    run(repository, "tag", "v1.9")
    run(repository, "tag", "-a", "-m", "x", "v1.10")
    assert Git(str(repository)).look("tag") == "v1.10"
    git = Git(str(repository))
    assert (git.look("dirty"), git.volatile) == ("false", True)
    (repository / "app" / "f").write_text("2")
    assert Git(str(repository)).look("dirty") == "true"


def test_what_git_cannot_say(repository: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(LookupError, match="no git repository"):
        Git(str(empty)).look("sha")
    run(empty, "init", "-q")
    with pytest.raises(LookupError, match="no commit"):
        Git(str(empty)).look("sha")
    assert Git(str(empty)).look("branch") == "main"
    with pytest.raises(LookupError, match="there is no 'git.shaa'"):
        Git(str(repository)).look("shaa")


def test_no_program_of_the_repository_is_run(repository: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    run(repository, "config", "core.fsmonitor", f"touch {mark}")
    assert Git(str(repository)).look("dirty") in ("true", "false")
    assert not mark.exists()
