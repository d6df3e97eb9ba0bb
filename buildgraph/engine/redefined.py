"""Knows which targets are defined otherwise than at an earlier commit, and in what; must not know
what the files they copy hold, or what needs them.

Compared is what a definition comes to (the steps of a Dockerfile, the attributes of a target, the
pins of a lock file), so that a comment or a neighbour's line changes nothing. For that the files
that define targets are written to an empty directory as they were, and read as a workspace.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buildgraph.boxfile.loader import BOXFILE, DOCKERFILES, in_package
from buildgraph.boxfile.target import Target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.engine.affected import Cause, Causes
from buildgraph.engine.asking import texts
from buildgraph.engine.defining import LOCK, defines
from buildgraph.engine.earlier import Changes, Earlier
from buildgraph.engine.outline import FindImage, Outline
from buildgraph.engine.reach import Reach
from buildgraph.errors import InputError, Location
from buildgraph.graph.lower import ResolvedImage
from buildgraph.label import Label
from buildgraph.oci.types import Platform


@dataclass(frozen=True, slots=True)
class Pins:
    """What a lock file says: of targets, and of images by canonical name."""

    targets: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Any] = field(default_factory=dict)


ReadPins = Callable[[str], Pins]
OpenAt = Callable[[str], Workspace]


class Redefined:
    """Compares the targets of one workspace with what they were."""

    def __init__(
        self,
        workspace: Workspace,
        earlier: Earlier,
        find_image: FindImage,
        read_pins: ReadPins,
        open_at: OpenAt,
        scratch: str,
    ):
        """`scratch` is an empty directory, for the definitions as they were."""
        self._workspace = workspace
        self._earlier = earlier
        self._find_image = find_image
        self._read_pins = read_pins
        self._open_at = open_at
        # A workspace without a name has its directory's.
        self._scratch = os.path.join(
            os.path.realpath(scratch), os.path.basename(workspace.root) or "root"
        )
        self._causes = Causes()
        self.steps = 0  # comparisons: what the work is measured by

    def add(self, causes: Causes, changes: Changes, outline: Outline, reach: Reach) -> None:
        """Add what changed files mean as definitions. Raises HostError."""
        self._causes = causes
        self._pins(changes, outline)
        candidates = self._candidates(changes, outline, reach)
        if candidates:
            self._definitions(candidates, outline)

    # -- definitions -------------------------------------------------------------------------

    def _candidates(self, changes: Changes, outline: Outline, reach: Reach) -> dict[str, list[str]]:
        """Return the targets whose definition may be another, with the files that may say so."""
        read = set(self._workspace.files_read)
        by_package: dict[str, list[str]] = {}
        for name, target in outline.targets.items():
            by_package.setdefault(target.label.package, []).append(name)
        out: dict[str, list[str]] = {}
        for path in changes.paths:
            parent, _, base = path.rpartition("/")
            found: Iterable[str] = ()
            if path in (BOXFILE, LOCK):
                found = outline.targets if path == BOXFILE else ()
            elif base == BOXFILE or base in DOCKERFILES:
                found = by_package.get(parent, ())
            elif path in read:
                found = [label for label, _ in reach.paths(path)] or outline.targets
            for label, _ in reach.paths(path):
                out.setdefault(label, []).append(path)
            for label in found:
                if path not in out.setdefault(label, []):
                    out[label].append(path)
        return out

    def _definitions(self, candidates: Mapping[str, list[str]], outline: Outline) -> None:
        before = self._outline_before([outline.targets[name].label for name in candidates])
        for name, paths in candidates.items():
            self.steps += 1
            path = paths[0]
            if before is None or name in outline.failed:
                self._causes.add(name, Cause(path, "it cannot be read"))
            elif name not in before.targets:
                self._causes.add(name, Cause(path, "a new target", outline.targets[name].where))
            elif name in before.failed:
                text = f"it could not be read at {self._earlier.since}"
                self._causes.add(name, Cause(path, text, outline.targets[name].where))
            else:
                for text, where in _differences(before, outline, name):
                    named = where.path if where is not None and where.path in paths else path
                    self._causes.add(name, Cause(named, text, where))

    def _outline_before(self, labels: Sequence[Label]) -> Outline | None:
        """Return the targets as they were, those that were there; None: nothing can be said."""
        earlier, scratch = self._earlier, self._scratch
        read_now = set(self._workspace.files_read)
        os.makedirs(scratch, exist_ok=True)
        earlier.write_head(scratch)
        earlier.write(
            [p for p in earlier.names() if p in read_now or defines(p)] + earlier.links(), scratch
        )
        directories = earlier.directories()
        for label in labels:
            if label.package in directories:
                os.makedirs(os.path.join(scratch, label.package), exist_ok=True)
        try:
            workspace = self._open_at(scratch)
            outline = Outline(workspace, self._same_image(workspace.root))
            packages = frozenset(workspace.discover())
            there = [label for label in labels if _has(workspace, packages, label)]
            files = set(earlier.names())
            for target in _with_needs(workspace, packages, there):
                named = {text for value in target.attrs.values() for text in texts(value)}
                earlier.write(sorted(named & files), scratch)
                for name in named & directories:
                    os.makedirs(os.path.join(scratch, name), exist_ok=True)
            outline.add(there)
        except InputError:
            return None
        return outline

    def _same_image(self, root: str) -> FindImage:
        """Images are what they are now: a layout that has changed is content."""

        def find(reference: str, platform: Platform, where: Location) -> ResolvedImage | None:
            return self._find_image(reference.replace(root, self._workspace.root), platform, where)

        return find

    def _pins(self, changes: Changes, outline: Outline) -> None:
        if LOCK not in changes.paths:
            return
        before = self._earlier.read([LOCK]).get(LOCK, b"")
        try:
            with open(os.path.join(self._workspace.root, LOCK), "rb") as file:
                after = file.read()
        except FileNotFoundError:
            after = b""
        was, now = (
            self._read_pins(data.decode("utf-8", "surrogateescape")) if data else Pins()
            for data in (before, after)
        )
        for name in {*was.targets, *now.targets}:
            if was.targets.get(name) != now.targets.get(name) and name in outline.targets:
                self._causes.add(name, Cause(LOCK, "its packages are pinned anew", Location(LOCK)))
        for image in sorted({*was.images, *now.images}):
            if was.images.get(image) != now.images.get(image):
                for name in outline.targets:
                    if outline.uses_image(name, image):
                        self._causes.add(
                            name, Cause(LOCK, f"{image} is pinned anew", Location(LOCK))
                        )


def _has(workspace: Workspace, packages: Collection[str], label: Label) -> bool:
    """Say whether there is such a target. A Boxfile that is wrong raises InputError."""
    if label.package and label.package not in packages:
        return False
    try:
        return label.name in workspace.package(label.package).targets
    except InputError:
        if os.path.exists(os.path.join(workspace.root, in_package(label.package, BOXFILE))):
            raise
        return False


def _with_needs(
    workspace: Workspace, packages: Collection[str], labels: Iterable[Label]
) -> Iterable[Target]:
    """Yield targets and all they need, as far as it is there; paths are not checked."""
    work, seen = list(labels), set(labels)
    while work:
        target = workspace.target(work.pop())
        yield target
        try:
            needed = [label for label, _ in workspace.needs(target)]
        except InputError:
            continue
        for label in needed:
            if label not in seen and _has(workspace, packages, label):
                seen.add(label)
                work.append(label)


def _differences(before: Outline, now: Outline, name: str) -> Iterable[tuple[str, Location | None]]:
    """Yield in what a target's definition differs, as words and a place."""
    target = now.targets[name]
    try:
        was, settings = before.settings(name), now.settings(name)
    except InputError:
        yield "it could not be read before", target.where
        return
    for key in sorted({*was, *settings}):
        if was.get(key) != settings.get(key):
            value = target.attrs.get(key)
            yield f"{key} is another", target.where if value is None else value.where
    old, new = before.steps(name), now.steps(name)
    for index, (node, value) in enumerate(new):
        if index < len(old) and old[index][1] == value:
            continue
        stage = f"stage {node.stage}, " if node.stage else ""
        if index < len(old) and old[index][1][:3] == value[:3]:
            yield f"{stage}{node.title}: its context ignores other files", node.where
        else:
            yield f"{stage}{node.title}, and what stands on it", node.where
        return
    if len(old) > len(new):
        yield "steps were taken away", target.where
