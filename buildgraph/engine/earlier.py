"""Knows what a workspace was at an earlier commit, and which of its files are another now; must not
know what the files mean.

git is run as for repositories of strangers: by its absolute path, with no configuration of the
user's. Nothing of the working tree or the index is written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from buildgraph.errors import HostError, InputError
from buildgraph.fetch.git_program import GitFailed, GitProgram, SshSetup

_QUIET: Final = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
_LINK: Final = "120000"
_DIFF: Final = (
    "diff",
    "--name-status",
    "-z",
    "--no-renames",
    "--no-ext-diff",
    "--no-textconv",
    "--ignore-submodules=none",
    "--relative",
)


class Changes(Struct, frozen=True):
    """What differs between a commit and the files as they are; paths from the workspace's root.

    `paths` has everything, sorted; `appeared` and `gone` are the parts of it that were not there
    and are not there. A renamed file is gone and appeared. A repository inside the workspace that
    differs is one path.
    """

    since: str
    commit: str
    paths: tuple[str, ...]
    appeared: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()


class Earlier:
    """A workspace's directory at the commit where it and a revision part."""

    def __init__(self, root: str, since: str):
        """Find the commit. Raises InputError where there is none, HostError where git fails."""
        self._git = GitProgram({}, SshSetup())
        self._root = root
        self.since = since
        self._tree: dict[str, tuple[str, str]] | None = None
        self._others: list[bytes | BaseException] = []
        # Asked beside everything else: git walks the whole tree for it.
        self._asking = threading.Thread(target=self._ask_untracked, daemon=True)
        self._asking.start()
        self.commit = self._find(since)

    def changes(self) -> Changes:
        """Return what differs now: committed, staged, in the working tree, or not tracked.

        What git ignores is not looked at: it is of no commit.
        """
        told = self._run(*_DIFF, self.commit, "--")
        self._asking.join()
        others = self._others[0]
        if isinstance(others, BaseException):
            raise others
        words = told.split(b"\0")
        status = {
            os.fsdecode(path): word for word, path in zip(words[::2], words[1::2], strict=False)
        }
        untracked = {os.fsdecode(path).rstrip("/") for path in others.split(b"\0") if path}
        paths = sorted({*status, *untracked}, key=os.fsencode)
        return Changes(
            self.since,
            self.commit,
            tuple(paths),
            frozenset(untracked.union(path for path, word in status.items() if word == b"A")),
            frozenset(path for path, word in status.items() if word == b"D") - untracked,
        )

    def _ask_untracked(self) -> None:
        try:
            self._others.append(self._run("ls-files", "--others", "--exclude-standard", "-z"))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits for it
            self._others.append(error)

    def names(self) -> Iterable[str]:
        """Return the files of the commit, from the workspace's root."""
        return self._files().keys()

    def directories(self) -> set[str]:
        """Return the directories of the commit."""
        out: set[str] = set()
        for path in self._files():
            parent = path.rpartition("/")[0]
            while parent and parent not in out:
                out.add(parent)
                parent = parent.rpartition("/")[0]
        return out

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of files of the commit (of a link: where it leads)."""
        files = self._files()
        wanted = [path for path in paths if path in files]
        if not wanted:
            return {}
        ids = [files[path][1] for path in wanted]
        data = self._run("cat-file", "--batch", data="\n".join(ids).encode() + b"\n")
        out: dict[str, bytes] = {}
        at = 0
        for path in wanted:
            end = data.index(b"\n", at)
            size = int(data[at:end].rsplit(b" ", 1)[1])
            out[path] = data[end + 1 : end + 1 + size]
            at = end + size + 2
        return out

    def write(self, paths: Iterable[str], directory: str) -> None:
        """Write files of the commit below a directory of ours; links stay links."""
        files = self._files()
        for path, content in self.read(paths).items():
            place = os.path.join(directory, path)
            if os.path.lexists(place):
                continue
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if files[path][0] == _LINK:
                os.symlink(content, os.fsencode(place))
            else:
                with open(place, "wb") as file:
                    file.write(content)

    def write_head(self, directory: str) -> None:
        """Have templates in a directory of ours say the commit and branch of now.

        What a stamp says is no change of a definition.
        """
        own = os.path.join(directory, ".git")
        try:
            commit = self._run("rev-parse", "--verify", "HEAD")
            try:
                branch = self._run("symbolic-ref", "--quiet", "HEAD")
            except GitFailed:
                branch = b""
        except GitFailed:
            return
        for name in ("objects", "refs/heads"):
            os.makedirs(os.path.join(own, name), exist_ok=True)
        name = os.fsdecode(branch.strip())
        if not name.startswith("refs/heads/") or ".." in name:
            name = ""
        else:
            place = os.path.join(own, name)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "wb") as file:
                file.write(commit)
        with open(os.path.join(own, "HEAD"), "wb") as file:
            file.write(b"ref: " + os.fsencode(name) + b"\n" if name else commit)

    def links(self) -> list[str]:
        """Return the symbolic links of the commit."""
        return [path for path, (mode, _) in self._files().items() if mode == _LINK]

    def _files(self) -> dict[str, tuple[str, str]]:
        if self._tree is None:
            self._tree = {}
            for line in self._run("ls-tree", "-r", "-z", self.commit).split(b"\0"):
                head, tab, path = line.partition(b"\t")
                mode, kind, name = head.decode().split() if tab else ("", "", "")
                if kind == "blob":
                    self._tree[os.fsdecode(path)] = mode, name
        return self._tree

    def _find(self, since: str) -> str:
        try:
            found = self._run("merge-base", "--end-of-options", since, "HEAD")
        except GitFailed as error:
            raise self._why_not(since) from error
        return found.split()[0].decode()

    def _why_not(self, since: str) -> InputError:
        fetch = "CI often fetches the last commit alone (fetch-depth: 0)"
        try:
            inside = self._run("rev-parse", "--is-inside-work-tree").strip()
        except GitFailed:
            return InputError(
                f"{self._root} is in no git repository",
                hint="what has changed is asked of git: git init, and commit",
            )
        if inside != b"true":
            return InputError(f"{self._root} is in no working tree of git")
        try:
            self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{since}^{{commit}}")
        except GitFailed:
            return InputError(f"git knows no commit {since!r}", hint=f"fetch it first; {fetch}")
        return InputError(
            f"{since!r} and HEAD have no commit in common", hint=f"fetch more history: {fetch}"
        )

    def _run(self, *arguments: str, data: bytes = b"") -> bytes:
        try:
            return self._git.run(["-C", self._root, *arguments], env=_QUIET, data=data)
        except GitFailed:
            raise
        except HostError as error:
            error.hint = error.hint or "what has changed is asked of git"
            raise
