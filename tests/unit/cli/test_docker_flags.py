"""Knows how the words of docker's flags are read; builds nothing."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from buildgraph.cli.around import parse_hosts, parse_ulimits
from buildgraph.cli.asked import parse_secret
from buildgraph.cli.docker_flags import plain_switches
from buildgraph.cli.main import cli
from buildgraph.engine.fields import parse_fields, split_csv
from buildgraph.engine.mounts import SecretSource
from buildgraph.errors import InputError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--rm=true .", "--rm ."),
        ("--rm=0 --no-cache=T x", "--no-cache x"),
        ("-f=a/b -t=x:1 -o=type=local,dest=x .", "-f a/b -t x:1 -o type=local,dest=x ."),
        ("--label=a=b --target=c", "--label=a=b --target=c"),
        ("-- --pull=maybe", "-- --pull=maybe"),
    ],
)
def test_switches_are_read_as_go_reads_them(words: str, expected: str) -> None:
    assert plain_switches(words.split()) == expected.split()


def test_fields_are_one_csv_record() -> None:
    assert parse_fields('type=local,"dest=a,b"', "-o") == {"type": "local", "dest": "a,b"}
    assert parse_fields('"dest=a""b"', "-o") == {"dest": 'a"b'}
    assert parse_fields("TYPE=oci,dest=a=b", "-o") == {"type": "oci", "dest": "a=b"}
    assert split_csv("", "-o") == []
    for text in ("type", "a=1,a=2", '"a=1', "=x"):
        with pytest.raises(InputError, match="-o"):
            parse_fields(text, "-o")


def test_a_secret_says_where_it_is(tmp_path: object) -> None:
    environ = {"ID": "1"}
    assert parse_secret("id=a,src=/x", environ) == ("a", SecretSource(None, "/x"))
    assert parse_secret("id=a,env=B", environ) == ("a", SecretSource("B", None))
    assert parse_secret("id=a,type=env,src=B", environ) == ("a", SecretSource("B", None))
    assert parse_secret("id=ID", environ) == ("ID", SecretSource("ID", None))
    assert parse_secret("id=a,type=file,source=/x", {}) == ("a", SecretSource(None, "/x"))
    for text in ("src=/x", "id=a,mode=3", "id=a,src=/x,env=B", "id=a,type=disk"):
        with pytest.raises(InputError):
            parse_secret(text, environ)


def test_hosts_and_limits_are_values() -> None:
    assert parse_hosts(("a:1.2.3.4", "b=::1", "a:[::2]")) == {
        "a": ("1.2.3.4", "::2"),
        "b": ("::1",),
    }
    assert parse_ulimits(("nproc=5", "core=-1", "nofile=1:2", "nproc=6:-1")) == (
        ("core", -1, -1),
        ("nofile", 1, 2),
        ("nproc", 6, -1),
    )
    for text in ("a", "a b:1.2.3.4", ":1.2.3.4", "a:", "a\n:1.2.3.4"):
        with pytest.raises(InputError):
            parse_hosts((text,))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--squash", "layers are kept"),
        ("--cgroup-parent=x", "control group of its own"),
        ("--provenance=mode=max", "attestations are not made yet"),
        ("--sbom=true", "attestations are not made yet"),
        ("--attest=type=provenance", "attestations are not made yet"),
        ("--pull=maybe", "neither true nor false"),
        ("--add-host=db:host-gateway", "cannot reach this machine"),
        ("--add-host=db", "expected NAME:ADDRESS"),
        ("--add-host=db:1.2.3", "expected NAME:ADDRESS"),
        ("--ulimit=nofiles=1", "unknown limit 'nofiles'"),
        ("--ulimit=nofile=9:3", "above the hard one"),
        ("--ulimit=nofile", "expected NAME=SOFT"),
        ("--shm-size=big", "'big' is no size"),
        ('--secret=id=x,"src=a', "unexpected end"),
        ("-o=type=local,dest=a,dest=b", "given twice"),
    ],
)
def test_flags_that_cannot_be_kept_are_refused_with_a_reason(flag: str, message: str) -> None:
    result = CliRunner().invoke(cli, ["build", "-", flag])
    assert (result.exit_code, "Traceback" in result.output) == (2, False)
    assert message in result.output


@pytest.mark.parametrize("name", ["build", "test", "push", "run", "shell", "watch"])
def test_dockers_words_for_progress_are_ours_in_every_command(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = click.Context(command)
    (option,) = [one for one in command.params if one.name == "progress"]
    found = [option.process_value(context, word) for word in ("rawjson", "none", "plain")]
    assert found == ["json", "quiet", "plain"]
