"""Holds `affected` to the truth: after any edits, the images that come out differently are a subset
of what it says, and every target it names comes with a way from a changed file.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from buildgraph.cli import known
from buildgraph.cli.affected import find_affected
from buildgraph.cli.entry import open_workspace
from buildgraph.cli.main import cli
from e2e.harness import Workspace

FILES = {
    "Boxfile.yaml": "workspace: {vars: {X: '1', Y: '1'}, rules: ['//tools']}\n",
    "tools/words.rule.yaml": (
        "doc: Words in a file.\n"
        "attributes: {text: {doc: The words., required: true}}\n"
        "dockerfile: |\n  FROM scratch\n  COPY <<EOF /words\n  {{ text }}\n  EOF\n"
    ),
    "words/Boxfile.yaml": "targets: {image: {rule: words, text: hello}}\n",
    "README.md": "about\n",
    "base/Dockerfile": "FROM scratch\nCOPY etc/ /etc/\nONBUILD COPY on*.txt /on/\n",
    "base/etc/conf": "1\n",
    "base/notes.md": "n\n",
    "lib/Dockerfile": (
        "ARG FLAVOUR=src\nFROM scratch AS one\nARG FLAVOUR\nCOPY $FLAVOUR/ /lib/\n"
        "FROM scratch AS two\nCOPY other /other\nFROM one\nCOPY current/v /v\n"
    ),
    "lib/.dockerignore": "**/*.tmp\nsrc/skip\n!src/skip/keep\n",
    "lib/src/a.c": "a\n",
    "lib/src/b.tmp": "b\n",
    "lib/src/deep/c.c": "c\n",
    "lib/src/skip/no": "no\n",
    "lib/src/skip/keep": "keep\n",
    "lib/other": "o\n",
    "lib/releases/1/v": "1\n",
    "lib/releases/2/v": "2\n",
    "app/Boxfile.yaml": (
        "targets:\n"
        "  image:\n"
        "    contexts: {base: '//base', lib: '//lib', data: ./data}\n"
        "  plain:\n"
        "    # a comment\n"
        "    dockerfile: plain.dockerfile\n"
        "    context: ..\n"
        "    args: {WHAT: app/one.txt}\n"
        "    labels: {commit: '{{ git.sha }}', of: '{{ workspace.name }} {{ vars.X }}'}\n"
        "  both: {rule: group, targets: [':image', ':plain']}\n"
    ),
    "app/Dockerfile": (
        "FROM base\nCOPY --from=lib /lib/ /lib/\nCOPY --from=data . /data/\n"
        "COPY --exclude=*.md docs/ /docs/\nCOPY [a-c]*.conf /conf/\n"
    ),
    "app/plain.dockerfile": "FROM scratch\nARG WHAT\nCOPY $WHAT base/notes.md /x/\n",
    "app/plain.dockerfile.dockerignore": "lib\n",
    "app/on1.txt": "on\n",
    "app/one.txt": "one\n",
    "app/docs/x.txt": "x\n",
    "app/docs/x.md": "x\n",
    "app/a.conf": "a\n",
    "app/z.conf": "z\n",
    "app/data/d1": "1\n",
    "app/data/.dockerignore": "d2\n",
    "app/data/d2": "2\n",
    "far/Dockerfile": "FROM scratch\nCOPY . /far/\n",
    "far/.dockerignore": "*\n!keep\n",
    "far/keep/f": "f\n",
    "far/gone": "g\n",
}


class Shop:
    """A workspace in git whose images need no command to be built."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.top = workspace.path("shop")
        for path, text in FILES.items():
            workspace.write(f"shop/{path}", text)
        os.symlink("releases/1", self.top / "lib/current")
        os.symlink("../one.txt", self.top / "app/docs/link")
        os.symlink("on1.txt", self.top / "app/b.conf")
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.commit("first")

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=self.top, check=True, capture_output=True, text=True
        )
        return done.stdout

    def commit(self, text: str) -> None:
        self.git("commit", "-q", "--allow-empty", "-a", "-m", text)

    def digests(self) -> dict[str, str]:
        """Build everything that can be built."""
        done = self.workspace.run("build", "-k", "--progress", "json", "//...", cwd="shop")
        return done.digests

    def affected(self, since: str = "first") -> dict[str, dict[str, object]]:
        done = self.workspace.run("affected", "--since", since, "--json", cwd="shop")
        assert done.code == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {row["label"]: row for row in rows}


@pytest.fixture
def shop(workspace: Workspace) -> Shop:
    made = Shop(workspace)
    made.git("tag", "first")
    return made


def _append(path: str, text: str) -> Callable[[Path], None]:
    def edit(top: Path) -> None:
        with (top / path).open("a") as file:
            file.write(text)

    return edit


def _write(path: str, text: str) -> Callable[[Path], None]:
    def edit(top: Path) -> None:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)

    return edit


def _remove(path: str) -> Callable[[Path], None]:
    def edit(top: Path) -> None:
        target = top / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    return edit


def _replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(top: Path) -> None:
        (top / path).write_text((top / path).read_text().replace(old, new))

    return edit


def _link(path: str, to: str) -> Callable[[Path], None]:
    def edit(top: Path) -> None:
        (top / path).unlink(missing_ok=True)
        os.symlink(to, top / path)

    return edit


# Each edit, and exactly what it affects where it is made alone.
APP = {"//app:image", "//app:both"}
EDITS: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "content": (_append("lib/src/a.c", "!"), {"//lib:image"} | APP),
    "ignored": (_append("lib/src/b.tmp", "!"), set()),
    "brought back": (_append("lib/src/skip/keep", "!"), {"//lib:image"} | APP),
    "not copied": (_append("README.md", "!"), set()),
    "new file": (_write("lib/src/n/new.c", "n"), {"//lib:image"} | APP),
    "new ignored file": (_write("lib/src/deep/x.tmp", "x"), set()),
    "a directory by an ignored file": (_write("lib/src/n/x.tmp", "x"), {"//lib:image"} | APP),
    "deleted": (_remove("lib/src/deep"), {"//lib:image"} | APP),
    "through a link": (_append("lib/releases/1/v", "!"), {"//lib:image"} | APP),
    "beside a link": (_append("lib/releases/2/v", "!"), set()),
    "the link": (_link("lib/current", "releases/2"), {"//lib:image"} | APP),
    "mode": (lambda top: (top / "app/a.conf").chmod(0o755), APP),
    "a glob's link": (_append("app/on1.txt", "!"), APP),
    "onbuild": (_write("app/on2.txt", "2"), APP),
    "no match": (_append("app/z.conf", "!"), set()),
    "excluded": (_append("app/docs/x.md", "!"), set()),
    "named context": (_append("app/data/d1", "!"), APP),
    "ignored in a named context": (_append("app/data/d2", "!"), set()),
    "argument in a path": (_append("app/one.txt", "!"), {"//app:plain"} | APP),  # on*.txt too
    "another context": (_append("base/notes.md", "!"), {"//app:plain", "//app:both"}),
    "base": (_append("base/etc/conf", "!"), {"//base:image"} | APP),
    "comment in a Dockerfile": (_append("lib/Dockerfile", "# c\n"), set()),
    "unused stage": (_replace("lib/Dockerfile", "/other", "/another"), set()),
    "instruction": (_append("lib/Dockerfile", "ENV A=1\n"), {"//lib:image"} | APP),
    "comment in a Boxfile": (_replace("app/Boxfile.yaml", "a comment", "words"), set()),
    "argument": (
        _replace("app/Boxfile.yaml", "WHAT: app/one.txt", "WHAT: app/a.conf"),
        {"//app:plain", "//app:both"},
    ),
    "ignore file": (_append("lib/.dockerignore", "src/a.c\n"), {"//lib:image"} | APP),
    "ignore comment": (_append("lib/.dockerignore", "# c\n"), set()),
    "variable": (
        _replace("Boxfile.yaml", "X: '1'", "X: '2'"),
        {"//app:plain", "//app:both"},
    ),
    "unused variable": (_replace("Boxfile.yaml", "Y: '1'", "Y: '2'"), set()),
    "rule": (_replace("tools/words.rule.yaml", "/words", "/text"), {"//words:image"}),
    "what a rule says of itself": (_replace("tools/words.rule.yaml", "Words", "Some"), set()),
    "new target": (_write("new/Dockerfile", "FROM scratch\nCOPY . /\n"), {"//new:image"}),
    "excluded directory": (_write("far/gone2", "g"), set()),
    "kept directory": (_write("far/keep/g", "g"), {"//far:image"}),
    "new ignore file": (
        _write("app/Dockerfile.dockerignore", "docs/x.txt\n"),
        APP,
    ),
}


def test_each_edit_affects_exactly_what_it_should(shop: Shop) -> None:
    wrong = {}
    empty = str(shop.workspace.path("no-store"))
    for name, (edit, expected) in EDITS.items():
        edit(shop.top)
        workspace, _ = open_workspace(str(shop.top))
        rows = {one.label: one for one in find_affected(workspace, "first", empty)}
        if rows.keys() != expected:
            wrong[name] = [rows[one] for one in rows.keys() - expected], expected - rows.keys()
        shop.git("reset", "-q", "--hard", "first")
        shop.git("clean", "-fdq")
    assert not wrong


def test_what_changes_is_a_subset_of_what_is_affected(shop: Shop) -> None:
    before = shop.digests()
    assert len(before) == 6
    chance = random.Random(6)
    for _ in range(6):
        names = chance.sample(sorted(EDITS), 3)
        for name in names:
            EDITS[name][0](shop.top)
        after = shop.digests()
        changed = {label for label, digest in after.items() if before.get(label) != digest}
        gone = set(before) - set(after)
        rows = shop.affected()
        assert changed | gone <= set(rows), names
        for row in rows.values():
            assert row["causes"], (names, row)
        shop.git("reset", "-q", "--hard", "first")
        shop.git("clean", "-fdq")


def test_commits_since_a_branch_and_renames_count(shop: Shop) -> None:
    shop.git("checkout", "-q", "-b", "work")
    shop.git("mv", "app/z.conf", "app/c.conf")
    shop.commit("a rename")
    (shop.top / "far/keep/f").write_text("staged")
    shop.git("add", "-A")
    assert set(shop.affected("main")) == APP | {"//far:image"}
    shop.git("checkout", "-q", "-f", "main")
    (shop.top / "lib/src/a.c").write_text("on main")
    shop.commit("on main")
    shop.git("checkout", "-q", "work")
    assert set(shop.affected("main")) == APP  # what main got since is no change of ours


def test_what_is_kept_of_a_workspace_never_answers_for_another(shop: Shop) -> None:
    def ask(*words: str) -> str:
        return shop.workspace.run(*words, cwd="shop").stdout

    questions = [
        ("list",),
        ("list", "--json", "//app/..."),
        ("query", "deps(//app)"),
        ("query", "kind(group, //...)", "--output=label_kind"),
        ("query", "somepath(//..., //base)", "--output", "json"),
        ("affected", "--since", "first", "--why"),
        ("affected", "--since", "first", "--targets", "//app/...", "--json"),
    ]
    (shop.top / "base/etc/conf").write_text("2")
    fresh = [ask(*words) for words in questions]  # there is no store, so nothing is kept
    shop.workspace.build("//far", cwd="shop")
    for _ in range(2):
        assert [ask(*words) for words in questions] == fresh
    _append("app/Boxfile.yaml", "  more: {rule: group, targets: [':plain']}\n")(shop.top)
    assert "//app:more" in ask("list")
    assert ask("query", "rdeps(//..., //app:plain, 1)").count("\n") == 3
    (shop.top / "base/sub").mkdir()
    _write("base/sub/Dockerfile", "FROM scratch\n")(shop.top)
    assert "//base/sub " in ask("list")
    shutil.rmtree(shop.top / "base/sub")
    assert "//base/sub " not in ask("list")
    wrong = shop.workspace.run("query", "deps(//gone)", cwd="shop", expect=2)
    assert "--> query:1:6" in wrong.stderr


# After these everything is read: another root file or rule, and a directory more or less, which
# may be a package.
READ_WHOLE = {
    "a directory by an ignored file",
    "deleted",
    "new file",
    "new ignore file",
    "new target",
    "rule",
    "unused variable",
    "variable",
    "what a rule says of itself",
}


class Kept:
    """Questions that are answered from what is kept, or from the start."""

    def __init__(self, shop: Shop, capsys: pytest.CaptureFixture[str]):
        shop.workspace.build("//far", cwd="shop")  # makes the store
        self.store = str(shop.workspace.store())
        self._capsys = capsys

    def quickly(self, words: list[str]) -> str | None:
        return self._capsys.readouterr().out if known.answer(words) else None

    def slowly(self, words: list[str], *, keep: bool = False) -> str:
        store = self.store if keep else f"{self.store}-none"
        done = CliRunner().invoke(cli, words, env={"BUILDGRAPH_STORE": store})
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture
def kept(shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kept:
    made = Kept(shop, capsys)
    monkeypatch.chdir(shop.top)
    monkeypatch.setenv("BUILDGRAPH_STORE", made.store)
    return made


LIST, AFFECTED = ["list", "--json"], ["affected", "--since", "first", "--json"]
QUERY = ["query", "deps(//...)", "--output", "jsonl"]


def test_after_an_edit_only_what_it_concerns_is_read_again(shop: Shop, kept: Kept) -> None:
    quick: dict[str, set[str]] = {}
    for name, (edit, _) in EDITS.items():
        for words in (["list"], AFFECTED):
            kept.slowly(words, keep=True)
        edit(shop.top)
        for words in (LIST, QUERY, AFFECTED):
            said = kept.quickly(words)
            if said is not None:
                quick.setdefault(words[0], set()).add(name)
                assert said == kept.slowly(words), (name, words)
        shop.git("reset", "-q", "--hard", "first")
        shop.git("clean", "-fdq")
    assert {name: EDITS.keys() - edits for name, edits in quick.items()} == {
        "list": READ_WHOLE,
        "query": READ_WHOLE,
        "affected": READ_WHOLE | {"the link"},
    }


def test_edit_after_edit_is_taken_into_what_is_kept(shop: Shop, kept: Kept) -> None:
    for words in (["list"], AFFECTED):
        kept.slowly(words, keep=True)
    edits = (
        _append("base/Dockerfile", "ONBUILD COPY z.conf /z/\n"),  # which app now reads
        _append("app/z.conf", "!"),
        _replace("app/Dockerfile", "docs/ /docs/", "docs/ /papers/"),
        _append("lib/.dockerignore", "src/deep\n"),
        _append("lib/src/deep/c.c", "!"),
        _replace("words/Boxfile.yaml", "hello}", "hello}, new: {rule: words, text: more}"),
        _replace("app/Boxfile.yaml", "lib: '//lib'", "lib: '//lib:image'"),
        _replace("app/Dockerfile", "FROM base", "FROM lib"),  # and reads z.conf no more
        _append("app/z.conf", "!"),
    )
    quick = []
    for number, edit in enumerate(edits):
        edit(shop.top)
        for words in (AFFECTED, LIST, QUERY):
            said = kept.quickly(words)
            quick.append(said is not None)
            if said is None:
                kept.slowly(words[:3], keep=True)
            else:
                assert said == kept.slowly(words), (number, words)
    assert quick.count(False) <= 3  # a group may mean all targets, so a new one is looked for


def test_what_is_kept_does_not_hide_a_mistake(shop: Shop, kept: Kept) -> None:
    for words in (["list"], AFFECTED):
        kept.slowly(words, keep=True)
    for old, new in (
        ("//lib", "//gone"),
        ("args:", "arguments:"),
        ("rule: group", "rule: image"),
        ("  plain:", "  plane:"),
        ("//base", "//app"),
    ):
        _replace("app/Boxfile.yaml", old, new)(shop.top)
        assert kept.quickly(AFFECTED) is None, new
        for words in (LIST, QUERY):
            said = kept.quickly(words)
            assert said is None or said == kept.slowly(words), new
        shop.git("reset", "-q", "--hard", "first")


def test_why_names_the_file_and_the_way(shop: Shop) -> None:
    (shop.top / "lib/src/a.c").write_text("2")
    said = shop.workspace.run("affected", "--since", "first", "--why", cwd="shop").stdout
    assert (
        "//lib:image\n    lib/src/a.c: COPY $FLAVOUR/ /lib/, stage one (lib/Dockerfile:4)" in said
    )
    assert "//app:both\n    needs //app:image, which needs //lib:image\n        lib/src/a.c" in said
    only = shop.workspace.run(
        "affected", "--since", "first", "--targets", "//lib/...", cwd="shop"
    ).stdout
    assert only == "//lib:image\n"


def test_waves_for_ci_systems(shop: Shop) -> None:
    (shop.top / "base/etc/conf").write_text("2")
    (shop.top / "lib/src/a.c").write_text("2")
    words = ("ci", "matrix", "--since", "first", "--format")
    github = json.loads(shop.workspace.run(*words, "github", cwd="shop").stdout)
    assert github["count"] == 2
    names = [[job["name"] for job in wave["include"]] for wave in github["waves"]]
    assert names == [["base", "lib"], ["app"]]
    assert github["waves"][1]["include"][0]["targets"] == "//app:image"
    yaml = pytest.importorskip("yaml")
    gitlab = yaml.safe_load(shop.workspace.run(*words, "gitlab", cwd="shop").stdout)
    assert gitlab["stages"] == ["wave-0", "wave-1"]
    assert gitlab["app"] == {"stage": "wave-1", "script": ["buildgraph build //app:image"]}
    one = shop.workspace.run(*words, "github", "--max-jobs", "1", cwd="shop").stdout
    assert json.loads(one)["waves"][0]["include"][0]["targets"] == "//base:image //lib:image"
    shop.git("reset", "-q", "--hard", "first")
    none = yaml.safe_load(shop.workspace.run(*words, "gitlab", cwd="shop").stdout)
    assert none["nothing-is-affected"]["script"] == ["true"]


def test_what_git_cannot_answer_is_said(workspace: Workspace, shop: Shop) -> None:
    wrong = shop.workspace.run("affected", "--since", "--output=/tmp/x", cwd="shop", expect=2)
    assert "git knows no commit '--output=/tmp/x'" in wrong.stderr
    workspace.write("plain/Boxfile.yaml", "workspace: {name: x}\n")
    none = workspace.run("affected", "--since", "HEAD", cwd="plain", expect=2)
    assert "is in no git repository" in none.stderr
