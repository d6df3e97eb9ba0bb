"""Knows which targets are defined otherwise than at an earlier commit, and in what; must not know
what the files they copy hold, or what needs them.

Compared is what a definition comes to (the steps of a Dockerfile, the attributes of a target, the
pins of a lock file), so that a comment or a neighbour's line changes nothing. For that the files
that define targets are written to an empty directory as they were, and read as a workspace.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from buildgraph.boxfile.loader import BOXFILE, DOCKERFILES, in_package
from buildgraph.boxfile.rule_files import SUFFIX
from buildgraph.boxfile.target import Target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.engine.affected import Cause, Causes
from buildgraph.engine.asking import texts
from buildgraph.engine.defining import LOCK, defines
from buildgraph.engine.earlier import Changes, Earlier
from buildgraph.engine.outline import FindImage, Outline
from buildgraph.engine.reach import Reach
from buildgraph.engine.reads import DOCKERFILE, Reading
from buildgraph.errors import InputError, Location
from buildgraph.graph.lower import ResolvedImage
from buildgraph.label import Label, parse_label
from buildgraph.oci.types import Platform


class Pins(Struct, frozen=True):
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

    def add(
        self, causes: Causes, changes: Changes, outline: Outline, reading: Reading, reach: Reach
    ) -> None:
        """Add what changed files mean as definitions. Raises HostError.

        `outline` has all targets, `reading` is of it.
        """
        self._causes = causes
        self._pins(changes, outline)
        candidates = self._candidates(changes, reading, reach)
        if candidates:
            self._definitions(candidates, outline, reading)

    def add_few(
        self, causes: Causes, changes: Changes, outline: Outline, reading: Reading, reach: Reach
    ) -> bool:
        """Do as `add`, with an outline to which nothing was added: only what counts is looked at.

        Returns False, and adds nothing, where that is everything. Raises HostError, and InputError
        where a Boxfile is wrong.
        """
        if BOXFILE in changes.paths or LOCK in changes.paths:
            return False
        self._causes = causes
        candidates = self._candidates(changes, reading, reach)
        if candidates:
            labels = [parse_label(name, "") for name in candidates]
            outline.add([t.label for t in with_needs(self._workspace, labels, set())])
            self._definitions(candidates, outline, reading)
        return True

    # -- definitions -------------------------------------------------------------------------

    def _candidates(self, changes: Changes, reading: Reading, reach: Reach) -> dict[str, list[str]]:
        """Return the targets whose definition may be another, with the files that may say so."""
        by_package: dict[str, list[str]] = {}
        for name in reading.needs:
            by_package.setdefault(name[2:].rpartition(":")[0], []).append(name)
        out: dict[str, list[str]] = {}
        for path in changes.paths:
            parent, _, base = path.rpartition("/")
            found: Iterable[str] = ()
            if path in (BOXFILE, LOCK):
                found = reading.needs if path == BOXFILE else ()
            elif base == BOXFILE or base in DOCKERFILES:
                found = by_package.get(parent, ())
            elif path in reading.defining:
                found = [label for label, _ in reach.paths(path)] or reading.needs
            for label, _ in reach.paths(path):
                out.setdefault(label, []).append(path)
            for label in found:
                if path not in out.setdefault(label, []):
                    out[label].append(path)
        return out

    def _definitions(
        self, candidates: Mapping[str, list[str]], outline: Outline, reading: Reading
    ) -> None:
        labels = [outline.targets[name].label for name in candidates]
        before = self._outline_before(labels, reading)
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

    def _outline_before(self, labels: Sequence[Label], now: Reading) -> Outline | None:
        """Return the targets as they were, those that were there; None: nothing can be said.

        Written is what these targets and all they need are defined by, and no more: a package at
        a time, as far as what they need now and needed then reaches.
        """
        os.makedirs(self._scratch, exist_ok=True)
        self._earlier.write_head(self._scratch)
        files = self._defining_files(now)
        directories = self._earlier.directories()
        wanted = {target.label.package for target in with_needs(self._workspace, labels, set())}
        written: set[str] = set()
        first = [*files.pop("", ()), *self._earlier.links()]
        try:
            while True:
                paths = [path for package in wanted - written for path in files.get(package, ())]
                self._write(first + paths, (wanted - written) & directories)
                first = []
                written |= wanted
                workspace = self._open_at(self._scratch)
                missing: set[str] = set()
                targets = list(with_needs(workspace, labels, missing))
                wanted = (missing & files.keys()) - written
                if not wanted:
                    break
            said = {t for target in targets for v in target.attrs.values() for t in texts(v)}
            named = said | {text.partition("=")[2] for text in said}  # entries are key=value
            beside = {f"{name}.dockerignore" for name in named}
            beside.update(in_package(name, ".dockerignore") for name in named)
            there = named | beside
            self._write([p for p in self._earlier.names() if p in there], named & directories)
            workspace = self._open_at(self._scratch)
            outline = Outline(workspace, self._same_image(workspace.root))
            outline.add([target.label for target in targets])
        except InputError:
            return None
        return outline

    def _defining_files(self, now: Reading) -> dict[str, list[str]]:
        """Return the files that define targets, by directory; "": of the root, and of no package.

        Dockerfiles with names of their own are not among them.
        """
        dockerfiles = {
            read.path for reads in now.paths.values() for read in reads if read.role == DOCKERFILE
        }
        others = now.defining - dockerfiles
        out: dict[str, list[str]] = {"": []}
        for path in self._earlier.names():
            if defines(path):
                out.setdefault(path.rpartition("/")[0], []).append(path)
            elif path in others or path.endswith(SUFFIX):
                out[""].append(path)
        return out

    def _write(self, paths: Iterable[str], directories: Iterable[str]) -> None:
        self._earlier.write(paths, self._scratch)
        for name in directories:
            os.makedirs(os.path.join(self._scratch, name), exist_ok=True)

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


def with_needs(
    workspace: Workspace, labels: Iterable[Label], missing: set[str]
) -> Iterable[Target]:
    """Yield targets and all they need, as far as they are there; paths are not checked.

    Packages that are not there are added to `missing`. A Boxfile that is wrong raises InputError.
    """
    work = list(labels)[::-1]
    seen = set(work)
    while work:
        label = work.pop()
        try:
            package = workspace.package(label.package)
        except InputError:
            if os.path.exists(os.path.join(workspace.root, in_package(label.package, BOXFILE))):
                raise
            missing.add(label.package)
            continue
        target = package.targets.get(label.name)
        if target is None:
            continue
        yield target
        try:
            needed = [other for other, _ in workspace.needs(target)]
        except InputError:
            continue
        for other in needed:
            if other not in seen:
                seen.add(other)
                work.append(other)


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
