"""Knows a workspace as a whole: its packages, loaded one by one when somebody asks, and what
labels and patterns mean in it; must not know how targets are built.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final, assert_never

from buildgraph import limits
from buildgraph.boxfile import loader, schema, yaml
from buildgraph.boxfile.closure import Edge, dependency_order
from buildgraph.boxfile.files import Files, Listing, is_workspace
from buildgraph.boxfile.loader import BOXFILE, Header, Package, RegistryEntry, in_package
from buildgraph.boxfile.problems import Problems, no_package
from buildgraph.boxfile.rendering import Surroundings
from buildgraph.boxfile.rule_files import RULE_NAME, SUFFIX, RuleTable, read_rule
from buildgraph.boxfile.smoke import SmokeTarget, images_of
from buildgraph.boxfile.smoke_schema import SMOKE
from buildgraph.boxfile.smoke_view import smoke_target
from buildgraph.boxfile.target import (
    DirContext,
    DockerfileAt,
    GroupTarget,
    Target,
    group_target,
    image_target,
    references,
)
from buildgraph.errors import InputError, Location, did_you_mean
from buildgraph.label import (
    DEFAULT_NAME,
    AllBelow,
    AllInPackage,
    AtPath,
    Label,
    OneTarget,
    TargetPattern,
    is_package,
    parse_pattern,
)

_NOTHING: Final = Listing(False, None)


class Workspace:
    """One workspace, open for questions; holds no file open.

    What was loaded once is not read again: a workspace that may have changed is opened anew.
    """

    def __init__(
        self,
        root: str,
        rules: Mapping[str, schema.RuleSpec],
        environ: Mapping[str, str] | None = None,
    ):
        self.root = os.path.realpath(root)
        self._around = Surroundings(os.environ if environ is None else environ, self.root)
        self._rules = RuleTable({**schema.BUILT_IN, SMOKE.name: SMOKE})
        shipped = rules.shipped if isinstance(rules, RuleTable) else frozenset[str]()
        for name in rules:  # looked at when somebody uses one
            self._rules.add(name, partial(rules.__getitem__, name), shipped=name in shipped)
        self._files = Files(self.root)
        self._packages: dict[str, Package] = {}
        self._failed: dict[str, InputError] = {}
        self._path_problems: dict[Label, list[InputError]] = {}
        self._smokes: dict[Label, SmokeTarget] = {}
        self._header = Header(Location(BOXFILE))
        self._header = self._open_root()

    @classmethod
    def open(
        cls,
        root: str,
        rules: Mapping[str, schema.RuleSpec] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Workspace:
        """Open the workspace at `root` (see `find_root`) with the rules beside the built-in ones.

        `environ` has the variables that templates may read as far as the workspace declares them;
        default: the process's own.

        Reads the root's Boxfile and nothing else. What is wrong in that file is not raised here
        but by `expand`, `closure` and `package("")`, so that it is reported with everything else;
        until then the workspace has its directory's name and no variables.
        """
        return cls(root, rules or {}, environ)

    @property
    def rules(self) -> Mapping[str, schema.RuleSpec]:
        """Return all kinds of target; the workspace's own are read when they are looked at.

        That raises InputError for what is wrong in their files.
        """
        return self._rules

    @property
    def name(self) -> str:
        """Return the name that the root file gives, else the directory's."""
        return self._header.name or self._around.name

    @property
    def vars(self) -> Mapping[str, str]:
        """Return the variables of the root file."""
        return self._header.vars

    @property
    def registry(self) -> str | None:
        """Return the registry of the root file."""
        return self._header.registry

    @property
    def registries(self) -> Mapping[str, RegistryEntry]:
        """Return what the root file says of registries, by `host[:port]`."""
        return self._header.registries

    @property
    def files_read(self) -> list[str]:
        """Return all inputs so far, relative to the root, sorted: files, and directories with `/`.

        A directory (the root is `./`) is there because the names in it decided something: as long
        as it and the files are unchanged, loading again gives the same.
        """
        shipped = (path for path in self._rules.read_paths if os.path.isabs(path))
        others = (os.path.relpath(p, self.root) for p in (*self._around.git.observed, *shipped))
        found = {
            f"{path}/" if os.path.isdir(os.path.join(self.root, path)) else path for path in others
        }
        return sorted({*self._files.read_paths, *found}, key=os.fsencode)

    @property
    def variables_read(self) -> Mapping[str, str | None]:
        """Return the environment variables that templates asked for so far, with their values."""
        return MappingProxyType(self._around.variables.used)

    @property
    def volatile(self) -> bool:
        """Say whether something was asked for that may change while all files stay as they are."""
        return self._around.git.volatile

    @property
    def skipped(self) -> Mapping[str, str]:
        """Return the directories that `discover` could not look into, with the reason."""
        return MappingProxyType(self._files.skipped)

    def package(self, path: str, where: Location | None = None) -> Package:
        """Return the package in the directory `path`, loading it if that has not been done.

        Raises InputError with all that is wrong in its Boxfile, or (at `where`) when there is no
        such package.
        """
        if path in self._failed:
            raise self._failed[path]
        found = self._packages.get(path)
        if found is None:
            found = self._packages[path] = self._load(path, where)
        return found

    def declare(self, path: str, text: str) -> None:
        """Give the package in the directory `path` this Boxfile instead of the one it has.

        For a target that is made up for one command; braces in it are text. Raises InputError.
        """
        self._packages[path] = loader.load(text, path, self.rules, None)

    def discover(self, prefix: str = "") -> list[str]:
        """Return the paths of all packages in and below `prefix`, sorted by bytes.

        See `Files.walk` for what is not searched. Loads nothing.
        """
        return self._files.walk(prefix)

    def target(self, label: Label, where: Location | None = None) -> Target:
        """Return a target. Raises InputError at `where` when there is no such target."""
        package = self.package(label.package, where)
        found = package.targets.get(label.name)
        if found is not None:
            return found
        names = list(package.targets)
        hint = did_you_mean(label.name, names)
        if hint is None and self._files.kind(in_package(label.package, label.name)) == "directory":
            hint = f"for the directory write './{label.name}'"
        if hint is None and names:
            hint = f"//{label.package} has " + ", ".join(sorted(names))
        if hint is None and label.name == DEFAULT_NAME:
            hint = "there is no Dockerfile here; `buildgraph list` shows all targets"
        raise InputError(f"there is no target {label}", where, hint)

    def expand(self, patterns: Sequence[str | TargetPattern], cwd: str = "") -> list[Label]:
        """Return the targets that the patterns mean, each once, in the order they are first met.

        Patterns work from left to right, `-pattern` takes away from what is there so far. `cwd`
        is the current directory: a package path, or an absolute path inside the workspace. Groups
        stay groups. Raises InputError for all errors of all files that had to be read, and for a
        pattern that matches nothing.
        """
        package = self.package_of(cwd) if os.path.isabs(cwd) else cwd
        problems = Problems(self._failed.get(""))
        chosen: dict[Label, None] = {}
        for written in patterns:
            try:
                pattern = self._pattern(written, package)
                labels = self._select(pattern, None)
            except InputError as error:
                problems.add(error)
                continue
            if pattern.exclude:
                for label in labels:
                    chosen.pop(label, None)
            else:
                chosen.update(dict.fromkeys(labels))
        problems.raise_all()
        if patterns and not chosen:
            texts = " ".join(p if isinstance(p, str) else p.text for p in patterns)
            raise InputError(f"no target is left of {texts!r}")
        return list(chosen)

    def members(self, group: Target | GroupTarget) -> list[Label]:
        """Return the targets of a group, as `expand` would, groups among them not opened.

        A pattern with wildcards never means a group: two groups of `//...` would contain each
        other. Raises InputError.
        """
        view = group_target(group) if isinstance(group, Target) else group
        return [label for label, _ in self._group_edges(view)]

    def closure(self, labels: Iterable[Label]) -> list[Target]:
        """Return these targets and all that they need, each after what it needs.

        Needed are the targets in contexts, in a group and in any attribute that holds labels.
        Raises InputError for everything that is wrong on the way: Boxfiles, unknown targets,
        directories and Dockerfiles that are not there, and cycles, printed as the path round.
        """
        problems = Problems(self._failed.get(""))

        def lookup(label: Label, where: Location | None) -> Target | None:
            try:
                target = self.target(label, where)
                for error in self._path_errors(target):
                    problems.add(error)
            except InputError as error:
                problems.add(error)
                return None
            return target

        def edges(target: Target) -> Iterable[Edge]:
            try:
                return self._visible(target, self.needs(target), problems)
            except InputError as error:
                problems.add(error)
                return ()

        order, cycles = dependency_order(labels, lookup, edges)
        for cycle in cycles:
            problems.add(cycle)
        problems.raise_all()
        return order

    def _visible(self, user: Target, edges: list[Edge], problems: Problems) -> list[Edge]:
        """Complain of targets that `user` may not use; a group only collects."""
        for label, where in edges if user.rule != "group" else ():
            try:
                used = self.target(label, where)
            except InputError:
                continue  # whoever walks on tells
            allowed = used.visibility
            if allowed is not None and not allowed.allows(label, user.label):
                problems.add(
                    InputError(
                        f"{label} is not visible to {user.label}",
                        where,
                        f"visibility at {allowed.where}: {allowed.words()}",
                    )
                )
        return edges

    def needs(self, target: Target) -> list[Edge]:
        """Return the labels that a target needs directly, each with the place that says so."""
        if target.rule == "group":
            return self._group_edges(group_target(target))
        if target.rule == SMOKE.name:
            return images_of(self.smoke(target))
        return list(references(target))

    def smoke(self, target: Target) -> SmokeTarget:
        """Return the typed view of a smoke target, with the files it names.

        Raises InputError for all that is wrong in it.
        """
        found = self._smokes.get(target.label)
        if found is None:

            def read(path: str, where: Location) -> str:
                return yaml.decode(self._files.read(path, limits.BOXFILE_BYTES, where), path)

            found = self._smokes[target.label] = smoke_target(target, read)
        return found

    def read(self, path: str, limit: int, where: Location | None = None) -> bytes:
        """Return the bytes of a file of the workspace, and count it among `files_read`.

        `path` is relative to the root; links that lead out of it are not followed. Raises
        InputError at `where` when it is missing or larger than `limit`.
        """
        return self._files.read(path, limit, where)

    def package_of(self, directory: str) -> str:
        """Return the package path of an absolute directory. Raises InputError when outside."""
        real = os.path.realpath(directory)
        if real == self.root:
            return ""
        prefix = self.root.rstrip("/") + "/"
        if not real.startswith(prefix):
            raise InputError(f"{directory!r} is not in the workspace {self.root!r}")
        return real[len(prefix) :]

    def _open_root(self) -> Header:
        try:
            header = self.package("").header
        except InputError:
            header = None  # kept in _failed, or there is neither Boxfile nor Dockerfile
        return header or Header(Location(BOXFILE))

    def _load(self, path: str, where: Location | None) -> Package:
        listing = self._files.listing(path) if is_package(path) else _NOTHING
        if listing == _NOTHING:
            raise no_package(self._files, self.discover, path, where)
        name = in_package(path, BOXFILE)
        data = self._files.read(name, limits.BOXFILE_BYTES) if listing.boxfile else b""
        if path and is_workspace(data):
            raise InputError(
                f"//{path} is a workspace of its own",
                where or Location(name),
                f"go there: cd {path}",
            )
        try:
            text = yaml.decode(data, name) if listing.boxfile else None
            return loader.load(
                text,
                path,
                self.rules,
                listing.dockerfile,
                around=self._around,
                header=self._header,
                opened=None if path else self._open_rules,
            )
        except InputError as error:
            self._failed[path] = error
            raise

    def _open_rules(self, header: Header) -> list[InputError]:
        """Take in the names of the workspace's own rules; returns what is wrong with them."""
        errors: list[InputError] = []
        for value in header.rules:
            label = value.data
            assert isinstance(label, Label)
            if label.name != DEFAULT_NAME or self._files.kind(label.package) != "directory":
                message = f"rules: there is no directory {label.package or '.'!r}"
                errors.append(InputError(message, value.where))
                continue
            for file in self._files.names(label.package, SUFFIX):
                name = file.removesuffix(SUFFIX)
                path = in_package(label.package, file)
                if not RULE_NAME.fullmatch(name):
                    message = f"{file!r}: a rule is called by small letters, digits and '_'"
                    errors.append(InputError(message, Location(path)))
                elif not self._rules.add(name, partial(self._read_rule, path, name)):
                    errors.append(InputError(f"there is a rule {name!r} already", Location(path)))
        return errors

    def _read_rule(self, path: str, name: str) -> schema.RuleSpec:
        text = yaml.decode(self._files.read(path, limits.BOXFILE_BYTES), path)
        return read_rule(text, path, name)

    def _select(self, pattern: TargetPattern, where: Location | None) -> list[Label]:
        what = pattern.what
        match what:
            case OneTarget(label):
                return [self.target(label, where).label]
            case AllInPackage(path):
                found = list(self._labels_of(self.package(path, where)))
            case AllBelow(path):
                found = self._all_below(path, where)
            case AtPath():
                return [self._at_path(what)]
            case _:
                assert_never(what)
        if not found:
            raise InputError(f"{pattern.text!r} matches no target", where)
        return found

    def _pattern(self, written: str | TargetPattern, package: str) -> TargetPattern:
        if isinstance(written, TargetPattern):
            return written
        if not written.startswith("/") or written.startswith("//"):
            return parse_pattern(written, package)
        directory, _, name = written.rstrip("/").rpartition("/")
        here = self.package_of(written) if not name or os.path.isdir(written) else None
        if here is None:
            here = in_package(self.package_of(directory or "/"), name)
        return TargetPattern(written, AtPath(here))

    def _labels_of(self, package: Package) -> Iterable[Label]:
        return (target.label for target in package.targets.values())

    def _all_below(self, prefix: str, where: Location | None) -> list[Label]:
        if prefix and self._files.kind(prefix) != "directory":
            raise no_package(self._files, self.discover, prefix, where)
        problems = Problems()
        found: list[Label] = []
        for path in self.discover(prefix):
            try:
                found.extend(self._labels_of(self.package(path)))
            except InputError as error:
                problems.add(error)
        problems.raise_all()
        return found

    def _at_path(self, what: AtPath) -> Label:
        neighbours: Mapping[str, Target] = {}
        if what.neighbour and self._files.listing(what.neighbour.package) != _NOTHING:
            neighbours = self.package(what.neighbour.package).targets
            if what.neighbour.name in neighbours:
                return what.neighbour
        kind = self._files.kind(what.path)
        if kind == "directory":
            return self.target(Label(what.path, DEFAULT_NAME)).label
        if kind == "file":
            return self._user_of_dockerfile(what.path)
        if what.neighbour is None:
            raise no_package(self._files, self.discover, what.path, None)
        label = what.neighbour
        names = (*neighbours, *self._files.directories(label.package))
        raise InputError(
            f"there is neither a target {label} nor a directory {what.path!r}",
            hint=did_you_mean(label.name, names),
        )

    def _user_of_dockerfile(self, path: str) -> Label:
        """Return the target whose Dockerfile this is: the file's own package, then those above."""
        package = path
        while package:
            package = package.rpartition("/")[0]
            if self._files.listing(package) == _NOTHING:
                continue
            for target in self.package(package).targets.values():
                if target.rule == "image" and target.attrs["dockerfile"].data == path:
                    return target.label
        raise InputError(f"no target is built from the file {path!r}")

    def _group_edges(self, group: GroupTarget) -> list[Edge]:
        chosen: dict[Label, Location] = {}
        problems = Problems()
        for member in group.members:
            try:
                labels = self._select(member.pattern, member.where)
            except InputError as error:
                problems.add(error)
                continue
            if member.pattern.exclude:
                for label in labels:
                    chosen.pop(label, None)
                continue
            single = isinstance(member.pattern.what, OneTarget)
            for label in labels:
                if single or self.target(label).rule != "group":
                    chosen.setdefault(label, member.where)
        problems.raise_all()
        return list(chosen.items())

    def _path_errors(self, target: Target) -> list[InputError]:
        """Return complaints about paths of an image that are not there, at their own places."""
        known = self._path_problems.get(target.label)
        if known is None:
            known = [] if target.rule != "image" else self._check_paths(target)
            self._path_problems[target.label] = known
        return known

    def _check_paths(self, target: Target) -> list[InputError]:
        image = image_target(target)
        wanted = [(image.context, image.context_where, "directory"), *target.paths]
        for context in image.contexts:
            if isinstance(context.ref, DirContext):
                wanted.append((context.ref.path, context.where, "directory"))
        if isinstance(image.dockerfile, DockerfileAt):
            wanted.append((image.dockerfile.path, image.dockerfile.where, "file"))
        errors: list[InputError] = []
        for path, where, kind in wanted:
            there = self._files.kind(path)
            if there is None:
                errors.append(InputError(f"there is no {kind} {path!r} in the workspace", where))
            elif there != kind:
                errors.append(InputError(f"{path or '.'!r} is not a {kind}", where))
        return errors
