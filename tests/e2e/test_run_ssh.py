"""Knows what a step may do with an ssh agent that it was lent; must not know how it is lent."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from e2e.building import BOTH, Bench, Files, call, needs

pytestmark = needs("ssh-agent", "ssh-add", "ssh-keygen", "ldd")


@contextlib.contextmanager
def agent(who: Bench, *keys: str) -> Iterator[str]:
    """Start an agent as whoever builds, with a key for each comment; yields its socket."""
    user = who.user
    more = {"user": user.uid, "group": user.gid, "extra_groups": []} if user is not None else {}
    said = call("ssh-agent", "-s", **more).stdout
    pid = int(re.findall(r"SSH_AGENT_PID=(\d+)", said)[0])
    socket = re.findall(r"SSH_AUTH_SOCK=([^;]+)", said)[0]
    try:
        for comment in keys:
            path = who.workspace.path(f"key-{pid}-{comment}")
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)
            if user is not None:
                os.chown(path, user.uid, user.gid)
            call("ssh-add", "-q", path, env={"SSH_AUTH_SOCK": socket}, **more)
        yield socket
    finally:
        os.kill(pid, signal.SIGTERM)


def ssh_programs() -> Files:
    """Return ssh-add and what it is linked with, as files of a context."""
    program = shutil.which("ssh-add")
    assert program is not None
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"(/\S+)", said)
    files = {f"ssh{path}": Path(path).read_bytes() for path in [*libraries]}
    return {**files, "ssh/bin/ssh-add": Path(program).read_bytes()}


DOCKERFILE = r"""
FROM base
COPY --chmod=0755 ssh/ /
ENV LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/lib/aarch64-linux-gnu
RUN --mount=type=ssh ssh-add -l >/1; echo $SSH_AUTH_SOCK >>/1; stat -c %a:%u:%g:%F $SSH_AUTH_SOCK >>/1
RUN --mount=type=ssh,id=other,target=/a/sock,required=true --mount=type=ssh,mode=0666 \
    ssh-add -l >/2; echo $SSH_AUTH_SOCK >>/2; SSH_AUTH_SOCK=/run/buildkit/ssh_agent.1 ssh-add -l >>/2
RUN --mount=type=ssh ssh-add -D; ssh-add -l | wc -l >/3
RUN --mount=type=ssh,id=nobody test -e $SSH_AUTH_SOCK || echo none $SSH_AUTH_SOCK >/4
USER 1000
RUN --mount=type=ssh ssh-add -l >/tmp/5 2>&1 || echo refused >>/tmp/5
RUN --mount=type=ssh,uid=1000,gid=1000 ssh-add -l >/tmp/6
"""


@BOTH
def test_an_agent_is_lent(who: Bench) -> None:
    directory = who.directory(ssh_programs(), DOCKERFILE)
    with agent(who, "first") as one, agent(who, "second", "third") as two:
        words = ["--ssh", "default", "--ssh", f"other={two}"]
        built = who.build_in(directory, *words, env={"SSH_AUTH_SOCK": one})
        said = built.content
        assert re.search(
            r"first \(ED25519\)\n/run/buildkit/ssh_agent.0\n600:0:0:socket\n", said("1")
        )
        assert re.findall(r"(\w+) \(ED|(/a/sock)", said("2")) == [
            ("second", ""),
            ("third", ""),
            ("", "/a/sock"),
            ("first", ""),
        ]
        assert said("3") == "1\n", "a step can take no key out of the agent"
        assert said("4") == "none /run/buildkit/ssh_agent.0\n"
        assert "refused" in said("tmp/5")
        assert "first" in said("tmp/6")
        assert not [p for p in built.image.tree if p.startswith(("run", "a"))]
        again = who.build_in(directory, *words, env={"SSH_AUTH_SOCK": two})
        assert again.result.built == [], "which agent it is, is no part of a key"


def test_what_is_said_where_there_is_no_agent(root_bench: Bench, tmp_path: Path) -> None:
    dockerfile = "FROM base\nRUN --mount=type=ssh,id=x,required=true true\n"
    said = root_bench.fail(dockerfile)
    assert "Dockerfile:2" in said.stderr
    assert "--ssh x" in said.stderr
    said = root_bench.fail(dockerfile, None, "--ssh=x")
    assert "SSH_AUTH_SOCK is not set" in said.stderr
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    said = root_bench.fail(dockerfile, None, f"--ssh=x={key}")
    assert f"ssh-add {key}" in said.stderr
    said = root_bench.fail(dockerfile, None, f"--ssh=x={tmp_path}/nothing")
    assert "No such file" in said.stderr


def test_a_failed_step_is_replayed_without_the_agent(root_bench: Bench) -> None:
    directory = root_bench.directory(
        {}, "FROM base\nRUN --mount=type=ssh ls -d /run/b* && exit 3\n"
    )
    with agent(root_bench) as socket:
        words = ["build", directory, *root_bench.base([]), "--ssh", f"default={socket}"]
        said = root_bench.run(*words, expect=1)
    (replay,) = re.findall(r"buildgraph replay (\w+)", said.stderr)
    again = root_bench.run("replay", replay, expect=None)
    assert again.code != 70
    assert "Traceback" not in again.stderr
