"""Each build check of section 2 fires where it must and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.checks import (
    base_platform_mismatch,
    check,
    ignored_source,
)
from buildgraph.dockerfile.directives import CheckOptions
from buildgraph.dockerfile.parser import parse
from buildgraph.dockerfile.rules import REASONS
from buildgraph.dockerfile.scope import used_variables


def fired(text: str, **options: Any) -> list[tuple[str, int]]:
    return [
        (warning.rule, warning.where.line)
        for warning in check(parse(text, "Dockerfile"), **options)
    ]


CASES = [
    ("StageNameCasing", "FROM a AS B\n", 1, "FROM a AS b\n"),
    ("FromAsCasing", "FROM a as b\n", 1, "FROM a AS b\n"),
    ("FromAsCasing", "from a AS b\n", 1, "from a as b\n"),
    ("NoEmptyContinuation", "FROM a\nRUN b \\\n\nc\n", 3, "FROM a\nRUN b \\\n# c\nd\n"),
    ("ConsistentInstructionCasing", "FROM a\nRun b\n", 2, "FROM a\nRUN b\n"),
    ("ConsistentInstructionCasing", "from a\nrun b\nRUN c\n", 3, "from a\nrun b\n"),
    ("DuplicateStageName", "FROM a AS b\nFROM c AS b\n", 2, "FROM a AS b\nFROM c AS d\n"),
    ("ReservedStageName", "FROM a AS scratch\n", 1, "FROM scratch\n"),
    ("ReservedStageName", "FROM a AS Context\n", 1, "FROM a AS contexts\n"),
    ("JSONArgsRecommended", "FROM a\nCMD b\n", 2, 'FROM a\nCMD ["b"]\n'),
    ("JSONArgsRecommended", "FROM a\nENTRYPOINT b\n", 2, 'FROM a\nSHELL ["b"]\nENTRYPOINT b\n'),
    ("JSONArgsRecommended", 'FROM a AS b\nFROM b\nCMD c\n', 3,
     'FROM a AS b\nSHELL ["x"]\nFROM b\nCMD c\n'),
    ("MaintainerDeprecated", "FROM a\nMAINTAINER b\n", 2, "FROM a\nLABEL b=c\n"),
    ("UndefinedArgInFrom", "FROM a:$B\n", 1, "ARG B=1\nFROM a:$B\n"),
    ("UndefinedArgInFrom", "FROM --platform=$X a\n", 1, "FROM --platform=$BUILDPLATFORM a\n"),
    ("UndefinedArgInFrom", "FROM b\nARG V=1\nFROM a:$V\n", 3, "FROM a:${V:-1}\n"),
    ("WorkdirRelativePath", "FROM a\nWORKDIR b\n", 2, "FROM a\nWORKDIR /b\nWORKDIR c\n"),
    ("WorkdirRelativePath", "FROM a\nENV D=b\nWORKDIR $D\n", 3,
     "FROM a AS b\nWORKDIR /b\nFROM b\nWORKDIR c\n"),
    ("WorkdirRelativePath", "FROM a\nARG D=b\nWORKDIR $D\n", 3, "FROM a\nWORKDIR $D\n"),
    ("UndefinedVar", "FROM scratch\nENV A=$B\n", 2, "FROM scratch\nARG B\nENV A=$B\n"),
    ("UndefinedVar", "FROM scratch\nCOPY <<E /\n$B\nE\n", 2, "FROM scratch\nCOPY <<'E' /\n$B\nE\n"),
    ("UndefinedVar", "FROM scratch\nRUN --mount=target=$T x\n", 2, "FROM scratch\nRUN x $T\n"),
    ("UndefinedVar", "FROM scratch AS a\nARG B\nFROM scratch\nUSER $B\n", 4,
     "FROM scratch AS a\nARG B\nFROM a\nUSER $B\n"),
    ("UndefinedVar", "FROM scratch\nENV A=1 B=$A\n", 2,
     "FROM scratch\nENV A=1\nENV B=$A P=$PATH\n"),
    ("UndefinedVar", "FROM scratch\nUSER $U\n", 2, "FROM unknown\nUSER $U\n"),
    ("MultipleInstructionsDisallowed", "FROM a\nCMD [\"b\"]\nCMD [\"c\"]\n", 2,
     'FROM a AS b\nCMD ["b"]\nFROM b\nCMD ["c"]\n'),
    ("MultipleInstructionsDisallowed", "FROM a\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n", 2,
     "FROM a\nHEALTHCHECK NONE\n"),
    ("LegacyKeyValueFormat", "FROM a\nENV a b\n", 2, "FROM a\nENV a=b\n"),
    ("LegacyKeyValueFormat", "FROM a\nLABEL a b\n", 2, "FROM a\nLABEL a=b\n"),
    ("RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM a\n", 1,
     "FROM --platform=$BUILDPLATFORM a\n"),
    ("SecretsUsedInArgOrEnv", "FROM a\nARG API_TOKEN\n", 2, "FROM a\nARG TOKENIZER\n"),
    ("SecretsUsedInArgOrEnv", "FROM a\nENV password=x\n", 2, "FROM a\nENV password_file=x\n"),
    ("SecretsUsedInArgOrEnv", "ARG AUTH=1\nFROM a\n", 1, "ARG PUBLIC_KEY=1\nFROM a\n"),
    ("InvalidDefaultArgInFrom", "ARG A\nFROM $A\n", 2, "ARG A=busybox\nFROM $A\n"),
    ("InvalidDefaultArgInFrom", "ARG A\nFROM b:$A\n", 2, "ARG A=1.2-x\nFROM r.x:5000/b/c:$A\n"),
    ("FromPlatformFlagConstDisallowed", "FROM --platform=linux/amd64 a\n", 1,
     "FROM --platform=linux/amd64 a AS build_amd64\n"),
    ("ExposeProtoCasing", "FROM a\nEXPOSE 80/TCP\n", 2, "FROM a\nEXPOSE 80/tcp\n"),
    ("ExposeInvalidFormat", "FROM a\nEXPOSE 80:80\n", 2, "FROM a\nEXPOSE 80 90-91/udp $X\n"),
    ("ExposeInvalidFormat", "FROM a\nENV P=1.2.3.4:80:80\nEXPOSE $P\n", 3, "FROM a\nEXPOSE 80/\n"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "bad", "line", "good"), CASES)
def test_rule(rule: str, bad: str, line: int, good: str) -> None:
    assert [where for name, where in fired(bad) if name == rule] == [line]
    assert rule not in [name for name, _ in fired(good)]


def test_every_rule_is_tested() -> None:
    others = {"InvalidBaseImagePlatform", "CopyIgnoredFile", "InvalidDefinitionDescription"}
    assert {case[0] for case in CASES} | others == set(REASONS)
    assert len(REASONS) == 22


def test_experimental_rule() -> None:
    text = "# something else\nARG A=1\n# stage the stage\nFROM a AS stage\n# no\nFROM b\n"
    assert fired(text) == []
    for extra in (
        "# check=experimental=all\n",
        "# check=experimental=InvalidDefinitionDescription\n",
    ):
        assert fired(extra + text) == [("InvalidDefinitionDescription", 3)]
    above = "# a\n# check=experimental=all\n# b\nARG A=1\nFROM a\n"
    assert fired(above) == [("InvalidDefinitionDescription", 4)]
    assert fired("# check=experimental=all\n# x\n\nARG A=1\nFROM b\n") == []


def test_skipping() -> None:
    text = "FROM a AS B\nMAINTAINER x\n"
    assert len(fired(text)) == 2
    assert fired("# check=skip=all\n" + text) == []
    assert fired("# check=skip=StageNameCasing, X\n" + text) == [("MaintainerDeprecated", 3)]
    assert fired("FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER x\nMAINTAINER y\n") == [
        ("MaintainerDeprecated", 4)
    ]
    assert fired("# check=skip=all\n" + text, options=CheckOptions()) != []


def test_error_makes_them_fatal() -> None:
    parsed = parse("# check=error=true\nFROM a AS B\n", "Dockerfile")
    (warning,) = check(parsed)
    assert warning.fatal
    assert warning.reason == REASONS["StageNameCasing"]
    assert warning.message == "Stage name 'B' should be lowercase"


def test_base_environments_complete_what_is_known() -> None:
    text = "FROM unknown\nUSER $U$V\n"
    assert fired(text, base_environments={0: {"U": "1"}}) == [("UndefinedVar", 2)]
    assert fired(text, base_environments={0: {"U": "1", "V": "2"}}) == []
    (warning,) = check(parse("FROM scratch\nARG NAME=x\nUSER $NAM\n", "D"))
    assert warning.message == "Usage of undefined variable '$NAM' (did you mean $NAME?)"


def test_build_args_decide() -> None:
    text = "FROM a\nARG D=/x\nWORKDIR $D\n"
    assert fired(text) == []
    assert fired(text, build_args={"D": "x"}) == [("WorkdirRelativePath", 3)]


def test_only_some_stages() -> None:
    text = "FROM a AS x\nMAINTAINER a\nFROM a AS y\nMAINTAINER b\n"
    assert fired(text, stages=[1]) == [("MaintainerDeprecated", 4)]


def test_many_warnings_end() -> None:
    text = "FROM scratch\n" + "".join(f"ENV A{n}=$B{n}\n" for n in range(3000))
    assert len(fired(text)) == 3000


def test_platform_of_a_base_image() -> None:
    from_ = parse("FROM a", "Dockerfile").stages[0].from_
    assert base_platform_mismatch(from_, "a", "linux/arm64/v8", "linux/arm64") is None
    warning = base_platform_mismatch(from_, "a", "linux/arm64", "linux/amd64")
    assert warning is not None
    assert warning.rule == "InvalidBaseImagePlatform"


def test_ignored_sources() -> None:
    (copy,) = parse("FROM a\nCOPY x /y", "Dockerfile").stages[0].body
    assert isinstance(copy, ast.Copy)
    assert ignored_source(copy, "/x", lambda path: path == "y") is None
    warning = ignored_source(copy, "/x", lambda path: path == "x")
    assert warning is not None
    assert warning.rule == "CopyIgnoredFile"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("COPY --chown=$A --chmod=$B --from=x $C $D", ("C", "D", "A", "B")),
        ("ADD --checksum=$A b c", ("A",)),
        ("ENV $A=$B", ("A", "B")),
        ("LABEL $A=$B", ("A", "B")),
        ("ARG A=$B", ("B",)),
        ("EXPOSE $A", ("A",)),
        ("USER ${A:-$B}", ("A", "B")),
        ("VOLUME $A $B", ("A", "B")),
        ("WORKDIR $A", ("A",)),
        ("STOPSIGNAL $A", ("A",)),
        ("RUN --mount=target=$A,source=$B $C", ("A", "B")),
        ("RUN $A", ()),
        ("CMD $A", ()),
        ("ENTRYPOINT $A", ()),
        ("HEALTHCHECK CMD $A", ()),
        ('SHELL ["$A"]', ()),
        ("MAINTAINER $A", ()),
        ("ONBUILD USER $A", ()),
        ("COPY --exclude=$A b c", ()),
        ("COPY <<A <<'B' /$C\n'$D'\nA\n$E\nB", ("C", "D")),
    ],
)
def test_what_is_expanded(line: str, names: tuple[str, ...]) -> None:
    (instruction,) = parse(f"FROM a\n{line}", "Dockerfile").stages[0].body
    assert used_variables(instruction, "\\") == names
