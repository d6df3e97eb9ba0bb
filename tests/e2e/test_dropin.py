"""Knows the forms and flags of `docker build` that scripts use, and holds ours beside docker's."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import zstandard

from e2e.building import BOTH, Bench, as_root, needs
from e2e.git_server import Server, git, new_repository, serving
from e2e.harness import clean_environment, me
from e2e.images import Image, listing, read_archive
from e2e.peers import DOCKER, Docker, docker

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
ALL = "FROM scratch\nCOPY . /\n"


def tar(files: Mapping[str, str | tuple[str, int, int]], form: str = "plain") -> bytes:
    """Return an archive: path -> text, or (text, mode, owner); a path in `/` is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, value in files.items():
            content, mode, owner = value if isinstance(value, tuple) else (value, 0o644, 0)
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mode, entry.uid, entry.gid = mode, owner, owner
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return PACKERS[form](buffer.getvalue())


def run(
    bench: Bench,
    *words: str,
    data: bytes = b"",
    expect: int = 0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run `build` with something on stdin."""
    user = bench.user or me()
    environment = clean_environment(user) | {
        "BUILDGRAPH_STORE": str(bench.workspace.store(bench.user))
    }
    if not user.is_me:
        as_user = {"user": user.uid, "group": user.gid, "extra_groups": []}
    else:
        as_user = {}
    done = subprocess.run(
        [user.python, "-m", "buildgraph", "build", *words],
        input=data,
        env=environment | dict(env or {}),
        cwd=bench.workspace.root,
        capture_output=True,
        check=False,
        timeout=120,
        **as_user,  # type: ignore[call-overload]  # ids of the user
    )
    said = done.stderr.decode()
    assert done.returncode == expect, said
    assert "Traceback" not in said
    return done


def build(bench: Bench, *words: str, data: bytes = b"", **more: Mapping[str, str]) -> Image:
    """Build and read the image back."""
    archive = bench.workspace.path("dropin.tar")
    run(bench, *words, "-o", f"type=oci,dest={archive}", data=data, **more)
    try:
        return read_archive(archive)
    finally:
        archive.unlink()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    top = tmp_path_factory.mktemp("served")
    made = new_repository(top / "shop.git")
    made.commit(
        {
            "Dockerfile": ALL,
            ".dockerignore": "secret\n",
            "secret": "kept: ignore files are for directories\n",
            "run.sh": ("exec", "#!/bin/sh\n"),
            "link": ("link", "run.sh"),
            "app/dockerfile": "FROM scratch\nCOPY run /\n",
            "app/Other": "FROM scratch\nCOPY run /other\n",
            "app/run": "app",
        }
    )
    git(made.path, "tag", "-a", "v1", "-m", "v1")
    made.commit({"Dockerfile": "FROM scratch\nCOPY new /\n", "new": "new"})
    with serving(top) as found:
        yield found


# -- stdin -------------------------------------------------------------------------------


@BOTH
def test_a_dockerfile_on_stdin_has_no_context(who: Bench) -> None:
    image = build(who, "-", data=b"FROM scratch\nLABEL a=b\n")
    assert image.config["Labels"] == {"a": "b"}
    said = run(who, "-", data=b"FROM scratch\nCOPY f /\n", expect=2).stderr.decode()
    assert "<stdin>:2:" in said
    assert "not found" in said


def test_a_dockerfile_on_stdin_with_a_path(root_bench: Bench) -> None:
    files = {"f": "f", "no": "no", ".dockerignore": "no\n", "Dockerfile": "broken"}
    directory = root_bench.directory(files)
    image = build(root_bench, "-f", "-", directory, data=b"FROM scratch\nCOPY f* n* /\n")
    assert sorted(image.tree) == ["f"]


@pytest.mark.parametrize("form", sorted(PACKERS))
def test_an_archive_on_stdin_is_a_context(root_bench: Bench, form: str) -> None:
    files = {
        "Dockerfile": ALL,
        ".dockerignore": "*\n",
        "f": ("x", 0o600, 1000),
        "d/": ("", 0o750, 5),
        "d/g": ("y", 0o4755, 5),
    }
    image = build(root_bench, "-", data=tar(files, form))
    assert {p: (e.mode, e.uid) for p, e in image.tree.items()} == {
        "Dockerfile": (0o644, 0),
        ".dockerignore": (0o644, 0),
        "f": (0o600, 1000),
        "d": (0o750, 5),
        "d/g": (0o4755, 5),
    }


@BOTH
def test_an_archive_may_name_its_dockerfile(who: Bench) -> None:
    archive = tar({"a/Other": "FROM scratch\nCOPY f /a\n", "f": "1", "dockerfile": ALL}, "gzip")
    assert sorted(build(who, "-", "-f", "a/Other", data=archive).tree) == ["a"]
    assert "f" in build(who, "-", data=archive).tree  # `dockerfile` will do
    said = run(who, "-", "-f", "none", data=archive, expect=2).stderr.decode()
    assert "has no none" in said


def test_an_archive_cannot_reach_out_of_its_context(root_bench: Bench) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("Dockerfile")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    said = run(root_bench, "-", data=buffer.getvalue(), expect=2).stderr.decode()
    assert "has no Dockerfile" in said
    for name in ("../x", "a/../../x"):
        said = run(
            root_bench, "-", data=tar({name: "x", "Dockerfile": ALL}), expect=2
        ).stderr.decode()
        assert "<stdin>" in said


def test_what_stdin_cannot_be(root_bench: Bench) -> None:
    for words, data, message in (
        (("-f", "-", "-"), b"FROM scratch\n", "both the context and the Dockerfile"),
        (("-f", "Other", "-"), b"FROM scratch\n", "both the Dockerfile"),
        (("-",), b"", "empty"),
        (("-",), tar({"f": "x"})[:512], "cut off"),
        (("-",), gzip.compress(tar({"Dockerfile": ALL}))[:-20], "<stdin>"),
    ):
        assert message in run(root_bench, *words, data=data, expect=2).stderr.decode()


def test_the_same_bytes_over_stdin_hit_and_are_never_taken_for_others(root_bench: Bench) -> None:
    for _ in range(2):
        one = build(root_bench, "-", data=tar({"Dockerfile": ALL, "f": "1"}))
        two = build(root_bench, "-", data=tar({"Dockerfile": ALL, "f": "2"}))
        assert one.tree["f"].content == b"1"
        assert two.tree["f"].content == b"2"
    again = run(root_bench, "-", "--progress=plain", data=tar({"Dockerfile": ALL, "f": "1"}))
    assert b"CACHED" in again.stderr


# -- repositories ------------------------------------------------------------------------


@BOTH
def test_a_repository_is_a_context(who: Bench, server: Server) -> None:
    url = f"{server.url}/shop.git"
    image = build(who, f"{url}#v1")
    assert {p: (e.mode, e.uid) for p, e in image.tree.items() if "/" not in p} == {
        "Dockerfile": (0o644, 0),
        ".dockerignore": (0o644, 0),
        "secret": (0o644, 0),
        "run.sh": (0o755, 0),
        "link": (0o777, 0),
        "app": (0o755, 0),
    }


def test_a_repository_takes_a_directory_and_a_dockerfile(root_bench: Bench, server: Server) -> None:
    url = f"{server.url}/shop.git"
    assert sorted(build(root_bench, url).tree) == ["new"]
    assert build(root_bench, f"{url}#v1:app").tree["run"].content == b"app"
    assert sorted(build(root_bench, f"{url}#v1:app", "-f", "Other").tree) == ["other"]
    given = build(root_bench, f"{url}#v1:app", "-f", "-", data=b"FROM scratch\nCOPY run /stdin\n")
    assert sorted(given.tree) == ["stdin"]
    kept = build(root_bench, f"{url}?tag=v1", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1")
    assert ".git/HEAD" in kept.tree


def test_a_repository_is_a_named_context(root_bench: Bench, server: Server) -> None:
    words = ["--build-context", f"shop={server.url}/shop.git#v1:app"]
    image = build(root_bench, "-", *words, data=b"FROM scratch\nCOPY --from=shop run /\n")
    assert sorted(image.tree) == ["run"]


def test_a_repository_that_is_not_there_says_whose_move_it_is(
    root_bench: Bench, server: Server
) -> None:
    for url, code, message in (
        (f"{server.url}/nothere.git", 3, "not found"),
        (f"{server.url}/shop.git#nothere", 2, "no branch or tag 'nothere'"),
        (f"{server.url}/shop.git#v1:nothere", 2, "nothere is not there"),
        (f"{server.url}/shop.git?depht=1", 2, "no key 'depht'"),
        ("ssh://-oProxyCommand=x/p", 2, "cannot be the host"),
    ):
        assert message in run(root_bench, url, expect=code).stderr.decode()


def test_a_private_repository_takes_its_token_as_a_secret(
    root_bench: Bench, tmp_path: Path
) -> None:
    new_repository(tmp_path / "p.git").commit({"Dockerfile": ALL})
    with serving(tmp_path) as private:
        private.ask_for("x-access-token", "canary-token")
        url = f"{private.url}/p.git"
        said = run(root_bench, url, expect=3).stderr.decode()
        assert "hint: give a token" in said
        secret = ["--secret", "id=GIT_AUTH_TOKEN,env=TOKEN"]
        done = run(root_bench, url, *secret, "--progress=plain", env={"TOKEN": "canary-token"})
        assert b"canary" not in done.stdout + done.stderr


# -- flags -------------------------------------------------------------------------------


def test_flags_that_mean_nothing_are_said_and_the_rest_do_something(root_bench: Bench) -> None:
    words = "--rm --force-rm=true --compress --cache-from=x --cache-to=type=inline --pull=false"
    words += " --provenance=false --sbom=false --attest=type=sbom,disabled=true --no-cache=0"
    done = run(
        root_bench, "-", *words.split(), "--progress=plain", data=b"FROM scratch\nLABEL a=b\n"
    )
    said = done.stderr.decode()
    for flag in ("--rm", "--force-rm", "--compress", "--cache-from", "--cache-to"):
        assert f"{flag} has no effect: " in said
    assert "provenance" not in said


@BOTH
def test_what_has_no_effect_is_said_to_an_ordinary_user_too(who: Bench) -> None:
    directory = who.directory({}, "FROM scratch\nLABEL c=d\n")
    done = who.run("build", directory, "--rm", "--progress=plain")
    assert "--rm has no effect: " in done.stderr


def test_hosts_limits_and_shared_memory_reach_steps(root_bench: Bench) -> None:
    step = "FROM base\nRUN cat /etc/hosts > h; ulimit -n > n; df -k /dev/shm | tail -n1 > s\n"
    words = ["--add-host", "db:10.1.2.3", "--add-host", "six=[::2]", "--ulimit", "nofile=100:200"]
    built = root_bench.build(step, None, *words, "--shm-size", "8m")
    assert "10.1.2.3\tdb\n" in built.content("h")
    assert "::2\tsix\n" in built.content("h")
    assert built.content("n") == "100\n"
    assert built.content("s").split()[1] == "8192"


def test_a_hosts_name_is_in_the_key_and_its_address_is_not(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM base\nRUN echo keyed > k\n")

    def built(*words: str) -> list[str]:
        base = root_bench.base([])
        return root_bench.workspace.build(directory, *base, *words).built

    assert built("--add-host=a:10.0.0.1") == ["RUN echo keyed > k"]
    assert built("--add-host=a:10.0.0.2") == []
    assert built("--add-host=b:10.0.0.2") == ["RUN echo keyed > k"]
    assert built("--add-host=b:10.0.0.2", "--memory=1g") == []
    assert built("--add-host=b:10.0.0.2", "--shm-size=8m") == ["RUN echo keyed > k"]


def test_plan_and_explain_take_what_build_takes(root_bench: Bench) -> None:
    text = "ARG A=1\nFROM scratch AS one\nCOPY f /one\nFROM scratch AS two\nARG A\nLABEL a=$A\n"
    directory = root_bench.directory({"f": "f", "Other": text})
    words = ["-f", f"{directory}/Other", "--target", "one", "--platform", "linux/arm64", directory]
    said = root_bench.run("plan", "--build-arg", "A=2", *words).stdout
    assert "COPY f /one" in said
    assert "COPY f /one" in root_bench.run("explain", "--build-arg", "A=2", *words).stdout
    bound = ["--build-context", f"n={directory}"]
    assert (
        "--from=n"
        in root_bench.run(
            "plan", *bound, root_bench.directory({}, "FROM scratch\nCOPY --from=n f /\n")
        ).stdout
    )


def test_metadata_is_written_under_buildx_names(root_bench: Bench) -> None:
    place = root_bench.workspace.path("meta.json")
    run(
        root_bench,
        "-",
        "-t",
        "x:1",
        "--metadata-file",
        str(place),
        data=b"FROM scratch\nLABEL a=b\n",
    )
    assert sorted(json.loads(place.read_text())) == [
        "containerimage.config.digest",
        "containerimage.descriptor",
        "containerimage.digest",
        "image.name",
    ]


def test_build_arguments_without_a_value_come_from_the_environment(root_bench: Bench) -> None:
    text = b"FROM scratch\nARG A=none\nARG B=none\nLABEL a=$A b=$B\n"
    words = ["-", "--build-arg", "A", "--build-arg", "B"]
    image = build(root_bench, *words, data=text, env={"A": "here"})
    assert image.config["Labels"] == {"a": "here", "b": "none"}


# -- beside docker -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def daemon() -> Iterator[Docker]:
    with docker() as found:
        yield found


def by_docker(daemon: Docker, *words: str, data: bytes, cwd: Path) -> bytes:
    """Run `docker build` with something on stdin; returns its stdout."""
    done = subprocess.run(
        [DOCKER, "build", "-q", "--network=none", *words],
        input=data,
        env=daemon.env,
        cwd=cwd,
        capture_output=True,
        check=True,
    )
    return done.stdout


@as_root
@needs("dockerd")
@pytest.mark.parametrize("form", ["archive", "dockerfile", "dockerfile with a path"])
def test_docker_makes_the_same_of_stdin(root_bench: Bench, daemon: Docker, form: str) -> None:
    files = {"f": "f", "no": "no", ".dockerignore": "no\n", "sub/x": "x"}
    directory = root_bench.directory(files)
    owned = {"f": ("x", 0o640, 1000), "d/": ("", 0o700, 7), "d/g": ("y", 0o755, 7)}
    words, data = {
        "archive": (["-"], tar({"Dockerfile": ALL, ".dockerignore": "f\n", **owned}, "gzip")),
        "dockerfile": (["-"], b"FROM scratch\nLABEL a=b\n"),
        "dockerfile with a path": (["-f", "-", directory], b"FROM scratch\nCOPY . /x/\n"),
    }[form]
    root = root_bench.workspace.root
    iid = root_bench.workspace.path("iid")
    theirs = by_docker(daemon, *words, "-t", "dropin", "--iidfile", str(iid), data=data, cwd=root)
    assert theirs == (iid.read_text() + "\n").encode()
    ours = run(root_bench, "-q", *words, "--iidfile", str(iid), data=data)
    assert ours.stdout == (iid.read_text() + "\n").encode()
    assert ours.stderr == b""
    assert len(iid.read_text()) == len("sha256:") + 64
    made = build(root_bench, *words, data=data)
    if form == "dockerfile":  # docker saves no image without a layer
        labels = daemon.call("image", "inspect", "-f", "{{json .Config.Labels}}", "dropin")
        assert made.config["Labels"] == json.loads(labels)
        return
    archive = daemon.home / "dropin.tar"
    daemon.call("save", "-o", archive, "dropin")
    assert listing(made.tree) == listing(read_archive(archive).tree)
