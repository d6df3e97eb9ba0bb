"""Knows what each RUN --mount shows and what of it stays; must not know how mounts are made."""

from __future__ import annotations

import os
import subprocess

import pytest

from e2e.building import BOTH, Bench, Link


@BOTH
def test_bind_of_the_context_of_a_stage_and_of_a_file(who: Bench) -> None:
    built = who.build(
        r"""
FROM base AS other
RUN mkdir -p /src/in && echo stage >/src/in/f && ln -s / /src/root && echo two >/two
FROM base
WORKDIR /w
RUN --mount=target=ctx cat ctx/f >/1 && ls ctx >/ls
RUN --mount=type=bind,source=sub,target=/m cat /m/deep >/2; touch /m/x 2>/dev/null || echo ro >>/2
RUN --mount=source=f,dst=/single,readonly cat /single >/3
RUN --mount=from=other,src=src,target=/s,rw cat /s/in/f >/4; echo gone >/s/in/new; cat /s/in/new >>/4
RUN --mount=from=other,target=/all cat /all/two >/5
RUN --mount=from=other,src=/src/in,target=/s ls /s >/6
""",
        {"f": "f", "sub/deep": "deep\n", ".dockerignore": "hidden\n", "hidden": "x"},
    )
    content = built.content
    assert content("1") == "f"
    assert content("ls").split() == [".dockerignore", "Dockerfile", "f", "sub"] or content(
        "ls"
    ).split() == ["Dockerfile", "f", "sub"]
    assert content("2") == "deep\nro\n"
    assert (content("3"), content("5")) == ("f", "two\n")
    assert content("4") == "stage\ngone\n"
    assert content("6") == "f\n"
    assert {
        path for path in built.image.tree if path.split("/")[0] in ("m", "s", "all", "single")
    } == set()
    assert [path for path in built.image.tree if path.startswith("w/")] == []


def test_the_source_of_a_writable_bind_is_not_changed(root_bench: Bench) -> None:
    directory = root_bench.directory(
        {"f": "f"},
        "FROM base\nRUN --mount=target=/m,rw echo x >>/m/f && rm /m/Dockerfile && cat /m/f >/1\n",
    )
    built = root_bench.build_in(directory)
    assert built.content("1") == "fx\n"
    assert root_bench.workspace.read(f"{directory}/f") == "f"
    assert root_bench.workspace.path(f"{directory}/Dockerfile").exists()


@pytest.mark.parametrize("source", ["link", "../../../../etc", "/etc"])
def test_a_bind_shows_nothing_of_the_host(root_bench: Bench, source: str) -> None:
    said = root_bench.fail(
        f"FROM base\nRUN --mount=source={source},target=/m cat /m/hostname\n",
        {"link": Link("/etc")},
        expect=None,
    )
    assert said.code == 2, said.stderr
    assert os.uname().nodename not in said.stdout


@BOTH
def test_tmpfs(who: Bench) -> None:
    built = who.build(
        "FROM base\nRUN --mount=type=tmpfs,target=/t,size=1m "
        "df -k /t | tail -1 >/size; echo x >/t/f; dd if=/dev/zero of=/t/g bs=1M count=2 2>/dev/null"
        " || echo full >>/size\n"
    )
    assert "1024" in built.content("size")
    assert "full" in built.content("size")
    assert not built.has("t")


@BOTH
def test_cache_mounts_live_between_builds_and_stay_out_of_layers(who: Bench) -> None:
    line = "--mount=type=cache,target=/c,id=kept-between"
    first = who.build(f"FROM base\nRUN {line} ls /c | wc -l >/n; echo 1 >/c/one\n")
    second = who.build(f"FROM base\nRUN {line} cat /c/one >/n\n")
    own = who.build("FROM base\nRUN --mount=type=cache,target=/c ls /c | wc -l >/n\n")
    seeded = who.build(
        "FROM base AS seed\nRUN mkdir /s && echo seed >/s/f\nFROM base\n"
        "RUN --mount=type=cache,target=/c,from=seed,source=/s,mode=0700,uid=1000,gid=1000,id=seeded"
        " stat -c %a:%u:%g /c >/n; cat /c/f >>/n\n"
    )
    owned = who.build(
        "FROM base\nRUN --mount=type=cache,target=/c,mode=0700,uid=1000,gid=1000,id=owned"
        " stat -c %a:%u:%g /c >/n; touch /c/x\n"
    )
    assert first.content("n") == "0\n"
    assert second.content("n") == "1\n"
    assert own.content("n") == "0\n"
    assert "seed" in seeded.content("n")
    assert owned.content("n") == "700:1000:1000\n"
    for built in (first, second, own, seeded, owned):
        assert not built.has("c")


def test_sharing_of_cache_mounts(root_bench: Bench) -> None:
    script = (
        "if mkdir /c/lock 2>/dev/null; then sleep 0.4; rmdir /c/lock; echo alone >/{n};"
        " else echo together >/{n}; fi"
    )
    for sharing, expected in (("locked", {"alone"}), ("private", {"alone"})):
        stages = [
            f"FROM base AS s{n}\nRUN --mount=type=cache,target=/c,id={sharing},sharing={sharing} "
            + script.format(n=n)
            for n in range(3)
        ]
        joined = "".join(f"COPY --from=s{n} /{n} /{n}\n" for n in range(3))
        built = root_bench.build("\n".join([*stages, "FROM scratch", joined]), None, "-j3")
        assert {built.content(str(n)).strip() for n in range(3)} == expected


@BOTH
def test_secrets(who: Bench) -> None:
    directory = who.directory(
        {"token": "CANARY-file"},
        r"""
FROM base
RUN --mount=type=secret,id=token cat /run/secrets/token | wc -c >/1; stat -c %a:%u:%g /run/secrets/token >>/1
RUN --mount=type=secret,id=token,target=/etc/t,mode=0440,uid=1000,gid=1000 stat -c %a:%u:%g /etc/t >/2
RUN --mount=type=secret,id=envy,env=TOKEN echo ${#TOKEN} >/3; test -e /run/secrets/envy || echo no file >>/3
RUN --mount=type=secret,id=none test -e /run/secrets/none || echo none >/4
RUN --mount=type=secret,id=token cp /run/secrets/token /dev/shm/x && rm /dev/shm/x && echo ok >/5
""",
    )
    token = who.workspace.path(f"{directory}/token")
    words = ["--secret", f"id=token,src={token}", "--secret", "id=envy,env=SECRET_VALUE"]
    built = who.build_in(directory, *words, env={"SECRET_VALUE": "CANARY-env"})
    assert built.content("1") == "11\n400:0:0\n"
    assert built.content("2") == "440:1000:1000\n"
    assert built.content("3") == "10\nno file\n"
    assert built.content("4") == "none\n"
    assert not [path for path in built.image.tree if "secrets" in path or path == "etc/t"]
    token.write_text("CANARY-changed")
    again = who.build_in(directory, *words, env={"SECRET_VALUE": "other"})
    assert again.result.built == [], "a secret's value is no part of a key"
    assert files_with("CANARY", who) == ""


def files_with(value: str, who: Bench) -> str:
    """Return the names of the files of the store that hold `value`."""
    where = str(who.workspace.store(who.user))
    words = ["grep", "-rlaF", value, where]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_a_required_secret_must_be_given(root_bench: Bench) -> None:
    said = root_bench.fail("FROM base\nRUN --mount=type=secret,id=s,required=true true\n")
    assert "'s'" in said.stderr
    assert "--secret id=s" in said.stderr


def test_a_secret_of_a_failed_step_is_not_kept(root_bench: Bench) -> None:
    said = root_bench.fail(
        "FROM base\nRUN --mount=type=secret,id=s,env=S --mount=type=secret,id=s echo ${#S}; exit 3\n",
        None,
        "--secret=id=s,env=THE_SECRET",
        expect=1,
        env={"THE_SECRET": "CANARY-failed"},
    )
    assert "13" in said.stderr
    assert files_with("CANARY-failed", root_bench) == ""


def test_mounts_by_content_hit_when_the_stage_is_rebuilt_alike(root_bench: Bench) -> None:
    def dockerfile(noise: str) -> str:
        return (
            f"FROM base AS b\nRUN mkdir /out && echo same >/out/f && echo {noise} >/other\n"
            "FROM base\nRUN --mount=from=b,src=out,target=/out,rw cat /out/f >/got\n"
        )

    root_bench.build(dockerfile("one"))
    again = root_bench.build(dockerfile("two"))
    assert [title.split()[0:2] for title in again.result.built] == [["RUN", "mkdir"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("type=cache,target=/c,sharing=some", "sharing"),
        ("type=bind,target=/c,mode=0700", "mode"),
        ("type=secret,id=x,from=base", "from"),
        ("type=tmpfs,target=/c,size=big", "size"),
        ("type=bind,source=nothere,target=/c", "nothere"),
        ("type=cache,target=/c,tarjet=/d", "tarjet"),
        ("type=cache,target=/c,mode=rwx", "mode"),
    ],
)
def test_what_mounts_refuse(root_bench: Bench, options: str, message: str) -> None:
    said = root_bench.fail(f"FROM base\nRUN --mount={options} true\n")
    assert message in said.stderr
    assert "Dockerfile:2:" in said.stderr
