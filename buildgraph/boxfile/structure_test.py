"""Knows the files of container-structure-test, schema 2.0.0, and what they come to as checks; must
not know how a check is made.

Names of environment variables in values and commands (`$PATH`) mean the image's. What such a file
may ask of docker and nobody here has (privileged, bind mounts, license tests) is refused with the
reason. Source: the README and pkg/types/v2 of container-structure-test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from buildgraph.boxfile import yaml
from buildgraph.boxfile.schema import Attribute, Bool, Choice, Int, ListOf, Record, Text
from buildgraph.boxfile.smoke import (
    Check,
    CommandCheck,
    ConfigCheck,
    Expected,
    FileCheck,
    Subject,
    Wanted,
)
from buildgraph.boxfile.smoke_fields import Errors, Fields, check_expression, plain
from buildgraph.boxfile.target import Value
from buildgraph.boxfile.values import Keys, Scope, parse_fields
from buildgraph.boxfile.wording import found

_TEXT: Final = Text(multiline=True)
_TEXTS: Final = ListOf(_TEXT)
_PAIR: Final = Record(
    (
        Attribute("key", _TEXT, "Name.", required=True),
        Attribute("value", _TEXT, "Value.", default=""),
        Attribute("isRegex", Bool(), "Whether the value is an expression.", default=False),
    )
)
_PAIRS: Final = ListOf(_PAIR)
_COMMANDS: Final = ListOf(ListOf(_TEXT))
_NAME: Final = Attribute("name", _TEXT, "Name of the test.", required=True)

_COMMAND_TEST: Final = Record(
    (
        _NAME,
        Attribute("setup", _COMMANDS, "Commands to run before.", default=()),
        Attribute("teardown", _COMMANDS, "Commands to run after.", default=()),
        Attribute("envVars", _PAIRS, "Variables.", default=()),
        Attribute("command", _TEXT, "Command.", required=True),
        Attribute("args", _TEXTS, "Its arguments.", default=()),
        Attribute("expectedOutput", _TEXTS, "Expressions.", default=()),
        Attribute("excludedOutput", _TEXTS, "Expressions.", default=()),
        Attribute("expectedError", _TEXTS, "Expressions.", default=()),
        Attribute("excludedError", _TEXTS, "Expressions.", default=()),
        Attribute("exitCode", Int(0, 255), "Exit code.", default=0),
    )
)
_EXISTENCE_TEST: Final = Record(
    (
        _NAME,
        Attribute("path", _TEXT, "File.", required=True),
        Attribute("shouldExist", Bool(), "Whether it must be there.", default=True),
        Attribute("permissions", Text("[-a-zA-Z?]{10,12}", "a text such as -rw-r--r--"), "Mode."),
        Attribute("uid", Int(), "Owner."),
        Attribute("gid", Int(), "Group."),
        Attribute("isExecutableBy", Choice(("owner", "group", "other", "any")), "Who may run it."),
    )
)
_CONTENT_TEST: Final = Record(
    (
        _NAME,
        Attribute("path", _TEXT, "File.", required=True),
        Attribute("expectedContents", _TEXTS, "Expressions.", default=()),
        Attribute("excludedContents", _TEXTS, "Expressions.", default=()),
    )
)
_METADATA_TEST: Final = Record(
    (
        Attribute("env", _PAIRS, "Variables.", default=()),
        Attribute("envVars", _PAIRS, "Variables.", default=()),
        Attribute("unboundEnvVars", _PAIRS, "Variables that must not be set.", default=()),
        Attribute("labels", _PAIRS, "Labels.", default=()),
        Attribute("exposedPorts", _TEXTS, "Ports.", default=()),
        Attribute("unexposedPorts", _TEXTS, "Ports.", default=()),
        Attribute("volumes", _TEXTS, "Volumes.", default=()),
        Attribute("unmountedVolumes", _TEXTS, "Volumes.", default=()),
        Attribute("entrypoint", _TEXTS, "ENTRYPOINT."),
        Attribute("cmd", _TEXTS, "CMD."),
        Attribute("workdir", _TEXT, "WORKDIR."),
        Attribute("user", _TEXT, "USER."),
    )
)
_OPTIONS: Final = Record(
    (
        Attribute("user", _TEXT, "User of commands."),
        Attribute("allocateTty", Bool(), "Without effect here.", default=False),
        Attribute("envVars", _TEXTS, "Without effect here.", default=()),
    ),
    refused=(
        ("privileged", "a test gets no more rights than a RUN step"),
        ("capabilities", "a test gets no more rights than a RUN step"),
        ("bindMounts", "nothing of the host is shown to a test"),
        ("envFile", "write the variables into globalEnvVars"),
    ),
)
_FILE: Final = (
    Attribute("schemaVersion", Text(r"2\.0\.0", "2.0.0"), "Version.", required=True),
    Attribute("globalEnvVars", _PAIRS, "Variables of every command.", default=()),
    Attribute("commandTests", ListOf(_COMMAND_TEST), "Commands.", default=()),
    Attribute("fileExistenceTests", ListOf(_EXISTENCE_TEST), "Files.", default=()),
    Attribute("fileContentTests", ListOf(_CONTENT_TEST), "Contents.", default=()),
    Attribute("metadataTest", _METADATA_TEST, "Config."),
    Attribute("containerRunOptions", _OPTIONS, "How commands run."),
)
_REFUSED: Final = {
    "licenseTests": "licenses are not looked for: an image's packages say more than a list of files"
}


def read_structure_test(text: str, path: str, subject: Subject, errors: Errors) -> list[Check]:
    """Return the checks of the file `path` about `subject`; what is wrong goes to `errors`."""
    root = yaml.compose(text, path, errors)
    if root is None:
        return []
    scope = Scope(path.rpartition("/")[0], errors)
    if not isinstance(root, yaml.Mapping):
        scope.error(f"expected structure tests, found {found(root)}", root.where)
        return []
    before = len(errors)
    keys = Keys(_FILE, "a file of structure tests", refused=_REFUSED, extensions=True)
    fields = Fields(parse_fields(root.entries, keys, root.where, scope), root.where, errors)
    if len(errors) > before:
        return []
    return [*_commands(fields, subject), *_files(fields, subject), *_metadata(fields, subject)]


def _records(fields: Fields, name: str) -> Iterator[Fields]:
    for value in fields.items(name):
        assert isinstance(value.data, Mapping)
        yield Fields(value.data, value.where, fields.errors)


def _commands(fields: Fields, subject: Subject) -> Iterator[Check]:
    options = fields.record("containerRunOptions")
    user = options.text("user") if options else None
    common = _pairs(fields, "globalEnvVars")
    for test in _records(fields, "commandTests"):
        what = CommandCheck(
            subject,
            (test.text("command") or "", *test.texts("args")),
            _lists(test, "setup"),
            _lists(test, "teardown"),
            (*common, *_pairs(test, "envVars")),
            user,
            test.number("exitCode") or 0,
            _expressions(test, "expectedOutput", "excludedOutput"),
            _expressions(test, "expectedError", "excludedError"),
        )
        yield Check(test.text("name") or "", what, test.where)


def _files(fields: Fields, subject: Subject) -> Iterator[Check]:
    for test in _records(fields, "fileExistenceTests"):
        uid, gid = test.number("uid"), test.number("gid")
        owner = f"{'' if uid is None else uid}:{'' if gid is None else gid}"
        what = FileCheck(
            subject,
            test.text("path") or "",
            test.flag("shouldExist"),
            owner=None if owner == ":" else owner,
            permissions=test.text("permissions"),
            executable_by=test.text("isExecutableBy"),
        )
        yield Check(test.text("name") or "", what, test.where)
    for test in _records(fields, "fileContentTests"):
        content = _expressions(test, "expectedContents", "excludedContents")
        what = FileCheck(subject, test.text("path") or "", type="file", content=content)
        yield Check(test.text("name") or "", what, test.where)


def _metadata(fields: Fields, subject: Subject) -> Iterator[Check]:
    test = fields.record("metadataTest")
    if test is None:
        return
    what = ConfigCheck(
        subject,
        user=test.text("user"),
        ports=test.texts("exposedPorts"),
        closed_ports=test.texts("unexposedPorts"),
        labels=_wanted(test, "labels"),
        environment=(*_wanted(test, "env"), *_wanted(test, "envVars")),
        unset=tuple(name for name, _ in _pairs(test, "unboundEnvVars")),
        entrypoint=_list_or_none(test.value("entrypoint")),
        command=_list_or_none(test.value("cmd")),
        working_dir=test.text("workdir"),
        volumes=test.texts("volumes"),
        no_volumes=test.texts("unmountedVolumes"),
    )
    yield Check("metadata", what, test.where)


def _list_or_none(value: Value) -> tuple[str, ...] | None:
    return tuple(map(plain, value.data)) if isinstance(value.data, tuple) else None


def _pairs(fields: Fields, name: str) -> tuple[tuple[str, str], ...]:
    found = ((pair.text("key"), pair.text("value")) for pair in _records(fields, name))
    return tuple((key or "", value or "") for key, value in found)


def _wanted(fields: Fields, name: str) -> tuple[Wanted, ...]:
    out: list[Wanted] = []
    for pair in _records(fields, name):
        value, regex = pair.text("value") or "", pair.flag("isRegex")
        if regex:
            check_expression(value, pair.where, fields.errors)
        out.append(Wanted(pair.text("key") or "", value, regex))
    return tuple(out)


def _lists(fields: Fields, name: str) -> tuple[tuple[str, ...], ...]:
    out: list[tuple[str, ...]] = []
    for value in fields.items(name):
        assert isinstance(value.data, tuple)
        if not value.data:
            fields.error(f"{name}: there is no command", value.where)
        out.append(tuple(map(plain, value.data)))
    return tuple(out)


def _expressions(fields: Fields, wanted: str, unwanted: str) -> Expected:
    fields.expressions((*fields.items(wanted), *fields.items(unwanted)))
    return Expected(matches=fields.texts(wanted), excludes=fields.texts(unwanted))
