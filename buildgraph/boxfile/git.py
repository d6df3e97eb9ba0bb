"""Knows what git says of a workspace: commit, branch, tag, and whether files were changed; must not
know what it is used for.

Commit and branch are read from git's own files (gitrepository-layout(5)); tags and changes are
asked of the machine's git. What was looked at is remembered, so that a later command can tell by
stat that the answer is still the same.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from typing import Final

from buildgraph import limits

NAMES: Final = ("sha", "short", "branch", "tag", "dirty")
SHORT: Final = 12  # digits; git's own choice differs from clone to clone
_SHA: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SECONDS: Final = 60


class Git:
    """The repository that a directory is in; nothing is read until somebody asks."""

    def __init__(self, root: str):
        self._root = root
        self._known: dict[str, str | LookupError] = {}
        self.observed: set[str] = set()  # absolute paths that decided what was said
        self.volatile = False  # something was said that no stat can confirm

    def look(self, name: str) -> str:
        """Return `sha`, `short`, `branch`, `tag` or `dirty`. Raises LookupError in words."""
        if name not in NAMES:
            raise LookupError(f"there is no 'git.{name}'", "there are: " + ", ".join(NAMES))
        found = self._known.get(name)
        if found is None:
            try:
                found = self._ask(name)
            except LookupError as error:
                found = error
            self._known[name] = found
        if isinstance(found, LookupError):
            raise found
        return found

    def _ask(self, name: str) -> str:
        top = self._top()
        match name:
            case "sha":
                return self._sha(top)
            case "short":
                return self._sha(top)[:SHORT]
            case "branch":
                head = self._head(top)
                if head.startswith("ref: refs/heads/") and head != "ref: refs/heads/.invalid":
                    return head.removeprefix("ref: refs/heads/")
                if head.endswith("/.invalid"):
                    return self._run("branch", "--show-current") or self._detached()
                return self._detached()
            case "tag":
                return self._tag(top)
            case _:
                self.volatile = True
                changed = self._run("status", "--porcelain", "--untracked-files=normal")
                return "true" if changed else "false"

    def _detached(self) -> str:
        raise LookupError(
            "git is on no branch here (HEAD is detached)", "{{ git.branch | default('none') }}"
        )

    def _top(self) -> str:
        """Return the directory that has `.git`."""
        here = self._root
        while not os.path.lexists(os.path.join(here, ".git")):
            self.observed.add(here)
            above = os.path.dirname(here)
            if above == here:
                raise LookupError(
                    "this is in no git repository",
                    "{{ git.sha | default('unknown') }} does without",
                )
            here = above
        return here

    def _directories(self, top: str) -> tuple[str, str]:
        """Return the directory of HEAD and the one of refs; of a linked worktree they differ."""
        own = os.path.join(top, ".git")
        if os.path.isfile(own):
            self.observed.add(own)
            text = self._read(own)
            own = os.path.normpath(os.path.join(top, text.removeprefix("gitdir:").strip()))
        common = os.path.join(own, "commondir")
        if os.path.isfile(common):
            return own, os.path.normpath(os.path.join(own, self._read(common).strip()))
        return own, own

    def _head(self, top: str) -> str:
        return self._read(os.path.join(self._directories(top)[0], "HEAD")).strip()

    def _sha(self, top: str) -> str:
        own, common = self._directories(top)
        text = self._head(top)
        for _ in range(5):  # git follows as many symbolic references
            if not text.startswith("ref: "):
                break
            text = self._ref(own, common, text.removeprefix("ref: ").strip())
        if _SHA.fullmatch(text):
            return text
        found = self._run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if not _SHA.fullmatch(found):
            raise LookupError("there is no commit yet", "git commit")
        return found

    def _ref(self, own: str, common: str, name: str) -> str:
        """Return what a reference holds, "" where it is in neither of git's forms."""
        if ".." in name or not name.startswith("refs/"):
            return ""
        for directory in dict.fromkeys((own, common)):
            path = os.path.join(directory, name)
            self._observe(path)
            if os.path.isfile(path):
                return self._read(path).strip()
        packed = os.path.join(common, "packed-refs")
        self._observe(packed)
        if os.path.isfile(packed):
            for line in self._read(packed).split("\n"):
                sha, _, ref = line.partition(" ")
                if ref.strip() == name:
                    return sha
        return ""

    def _tag(self, top: str) -> str:
        self._sha(top)
        common = self._directories(top)[1]
        self._observe(os.path.join(common, "packed-refs"))
        for directory, _, files in os.walk(os.path.join(common, "refs", "tags")):
            self.observed.add(directory)
            self.observed.update(os.path.join(directory, name) for name in files)
        tags = self._run("tag", "--points-at", "HEAD", "--sort=-version:refname").split("\n")
        if not tags[0]:
            raise LookupError("no tag is at this commit", "{{ git.tag | default('untagged') }}")
        return tags[0]

    def _observe(self, path: str) -> None:
        """Note a file, or the nearest directory that would have to change for it to appear."""
        while not os.path.lexists(path) and path != os.path.dirname(path):
            path = os.path.dirname(path)
        self.observed.add(path)

    def _read(self, path: str) -> str:
        self.observed.add(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise LookupError(f"{path} is not a file")
                data = file.read(limits.GIT_OUTPUT_BYTES)
        except OSError as error:
            raise LookupError(f"cannot read {path}: {error.strerror}") from error
        return data.decode("utf-8", "replace")

    def _run(self, *arguments: str) -> str:
        """Ask the machine's git; no hook and no watcher that the repository names is started."""
        command = ("git", "-c", "core.fsmonitor=false", "-C", self._root, *arguments)
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith("GIT_")
        } | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise LookupError("there is no git on this machine", "install git") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LookupError(f"git {arguments[0]} failed: {error}") from error
        if done.returncode != 0 and done.stderr.strip():
            words = done.stderr.decode("utf-8", "replace").strip().split("\n")[0]
            raise LookupError(f"git {arguments[0]}: {words}")
        return done.stdout.decode("utf-8", "replace").strip("\n")
