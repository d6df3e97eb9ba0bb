"""Knows the traps that BuildKit's users and tests know, as Dockerfiles and what has to come of
them; must not know how any is avoided. (Shared reference, section 1.10, and what its sections 1.1
to 1.9 say of the code alone; tests/unit/dockerfile/test_trap_table.py has them all.)
"""

from __future__ import annotations

import os

import pytest

from e2e.building import BOTH, Bench

FILES = {"foo": "foo", "sub/dir1/dir2/foo": "deep"}


def test_a_glob_may_match_nothing_and_a_name_may_not(root_bench: Bench) -> None:
    built = root_bench.build("FROM scratch\nCOPY foo nomatch* /\n", FILES)
    assert list(built.image.tree) == ["foo"]
    assert "'missing' not found" in root_bench.fail("FROM scratch\nCOPY missing /\n", FILES).stderr


def test_a_matched_directory_gives_its_contents(root_bench: Bench) -> None:
    tree = root_bench.build("FROM scratch\nCOPY sub/* /d/\n", FILES).image.tree
    assert list(tree) == ["d", "d/dir2", "d/dir2/foo"]


def test_one_match_of_a_glob_takes_the_name_it_is_given(root_bench: Bench) -> None:
    tree = root_bench.build("FROM scratch\nCOPY sub/*/dir2/foo /d/bar\n", FILES).image.tree
    assert tree["d/bar"].content == b"deep"


@BOTH
def test_workdir_and_copy_into_it(who: Bench) -> None:
    built = who.build(
        "FROM scratch\nWORKDIR /test1\nWORKDIR test2\nCOPY foo ./bar/baz\nWORKDIR ..\n", FILES
    )
    assert built.content("test1/test2/bar/baz") == "foo"
    assert built.image.config["WorkingDir"] == "/test1"


@pytest.mark.parametrize(
    ("line", "env"),
    [("ENV ONE TWO= THREE=w", ["ONE=TWO= THREE=w"]), ("ENV a=1 b", None), ("ENV a", None)],
)
def test_forms_of_env(root_bench: Bench, line: str, env: list[str] | None) -> None:
    if env is None:
        assert "Dockerfile:2" in root_bench.fail(f"FROM base\n{line}\n").stderr
    else:
        assert root_bench.build(f"FROM base\n{line}\n").image.config["Env"][1:] == env


def test_an_arg_without_a_value_is_absent_and_an_empty_one_is_there(root_bench: Bench) -> None:
    built = root_bench.build("FROM base\nARG FOO\nARG BAR=\nRUN env >/e\n")
    lines = built.content("e").splitlines()
    assert "BAR=" in lines
    assert not [line for line in lines if line.startswith("FOO")]


def test_modifiers_in_from(root_bench: Bench) -> None:
    built = root_bench.build("ARG image=idlebase\nFROM ${image#idle}\n")
    assert built.made == ""
    built = root_bench.build("ARG a=x-base-x\nARG b=${a#*-}\nFROM ${b%%-*}\nRUN echo ${b}>/b\n")
    assert built.content("b") == "\n"


def test_the_default_of_an_arg_that_must_be_given(root_bench: Bench) -> None:
    dockerfile = 'FROM base\nARG X=${Y:?"no y"}\nRUN echo $X >/x\n'
    assert "Y: no y" in root_bench.fail(dockerfile).stderr
    assert root_bench.build(dockerfile, None, "--build-arg=X=given").content("x") == "given\n"


def test_forms_that_look_like_json(root_bench: Bench) -> None:
    assert "Dockerfile:2" in root_bench.fail('FROM base\nRUN ["a", 1]\n').stderr
    for line in ('RUN ["c:\\windows" || true', "RUN ['a'] || true"):
        root_bench.build(f"FROM base\n{line}\n")


def test_a_proxy_is_no_reason_to_run_again(root_bench: Bench) -> None:
    def ran(dockerfile: str, proxy: str) -> int:
        made = root_bench.build(dockerfile, None, f"--build-arg=http_proxy=http://{proxy}")
        return len(made.result.built)

    plain = "FROM base\nRUN echo $http_proxy >/dev/null && echo trap-proxy\n"
    assert (ran(plain, "one"), ran(plain, "two")) == (1, 0)
    declared = "FROM base\nARG http_proxy\nRUN echo trap-proxy-declared\n"
    assert (ran(declared, "one"), ran(declared, "two")) == (1, 1)


def test_a_renamed_file_that_a_glob_matches_is_a_miss(root_bench: Bench) -> None:
    directory = root_bench.directory(
        {"file1": "same"}, "FROM base\nCOPY file* /x/\nRUN ls /x >/names\n"
    )
    assert root_bench.build_in(directory).content("names") == "file1\n"
    path = root_bench.workspace.path(directory)
    (path / "file1").rename(path / "file2")
    again = root_bench.build_in(directory)
    assert again.content("names") == "file2\n"
    assert len(again.result.built) == 2


def test_the_same_file_elsewhere_is_a_hit(root_bench: Bench) -> None:
    directory = root_bench.directory(
        {"a/f": "moved-file"}, "FROM base\nCOPY a/f /x/\nRUN true #m\n"
    )
    root_bench.build_in(directory)
    path = root_bench.workspace.path(directory)
    (path / "a").rename(path / "b")
    root_bench.workspace.write(f"{directory}/Dockerfile", "FROM base\nCOPY b/f /x/\nRUN true #m\n")
    assert root_bench.build_in(directory).result.built == []


def test_a_writable_mount_of_a_stage_is_known_by_its_content(root_bench: Bench) -> None:
    def dockerfile(way: str) -> str:
        return (
            f"FROM base AS b\nRUN mkdir /out && {way} >/out/f && echo {len(way)} >/noise\n"
            "FROM base\nRUN --mount=from=b,src=out,target=/out,rw cat /out/f >/trap-got\n"
        )

    root_bench.build(dockerfile("echo out"))
    again = root_bench.build(dockerfile("printf 'out\\n'"))
    assert [title for title in again.result.built if "trap-got" in title] == []


def test_a_stage_that_comes_later_cannot_be_copied_from(root_bench: Bench) -> None:
    said = root_bench.fail(
        "FROM scratch AS app\nCOPY --from=build / /\nFROM scratch AS build\nFROM app\n"
    ).stderr
    assert "'build'" in said
    assert "'app'" in said
    assert "before" in said


def test_stage_names_have_no_case(root_bench: Bench) -> None:
    dockerfile = (
        "FROM scratch AS STAge0\nCOPY foo /0\nFROM scratch AS Stage1\nCOPY --from=staGE0 /0 /1\n"
        "FROM scratch\nCOPY foo /last\n"
    )
    built = root_bench.build(dockerfile, FILES, "--target", "sTAge1")
    assert list(built.image.tree) == ["1"]


@BOTH
def test_a_copied_directory_leaves_its_own_owner_behind(who: Bench) -> None:
    built = who.build(
        "FROM base AS src\nRUN mkdir -p /dir/sub && touch /dir/f && chown -R 100:200 /dir\n"
        "FROM base\nRUN mkdir /old && chown 7:8 /old && chmod 711 /old\n"
        "COPY --from=src /dir /new\nCOPY --from=src /dir /old\n"
    )
    owners = {p: (f.mode, f.uid, f.gid) for p, f in built.image.tree.items()}
    assert owners["new"] == (0o755, 0, 0)
    assert owners["old"] == (0o711, 7, 8)
    for path in ("new/sub", "old/sub"):
        assert owners[path] == (0o755, 100, 200)
    for path in ("new/f", "old/f"):
        assert owners[path] == (0o644, 100, 200)


def test_several_sources_for_one_name_leave_the_last(root_bench: Bench) -> None:
    """Docker's documents ask for a directory; the code has no check."""
    tree = root_bench.build(
        "FROM scratch\nCOPY foo bar /one\nCOPY foo bar /many/\n", FILES | {"bar": "last"}
    ).image.tree
    assert list(tree) == ["many", "many/bar", "many/foo", "one"]
    assert tree["one"].content == b"last"


def test_from_knows_stages_by_their_small_letters(root_bench: Bench) -> None:
    twice = "FROM scratch AS a\nCOPY foo /1\nFROM scratch AS A\nCOPY foo /2\nFROM a\n"
    assert list(root_bench.build(twice, FILES).image.tree) == ["2"]
    said = root_bench.fail("FROM scratch AS Alone\nFROM Alone\n").stderr
    assert "'Alone'" in said
    assert "lower case" in said


def test_a_target_has_no_number(root_bench: Bench) -> None:
    said = root_bench.fail("FROM scratch AS a\nCOPY foo /\nFROM a\n", FILES, "--target=0").stderr
    assert "no stage named '0'" in said


@BOTH
def test_a_mount_without_a_target_is_at_the_workdir(who: Bench) -> None:
    built = who.build(
        "FROM scratch AS files\nCOPY foo /\nFROM base\nWORKDIR /w\n"
        "RUN --mount=from=files cat foo >/got\n"
        "RUN --mount=type=tmpfs touch here && ls >/tmpfs\n",
        FILES,
    )
    assert (built.content("got"), built.content("tmpfs")) == ("foo", "here\n")
    assert not [path for path in built.image.tree if path.startswith("w/")]
    said = who.fail("FROM base\nRUN --mount=type=tmpfs true\n").stderr
    assert "cannot cover the root" in said
    assert "target=/path" in said


def test_values_with_blanks_are_one_word_but_in_expose(root_bench: Bench) -> None:
    built = root_bench.build(
        'FROM scratch\nARG name="a b" ports="80 81-82/udp"\nWORKDIR /$name\nCOPY $name x\n'
        "EXPOSE $ports\nVOLUME $name\n",
        {"a b": "file"},
    )
    assert list(built.image.tree) == ["a b", "a b/x"]
    assert set(built.image.config["ExposedPorts"]) == {"80/tcp", "81/udp", "82/udp"}
    assert set(built.image.config["Volumes"]) == {"a b"}


def test_the_escape_of_a_heredoc_is_always_the_same(root_bench: Bench) -> None:
    built = root_bench.build(
        "# escape=`\nFROM scratch\nARG x=y\nCOPY <<one <<'two' /\n\\$x `$x '$x' \"$x\"\none\n$x\ntwo\n"
    )
    assert built.content("one") == "$x `y 'y' \"y\"\n"
    assert built.content("two") == "$x\n"


def test_link_follows_no_link_below_with_chmod_too(root_bench: Bench) -> None:
    """BuildKit makes a plain COPY of it then, which does follow."""
    base = "FROM base AS below\nRUN mkdir /real && ln -s real /link\n"
    below = "FROM below\nCOPY {} foo /link/\n"
    plain = root_bench.build(base + below.format("--chmod=600"), FILES).image.tree
    assert plain["real/foo"].mode == 0o600
    linked = root_bench.build(base + below.format("--link --chmod=600"), FILES).image.tree
    assert linked["link/foo"].mode == 0o600
    assert "real/foo" not in linked


def test_what_a_copy_is_known_by(root_bench: Bench) -> None:
    """Modes and names below the source count, times and the source's own mode do not."""
    dockerfile = "FROM base\nCOPY d /d\nRUN echo trap-known-by\n"
    directory = root_bench.directory({"d/e/f": "f"}, dockerfile)
    top = root_bench.workspace.path(directory)

    def ran() -> int:
        return len(root_bench.build_in(directory).result.built)

    assert ran() == 2
    (top / "d").chmod(0o700)
    os.utime(top / "d/e/f", (1, 1))
    assert ran() == 0
    (top / "d/e").chmod(0o700)
    assert ran() == 2
    (top / "d/e").rename(top / "d/g")
    assert ran() == 2


def test_what_a_step_is_known_by(root_bench: Bench) -> None:
    def ran(lines: str, *args: str) -> int:
        return len(root_bench.build(f"FROM base\n{lines}\n", None, *args).result.built)

    step = "RUN {}echo trap-known-step"
    assert ran(step.format("")) == 1
    assert ran("ARG nothing\n" + step.format("")) == 0, "declaring costs nothing"
    assert ran("ARG nothing\n" + step.format(""), "--build-arg=nothing=x") == 1
    assert ran("LABEL a=b\nEXPOSE 1\nCMD x\n" + step.format("")) == 0, "it cannot see them"
    tmpfs = "--mount=type=tmpfs,target=/t{} "
    assert ran(step.format(tmpfs.format(""))) == 1
    assert ran(step.format(tmpfs.format(",size=1m"))) == 1, "a size counts"
    secret = step.format("--mount=type=secret,id=s,env=S ")
    for value, count in (("one", 1), ("another", 0)):
        words = ["--secret=id=s,env=VALUE"]
        found = root_bench.build(f"FROM base\n{secret}\n", None, *words, env={"VALUE": value})
        assert len(found.result.built) == count


def test_what_stands_on_the_build_platform_runs_there(root_bench: Bench) -> None:
    """And the image is for the platform that was asked for."""
    built = root_bench.build(
        "FROM --platform=$BUILDPLATFORM base AS here\nFROM here AS there\nARG TARGETARCH\n"
        "RUN echo $TARGETARCH $(uname -m) >/made\n",
        FILES,
        "--platform=linux/s390x",
    )
    assert built.content("made") == f"s390x {os.uname().machine}\n"
    assert built.image.document["architecture"] == "s390x"


@BOTH
def test_steps_may_make_the_same_layer_twice(who: Bench) -> None:
    """Overlayfs takes no directory twice."""
    built = who.build(
        "FROM base\nRUN echo 1 >/f\nRUN rm /f\nRUN echo 1 >/f\nCOPY foo /f\nCOPY bar /f\nCOPY foo /f\n"
        "RUN cat /f >/got\nRUN rm /f\nRUN ls / | grep -c ^f$ >/gone; true\n",
        FILES | {"bar": "bar"},
    )
    assert (built.content("got"), built.content("gone")) == ("foo", "0\n")
    assert not built.has("f")


def test_expansion_bombs_end_quickly(root_bench: Bench) -> None:
    lines = ["ARG a0=xxxxxxxxxxxxxxxx"] + [f"ARG a{n + 1}=$a{n}$a{n}" for n in range(40)]
    said = root_bench.fail("\n".join([*lines, "FROM base"]) + "\n")
    assert said.seconds < 5
    assert "error:" in said.stderr
    many = "".join(f"FROM base AS s{n}\n" for n in range(1100))
    assert "stages" in root_bench.fail(many).stderr
    assert "1" in root_bench.fail("FROM base\n" + "RUN true\n" * 200_000).stderr
