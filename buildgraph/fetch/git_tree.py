"""Knows what a bare mirror of a repository holds and how a commit of it is written out; must not
know how anything came there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from buildgraph.errors import HostError, InputError, Location
from buildgraph.fetch.git_program import GitFailed, GitProgram
from buildgraph.fetch.git_url import GitReference

_LINK: Final = "160000"  # a gitlink: the commit of a submodule
_DIRECTORY: Final = "040000"
# What a killed git leaves behind; the mirror is ours alone, so nobody else can hold them.
_LOCKS: Final = ("shallow.lock", "index", "index.lock", "packed-refs.lock", "config.lock")


class Mirror(Struct, frozen=True):
    """A bare repository in the store, ours alone while it is open."""

    path: str
    git: GitProgram
    config: tuple[tuple[str, str], ...]  # may hold a login
    where: Location | None
    cancel: threading.Event | None

    def run(
        self, *arguments: str, data: bytes = b"", env: Mapping[str, str] | None = None
    ) -> bytes:
        """Run git in the mirror. Raises GitFailed."""
        return self.git.run(
            arguments,
            where=self.where,
            env={"GIT_DIR": self.path, **(env or {})},
            config=self.config,
            data=data,
            cancel=self.cancel,
        )

    def make(self) -> None:
        """Make the repository where it is not there yet, and clear what a killed git left."""
        for name in _LOCKS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, name))
        if not os.path.exists(os.path.join(self.path, "HEAD")):
            self.run("init", "--quiet", "--bare", "--template=")

    @property
    def is_shallow(self) -> bool:
        """Say whether the history of what is here is cut off somewhere."""
        return os.path.exists(os.path.join(self.path, "shallow"))

    def has(self, commit: str) -> bool:
        """Say whether a commit was kept here before: its ref is set once all of it has come."""
        try:
            self.run("rev-parse", "--verify", "--quiet", f"refs/buildgraph/{commit}^{{commit}}")
        except GitFailed:
            return False
        return True

    def keep(self, commit: str) -> bool:
        """Keep a commit that a fetch has brought; False where it has not."""
        try:
            self.run("cat-file", "-e", f"{commit}^{{commit}}")
            self.run("update-ref", "--", f"refs/buildgraph/{commit}", commit)
        except GitFailed:
            return False
        return True


class Module(Struct, frozen=True):
    """One entry of a `.gitmodules`."""

    path: str
    url: str
    wanted: bool = True  # False: update = none


def check_subdir(mirror: Mirror, reference: GitReference, commit: str) -> None:
    """Raise InputError unless every part of the subdirectory is a directory, and no link."""
    parts = reference.subdir.split("/") if reference.subdir else []
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count])
        said = mirror.run("ls-tree", "-z", "--full-tree", commit, "--", path)
        mode = said.decode("utf-8", "surrogateescape").partition(" ")[0]
        if mode != _DIRECTORY:
            what = "is not there" if not mode else "is no directory"
            raise InputError(f"{reference.shown}: {path} {what} in commit {commit}", mirror.where)


def gitlinks(mirror: Mirror, commit: str, subdir: str) -> dict[str, str]:
    """Return path -> commit of every submodule in `subdir`; "" is the whole tree."""
    arguments = ["ls-tree", "-r", "-z", "--full-tree", commit]
    said = mirror.run(*arguments, *(["--", subdir] if subdir else []))
    found: dict[str, str] = {}
    for entry in said.split(b"\0"):
        head, _, path = entry.partition(b"\t")
        mode, _, rest = head.decode().partition(" ")
        if mode == _LINK:
            found[os.fsdecode(path)] = rest.partition(" ")[2]
    return found


def read_modules(mirror: Mirror, commit: str) -> dict[str, Module]:
    """Return the submodules that `.gitmodules` names, by path; nothing of it is acted on."""
    said = mirror.run("ls-tree", "-z", "--full-tree", commit, "--", ".gitmodules")
    if not said.startswith(b"100"):  # none, or a link to somewhere
        return {}
    try:
        said = mirror.run("config", "--blob", f"{commit}:.gitmodules", "--list", "-z")
    except GitFailed as error:
        raise InputError(f".gitmodules cannot be read: {error.message}", mirror.where) from error
    values: dict[str, dict[str, str]] = {}
    for entry in said.split(b"\0"):
        key, _, value = os.fsdecode(entry).partition("\n")
        section, _, rest = key.partition(".")
        name, _, last = rest.rpartition(".")
        if section == "submodule" and name:
            values.setdefault(name, {})[last] = value
    return {
        fields["path"].rstrip("/"): Module(
            fields["path"].rstrip("/"), fields["url"], fields.get("update") != "none"
        )
        for fields in values.values()
        if fields.get("path") and fields.get("url")
    }


def write_tree(mirror: Mirror, reference: GitReference, commit: str, directory: str) -> None:
    """Write the files of a commit, or of its subdirectory, into an empty directory."""
    whole = directory if not reference.subdir else f"{directory}.whole"
    if reference.subdir:
        os.mkdir(whole, 0o755)
    try:
        index = os.path.join(mirror.path, "index")
        # The bare repository's own settings would say that there is no work tree.
        env = {"GIT_WORK_TREE": whole, "GIT_INDEX_FILE": index}
        try:
            mirror.run("read-tree", "--reset", "-u", commit, env=env)
        except GitFailed as error:
            raise HostError(f"{reference.shown}: {error.message}", mirror.where) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(index)
        if reference.subdir:
            inside = os.path.join(whole, reference.subdir)
            for name in os.listdir(inside):
                os.rename(os.path.join(inside, name), os.path.join(directory, name))
    finally:
        if reference.subdir:
            shutil.rmtree(whole, ignore_errors=True)
    if reference.keep_git_dir:
        _write_git_dir(mirror, reference, commit, directory)


def _write_git_dir(mirror: Mirror, reference: GitReference, commit: str, directory: str) -> None:
    """Make `.git` of one commit without its history, the same bytes every time.

    Packed anew by one thread and with an index that holds no times, for a clone of a clone would
    tell when and by which ways it was made.
    """
    place = os.path.join(directory, ".git")
    for name in ("objects/pack", "objects/info", "refs/heads", "refs/tags"):
        os.makedirs(os.path.join(place, name), 0o755, exist_ok=True)
    listed = mirror.run("rev-list", "--objects", "--no-object-names", "--no-walk", commit)
    pack = os.path.join(place, "objects", "pack", "pack")
    options = ("--quiet", "--no-reuse-delta", "--no-reuse-object", "--threads=1")
    mirror.run("pack-objects", *options, pack, data=listed)
    config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
    if len(commit) == 64:
        config = config.replace("version = 0", "version = 1") + (
            "[extensions]\n\tobjectFormat = sha256\n"
        )
    config += (
        f'[remote "origin"]\n\turl = {reference.remote}\n'
        "\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    )
    _text(place, "config", config)
    _text(place, "HEAD", commit + "\n")
    head = mirror.run("cat-file", "commit", commit).partition(b"\n\n")[0]
    if b"\nparent " in head:  # asked of the object itself: a shallow mirror hides parents
        _text(place, "shallow", commit + "\n")
    if reference.ref.startswith("refs/tags/"):
        name = os.path.join(place, reference.ref)
        os.makedirs(os.path.dirname(name), exist_ok=True)
        _text(place, reference.ref, commit + "\n")
    own = {"GIT_DIR": place, "GIT_INDEX_FILE": os.path.join(place, "index")}
    mirror.run("read-tree", commit, env=own)
    for top, directories, names in os.walk(place):
        for name in (*directories, *names):
            path = os.path.join(top, name)
            os.chmod(path, 0o755 if name in directories else 0o644)


def _text(place: str, name: str, text: str) -> None:
    with open(os.path.join(place, name), "w", encoding="utf-8") as file:
        file.write(text)


def committed(mirror: Mirror, commit: str) -> int:
    """Return when a commit was made, in seconds since 1970."""
    return int(mirror.run("show", "-s", "--format=%ct", commit))


def set_times(directory: str, seconds: int) -> None:
    """Give everything below a directory one time."""
    for top, directories, names in os.walk(directory):
        for name in (*directories, *names):
            os.utime(os.path.join(top, name), (seconds, seconds), follow_symlinks=False)
    os.utime(directory, (seconds, seconds))
