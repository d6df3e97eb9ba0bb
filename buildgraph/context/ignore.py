"""Knows the rules of an ignore file: which paths of a context are as if they were not there; must
not know the directory they speak about.

The last line that matches a path *or one of its parents* decides; `!` brings back. So the verdict
on a path is the highest number among the lines that match it and the number its parent directory
had, which makes it cheap to go down a tree: a directory hands its number on, and only higher
lines are asked. Lines are sorted by shape once (a whole path, a last name, anything else), so a
thousand literal lines cost one look-up.

Source: shared reference 1.8; moby/patternmatcher (MatchesOrParentMatches) and its ignorefile.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from msgspec import Struct, field

from buildgraph import limits
from buildgraph.context.glob import BadPattern, DeepPattern, NameMatcher
from buildgraph.errors import InputError, Location, raise_all


class _Rule(Struct, frozen=True):
    index: int
    brings_back: bool
    pattern: DeepPattern


class _Shapes(Struct):
    """Rules by shape; values are the highest index with that text, lists have highest first."""

    paths: dict[str, int] = field(default_factory=dict)  # "a/b": the whole path
    last_names: dict[str, int] = field(default_factory=dict)  # "**/b"
    last_matchers: list[tuple[int, NameMatcher]] = field(default_factory=list)  # "**/*.b"
    fixed_depth: list[_Rule] = field(default_factory=list)  # "a/*.b"
    others: list[_Rule] = field(default_factory=list)  # "a/**/b"


class Scope:
    """What the rules say about the entries of one directory. Made by `IgnoreRules.below`."""

    __slots__ = ("_floor", "_matchers", "_others", "_prefix", "_rules")

    def __init__(self, rules: IgnoreRules, directory: str, floor: int):
        self._rules = rules
        self._floor = floor
        self._prefix = directory + "/" if directory else ""
        self._matchers = rules._matchers_in(directory, floor)
        self._others = [rule for rule in rules._shapes.others if rule.index > floor]

    def verdict(self, name: str) -> int:
        """Return the number of the rule that decides on an entry, -1 for none."""
        shapes = self._rules._shapes
        best = self._floor
        path = self._prefix + name
        if shapes.paths:
            best = max(best, shapes.paths.get(path, -1))
        if shapes.last_names:
            best = max(best, shapes.last_names.get(name, -1))
        for index, matches in self._matchers:
            if index <= best:
                break
            if matches(name):
                best = index
                break
        for rule in self._others:
            if rule.index <= best:
                break
            if rule.pattern.matches(path):
                return rule.index
        return best

    def excludes(self, name: str) -> bool:
        """Say whether an entry of the directory is left out."""
        verdict = self.verdict(name)
        return verdict >= 0 and not self._rules.brings_back(verdict)


class IgnoreRules:
    """The patterns of one ignore file, or of `--exclude`. Not safe to share between threads."""

    def __init__(self, patterns: Iterable[str] = (), name: str = ""):
        """Take cleaned patterns (`patterns` of another set). Raises InputError for a bad one."""
        self.name = name
        self.patterns: tuple[str, ...] = tuple(patterns)
        self._check_count()
        self._set_rules([_rule(i, p, Location(name)) for i, p in enumerate(self.patterns)])

    @classmethod
    def parse(cls, text: str, name: str = ".dockerignore") -> IgnoreRules:
        """Read the text of an ignore file; `name` is what errors call it.

        Raises InputError, or InputErrors with every bad line.
        """
        out = cls((), name)
        rules: list[_Rule] = []
        patterns: list[str] = []
        errors: list[InputError] = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if line.startswith("#") or not line.strip():
                continue
            where = Location(name, number, 1, text=line.rstrip("\r"))
            try:
                pattern = clean_pattern(line)
                rules.append(_rule(len(patterns), pattern, where))
                patterns.append(pattern)
            except InputError as error:
                errors.append(error)
        raise_all(errors)
        out.patterns = tuple(patterns)
        out._check_count()
        out._set_rules(rules)
        return out

    def _check_count(self) -> None:
        if len(self.patterns) > limits.IGNORE_PATTERNS:
            raise InputError(
                f"{len(self.patterns)} patterns are more than the {limits.IGNORE_PATTERNS} allowed",
                Location(self.name) if self.name else None,
                "name directories instead of single files",
            )

    def _set_rules(self, rules: list[_Rule]) -> None:
        self._rules = tuple(rules)
        self._back = tuple(rule.brings_back for rule in rules)
        self._shapes = _sorted_by_shape(rules)
        self._bringing_back = tuple(rule for rule in rules if rule.brings_back)
        self._scopes: dict[str, Scope] = {"": Scope(self, "", -1)}

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def below(self, directory: str) -> Scope:
        """Return the scope of a directory ("" = the root); kept for the next question."""
        scope = self._scopes.get(directory)
        if scope is not None:
            return scope
        missing = []  # no recursion: a path may have two thousand components
        at = directory
        while at not in self._scopes:
            missing.append(at)
            at = at.rpartition("/")[0]
        scope = self._scopes[at]
        for at in reversed(missing):
            scope = Scope(self, at, scope.verdict(at.rpartition("/")[2]))
            self._scopes[at] = scope
        return scope

    def brings_back(self, index: int) -> bool:
        """Say whether a rule begins with `!`."""
        return self._back[index]

    def verdict(self, path: str) -> int:
        """Return the number of the pattern that decides on a path, -1 for none."""
        if not path or not self.patterns:
            return -1
        parent, _, name = path.rpartition("/")
        return self.below(parent).verdict(name)

    def excludes(self, path: str, is_dir: bool = False) -> bool:
        """Say whether a path is left out; the root never is.

        An excluded directory may still hold something that is brought back: ask
        `may_reinclude_below`. `is_dir` changes nothing: patterns do not know types.
        """
        verdict = self.verdict(path)
        return verdict >= 0 and not self._back[verdict]

    def may_reinclude_below(self, path: str) -> bool:
        """Say whether a `!` pattern could bring something back below an excluded directory."""
        if not self._bringing_back:
            return False
        verdict = self.verdict(path)
        return any(
            rule.index > verdict and rule.pattern.may_match_below(path)
            for rule in self._bringing_back
        )

    def excluded_by(self, path: str) -> str | None:
        """Return the pattern that leaves a path out, or None."""
        verdict = self.verdict(path)
        return None if verdict < 0 or self._back[verdict] else self.patterns[verdict]

    def _matchers_in(self, directory: str, floor: int) -> list[tuple[int, NameMatcher]]:
        """Return the matchers for a last name that can matter in a directory, highest first."""
        out = [pair for pair in self._shapes.last_matchers if pair[0] > floor]
        parts = directory.split("/") if directory else []
        for rule in self._shapes.fixed_depth:
            steps = rule.pattern.steps
            assert steps is not None
            last = steps[-1]
            if (
                rule.index > floor
                and last is not None
                and len(steps) == len(parts) + 1
                and all(
                    step is None or step(part) for step, part in zip(steps[:-1], parts, strict=True)
                )
            ):
                out.append((rule.index, last))
        out.sort(key=lambda pair: -pair[0])
        return out


def clean_pattern(line: str) -> str:
    """Return a line of an ignore file as a cleaned pattern (blank lines are the caller's)."""
    text = line.strip()
    back = text.startswith("!")
    if back:
        text = text[1:].strip()
    before = ""
    while text != before:  # moby trims and cleans twice; cleaning can bare a blank
        before = text
        text = _clean(text)
    return "!" + text if back else text


def _clean(text: str) -> str:
    if not text:
        return text
    text = posixpath.normpath(text)
    if text.startswith("//"):  # POSIX lets two slashes stand, path.Clean does not
        text = text[1:]
    if len(text) > 1:
        text = text.removeprefix("/")
    return text.strip()


def _rule(index: int, pattern: str, where: Location) -> _Rule:
    back = pattern.startswith("!")
    text = pattern[1:] if back else pattern
    if not text:
        raise InputError(
            "'!' needs a pattern to bring back" if back else "an empty pattern",
            where,
            "write '!path', or remove the line",
        )
    try:
        return _Rule(index, back, DeepPattern.read(text))
    except BadPattern as error:
        raise InputError(
            f"malformed pattern {text!r}: {error}",
            where,
            r"write '\[' for a plain bracket",
        ) from error


def _sorted_by_shape(rules: list[_Rule]) -> _Shapes:
    out = _Shapes()
    for rule in reversed(rules):
        steps, literals = rule.pattern.steps, rule.pattern.literals
        if steps is None:
            out.others.append(rule)
        elif None not in literals:
            out.paths.setdefault("/".join(map(str, literals)), rule.index)
        elif len(steps) == 2 and steps[0] is None and steps[1] is not None:
            if literals[1] is not None:
                out.last_names.setdefault(literals[1], rule.index)
            else:
                out.last_matchers.append((rule.index, steps[1]))
        elif None not in steps:
            out.fixed_depth.append(rule)
        else:
            out.others.append(rule)
    return out
