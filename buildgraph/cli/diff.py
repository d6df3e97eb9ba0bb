"""Knows how the difference between two images is printed, for people and as JSON; must not know how
it is found.

The JSON document, one object:

    same      whether files and config are the same
    before, after   {image, digest, size}            (size: bytes of the uncompressed layers)
    files     [{path, change, before, after}]        change: added | removed | changed
              before and after are null or {type, mode, uid, gid, size, digest, target?, xattrs?}
    config    [{name, before, after}]
    packages  [{name, before, after}]                Debian packages, values are versions
    layers    [{diff_id, size, made_by, in}]         in: both | before | after
    text      {path: [lines of a unified diff]}      with --text

Fields are only ever added.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from typing import Any, Final

import click
from msgspec import Struct

from buildgraph.cli.entry import guarded
from buildgraph.cli.escape import no_commands, safe
from buildgraph.cli.image_sources import Found, find_image
from buildgraph.cli.options import store_option
from buildgraph.cli.session import Session, Settings
from buildgraph.cli.words import plural, size
from buildgraph.engine.imagediff import (
    FileChange,
    FileState,
    ImageDiff,
    ValueChange,
    diff_images,
    path_filter,
    printable,
    text_lines,
)
from buildgraph.filetree import Kind
from buildgraph.oci.platforms import parse_platform
from buildgraph.oci.rootview import RootView

_TEXTS: Final = 100  # files whose lines are compared
_MARKS: Final = {"added": "+", "removed": "-", "changed": "~"}
_LETTERS: Final = {
    Kind.FILE: "-",
    Kind.HARDLINK: "-",
    Kind.SYMLINK: "l",
    Kind.CHAR: "c",
    Kind.BLOCK: "b",
    Kind.DIR: "d",
    Kind.FIFO: "p",
    Kind.SOCKET: "s",
}


class _Result(Struct, frozen=True):
    """A difference and what it is between."""

    before: Found
    after: Found
    diff: ImageDiff
    texts: dict[str, list[str]]
    left_out: int = 0  # files that --text does not show


@click.command("diff")
@click.argument("before")
@click.argument("after")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--files", "globs", multiple=True, metavar="GLOB", help="Only files so called.")
@click.option("--text", is_flag=True, help="Show the lines of small text files, too.")
@click.option("--platform", metavar="OS/ARCH", help="Of images of several platforms.")
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@store_option
@guarded
def command(
    before: str,
    after: str,
    as_json: bool,
    globs: tuple[str, ...],
    text: bool,
    platform: str | None,
    offline: bool,
    store: str | None,
) -> int:
    """Say in what two images differ: files, config, Debian packages, layers.

    BEFORE and AFTER are labels of built targets, LABEL@previous, directories and archives in OCI
    form (oci-layout://DIR[:TAG], oci-archive:FILE[:TAG]) or names of a registry. Nothing is built.
    Times are not compared. Exits with 0 where files and config are the same, else with 1.
    """
    wanted = path_filter(globs)
    with Session(Settings(store, offline=offline), os.environ, os.getcwd()) as session:
        chosen = parse_platform(platform) if platform else session.host
        one, two = (find_image(session, name, chosen) for name in (before, after))
        old = RootView(session.layers, one.image.chain)
        new = RootView(session.layers, two.image.chain)
        found = diff_images((one.image, old), (two.image, new), wanted=wanted, digests=as_json)
        texts, left_out = _texts(old, new, found) if text else ({}, 0)
        result = _Result(one, two, found, texts, left_out)
        if as_json:
            click.echo(json.dumps(_value(result), indent=2))
        else:
            for line in _lines(result):
                click.echo(no_commands(line))
    return 0 if found.same else 1


def _texts(old: RootView, new: RootView, found: ImageDiff) -> tuple[dict[str, list[str]], int]:
    out: dict[str, list[str]] = {}
    left_out = 0
    for change in found.files:
        one = text_lines(old, change.path) if change.before else []
        two = text_lines(new, change.path) if change.after else []
        if one is None or two is None or one == two:
            continue
        if len(out) >= _TEXTS:
            left_out += 1
            continue
        lines = difflib.unified_diff(one, two, "before", "after", lineterm="")
        out[change.path] = list(lines)[2:]
    return out, left_out


# --- for people -------------------------------------------------------------------------------


def _lines(result: _Result) -> Iterator[str]:
    yield f"--- {safe(result.before.title)} {result.before.digest}"
    yield f"+++ {safe(result.after.title)} {result.after.digest}"
    found = result.diff
    yield from _values("config", found.config)
    yield from _values("packages", found.packages)
    if found.files:
        yield f"files: {_counts(found.files)}"
        for change in found.files:
            yield f"  {_MARKS[change.what]} {_file(change)}"
            yield from (f"      {safe(line)}" for line in result.texts.get(change.path, ()))
        if result.left_out:
            yield f"  the lines of {plural(result.left_out, 'more file')} are not shown"
    if any(layer.side != "both" for layer in found.layers):
        yield "layers:"
        for layer in found.layers:
            mark = {"both": " ", "before": "-", "after": "+"}[layer.side]
            short = layer.diff_id[:19]
            yield f"  {mark} {short} {size(layer.size):>9}  {safe(layer.made_by)}".rstrip()
    if found.same:
        yield _same(result)
    else:
        change_of = found.size_after - found.size_before
        sign = "+" if change_of >= 0 else "-"
        yield (
            f"size: {size(found.size_before)} -> {size(found.size_after)} "
            f"({sign}{size(abs(change_of))})"
        )


def _same(result: _Result) -> str:
    if result.before.digest == result.after.digest:
        return "the same image"
    return "the same files and config; only how the image is packed or described differs"


def _counts(files: tuple[FileChange, ...]) -> str:
    counts = dict.fromkeys(_MARKS, 0)
    for change in files:
        counts[change.what] += 1
    return ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)


def _values(title: str, changes: tuple[ValueChange, ...]) -> Iterator[str]:
    if not changes:
        return
    yield f"{title}:"
    for change in changes:
        name = safe(change.name)
        if change.before is None:
            yield f"  + {name} {safe(change.after or '')}".rstrip()
        elif change.after is None:
            yield f"  - {name} {safe(change.before)}".rstrip()
        else:
            yield f"  ~ {name} {safe(change.before)} -> {safe(change.after)}"


def _file(change: FileChange) -> str:
    path = safe(change.path)
    if change.before is None or change.after is None:
        state = change.after or change.before
        assert state is not None
        amount = f" {size(state.size)}" if state.kind is Kind.FILE else ""
        leads = f" -> {safe(state.target)}" if state.target else ""
        return f"{path}{leads}  {_mode(state)} {state.uid}:{state.gid}{amount}"
    return f"{path}  {', '.join(_parts(change.before, change.after))}"


def _parts(one: FileState, two: FileState) -> Iterator[str]:
    if one.type != two.type:
        yield f"{one.type} -> {two.type}"
    if one.mode != two.mode:
        yield f"mode {one.mode:04o} -> {two.mode:04o}"
    if (one.uid, one.gid) != (two.uid, two.gid):
        yield f"owner {one.uid}:{one.gid} -> {two.uid}:{two.gid}"
    if one.size != two.size:
        yield f"size {one.size:,} -> {two.size:,}"
    if one.target != two.target:
        yield f"leads to {safe(one.target)} -> {safe(two.target)}"
    if one.digest != two.digest and one.digest and two.digest:
        yield f"content {one.digest[7:19]} -> {two.digest[7:19]}"
    if one.xattrs != two.xattrs:
        names = sorted({name for name, _ in set(one.xattrs) ^ set(two.xattrs)})
        yield f"attributes {', '.join(safe(name) for name in names)}"
    if one.rdev != two.rdev:
        yield f"device {one.rdev} -> {two.rdev}"


def _mode(state: FileState) -> str:
    bits = "".join(
        letter if state.mode & (0o400 >> place) else "-" for place, letter in enumerate("rwxrwxrwx")
    )
    for bit, place, letter in ((0o4000, 2, "s"), (0o2000, 5, "s"), (0o1000, 8, "t")):
        if state.mode & bit:
            small = bits[place] == "x"
            bits = bits[:place] + (letter if small else letter.upper()) + bits[place + 1 :]
    return _LETTERS[state.kind] + bits


# --- for programs -----------------------------------------------------------------------------


def _value(result: _Result) -> dict[str, Any]:
    found = result.diff
    value: dict[str, Any] = {
        "same": found.same,
        "before": _side(result.before, found.size_before),
        "after": _side(result.after, found.size_after),
        "files": [
            {
                "path": printable(change.path),
                "change": change.what,
                "before": _state(change.before),
                "after": _state(change.after),
            }
            for change in found.files
        ],
        "config": [_change(change) for change in found.config],
        "packages": [_change(change) for change in found.packages],
        "layers": [
            {"diff_id": each.diff_id, "size": each.size, "made_by": each.made_by, "in": each.side}
            for each in found.layers
        ],
    }
    if result.texts:
        value["text"] = {printable(path): lines for path, lines in result.texts.items()}
    return value


def _side(found: Found, total: int) -> dict[str, Any]:
    return {"image": found.title, "digest": found.digest, "size": total}


def _change(change: ValueChange) -> dict[str, str | None]:
    return {"name": change.name, "before": change.before, "after": change.after}


def _state(state: FileState | None) -> dict[str, Any] | None:
    if state is None:
        return None
    value: dict[str, Any] = {
        "type": state.type,
        "mode": f"{state.mode:04o}",
        "uid": state.uid,
        "gid": state.gid,
        "size": state.size,
    }
    if state.digest:
        value["digest"] = state.digest
    if state.target:
        value["target"] = printable(state.target)
    if state.xattrs:
        value["xattrs"] = {name: data.hex() for name, data in state.xattrs}
    return value
