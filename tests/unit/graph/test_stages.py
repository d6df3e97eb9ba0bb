"""Stages unfold as BuildKit unfolds them: scopes, inheritance, reachability, configs."""

from __future__ import annotations

import pytest

from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError, Location
from buildgraph.graph.stage_ir import (
    DEFAULT_PATH,
    BuildArgs,
    ContextRef,
    CopyIR,
    ImageRef,
    RunIR,
    SourceRef,
    StageRef,
    Unfolded,
    WorkdirIR,
)
from buildgraph.graph.stages import Unfolder
from buildgraph.oci.types import ImageConfig, Platform

AMD = Platform("linux", "amd64")
ARM = Platform("linux", "arm64")


def config_of(ref: SourceRef, platform: Platform, where: Location) -> ImageConfig:
    return ImageConfig(
        platform=platform,
        env=(("PATH", "/opt/bin"), ("BASE", "yes")),
        cmd=("base-cmd",),
        entrypoint=("base-entry",),
        user="app",
        working_dir="/base",
        on_build=("RUN triggered",) if ref == ImageRef("triggers") else (),
    )


def unfold(
    text: str,
    stage: str | None = None,
    args: dict[str, str] | None = None,
    contexts: frozenset[str] = frozenset(),
    build: Platform = AMD,
) -> Unfolded:
    file = parse(text, "Dockerfile")
    return Unfolder(file, BuildArgs(args or {}, AMD, build, 7, contexts), config_of).unfold(stage)


def runs(unfolded: Unfolded) -> list[RunIR]:
    return [
        s.action for stage in unfolded.stages for s in stage.steps if isinstance(s.action, RunIR)
    ]


def env(text: str, **args: str) -> dict[str, str]:
    return dict(runs(unfold(text, args=args))[-1].env)


def final(text: str) -> ImageConfig:
    return unfold(text).stages[-1].config


def test_one_environment_per_instruction() -> None:
    assert env("FROM x\nENV a=1\nENV a=x b=$a\nRUN true")["b"] == "1"


def test_arg_without_value_is_absent_and_empty_is_empty() -> None:
    found = env("FROM x\nARG FOO\nARG BAR=\nRUN env")
    assert "FOO" not in found
    assert found["BAR"] == ""


def test_global_args_are_seen_in_from_and_imported_by_name() -> None:
    text = "ARG image=idlebox\nARG V=1\nFROM busy${image#idle}\nARG V\nRUN true"
    unfolded = unfold(text)
    assert unfolded.stages[0].base == ImageRef("busybox")
    assert dict(runs(unfolded)[0].env)["V"] == "1"
    assert "V" not in env("ARG V=1\nFROM x\nRUN true")
    assert env("ARG V=1\nFROM x\nARG V=2\nRUN true")["V"] == "2"
    assert env("ARG V=1\nFROM x\nARG V=2\nRUN true", V="3")["V"] == "3"


def test_a_required_variable_fails_unless_given() -> None:
    text = 'FROM x\nARG X=${Y:?"no y"}\nRUN true'
    with pytest.raises(InputError, match="no y"):
        unfold(text)
    assert env(text, X="1")["X"] == "1"


def test_the_later_of_arg_and_env_wins_while_building() -> None:
    assert env("FROM x\nENV A=env\nARG A=arg\nRUN true")["A"] == "arg"
    assert env("FROM x\nARG A=arg\nENV A=env\nRUN true")["A"] == "env"
    assert dict(final("FROM x\nENV A=env\nARG A=arg\nRUN true").env)["A"] == "env"


def test_what_is_said_to_a_scanner_reaches_no_step() -> None:
    assert "BUILDKIT_SBOM_SCAN_STAGE" not in env("FROM x\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN x")


def test_a_signal_is_checked_once_it_is_known() -> None:
    assert final("FROM x\nARG s=USR1\nSTOPSIGNAL SIG$s").stop_signal == "SIGUSR1"
    with pytest.raises(InputError, match="unknown signal 'SIGUSER'"):
        unfold("FROM x\nARG s=USER\nSTOPSIGNAL SIG$s")


def test_an_arg_hides_a_variable_in_its_own_stage_alone() -> None:
    text = "FROM x AS a\nENV A=env B=env\nARG A=arg C=arg\nRUN here\nFROM a\nRUN child\n"
    here, child = (dict(one.env) for one in runs(unfold(text)))
    assert (here["A"], child["A"]) == ("arg", "env")
    assert (here["C"], child["C"]) == ("arg", "arg")


def test_args_are_inherited_by_stages_built_on_it_and_by_no_other() -> None:
    text = (
        "FROM x AS a\nARG A=1\nFROM a AS b\nRUN one\n"
        "FROM x AS c\nRUN two\nFROM b\nCOPY --from=c / /\n"
    )
    found = runs(unfold(text))
    assert dict(found[0].env)["A"] == "1"
    assert "A" not in dict(found[1].env)


def test_history_of_run_lists_args() -> None:
    steps = unfold("FROM x\nARG B=2\nARG A=1\nRUN make").stages[0].steps
    assert steps[-1].history.created_by == "RUN |2 A=1 B=2 /bin/sh -c make"


def test_history_tells_a_trigger_where_it_runs() -> None:
    stages = unfold("FROM x AS a\nONBUILD ENV A=1\nENV B=2\nFROM a\n").stages
    told = [[step.history.created_by for step in stage.steps] for stage in stages]
    assert told == [["ENV B=2"], ["ENV A=1"]]


def test_source_date_epoch_is_visible_to_run() -> None:
    assert env("FROM x\nRUN true")["SOURCE_DATE_EPOCH"] == "7"


def test_platform_arguments_are_global_until_declared() -> None:
    assert "TARGETARCH" not in env("FROM x\nRUN true")
    assert env("FROM x\nARG TARGETARCH\nRUN true")["TARGETARCH"] == "amd64"
    unfolded = unfold("FROM --platform=$BUILDPLATFORM x\nRUN true", build=ARM)
    assert unfolded.stages[0].platform == ARM


def test_a_stage_has_the_platform_of_the_stage_it_stands_on() -> None:
    text = (
        "FROM --platform=$BUILDPLATFORM x AS tools\nFROM tools AS base\nRUN one\n"
        "FROM --platform=$TARGETPLATFORM base AS build\nARG TARGETARCH\nRUN two\n"
        "FROM scratch\nCOPY --from=build / /\n"
    )
    unfolded = unfold(text, build=ARM)
    assert [stage.platform for stage in unfolded.stages] == [ARM, ARM, ARM, AMD]
    assert unfolded.stages[2].config.platform == ARM
    assert dict(runs(unfolded)[-1].env)["TARGETARCH"] == "amd64"


def test_entrypoint_clears_an_inherited_cmd_only() -> None:
    assert final('FROM x\nENTRYPOINT ["a"]').cmd is None
    assert final('FROM x\nCMD ["c"]\nENTRYPOINT ["a"]').cmd == ("c",)
    stages = 'FROM x AS a\nCMD ["c"]\nFROM a\nENTRYPOINT ["e"]'
    assert final(stages).cmd is None
    assert final("FROM x\nENTRYPOINT []").entrypoint is None
    assert final("FROM x\nCMD []").cmd == ()


def test_shell_form_is_stored_with_the_shell() -> None:
    assert final('FROM x\nSHELL ["/bin/bash", "-ec"]\nCMD a b').cmd == (
        "/bin/bash",
        "-ec",
        "a b",
    )


def test_workdir_follows_the_previous_one() -> None:
    text = "FROM scratch\nWORKDIR /test1\nWORKDIR test2\nCOPY foo ./bar/baz\nWORKDIR ..\nCOPY a .\n"
    steps = unfold(text).stages[0].steps
    copies = [s.action for s in steps if isinstance(s.action, CopyIR)]
    assert copies[0].dest == "/test1/test2/bar/baz"
    assert copies[1].dest == "/test1/"
    assert final(text).working_dir == "/test1"


def test_workdir_root_makes_nothing() -> None:
    steps = unfold("FROM scratch\nWORKDIR /\nWORKDIR /a").stages[0].steps
    assert [isinstance(s.action, WorkdirIR) for s in steps] == [False, True]


def test_scratch_starts_with_path_and_root() -> None:
    config = final("FROM scratch\nCOPY a /a")
    assert config.env == (("PATH", DEFAULT_PATH),)
    assert config.working_dir == "/"


def test_config_is_inherited_and_labels_merge() -> None:
    config = final("FROM x AS a\nLABEL k=1 l=2\nFROM a\nLABEL k=3\nEXPOSE 80-81 53/udp\nVOLUME /v")
    assert dict(config.labels) == {"k": "3", "l": "2"}
    assert config.exposed_ports == ("53/udp", "80/tcp", "81/tcp")
    assert config.volumes == ("/v",)
    assert config.user == "app"
    assert config.cmd == ("base-cmd",)


def test_only_needed_stages_unfold() -> None:
    text = (
        "FROM x AS a\nRUN a\nFROM x AS unused\nRUN unused\n"
        "FROM x AS b\nCOPY --from=A /f /\nFROM x AS last\nRUN last\n"
    )
    assert [s.name for s in unfold(text, "b").stages] == ["a", "b"]
    assert [s.name for s in unfold(text).stages] == ["last"]


def test_stage_names_are_found_whatever_their_case() -> None:
    text = "FROM scratch AS STAge0\nCOPY a /\nFROM scratch AS Stage1\nCOPY --from=staGE0 /a /\n"
    unfolded = unfold(text, "stage1")
    copy = unfolded.stages[-1].steps[0].action
    assert isinstance(copy, CopyIR)
    assert copy.source == StageRef(0)
    assert unfold(text, "STAGE1").target == 1


def test_from_binds_to_the_latest_earlier_stage_and_copy_to_the_last() -> None:
    text = "FROM x AS a\nFROM y AS a\nFROM a AS b\nFROM z AS a\nFROM scratch\nCOPY --from=a / /\n"
    assert [s.index for s in unfold(text).stages] == [3, 4]
    assert [s.index for s in unfold(text, "b").stages] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x AS t\nCOPY --from=later / /\nFROM y AS later", "must be defined before"),
        ("FROM x AS me\nCOPY --from=me / /", "cannot copy from itself"),
        ("FROM x\nCOPY --from=7 / /", "there is no stage 7"),
        ("FROM x\nCOPY --from=" + "9" * 5000 + " / /", "there is no stage 9{60}…$"),
        ("ARG B\nFROM ${B}", "is empty"),
        ("FROM x\nADD https://example.com/ /a/", "does not end in a file name"),
        ("FROM x\nADD https://example.com/a%2fb /a/", "is no plain file name"),
        ("FROM x\nADD https://example.com:x/a /a/", "not a usable URL"),
        ("FROM x\nADD --checksum=sha512:ab https://example.com/a /a", "no sha256:HEX"),
        ("FROM x\nADD --checksum=sha256:ab a /a", "neither"),
        ("FROM x\nCOPY https://example.com/a /a", "COPY cannot read"),
        ("FROM --platform=linux/../../pwn x", "not a platform"),
        ("FROM x\nRUN --network=hosts true", "--network is one of"),
    ],
)
def test_errors_point_at_the_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        unfold(text, "t" if "AS t" in text else None)
    assert caught.value.where is not None


def test_digits_that_are_no_number_name_an_image() -> None:
    copy = unfold("FROM x\nFROM y\nCOPY --from=² / /").stages[-1].steps[0].action
    assert isinstance(copy, CopyIR)
    assert copy.source == ImageRef("²")


def test_an_unknown_target_suggests_a_stage() -> None:
    with pytest.raises(InputError) as caught:
        unfold("FROM x AS build", "biuld")
    assert caught.value.hint == "did you mean 'build'?"


def test_named_contexts_replace_images_with_and_without_tag() -> None:
    contexts = frozenset({"base"})
    assert unfold("FROM base", contexts=contexts).stages[0].base == ContextRef("base")
    assert unfold("FROM base:latest", contexts=contexts).stages[0].base == ContextRef("base")
    assert unfold("FROM base:1", contexts=contexts).stages[0].base == ImageRef("base:1")


def test_triggers_of_the_base_run_first_and_once() -> None:
    unfolded = unfold("FROM triggers AS a\nRUN own\nFROM a\nRUN last")
    assert [r.args[-1] for r in runs(unfolded)] == ["triggered", "own", "last"]
    assert unfolded.stages[-1].config.on_build == ()


def test_onbuild_reaches_the_next_stage() -> None:
    unfolded = unfold(
        "FROM x AS a\nONBUILD COPY --from=b /f /\nFROM x AS b\nRUN b\nFROM a\nRUN last"
    )
    assert [s.name for s in unfolded.stages] == ["a", "b", ""]


def test_unused_build_arguments_are_known() -> None:
    unfolded = unfold("FROM x\nARG A\nRUN true", args={"A": "1", "B": "2"})
    assert unfolded.consumed == {"A"}


def test_a_script_heredoc_with_a_shebang_is_a_file() -> None:
    run = runs(unfold("FROM x\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF\n"))[0]
    assert run.script == b"#!/usr/bin/env python3\nprint(1)\n"
    plain = runs(unfold("FROM x\nRUN <<EOF\nset -e\ntrue\nEOF\n"))[0]
    assert plain.script is None
    assert plain.args[-1] == "set -e\ntrue\n"


def test_heredoc_files_are_expanded_unless_quoted() -> None:
    text = "FROM scratch\nARG V=1\nCOPY <<a <<'b' /d/\nv=$V\na\nv=$V\nb\n"
    copy = unfold(text).stages[0].steps[-1].action
    assert isinstance(copy, CopyIR)
    assert [(f.name, f.content) for f in copy.inline] == [("a", b"v=1\n"), ("b", b"v=$V\n")]
