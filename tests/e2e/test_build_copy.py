"""Knows what COPY puts where, by building and reading the image back; must not know how."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest

from e2e.building import BOTH, Bench, Files, Hard, Link, Mode
from e2e.images import listing, text


@dataclass(frozen=True)
class Case:
    name: str
    dockerfile: str
    made: str
    files: Files = field(default_factory=dict)


TREE: Files = {
    "foo": "foo",
    "sub/dir1/dir2/foo": "deep",
    "sub/dir1/file": "file",
    "empty/": "",
}
SCRATCH = [
    Case(
        "a file under its name, under another, into a directory",
        "COPY foo /\nCOPY foo /bar\nCOPY foo /new/\nCOPY foo /a/b/c",
        """
        d 755 0:0 a
        d 755 0:0 a/b
        f 644 0:0 a/b/c = 'foo'
        f 644 0:0 bar = 'foo'
        f 644 0:0 foo = 'foo'
        d 755 0:0 new
        f 644 0:0 new/foo = 'foo'
        """,
        TREE,
    ),
    Case(
        "a directory gives its contents, however it is written",
        "COPY sub/dir1 /1\nCOPY sub/dir1/ /2\nCOPY sub/dir1/. /3/\nCOPY empty /4",
        """
        d 755 0:0 1
        d 755 0:0 1/dir2
        f 644 0:0 1/dir2/foo = 'deep'
        f 644 0:0 1/file = 'file'
        d 755 0:0 2
        d 755 0:0 2/dir2
        f 644 0:0 2/dir2/foo = 'deep'
        f 644 0:0 2/file = 'file'
        d 755 0:0 3
        d 755 0:0 3/dir2
        f 644 0:0 3/dir2/foo = 'deep'
        f 644 0:0 3/file = 'file'
        d 755 0:0 4
        """,
        TREE,
    ),
    Case(
        "sources are inside the context, however high they climb",
        "COPY /foo /1\nCOPY ../../foo /2\nCOPY ./sub/../foo /3\nCOPY foo/ /4",
        """
        f 644 0:0 1 = 'foo'
        f 644 0:0 2 = 'foo'
        f 644 0:0 3 = 'foo'
        f 644 0:0 4 = 'foo'
        """,
        TREE,
    ),
    Case(
        "each directory that a glob matches gives its contents",
        "COPY sub/* /d/",
        """
        d 755 0:0 d
        d 755 0:0 d/dir2
        f 644 0:0 d/dir2/foo = 'deep'
        f 644 0:0 d/file = 'file'
        """,
        TREE,
    ),
    Case(
        "a glob inside a path, one match",
        "COPY sub/*/dir2/foo /d/bar",
        """
        d 755 0:0 d
        f 644 0:0 d/bar = 'deep'
        """,
        TREE,
    ),
    Case(
        "a glob without a match copies nothing",
        "COPY foo nomatch* /\nCOPY no?match /x/",
        """
        f 644 0:0 foo = 'foo'
        """,
        TREE,
    ),
    Case(
        "globs are per name, as in Go's path.Match",
        "COPY f* /1/\nCOPY [a-c]x ?y /2/\nCOPY [[]z] /3/\nCOPY a[*]b /4/\nCOPY **/deep /5/",
        """
        d 755 0:0 1
        f 644 0:0 1/f1 = '1'
        f 644 0:0 1/f2 = '2'
        d 755 0:0 2
        f 644 0:0 2/.y = 'dot'
        f 644 0:0 2/ax = 'ax'
        d 755 0:0 3
        f 644 0:0 3/[z] = 'z'
        d 755 0:0 4
        f 644 0:0 4/a*b = 'star'
        d 755 0:0 5
        f 644 0:0 5/deep = 'one'
        """,
        {
            "f1": "1",
            "f2": "2",
            "ax": "ax",
            "dx": "no",
            ".y": "dot",
            "[z]": "z",
            "a*b": "star",
            "acb": "no",
            "p/deep": "one",
            "p/q/deep": "two",
        },
    ),
    Case(
        "modes of files and of nested directories, not of the top directory",
        "COPY . /x\nCOPY d /y",
        """
        d 755 0:0 x
        d 700 0:0 x/d
        d 2750 0:0 x/d/e
        f 644 0:0 x/d/e/g = ''
        f 4755 0:0 x/d/s = 's'
        f 600 0:0 x/f = 'f'
        d 755 0:0 y
        d 2750 0:0 y/e
        f 644 0:0 y/e/g = ''
        f 4755 0:0 y/s = 's'
        """,
        {
            "d/e/g": "",
            "d/s": Mode(0o4755, "s"),
            "f": Mode(0o600, "f"),
            "d/e": Mode(0o2750),
            "d": Mode(0o700),
        },
    ),
    Case(
        "links of the context: one named as source is followed, one inside stays",
        "COPY to-file /1\nCOPY to-dir /2\nCOPY d /3",
        """
        f 644 0:0 1 = 'x'
        d 755 0:0 2
        f 644 0:0 2/f = 'x'
        l 0:0 2/l -> ../nowhere
        d 755 0:0 3
        f 644 0:0 3/f = 'x'
        l 0:0 3/l -> ../nowhere
        """,
        {
            "d/f": "x",
            "d/l": Link("../nowhere"),
            "to-file": Link("d/f"),
            "to-dir": Link("/d"),
        },
    ),
    Case(
        "hard links of one copy stay one file",
        "COPY d /1\nCOPY d/a d/b /2/",
        """
        d 755 0:0 1
        f 644 0:0 1/a = 'x'
        f 644 0:0 1/b = 'x' same as 1/a
        d 755 0:0 2
        f 644 0:0 2/a = 'x'
        f 644 0:0 2/b = 'x'
        """,
        {"d/a": "x", "d/b": Hard("d/a")},
    ),
    Case(
        "a file replaces a file and a link, and is written through a link to a directory",
        "COPY one /f\nCOPY two /f\nCOPY links /\nCOPY one /to-dir/\nCOPY one /to-dir/g",
        """
        d 755 0:0 dir
        f 644 0:0 dir/g = 'one'
        f 644 0:0 dir/one = 'one'
        f 644 0:0 f = 'two'
        l 0:0 to-dir -> dir
        """,
        {"one": "one", "two": "two", "links/to-dir": Link("dir"), "links/dir/": ""},
    ),
    Case(
        "WORKDIR counts for the destination, and a relative one adds up",
        "WORKDIR /test1\nWORKDIR test2\nCOPY foo ./bar/baz\nWORKDIR ..\nCOPY foo .",
        """
        d 755 0:0 test1
        f 644 0:0 test1/foo = 'foo'
        d 755 0:0 test1/test2
        d 755 0:0 test1/test2/bar
        f 644 0:0 test1/test2/bar/baz = 'foo'
        """,
        TREE,
    ),
    Case(
        "numeric owners go to what is made on the way too; a user alone is its group too",
        "COPY --chown=7 foo /a/b\nCOPY --chown=7:8 sub /s\nCOPY --chown=:9 foo /g",
        """
        d 755 7:7 a
        f 644 7:7 a/b = 'foo'
        f 644 0:9 g = 'foo'
        d 755 7:8 s
        d 755 7:8 s/dir1
        d 755 7:8 s/dir1/dir2
        f 644 7:8 s/dir1/dir2/foo = 'deep'
        f 644 7:8 s/dir1/file = 'file'
        """,
        TREE,
    ),
    Case(
        "octal and symbolic modes",
        "COPY --chmod=0640 foo /1/foo\nCOPY --chmod=u=rwX,go=X sub/dir1 /2\n"
        "COPY --chmod=4711 foo /3\nARG M=755\nCOPY --chmod=$M foo /4",
        """
        d 640 0:0 1
        f 640 0:0 1/foo = 'foo'
        d 711 0:0 2
        d 711 0:0 2/dir2
        f 600 0:0 2/dir2/foo = 'deep'
        f 600 0:0 2/file = 'file'
        f 4711 0:0 3 = 'foo'
        f 755 0:0 4 = 'foo'
        """,
        TREE,
    ),
    Case(
        "--parents keeps the way, from the pivot on",
        "COPY --parents sub/dir1/file /1/\nCOPY --parents sub/./dir1/file /2/\n"
        "COPY --parents **/foo /3/\nCOPY --parents ./sub/*/dir2 /4/",
        """
        d 755 0:0 1
        d 755 0:0 1/sub
        d 755 0:0 1/sub/dir1
        f 644 0:0 1/sub/dir1/file = 'file'
        d 755 0:0 2
        d 755 0:0 2/dir1
        f 644 0:0 2/dir1/file = 'file'
        d 755 0:0 3
        f 644 0:0 3/foo = 'foo'
        d 755 0:0 3/sub
        d 755 0:0 3/sub/dir1
        d 755 0:0 3/sub/dir1/dir2
        f 644 0:0 3/sub/dir1/dir2/foo = 'deep'
        d 755 0:0 4
        d 755 0:0 4/sub
        d 755 0:0 4/sub/dir1
        d 755 0:0 4/sub/dir1/dir2
        f 644 0:0 4/sub/dir1/dir2/foo = 'deep'
        """,
        TREE,
    ),
    Case(
        "--exclude, also of what the source itself matched",
        "COPY --exclude=*.md --exclude=**/x d /1\nCOPY --exclude=*.md d/* /2/",
        """
        d 755 0:0 1
        d 755 0:0 1/e
        f 644 0:0 1/e/b.md = 'b'
        f 644 0:0 1/f = 'f'
        d 755 0:0 2
        f 644 0:0 2/f = 'f'
        f 644 0:0 2/x = 'x'
        """,
        {"d/a.md": "a", "d/f": "f", "d/e/b.md": "b", "d/e/x": "x"},
    ),
    Case(
        "heredocs are files of their names",
        "ARG v=1\nCOPY <<a <<-'b' /d/\n$v \"q\" \\$v\na\n\t$v\n\tb\n"
        "COPY --chmod=755 <<EOF /run.sh\nx\nEOF",
        """
        d 755 0:0 d
        f 644 0:0 d/a = '1 "q" $v\\n'
        f 644 0:0 d/b = '$v\\n'
        f 755 0:0 run.sh = 'x\\n'
        """,
    ),
    Case(
        "names with blanks, quotes and bytes that are no text",
        'COPY ["a b", "c\'\'d", "/x y/"]\nARG s="e f"\nCOPY $s /g\nCOPY caf* /h/',
        """
        f 644 0:0 g = 'ef'
        d 755 0:0 h
        f 644 0:0 h/caf\udce9 = 'latin'
        d 755 0:0 x y
        f 644 0:0 x y/a b = 'ab'
        f 644 0:0 x y/cd = 'cd'
        """,
        {"a b": "ab", "cd": "cd", "e f": "ef", os.fsdecode(b"caf\xe9"): "latin"},
    ),
]


@BOTH
@pytest.mark.parametrize("case", SCRATCH, ids=lambda case: case.name)
def test_copy_into_nothing(who: Bench, case: Case) -> None:
    built = who.build(f"FROM scratch\n{case.dockerfile}\n", case.files)
    made = {p: f for p, f in built.image.tree.items() if p != "x/Dockerfile"}
    assert list(made) == sorted(made)
    assert listing(made) == text(case.made)


ON_BASE = [
    Case(
        "an existing directory is gone into and keeps its mode and owner",
        "RUN mkdir -m 700 /d && chown 5:6 /d\nCOPY foo /d\nCOPY sub /d",
        """
        d 700 5:6 d
        d 755 0:0 d/dir1
        d 755 0:0 d/dir1/dir2
        f 644 0:0 d/dir1/dir2/foo = 'deep'
        f 644 0:0 d/dir1/file = 'file'
        f 644 0:0 d/foo = 'foo'
        """,
        TREE,
    ),
    Case(
        "names of owners are the target's own",
        "COPY --chown=app foo /1\nCOPY --chown=app:root foo /2\nCOPY --chown=0:app foo /3",
        """
        f 644 1000:1000 1 = 'foo'
        f 644 1000:0 2 = 'foo'
        f 644 0:1000 3 = 'foo'
        """,
        TREE,
    ),
    Case(
        "a link of the image is followed inside the image",
        "RUN ln -s /etc/made /l && mkdir /etc/made && ln -s ../../../../tmp /out\n"
        "COPY foo /l/\nCOPY foo /out/x",
        """
        d 755 0:0 etc/made
        f 644 0:0 etc/made/foo = 'foo'
        l 0:0 l -> /etc/made
        l 0:0 out -> ../../../../tmp
        f 644 0:0 tmp/x = 'foo'
        """,
        TREE,
    ),
    Case(
        "USER does not own what is copied, but what WORKDIR makes",
        "USER app\nWORKDIR /w/x\nCOPY foo .\nUSER root\nWORKDIR /w/y",
        """
        d 755 1000:1000 w
        d 755 1000:1000 w/x
        f 644 0:0 w/x/foo = 'foo'
        d 755 0:0 w/y
        """,
        TREE,
    ),
    Case(
        "a stage's files keep owners, modes and links; its top directory does not",
        "RUN mkdir -p /src/dir/in && cd /src/dir && echo x >in/f && ln -s in/f l &&"
        " ln in/f in/g && chown -hR 100:200 /src/dir && chmod 750 in && chmod 6755 in/f\n"
        "FROM base\nRUN mkdir /old && chown 7:7 /old\n"
        "COPY --from=0 /src/dir /new\nCOPY --from=0 src/dir/ /old\n"
        "WORKDIR /w\nCOPY --from=0 /src/dir/in/f .",
        """
        d 755 0:0 new
        d 750 100:200 new/in
        f 6755 100:200 new/in/f = 'x\\n'
        f 6755 100:200 new/in/g = 'x\\n' same as new/in/f
        l 100:200 new/l -> in/f
        d 755 7:7 old
        d 750 100:200 old/in
        f 6755 100:200 old/in/f = 'x\\n'
        f 6755 100:200 old/in/g = 'x\\n' same as old/in/f
        l 100:200 old/l -> in/f
        d 755 0:0 w
        f 6755 100:200 w/f = 'x\\n'
        """,
    ),
    Case(
        "--link does not look at what is below",
        "RUN mkdir -m 700 /d\nCOPY --link foo /e/\nCOPY --link --chown=3:4 foo /f",
        """
        d 700 0:0 d
        d 755 0:0 e
        f 644 0:0 e/foo = 'foo'
        f 644 3:4 f = 'foo'
        """,
        TREE,
    ),
]


@BOTH
@pytest.mark.parametrize("case", ON_BASE, ids=lambda case: case.name)
def test_copy_onto_a_base(who: Bench, case: Case) -> None:
    assert who.build(f"FROM base\n{case.dockerfile}\n", case.files).made == text(case.made)


REFUSED = {
    "COPY missing /": "'missing' not found in the context",
    "COPY fo /": "did you mean 'foo'?",
    "COPY ../../etc/passwd /": "nothing outside it can be copied",
    "COPY sub/missing* foo nothere /": "'nothere' not found",
    "COPY foo /d\nCOPY sub /d": "cannot copy",
    "COPY sub /d\nCOPY foo /d/dir1": None,  # into the directory: no error
    "COPY sub /d\nCOPY one/dir1 /d/": "/one/dir1 onto /d/dir1, which is a directory",
    "COPY foo /f\nCOPY foo /f/g": "is in the way",
    "COPY foo /f/\nCOPY foo /f/foo/": "is not a directory",
    "COPY --chown=nobody:x foo /": "nobody",
    "COPY --link --chown=app foo /": "--link",
    "COPY --chmod=9 foo /": "chmod",
    "COPY --from=$X foo /": "--from",
    "COPY https://example.com/x /": "COPY",
    "COPY --frm=x foo /": "did you mean",
    "COPY --chown=1 --chown=2 foo /": "--chown",
    "COPY --link=maybe foo /": "--link",
    "COPY foo": "COPY",
    "COPY loop /": "loop",
    "COPY dangling /": "nowhere",
}


@pytest.mark.parametrize("line", REFUSED)
def test_copy_refuses(root_bench: Bench, line: str) -> None:
    files = {
        **TREE,
        "one/dir1": "a file",
        "loop": Link("loop"),
        "dangling": Link("nowhere"),
    }
    wanted = REFUSED[line]
    dockerfile = f"FROM scratch\n{line}\n"
    if wanted is None:
        root_bench.build(dockerfile, files)
        return
    said = root_bench.fail(dockerfile, files)
    assert wanted in said.stderr
    last = 2 + line.count("\n")
    assert f"Dockerfile:{last}" in said.stderr
