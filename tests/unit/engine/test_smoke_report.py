"""Knows what reports say and what keys of verdicts hold, given results; needs no container."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from msgspec.structs import replace

from buildgraph.boxfile.smoke import (
    Check,
    EnvFile,
    ExecCheck,
    PackageBind,
    Service,
    SmokeTarget,
    TcpCheck,
)
from buildgraph.engine.smoke.checks import Finding
from buildgraph.engine.smoke.provisions import Provisions, read_env_file
from buildgraph.engine.smoke.report import (
    ServiceReport,
    SmokeReport,
    as_json,
    as_junit,
    failure_lines,
    rate,
)
from buildgraph.engine.smoke.results import Attempt
from buildgraph.engine.smoke.verdict import verdict_key
from buildgraph.errors import InputError, Location
from buildgraph.label import Label
from buildgraph.oci.types import Chain, Image, ImageConfig, Platform

HERE = Location("app/Boxfile.yaml", 9, 5)
AMD = Platform("linux", "amd64")
CHECK = Check("talks & <more>", TcpCheck("web", 80), HERE)


def failed() -> SmokeReport:
    finding = Finding(CHECK, False, 1.5, Attempt(("one", "two"), "asked", "a\nb"), 3)
    good = Finding(replace(CHECK, name="good"), True, 0.1, Attempt())
    web = ServiceReport("web", "//app:image", ("running", "running"), ("line \x1b[31m", "\udcff"))
    return SmokeReport(
        "//app:smoke",
        HERE,
        False,
        2.0,
        (good, finding),
        ("later",),
        (web, replace(web, name="db", log=())),
        "web ended with exit code 1",
    )


def test_the_report_of_a_failure_is_readable() -> None:
    assert list(failure_lines(failed())) == [
        "//app:smoke failed after 2.0 s",
        "  it ended early: web ended with exit code 1",
        "  check talks & <more> failed (1.5 s, 3 attempts)",
        "    --> app/Boxfile.yaml:9:5",
        "    one",
        "    two",
        "    asked: asked",
        "    answer:",
        "      a",
        "      b",
        "  not made: later",
        "  service web (//app:image): running",
        "    the last 2 lines of its log:",
        "      line \x1b[31m",
        "      \udcff",
        "  service db (//app:image): running",
        "    it wrote nothing",
        "  all of their logs: buildgraph logs //app:smoke",
        "  to look inside: buildgraph test //app:smoke --keep",
    ]


def test_junit_is_xml_whatever_services_write() -> None:
    cached = SmokeReport("//b:smoke", HERE, True, 0.0, cached=True)
    root = ET.fromstring(as_junit([failed(), cached]))
    one, two = root.findall("testsuite")
    counts = [one.get(name) for name in ("name", "tests", "failures", "errors", "skipped")]
    assert counts == ["//app", "4", "2", "0", "1"]
    cases = {case.get("name"): case for case in one.findall("testcase")}
    assert list(cases) == ["good", "talks & <more>", "runs to its end", "later"]
    failure = cases["talks & <more>"].find("failure")
    assert failure is not None
    assert failure.get("message") == "one; two"
    assert cases["later"].find("skipped") is not None
    assert "\ufffd" in (one.findtext("system-out") or "")
    assert [case.get("name") for case in two.findall("testcase")] == [
        "passed before, not run again"
    ]


def test_json_has_all_of_it() -> None:
    row = as_json(failed())
    assert (row["ok"], row["skipped"], row["runs"]) == (False, ["later"], 1)
    assert row["checks"][1]["complaints"] == ["one", "two"]
    assert row["checks"][1]["line"] == 9


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ((True,), ""),
        ((True, True), "2 of 2 runs passed (100 %)"),
        ((True, False, False), "1 of 3 runs passed (33 %): flaky"),
        ((False, False), "0 of 2 runs passed (0 %)"),
    ],
)
def test_pass_rates(runs: tuple[bool, ...], said: str) -> None:
    assert rate(replace(failed(), runs=runs)) == said


# -- keys ----------------------------------------------------------------------------------


def target(**more: object) -> SmokeTarget:
    service = Service(
        name="web",
        where=HERE,
        image=Label("app", "image"),
        image_where=HERE,
        environment=(("A", "1"), ("OUTSIDE", None)),
        env_files=(EnvFile("app/vars", HERE),),
        volumes=(PackageBind("app/conf", "/conf", HERE),),
    )
    return SmokeTarget(
        label=Label("app", "smoke"),
        where=HERE,
        services=(replace(service, **more),),  # type: ignore[arg-type]
        checks=(CHECK,),
    )


def package(top: Path) -> Path:
    (top / "app/conf").mkdir(parents=True)
    (top / "app/vars").write_text("B=2\n")
    (top / "app/conf/a").write_text("a")
    return top


def key_of(top: Path, chosen: SmokeTarget, image: Image | None = None, **environ: str) -> str:
    found = image or Image(ImageConfig(AMD, user="app"), Chain())
    images = {Label("app", "image"): found}
    return verdict_key(chosen, images, AMD, Provisions(str(top), environ)).digest


def test_a_key_is_about_what_runs(tmp_path: Path) -> None:
    top = package(tmp_path)
    base = key_of(top, target())
    assert base == key_of(top, target())
    moved = replace(target(), label=Label("x", "y"), where=Location("z", 1), doc="words", timeout=5)
    assert base == key_of(top, moved), "places and names of the test are nothing that runs"
    others = {
        key_of(top, target(memory=1)),
        key_of(top, target(environment=(("A", "2"), ("OUTSIDE", None)))),
        key_of(top, replace(target(), network="default")),
        key_of(top, replace(target(), checks=(replace(CHECK, within=1),))),
        key_of(top, target(), Image(ImageConfig(AMD, user="x"), Chain())),
        key_of(top, target(), OUTSIDE="secret"),
    }
    assert len(others | {base}) == 7


def test_a_key_follows_every_variable_from_outside(tmp_path: Path) -> None:
    """Those that only an env file names, and those of a check, reach what runs as well."""
    top = package(tmp_path)
    (top / "app/vars").write_text("FILES\n")
    asks = ExecCheck("web", ("env",), environment=(("CHECKS", None), ("A", "1")))
    chosen = replace(target(), checks=(Check("asks", asks, HERE),))
    base = key_of(top, chosen)
    others = {
        key_of(top, chosen, FILES="x"),
        key_of(top, chosen, CHECKS="x"),
        key_of(top, chosen, CHECKS=""),
    }
    assert len(others | {base}) == 4
    assert key_of(top, chosen, ELSE="x") == base


def test_a_key_holds_bytes_of_files_and_never_times(tmp_path: Path) -> None:
    top = package(tmp_path)
    seen = {key_of(top, target())}
    os.utime(top / "app/conf/a", (1, 1))
    (top / "app/conf/a").chmod(0o600)
    assert key_of(top, target()) in seen, "a umask is no content"
    for change in (
        lambda: (top / "app/conf/a").write_text("b"),
        lambda: (top / "app/conf/a").chmod(0o755),
        lambda: (top / "app/conf/l").symlink_to("a"),
        lambda: (top / "app/vars").write_text("B=3\n"),
    ):
        change()
        now = key_of(top, target())
        assert now not in seen
        seen.add(now)


def test_a_value_from_outside_is_in_no_preimage(tmp_path: Path) -> None:
    images = {Label("app", "image"): Image(ImageConfig(AMD), Chain())}
    provisions = Provisions(str(package(tmp_path)), {"OUTSIDE": "hunter22"})
    key = verdict_key(target(), images, AMD, provisions)
    assert "hunter22" not in str(key.preimage)
    assert "OUTSIDE" in str(key.preimage)
    assert provisions.environment(target().services[0]) == (
        ("B", "2"),
        ("A", "1"),
        ("OUTSIDE", "hunter22"),
    )


def test_copies_are_as_git_keeps_them(tmp_path: Path) -> None:
    top = package(tmp_path / "w")
    (top / "app/conf/l").symlink_to("/etc/passwd")
    (top / "app/conf/a").chmod(0o777)
    copy = Provisions(str(top), {}).copy(PackageBind("app/conf", "/c", HERE), str(tmp_path))
    assert os.readlink(f"{copy}/l") == "/etc/passwd", "a link stays a link of the container"
    assert os.stat(f"{copy}/a").st_mode & 0o777 == 0o755
    file = Provisions(str(top), {}).copy(PackageBind("app/vars", "/c", HERE), str(tmp_path / "w"))
    assert Path(file).read_text() == "B=2\n"


def test_nothing_outside_the_workspace_is_mounted(tmp_path: Path) -> None:
    top = package(tmp_path / "w")
    (tmp_path / "secret").write_text("x")
    (top / "app/out").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="cannot mount app/out"):
        Provisions(str(top), {}).digest(PackageBind("app/out", "/c", HERE))
    with pytest.raises(InputError, match="cannot mount app/none"):
        Provisions(str(top), {}).digest(PackageBind("app/none", "/c", HERE))


def test_env_files() -> None:
    data = b"# note\nA=1\nexport B='two words'\n\nC=\nD\n"
    file = EnvFile("app/vars", HERE)
    assert read_env_file(data, file) == (("A", "1"), ("B", "two words"), ("C", ""), ("D", None))
    with pytest.raises(InputError) as caught:
        read_env_file(b"A=1\nnot one=2\n", file)
    assert str(caught.value.where) == "app/vars:2:1"
