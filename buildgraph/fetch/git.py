"""Knows how a commit of a repository is found and becomes a directory of files; must not know who
wants them. The host's git does the talking, see `git_program`; names are parsed in `git_url`.

A bare mirror of every remote is kept in the store, so that a second build fetches only what is
new. Submodules are followed by us and not by git: each is a repository like any other, held to
the same grammar, and nothing that a `.gitmodules` says is ever configuration.
"""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.errors import BuildgraphError, HostError, InputError, Location
from buildgraph.fetch.git_program import GitFailed, GitProgram, SshSetup
from buildgraph.fetch.git_tree import (
    Mirror,
    Module,
    check_subdir,
    committed,
    gitlinks,
    read_modules,
    set_times,
    write_tree,
)
from buildgraph.fetch.git_url import (
    GitReference,
    check_checksum,
    is_commit,
    is_git_url,
    parse_git,
    submodule_url,
)
from buildgraph_cache.store import Store

__all__ = ["Git", "GitReference", "SshSetup", "check_checksum", "is_git_url", "parse_git"]

_UNREACHABLE: Final = re.compile(
    r"resolve host|onnection (refused|timed out|reset)|Failed to connect|No route to host"
    r"|Authentication failed|could not read Username|Permission denied|Host key verification"
    r"|repository .* not found|does not appear to be a git repository|SSL|certificate"
    r"|returned error: [45]|cannot run ssh|transport .* not allowed"
)
_HINTS: Final = (
    (
        r"Authentication failed|could not read Username|error: 40[13]",
        "give a token: --secret id=GIT_AUTH_TOKEN,env=NAME",
    ),
    (r"Host key verification", "add its key to ~/.ssh/known_hosts, after checking it"),
    (r"Permission denied", "start an ssh-agent that has the key, and give it with --ssh default"),
    (r"cannot run ssh|ssh: not found", "install ssh (apt-get install openssh-client)"),
    (r"certificate|SSL", "set SSL_CERT_FILE to the authority's certificate"),
)

SecretOf = Callable[[str], str | None]


class _Job(Struct):
    """One checkout: who asked, until when, and what is left of its allowance of submodules."""

    host: str  # of the repository that was asked for: tokens without a host are for it alone
    where: Location | None
    cancel: threading.Event | None
    submodules: int = limits.GIT_SUBMODULES

    def stopped(self) -> bool:
        """Say whether nobody waits any more."""
        return self.cancel is not None and self.cancel.is_set()


class Git:
    """Reads commits of repositories into directories. Thread-safe.

    `secret` gives the value of a secret of the build by its id, None where there is none:
    GIT_AUTH_TOKEN, GIT_AUTH_HEADER, and either with `.host` behind it (docker's names).
    """

    def __init__(
        self,
        store: Store,
        *,
        environ: Mapping[str, str],
        secret: SecretOf = lambda name: None,
        ssh: SshSetup | None = None,
        offline: bool = False,
    ):
        self._store = store
        setup = ssh or SshSetup(environ.get("SSH_AUTH_SOCK", ""), environ.get("HOME", ""))
        self._program = GitProgram(environ, setup)
        self._secret = secret
        self._offline = offline

    # -- which commit ----------------------------------------------------------------------

    def resolve(
        self,
        reference: GitReference,
        where: Location | None = None,
        cancel: threading.Event | None = None,
    ) -> str:
        """Return the commit that a reference means, asking the remote unless it says it whole.

        A branch wins over a tag of the same name; annotated tags are peeled. Raises InputError
        where there is no such ref or it leads to another commit than `checksum` says, HostError
        where the remote cannot be asked.
        """
        commit = reference.commit
        if commit is None:
            tag, commit = self._ask(reference, where, cancel)
        else:
            tag = ""
        checksum = reference.checksum
        if checksum and not commit.startswith(checksum) and not tag.startswith(checksum):
            raise InputError(
                f"{reference.shown} is commit {commit}, and not {checksum}",
                where,
                "somebody moved the ref, or the checksum is that of another one",
            )
        return commit

    def _ask(
        self, reference: GitReference, where: Location | None, cancel: threading.Event | None
    ) -> tuple[str, str]:
        """Return (annotated tag or the commit, commit) from what the remote lists."""
        self._online(reference, where)
        ref = reference.ref or "HEAD"
        wanted = (
            [ref]
            if ref == "HEAD" or ref.startswith("refs/")
            else [
                f"refs/heads/{ref}",
                f"refs/tags/{ref}",
                f"refs/{ref}",
            ]
        )
        patterns = [*wanted, *(f"{name}^{{}}" for name in wanted)]
        arguments = ["ls-remote", "--quiet", "--", reference.remote, *patterns]
        try:
            said = self._program.run(
                arguments,
                where=where,
                config=self._login(reference, reference.host),
                cancel=cancel,
            )
        except GitFailed as error:
            raise unreachable(reference, error) from error
        found: dict[str, str] = {}
        for line in said.decode("utf-8", "surrogateescape").splitlines():
            commit, _, name = line.partition("\t")
            if is_commit(commit):
                found[name] = commit
        for name in wanted:
            if name in found:
                return found[name], found.get(f"{name}^{{}}", found[name])
        raise InputError(
            f"{reference.remote} has no branch or tag {ref!r}",
            where,
            "a commit has to be given whole" if _hexadecimal(ref) else None,
        )

    # -- its files -------------------------------------------------------------------------

    def checkout(
        self,
        reference: GitReference,
        commit: str,
        directory: str,
        where: Location | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Write the files of `commit` (from `resolve`) into an empty directory.

        Modes are 644, 755 and links; `.git` is left out unless asked for. What was fetched once
        is kept in the store. Raises InputError where the commit or the subdirectory is not
        there, HostError where the remote does not answer.
        """
        self._tree(_Job(reference.host, where, cancel), reference, commit, directory, 0)

    def _tree(
        self, job: _Job, reference: GitReference, commit: str, directory: str, depth: int
    ) -> None:
        with self._mirror(job, reference) as mirror:
            self._fetch(mirror, reference, commit)
            check_subdir(mirror, reference, commit)
            links = gitlinks(mirror, commit, reference.subdir) if reference.submodules else {}
            modules = read_modules(mirror, commit) if links else {}
            write_tree(mirror, reference, commit, directory)
            if reference.preserve_times and depth == 0:
                set_times(directory, committed(mirror, commit))
        # The mirror is free again: a repository may hold itself as a submodule.
        for path, linked in links.items():
            module = modules.get(path)
            if module is None:
                raise InputError(
                    f"{reference.shown}: .gitmodules does not say where the submodule {path!r} is",
                    job.where,
                    "leave submodules out with ?submodules=false",
                )
            if module.wanted:
                self._submodule(job, reference, module, linked, directory, depth)

    def _submodule(
        self,
        job: _Job,
        parent: GitReference,
        module: Module,
        commit: str,
        directory: str,
        depth: int,
    ) -> None:
        job.submodules -= 1
        if depth >= limits.GIT_SUBMODULE_DEPTH or job.submodules < 0:
            raise InputError(
                f"{parent.shown}: submodules are nested more than {limits.GIT_SUBMODULE_DEPTH} "
                f"deep, or there are more than {limits.GIT_SUBMODULES}",
                job.where,
                "leave them out with ?submodules=false",
            )
        try:
            reference = submodule_url(parent, module.url)
        except InputError as error:
            raise InputError(
                f"{parent.shown}, submodule {module.path!r}: {error.message}", job.where, error.hint
            ) from error
        inside = module.path[len(parent.subdir) + 1 :] if parent.subdir else module.path
        target = os.path.join(directory, inside)
        if os.path.realpath(target) != os.path.join(os.path.realpath(directory), inside):
            raise InputError(
                f"{parent.shown}: the submodule {module.path!r} lies behind a link", job.where
            )
        os.makedirs(target, exist_ok=True)
        self._tree(job, reference, commit, target, depth + 1)

    # -- mirrors ---------------------------------------------------------------------------

    @contextmanager
    def _mirror(self, job: _Job, reference: GitReference) -> Iterator[Mirror]:
        """Open the mirror of a remote; nobody else reads or writes it meanwhile."""
        identity = f"git {reference.remote}"
        with (
            self._store.key_lock(identity, cancelled=job.stopped),
            self._store.cache_mount(identity, about={"id": identity}) as path,
        ):
            config = self._login(reference, job.host)
            mirror = Mirror(path, self._program, config, job.where, job.cancel)
            mirror.make()
            yield mirror

    def _fetch(self, mirror: Mirror, reference: GitReference, commit: str) -> None:
        """Bring a commit into its mirror: by itself, else by its ref, else everything."""
        if mirror.has(commit):
            return
        self._online(reference, mirror.where)
        ways: list[tuple[str, ...]] = [("--depth=1", f"+{commit}:refs/buildgraph/asked")]
        if not is_commit(reference.ref):
            ways.append(("--depth=1", f"+{reference.ref or 'HEAD'}:refs/buildgraph/asked"))
        deepen = ("--unshallow",) if mirror.is_shallow else ()
        ways.append((*deepen, "+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"))
        for way in ways:
            options = [word for word in way if word.startswith("-")]
            refs = [word for word in way if not word.startswith("-")]
            try:
                mirror.run(
                    *("fetch", "--quiet", "--force", "--no-tags", "--no-write-fetch-head"),
                    *("--update-shallow", *options, "--", reference.remote, *refs),
                )
            except GitFailed as error:
                if way is ways[-1] or is_unreachable(error):
                    raise unreachable(reference, error) from error
            if mirror.keep(commit):
                return
        raise InputError(
            f"{reference.remote} has no commit {commit}", mirror.where, "was it force-pushed away?"
        )

    def _online(self, reference: GitReference, where: Location | None) -> None:
        if self._offline:
            raise HostError(
                f"{reference.shown} is not in the store, and --offline fetches nothing", where
            )

    def _login(self, reference: GitReference, host: str) -> tuple[tuple[str, str], ...]:
        """Return the settings that authenticate at a remote's host, and nowhere else.

        `host` is that of the repository the user named; a submodule elsewhere gets its token only
        by the host's name.
        """
        if not reference.remote.startswith(("http://", "https://")):
            return ()
        scheme = reference.remote.partition(":")[0]
        suffixes = (f".{reference.host}", "") if reference.host == host else (f".{reference.host}",)
        value = ""
        for suffix in suffixes:
            if header := self._secret(f"GIT_AUTH_HEADER{suffix}"):
                value = header.strip()
                break
            if token := self._secret(f"GIT_AUTH_TOKEN{suffix}"):
                pair = f"x-access-token:{token.strip()}".encode()
                value = "basic " + base64.b64encode(pair).decode()
                break
        value = value or reference.authorization
        if not value:
            return ()
        if any(c in value for c in "\r\n\0"):
            raise InputError("the secret for a git host holds more than one line")
        return ((f"http.{scheme}://{reference.host}/.extraHeader", f"Authorization: {value}"),)


def is_unreachable(error: GitFailed) -> bool:
    """Say whether the remote could not be spoken to at all, so that no other way leads there."""
    return _UNREACHABLE.search(error.said) is not None


def unreachable(reference: GitReference, error: GitFailed) -> BuildgraphError:
    """Return what to tell somebody whose remote did not answer as hoped."""
    hint = next((text for sign, text in _HINTS if re.search(sign, error.said)), None)
    return HostError(f"{reference.remote}: {error.message}", error.where, hint)


def _hexadecimal(text: str) -> bool:
    return 4 <= len(text) < 40 and all(c in "0123456789abcdef" for c in text.lower())
