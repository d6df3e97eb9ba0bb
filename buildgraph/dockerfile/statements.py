"""Knows the arguments of every instruction; must not know files, stages or their order.

Source: shared reference, sections 1.1, 1.4, 1.6 and 1.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.durations import parse_duration
from buildgraph.dockerfile.expand import expand
from buildgraph.dockerfile.flags import Flags
from buildgraph.dockerfile.lexer import split_words
from buildgraph.dockerfile.mounts import parse_mount
from buildgraph.dockerfile.signals import parse_signal
from buildgraph.dockerfile.statement import NOT_BLANKS, Statement, json_strings
from buildgraph.dockerfile.wording import quote
from buildgraph.errors import InputError, did_you_mean

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_VARIABLE = re.compile(r"\$.")
_LEAST_DURATION = 1_000_000  # ns, what container engines accept
_INT32 = 2**31 - 1


def build(statement: Statement) -> ast.Instruction:
    """Make the instruction of a statement whose keyword is known; raises InputError."""
    return _BUILDERS[statement.name](statement)


def _need_arguments(statement: Statement, hint: str | None = None) -> None:
    if not statement.rest:
        raise InputError(f"{statement.name} needs an argument", statement.where(), hint)


def _description(comments: list[str], name: str | None) -> str:
    """The rest of a comment line that begins with the name it describes."""
    if name:
        for comment in comments:
            if comment.startswith(f"{name} "):
                return comment[len(name) + 1 :].strip()
    return ""


def _from(statement: Statement) -> ast.From:
    words = statement.words()
    name = as_written = None
    as_keyword = "AS"
    if len(words) == 3 and words[1].text.lower() == "as":
        as_keyword, as_written = words[1].text, words[2].text
        name = as_written.lower()
        if _STAGE_NAME.fullmatch(name) is None:
            raise InputError(
                f"invalid stage name {quote(as_written)}",
                statement.word_where(words[2]),
                "it begins with a letter and holds letters, digits, '-', '_' and '.'",
            )
    elif len(words) != 1:
        raise InputError(
            f"FROM takes one or three arguments, not {len(words)}",
            statement.rest_where(),
            "write FROM image, or FROM image AS name",
        )
    return ast.From(
        image=words[0].text,
        name=name,
        name_as_written=as_written,
        platform=statement.flags.text("platform"),
        comment=_description(statement.comments, as_written),
        comments=tuple(statement.comments),
        as_keyword=as_keyword,
        **statement.base(),
    )


def _run(statement: Statement) -> ast.Run:
    _need_arguments(statement)
    if statement.json is not None and not statement.json:
        raise InputError("RUN needs a command", statement.rest_where())
    flags = statement.flags
    heredocs = statement.heredocs()
    script = False
    shell: str | None = None
    if statement.json is None:
        shell = statement.rest
        if heredocs:
            marker = statement.markers[0]
            script = (marker.start, marker.end) == (statement.rest_start, statement.end)
            if script:
                shell = heredocs[0].body
            else:
                # The shell reads these bodies itself, so they keep their tabs.
                parts = [shell]
                for one, body in zip(statement.markers, statement.bodies, strict=True):
                    parts.append(body + one.name)
                shell = "\n".join(parts)
    return ast.Run(
        shell=shell,
        exec=statement.json,
        heredocs=heredocs,
        script=script,
        mounts=tuple(parse_mount(flag.value or "", flag.where) for flag in flags.all("mount")),
        network=_one_of(flags, "network", ("default", "none", "host")),
        security=_one_of(flags, "security", ("sandbox", "insecure")),
        devices=flags.texts("device"),
        **statement.base(),
    )


def _one_of(flags: Flags, name: str, values: tuple[str, ...]) -> str | None:
    if not flags.all(name):
        return None
    value = flags.text(name) or ""
    if value not in values:
        raise InputError(
            f"--{name} is one of {', '.join(values)}, not {quote(value)}",
            flags.where(name),
            did_you_mean(value[:60], values),
        )
    return value


def _cmd(statement: Statement) -> ast.Cmd:
    _need_arguments(statement, "write CMD [] to clear it")
    shell = None if statement.json is not None else statement.rest
    return ast.Cmd(shell=shell, exec=statement.json, **statement.base())


def _entrypoint(statement: Statement) -> ast.Entrypoint:
    _need_arguments(statement, "write ENTRYPOINT [] to clear it")
    shell = None if statement.json is not None else statement.rest
    return ast.Entrypoint(shell=shell, exec=statement.json, **statement.base())


def _transfer(statement: Statement) -> dict[str, Any]:
    """What COPY and ADD share, as keyword arguments."""
    flags = statement.flags
    if statement.json is not None:
        words = list(statement.json)
        count = len(words)
    else:
        words = _words_between(statement)
        count = len(words) + len(statement.markers)
    if count < 2:
        raise InputError(
            f"{statement.name} needs at least one source and a destination", statement.rest_where()
        )
    if statement.markers and statement.markers[-1].end == statement.end:
        last = statement.markers[-1]
        raise InputError(
            "a heredoc cannot be the destination", statement.line.where(last.start, last.end)
        )
    return {
        "sources": tuple(words[:-1]),
        "dest": words[-1],
        "heredocs": statement.heredocs(),
        "chown": flags.text("chown"),
        "chmod": flags.text("chmod"),
        "link": bool(flags.boolean("link")),
        "exclude": flags.texts("exclude"),
        **statement.base(),
    }


def _words_between(statement: Statement) -> list[str]:
    """The words around the heredoc markers, which may hold quoted blanks themselves."""
    words: list[str] = []
    position = statement.rest_start
    text = statement.line.text
    for marker in statement.markers:
        words += NOT_BLANKS.findall(text, position, marker.start)
        position = marker.end
    words += NOT_BLANKS.findall(text, position, statement.end)
    return words


def _copy(statement: Statement) -> ast.Copy:
    source = statement.flags.text("from")
    if source is not None and _VARIABLE.search(source):
        raise InputError(
            "--from takes no variables",
            statement.flags.where("from"),
            "name a stage with `FROM image AS name` and use that name",
        )
    return ast.Copy(
        from_=source,
        parents=bool(statement.flags.boolean("parents")),
        **_transfer(statement),
    )


def _add(statement: Statement) -> ast.Add:
    transfer = _transfer(statement)
    checksum = statement.flags.text("checksum")
    if checksum is not None and len(transfer["sources"]) + len(transfer["heredocs"]) > 1:
        raise InputError("--checksum needs exactly one source", statement.flags.where("checksum"))
    return ast.Add(
        checksum=checksum,
        keep_git_dir=bool(statement.flags.boolean("keep-git-dir")),
        unpack=statement.flags.boolean("unpack"),
        **transfer,
    )


def _pairs(statement: Statement) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Read `k=v ...` or the legacy `k rest of line`; return the pairs and which it was."""
    _need_arguments(statement, f"write {statement.name} name=value")
    words = split_words(statement.rest, statement.escape, statement.rest_start)
    if not words or "=" not in words[0].text:
        parts = _BLANKS.split(statement.rest, maxsplit=1)
        if len(parts) < 2:
            raise InputError(
                f"{statement.name} needs a name and a value",
                statement.rest_where(),
                f"write {statement.name} {parts[0][:60]}=value",
            )
        return ((parts[0], parts[1]),), True
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, equals, value = word.text.partition("=")
        if not equals:
            raise InputError(
                f"{quote(word.text)} is not of the form name=value",
                statement.word_where(word),
                "quote a value that holds blanks",
            )
        if not name:
            raise InputError("the name is empty", statement.word_where(word))
        pairs.append((name, value))
    return tuple(pairs), False


def _env(statement: Statement) -> ast.Env:
    pairs, legacy = _pairs(statement)
    return ast.Env(pairs=pairs, legacy=legacy, **statement.base())


def _label(statement: Statement) -> ast.LabelInstruction:
    pairs, legacy = _pairs(statement)
    return ast.LabelInstruction(pairs=pairs, legacy=legacy, **statement.base())


def _arg(statement: Statement) -> ast.Arg:
    _need_arguments(statement)
    pairs: list[tuple[str, str | None]] = []
    for word in split_words(statement.rest, statement.escape, statement.rest_start):
        name, equals, value = word.text.partition("=")
        if not name:
            raise InputError("the name is empty", statement.word_where(word))
        pairs.append((name, value if equals else None))
    if not pairs:
        raise InputError("the name is empty", statement.rest_where())
    described = [_description(statement.comments, name) for name, _ in pairs]
    return ast.Arg(
        pairs=tuple(pairs),
        comment=next(filter(None, described), ""),
        comments=tuple(statement.comments),
        **statement.base(),
    )


def _workdir(statement: Statement) -> ast.Workdir:
    _need_arguments(statement)
    return ast.Workdir(path=statement.rest, **statement.base())


def _user(statement: Statement) -> ast.User:
    _need_arguments(statement)
    return ast.User(user=statement.rest, **statement.base())


def _expose(statement: Statement) -> ast.Expose:
    _need_arguments(statement)
    ports = tuple(word.text for word in statement.words())
    return ast.Expose(ports=ports, **statement.base())


def _volume(statement: Statement) -> ast.Volume:
    _need_arguments(statement)
    if statement.json is not None:
        paths = statement.json
    else:
        paths = tuple(word.text for word in statement.words())
    if not paths or not all(path.strip() for path in paths):
        raise InputError("the path of a volume is empty", statement.rest_where())
    return ast.Volume(paths=paths, **statement.base())


def _stopsignal(statement: Statement) -> ast.StopSignal:
    _need_arguments(statement)
    where = statement.rest_where()
    if "$" not in statement.rest:
        parse_signal(expand(statement.rest, {}, statement.escape, where=where), where)
    return ast.StopSignal(signal=statement.rest, **statement.base())


def _healthcheck(statement: Statement) -> ast.HealthcheckInstruction:
    _need_arguments(statement, "write HEALTHCHECK CMD command, or HEALTHCHECK NONE")
    kind, _, command = _split_once(statement.rest)
    if kind.upper() == "NONE":
        if command:
            raise InputError("HEALTHCHECK NONE takes no arguments", statement.rest_where())
        return ast.HealthcheckInstruction(test=("NONE",), **statement.base())
    if kind.upper() != "CMD":
        raise InputError(
            f"HEALTHCHECK takes CMD or NONE, not {quote(kind)}",
            statement.rest_where(),
            did_you_mean(kind.upper()[:60], ("CMD", "NONE")) or "write HEALTHCHECK CMD command",
        )
    arguments = json_strings(command, statement.rest_where())
    if not command or arguments == ():
        raise InputError("HEALTHCHECK CMD needs a command", statement.rest_where())
    flags = statement.flags
    return ast.HealthcheckInstruction(
        test=("CMD-SHELL", command) if arguments is None else ("CMD", *arguments),
        interval=_duration(flags, "interval"),
        timeout=_duration(flags, "timeout"),
        start_period=_duration(flags, "start-period"),
        start_interval=_duration(flags, "start-interval"),
        retries=_retries(flags),
        **statement.base(),
    )


def _split_once(text: str) -> tuple[str, str, str]:
    match = _BLANKS.search(text)
    if match is None:
        return text, "", ""
    return text[: match.start()], match.group(), text[match.end() :]


def _duration(flags: Flags, name: str) -> int:
    value = flags.text(name)
    if not value:
        return 0
    duration = parse_duration(value, flags.where(name))
    if duration and duration < _LEAST_DURATION:
        raise InputError(f"--{name} is less than 1ms", flags.where(name), "0 inherits the default")
    return duration


def _retries(flags: Flags) -> int:
    value = flags.text("retries")
    if not value:
        return 0
    digits = value[1:] if value[0] in "+-" else value
    if not digits.isascii() or not digits.isdigit() or len(digits) > 10 or int(value) > _INT32:
        raise InputError(f"--retries is a number, not {quote(value)}", flags.where("retries"))
    if int(value) < 0:
        raise InputError(f"--retries cannot be negative ({value})", flags.where("retries"))
    return int(value)


def _shell(statement: Statement) -> ast.Shell:
    if statement.json is None:
        raise InputError(
            "SHELL takes the JSON form only",
            statement.rest_where(),
            'write for instance SHELL ["/bin/bash", "-c"]',
        )
    if not statement.json:
        raise InputError("SHELL needs at least one argument", statement.rest_where())
    return ast.Shell(args=statement.json, **statement.base())


def _maintainer(statement: Statement) -> ast.Maintainer:
    _need_arguments(statement)
    return ast.Maintainer(name=statement.rest, **statement.base())


def _onbuild(statement: Statement) -> ast.OnBuild:
    _need_arguments(statement)
    parts = [statement.rest]
    for marker, body in zip(statement.markers, statement.bodies, strict=True):
        parts.append(body + marker.name)
    return ast.OnBuild(trigger="\n".join(parts), **statement.base())


_BUILDERS: Mapping[str, Callable[[Statement], ast.Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
KEYWORDS = tuple(_BUILDERS)
