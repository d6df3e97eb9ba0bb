"""Knows what a RUN step sees and what of its work stays; must not know how a sandbox is made."""

from __future__ import annotations

import pytest

from e2e.building import BOTH, Bench
from e2e.images import text

EXIT_CODE = 7


@BOTH
def test_forms_of_run(who: Bench) -> None:
    built = who.build(
        r"""
FROM base
RUN echo "shell $((1+1))" \
  # a comment inside
  two   spaces >/shell
RUN ["/bin/sh", "-c", "printf %s \"$0 $1\" >/exec", "a", "$HOME"]
RUN ["c:\windows"; echo fallback >/fallback
RUN <<EOF
echo script >/script
A=kept
false
echo "$A after" >>/script
EOF
RUN <<-"EOF" cat - >/both; cat >>/both <<END
	tabs $HOME
	EOF
more
END
RUN <<EOF
#!/bin/awk -f
BEGIN { print "awk" > "/awk" }
EOF
RUN cat <<ONE >/one && cat <<TWO >/two
1 $PATH
ONE
2
TWO
""",
    )
    assert built.content("shell") == "shell 2 two spaces\n"
    assert built.content("exec") == "a $HOME"
    assert built.content("fallback") == "fallback\n"
    assert built.content("script") == "script\nkept after\n"
    assert built.content("both") == "tabs $HOME\nmore\n"
    assert built.content("awk") == "awk\n"
    assert (built.content("one"), built.content("two")) == ("1 /bin\n", "2\n")
    assert not [path for path in built.image.tree if "buildgraph" in path]


@BOTH
def test_variables_of_a_step(who: Bench) -> None:
    built = who.build(
        r"""
FROM base
ARG FOO
ARG BAR=
ARG GIVEN=default
ENV A=1 B="two words" C=$A
ENV D $A and the rest
RUN env | sort >/env
USER app
RUN env | grep -e HOME -e SOURCE >/tmp/user
""",
        None,
        "--build-arg=GIVEN=given",
        "--build-arg=http_proxy=http://proxy.example.com",
        env={"CANARY": "builder", "FOO": "not asked for"},
    )
    lines = built.content("env").splitlines()
    assert "http_proxy=http://proxy.example.com" in lines
    assert "CANARY=builder" not in lines
    wanted = {"BAR=", "GIVEN=given", "A=1", "B=two words", "C=", "D=1 and the rest"}
    assert wanted <= set(lines)
    assert not [line for line in lines if line.startswith("FOO")]
    assert "HOME=/root" in lines
    assert "SOURCE_DATE_EPOCH=315532800" in lines
    assert "HOME=/\n" in built.content("tmp/user")
    assert built.image.config["Env"] == [
        "PATH=/bin",
        "A=1",
        "B=two words",
        "C=",
        "D=1 and the rest",
    ]
    assert "proxy" not in str(built.image.document)


@BOTH
def test_who_runs_where(who: Bench) -> None:
    built = who.build(
        r"""
FROM base
RUN echo "two:x:77:app" >>/etc/group && echo "x:x:5:6::/home/x:/bin/sh" >>/etc/passwd
RUN echo "1234:x:0:0::/:/bin/sh" >>/etc/passwd && chmod 777 /tmp
WORKDIR /w/d
RUN pwd >/tmp/1
USER app
RUN id >/tmp/2
USER app:root
RUN id >/tmp/3
USER 5
RUN id >/tmp/4
USER 1234
RUN id -u >/tmp/5
USER 42:43
RUN id >/tmp/6 && id -u >/tmp/f
""",
    )
    assert built.content("tmp/1") == "/w/d\n"
    assert built.content("tmp/2") == "uid=1000(app) gid=1000(app) groups=77(two)\n" or (
        built.content("tmp/2") == "uid=1000(app) gid=1000(app) groups=1000(app),77(two)\n"
    )
    assert "77" not in built.content("tmp/3")
    assert built.content("tmp/3").startswith("uid=1000(app) gid=0(root)")
    assert built.content("tmp/4").startswith("uid=5(x) gid=6")
    assert built.content("tmp/5") == "1234\n"
    assert built.content("tmp/6").startswith("uid=42 gid=43")
    assert (built.image.tree["tmp/f"].uid, built.image.tree["tmp/f"].gid) == (42, 43)
    assert built.image.config["User"] == "42:43"


def test_a_user_who_is_not_there_fails_at_the_step_only(root_bench: Bench) -> None:
    assert root_bench.build("FROM base\nUSER ghost\n").image.config["User"] == "ghost"
    said = root_bench.fail("FROM base\nUSER ghost\nRUN id\n", expect=None)
    assert said.code in (1, 2)
    assert "ghost" in said.stderr
    assert "Dockerfile:3" in said.stderr


@BOTH
def test_what_a_step_changes_is_its_layer(who: Bench) -> None:
    built = who.build(
        r"""
FROM base
RUN mkdir -p /d/e && echo 1 >/d/1 && echo 2 >/d/e/2 && ln /d/1 /d/hard && ln -s 1 /d/soft
RUN rm -r /d/e && mkdir /d/e && echo new >/d/e/new && rm /d/soft && rm /bin/vi /etc/group
RUN chmod 4750 /d/1 && chown 12:34 /d/e/new && mv /d/e/new /moved && mkfifo /d/fifo
RUN mkdir /d/f && mv /d/f /d/g && echo 2 >/d/g/x
RUN true
""",
    )
    assert built.made == text(
        """
        - bin/vi
        d 755 0:0 d
        f 4750 0:0 d/1 = '1\\n'
        d 755 0:0 d/e
        p 644 0:0 d/fifo
        d 755 0:0 d/g
        f 644 0:0 d/g/x = '2\\n'
        f 644 0:0 d/hard = '1\\n'
        - etc/group
        f 644 12:34 moved = 'new\\n'
        """
    )
    empty = [entry.get("empty_layer", False) for entry in built.image.document["history"]]
    assert empty[-1] is True, "a step that changes nothing adds no layer"


@BOTH
def test_nothing_of_the_sandbox_stays(who: Bench) -> None:
    built = who.build(
        "FROM base\nRUN cat /etc/resolv.conf /etc/hosts /etc/hostname >/dev/null; ls /dev /sys /proc >/dev/null\n"
    )
    assert built.made == ""
    built = who.build("FROM base\nRUN mkdir -p /run /sys /dev && touch /run/x\n")
    assert built.has("run/x")
    assert not [path for path in built.image.tree if path.startswith(("dev/", "sys/", "proc/"))]


@BOTH
def test_network_none_has_only_a_loopback(who: Bench) -> None:
    built = who.build(
        "FROM base\nRUN --network=none ip -o link | wc -l >/n; ip -o addr >/a; ip route >/r\n"
    )
    assert built.content("n") == "1\n"
    assert "127.0.0.1" in built.content("a")
    assert built.content("r") == ""


@BOTH
def test_a_step_is_shut_in(who: Bench) -> None:
    built = who.build(
        r"""
FROM base
RUN --network=none <<EOF
exec 2>&1 >/out
ls /proc/self/fd | tr '\n' ' '; echo
echo $$; ls /proc | grep -c '^[0-9]'
grep -e CapEff -e CapInh -e CapAmb /proc/self/status
mount -t tmpfs x /tmp && echo mounted || echo no mount
echo 1 >/proc/sys/kernel/hostname && echo wrote || echo read only
head -c1 /proc/kcore | wc -c
ls /dev | tr '\n' ' '; echo
hostname
readlink /proc/self/fd/0
ulimit -c
EOF
""",
    )
    out = built.content("out").splitlines()
    assert out[0].split()[:3] == ["0", "1", "2"]
    assert len(out[0].split()) == 4, "three descriptors and the one ls reads by"
    assert int(out[2]) < 8, "only its own processes"
    caps = dict(line.split(":\t") for line in out[3:6])
    assert caps["CapInh"] == caps["CapAmb"] == "0" * 16
    assert int(caps["CapEff"], 16) == 0xA80425FB
    rest = "\n".join(out[6:])
    assert "no mount" in rest
    assert "read only" in rest
    assert "buildgraph" in rest
    assert "/dev/null" in rest
    devices = next(line for line in out if "urandom" in line).split()
    assert {"null", "zero", "full", "random", "urandom", "tty"} <= set(devices)
    assert len(devices) < 20


def test_a_child_that_stays_behind_is_killed_before_the_layer_is_taken(root_bench: Bench) -> None:
    built = root_bench.build(
        "FROM base\nRUN (setsid sh -c 'while :; do echo x >>/log; sleep 0.01; done' &) ; sleep 0.1\n"
    )
    assert built.content("log").count("x") < 60
    assert root_bench.run("cache", "verify").code == 0


@BOTH
def test_shell_is_used_and_kept(who: Bench) -> None:
    built = who.build(
        r"""
FROM base
SHELL ["/bin/sh", "-e", "-c"]
RUN false || true; echo $- >/flags
CMD run this
FROM base AS second
SHELL ["/bin/awk", "BEGIN { print ARGV[1] > \"/said\" }"]
RUN any text
ENTRYPOINT x
CMD ["y"]
""",
    )
    assert built.content("said") == "any text\n"
    config = built.image.config
    assert config["Shell"][0] == "/bin/awk"
    assert config["Entrypoint"] == [*config["Shell"], "x"]
    assert config["Cmd"] == ["y"]


@BOTH
def test_a_failing_step_says_what_where_and_how_to_replay(who: Bench) -> None:
    dockerfile = (
        "FROM base\nENV WHO=me\nRUN for i in $(seq 1 40); do echo line $i; done; "
        f"echo $WHO at $(pwd) >&2; exit {EXIT_CODE}\nRUN echo never\n"
    )
    said = who.fail(dockerfile, expect=1)
    assert f"ended with exit code {EXIT_CODE}" in said.stderr
    assert "Dockerfile:3" in said.stderr
    error = said.stderr[said.stderr.index("error:") :]
    assert "line 40" in error
    assert "me at /" in error
    assert "line 21\n" not in error, "the last 20 lines only"
    assert "never" not in said.stderr.replace("RUN echo never", "")
    command = next(line for line in error.splitlines() if "buildgraph replay" in line)
    identity = command.split()[-1].strip("`'\"")
    again = who.run("replay", identity, expect=EXIT_CODE)
    assert "line 40" in again.stdout
    assert "me at /" in again.stdout + again.stderr
    other = who.run("replay", identity, "-c", "echo $WHO; test -e /x || echo clean; touch /x")
    assert other.stdout == "me\nclean\n"
    assert who.run("replay", identity, "-c", "test -e /x", expect=1).code == 1
    assert "buildgraph" in who.run("replay", identity, "--describe").stdout
    assert "did you mean" in who.run("replay", identity[:-1] + "z", expect=2).stderr


def test_a_failed_step_is_not_remembered(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM base\nRUN echo tried; exit 1\n")
    for _ in range(2):
        words = [directory, "--progress", "json"]
        said = root_bench.run("build", *root_bench.base(words), *words, expect=1)
        texts = [e["text"] for e in said.events if e["event"] == "node_output"]
        assert "".join(texts) == "tried\n"


def test_limits_of_a_step(root_bench: Bench) -> None:
    said = root_bench.fail("FROM base\nRUN sleep 60\n", None, "--timeout", "0.5", expect=1)
    assert "did not end within 0.5 s" in said.stderr
    eater = "RUN awk 'BEGIN { while (1) s = s s \"xxxxxxxxxxxxxxxx\" }'\n"
    said = root_bench.fail(f"FROM base\n{eater}", None, "--memory", "64m", expect=1)
    assert "memory" in said.stderr or "signal" in said.stderr or "code" in said.stderr


def test_output_cannot_drive_the_terminal(root_bench: Bench) -> None:
    said = root_bench.run(
        "build",
        *root_bench.base([]),
        root_bench.directory({}, "FROM base\nRUN printf '\\033]0;title\\007\\033[2Jplain\\n'\n"),
        "--progress",
        "plain",
    )
    assert "plain" in said.stderr
    assert "\033" not in said.stderr
    assert "\007" not in said.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN --security=insecure id", "--security=insecure is not granted"),
        ("RUN --device=vendor.com/x=all id", "--device"),
        ("RUN --mount=type=magic id", "magic"),
        ("RUN --mount=type=bind id", "target"),
        ("RUN --mount=type=bind,target=/x,propagation=shared id", "propagation"),
        ("RUN --mount=type=cache,target=/ id", "/"),
        ("RUN --network=bridge id", "bridge"),
        ('RUN ["a", 1]', ""),
        ("RUN", ""),
        ("RUN --mont=type=bind id", "did you mean"),
    ],
)
def test_what_run_refuses(root_bench: Bench, line: str, message: str) -> None:
    said = root_bench.fail(f"FROM base\n{line}\n")
    assert message in said.stderr
    assert "Dockerfile:2:" in said.stderr
