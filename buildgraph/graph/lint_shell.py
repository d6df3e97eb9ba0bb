"""Knows how to see the single commands in the text of a RUN, well enough to recognise package
managers; must not know what to say about them, and never claims to be a shell.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator

from msgspec import Struct

from buildgraph.dockerfile import instructions as ast

_MOST_TEXT = 20_000  # characters; a longer script is not read to its end
_SIGNS = ";&|()\n"
_COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#.*$")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_WRAPPERS = frozenset(
    (
        "sudo",
        "env",
        "exec",
        "time",
        "nice",
        "command",
        "then",
        "do",
        "else",
        "if",
        "while",
        "!",
        "{",
    )
)
_SHELLS = frozenset(("sh", "bash", "ash", "dash"))


class Install(Struct, frozen=True):
    """A command that installs packages; `manifests` are the files that say which."""

    family: str  # "npm": a second one of the same family is no news
    shown: str
    manifests: tuple[str, ...] = ()


def text_of(run: ast.Run) -> str:
    """Return the script of a RUN, whichever form it has."""
    if run.exec is None:
        return run.shell or ""
    if len(run.exec) > 2 and posixpath.basename(run.exec[0]) in _SHELLS:
        return run.exec[-1]
    return shlex.join(run.exec)


def commands(run: ast.Run) -> Iterator[list[str]]:
    """Yield the words of each simple command of a RUN, without wrappers and assignments.

    A script with its own interpreter has none. What cannot be split is split at blanks.
    """
    text = text_of(run)[:_MOST_TEXT]
    if text.startswith("#!") and not re.match(r"#!\s*\S*/(?:env\s+)?(?:ba|da|a)?sh\b", text):
        return
    for words in _simple(_COMMENT.sub("", text)):
        stripped = _unwrapped(words)
        if stripped:
            yield stripped


def _simple(text: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=_SIGNS)
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        tokens = list(lexer)
    except ValueError:  # a quote that stays open for us need not be open for the shell
        tokens = re.split(rf"([{re.escape(_SIGNS)}]+)|\s+", text)
    words: list[str] = []
    for token in tokens:
        if not token:
            continue
        if set(token) <= set(_SIGNS):
            yield words
            words = []
        else:
            words.append(token)
    yield words


def _unwrapped(words: list[str]) -> list[str]:
    at = 0
    while at < len(words) and (words[at] in _WRAPPERS or _ASSIGNMENT.match(words[at])):
        at += 1
    out = words[at:]
    if out:
        out[0] = posixpath.basename(out[0])
    if len(out) > 2 and out[0].startswith("python") and out[1] == "-m":
        out = out[2:]
    return out


# --- package managers --------------------------------------------------------------------------


class _Tool(Struct, frozen=True):
    family: str
    verbs: frozenset[str]
    manifests: tuple[str, ...] = ()
    bare: bool = False  # the name alone installs, as `yarn` does


def _tool(family: str, verbs: str, manifests: str = "", *, bare: bool = False) -> _Tool:
    return _Tool(family, frozenset(verbs.split()), tuple(manifests.split()), bare)


_NODE = "package.json"
SYSTEM = frozenset(("apt", "apk", "rpm", "zypper", "pacman"))
_TOOLS = {
    "apt-get": _tool("apt", "install"),
    "apt": _tool("apt", "install"),
    "aptitude": _tool("apt", "install"),
    "apk": _tool("apk", "add"),
    "dnf": _tool("rpm", "install"),
    "yum": _tool("rpm", "install"),
    "microdnf": _tool("rpm", "install"),
    "zypper": _tool("zypper", "install in"),
    "npm": _tool("npm", "ci install i clean-install", f"{_NODE} package-lock.json"),
    "yarn": _tool("yarn", "install", f"{_NODE} yarn.lock", bare=True),
    "pnpm": _tool("pnpm", "install i", f"{_NODE} pnpm-lock.yaml"),
    "bun": _tool("bun", "install i", f"{_NODE} bun.lock"),
    "pip": _tool("pip", "install"),
    "pip3": _tool("pip", "install"),
    "pipenv": _tool("pipenv", "install sync", "Pipfile Pipfile.lock"),
    "poetry": _tool("poetry", "install", "pyproject.toml poetry.lock"),
    "uv": _tool("uv", "sync", "pyproject.toml uv.lock"),
    "bundle": _tool("bundle", "install", "Gemfile Gemfile.lock", bare=True),
    "bundler": _tool("bundle", "install", "Gemfile Gemfile.lock", bare=True),
    "gem": _tool("gem", "install"),
    "composer": _tool("composer", "install", "composer.json composer.lock"),
    "dotnet": _tool("dotnet", "restore", "*.csproj"),
    "mvn": _tool("maven", "dependency:go-offline dependency:resolve", "pom.xml"),
    "mvnw": _tool("maven", "dependency:go-offline dependency:resolve", "pom.xml"),
    "gradle": _tool("gradle", "dependencies", "build.gradle"),
    "gradlew": _tool("gradle", "dependencies", "build.gradle"),
}
_TWO_WORDS = {
    ("go", "mod", "download"): Install("go", "go mod download", ("go.mod", "go.sum")),
    ("cargo", "fetch"): Install("cargo", "cargo fetch", ("Cargo.toml", "Cargo.lock")),
    ("mix", "deps.get"): Install("mix", "mix deps.get", ("mix.exs", "mix.lock")),
}


_MENTIONED = re.compile(
    "|".join(sorted({re.escape(name) for name in (*_TOOLS, *(words[0] for words in _TWO_WORDS))}))
)


def installs(run: ast.Run) -> list[Install]:
    """Return the commands of a RUN that install what other people wrote, in order."""
    if not _MENTIONED.search(text_of(run)):
        return []  # most have none, and to take a script apart takes a while
    return [found for words in commands(run) if (found := _install(words)) is not None]


def _install(words: list[str]) -> Install | None:
    for start, install in _TWO_WORDS.items():
        if tuple(words[: len(start)]) == start:
            return install
    tool = _TOOLS.get(words[0])
    if tool is None or "$" in words:  # the words of $(...) are not to be known
        return None
    plain = [word for word in words[1:] if not word.startswith("-")]
    if not plain:
        bare = tool.bare and not {"--version", "--help", "-v"} & set(words)
        return Install(tool.family, words[0], tool.manifests) if bare else None
    verb = next((word for word in plain[:2] if word in tool.verbs), None)
    if verb is None or (plain[0] != verb and tool.family not in SYSTEM | {"maven", "gradle"}):
        return None
    if tool.family == "pip":
        return _pip(words)
    named = plain[plain.index(verb) + 1 :]
    if any("/" in name and not name.startswith("@") for name in named):
        return None  # a package file that the build itself brings
    shown = " ".join([words[0], verb, *named[:1]])
    return Install(tool.family, shown, () if named else tool.manifests)


def _pip(words: list[str]) -> Install | None:
    """Tell what pip is asked for; a project's own directory needs the sources anyway."""
    files: list[str] = []
    limits: list[str] = []
    named: list[str] = []
    rest = iter(words[words.index("install") + 1 :])
    for word in rest:
        if word in ("-r", "--requirement"):
            files.append(next(rest, ""))
        elif word in ("-c", "--constraint"):
            limits.append(next(rest, ""))
        elif word.startswith("--requirement="):
            files.append(word.partition("=")[2])
        elif word in ("-e", "--editable"):
            return None
        elif not word.startswith("-"):
            named.append(word)
    if any(name.startswith(".") or "/" in name for name in named):
        return None
    if files:
        manifests = tuple(posixpath.basename(name) for name in (*files, *limits) if name)
        return Install("pip", f"pip install -r {files[0]}", manifests)
    return Install("pip", f"pip install {named[0]}") if named else None
