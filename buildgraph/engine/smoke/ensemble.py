"""Knows in which order the services of a test are started and stopped, and when it is over before
its time; must not know how a container is made, nor what is checked.

A member is one container. Each has a thread while it starts: it waits for what its service depends
on, starts the container, and probes it until it is healthy. Whoever waits looks at all members a
few times a second, so that a death is noticed wherever the test stands.

    WAITING --dependencies--> STARTING --exec'd--> UP --healthy, or no healthcheck--> READY
    any --its process ends--> ENDED
"""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct, field

from buildgraph.boxfile.smoke import Condition, Service
from buildgraph.engine.smoke.health import Probe, become_healthy
from buildgraph.engine.smoke.world import Ended, Over, Ran
from buildgraph.errors import BuildgraphError

TICK: Final = 0.03


class Actor(Protocol):
    """A running container of a service."""

    def ended(self) -> Ended | None:
        """Return how it ended, None while it runs."""

    def run(self, args: Sequence[str], timeout: float) -> Ran:
        """Run a command inside, as its healthcheck does."""

    def stop(self) -> None:
        """Ask it to stop, as its service says, and then make it."""

    def close(self) -> None:
        """Kill it, if it still runs, and remove what was made for it. Idempotent."""


class State(enum.Enum):
    """Where a member stands."""

    WAITING = "waiting"
    STARTING = "starting"
    UP = "started"
    READY = "healthy"
    ENDED = "ended"


class Member(Struct):
    """One container of a service; `number` counts from 1."""

    service: Service
    number: int
    state: State = State.WAITING
    actor: Actor | None = None
    ended: Ended | None = None

    @property
    def name(self) -> str:
        """The service, with a number where it has several containers."""
        return self.service.container_name(self.number)


Told = Callable[[Member, str], None]  # something of interest happened to a member


class Ensemble(Struct):
    """The members of a test; use it once. `start`, then `alive` now and then, then `stop`.

    `expected` are the services that may end. `deadline` is on the monotonic clock.
    """

    services: Sequence[Service]
    probes: Mapping[str, Probe | None]
    start_one: Callable[[Service, int], Actor]
    expected: frozenset[str]
    cancel: threading.Event
    deadline: float
    tell: Told
    members: list[Member] = field(default_factory=list)
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _threads: list[threading.Thread] = field(default_factory=list)
    _failure: BaseException | None = None
    _reason: str = ""
    _stopping: bool = False

    def start(self) -> None:
        """Start everything; returns when all is ready. Raises Over, or what starting raised."""
        for service in self.services:
            self.members += [Member(service, n + 1) for n in range(service.scale)]
        for member in self.members:
            thread = threading.Thread(
                target=self._bring_up, args=(member,), name=f"start {member.name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        while any(m.state not in (State.READY, State.ENDED) for m in self.members):
            self.pause(TICK)
        self.alive()

    def pause(self, seconds: float) -> None:
        """Let time go by. Raises as `alive` does, as soon as there is a reason."""
        end = time.monotonic() + seconds
        while True:
            self.alive()
            left = end - time.monotonic()
            if left <= 0:
                return
            self.cancel.wait(min(left, TICK))

    def alive(self) -> None:
        """Raise Over where the test is over: a death, a stop, no time left."""
        if self.cancel.is_set():
            raise Over("it was stopped")
        with self._lock:
            self._look()
            failure, reason = self._failure, self._reason
        if failure is not None:
            raise failure
        if reason:
            raise Over(reason)
        if time.monotonic() > self.deadline:
            waiting = [m.name for m in self.members if m.state not in (State.READY, State.ENDED)]
            still = f"; not ready: {', '.join(waiting[:5])}" if waiting else ""
            raise Over(f"its time is up{still}")

    def of(self, service: str) -> list[Member]:
        """Return the members of a service."""
        return [member for member in self.members if member.service.name == service]

    # -- one member ------------------------------------------------------------------------------

    def _bring_up(self, member: Member) -> None:
        try:
            if not self._wait_for_dependencies(member.service):
                return
            self._move(member, State.STARTING)
            actor = self.start_one(member.service, member.number)
            with self._lock:
                member.actor = actor
                late = self._stopping
            if late:  # nobody else knows of it
                actor.close()
                return
            self._move(member, State.UP)
            self.tell(member, "started")
            self._make_ready(member, actor)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            with self._lock:
                if not self._stopping and self._failure is None:
                    if isinstance(error, BuildgraphError) and error.where is None:
                        error.where = member.service.where
                    self._failure = error

    def _make_ready(self, member: Member, actor: Actor) -> None:
        probe = self.probes[member.service.name]
        if probe is not None:

            def pause(seconds: float) -> bool:
                self.cancel.wait(min(seconds, TICK * 10))
                with self._lock:
                    self._lock.wait(max(seconds - TICK * 10, 0))
                    return not self._stopping and member.state is State.UP

            why = become_healthy(probe, actor.run, time.monotonic, pause)
            if why:
                with self._lock:
                    self._reason = self._reason or f"{member.name} is unhealthy: {why}"
                self.tell(member, f"unhealthy: {why}")
                return
        with self._lock:
            if member.state is not State.UP:
                return
        self._move(member, State.READY)
        if probe is not None:
            self.tell(member, "healthy")

    def _move(self, member: Member, state: State) -> None:
        with self._lock:
            if member.state is not State.ENDED:
                member.state = state
            self._lock.notify_all()

    def _wait_for_dependencies(self, service: Service) -> bool:
        """Return True when they are as they must be, False where the test is over."""
        with self._lock:
            while not self._stopping:
                self._look()
                if self._reason or self._failure is not None:
                    return False
                if all(self._holds(need.service, need.condition) for need in service.depends_on):
                    return True
                self._lock.wait(TICK)
        return False

    def _holds(self, service: str, condition: Condition) -> bool:
        states = [member.state for member in self.of(service)]
        if condition == "completed":
            return all(state is State.ENDED for state in states)
        if condition == "healthy":
            return all(state is State.READY for state in states)
        return all(state in (State.UP, State.READY, State.ENDED) for state in states)

    # -- deaths ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Note which members have ended; the lock is held."""
        for member in self.members:
            if member.actor is None or member.ended is not None:
                continue
            ended = member.actor.ended()
            if ended is None:
                continue
            member.ended, member.state = ended, State.ENDED
            self._lock.notify_all()
            self.tell(member, ended.text)
            waited = self._waited_for(member.service.name)
            if waited and ended.code != 0:
                why = f"{member.name} {ended.text}, and {waited} waits for it to complete"
            elif not waited and member.service.name not in self.expected:
                why = f"{member.name} {ended.text}"
            else:
                continue
            self._reason = self._reason or why

    def _waited_for(self, name: str) -> str:
        """Return a service that waits for this one to complete, "" for none."""
        for service in self.services:
            for need in service.depends_on:
                if need.service == name and need.condition == "completed":
                    return service.name
        return ""

    # -- the end -----------------------------------------------------------------------------------

    def stop(self, *, now: bool = False) -> None:
        """Stop everything, users before what they use; `now`: kill. Raises nothing; idempotent."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        if not now:
            for level in self._levels():
                self._stop_level(level)
        self._close_all()
        for thread in self._threads:
            thread.join()
        self._close_all()  # those that were in the middle of starting

    def _close_all(self) -> None:
        for member in self.members:
            if member.actor is not None:
                with contextlib.suppress(BuildgraphError, OSError):
                    member.actor.close()

    def _stop_level(self, level: Sequence[Member]) -> None:
        threads = []
        for member in level:
            if member.actor is None or member.ended is not None:
                continue
            actor = member.actor

            def work(actor: Actor = actor) -> None:
                with contextlib.suppress(BuildgraphError, OSError):
                    actor.stop()

            threads.append(threading.Thread(target=work, name="stop", daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _levels(self) -> list[list[Member]]:
        """Return the members in the order they are stopped: first what nobody depends on."""
        left = {service.name: service for service in self.services}
        levels: list[list[Member]] = []
        while left:
            used = {need.service for service in left.values() for need in service.depends_on}
            free = [name for name in left if name not in used] or list(left)
            levels.append([m for name in free for m in self.of(name)])
            for name in free:
                del left[name]
        return levels
