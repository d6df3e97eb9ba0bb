"""Knows where the READMEs say what to type and what there is, and holds it against the program;
must not know what the commands do.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from e2e.checkouts import Checkout
from e2e.harness import ROOT, Workspace, clean_environment, me

README = (ROOT / "README.md").read_text()
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/README.md"))
TYPED_ELSEWHERE = ("monorepo",)  # test_monorepo_tour.py types all of it, and looks at the answers
TOP_LEVEL = sorted(path.name for path in ROOT.glob("*.md"))
ENVIRONMENT_LINE = ". .venv/bin/activate"
FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
PROGRAM = "buildgraph"


# -- reading -----------------------------------------------------------------------------


def section(text: str, title: str) -> str:
    """Return what stands under a heading of the second level."""
    (_, found) = text.split(f"\n## {title}\n")
    return found.split("\n## ")[0]


def blocks(text: str, language: str = "") -> list[str]:
    """Return the fenced blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def spans(text: str) -> list[str]:
    """Return what stands in backquotes outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def lines_to_type(text: str) -> list[str]:
    """Return the lines of blocks and the commands in backquotes, without their comments."""
    typed = list(itertools.chain.from_iterable(body.splitlines() for body in blocks(text)))
    inline = [span for span in spans(text) if span.startswith(f"{PROGRAM} ")]
    return [line for line in (_without_comment(each) for each in typed + inline) if line]


def _without_comment(line: str) -> str:
    return re.split(r"(?:^|\s+)#\s", line, maxsplit=1)[0].strip()


def commands_of(lines: list[str]) -> list[list[str]]:
    """Return the words of each command of the program in lines."""
    parts = itertools.chain.from_iterable(re.split(r" && | \| ", line) for line in lines)
    words = [shlex.split(part.removeprefix("! ")) for part in parts]
    return [each[1:] for each in words if each[0] == PROGRAM]


def table_of_commands() -> dict[str, list[str]]:
    """Return command -> the code in its row, of the README's table."""
    rows: dict[str, list[str]] = {}
    for line in section(README, "Commands").splitlines():
        if line.startswith("| `"):
            first = line.replace(r"\|", "/").split("|")[1]
            for span in spans(first):
                rows[span.split()[0]] = spans(line.replace(r"\|", "/"))
    return rows


# -- asking the program ------------------------------------------------------------------


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Return command ("cache gc" too) -> its help, as the program tells it."""
    with Workspace() as workspace:

        def ask(*words: str) -> str:
            return workspace.run(*words, "--help").stdout

        found = {"": ask()}
        for name in _subcommands(found[""]):
            found[name] = ask(name)
            for below in _subcommands(found[name]):
                found[f"{name} {below}"] = ask(name, below)
        return found


def _subcommands(text: str) -> list[str]:
    _, _, listed = text.partition("\nCommands:\n")
    return re.findall(r"^  (\w[\w-]*)", listed, re.MULTILINE)


def flags(text: str) -> set[str]:
    """Return the flags a help tells of."""
    _, _, options = text.partition("\nOptions:\n")
    heads = re.findall(r"^  (-.*?)(?:  |$)", options, re.MULTILINE)
    return set(itertools.chain.from_iterable(FLAG.findall(head) for head in heads))


def missing_flags(words: list[str], helps: dict[str, str]) -> list[str]:
    """Return the flags of a command line that its command does not know."""
    command = " ".join(words[:2]) if " ".join(words[:2]) in helps else words[0]
    own = words[: words.index("--")] if "--" in words else words
    used = [flag for word in own for flag in FLAG.findall(word.partition("=")[0])]
    return [flag for flag in used if flag not in flags(helps[command])]


# -- what there is -----------------------------------------------------------------------


def test_the_table_has_every_command_and_no_other(helps: dict[str, str]) -> None:
    assert table_of_commands().keys() == set(_subcommands(helps[""]))


def test_the_table_names_every_command_of_the_cache(helps: dict[str, str]) -> None:
    (told,) = [span for span in spans(section(README, "Commands")) if span.startswith("cache ")]
    named = told.removeprefix("cache ").replace("\\", "").split("|")
    assert sorted(named) == sorted(_subcommands(helps["cache"]))


def test_every_flag_in_the_table_is_one_of_its_command(helps: dict[str, str]) -> None:
    wrong = [
        f"{command} {flag}"
        for command, codes in table_of_commands().items()
        for flag in FLAG.findall(" ".join(codes))
        if flag not in flags(helps[command])
    ]
    assert not wrong


@pytest.mark.parametrize("path", ["README.md", *(f"examples/{n}/README.md" for n in EXAMPLES)])
def test_every_flag_of_a_command_line_exists(path: str, helps: dict[str, str]) -> None:
    wrong = {
        " ".join(words): missing
        for words in commands_of(lines_to_type((ROOT / path).read_text()))
        if (missing := missing_flags(words, helps))
    }
    assert not wrong


def test_every_other_flag_in_the_readme_exists(helps: dict[str, str]) -> None:
    known = set(itertools.chain.from_iterable(map(flags, helps.values())))
    alone = {match[0] for span in spans(README) if (match := FLAG.match(span))}
    assert alone >= {"-o", "-j"}, "were they all told elsewhere?"
    assert alone <= known  # `RUN --mount=…` is a Dockerfile's flag: the parser's business


def test_every_make_target_in_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    made = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for name in TOP_LEVEL:
        text = (ROOT / name).read_text()
        code = "\n".join([*spans(text), *blocks(text)])
        told = set(re.findall(r"^make ([\w-]+)", code, re.MULTILINE))
        assert told <= made, name


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_every_relative_link_leads_to_a_file(name: str) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text())
    ours = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in ours if target and not (ROOT / target).exists()] == []


def test_every_place_in_the_table_of_the_architecture_exists() -> None:
    text = section((ROOT / "ARCHITECTURE.md").read_text(), "The way of the data")
    cells = [line.split("|")[4] for line in text.splitlines() if re.match(r"\| \d", line)]
    names = list(itertools.chain.from_iterable(map(_unfolded, itertools.chain(*map(spans, cells)))))
    assert len(names) > 20
    assert [name for name in names if not _is_module(name)] == []


def _unfolded(name: str) -> list[str]:
    """Return what the shell makes of `a/{b,c}`."""
    if not (match := re.fullmatch(r"(.*)\{(.*)\}", name)):
        return [name]
    return [f"{match[1]}{part}" for part in match[2].split(",")]


def _is_module(name: str) -> bool:
    places = [top / name for top in (ROOT, ROOT / "buildgraph")]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)


def test_the_sample_of_a_boxfile_is_one(workspace: Workspace) -> None:
    text = section(README, "A workspace")
    (root,) = [span for span in spans(text) if span.startswith("workspace:")]
    (sample,) = blocks(text, "yaml")
    workspace.write("Boxfile.yaml", root + "\n")
    workspace.write("app/Boxfile.yaml", sample)
    workspace.write("app/Dockerfile", "ARG PY\nFROM base\nCOPY --from=protos /made /made\n")
    workspace.write("proto/Boxfile.yaml", "targets: {gen: {}}\n")
    workspace.write("db/Dockerfile", "FROM scratch\nCOPY made /made\n")
    workspace.write("proto/Dockerfile", "FROM scratch\nCOPY made /made\n")
    workspace.write("tools/tool/Dockerfile", "FROM scratch\nCOPY made /made\n")
    listed = workspace.run("list").stdout.split("\n")
    assert sorted(line.split()[0] for line in listed if line) == [
        "//app",
        "//app:api",
        "//app:api.base",
        "//app:api.smoke",
        "//app:base",
        "//app:everything",
        "//app:release",
        "//app:smoke",
        "//db",
        "//proto:gen",
        "//tools/tool",
    ]
    left = workspace.run("list", "--", "//...", "-//tools/...").stdout
    assert "//app" in left
    assert "//tools" not in left


# -- what to type ------------------------------------------------------------------------


@pytest.fixture
def typing(examples_in_place: Checkout, tmp_path: Path) -> Checkout:
    """Return a copy of the examples that git knows; puts a `buildgraph` into tmp_path."""
    program = tmp_path / PROGRAM
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(me().python)} -m buildgraph "$@"\n')
    program.chmod(0o755)
    return examples_in_place.again()


def typed(line: str, checkout: Checkout, tools: Path) -> str:
    """Run a line as a reader would; returns what it printed."""
    environment = clean_environment(me())
    environment |= {
        "BUILDGRAPH_STORE": str(checkout.store),
        "PATH": f"{tools}:{environment['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=checkout.path(""),
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.kernel
def test_sixty_seconds_can_be_typed(typing: Checkout, tmp_path: Path) -> None:
    lines = lines_to_type(section(README, "Sixty seconds"))
    assert "make demo" in lines
    assert ENVIRONMENT_LINE in lines
    ours = [each for each in lines if not each.startswith("make ") and each != ENVIRONMENT_LINE]
    assert sum(line.startswith(PROGRAM) for line in ours) >= 6
    for line in ours:
        typed(line, typing, tmp_path)


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in TYPED_ELSEWHERE])
def test_the_readme_of_an_example_can_be_typed(name: str, typing: Checkout, tmp_path: Path) -> None:
    lines = lines_to_type((ROOT / "examples" / name / "README.md").read_text())
    assert sum(line.startswith(PROGRAM) for line in lines) >= 2
    for line in lines:
        typed(line, typing, tmp_path)


def test_comments_are_told_from_quotes() -> None:
    assert _without_comment("buildgraph list      # all") == "buildgraph list"
    assert _without_comment("# only a comment") == ""
