"""What texts of `run` mean, and what an image and options become together."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildgraph.dockerfile.cut import up_to
from buildgraph.dockerfile.parser import parse
from buildgraph.engine.container.options import HostBind, Publish, RunOptions, Volume
from buildgraph.engine.container.parse import (
    parse_host,
    parse_publish,
    parse_tmpfs,
    parse_ulimit,
    parse_variable,
    parse_volume,
    read_env_file,
)
from buildgraph.engine.container.process import command_of, stop_signal_of
from buildgraph.engine.container.start import host_bind
from buildgraph.errors import InputError
from buildgraph.oci.types import Chain, Image, ImageConfig, Platform
from buildgraph.sandbox.spec import Bind, Limits, SandboxSpec, Tmpfs, from_json, to_json


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("/data", Volume("/data")),
        ("name:/data", Volume("/data", "name")),
        ("name:/data:ro", Volume("/data", "name", read_only=True)),
        ("name:/data:nocopy", Volume("/data", "name", copy=False)),
        ("./d:/x/", HostBind("./d", "/x")),
        ("/d:/x:rw", HostBind("/d", "/x", read_only=False)),
        ("../d:/x:ro", HostBind("../d", "/x")),
    ],
)
def test_volumes(text: str, meant: Volume | HostBind) -> None:
    assert parse_volume(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:b", "x:/", "a:/b:z", "a:/b:ro,rw", "/a:/b:shared", "a/b:/c", "a:/b:ro:x", "-a:/b"],
)
def test_volumes_that_are_none(text: str) -> None:
    with pytest.raises(InputError):
        parse_volume(text)


def test_tmpfs_is_as_closed_as_dockers() -> None:
    assert parse_tmpfs("/t") == Tmpfs("/t", noexec=True)
    made = parse_tmpfs("/t:size=2m,mode=750,uid=5,gid=6,exec,ro")
    assert made == Tmpfs("/t", 2 << 20, 0o750, 5, 6, noexec=False, read_only=True)
    for text in ("t", "/t:size", "/t:mode=9", "/t:nosuch", "/t:suid"):
        with pytest.raises(InputError):
            parse_tmpfs(text)


def test_ulimits() -> None:
    assert parse_ulimit("nofile=10:20") == ("nofile", 10, 20)
    assert parse_ulimit("core=unlimited") == ("core", -1, -1)
    for text in ("nofile", "nofile=", "nofile=a", "nofile=1:2:3"):
        with pytest.raises(InputError):
            parse_ulimit(text)
    for bad in (("nofile", 3, 2), ("nosuch", 1, 1), ("core", -1, 5)):
        with pytest.raises(InputError):
            SandboxSpec((), ("x",), limits=Limits(ulimits=(bad,)))


def test_hosts_and_ports() -> None:
    assert parse_host("db:10.0.0.1") == ("db", "10.0.0.1")
    assert parse_host("db=[::1]") == ("db", "::1")
    for text in ("db", "db:host", "a b:1.2.3.4", ":1.2.3.4", "x\n:1.2.3.4"):
        with pytest.raises(InputError):
            parse_host(text)
    assert parse_publish("80") == Publish(80, "127.0.0.1", 0)
    assert parse_publish("8080:80/tcp") == Publish(80, "127.0.0.1", 8080)
    assert parse_publish("0.0.0.0:8080:80") == Publish(80, "0.0.0.0", 8080)
    assert parse_publish("[::1]:8080:80") == Publish(80, "::1", 8080)
    for text in ("", "x", "80/udp", "99999", "a:80", "1:2:3:4", "1.2.3.4:80:x"):
        with pytest.raises(InputError):
            parse_publish(text)


def test_variables(tmp_path: Path) -> None:
    assert parse_variable("A=1=2", {}) == ("A", "1=2")
    assert parse_variable("A", {"A": "mine"}) == ("A", "mine")
    assert parse_variable("A", {}) == ("A", None), "takes the image's away"
    with pytest.raises(InputError):
        parse_variable("=x", {})
    file = tmp_path / "env"
    file.write_text("# no\nA='q'\n\n  B=2 # kept\nC\nD\n")
    assert read_env_file(str(file), {"C": "c"}) == [("A", "'q'"), ("B", "2 # kept"), ("C", "c")]


def image(**fields: object) -> Image:
    return Image(ImageConfig(Platform("linux", "amd64"), **fields), Chain())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "option", "args", "runs"),
    [
        (None, ("c",), None, (), ("c",)),
        (("e",), ("c",), None, (), ("e", "c")),
        (("e",), ("c",), None, ("a",), ("e", "a")),
        (("e",), ("c",), ("o",), (), ("o",)),
        (("e",), ("c",), (), ("a",), ("a",)),
        (None, None, None, ("a",), ("a",)),
    ],
)
def test_what_runs(
    entrypoint: tuple[str, ...] | None,
    cmd: tuple[str, ...] | None,
    option: tuple[str, ...] | None,
    args: tuple[str, ...],
    runs: tuple[str, ...],
) -> None:
    options = RunOptions(args=args, entrypoint=option)
    assert command_of(image(entrypoint=entrypoint, cmd=cmd), options) == runs


def test_nothing_to_run_is_said() -> None:
    with pytest.raises(InputError, match="neither ENTRYPOINT nor CMD"):
        command_of(image(), RunOptions())


def test_stop_signals() -> None:
    assert stop_signal_of(image(), RunOptions()) == 15
    assert stop_signal_of(image(stop_signal="SIGUSR1"), RunOptions()) == 10
    assert stop_signal_of(image(stop_signal="9"), RunOptions(stop_signal="RTMIN+3")) == 37
    with pytest.raises(InputError):
        stop_signal_of(image(), RunOptions(stop_signal="NOPE"))


def test_a_package_binds_only_what_is_below_it(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inside").mkdir(parents=True)
    (package / "out").symlink_to("/etc")
    (package / "file").write_text("")
    base = str(package)
    assert host_bind(HostBind("./inside", "/x"), base) == Bind(base, "/x", True, "inside")
    assert host_bind(HostBind("file", "/x"), base) == Bind(base, "/x", True, "file")
    refused = [
        HostBind("/etc", "/x"),
        HostBind("~", "/x"),
        HostBind("../package", "/x"),
        HostBind("inside/../..", "/x"),
        HostBind("inside", "/x", read_only=False),
        HostBind("gone", "/x"),
        HostBind("out/passwd", "/x"),  # a link leads nowhere but inside
    ]
    for bind in refused:
        with pytest.raises(InputError):
            host_bind(bind, base)


def test_the_new_fields_survive_being_saved() -> None:
    spec = SandboxSpec(
        ("/l",),
        ("x",),
        mounts=(Tmpfs("/t", 1, 0o700, 1, 2, True, True), Bind("/a", "/b", True, "c")),
        limits=Limits(ulimits=(("nofile", 1, 2),)),
        init=False,
        make_cwd=True,
        insecure=True,
    )
    assert from_json(to_json(spec)) == spec


def test_insecure_is_everything_and_said() -> None:
    from buildgraph.sandbox.spec import CAPABILITIES, describe

    spec = SandboxSpec((), ("x",), insecure=True, cap_drop=("ALL",))
    assert spec.capabilities == frozenset(CAPABILITIES)
    assert not spec.filtered
    words = "\n".join(describe(spec))
    assert "INSECURE" in words
    assert "hide" not in words


def test_a_dockerfile_ends_after_a_line() -> None:
    text = b"ARG X\nFROM a AS one\nENV A=1\nRUN x \\\n  y\nFROM b\nENV B=2\n"
    whole = parse(text, "Dockerfile")
    assert [len(s.body) for s in up_to(whole, 3).stages] == [1]
    assert [len(s.body) for s in up_to(whole, 4).stages] == [2], "to the end of line 5"
    assert [len(s.body) for s in up_to(whole, 6).stages] == [2, 0]
    assert up_to(whole, 99) == whole
    with pytest.raises(InputError, match="first FROM on 2"):
        up_to(whole, 1)
