"""Knows how this machine's containers run programs of an architecture, and what to do where they
cannot; must not know how the kernel is told.

What is asked in this order: the processor itself; an emulator of this machine, registered for our
containers alone; a handler that the machine registered for everybody.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from buildgraph.errors import NoEmulator
from buildgraph.sandbox.binfmt import (
    ARCHITECTURES,
    Handler,
    find_emulator,
    is_static,
    machine_handlers,
    native_architectures,
    own_architecture,
    qemu_name,
    registration,
    runs_here,
    tiny_program,
    understands_argv0,
)
from buildgraph.sandbox.spec import Bind, SandboxSpec

Register = Callable[[Sequence[bytes], str], str]
"""Registers lines for our containers, tries an architecture, and returns "" or why it failed."""


class Way(Struct, frozen=True):
    """How programs of an architecture run, in words; `possible` False: why they do not.

    `inside` is an emulator that a container must have at its own path.
    """

    possible: bool
    detail: str
    hint: str = ""
    inside: str = ""


class Emulation:
    """Makes containers of other architectures possible, one after another; used by many threads."""

    def __init__(self, register: Register):
        self._register = register
        self._lock = threading.Lock()
        self._ways: dict[str, Way] = {}
        self._registered: frozenset[str] | None = None  # None = nothing was tried yet
        self._refused = ""

    def ready(self, spec: SandboxSpec) -> SandboxSpec:
        """Return a spec that runs here. Raises NoEmulator, before anything of it has run."""
        if spec.architecture in ("", own_architecture()):
            return spec
        way = self.way(spec.architecture)
        if not way.possible:
            raise NoEmulator(way.detail, hint=way.hint)
        if not way.inside:
            return spec
        return replace(spec, mounts=(*spec.mounts, Bind(way.inside, way.inside)))

    def way(self, architecture: str) -> Way:
        """Return how programs of an architecture run; what it takes is done by then."""
        with self._lock:
            if architecture not in self._ways:
                self._ways[architecture] = self._find(architecture)
            return self._ways[architecture]

    def _find(self, architecture: str) -> Way:
        if architecture == own_architecture() or architecture in native_architectures():
            return Way(True, "by the processor")
        if architecture not in ARCHITECTURES:
            return Way(
                False,
                f"programs of {architecture} cannot be run on this machine",
                "no emulator for it is known; COPY what was built elsewhere",
            )
        handlers = machine_handlers()
        emulator = find_emulator(architecture, handlers)
        if emulator is not None and self._by_our_own(architecture, handlers):
            return Way(True, f"by {emulator}, registered for steps alone")
        way = None if self._registered else _by_the_machine(architecture, handlers)
        return way or _missing(architecture, emulator, self._refused)

    def _by_our_own(self, architecture: str, handlers: Sequence[Handler]) -> bool:
        """Say whether a handler of our own runs the architecture; all there are come at once.

        Once containers have handlers of their own they no longer see those of the machine.
        """
        lines: dict[str, bytes] = {}
        if self._registered is None:
            lines = registrations(handlers)
        elif architecture not in self._registered:
            return False
        self._refused = self._register(list(lines.values()), architecture)
        if self._registered is None:
            self._registered = frozenset() if self._refused else frozenset(lines)
        return not self._refused


def registrations(handlers: Sequence[Handler]) -> dict[str, bytes]:
    """Return the registration of each foreign architecture that has a static emulator here."""
    out: dict[str, bytes] = {}
    new_enough: dict[str, bool] = {}
    for architecture in ARCHITECTURES:
        if architecture in native_architectures():
            continue
        emulator = find_emulator(architecture, handlers)
        if emulator is None:
            continue
        where = os.path.dirname(emulator)
        if where not in new_enough:  # one package installs them all
            new_enough[where] = understands_argv0(emulator)
        out[architecture] = registration(architecture, emulator, argv0=new_enough[where])
    return out


def _by_the_machine(architecture: str, handlers: Sequence[Handler]) -> Way | None:
    """Return how the machine's own handlers run an architecture, None where they do not."""
    for handler in handlers:
        if not handler.takes(tiny_program(architecture)):
            continue
        if handler.fixed:
            return Way(True, f"by the machine's handler {handler.name}")
        if is_static(handler.interpreter):
            detail = f"by the machine's handler {handler.name}, its emulator shown inside"
            return Way(True, detail, inside=handler.interpreter)
        return None
    # The list of handlers may be hidden from us, as in a container.
    return Way(True, "by a handler of the machine") if runs_here(architecture) else None


def _missing(architecture: str, emulator: str | None, refused: str) -> Way:
    detail = f"nothing on this machine runs {architecture} programs"
    if emulator is not None:
        return Way(
            False,
            f"{detail}: {emulator} is not registered with the kernel ({refused or 'hidden'})",
            "register it as root: systemctl restart systemd-binfmt, or "
            f"update-binfmts --enable qemu-{qemu_name(architecture)}",
        )
    return Way(
        False,
        f"{detail}: there is no emulator for them",
        "apt install qemu-user-static: steps use it by themselves from Linux 6.7 on, before it "
        "needs systemctl restart systemd-binfmt. Or put the step in a stage "
        "FROM --platform=$BUILDPLATFORM",
    )
