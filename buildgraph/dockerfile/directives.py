"""Knows the parser directives at the top of a file; must not know the instructions below them.

Source: shared reference, section 1.1 (table) and section 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from buildgraph.dockerfile.instructions import Directives
from buildgraph.dockerfile.wording import quote
from buildgraph.errors import InputError, Location, did_you_mean

# Patterns that few files need stay text: `re` compiles and keeps them at first use.
_DIRECTIVE = r"([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S.*)"
_COMMENT_CHECK = r"check\s*=\s*((?:skip|error|experimental)\s*=.*)"
_KNOWN = ("syntax", "escape", "check")
_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")


class CheckOptions(Struct, frozen=True):
    """What `# check=` asks for; rule ids are case-sensitive and may be unknown here."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    error: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False


def read_directives(lines: list[str], path: str) -> tuple[Directives, int, list[InputError]]:
    """Read the directives; return them, how many lines they took, and what is wrong with them.

    The first line that is no directive ends them.
    """
    found: dict[str, str] = {}
    places: dict[str, Location] = {}
    errors: list[InputError] = []
    count = 0
    for raw in lines:
        line = raw.rstrip("\r")
        match = _match(line, "#")
        if match is None:
            break
        count += 1
        key, value = match.group(1).lower(), match.group(2)
        column = match.start(2) + len(line.rstrip()) - len(match.string) + 1
        where = Location(path, count, column, column + len(value), line)
        if key in found:
            errors.append(InputError(f"directive {key!r} is given twice", where))
            continue
        found[key], places[key] = value, where
    escape = found.get("escape", "\\")
    if escape not in ("\\", "`"):
        errors.append(InputError(f"escape is \\ or `, not {quote(escape)}", places["escape"]))
        escape = "\\"
    if "check" in found:
        try:
            parse_check_options(found["check"], places["check"])
        except InputError as error:
            errors.append(error)
    syntax = found.get("syntax")
    if lines[0].startswith("#!"):  # only the search for a frontend looks past such a line
        syntax = detect_syntax("\n".join(lines[:16]))
    directives = Directives(
        syntax=syntax.split()[0] if syntax else None,
        escape=escape,
        check=found.get("check"),
        where=tuple(places.items()),
    )
    return directives, count, errors


def detect_syntax(text: str) -> str | None:
    """Name the frontend image that a file asks for, in any of the forms that upstream detects.

    These are `# syntax=`, `// syntax=`, both also below a `#!` line, and JSON `{"syntax": ...}`.
    """
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    lines = text.split("\n", 16)  # directives stand at the top, and there are three of them
    if lines[0].startswith("#!"):
        lines = lines[1:]
    for comment in ("#", "//"):
        for line in lines:
            match = _match(line.rstrip("\r"), comment)
            if match is None:
                break
            if match.group(1).lower() == "syntax":
                return match.group(2).split()[0]
    return _json_syntax(text)


def check_frontend(directives: Directives, path: str, override: str = "") -> None:
    """Refuse a file that asks for another language than the one that is built in.

    `override` is the build argument BUILDKIT_SYNTAX, which beats `# syntax=`. Raises InputError.
    """
    syntax = (override.split() or [""])[0] or directives.syntax
    if not syntax or is_built_in(syntax):
        return
    if override:
        where = Location("--build-arg BUILDKIT_SYNTAX")
    else:
        where = dict(directives.where).get("syntax", Location(path, 1))
    raise InputError(
        f"the file is written for the frontend {quote(syntax)}, which is not fetched",
        where,
        "the Dockerfile language is built in: docker/dockerfile:1 and its labs channel",
    )


def is_built_in(syntax: str) -> bool:
    """Say whether an image name means the language that is built in, a mirror's copy as well."""
    name, _, digest = syntax.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    if not re.search(r"(?:^|/)docker/dockerfile(?:-upstream)?$", repository):
        return False
    return bool(digest) or re.match(r"(?:[2-9]|1[0-9])", tag) is None


def parse_check_options(text: str, where: Location) -> CheckOptions:
    """Read `skip=A,B;error=true;experimental=all`.

    Raises InputError for an unknown key or a value that does not fit.
    """
    skip: set[str] = set()
    experimental: set[str] = set()
    error = False
    for part in text.split(";"):
        key, equals, value = part.partition("=")
        key = key.strip()
        value = value.strip()
        if not part.strip():
            continue
        if key not in ("skip", "error", "experimental") or not equals:
            raise InputError(
                f"unknown check option {quote(part.strip())}",
                where,
                did_you_mean(key[:60], ("skip", "error", "experimental"))
                or "write skip=RULE,…;error=true;experimental=RULE,…",
            )
        if key == "error":
            if value.lower() not in _TRUE + _FALSE:
                raise InputError(f"error is true or false, not {quote(value)}", where)
            error = value.lower() in _TRUE
        else:
            rules = {rule.strip() for rule in value.split(",")} - {""}
            (skip if key == "skip" else experimental).update(rules)
    return CheckOptions(
        skip=frozenset(skip - {"all"}),
        skip_all="all" in skip,
        error=error,
        experimental=frozenset(experimental - {"all"}),
        experimental_all="all" in experimental,
    )


def comment_check_options(comments: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Collect the rules to skip, and the experimental ones, from comments above an instruction.

    Only these two may be set there; `all` stands for itself. A comment that does not parse is
    an ordinary comment.
    """
    skip: set[str] = set()
    experimental: set[str] = set()
    for comment in comments:
        match = re.fullmatch(_COMMENT_CHECK, comment, re.IGNORECASE)
        if match is None:
            continue
        try:
            options = parse_check_options(match.group(1), Location(""))
        except InputError:
            continue
        skip |= options.skip | ({"all"} if options.skip_all else set())
        experimental |= options.experimental | ({"all"} if options.experimental_all else set())
    return tuple(sorted(skip)), tuple(sorted(experimental))


def _match(line: str, comment: str) -> re.Match[str] | None:
    """Match a known directive in a line that begins with the comment sign."""
    if not line.startswith(comment):
        return None
    match = re.fullmatch(_DIRECTIVE, line[len(comment) :].strip())
    return match if match is not None and match.group(1).lower() in _KNOWN else None


def _json_syntax(text: str) -> str | None:
    if not text.lstrip().startswith("{"):
        return None
    import json  # only needed for this rare form

    try:
        syntax = json.loads(text).get("syntax")
    except (ValueError, RecursionError):
        return None
    return syntax if isinstance(syntax, str) else None
