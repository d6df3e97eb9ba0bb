"""Knows what the options and knobs of RUN change, and who grants them; must not know how."""

from __future__ import annotations

import re

import pytest

from e2e.building import BOTH, Bench

INSECURE = r"""
FROM base
RUN --security=insecure grep -E 'CapEff|Seccomp:' /proc/self/status >/1; \
    mkdir /m && mount -t tmpfs none /m && echo mounted >>/1 && umount /m && rmdir /m; \
    unshare -m true && echo unshared >>/1; id -u >>/1; cat /proc/self/uid_map >/2; \
    dd if=/proc/kcore of=/dev/null count=1 2>/dev/null || echo no host memory >>/1
RUN grep -E 'CapEff|Seccomp:' /proc/self/status >/3; mount -t tmpfs none /tmp 2>/dev/null || echo no >>/3
"""


@BOTH
def test_insecure_is_granted_on_the_command_line_alone(who: Bench) -> None:
    said = who.fail(INSECURE)
    assert "Dockerfile:3" in said.stderr
    assert "--allow security.insecure" in said.stderr
    said = who.fail(INSECURE, None, "--allow", "network.host")
    assert "--allow security.insecure" in said.stderr
    built = who.build(INSECURE, None, "--allow", "security.insecure")
    notices = [
        e for e in built.result.events if e["event"] == "notice" and "every cap" in e["text"]
    ]
    assert len(notices) == 1
    assert notices[0]["level"] == "warning"
    every, filtered = re.findall(r"CapEff:\s(\w+)\nSeccomp:\s(\d)", built.content("1"))[0]
    assert int(every, 16) >= 0x3FFFFFFFFF
    assert filtered == "0"
    assert built.content("1").splitlines()[2:] == ["mounted", "unshared", "0", "no host memory"]
    assert "4294967295" not in built.content("2"), "it is root of its user namespace alone"
    assert re.findall(r"CapEff:\s(\w+)\nSeccomp:\s(\d)", built.content("3"))[0][1] == "2"
    assert built.content("3").endswith("no\n")
    assert not built.has("m")


def test_words_of_allow(root_bench: Bench) -> None:
    said = root_bench.fail("FROM base\n", None, "--allow", "security.insecur")
    assert "did you mean 'security.insecure'?" in said.stderr


def test_insecure_makes_another_key(root_bench: Bench) -> None:
    root_bench.build("FROM base\nRUN echo key >/1\n")
    line = "FROM base\nRUN --security=insecure echo key >/1\n"
    assert len(root_bench.build(line, None, "--allow=security.insecure").result.built) == 1


def test_the_network_of_the_host_is_granted_on_the_command_line_alone(root_bench: Bench) -> None:
    line = "FROM base\nRUN --network=host ls /sys/class/net >/1 2>/dev/null; echo {} >/2\n"
    said = root_bench.fail(line.format(1))
    assert "--allow network.host" in said.stderr
    assert "Dockerfile:2" in said.stderr
    root_bench.build(line.format(2), None, "--allow", "network.host")
    root_bench.build(line.format(3), None, "--network", "host")
    directory = root_bench.directory(
        {"Boxfile.yaml": "targets:\n  image:\n    network: host\n"}, "FROM base\nRUN true\n"
    )
    said = root_bench.run("build", f"//{directory}:image", *root_bench.base([]), expect=2)
    assert "--allow network.host" in said.stderr


def test_devices_are_refused(root_bench: Bench) -> None:
    said = root_bench.fail("FROM base\nRUN --device=vendor.example/gpu=all true\n")
    assert "--device is not supported" in said.stderr
    assert "Dockerfile:2" in said.stderr


def test_the_host_name_is_a_knob_and_in_the_key(root_bench: Bench) -> None:
    line = "FROM base\nRUN hostname >/1; cat /etc/hostname >>/1\n"
    assert root_bench.build(line).content("1") == "buildgraph\n" * 2
    words = ["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=buildkitsandbox"]
    named = root_bench.build(line, None, *words)
    assert named.content("1") == "buildkitsandbox\n" * 2
    assert not [e for e in named.result.events if e["event"] == "notice"], "a knob needs no ARG"
    said = root_bench.fail(line, None, "--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=a b")
    assert "BUILDKIT_SANDBOX_HOSTNAME" in said.stderr


def test_proxies_are_seen_and_kept_nowhere(root_bench: Bench) -> None:
    def built(value: str, arg: str = "") -> tuple[int, str, str]:
        words = ["--build-arg", f"http_proxy={value}"]
        done = root_bench.build(
            f"FROM base\n{arg}RUN echo ${{http_proxy:+set}} >/1\n", None, *words
        )
        text = str(done.image.document)
        return len(done.result.built), done.content("1"), text

    assert built("http://canary:1")[:2] == (1, "set\n")
    count, _, text = built("http://canary:2")
    assert count == 0
    assert "canary" not in text
    assert built("http://canary:2", "ARG http_proxy\n")[0] == 1
    assert built("http://canary:3", "ARG http_proxy\n")[0] == 1


def test_a_long_output_is_cut(root_bench: Bench) -> None:
    line = "FROM base\nRUN {} echo begin; yes | head -c 5000; echo; echo the end; exit 3\n"
    limit = {"BUILDKIT_STEP_LOG_MAX_SIZE": "1000"}
    said = root_bench.fail(line.format(":;"), None, expect=1, env=limit)
    assert "the end" not in said.stderr.replace("echo the end", "")
    assert "more than 1000 bytes" in said.stderr
    said = root_bench.fail(line.format("true;"), None, expect=1)
    assert "the end" in said.stderr.replace("echo the end", "")
    bad = {"BUILDKIT_STEP_LOG_MAX_SIZE": "much"}
    assert "BUILDKIT_STEP_LOG_MAX_SIZE" in root_bench.fail("FROM base\n", env=bad).stderr


@pytest.mark.parametrize("times", ["normal", "preserve"])
def test_times_of_what_a_command_makes(root_bench: Bench, times: str) -> None:
    boxfile = f"targets:\n  image:\n    timestamps: {times}\n"
    directory = root_bench.directory(
        {"Boxfile.yaml": boxfile},
        "FROM base\nRUN touch -d @1700000000 /1; touch -d @100000000 /2\n",
    )
    built = root_bench.build_in(directory)
    assert built.image.tree["1"].mtime == (1700000000 if times == "preserve" else 315532800)
    assert built.image.tree["2"].mtime == 100000000


@BOTH
def test_mounts_leave_no_trace(who: Bench) -> None:
    """A39: no stub, no directory above one, and nothing new about directories that were there."""
    line = (
        "FROM base\nRUN mkdir -p /have/deep && chmod 0711 /have && chown 3:4 /have/deep\n"
        "RUN --mount=type=cache,target=/have/deep/c --mount=type=tmpfs,target=/new/a/b"
        " --mount=type=secret,id=s,target=/have/s --mount=type=bind,target=/have/deep/ctx"
        " --mount=type=ssh --mount=type=bind,source=f,target=/etc/f"
        " stat -c %a:%u:%g /have /have/deep | tr '\\n' ' '; ls /new/a/b /etc/f\n"
    )
    built = who.build(line, {"f": "f"}, "--secret", "id=s,env=PATH")
    assert len(built.image.layers) == 2, "the step with mounts changed nothing"
    text = next(e["text"] for e in built.result.events if "711" in str(e.get("text")))
    assert "711:0:0 755:3:4" in text
    beside = who.build(
        "FROM base\nRUN --mount=type=tmpfs,target=/new/a/b --mount=type=tmpfs,target=/new/c"
        " touch /new/a/kept /new/a/b/lost; rm -rf /new/c 2>/dev/null; true\n"
    )
    assert [p for p in beside.image.tree if p.startswith("new")] == ["new", "new/a", "new/a/kept"]


@BOTH
def test_binds_of_several_layers_and_of_files(who: Bench) -> None:
    built = who.build(
        "FROM base AS two\nRUN mkdir /d && echo 1 >/d/1\nRUN echo 2 >/d/2 && echo f >/file\n"
        "FROM scratch AS empty\n"
        "FROM base\nWORKDIR /w\n"
        "RUN --mount=from=two,target=all touch all/d/x 2>/dev/null || cat all/d/1 all/d/2 >1\n"
        "RUN --mount=from=two,source=d,target=all,rw touch all/x && rm all/1 && ls all >2\n"
        "RUN --mount=from=two,source=/file,target=/f,rw echo more >>/f && cat /f >3\n"
        "RUN --mount=from=two,source=/file,target=/f cat /f >4\n"
        "RUN --mount=from=empty,target=/e ls -A /e | wc -l >5\n"
    )
    assert [built.content(f"w/{n}") for n in range(1, 6)] == [
        "1\n2\n",
        "2\nx\n",
        "f\nmore\n",
        "f\n",
        "0\n",
    ]


@BOTH
def test_secrets_in_detail(who: Bench) -> None:
    words = ["--secret", "id=a/b,env=ONE", "--secret", "id=two,env=TWO"]
    built = who.build(
        "FROM base\nWORKDIR /w\nARG WHERE=there\n"
        "RUN --mount=type=secret,id=a/b cat /run/secrets/b | wc -c >1; cat /run/secrets/b\n"
        "RUN --mount=type=secret,src=two,env=X,target=$WHERE/s wc -c <there/s >2; echo $X | wc -c >>2\n"
        "RUN --mount=type=secret,target=/x/two,required wc -c </x/two >3\n",
        None,
        *words,
        env={"ONE": "canary-one", "TWO": "canary-number-two"},
    )
    assert [built.content(f"w/{n}").split() for n in (1, 2, 3)] == [["10"], ["17", "18"], ["17"]]
    shown = "".join(str(e.get("text", "")) for e in built.result.events)
    assert "***" in shown
    assert "canary" not in built.result.stdout + built.result.stderr
    assert [p for p in built.image.tree if p.startswith("w/")] == ["w/1", "w/2", "w/3"]


def test_a_secret_has_a_size(root_bench: Bench) -> None:
    line = "FROM base\nRUN --mount=type=secret,id=s true\n"
    directory = root_bench.directory(
        {"most": bytes(500 * 1024), "more": bytes(500 * 1024 + 1)}, line
    )
    place = root_bench.workspace.path(directory)
    root_bench.build_in(directory, "--secret", f"id=s,src={place}/most")
    words = ["build", directory, "--no-cache", *root_bench.base([])]
    said = root_bench.run(*words, "--secret", f"id=s,src={place}/more", expect=2)
    assert "500 KiB" in said.stderr


@pytest.mark.parametrize("target", [".", "/x/..", "$ROOT", "../.."])
def test_the_root_is_no_place_for_a_mount(root_bench: Bench, target: str) -> None:
    said = root_bench.fail(f"FROM base\nARG ROOT=/\nRUN --mount=type=tmpfs,target={target} true\n")
    assert "cannot cover the root" in said.stderr
    assert "Dockerfile:3" in said.stderr


def test_plan_and_explain_take_the_grant_too(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM base\nRUN --security=insecure true\n")
    for command in ("plan", "explain"):
        words = [command, directory, *root_bench.base([])]
        assert "--allow security.insecure" in root_bench.run(*words, expect=2).stderr
        root_bench.run(*words, "--allow", "security.insecure")
