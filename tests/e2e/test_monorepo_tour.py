"""Holds the tour of examples/monorepo to the program: every command in it is typed, and what the
README shows is what comes; must not know how anything is built.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from e2e.checkouts import Checkout, git
from e2e.harness import ROOT, clean_environment, me

README = (ROOT / "examples/monorepo/README.md").read_text()
SHOP = "//examples/monorepo/..."
STORE = "examples/monorepo/lib/shoplib/shoplib/store.py"
COMMANDS = 10
ELLIPSIS = "…"  # alone: any lines; at the end of one: the rest of it


@dataclass(frozen=True)
class Step:
    """Lines to type, and what the README shows of what the last of them prints."""

    lines: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        """The words after `buildgraph`, of each line that has it; `ci matrix` is one."""
        found = [re.match(r"(?:! )?buildgraph (ci matrix|[\w-]+)", line) for line in self.lines]
        return [match[1] for match in found if match]


def steps_of(text: str) -> list[Step]:
    """Return the blocks to type, each with the block of output that follows it."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found: list[Step] = []
    for language, body in blocks:
        if language == "":
            found.append(Step(tuple(body.splitlines()), ()))
        elif language == "text" and found and not found[-1].shown:
            found[-1] = Step(found[-1].lines, tuple(body.splitlines()))
        else:
            raise AssertionError(f"output of nothing: {body}")
    return found


TOUR = steps_of(README)


def problems_of(tour: Sequence[Step]) -> list[str]:
    """Return what keeps a tour from being a test of itself."""
    out = []
    for step in tour:
        told = [line for line in step.shown if line != ELLIPSIS]
        if len(step.commands) > 1:
            out.append(f"one block for each command: {step.lines}")
        elif step.commands and not told:
            out.append(f"say what one will see: {step.lines[-1]}")
        elif step.commands and not re.match(r"(! )?buildgraph ", step.lines[-1]):
            out.append(f"what is shown is of the last line: {step.lines}")
    return out


# -- what is shown, and what came --------------------------------------------------------


def plain(line: str) -> str:
    """Return a line without what differs from run to run: times, sizes, digests, columns."""
    line = re.sub(r"\b[0-9a-f]{12,64}\b", "HASH", line)
    line = re.sub(r"~?\b\d[\d.m]*s\b", "TIME", line)
    line = re.sub(r"\b\d+(\.\d+)? ?[kMG]?B\b", "SIZE", line)
    return re.sub(r"\s+", " ", line).strip()


def same(shown: str, line: str) -> bool:
    """Say whether a line is the one that is shown.

    How much a first build builds depends on the store: that it builds something, and of how many
    steps in all, does not.
    """
    counts = re.compile(r"built (\d+), cached (\d+) in TIME")
    told, came = counts.fullmatch(plain(shown)), counts.fullmatch(plain(line))
    if told and came:
        one, other = ([int(x) for x in match.groups()] for match in (told, came))
        return sum(one) == sum(other) and bool(one[0]) == bool(other[0])
    if shown.endswith(ELLIPSIS):
        return plain(line).startswith(plain(shown[: -len(ELLIPSIS)]))
    return plain(shown) == plain(line)


def missing(shown: Sequence[str], output: str) -> str | None:
    """Return the first line that is shown and did not come in its place, None where all did."""
    lines = output.splitlines()
    at, anywhere = 0, False
    for one in shown:
        if one == ELLIPSIS:
            anywhere = True
            continue
        here = range(at, len(lines) if anywhere else min(at + 1, len(lines)))
        found = next((index for index in here if same(one, lines[index])), None)
        if found is None:
            return one
        at, anywhere = found + 1, False
    return None if anywhere or at == len(lines) else f"nothing after line {at}"


# -- typing ------------------------------------------------------------------------------


def typed(step: Step, checkout: Checkout) -> str:
    """Type the lines of a step as a reader would; returns what the last of them printed."""
    who = checkout.user or me()
    tools = checkout.workspace.top / f"tools-{who.name}"
    tools.mkdir(exist_ok=True)
    program = tools / "buildgraph"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(who.python)} -m buildgraph "$@"\n')
    program.chmod(0o755)
    environment = clean_environment(who)
    environment |= {
        "BUILDGRAPH_STORE": str(checkout.store),
        "PATH": f"{tools}:{environment['PATH']}",
    }
    output = ""
    for line in step.lines:
        started = who.popen(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=checkout.path(""),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = started.communicate(timeout=300)
        assert started.returncode == 0, f"{line}: {started.returncode}\n{output}"
    return output


def follow(tour: Sequence[Step], checkout: Checkout) -> None:
    """Type every step; each must show what the README shows."""
    for step in tour:
        output = typed(step, checkout)
        if step.commands:
            wrong = missing(step.shown, output)
            assert wrong is None, f"{step.lines[-1]}\nshown: {wrong}\nand this came:\n{output}"


def fresh(checkout: Checkout) -> Checkout:
    """Return a copy in which the library is one that nobody has built, in a repository of its own.

    The Debian packages are those of the checkout's store.
    """
    copy = checkout.again()
    with copy.path(STORE).open("a") as file:
        file.write(f"# {secrets.token_hex(8)}\n")
    git(copy.path(""), "commit", "--quiet", "--all", "--message", "one that nobody has built")
    time.sleep(0.1)  # a file younger than the clock's grain is looked at once more
    return copy


# -- the README --------------------------------------------------------------------------


def test_every_command_of_the_tour_says_what_one_will_see() -> None:
    assert problems_of(TOUR) == []
    said = [command for step in TOUR for command in step.commands]
    assert len(set(said)) == COMMANDS, said
    headings = re.findall(r"^## (\d+)\. ([\w ]+):", README, re.MULTILINE)
    assert [int(number) for number, _ in headings] == list(range(1, COMMANDS + 1))
    assert {name for _, name in headings} == set(said), "each has a section"
    outside = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert "`buildgraph " not in outside, "a command to type belongs into a block"


def test_a_command_without_expectations_is_found() -> None:
    added = "```\nbuildgraph lint\n```\n"
    assert problems_of(steps_of(README + added)) == ["say what one will see: buildgraph lint"]
    assert problems_of(steps_of(f"{added}```text\n{ELLIPSIS}\n```\n"))
    two = "```\nbuildgraph lint\nbuildgraph list\n```\n```text\nx\n```\n"
    assert problems_of(steps_of(two))[0].startswith("one block for each")


@pytest.mark.parametrize(
    ("shown", "output", "wrong"),
    [
        (("a 0.3s", ELLIPSIS, "z"), "a 1.25s\nb\nz\n", None),
        (("a  1.0 kB",), "a 17 MB\n", None),
        (("sha256:0123456789ab",), "sha256:fedcba9876543210\n", None),
        (("built 41, cached 5 in 25s",), "built 3, cached 43 in 1m2s\n", None),
        (("abc…",), "abcdef\n", None),
        (("built 0, cached 5 in 1s",), "built 3, cached 2 in 1s\n", "built 0, cached 5 in 1s"),
        (("built 2, cached 5 in 1s",), "built 2, cached 6 in 1s\n", "built 2, cached 5 in 1s"),
        (("a", "z"), "a\nb\nz\n", "z"),
        (("a", ELLIPSIS, "b"), "a\n", "b"),
        (("a",), "a\nb\n", "nothing after line 1"),
        (("passed in 1s",), "passed (cached)\n", "passed in 1s"),
    ],
)
def test_what_is_shown_is_told_from_what_is_not(
    shown: tuple[str, ...], output: str, wrong: str | None
) -> None:
    assert missing(shown, output) == wrong


# -- the tour ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.kernel
def test_the_tour_is_as_its_readme_shows(examples_in_place: Checkout) -> None:
    checkout = fresh(examples_in_place)
    for step in TOUR:
        follow([step], checkout)
        if step.commands == ["graph"]:
            page = checkout.path("graph.html").read_text()
            listed = checkout.run("list", SHOP).stdout.split("\n")
            labels = [line.split()[0] for line in listed if line]
            assert f"{len(labels)} targets" in README
            assert [label for label in labels if label not in page] == []
    assert checkout.run("lint").stdout.startswith("no warnings")
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=checkout.path(""), capture_output=True, check=True
    )
    assert status.stdout == b"", "all is as it was"


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="the tests run as an ordinary user anyway")
def test_an_ordinary_user_builds_runs_and_tests_the_shop(examples_elsewhere: Checkout) -> None:
    wanted = ("list", "build", "run", "test")
    before = next(i for i, step in enumerate(TOUR) if step.commands == ["plan"])
    tour = [step for step in TOUR[:before] if set(step.commands) <= set(wanted)]
    assert {name for step in tour for name in step.commands} == set(wanted)
    follow(tour, fresh(examples_elsewhere))
