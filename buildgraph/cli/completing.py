"""Knows what may stand where the cursor is in a command line; must not know the shells' scripts.

A key is waiting for the answer, so of a workspace only directories are listed and only the Boxfile
of the package that the word names is read; a command is imported only where its options matter,
and what reads a workspace only where a target is asked for.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from buildgraph.cli.escape import safe
from buildgraph.cli.places import say
from buildgraph.errors import BuildgraphError
from buildgraph.label import DEFAULT_NAME, is_package, join

if TYPE_CHECKING:
    import click

    from buildgraph.boxfile.files import Files

Candidate = tuple[str, str]  # the word, and what it is in a few words

# Commands whose words are no targets.
_NO_TARGETS: Final = frozenset(
    "cache ci login logout replay doctor init import completion schema fmt rules".split()
)
_LOOKS: Final = 500  # directories that are looked into for packages below, at most
_MOST: Final = 1_000  # candidates


def answer(arguments: list[str]) -> None:
    """Print what the last word of a line may become; `arguments` are the shell, the line and, of
    bash, the characters at which it cuts words.
    """
    shell, line, *more = [*arguments, "", ""][:3]
    words = split(line)
    out = []
    for word, about in complete(words, os.getcwd()):
        if safe(word) != word or any(c in word for c in "\n\t"):
            continue
        if shell == "bash":
            out.append(_uncut(word, words[-1], more[0]))
        else:
            out.append(f"{word}\t{safe(about)}")
    say("".join(f"{text}\n" for text in dict.fromkeys(out)))


def _uncut(candidate: str, word: str, breaks: str) -> str:
    """Return what bash wants: the part behind the last place where it cut the word."""
    at = max((word.rfind(sign) for sign in ":=" if sign in breaks), default=-1)
    return candidate[at + 1 :]


def complete(words: list[str], cwd: str) -> list[Candidate]:
    """Return what the last of `words` may become; the first is the program. Never raises."""
    try:
        found: list[Candidate] = []
        for candidate in _candidates(words[1:], cwd):
            if candidate[0].startswith(words[-1]):
                found.append(candidate)
            if len(found) >= _MOST:
                break
        return found
    except (BuildgraphError, OSError, ValueError):
        return []


def split(line: str) -> list[str]:
    """Return the words of a command line up to the cursor; the last one is being written."""
    for ending in ("", '"', "'"):
        try:
            words = shlex.split(line + ending)
        except ValueError:
            continue
        if not line or (line[-1].isspace() and not ending):
            words.append("")
        return words
    return line.split(" ")


def _candidates(words: list[str], cwd: str) -> Iterator[Candidate]:
    current = words[-1] if words else ""
    if len(words) <= 1:
        from buildgraph.cli.main import COMMANDS

        yield from ((name, text) for name, (_, text) in COMMANDS.items())
        return
    command, before = words[0], words[-2]
    if current.startswith("-") and not current.startswith(("-//", "-:")):
        yield from _options(command, words[1:-1], current)
        return
    if before.startswith("-") and "=" not in before:
        values = _values(command, words[1:-1], before)
        if values is not None:
            yield from ((value, "") for value in values)
            return
    if command in _NO_TARGETS:
        yield from _subcommands(command, words[1:-1])
    else:
        yield from _targets(current, cwd)


# --- options ----------------------------------------------------------------------------------


def _command(name: str, words: list[str]) -> click.Command | None:
    """Import and return a command, or the command of a group that the words lead to."""
    import click

    from buildgraph.cli.main import cli

    context = click.Context(cli)
    found = cli.get_command(context, name)
    for word in words:
        if not isinstance(found, click.Group):
            break
        found = found.get_command(context, word) or found
    return found


def _options(name: str, words: list[str], current: str) -> Iterator[Candidate]:
    import click

    command = _command(name, words)
    if command is None:
        return
    flag, equals, _ = current.partition("=")
    if equals:
        for value in _values(name, words, flag) or ():
            yield f"{flag}={value}", ""
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for text in (*parameter.opts, *parameter.secondary_opts):
                if text.startswith("--") or current == "-":
                    yield text, parameter.help or ""
    yield "--help", "Show this message and exit."


def _values(name: str, words: list[str], flag: str) -> list[str] | None:
    """Return the values of an option, None where `flag` takes none."""
    import click

    command = _command(name, words)
    for parameter in command.params if command else ():
        if isinstance(parameter, click.Option) and flag in parameter.opts:
            if parameter.is_flag or parameter.count:
                return None
            if isinstance(parameter.type, click.Choice):
                return [str(choice) for choice in parameter.type.choices]
            return []
    return None


def _subcommands(name: str, words: list[str]) -> Iterator[Candidate]:
    import click

    if name == "completion":
        yield from ((shell, "") for shell in ("bash", "zsh", "fish"))
        return
    command = _command(name, words)
    if isinstance(command, click.Group):
        for one in command.list_commands(click.Context(command)):
            yield one, ""


# --- targets ----------------------------------------------------------------------------------


def _targets(current: str, cwd: str) -> Iterator[Candidate]:
    from buildgraph.boxfile.files import Files, find_root

    root = find_root(cwd)
    if root is None:
        return
    files = Files(root)
    here = os.path.relpath(os.path.realpath(cwd), files.root).replace(os.sep, "/")
    here = "" if here == "." else here
    sign = "-" if current.startswith(("-//", "-:")) else ""
    word = current.removeprefix(sign)
    if ":" in word:
        package, _, _ = word.partition(":")
        path = package[2:] if package.startswith("//") else join(here, package)
        if path is not None:
            for name, doc in _names(files, path):
                yield f"{sign}{package}:{name}", doc
        return
    if word.startswith("//"):
        for candidate, doc in _packages(files, word[2:]):
            yield f"{sign}//{candidate}", doc
        return
    if not word or "/" not in word:
        yield from _names(files, here)
        if not word:
            yield "//", "from the workspace's root"


def _names(files: Files, package: str) -> Iterator[Candidate]:
    """Yield the targets of one package, whose Boxfile alone is read."""
    if not is_package(package) or not any(_kinds(files, package)):
        return
    from buildgraph.cli.opening import workspace_at

    for name, target in workspace_at(files.root).package(package).targets.items():
        yield name, target.doc or target.kind


def _packages(files: Files, written: str) -> Iterator[Candidate]:
    """Yield packages one directory further than what is written, and what stands for several."""
    parent, slash, start = written.rpartition("/")
    if not start:
        yield f"{parent}{slash}...", "all targets here and below"
    if not written and any(_kinds(files, "")):
        yield ":", "targets of the root"
    for name in files.directories(parent):
        path = f"{parent}{slash}{name}"
        if not name.startswith(start) or not files.searchable(parent, name):
            continue
        boxfile, dockerfile = _kinds(files, path)
        if boxfile:
            yield f"{path}:", "targets of this package"
        elif dockerfile:
            yield path, DEFAULT_NAME
        if _has_packages_below(files, path):
            yield f"{path}/", "packages below"


def _kinds(files: Files, package: str) -> tuple[bool, bool]:
    listing = files.listing(package)
    return listing.boxfile, listing.dockerfile is not None


def _has_packages_below(files: Files, path: str) -> bool:
    waiting = [path]
    looks = 0
    while waiting:
        here = waiting.pop(0)
        for name in files.directories(here):
            if not files.searchable(here, name):
                continue
            below = f"{here}/{name}"
            looks += 1
            if looks > _LOOKS or any(_kinds(files, below)):
                return True  # where it would take too long, there may be
            waiting.append(below)
    return False
