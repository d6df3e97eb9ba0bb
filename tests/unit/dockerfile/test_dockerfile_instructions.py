"""What each instruction takes: sections 1.4 and 1.6, and the rows of 1.10 that parsing decides."""

from __future__ import annotations

from typing import Any

import pytest

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.mounts import expand_mount, parse_size, split_record
from buildgraph.dockerfile.parser import parse, parse_onbuild
from buildgraph.errors import InputError, Location

HERE = Location("here", 3, 1)


def one(text: str) -> Any:
    (instruction,) = parse(f"FROM scratch\n{text}", "Dockerfile").stages[0].body
    return instruction


def refused(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(text, "Dockerfile")
    return caught.value


# FROM and stages


def test_from() -> None:
    text = "FROM --platform=$BUILDPLATFORM a:$V as STAge0\nFROM Base\n"
    first, second = parse(text, "Dockerfile").stages
    assert first.from_.image == "a:$V"
    assert first.from_.platform == "$BUILDPLATFORM"
    assert (first.from_.name, first.from_.name_as_written) == ("stage0", "STAge0")
    assert first.from_.as_keyword == "as"
    assert (second.from_.image, second.from_.name) == ("Base", None)


@pytest.mark.parametrize("name", ["1a", "a/b", "-a", "a:b", "é", "$X"])
def test_stage_names(name: str) -> None:
    assert "invalid stage name" in refused(f"FROM a AS {name}").message


@pytest.mark.parametrize("rest", ["", " a b", " a AS", " a TO b", " a AS b c", " a # c"])
def test_from_takes_one_or_three(rest: str) -> None:
    assert "one or three" in refused(f"FROM{rest}").message


def test_global_args() -> None:
    parsed = parse("ARG A=1 B\nARG C=\nFROM scratch\nARG A\n", "Dockerfile")
    assert [arg.pairs for arg in parsed.global_args] == [
        (("A", "1"), ("B", None)),
        (("C", ""),),
    ]
    assert len(parsed.stages[0].body) == 1


# RUN, CMD, ENTRYPOINT, SHELL: shell form and JSON form


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('RUN ["a", "b c"]', ("a", "b c")),
        ('RUN [ "a" ]  ', ("a",)),
        ('CMD ["\\u00e9"]', ("é",)),
        ('CMD ["\\ud800"]', ("\N{REPLACEMENT CHARACTER}",)),
        ("CMD []", ()),
        ("ENTRYPOINT []", ()),
        ('RUN ["c:\\windows"', None),
        ("RUN ['a']", None),
        ('RUN ["a"] b', None),
        ('RUN ["a",]', None),
        ("RUN [ -f x ]", None),
        ("RUN [NaN]", None),
    ],
)
def test_json_form(text: str, expected: tuple[str, ...] | None) -> None:
    instruction = one(text)
    assert instruction.exec == expected
    assert (instruction.shell is None) == (expected is not None)
    if expected is None:
        assert instruction.shell == text.split(None, 1)[1]


@pytest.mark.parametrize(
    "text", ['RUN ["a", 1]', "CMD [null]", 'COPY [["a"], "b"]', f"RUN [{'1' * 5000}]"]
)
def test_json_of_something_else_is_an_error(text: str) -> None:
    error = refused(f"FROM scratch\n{text}")
    assert "only strings" in error.message
    assert error.where is not None
    assert error.where.text[error.where.column - 1] == "["


@pytest.mark.parametrize("keyword", ["RUN", "CMD", "ENTRYPOINT"])
def test_commands_need_something(keyword: str) -> None:
    assert "needs an argument" in refused(f"FROM scratch\n{keyword}").message


def test_run_of_nothing() -> None:
    assert "needs a command" in refused("FROM scratch\nRUN []").message


def test_shell() -> None:
    assert one('SHELL ["/bin/bash", "-c"]').args == ("/bin/bash", "-c")
    assert "JSON form" in refused("FROM scratch\nSHELL bash -c").message
    assert "at least one" in refused("FROM scratch\nSHELL []").message


def test_run_options() -> None:
    run = one("RUN --network=none --security=insecure --device=v/c=a --device=v/c=b,required x")
    assert (run.network, run.security) == ("none", "insecure")
    assert run.devices == ("v/c=a", "v/c=b,required")
    error = refused("FROM scratch\nRUN --network=hots x")
    assert "default, none, host" in error.message
    assert error.hint == "did you mean 'host'?"
    assert "sandbox" in refused("FROM scratch\nRUN --security=x y").message


# COPY and ADD


def test_copy() -> None:
    copy = one("COPY --from=b --chown=1:2 --chmod=u+x --parents a* $B /d/")
    assert isinstance(copy, ast.Copy)
    assert (copy.sources, copy.dest) == (("a*", "$B"), "/d/")
    assert (copy.from_, copy.chown, copy.chmod, copy.parents) == ("b", "1:2", "u+x", True)
    assert one('COPY ["a b", "c d"]').sources == ("a b",)
    assert one('COPY "a b').sources == ('"a',)


def test_copy_from_takes_no_variable() -> None:
    assert "no variables" in refused("FROM scratch\nCOPY --from=$X a b").message
    assert one("COPY --from=a$ a b").from_ == "a$"


@pytest.mark.parametrize("text", ["COPY", "COPY a", 'COPY ["a"]', "ADD a", "COPY --link a"])
def test_copy_needs_two(text: str) -> None:
    assert "at least one source" in refused(f"FROM scratch\n{text}").message


def test_add() -> None:
    add = one("ADD --checksum=sha256:00 --keep-git-dir=true --unpack https://x/y /z")
    assert (add.checksum, add.keep_git_dir, add.unpack) == ("sha256:00", True, True)
    assert "exactly one source" in refused("FROM scratch\nADD --checksum=sha256:0 a b c").message


# ENV, LABEL, ARG


@pytest.mark.parametrize(
    ("text", "pairs", "legacy"),
    [
        ("ENV a=1 b='2 3' c=\"4 5\"", (("a", "1"), ("b", "'2 3'"), ("c", '"4 5"')), False),
        ("ENV a=b\\ c d=e", (("a", "b\\ c"), ("d", "e")), False),
        ("ENV a=b=c", (("a", "b=c"),), False),
        ("ENV a=", (("a", ""),), False),
        ('ENV a=""', (("a", '""'),), False),
        ("ENV a b c=d", (("a", "b c=d"),), True),
        ("ENV a\tb", (("a", "b"),), True),
        ("ENV ONE TWO= THREE=w", (("ONE", "TWO= THREE=w"),), True),
        ("LABEL a=1 \\\n  b=2", (("a", "1"), ("b", "2")), False),
        ("LABEL a.b c", (("a.b", "c"),), True),
        ("ENV a='open b=c", (("a", "'open b=c"),), False),
    ],
)
def test_pairs(text: str, pairs: tuple[tuple[str, str], ...], legacy: bool) -> None:
    instruction = one(text)
    assert instruction.pairs == pairs
    assert instruction.legacy == legacy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENV a=1 b", "not of the form name=value"),
        ("ENV a", "needs a name and a value"),
        ("ENV", "needs an argument"),
        ("ENV =1", "the name is empty"),
        ("LABEL a", "needs a name and a value"),
        ("ARG", "needs an argument"),
        ("ARG =1", "the name is empty"),
        ("ARG \\\\", ""),
    ],
)
def test_pair_errors(text: str, message: str) -> None:
    if message:
        assert message in refused(f"FROM scratch\n{text}").message
    else:
        one(text)


def test_arg() -> None:
    assert one("ARG FOO").pairs == (("FOO", None),)
    assert one("ARG BAR=").pairs == (("BAR", ""),)
    assert one("ARG A=1 B C='x y'").pairs == (("A", "1"), ("B", None), ("C", "'x y'"))


# The small ones


def test_small_ones() -> None:
    assert one("WORKDIR /a b").path == "/a b"
    assert one("USER u:g").user == "u:g"
    assert one("EXPOSE 80 $P/udp  90-92").ports == ("80", "$P/udp", "90-92")
    assert one("VOLUME /a /b").paths == ("/a", "/b")
    assert one('VOLUME ["/a b"]').paths == ("/a b",)
    assert one("MAINTAINER A B <a@b>").name == "A B <a@b>"
    assert one("STOPSIGNAL SIGRTMIN+3").signal == "SIGRTMIN+3"
    assert one("STOPSIGNAL $S").signal == "$S"
    assert one('STOPSIGNAL "SIGTERM"').signal == '"SIGTERM"'


@pytest.mark.parametrize("keyword", ["WORKDIR", "USER", "EXPOSE", "VOLUME", "MAINTAINER", "LABEL"])
def test_small_ones_need_something(keyword: str) -> None:
    assert "needs an argument" in refused(f"FROM scratch\n{keyword}").message


def test_small_errors() -> None:
    assert "empty" in refused('FROM scratch\nVOLUME ["/a", " "]').message
    assert "empty" in refused("FROM scratch\nVOLUME []").message
    error = refused("FROM scratch\nSTOPSIGNAL SIGTREM")
    assert error.hint == "did you mean 'SIGTERM'?"


def test_healthcheck() -> None:
    check = one(
        "HEALTHCHECK --interval=1m30s --timeout=5s --start-period=0 --start-interval=1ms "
        "--retries=4 CMD curl  -f x"
    )
    assert check.test == ("CMD-SHELL", "curl  -f x")
    assert (check.interval, check.timeout) == (90_000_000_000, 5_000_000_000)
    assert (check.start_period, check.start_interval, check.retries) == (0, 1_000_000, 4)
    assert one('HEALTHCHECK cmd ["a", "b"]').test == ("CMD", "a", "b")
    assert one("healthcheck none").test == ("NONE",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HEALTHCHECK", "needs an argument"),
        ("HEALTHCHECK CMD", "needs a command"),
        ("HEALTHCHECK CMD []", "needs a command"),
        ("HEALTHCHECK NONE x", "takes no arguments"),
        ("HEALTHCHECK CDM x", "takes CMD or NONE"),
        ("HEALTHCHECK --interval=1us CMD x", "less than 1ms"),
        ("HEALTHCHECK --interval=-1s CMD x", "less than 1ms"),
        ("HEALTHCHECK --interval=1 CMD x", "no duration"),
        ("HEALTHCHECK --retries=-1 CMD x", "negative"),
        ("HEALTHCHECK --retries=x CMD x", "is a number"),
        ("HEALTHCHECK --retries=9999999999 CMD x", "is a number"),
    ],
)
def test_healthcheck_errors(text: str, message: str) -> None:
    assert message in refused(f"FROM scratch\n{text}").message


# ONBUILD


def test_onbuild() -> None:
    assert one("ONBUILD RUN a \\\n b").trigger == "RUN a  b"
    trigger = one("ONBUILD COPY <<A <<-B /x\n1\nA\n\t2\n\tB\n").trigger
    assert trigger == "COPY <<A <<-B /x\n1\nA\n\t2\nB"
    copy = parse_onbuild(trigger, "Dockerfile", HERE)
    assert isinstance(copy, ast.Copy)
    assert [heredoc.body for heredoc in copy.heredocs] == ["1\n", "2\n"]
    assert copy.where == HERE
    assert copy.heredocs[0].where == HERE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ONBUILD", "needs an argument"),
        ("ONBUILD ONBUILD RUN x", "chained"),
        ("ONBUILD FROM x", "cannot be an ONBUILD trigger"),
        ("ONBUILD maintainer x", "cannot be an ONBUILD trigger"),
        ("ONBUILD RNU x", "unknown instruction 'RNU'"),
        ("ONBUILD ENV x", "needs a name and a value"),
    ],
)
def test_onbuild_errors(text: str, message: str) -> None:
    assert message in refused(f"FROM scratch\n{text}").message


@pytest.mark.parametrize("trigger", ["", "RUN a\nRUN b", "FROM x", "ONBUILD RUN x", "RUN <<E\n"])
def test_triggers_of_a_base_image_are_checked(trigger: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_onbuild(trigger, "image", HERE)
    assert caught.value.where == HERE


# Mounts


def mount(record: str) -> ast.Mount:
    run = one(f"RUN --mount={record} x")
    assert isinstance(run, ast.Run)
    return run.mounts[0]


@pytest.mark.parametrize(
    ("record", "kind", "options"),
    [
        ("target=/a", "bind", {"target": "/a"}),
        ("type=bind,target=.", "bind", {"target": "."}),
        ("dst=/a,src=b,from=c,rw", "bind", {
            "target": "/a", "source": "b", "from": "c", "readonly": "false"}),
        ("destination=/a,RO=1", "bind", {"target": "/a", "readonly": "true"}),
        ("target=/a,readwrite=false", "bind", {"target": "/a", "readonly": "true"}),
        ("target=/a,rw=$X", "bind", {"target": "/a", "readwrite": "$X"}),
        ("type=cache,target=/a,id=i,sharing=LOCKED,mode=0700,uid=1,gid=2,from=s,source=d",
         "cache", {"target": "/a", "id": "i", "sharing": "locked", "mode": "0700", "uid": "1",
                   "gid": "2", "from": "s", "source": "d"}),
        ("type=tmpfs,target=/a,size=64m", "tmpfs", {"target": "/a", "size": "64m"}),
        ("type=secret,id=a,env=B,required", "secret", {"id": "a", "env": "B", "required": "true"}),
        ("type=secret,src=a", "secret", {"id": "a"}),
        ("type=secret,target=/a/b", "secret", {"target": "/a/b"}),
        ("type=ssh", "ssh", {}),
        ("type=SSH,id=x,required=true,mode=0600", "ssh", {
            "id": "x", "required": "true", "mode": "0600"}),
        ("type=$T,target=/x,size=1", "$T", {"target": "/x", "size": "1"}),
        ('\'type=bind,"source=a,b",target=/x\'', "bind", {"source": "a,b", "target": "/x"}),
        ("target=/a,target=/b", "bind", {"target": "/b"}),
    ],
)  # fmt: skip
def test_mounts(record: str, kind: str, options: dict[str, str]) -> None:
    assert mount(record).type == kind
    assert dict(mount(record).options) == options


PRIVATE = "mounts of a build are private, without setuid programs or devices; nothing to say"


@pytest.mark.parametrize(
    ("record", "message", "hint"),
    [
        ("type=cahe,target=/a", "unknown mount type 'cahe'", "did you mean 'cache'?"),
        ("target=/a,sorce=b", "unknown key 'sorce'", "did you mean 'source'?"),
        ("target=/a,source", "needs a value", None),
        ("target=/", "cannot cover the root", None),
        ("target=//..", "cannot cover the root", None),
        ("target=/a,mode=0700", "bind mount has no 'mode'", None),
        ("target=/a,uid=0", "bind mount has no 'uid'", None),
        ("type=tmpfs,target=/a,source=b", "no 'source'", None),
        ("type=secret,id=a,from=b", "no 'from'", None),
        ("type=secret,id=a,sharing=shared", "no 'sharing'", None),
        ("type=secret,id=a,source=b", "both id and source", None),
        ("type=secret,env=A", "needs an id", None),
        ("type=ssh,source=a", "no 'source'", None),
        ("type=cache,target=/a,sharing=lockd", "unknown sharing", "did you mean 'locked'?"),
        ("type=cache,target=/a,mode=9", "octal", None),
        ("type=cache,target=/a,uid=x", "a number", None),
        ("type=cache,target=/a,uid=4294967296", "a number", None),
        ("type=tmpfs,target=/a,size=x", "no size", None),
        ("target=/a,ro=maybe", "true or false", None),
        ("target=/a,from=$X", "takes no variables", None),
        ("''", "an empty mount option", "remove the comma before or after it"),
        ("target=/a,,ro", "an empty mount option", "remove the comma before or after it"),
        ("target=/a,shared", "unknown key 'shared'", PRIVATE),
        ("target=/a,rw,exec", "unknown key 'exec'", PRIVATE),
        ("target=/a,U", "unknown key 'U'", PRIVATE),
        ("target=/a,z", "unknown key 'z'", PRIVATE),
        ("target=/a,bind-propagation=rshared", "unknown key 'bind-propagation'", PRIVATE),
        ("type=cache,target=/a,mode=0o755", "mode is an octal mode", None),
        ("type=cache,target=/a,mode=12345", "mode is an octal mode", None),
        ("type=cache,target=/a,uid=4294967295", "uid is a number", None),
        ("type=secret,id=a,env=A=B", "'A=B' cannot be the name of a variable", None),
        ("type=ssh,source=a", "an ssh mount has no 'source'", None),
        ("type=tmpfs,target=/a,from=b", "a tmpfs mount has no 'from'", None),
        ("type=secret,id=a,sharing=locked", "a secret mount has no 'sharing'", None),
    ],
)
def test_mount_errors(record: str, message: str, hint: str | None) -> None:
    error = refused(f"FROM scratch\nRUN --mount={record} x")
    assert message in error.message
    assert hint is None or error.hint == hint


def test_mount_errors_point_at_the_key() -> None:
    where = refused("FROM scratch\nRUN --mount=target=/a,sorce=b x").where
    assert where is not None
    assert where.text[where.column - 1 : where.end_column - 1] == "sorce=b"


def test_mounts_are_checked_again_once_expanded() -> None:
    parsed = mount("type=$T,target=$D,rw=$W,from=x")
    values = {"$T": "cache", "$D": "/d", "$W": "0"}
    expanded = expand_mount(parsed, lambda word: values.get(word, word))
    assert expanded.type == "cache"
    assert dict(expanded.options) == {"target": "/d", "readonly": "true", "from": "x"}
    for bad in ({"$T": "nope"}, {"$D": "/"}, {"$W": "x"}):
        with pytest.raises(InputError):
            expand_mount(parsed, lambda word, bad=bad: (values | bad).get(word, word))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ("a,b", ["a", "b"]),
        ("a,", ["a", ""]),
        ('"a,b",c', ["a,b", "c"]),
        ('"a""b"', ['a"b']),
        ("", [""]),
    ],
)
def test_csv(record: str, fields: list[str]) -> None:
    assert split_record(record, HERE) == fields


@pytest.mark.parametrize("record", ['a"b', '"a', '"a"b'])
def test_bad_csv(record: str) -> None:
    with pytest.raises(InputError):
        split_record(record, HERE)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("64m", 64 << 20), ("1.5G", 3 << 29), ("2 KiB", 2048),
        ("1tb", 1 << 40),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, HERE) == size
