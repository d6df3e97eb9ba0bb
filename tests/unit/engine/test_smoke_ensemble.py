"""Knows in which order services start and stop and what ends a test early, with actors of plain
values; needs no container.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from buildgraph.boxfile.smoke import Dependency, Health, Service
from buildgraph.engine.smoke.ensemble import Ensemble, Member
from buildgraph.engine.smoke.health import Probe, become_healthy, probe_of
from buildgraph.engine.smoke.world import Ended, Over, Ran
from buildgraph.errors import HostError, InputError, Location
from buildgraph.label import Label
from buildgraph.oci.types import Healthcheck, ImageConfig, Platform

HERE = Location("Boxfile.yaml", 1)
SECOND = 10**9


@dataclass
class FakeActor:
    """A container that ends when it is told to."""

    name: str
    history: list[str]
    end: Ended | None = None
    health: list[int] = field(default_factory=lambda: [0])
    closed: bool = False

    def ended(self) -> Ended | None:
        return self.end

    def run(self, args: Sequence[str], timeout: float) -> Ran:
        code = self.health.pop(0) if len(self.health) > 1 else self.health[0]
        return Ran(code, b"", b"")

    def stop(self) -> None:
        self.history.append(f"stop {self.name}")

    def close(self) -> None:
        self.closed = True


def service(name: str, scale: int = 1, **needs: str) -> Service:
    return Service(
        name=name,
        where=HERE,
        image=Label("", name),
        image_where=HERE,
        scale=scale,
        depends_on=tuple(Dependency(n, c, HERE) for n, c in needs.items()),  # type: ignore[arg-type]
    )


@dataclass
class Stage:
    """An ensemble over fake actors, and what happened."""

    services: Sequence[Service]
    ends: dict[str, Ended] = field(default_factory=dict)
    health: dict[str, list[int]] = field(default_factory=dict)
    refuse: dict[str, Exception] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()
    seconds: float = 5.0
    history: list[str] = field(default_factory=list)
    actors: dict[str, FakeActor] = field(default_factory=dict)
    cancel: threading.Event = field(default_factory=threading.Event)

    def open(self) -> Ensemble:
        probe = Probe(("probe",), 0.02, 1, 0, 1, 3)
        return Ensemble(
            self.services,
            {s.name: probe if s.name in self.health else None for s in self.services},
            self.start_one,
            self.expected,
            self.cancel,
            time.monotonic() + self.seconds,
            self.tell,
        )

    def start_one(self, service: Service, number: int) -> FakeActor:
        if service.name in self.refuse:
            raise self.refuse[service.name]
        name = service.name if service.scale == 1 else f"{service.name}-{number}"
        actor = FakeActor(name, self.history, self.ends.get(name))
        actor.health = self.health.get(service.name, [0])
        self.actors[name] = actor
        self.history.append(f"start {name}")
        return actor

    def tell(self, member: Member, text: str) -> None:
        self.history.append(f"{member.name} {text}")


def test_up_along_the_dependencies_and_down_the_other_way() -> None:
    stage = Stage(
        [service("c", b="started"), service("b", a="healthy"), service("a")],
        health={"a": [1, 1, 0]},
    )
    ensemble = stage.open()
    ensemble.start()
    starts = [h for h in stage.history if h.startswith("start") or h.endswith("healthy")]
    assert starts == ["start a", "a healthy", "start b", "start c"]
    ensemble.alive()
    stage.history.clear()
    ensemble.stop()
    assert stage.history == ["stop c", "stop b", "stop a"]
    assert all(actor.closed for actor in stage.actors.values())
    ensemble.stop()


def test_a_forerunner_must_complete() -> None:
    done = Ended(0, text="ended with exit code 0")
    stage = Stage([service("web", job="completed"), service("job")], ends={"job": done})
    ensemble = stage.open()
    ensemble.start()
    assert stage.history.index("job ended with exit code 0") < stage.history.index("start web")
    ensemble.stop()
    bad = Stage(
        [service("web", job="completed"), service("job")],
        ends={"job": Ended(4, text="ended with exit code 4")},
    )
    ensemble = bad.open()
    with pytest.raises(Over, match="job ended with exit code 4, and web waits for it to complete"):
        ensemble.start()
    ensemble.stop()
    assert "start web" not in bad.history


def test_a_death_ends_the_test_unless_it_is_expected() -> None:
    dead = {"job": Ended(137, True, "was ended by SIGKILL: out of memory")}
    ensemble = Stage([service("job")], ends=dead).open()
    with pytest.raises(Over, match="job was ended by SIGKILL: out of memory"):
        ensemble.start()
    ensemble.stop()
    calm = Stage([service("job")], ends=dead, expected=frozenset({"job"})).open()
    calm.start()
    calm.alive()
    calm.stop()


def test_a_death_is_seen_while_somebody_waits() -> None:
    stage = Stage([service("web", 3)])
    ensemble = stage.open()
    ensemble.start()
    stage.actors["web-2"].end = Ended(1, text="ended with exit code 1")
    begun = time.monotonic()
    with pytest.raises(Over, match="web-2 ended with exit code 1"):
        ensemble.pause(30)
    assert time.monotonic() - begun < 5
    ensemble.stop(now=True)


def test_time_and_stops_end_the_test() -> None:
    sick = Stage([service("web")], health={"web": [1]}, seconds=0.01)
    ensemble = sick.open()
    with pytest.raises(Over, match="its time is up; not ready: web|unhealthy"):
        ensemble.start()
    ensemble.stop()
    stopped = Stage([service("web")])
    ensemble = stopped.open()
    ensemble.start()
    stopped.cancel.set()
    with pytest.raises(Over, match="it was stopped"):
        ensemble.pause(30)
    ensemble.stop(now=True)


def test_unhealthy_is_told_with_the_reason() -> None:
    ensemble = Stage([service("web")], health={"web": [7]}).open()
    with pytest.raises(Over, match="web is unhealthy: its healthcheck ended with exit code 7"):
        ensemble.start()
    ensemble.stop()


def test_what_cannot_start_is_raised_with_its_place() -> None:
    stage = Stage([service("web"), service("a", web="started")], refuse={"web": HostError("no")})
    ensemble = stage.open()
    with pytest.raises(HostError) as caught:
        ensemble.start()
    assert caught.value.where == HERE
    ensemble.stop()
    own = InputError("x", Location("f", 9))
    ensemble = Stage([service("web")], refuse={"web": own}).open()
    with pytest.raises(InputError, match="x"):
        ensemble.start()
    ensemble.stop()


# -- health ------------------------------------------------------------------------------


def test_the_service_says_more_than_the_image_and_docker_the_rest() -> None:
    image = Healthcheck(("CMD", "a", "b"), interval=5 * SECOND, retries=7)
    config = ImageConfig(Platform("linux", "amd64"), healthcheck=image)
    assert probe_of(None, config) == Probe(("a", "b"), 5, 30, 0, 5, 7)
    mine = Health(("CMD-SHELL", "x y"), interval=SECOND, retries=1)
    assert probe_of(mine, config) == Probe(("/bin/sh", "-c", "x y"), 1, 30, 0, 5, 1)
    assert probe_of(Health(("NONE",)), config) is None
    assert probe_of(None, ImageConfig(Platform("linux", "amd64"))) is None
    assert probe_of(Health(interval=SECOND), config) == Probe(("a", "b"), 1, 30, 0, 5, 7)


def test_failures_count_as_seldom_as_docker_would_probe() -> None:
    clock = [0.0]
    probes: list[float] = []

    def run(args: tuple[str, ...], timeout: float) -> Ran:
        probes.append(clock[0])
        return Ran(1, b"", b"line\nlast\n")

    def pause(seconds: float) -> bool:
        clock[0] += seconds
        return True

    probe = Probe(("x",), interval=10, timeout=1, start_period=20, start_interval=2, retries=2)
    why = become_healthy(probe, run, lambda: clock[0], pause)
    assert why == "its healthcheck ended with exit code 1: last"
    assert 30 <= clock[0] <= 41
    assert len(probes) > 50, "a service that gets healthy is seen at once"
