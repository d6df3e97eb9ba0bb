"""Knows when a check holds, given a world; must not know what the world is made of.

One attempt is a function of the check and the world. It is made again only where the check says
`within`, and only as long as a service lives that could change its mind.
"""

from __future__ import annotations

import http.client
import re
from typing import Final, assert_never

from msgspec import Struct

from buildgraph.boxfile.smoke import (
    SECOND,
    Check,
    CheckKind,
    CommandCheck,
    ConfigCheck,
    ExecCheck,
    ExitCheck,
    FileCheck,
    HttpCheck,
    LimitsCheck,
    LogsCheck,
    TcpCheck,
)
from buildgraph.engine.smoke.check_files import file_attempt
from buildgraph.engine.smoke.check_images import config_attempt, limits_attempt
from buildgraph.engine.smoke.expect import complaints, json_complaints, shorten
from buildgraph.engine.smoke.request import make_request
from buildgraph.engine.smoke.request import told as told_request
from buildgraph.engine.smoke.results import Attempt
from buildgraph.engine.smoke.world import Over, Ran, World
from buildgraph.errors import BuildgraphError
from buildgraph.limits import MIB

DEFAULT_TIMEOUT: Final = 30.0
_PATIENCE: Final[dict[type[CheckKind], float]] = {ExitCheck: 30.0}  # `within` of those without
_TALK_BYTES: Final = 1 * MIB
_SHOWN: Final = 2000


class Finding(Struct, frozen=True):
    """What became of a check."""

    check: Check
    ok: bool
    seconds: float
    attempt: Attempt
    tries: int = 1


def run_check(check: Check, world: World) -> Finding:
    """Make a check, again and again as long as its `within` lasts. Raises Over."""
    begun = world.now()
    end = begun + (check.within / SECOND or _PATIENCE.get(type(check.what), 0.0))
    timeout = DEFAULT_TIMEOUT if check.timeout is None else check.timeout / SECOND
    pause, tries = 0.05, 0
    while True:
        tries += 1
        left = end - world.now()
        bound = min(timeout, max(left, 1.0)) if check.within else timeout
        try:
            found = attempt(check.what, world, bound)
        except BuildgraphError as error:
            found = Attempt((error.message,))
        left = end - world.now()
        if found.ok or found.final or left <= 0:
            return Finding(check, found.ok, world.now() - begun, found, tries)
        try:
            world.pause(min(pause, left))
        except Over as over:
            finding = Finding(check, False, world.now() - begun, found, tries)
            raise Ending(over.reason, finding) from over
        pause = min(pause * 1.5, 0.5)


class Ending(Over):
    """The test is over in the middle of a check; `finding` is how far that one had come."""

    def __init__(self, reason: str, finding: Finding):
        super().__init__(reason)
        self.finding = finding


def attempt(what: CheckKind, world: World, timeout: float) -> Attempt:
    """Make a check once."""
    match what:
        case HttpCheck():
            return _http(what, world, timeout)
        case TcpCheck():
            return _tcp(what, world, timeout)
        case ExecCheck():
            return _exec(what, world, timeout)
        case CommandCheck():
            return _command(what, world, timeout)
        case LogsCheck():
            return _logs(what, world)
        case ExitCheck():
            return _exit(what, world)
        case FileCheck():
            return file_attempt(what, world)
        case ConfigCheck():
            return config_attempt(what, world)
        case LimitsCheck():
            return limits_attempt(what, world)
        case _:
            assert_never(what)


def _http(check: HttpCheck, world: World, timeout: float) -> Attempt:
    request = told_request(check)
    try:
        answer = make_request(check, world, timeout)
    except TimeoutError:
        return Attempt((f"no answer within {timeout:g} s",), request)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Attempt((_words(error),), request)
    found: list[str] = []
    if not _status_fits(answer.status, check.status):
        wanted = " or ".join(check.status) or "2xx"
        found.append(f"status {answer.status}, not {wanted}")
    for name, expression in check.response_headers:
        values = [v for n, v in answer.headers if n.lower() == name.lower()]
        if not any(re.search(expression, value) for value in values):
            had = f"is {shorten(', '.join(values))}" if values else "is not there"
            found.append(f"header {name} {had}, not {shorten(expression)}")
    found += complaints(answer.body, check.answer, "the body")
    found += json_complaints(answer.body, check.json)
    return Attempt(tuple(found), request, answer.told())


def _status_fits(status: int, wanted: tuple[str, ...]) -> bool:
    return any(re.fullmatch(text.replace("x", r"\d"), str(status)) for text in wanted or ("2xx",))


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


def _tcp(check: TcpCheck, world: World, timeout: float) -> Attempt:
    request = f"connect to {check.host}:{check.port}"
    if check.send is not None:
        request += f"\nsend {shorten(check.send)}"
    data = b""
    try:
        with world.connect(check.host, check.port, timeout) as sock:
            sock.settimeout(timeout)
            if check.send is not None:
                sock.sendall(check.send.encode("utf-8", "surrogateescape"))
            while not check.answer.anything and len(data) < _TALK_BYTES:
                piece = sock.recv(65536)
                data += piece
                # An `excludes` is about all there is; the others hold as soon as they hold.
                enough = not check.answer.excludes and not complaints(data, check.answer, "")
                if not piece or enough:
                    break
    except TimeoutError:
        if not data:
            return Attempt((f"no answer within {timeout:g} s",), request)
    except OSError as error:
        return Attempt((_words(error),), request, shorten(_text(data), _SHOWN) if data else "")
    found = complaints(data, check.answer, "the answer")
    return Attempt(tuple(found), request, shorten(_text(data), _SHOWN) if data else "")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _exec(check: ExecCheck, world: World, timeout: float) -> Attempt:
    ran = world.execute(
        check.service,
        check.args,
        env=check.environment,
        user=check.user,
        cwd=check.working_dir,
        timeout=timeout,
    )
    request = f"in {check.service}: {_command_line(check.args)}"
    return _judged(check, ran, request, timeout)


def _command(check: CommandCheck, world: World, timeout: float) -> Attempt:
    ran = world.command(check, timeout)
    request = f"in a new container of {check.subject}: {_command_line(check.args)}"
    return _judged(check, ran, request, timeout)


def _command_line(args: tuple[str, ...]) -> str:
    import shlex

    return shlex.join(args)


def _judged(check: ExecCheck | CommandCheck, ran: Ran, request: str, timeout: float) -> Attempt:
    if ran.refusal:
        return Attempt((ran.refusal,), request)
    found: list[str] = []
    if ran.timed_out:
        found.append(f"it did not end within {timeout:g} s")
    elif ran.code != check.exit_code:
        memory = ", out of memory" if ran.oom else ""
        found.append(f"exit code {ran.code}{memory}, not {check.exit_code}")
    found += complaints(ran.stdout, check.stdout, "stdout")
    found += complaints(ran.stderr, check.stderr, "stderr")
    parts = [f"exit code {ran.code}"]
    parts += [
        f"{name}:\n{_text(data[:_SHOWN]).rstrip()}"
        for name, data in (("stdout", ran.stdout), ("stderr", ran.stderr))
        if data
    ]
    return Attempt(tuple(found), request, "\n".join(parts))


def _logs(check: LogsCheck, world: World) -> Attempt:
    found = complaints(world.logs(check.service), check.text, f"the log of {check.service}")
    return Attempt(tuple(found), f"read the log of {check.service}")


def _exit(check: ExitCheck, world: World) -> Attempt:
    found: list[str] = []
    wrong = False
    for ended in world.ended(check.service):
        if ended is None:
            found.append(f"{check.service} still runs")
        elif ended.code != check.code:
            found.append(f"{check.service} {ended.text}, not with {check.code}")
            wrong = True
    return Attempt(tuple(found[:1]), f"wait for {check.service} to end", final=wrong)
