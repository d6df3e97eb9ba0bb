"""The rule as the engine calls it, over an archive on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildgraph.boxfile.target import Target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.errors import HostError, InputError
from buildgraph.label import parse_label
from buildgraph.oci.types import Platform
from buildgraph_cache.store import Store
from buildgraph_rules.debian import rule
from buildgraph_rules.debian.lock import read_lock, write_lock
from buildgraph_rules.debian.pins import Resolution
from buildgraph_rules.debian.request import with_login
from unit.rules.debian_world import Package, write_archive

AMD64 = Platform("linux", "amd64")


class World:
    """A workspace, an unsigned archive beside it, and a store."""

    def __init__(self, place: Path, store: Store):
        self.place = place
        self.store = store
        self.archive = place / "archive"
        self.publish(
            Package("base", fields={"Essential": "yes"}),
            Package("app", fields={"Depends": "lib (>= 1)", "Recommends": "extra"}),
            Package("lib"),
            Package("extra"),
        )

    def publish(self, *packages: Package) -> None:
        write_archive(self.archive, packages)

    def target(self, attributes: str, *, mirror: bool = True) -> Target:
        line = f'mirror: "deb [trusted=yes] file:{self.archive} test main", ' if mirror else ""
        text = f"workspace: {{name: w}}\ntargets:\n  t: {{rule: debian, {line}{attributes}}}\n"
        (self.place / "Boxfile.yaml").write_text(text)
        workspace = Workspace.open(str(self.place), {rule.SPEC.name: rule.SPEC})
        return workspace.target(parse_label("//:t", ""))

    def resolve(self, attributes: str = "packages: [app]", **options: object) -> Resolution:
        target = self.target(attributes)
        return rule.resolve(
            target,
            AMD64,
            store=self.store,
            workspace=str(self.place),
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Store.open(str(tmp_path / "store")) as store:
        yield World(tmp_path, store)


def names(resolution: Resolution) -> str:
    return " ".join(pin.name for pin in resolution.pins)


def test_what_attributes_choose(world: World) -> None:
    assert names(world.resolve()) == "app base lib"
    assert names(world.resolve("packages: [app], essential: false")) == "app lib"
    assert names(world.resolve("packages: app, recommends: true")) == "app base extra lib"


def test_an_unknown_package_is_told_at_its_place(world: World) -> None:
    with pytest.raises(InputError) as caught:
        world.resolve("packages: [app, ectra]")
    where = caught.value.where
    assert where is not None
    assert where.line == 3
    assert where.text[where.column - 1 :].startswith("ectra")
    assert caught.value.hint == "did you mean 'extra'?"


def test_a_package_of_another_architecture(world: World) -> None:
    with pytest.raises(InputError, match="packages of one architecture"):
        world.resolve("packages: ['app:arm64']")
    assert names(world.resolve("packages: ['app:amd64'], essential: false")) == "app lib"


def test_what_was_resolved_stays_until_asked_again(world: World) -> None:
    first = world.resolve()
    world.publish(Package("base", "2", fields={"Essential": "yes"}), Package("app", "2"))
    assert world.resolve() == first
    assert world.resolve(offline=True) == first
    assert names(world.resolve(refresh=True)) == "app base"


def test_offline_needs_a_memory(world: World) -> None:
    with pytest.raises(HostError, match="never resolved here"):
        world.resolve(offline=True)


def test_a_lock_holds(world: World) -> None:
    first = world.resolve()
    lock = read_lock(write_lock([first]), "Boxfile.lock")
    world.publish(Package("app", "2"))
    assert world.resolve(lock=lock, refresh=True) == first
    with pytest.raises(InputError, match="the lock file is out of date") as caught:
        world.resolve("packages: [app, extra]", lock=lock)
    assert caught.value.hint == "run `buildgraph lock`"


def test_a_lock_does_not_depend_on_what_decides_nothing(world: World) -> None:
    lock = read_lock(write_lock([world.resolve()]), "Boxfile.lock")
    found = world.resolve("packages: [app], configure: false, cmd: [x], env: {A: b}", lock=lock)
    assert found.locked


def test_fetching(world: World) -> None:
    resolution = world.resolve()
    told: list[tuple[str, int, int]] = []
    paths = rule.fetch(resolution, world.store, progress=lambda *step: told.append(step))
    assert [Path(path).read_bytes()[:8] for path in paths] == [b"!<arch>\n"] * 3
    assert told[-1] == ("packages", resolution.size, resolution.size)
    (world.archive / "pool/app_1.0_all.deb").unlink()
    assert rule.fetch(resolution, world.store) == paths


@pytest.mark.parametrize(("locked", "words"), [(True, "buildgraph lock"), (False, "--pull")])
def test_a_package_that_is_gone(world: World, locked: bool, words: str) -> None:
    resolution = replace(world.resolve(), locked=locked)
    (world.archive / "pool/app_1.0_all.deb").unlink()
    with pytest.raises(HostError, match=r"package app 1\.0 is gone from the archive") as caught:
        rule.fetch(resolution, world.store)
    assert words in (caught.value.hint or "")


def test_a_deb_that_is_another(world: World, tmp_path: Path) -> None:
    resolution = world.resolve("packages: [lib], essential: false")
    other = tmp_path / "other.deb"
    other.write_bytes(Package("app").deb)
    target = world.target("packages: [lib]")
    op = rule.packages_op(target, resolution)
    with pytest.raises(HostError, match=r"holds app 1\.0 all"):
        rule.build_root(
            resolution,
            [str(other)],
            "/nonexistent",
            None,
            op=op,
            where=target.where,  # type: ignore[arg-type]
        )


def test_architectures(world: World) -> None:
    target = world.target("packages: [app]")
    table = {
        "linux/amd64": "amd64",
        "linux/arm64": "arm64",
        "linux/arm64/v8": "arm64",
        "linux/arm/v7": "armhf",
        "linux/arm/v6": "armel",
        "linux/386": "i386",
        "linux/ppc64le": "ppc64el",
    }
    for name, architecture in table.items():
        assert rule.architecture_of(Platform(*name.split("/")), target) == architecture
    with pytest.raises(InputError, match="no architecture for windows/amd64"):
        rule.architecture_of(Platform("windows", "amd64"), target)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ("snapshot: 20260131T000000Z", "`snapshot` needs a `mirror`"),
        ("mirror: 'http://mirror.example/debian'", "`mirror` without `suite`"),
        ("mirror: 'ftp://mirror.example/debian', suite: sid", "not one of http"),
        ("mirror: 'http://mirror.example/', suite: sid, keyring: ../k.gpg", "leaves the workspace"),
        ("mirror: 'http://me:x@mirror.example/debian', suite: sid", "password in a Boxfile"),
        ("mirror: 'http://mirror.example/debian', suite: sid, keyring: nowhere.gpg", "not exist"),
        (
            "mirror: 'http://mirror.example/d', suite: sid, keyring: ../k.gpg",
            "leaves the workspace",
        ),
    ],
)
def test_attributes_that_do_not_fit(world: World, attributes: str, words: str) -> None:
    target = world.target(f"packages: [app], {attributes}", mirror=False)
    with pytest.raises(InputError, match=words):
        rule.resolve(target, AMD64, store=world.store, workspace=str(world.place))


def test_a_snapshot_is_asked_for(world: World) -> None:
    """The time stands in the place that the mirror gives it; an old date is no objection."""
    time = "20260131T000000Z"
    os.rename(world.archive, world.place / time)
    target = world.target(
        f"packages: [app], snapshot: {time}, "
        f'mirror: "deb [trusted=yes] file:{world.place}/@SNAPSHOTID@ test main"',
        mirror=False,
    )
    resolution = rule.resolve(target, AMD64, store=world.store, workspace=str(world.place))
    (archive,) = resolution.archives
    assert archive.uri.endswith(f"/{time}/")
    assert not archive.check_valid_until


def test_config(world: World) -> None:
    target = world.target(
        "packages: [app], env: {A: b, PATH: /x}, cmd: [run, it], user: nobody, "
        "working_dir: /srv, labels: {x: y}"
    )
    resolution = world.resolve()
    config = rule.config(target, AMD64, resolution)
    assert config.env == (("PATH", "/x"), ("A", "b"))
    assert (config.cmd, config.entrypoint) == (("run", "it"), None)
    assert (config.user, config.working_dir, config.labels) == ("nobody", "/srv", (("x", "y"),))
    assert rule.config(world.target("packages: [app]"), AMD64, resolution).cmd is None


def test_logins_go_to_their_own_server_only() -> None:
    known = {("https", "mirror.example"): "me:secret"}
    assert with_login("https://mirror.example/x", known) == "https://me:secret@mirror.example/x"
    for uri in ("http://mirror.example/x", "https://mirror.example:8443/x", "https://other/x"):
        assert with_login(uri, known) == uri
