"""Keys: every field counts, order of mappings does not, and differences are named."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from buildgraph.graph.explain import Reason, differences
from buildgraph.graph.keys import (
    NodeKey,
    canonical,
    copy_key,
    exec_key,
    make_key,
    mkdir_key,
    packages_key,
)
from buildgraph.graph.ops import (
    ContextSource,
    CopyOp,
    ExecOp,
    MkdirOp,
    PackagesOp,
    RunMount,
    Surroundings,
)
from buildgraph.oci.types import Platform

AMD = Platform("linux", "amd64")
RUN = ExecOp(("/bin/sh", "-c", "make"), (("A", "1"),), "/src", "app", "default")


def run_key(op: ExecOp = RUN, **changes: Any) -> NodeKey:
    values: dict[str, Any] = {
        "platform": AMD,
        "epoch": 1,
        "parent": "sha256:p",
        "sources": (None,) * len(op.mounts),
        "profile": "1",
    }
    return exec_key(op, **{**values, **changes})


MOUNT = RunMount("bind", "/x")
OTHER: dict[str, Any] = {
    "args": ("true",),
    "env": (("A", "2"),),
    "cwd": "/",
    "user": "",
    "network": "none",
    "hostname": "x",
    "mounts": (MOUNT,),
    "security": "insecure",
    "preserve_times": True,
    "script": b"#!/bin/sh",
    "around": Surroundings(shm=1 << 20),
}


def test_the_table_of_changes_is_complete() -> None:
    assert set(OTHER) == set(ExecOp.__struct_fields__)


@pytest.mark.parametrize("name", sorted(OTHER))
def test_every_field_of_run_is_in_the_key(name: str) -> None:
    changed = replace(RUN, **{name: OTHER[name]})
    assert run_key(changed).digest != run_key().digest


@pytest.mark.parametrize(
    "around", [Surroundings(("db",)), Surroundings(ulimits=(("nproc", 9, 9),))]
)
def test_names_of_hosts_and_limits_are_in_the_key(around: Surroundings) -> None:
    assert run_key(replace(RUN, around=around)).digest != run_key().digest


@pytest.mark.parametrize(
    "change",
    [
        {"platform": Platform("linux", "arm64")},
        {"epoch": 2},
        {"parent": "sha256:q"},
        {"profile": "2"},
    ],
)
def test_what_is_around_a_run_is_in_the_key(change: dict[str, Any]) -> None:
    assert run_key(**change).digest != run_key().digest


def test_what_a_mount_shows_is_in_the_key() -> None:
    op = replace(RUN, mounts=(MOUNT,))
    assert run_key(op, sources=("a",)).digest != run_key(op, sources=("b",)).digest


def test_joined_strings_cannot_collide() -> None:
    one = replace(RUN, args=("a", "b c"))
    two = replace(RUN, args=("a b", "c"))
    assert run_key(one).digest != run_key(two).digest


def test_copy_mkdir_and_packages_keys_differ_by_their_parts() -> None:
    copy = CopyOp(ContextSource(0), ("a",), (), "/x")
    base = copy_key(copy, 1, "t1", {"dest": "/x"}).digest
    assert copy_key(copy, 1, "t2", {"dest": "/x"}).digest != base
    assert copy_key(copy, 1, "t1", {"dest": "/y"}).digest != base
    for change in ({"chmod": "755"}, {"unpack": False}, {"preserve_times": True}):
        assert copy_key(replace(copy, **change), 1, "t1", {"dest": "/x"}).digest != base
    # Where the files came from is not what they are.
    moved = replace(copy, paths=("b/a",))
    assert copy_key(moved, 1, "t1", {"dest": "/x"}).digest == base
    mkdir = mkdir_key(MkdirOp("/x"), 1, {}).digest
    assert mkdir_key(MkdirOp("/y"), 1, {}).digest != mkdir
    packages = PackagesOp((("a", "1", "amd64", "sha256:1"),), True)
    assert (
        packages_key(packages, AMD, 1, "p").digest
        != packages_key(replace(packages, configure=False), AMD, 1, "p").digest
    )


def test_canonical_text_ignores_the_order_of_mappings() -> None:
    assert canonical({"b": 1, "a": [1, 2]}) == canonical({"a": (1, 2), "b": 1})


def test_differences_name_variable_argument_and_file() -> None:
    old = run_key().preimage
    new = run_key(replace(RUN, env=(("A", "2"), ("B", "x")))).preimage
    assert differences(old, new) == (
        Reason("variable A", "1", "2"),
        Reason("variable B", "", "x"),
    )
    assert differences(None, new) == (Reason("not built here before"),)
    assert differences(old, old) == ()


def test_differences_name_the_file() -> None:
    copy = CopyOp(ContextSource(0), ("a",), (), "/x")
    old = copy_key(copy, 1, "t1", {}).preimage
    new = copy_key(copy, 1, "t2", {}).preimage
    before = {"a.c": ("file", "644", "sha256:11"), "gone": ("file", "644", "sha256:22")}
    after = {"a.c": ("file", "644", "sha256:33"), "new": ("file", "755", "sha256:44")}
    assert differences(old, new, before, after) == (
        Reason("file a.c", "sha256:11", "sha256:33"),
        Reason("file gone", "file 644 sha256:22", ""),
        Reason("file new", "", "file 755 sha256:44"),
    )


def test_differences_name_the_place_that_files_go_to() -> None:
    copy = CopyOp(ContextSource(0), ("a",), (), "/x")
    root = ["srv", 0o755, 0, 0, []]
    file = {"path": "srv/a", "into": False, "parents": [root], "owner": None}
    other = {
        "path": "srv/a",
        "into": True,
        "parents": [["srv", 0o700, 0, 9, [["user.a", "31"]]], ["srv/a", 0o755, 0, 0, []]],
        "owner": [1, 2],
    }
    old, new = (copy_key(copy, 1, "t1", facts).preimage for facts in (file, other))
    assert list(map(str, differences(old, new))) == [
        "attribute user.a of /srv: new, 31",
        "directory /srv: 755 0:0 -> 700 0:9",
        "directory /srv/a: new, 755 0:0",
        "the destination: /srv/a -> /srv/a/",
        "the owner: new, 1:2",
    ]
    assert differences(old, old) == ()


def test_lists_read_back_from_json_are_the_same_as_tuples() -> None:
    assert make_key({"a": (1, 2)}).digest == make_key({"a": [1, 2]}).digest
    assert differences({"kind": "run", "args": ["x"]}, {"kind": "run", "args": ("x",)}) == ()
