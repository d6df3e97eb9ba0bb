"""Knows what to write instead, where a check has one answer; must not know when a check fires."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable

from buildgraph.dockerfile import instructions as ast

_SHELL_SIGNS = re.compile(r"[|&;<>()$`*?\[\]{}~#=!\n]")
_AUTHORS = "org.opencontainers.image.authors"


def fix_of(rule: str, instruction: ast.Base) -> str:
    """Return one line that says what to write instead, "" where that takes a person."""
    maker = _MAKERS.get(rule)
    if maker is not None:
        return maker(instruction)
    return _WORDS.get(rule, "")


def _stage_name(one: ast.Base) -> str:
    return f"AS {one.name}" if isinstance(one, ast.From) else ""


def _as_keyword(one: ast.Base) -> str:
    if not isinstance(one, ast.From):
        return ""
    return f"{'as' if one.keyword.islower() else 'AS'} {one.name_as_written or one.name}"


def _json_form(one: ast.Base) -> str:
    text = one.shell if isinstance(one, ast.Command) else None
    if text is None:
        return ""
    keyword = one.keyword.upper()
    text = text.removeprefix("exec ")
    if not _SHELL_SIGNS.search(text):
        try:
            return f"{keyword} {json.dumps(shlex.split(text), ensure_ascii=False)}"
        except ValueError:
            pass
    return (
        f'{keyword} ["/bin/sh", "-c", "exec …"], or name the shell that is meant: '
        'SHELL ["/bin/sh", "-c"]'
    )


def _maintainer(one: ast.Base) -> str:
    name = one.name if isinstance(one, ast.Maintainer) else "…"
    return f"LABEL {_AUTHORS}={json.dumps(name, ensure_ascii=False)}"


def _pairs(one: ast.Base) -> str:
    if not isinstance(one, ast.Env | ast.LabelInstruction):
        return ""
    keyword = "ENV" if isinstance(one, ast.Env) else "LABEL"
    shown = (f"{name}={_quoted(value)}" for name, value in one.pairs)
    return f"{keyword} {' '.join(shown)}"


def _quoted(value: str) -> str:
    if value and not re.search(r"[\s'\"\\]", value):
        return value
    return '"' + value.replace('"', '\\"') + '"'


def _secret(one: ast.Base) -> str:
    name = one.pairs[0][0] if isinstance(one, ast.Arg | ast.Env) and one.pairs else "TOKEN"
    return f"RUN --mount=type=secret,id={name.lower()},env={name} … where it is needed"


def _workdir(one: ast.Base) -> str:
    return f"WORKDIR /{one.path.removeprefix('./')}" if isinstance(one, ast.Workdir) else ""


def _platform(one: ast.Base) -> str:
    return f"FROM {one.image}" if isinstance(one, ast.From) else ""


_MAKERS: dict[str, Callable[[ast.Base], str]] = {
    "StageNameCasing": _stage_name,
    "FromAsCasing": _as_keyword,
    "JSONArgsRecommended": _json_form,
    "MaintainerDeprecated": _maintainer,
    "LegacyKeyValueFormat": _pairs,
    "SecretsUsedInArgOrEnv": _secret,
    "WorkdirRelativePath": _workdir,
    "RedundantTargetPlatform": _platform,
}
_WORDS = {
    "DuplicateStageName": "give the stage a name of its own",
    "ReservedStageName": "give the stage another name",
    "UndefinedArgInFrom": "declare it with ARG before the first FROM",
    "UndefinedVar": "declare it with ARG or ENV above, or give a default: ${NAME:-value}",
    "MultipleInstructionsDisallowed": "remove this one",
    "FromPlatformFlagConstDisallowed": "--platform=$BUILDPLATFORM, or no flag",
    "InvalidDefaultArgInFrom": "give the ARG a default that makes a valid image name",
}
