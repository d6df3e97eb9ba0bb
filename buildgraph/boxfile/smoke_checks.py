"""Knows what the keys of a check come to; must not know services, nor how a check is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from buildgraph.boxfile.smoke import (
    Check,
    CheckKind,
    ConfigCheck,
    ExecCheck,
    ExitCheck,
    Expected,
    FileCheck,
    HttpCheck,
    LimitsCheck,
    LogsCheck,
    Subject,
    TcpCheck,
    Wanted,
)
from buildgraph.boxfile.smoke_fields import Fields, check_expression, plain, text_or_none
from buildgraph.boxfile.smoke_schema import KINDS, METHODS
from buildgraph.boxfile.target import Block, Value
from buildgraph.label import Label

Default = Callable[[], Subject | None]


def read_check(fields: Fields, default: Default) -> Check | None:
    """Return a check, None after an error.

    `default` says what a check is about that names neither service nor image; it is asked only
    then, and None means that nothing goes without saying.
    """
    kind = next(name for name in KINDS if fields.value(name).given)
    value = fields.value(kind)
    inner = fields.record(kind) or Fields({}, value.where, fields.errors)
    before = len(fields.errors)
    what = _READERS[kind](inner, value, default)
    if what is None or len(fields.errors) > before:
        return None
    within = inner.number("within") if "within" in inner.values else None
    timeout = inner.number("timeout") if "timeout" in inner.values else None
    where = value.key or value.where
    return Check(fields.text("name") or str(what), what, where, within or 0, timeout)


def _http(fields: Fields, value: Value, default: Default) -> CheckKind | None:
    method = next(name for name in METHODS if fields.value(name).given)
    for _, item in _entries(fields, "response_headers"):
        check_expression(plain(item), item.where, fields.errors)
    for path, item in _entries(fields, "json"):
        if path_steps(path) is None:
            hint = "$.items[0].name"
            fields.error(f"{path!r} is not a path in JSON", item.key or item.where, hint)
    return HttpCheck(
        method.upper(),
        fields.text(method) or "",
        fields.pairs("headers"),
        fields.text("body"),
        fields.texts("status"),
        fields.pairs("response_headers"),
        fields.own_expected(),
        fields.pairs("json"),
        fields.flag("verify"),
        fields.text("ca"),
    )


def _entries(fields: Fields, name: str) -> list[tuple[str, Value]]:
    data = fields.value(name).data
    return [] if data is None or not hasattr(data, "items") else list(data.items())


def path_steps(path: str) -> tuple[str | int, ...] | None:
    """Return the steps of `$.items[0]["a b"].name`, None where it is no such path."""
    rest = path.removeprefix("$")
    steps: list[str | int] = []
    while rest:
        if rest.startswith("["):
            inside, closed, rest = rest[1:].partition("]")
            if not closed:
                return None
            if inside[:1] in ("'", '"') and inside[-1:] == inside[:1] and len(inside) > 1:
                steps.append(inside[1:-1])
            elif inside.removeprefix("-").isdecimal():
                steps.append(int(inside))
            else:
                return None
            continue
        if rest.startswith("."):
            rest = rest[1:]
        elif steps:
            return None
        end = min((i for i in (rest.find("."), rest.find("[")) if i >= 0), default=len(rest))
        if end == 0:
            return None
        steps.append(rest[:end])
        rest = rest[end:]
    return tuple(steps)


def _tcp(fields: Fields, value: Value, default: Default) -> CheckKind | None:
    text = text_or_none(value)
    send, answer = None, Expected()
    if text is None:
        text = fields.text("connect") or ""
        send, answer = fields.text("send"), fields.own_expected()
    host, _, port = text.rpartition(":")
    if not 0 < int(port) < 65536:
        fields.error(f"{port} is not a port", value.where)
    return TcpCheck(host, int(port), send, answer)


def _exec(fields: Fields, value: Value, default: Default) -> CheckKind | None:
    service = _service(fields, default)
    if service is None:
        return None
    run = fields.value("run")
    if isinstance(run.data, str | Block):
        args: tuple[str, ...] = ("/bin/sh", "-c", plain(run))
    else:
        args = fields.texts("run")
    if not args:
        fields.error("run: there is no command", run.where)
    return ExecCheck(
        service,
        args,
        fields.number("exit_code") or 0,
        fields.expected("stdout"),
        fields.expected("stderr"),
        fields.text("user"),
        fields.text("working_dir"),
        fields.environment("environment"),
    )


def _service(fields: Fields, default: Default) -> str | None:
    named = fields.text("in")
    if named is not None:
        return named
    subject = default()
    if subject is None or subject.service is None:
        fields.error("in which service?", fields.where, "say it with 'in:'")
        return None
    return subject.service


def _logs(fields: Fields, value: Value, default: Default) -> CheckKind | None:
    service = fields.text("service")
    if service is None:
        subject = default()
        service = subject.service if subject else None
    text = fields.own_expected()
    if service is None:
        fields.error("of which service?", value.where, "say it with 'service:'")
        return None
    if text.anything:
        fields.error("logs: what is to be in them?", value.where, "contains, matches or excludes")
    return LogsCheck(service, text)


def _exit(fields: Fields, value: Value, default: Default) -> CheckKind | None:
    text = text_or_none(value)
    if text is not None:
        return ExitCheck(text)
    return ExitCheck(fields.text("service") or "", fields.number("code") or 0)


def _subject(fields: Fields, default: Default) -> Subject | None:
    service, image = fields.text("in"), fields.value("image").data
    if service is not None and image is not None:
        fields.error("give 'in' or 'image', not both", fields.place("image"))
        return None
    if service is not None:
        return Subject(service=service)
    if isinstance(image, Label):
        return Subject(image=image)
    subject = default()
    if subject is None:
        fields.error("of which image or service?", fields.where, "say it with 'image:' or 'in:'")
    return subject


def _file(fields: Fields, value: Value, default: Default) -> CheckKind | None:
    subject = _subject(fields, default)
    if subject is None:
        return None
    mode = fields.text("mode")
    found = FileCheck(
        subject,
        fields.text("path") or "",
        fields.flag("exists"),
        fields.text("type"),
        None if mode is None else int(mode, 8),
        fields.text("owner"),
        fields.own_expected(),
        fields.text("sha256"),
    )
    wanted = (found.type, found.mode, found.owner, found.sha256)
    if not found.exists and (any(x is not None for x in wanted) or not found.content.anything):
        fields.error("a file that must not exist has no other properties", fields.place("exists"))
    return found


def _config(fields: Fields, value: Value, default: Default) -> CheckKind | None:
    subject = _subject(fields, default)
    if subject is None:
        return None
    root = fields.value("root").data
    return ConfigCheck(
        subject,
        root if isinstance(root, bool) else None,
        fields.text("user"),
        fields.texts("ports"),
        (),
        tuple(Wanted(k, v) for k, v in fields.pairs("labels")),
        tuple(Wanted(k, v) for k, v in fields.pairs("environment")),
        (),
        fields.texts("entrypoint") if fields.value("entrypoint").given else None,
        fields.texts("command") if fields.value("command").given else None,
        fields.text("working_dir"),
        fields.texts("volumes"),
        (),
        fields.text("stop_signal"),
    )


def _limits(fields: Fields, value: Value, default: Default) -> CheckKind | None:
    subject = _subject(fields, default)
    if subject is None:
        return None
    return LimitsCheck(
        subject,
        fields.number("size"),
        fields.number("layers"),
        fields.texts("forbidden_paths"),
        fields.flag("forbid_secrets"),
    )


_READERS: Final[dict[str, Callable[[Fields, Value, Default], CheckKind | None]]] = {
    "http": _http,
    "tcp": _tcp,
    "exec": _exec,
    "logs": _logs,
    "exit": _exit,
    "file": _file,
    "config": _config,
    "limits": _limits,
}


def services_of(check: Check) -> list[str]:
    """Return the services that a check names (hosts of requests are not among them)."""
    what = check.what
    match what:
        case ExecCheck() | LogsCheck() | ExitCheck():
            return [what.service]
        case HttpCheck() | TcpCheck():
            return []
        case _:
            return [] if what.subject.service is None else [what.subject.service]
