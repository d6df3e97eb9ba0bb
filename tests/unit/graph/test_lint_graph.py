"""What a graph knows fires where an engineer would agree, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildgraph.dockerfile.checks_findings import own_options
from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError
from buildgraph.graph.lint import check_graph
from buildgraph.graph.lint_rules import RULES
from buildgraph.graph.lint_shell import installs
from buildgraph.graph.lint_stages import stage_graph, stage_index

ROOT = Path(__file__).resolve().parents[3]


def warnings(text: str, args: dict[str, str] | None = None, **more: Any) -> list[Any]:
    file = parse(text, "Dockerfile")
    graph = stage_graph(file, args or {})
    options = own_options(file, args)
    more = {"environments": {}} | more
    return check_graph(file, graph, options=options, build_args=args or {}, **more)


def fired(text: str, args: dict[str, str] | None = None, **more: Any) -> list[tuple[str, int]]:
    return [(one.rule, one.where.line) for one in warnings(text, args, **more)]


INSTALL = "apt-get update && apt-get install -y git && rm -rf /var/lib/apt/lists/*"
# rule, a file that it fires on, the line, files that it does not fire on
CASES = [
    ("UnusedStage", "FROM a\nRUN x\nFROM b\n", 1, [
        "FROM a\nRUN x\nFROM b\nCOPY --from=0 /x /\n",
        "FROM a AS test\nRUN x\nFROM b\n",  # for --target
        "FROM a AS x\nRUN x\nFROM x\n",
        "FROM a AS x\nFROM b\nRUN --mount=from=x,target=/x y\n",
    ]),
    ("UnusedStage", "FROM a AS x\nFROM b\nCOPY --from=q /x /\n", 1, [
        "FROM a AS x-dev\nFROM a AS x-prod\nARG X\nFROM b\n".replace("ARG X\nFROM b", "FROM x-${E}"),
        "FROM a AS x\nFROM b\nONBUILD COPY --from=x / /\n",
    ]),
    ("UnusedStage", "FROM a AS x\nRUN x\nFROM b AS x\nRUN x\nFROM x\n", 1, [
        "FROM a AS x\nRUN x\nFROM x AS y\nRUN x\nFROM y\n",
    ]),
    ("UnusedArg", "ARG V=1\nFROM a\nRUN echo $V\n", 1, [
        "ARG V=1\nFROM a\nARG V\nRUN echo $V\n", "ARG V=1\nFROM a:$V\n",
        "ARG V=1\nARG W=a:$V\nFROM $W\n", "ARG TARGETARCH=arm\nFROM a\n",
        "ARG SOURCE_DATE_EPOCH=0\nFROM a\n", "ARG P=x\nFROM --platform=$P a\n",
        "ARG V=1\nFROM a\nONBUILD ARG V\n",
    ]),
    ("UnusedArg", "FROM a\nRUN x\nARG V=1\nCMD [\"x\"]\n", 3, [
        "FROM a\nARG V=1\nRUN x\n",  # whatever x reads
        "FROM a\nARG V=1\nENV V=$V\n", "FROM a\nARG V=1\nLABEL v=$V\n",
        "FROM a\nARG A=1\nARG B=$A\nUSER $B\n", "FROM a\nARG A=1 B=$A\nUSER $B\n",
        "FROM a AS b\nARG V=1\nFROM b\nLABEL v=$V\n", "FROM a AS b\nARG V=1\nFROM b\nRUN x\n",
        "FROM a\nARG V=1\nCOPY <<E /x\n$V\nE\n", "FROM a\nARG V=1\nONBUILD RUN x\n",
        "FROM a\nARG http_proxy\n",
    ]),
    ("CopyBustsDependencies", "FROM a\nCOPY . .\nRUN npm ci\n", 2, [
        "FROM a\nCOPY package*.json ./\nRUN npm ci\nCOPY . .\n",
        "FROM a\nCOPY package*.json ./\nRUN npm ci\nCOPY . .\nRUN npm ci --omit=dev\n",
        "FROM a\nCOPY . .\nRUN --mount=type=cache,target=/root/.npm npm ci\n",
        "FROM a\nCOPY . .\nRUN npm run build\n",
        "FROM a\nCOPY . .\nRUN pip install .\n",
        "FROM a\nCOPY . .\nRUN pip install -e .\n",
        "FROM a\nCOPY --from=b . .\nRUN npm ci\n",
        "FROM a\nCOPY . /\nRUN apt-get install -y x\n",  # may bring sources.list
        "FROM a\nCOPY x.deb /tmp/\nRUN apt-get install -y /tmp/x.deb\n",
        "FROM a\nCOPY . .\nRUN go build ./...\n",
        "FROM a\nCOPY --parents package.json packages/*/package.json ./\nRUN npm ci\n",
        "FROM a\nCOPY . .\nFROM c\nRUN npm ci\n",
        "FROM a\nCOPY <<E /x\nx\nE\nRUN npm ci\n",
    ]),
    ("CopyBustsDependencies", "FROM a\nWORKDIR /x\nADD ./ /x\nRUN pip install -r requirements.txt\n", 3, [
        "FROM a\nADD requirements.txt /x\nRUN pip install -r requirements.txt\nADD . /x\n",
    ]),
    ("CopyBustsDependencies", f"FROM a\nCOPY src/ /src\nRUN {INSTALL}\n", 2, [
        f"FROM a\nRUN {INSTALL}\nCOPY src/ /src\n",
        f"FROM a\nCOPY install.sh /\nRUN {INSTALL}\n",
    ]),
    ("CopyBustsDependencies", "FROM a\nCOPY . .\nRUN <<E\nset -e\ngo mod download\nE\n", 2, [
        "FROM a\nCOPY go.mod go.sum .\nRUN go mod download\n",
    ]),
    ("CacheBustingOrder", "FROM a\nARG GIT_SHA=unknown\nRUN pip install --no-cache-dir x\nLABEL r=$GIT_SHA\n", 2, [
        "FROM a\nRUN pip install --no-cache-dir x\nARG GIT_SHA\nLABEL r=$GIT_SHA\n",
        "FROM a\nARG GIT_SHA\nRUN pip install --no-cache-dir x==$GIT_SHA\n",
        "FROM a\nARG LLVM_COMMIT\nRUN pip install --no-cache-dir x\n",  # pins somebody else's
        "FROM a\nARG GIT_COMMIT=0123456789abcdef\nRUN pip install --no-cache-dir x\n",
        "FROM a\nARG NODE_VERSION=22\nRUN npm i -g x\n",
        "FROM a\nARG GIT_SHA\nRUN make\n",
    ]),
    ("CacheBustingOrder", "FROM a\nCOPY .git .git\nRUN npm i -g x\n", 2, [
        "FROM a\nRUN npm i -g x\nCOPY .git .git\n",
    ]),
    ("AptListsLeft", "FROM a\nRUN apt-get update && apt-get install -y git\n", 2, [
        f"FROM a\nRUN {INSTALL}\n",
        "FROM a\nRUN --mount=type=cache,target=/var/lib/apt,sharing=locked apt-get update && apt-get install -y git\n",
        "FROM a\nRUN --mount=type=cache,target=/var/lib/apt/lists apt-get update && apt-get install -y git\n",
        "FROM a\nRUN --mount=type=tmpfs,target=/var/lib apt-get update && apt-get install -y git\n",
        "FROM a\nRUN apt-get update && apt-get install -y git && apt-get dist-clean\n",
        "FROM a\nRUN apt update && apt install -y git; rm -rf /var/lib/{apt,dpkg}/\n",
        "FROM a\nRUN apt-get update && apt-get install -y x && find /var/lib/apt/lists -type f -delete\n",
        "FROM a AS b\nRUN apt-get update && apt-get install -y git\nFROM c\nCOPY --from=b /x /\n",
        "FROM a\nRUN apt-get install -y git\n",
        "FROM a\nRUN echo apt-get update\n",
    ]),
    ("AptListsLeft", "FROM a AS b\nRUN apt-get update && apt-get install -y git\nFROM b\nRUN rm -rf /var/lib/apt/lists/*\n", 2, []),
    ("AptUpdateAlone", "FROM a\nRUN apt-get update\nRUN apt-get install -y git\n", 2, [
        f"FROM a\nRUN {INSTALL}\n",
        f"FROM a\nRUN apt-get update && ./install.sh\nRUN {INSTALL}\n",
        "FROM a\nRUN apt-get update && apt-get upgrade -y\nRUN x\n",
    ]),
    ("AptUpdateAlone", "FROM a AS b\nRUN apt-get -q update\nFROM b\nRUN apt-get -qq install git\n", 2, []),
    ("PipCacheLeft", "FROM a\nRUN pip install x\n", 2, [
        "FROM a\nRUN pip install --no-cache-dir x\n",
        "FROM a\nRUN --mount=type=cache,target=/root/.cache/pip pip install x\n",
        "FROM a\nENV PIP_NO_CACHE_DIR=1\nRUN pip install x\n",
        "FROM a AS b\nENV PIP_NO_CACHE_DIR=1\nFROM b\nRUN pip install x\n",
        "FROM a\nRUN PIP_NO_CACHE_DIR=1 pip install x\n",
        "FROM a\nRUN pip install x && rm -rf ~/.cache\n",
        "FROM a\nRUN pip install --no-index --find-links=/w /w/*.whl\n",
        "FROM a AS b\nRUN pip install x\nFROM c\nCOPY --from=b /x /\n",
        "FROM a\nRUN pip list\n",
    ]),
    ("PipCacheLeft", "FROM a\nRUN python3 -m pip install -U x\n", 2, []),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "bad", "line", "good"), CASES, ids=lambda value: str(value)[:40])
def test_graph_rule(rule: str, bad: str, line: int, good: list[str]) -> None:
    assert [where for name, where in fired(bad) if name == rule] == [line]
    assert "all" not in rule
    skipping = f"# check=skip={rule}\n" + bad
    assert rule not in [name for name, _ in fired(skipping)]
    for text in good:
        assert rule not in [name for name, _ in fired(text)], text


def test_every_graph_rule_has_a_case() -> None:
    elsewhere = {"SecretFileInLayer", "UnknownRule"}  # of files, and of the file's own words
    assert {case[0] for case in CASES} | elsewhere == set(RULES)


@pytest.mark.parametrize("name", sorted(RULES))
def test_examples_of_graph_rules(name: str) -> None:
    if name in ("SecretFileInLayer", "UnknownRule"):
        return
    rule = RULES[name]
    assert name in [one for one, _ in fired(rule.bad)]
    assert fired(rule.good) == []


# What fires on files in the manner of well-known projects; each is one an engineer would fix.
GOLDEN = {
    "heredocs": [("AptListsLeft", 7)],
    "legacy": [("AptListsLeft", 8)],
    "windows-escape": [],
}


def test_golden_files_have_no_nonsense() -> None:
    found = {}
    for path in sorted((ROOT / "tests/golden").glob("*/Dockerfile")):
        text = re.sub(
            r"(?m)^(\N{ZERO WIDTH NO-BREAK SPACE}?)# *check *=.*\n", r"\1", path.read_text()
        )
        if result := fired(text):
            found[path.parent.name] = result
    assert found == {name: lines for name, lines in GOLDEN.items() if lines}


def test_example_files_have_no_findings() -> None:
    for path in (ROOT / "examples").rglob("Dockerfile"):
        assert fired(path.read_text()) == [], path


def test_where_and_what_to_do() -> None:
    (one,) = warnings("FROM node\nCOPY --chown=1 . /app\nRUN set -e; npm ci --omit=dev\n")
    assert one.where.text[one.where.column - 1 : one.where.end_column - 1] == "."
    assert one.message.startswith("COPY . stands above line 3 (npm ci), which runs again")
    assert one.fix == (
        "copy package.json package-lock.json alone, RUN npm ci, and copy the rest after it"
    )
    (one,) = warnings("ARG VER=1\nFROM a\nRUN echo ${VER}\n")
    assert one.where.column == 5
    assert one.message.endswith("so $VER in line 3 is not set by it")


def test_targets_of_the_workspace_decide_what_is_unused() -> None:
    text = "FROM a AS x\nRUN x\nFROM a AS y\nRUN y\nFROM a AS z\n"
    assert fired(text) == []
    assert fired(text, asked=[0], chosen=True) == [("UnusedStage", 3)]
    assert fired(text, asked=[0, 1], chosen=True) == []


def test_stages_that_are_asked_for_are_images() -> None:
    text = "FROM a AS x\nRUN apt-get update && apt-get install -y x\nFROM c\n"
    assert fired(text) == []
    assert fired(text, asked=[0]) == [("AptListsLeft", 2)]


def test_only_some_stages_of_a_graph() -> None:
    text = "FROM a AS x\nCOPY . .\nRUN npm ci\nFROM x AS y\nRUN pip install x\n"
    assert fired(text, stages=[0]) == [("CopyBustsDependencies", 2)]
    assert fired(text, stages=[1]) == [("PipCacheLeft", 5)]


def test_comments_above_an_instruction_skip_graph_rules() -> None:
    text = "FROM a\n# check=skip=CopyBustsDependencies\nCOPY . .\nRUN npm ci\n"
    assert fired(text) == []
    assert fired("FROM a\n# check=skip=all\nCOPY . .\nRUN npm ci\n") == []


def test_build_arguments_choose_the_parent() -> None:
    text = "ARG E=a\nFROM x AS a\nRUN apt-get update && apt-get install -y x\nFROM x AS b\nRUN x\nFROM $E\n"
    assert fired(text) == [("AptListsLeft", 3)]
    assert fired(text, {"E": "b"}) == []


def test_names_of_stages() -> None:
    file = parse("FROM a AS One\nFROM b\nFROM c AS one\nFROM d\n", "Dockerfile")
    assert stage_index(file, None) == 3
    assert stage_index(file, "ONE") == 2
    assert stage_index(file, "two") is None


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("apt-get update && apt-get -y -t stable install foo", ["apt-get install foo"]),
        ("npm install -g pnpm && pnpm i", ["npm install pnpm", "pnpm i"]),
        ("yarn --frozen-lockfile", ["yarn"]),
        ("yarn build; yarn --version", []),
        ("if [ -f x ]; then npm ci; fi", ["npm ci"]),
        ("./mvnw -B dependency:go-offline", ["mvnw dependency:go-offline"]),
        ("DEBIAN_FRONTEND=x sudo /usr/bin/apt-get install -yq git", ["apt-get install git"]),
        ("apt-get install -y $(cat list)", []),
        ("echo don't && npm ci", ["npm ci"]),
        ("echo a#b; npm i # npm ci", ["npm i"]),
        ("npm run install-x", []),
        ("pip install -c c.txt -r requirements.txt", ["pip install -r requirements.txt"]),
        ("bundle config set x && bundle", ["bundle"]),
        ("bundle exec rake", []),
        ("uv sync --locked", ["uv sync"]),
    ],
)
def test_commands_that_install(script: str, shown: list[str]) -> None:
    (run,) = parse(f"FROM a\nRUN {script}\n", "Dockerfile").stages[0].body
    assert [one.shown for one in installs(run)] == shown  # type: ignore[arg-type]


def test_exec_forms_are_read_too() -> None:
    for text in ('["npm", "ci"]', '["/bin/sh", "-c", "set -e; npm ci"]', "<<E\nnpm ci\nE"):
        assert ("CopyBustsDependencies", 2) in fired(f"FROM a\nCOPY . .\nRUN {text}\n")
    assert fired("FROM a\nCOPY . .\nRUN <<E\n#!/usr/bin/env python3\nnpm ci\nE\n") == []


def test_large_files_end() -> None:
    body = "".join(f"ARG A{n}=$A{n - 1}\nCOPY . .\nRUN npm ci\n" for n in range(3000))
    fired("FROM a\n" + body)
    fired("".join(f"FROM s{n - 1} AS s{n}\nARG X{n}\n" for n in range(400)))


SOUP = st.lists(
    st.sampled_from(
        [
            "FROM a", "FROM s0 AS s1", "FROM $A AS s0", "ARG A=s0", "ARG GIT_SHA", "COPY . .",
            "COPY --from=0 . .", "COPY --from=9 a /", "RUN npm ci", "RUN apt-get update", "RUN $(",
            "RUN 'a && apt-get install x", "RUN pip install -r", "RUN yarn", "RUN [\"npm\", \"ci\"]",
            "RUN --mount=type=cache,target=$A pip3 install x", "RUN <<E\nnpm ci\nE", "ENV B=$A",
            "ONBUILD RUN npm ci", "ONBUILD COPY --from=s0 a b", "# check=skip=all", "RUN ; ; &&",
        ]
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(SOUP)
def test_no_file_breaks_it(lines: list[str]) -> None:
    try:
        parse("FROM z\n" + "\n".join(lines), "Dockerfile")
    except InputError:
        return
    fired("FROM z\n" + "\n".join(lines))
