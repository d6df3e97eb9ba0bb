"""Knows how a repository is named in a Dockerfile or on a command line, and which names are
refused; must not know how a repository is read.

The grammar is BuildKit's: git://, ssh://, user@host:path, and http(s) where the path ends in
`.git`; then `?key=value&...` and `#ref:subdir`. Nothing of a name may be taken for an option of a
program it is handed to (CVE-2017-1000117, CVE-2019-13139), and nothing of this machine can be
named (CVE-2022-39253).
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from dataclasses import dataclass, field, replace
from typing import Final

from buildgraph.errors import InputError, Location, did_you_mean

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SCP: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._~+%-]*)@([^:/@\s]+):(.*)", re.DOTALL)
_HOST: Final = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\]", re.ASCII
)
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~+%-]*", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
# git-check-ref-format(1), and no leading dash.
_BAD_REF: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-/.]|/\.|[/.]$|\.lock(/|$)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_PREFIX: Final = re.compile(r"[0-9a-f]{4,64}", re.ASCII)
_KEYS: Final = (
    "ref",
    "tag",
    "branch",
    "subdir",
    "checksum",
    "commit",
    "keep-git-dir",
    "submodules",
    "mtime",
    "fetch-by-commit",
)
_SCHEMES: Final = ("git", "ssh", "http", "https")


@dataclass(frozen=True, slots=True)
class GitReference:
    """A commit of a repository, as somebody wrote it down.

    `remote` is what git is told, without a login's password; `ref` is a branch, a tag, a full
    name (refs/...) or a commit, "" the remote's HEAD; `subdir` is relative and normal; `checksum`
    is a commit or the beginning of one that `ref` has to lead to.
    """

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str | None = None
    keep_git_dir: bool = False
    submodules: bool = True
    fetch_by_commit: bool = False
    preserve_times: bool = False  # mtime=commit: files are as old as the commit
    login: str = field(default="", repr=False)  # user:password of an http URL; never shown

    @property
    def shown(self) -> str:
        """Return the name for messages and logs: no login in it."""
        fragment = self.ref + (f":{self.subdir}" if self.subdir else "")
        return self.remote + (f"#{fragment}" if fragment else "")

    @property
    def full_remote(self) -> str:
        """Return `remote` with the login; never to be shown or written down."""
        scheme, _, rest = self.remote.partition("://")
        return f"{scheme}://{self.login}@{rest}" if self.login else self.remote

    @property
    def host(self) -> str:
        """Return the host with its port, lower-cased: what a token is for."""
        found = _SCHEME.fullmatch(self.remote)
        if found:
            return found[2].partition("/")[0].rpartition("@")[2].lower()
        scp = _SCP.fullmatch(self.remote)
        return scp[2].lower() if scp else ""

    @property
    def is_ssh(self) -> bool:
        """Say whether git goes there by ssh."""
        return not self.remote.startswith(("http://", "https://", "git://"))

    @property
    def authorization(self) -> str:
        """Return the Authorization header that the URL's own login means, "" for none."""
        if not self.login:
            return ""
        text = urllib.parse.unquote(self.login)
        return "basic " + base64.b64encode(text.encode()).decode()

    @property
    def commit(self) -> str | None:
        """Return the commit where the name alone says it whole, None where a ref decides."""
        if is_commit(self.ref):
            return self.ref
        whole = self.checksum is not None and is_commit(self.checksum)
        return self.checksum if whole and (not self.ref or self.fetch_by_commit) else None


def is_commit(text: str) -> bool:
    """Say whether a text is a whole commit id."""
    return _COMMIT.fullmatch(text) is not None


def is_git_url(text: str) -> bool:
    """Say whether a word means a git repository; whether a right one, `parse_git` says.

    A host and path alone (`host/project`) is none: it looks like a directory.
    """
    found = _SCHEME.fullmatch(text)
    if found is None:
        return _SCP.fullmatch(text) is not None
    scheme = found[1].lower()
    if scheme in ("git", "ssh"):
        return True
    path = re.split(r"[?#]", found[2], maxsplit=1)[0]
    return scheme in ("http", "https") and path.endswith(".git") and "/" in path


def parse_git(text: str, where: Location | None = None) -> GitReference:
    """Parse the name of a commit. Raises InputError at `where`; no login is in its message."""
    bare, _, fragment = text.partition("#")
    bare, _, query = bare.partition("?")
    try:
        reference = _remote(bare)
        reference = _with_fragment(reference, urllib.parse.unquote(fragment))
        return _with_query(reference, query)
    except InputError as error:
        error.where = error.where or where
        raise


def submodule_url(parent: GitReference, url: str) -> GitReference:
    """Return the repository that `.gitmodules` names, relative ones taken from `parent`.

    Raises InputError for whatever a Dockerfile could not name either: no path of this machine.
    """
    if url.startswith(("./", "../")):
        head, tail = _path_of(parent.remote)
        base = tail.rstrip("/").split("/")
        for part in url.split("/"):
            if part == "..":
                if not [p for p in base if p]:
                    raise InputError(f"the submodule URL {url!r} leads above its host")
                base.pop()
            elif part not in ("", "."):
                base.append(part)
        return replace(_remote(head + "/".join(base), any_path=True), login=parent.login)
    if "?" in url or "#" in url:
        raise InputError(f"the submodule URL {url!r} is none that git knows")
    return _remote(url, any_path=True)


def check_ref(ref: str) -> str:
    """Return `ref`. Raises InputError where it is no name that git gives a ref."""
    if _BAD_REF.search(ref) or ref == "@" or len(ref) > 1024:
        raise InputError(
            f"{ref[:80]!r} cannot be a git ref",
            hint="a branch, a tag, refs/... or a whole commit id",
        )
    return ref


def _remote(text: str, *, any_path: bool = False) -> GitReference:
    """Parse the part before `?` and `#`; `any_path`: an http path need not end in `.git`."""
    found = _SCHEME.fullmatch(text)
    if found is None:
        scp = _SCP.fullmatch(text)
        if scp is None:
            raise InputError(
                f"{_safe(text)!r} is no git URL",
                hint="git://, ssh://, https://...git or user@host:path; nothing of this machine",
            )
        _check(_USER.fullmatch(scp[1]), "user", scp[1])
        _check(_HOST.fullmatch(scp[2]), "host", scp[2])
        _check_path(scp[3])
        return GitReference(text)
    scheme = found[1].lower()
    if scheme not in _SCHEMES:
        raise InputError(f"git over {scheme}: is refused", hint="use one of " + ", ".join(_SCHEMES))
    authority, slash, path = found[2].partition("/")
    userinfo, at, place = authority.rpartition("@")
    host, colon, port = place.rpartition(":") if not place.endswith("]") else (place, "", "")
    host = host if colon else place
    _check(_HOST.fullmatch(host), "host", host)
    if colon:
        _check(_PORT.fullmatch(port) and 0 < int(port) < 65536, "port", port)
    _check_path(path)
    if scheme in ("http", "https") and not any_path and not path.endswith(".git"):
        raise InputError(f"{_safe(text)!r} is no git URL: its path does not end in .git")
    kept = f"{place}{slash}{path}"
    if scheme in ("http", "https"):
        _check_plain(userinfo)
        return GitReference(f"{scheme}://{kept}", login=userinfo)
    user = userinfo.partition(":")[0]
    if at:
        _check(_USER.fullmatch(user), "user", user)
    return GitReference(f"{scheme}://{user}@{kept}" if user else f"{scheme}://{kept}")


def _path_of(remote: str) -> tuple[str, str]:
    """Split a remote before its path."""
    if found := _SCHEME.fullmatch(remote):
        authority, _, path = found[2].partition("/")
        return f"{found[1]}://{authority}/", path
    head, _, path = remote.partition(":")
    return head + ":", path


def _check_path(path: str) -> None:
    if not path.strip("/") or path.startswith(("-", "/-")):
        raise InputError(f"{path[:80]!r} cannot be the path of a repository")
    _check_plain(path)


def _check_plain(text: str) -> None:
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in text):
        raise InputError("a git URL holds no blanks or control characters")


def _check(right: object, what: str, text: str) -> None:
    if not right:
        raise InputError(f"{text[:80]!r} cannot be the {what} of a git URL")


def _safe(text: str) -> str:
    """Return a URL without its login, for a message."""
    return re.sub(r"//[^/@]*@", "//***@", text[:200])


def _with_fragment(reference: GitReference, fragment: str) -> GitReference:
    ref, _, subdir = fragment.partition(":")
    if ref:
        reference = replace(reference, ref=check_ref(ref))
    return replace(reference, subdir=_subdir(subdir)) if subdir else reference


def _with_query(reference: GitReference, query: str) -> GitReference:
    if not query:
        return reference
    given: dict[str, str] = {}
    for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if key not in _KEYS:
            raise InputError(
                f"a git URL has no key {key[:60]!r}",
                hint=did_you_mean(key[:60], _KEYS) or "one of " + ", ".join(_KEYS),
            )
        if key in given:
            raise InputError(f"a git URL has {key} twice")
        given[key] = value
    return _with_keys(reference, given)


def _with_keys(reference: GitReference, given: dict[str, str]) -> GitReference:
    names = [key for key in ("ref", "tag", "branch") if given.get(key)]
    if len(names) + bool(reference.ref) > 1:
        raise InputError(f"the git URL names more than one ref: {', '.join(names)}")
    for name in names:
        prefix = {"ref": "", "tag": "refs/tags/", "branch": "refs/heads/"}[name]
        value = given[name]
        full = value if value.startswith("refs/") else prefix + value
        reference = replace(reference, ref=check_ref(full))
    if subdir := given.get("subdir"):
        if reference.subdir:
            raise InputError("the git URL names two subdirectories")
        reference = replace(reference, subdir=_subdir(subdir))
    if given.get("checksum") and given.get("commit"):
        raise InputError("the git URL has checksum and commit, which mean the same")
    if checksum := given.get("checksum") or given.get("commit"):
        reference = replace(reference, checksum=check_checksum(checksum))
    if given.get("mtime", "checkout") not in ("checkout", "commit"):
        raise InputError(f"mtime={given['mtime'][:60]} of a git URL is checkout or commit")
    reference = replace(
        reference,
        keep_git_dir=_flag(given, "keep-git-dir", default=False),
        submodules=_flag(given, "submodules", default=True),
        fetch_by_commit=_flag(given, "fetch-by-commit", default=False),
        preserve_times=given.get("mtime") == "commit",
    )
    if reference.fetch_by_commit and reference.commit is None:
        raise InputError("fetch-by-commit needs a whole commit", hint="add checksum=COMMIT")
    return reference


def check_checksum(text: str) -> str:
    """Return a commit or the beginning of one, in lower case. Raises InputError."""
    value = text.lower()
    if not _PREFIX.fullmatch(value):
        raise InputError(f"{text[:80]!r} is no commit id or beginning of one")
    return value


def _flag(given: dict[str, str], key: str, *, default: bool) -> bool:
    value = given.get(key)
    if value is None:
        return default
    if value.lower() in ("", "1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InputError(f"{key}={value[:60]} of a git URL is true or false")


def _subdir(text: str) -> str:
    """Return a subdirectory as a normal relative path. Raises InputError where it leads out."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    control = any(ord(c) < 0x20 or ord(c) == 0x7F for c in text)
    if ".." in parts or control or ".git" in (p.lower() for p in parts):
        raise InputError(f"{text[:80]!r} cannot be a subdirectory of a repository")
    return "/".join(parts)
