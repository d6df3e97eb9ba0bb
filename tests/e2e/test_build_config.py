"""Knows what each instruction leaves in an image's config; must not know how it gets there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.building import BOTH, Bench

ALL = r"""
FROM base
MAINTAINER somebody <s@example.com>
ARG version=3
ENV ONE=1 TWO="a b" THREE=c\ d PATH=/x:$PATH
ENV FOUR a  b
LABEL a.b="line one" c=$version "quoted key"=v
LABEL c=later
EXPOSE 80 443/tcp 53/udp 7000-7002 $version
VOLUME /data ["x"]
VOLUME ["/v 1", "/v2"]
STOPSIGNAL SIGUSR1
USER app:root
WORKDIR /w
HEALTHCHECK --interval=30s --timeout=1m30s --start-period=500ms --start-interval=2s --retries=4 CMD curl -f x
SHELL ["/bin/sh", "-ec"]
ONBUILD RUN echo $x
ONBUILD COPY <<EOF /y
text
EOF
ENTRYPOINT ["/entry", "a b"]
CMD run it
"""
SECOND = 1_000_000_000


@BOTH
def test_every_field_of_the_config(who: Bench) -> None:
    image = who.build(ALL, None, "--label", "from.cli=yes", "--label", "a.b=cli").image
    config = image.config
    assert config["Env"] == [
        "PATH=/x:/bin",
        "ONE=1",
        "TWO=a b",
        "THREE=c d",
        "FOUR=a  b",
    ]
    assert config["Labels"] == {
        "a.b": "cli",
        "c": "later",
        "quoted key": "v",
        "from.cli": "yes",
    }
    ports = {"80/tcp", "443/tcp", "53/udp", "7000/tcp", "7001/tcp", "7002/tcp", "3/tcp"}
    assert set(config["ExposedPorts"]) == ports
    assert set(config["Volumes"]) == {"/data", "[x]", "/v 1", "/v2"}
    assert config["StopSignal"] == "SIGUSR1"
    assert config["User"] == "app:root"
    assert config["WorkingDir"] == "/w"
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "curl -f x"],
        "Interval": 30 * SECOND,
        "Timeout": 90 * SECOND,
        "StartPeriod": SECOND // 2,
        "StartInterval": 2 * SECOND,
        "Retries": 4,
    }
    assert config["Shell"] == ["/bin/sh", "-ec"]
    assert config["OnBuild"] == ["RUN echo $x", "COPY <<EOF /y\ntext\nEOF"]
    assert config["Entrypoint"] == ["/entry", "a b"]
    assert config["Cmd"] == ["/bin/sh", "-ec", "run it"]
    assert image.document["author"] == "somebody <s@example.com>"
    assert image.document["os"] == "linux"
    assert image.document["created"] == "1980-01-01T00:00:00Z"


def test_history_tells_each_instruction_and_counts_the_layers(root_bench: Bench) -> None:
    dockerfile = 'FROM base\nARG a=1 b="x y"\nARG c\nENV E=$a\nRUN echo hi >/f\nCOPY f /g\nCMD x\n'
    image = root_bench.build(dockerfile, {"f": "f"}).image
    told = image.document["history"]
    assert sum(1 for entry in told if not entry.get("empty_layer")) == len(image.layers)
    texts = [entry["created_by"] for entry in told]
    assert any("echo hi" in t and "|2 a=1 b=x y" in t for t in texts)
    assert not any("c=" in t for t in texts)
    assert [e.get("empty_layer", False) for e in told[-3:]] == [False, False, True]


CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("CMD a\nENTRYPOINT b", {"Cmd": ["/bin/sh", "-c", "a"], "Entrypoint": ["/bin/sh", "-c", "b"]}),
    ("ENTRYPOINT b", {"Cmd": None}),  # clears the base's CMD
    ("CMD a\nFROM x\nENTRYPOINT b", {"Cmd": None}),  # stage-local
    ("CMD a\nFROM x", {"Cmd": ["/bin/sh", "-c", "a"]}),
    ("ENTRYPOINT []", {"Entrypoint": None}),
    ("CMD []", {"Cmd": []}),
    ('CMD ["a", "b"]\nCMD [\'c\']', {"Cmd": ["/bin/sh", "-c", "['c']"]}),
    ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
    ('HEALTHCHECK CMD ["a", "b"]', {"Healthcheck": {"Test": ["CMD", "a", "b"]}}),
    ("STOPSIGNAL 9", {"StopSignal": "9"}),
    ("ENV A=1\nENV A=2 B=$A", {"Env": ["PATH=/bin", "A=2", "B=1"]}),
    ("ENV ONE TWO= THREE=w", {"Env": ["PATH=/bin", "ONE=TWO= THREE=w"]}),
    ("ARG A=1\nENV A=$A", {"Env": ["PATH=/bin", "A=1"]}),
    ("ENV A=1\nARG A=2\nENV B=$A", {"Env": ["PATH=/bin", "A=1", "B=2"]}),
    ("ENV A='$x' B=\"\\$x\" C=${none:-d}", {"Env": ["PATH=/bin", "A=$x", "B=$x", "C=d"]}),
    ("USER $u\nARG u=5\nUSER $u", {"User": "5"}),
    ("WORKDIR a\nWORKDIR b", {"WorkingDir": "/a/b"}),
    ("WORKDIR /a\nWORKDIR ../..", {"WorkingDir": "/"}),
    ("LABEL a b c", {"Labels": {"a": "b c"}}),
    ("ONBUILD ENV x=1", {"OnBuild": ["ENV x=1"]}),
    ("ONBUILD ENV x=1\nFROM x", {"OnBuild": None}),
    ("EXPOSE 1-2/udp", {"ExposedPorts": {"1/udp": {}, "2/udp": {}}}),
]


@pytest.mark.parametrize("number", range(len(CONFIGS)), ids=[text for text, _ in CONFIGS])
def test_configs(root_bench: Bench, number: int) -> None:
    text, wanted = CONFIGS[number]
    config = root_bench.build(f"FROM base AS x\n{text}\n").image.config
    for name, value in wanted.items():
        found = config.get(name)
        assert found == value or (not value and not found), f"{name}: {config}"


def test_scratch_has_a_path_and_a_working_directory(root_bench: Bench) -> None:
    image = root_bench.build("FROM scratch\nCOPY f /\n", {"f": "f"}).image
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert image.config["Env"] == [path]
    assert image.config.get("WorkingDir", "/") == "/"
    assert not image.config.get("Cmd")


@BOTH
def test_workdir_makes_its_directory_even_from_scratch(who: Bench) -> None:
    image = who.build("FROM scratch\nWORKDIR /a/b\nUSER 5:6\nWORKDIR c\nWORKDIR /\n").image
    lines = [f.line(p) for p, f in image.tree.items()]
    assert lines == ["d 755 0:0 a", "d 755 0:0 a/b", "d 755 5:6 a/b/c"]
    assert len(image.layers) == 2, "WORKDIR / is no layer"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ENV a=1 b", "ENV"),
        ("ENV a", "ENV"),
        ("ENV =x", "ENV"),
        ("EXPOSE 70000", "70000"),
        ("EXPOSE http", "http"),
        ("STOPSIGNAL SIGNOTHING", "SIGNOTHING"),
        ("SHELL /bin/sh -c", "SHELL"),
        ("SHELL []", "SHELL"),
        ("HEALTHCHECK --interval=5 CMD x", "interval"),
        ("HEALTHCHECK --interval=1us CMD x", "interval"),
        ("HEALTHCHECK --retries=-1 CMD x", "retries"),
        ("HEALTHCHECK NONE x", "NONE"),
        ("ONBUILD FROM x", "ONBUILD"),
        ("ONBUILD ONBUILD RUN x", "ONBUILD"),
        ("ONBUILD MAINTAINER x", "ONBUILD"),
        ("USER", "USER"),
        ("VOLUME []", "VOLUME"),
        ("COPYY a b", "did you mean 'COPY'"),
        ("ENV x=${y:?must be set}", "must be set"),
        ("ENV x=${y", "${y"),
        ("ENV x='y", "quote"),
        ("ENV x=${y:=z}", "${y:=z}"),
    ],
)
def test_what_is_refused_before_anything_runs(root_bench: Bench, line: str, message: str) -> None:
    said = root_bench.fail(f"FROM base\nRUN echo ran\n{line}\n")
    assert message in said.stderr
    assert "Dockerfile:3" in said.stderr
    assert "ran\n" not in said.stderr.replace("echo ran", "")


def test_all_errors_of_a_dockerfile_are_told_at_once(root_bench: Bench) -> None:
    said = root_bench.fail("FROM base\nENV a\nSHELL x\nRUNN y\n")
    for line in (2, 3, 4):
        assert f"Dockerfile:{line}" in said.stderr


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("\n# only comments\n", "no"),
        ("ARG x=1\n", "stage"),
        ("RUN x\nFROM base\n", "FROM"),
        ("FROM\n", "FROM"),
        ("FROM a b c d\n", "FROM"),
        ("FROM $nothing\n", "nothing"),
        ("FROM base AS 9lives\n", "9lives"),
        ("# escape=x\nFROM base\n", "escape"),
        ("# escape=\\\n# escape=`\nFROM base\n", "escape"),
        ("FROM base\n" + "RUN " + "x" * 70_000 + "\n", "65"),
    ],
)
def test_dockerfiles_that_are_none(root_bench: Bench, dockerfile: str, message: str) -> None:
    assert message in root_bench.fail(dockerfile).stderr


def test_manifest_annotations_and_labels_of_the_target(root_bench: Bench) -> None:
    box = {"targets": {"image": {"labels": {"x": "box"}, "annotations": {"note": "1"}}}}
    directory = root_bench.directory({"Boxfile.yaml": json.dumps(box)}, "FROM scratch\nLABEL x=y\n")
    built = root_bench.build_in(directory, "--annotation", "more=2")
    assert built.image.config["Labels"] == {"x": "box"}
    assert built.image.manifest["annotations"] == {"note": "1", "more": "2"}
