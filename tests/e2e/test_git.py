"""Knows what becomes of repositories, good and bad ones, served on loopback to the host's git."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildgraph.errors import HostError, InputError, Interrupted
from buildgraph.fetch.git import Git, parse_git
from buildgraph.fetch.git_program import GitProgram, SshSetup
from buildgraph_cache.store import Store
from e2e.git_server import Repository, Server, git, new_repository, serving, tree_of

FILES = {
    "a.txt": "a\n",
    "run.sh": ("exec", "#!/bin/sh\n"),
    "d/e/f": "f\n",
    "link": ("link", "d"),
    "out": ("link", "/etc"),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as opened:
        yield opened


class Bench:
    """Repositories, and a reader of them."""

    def __init__(self, server: Server, store: Store, tmp_path: Path):
        self.server = server
        self.store = store
        self.tmp = tmp_path
        self.secrets: dict[str, str] = {}
        self.count = 0

    def repository(self, name: str = "r.git") -> Repository:
        return new_repository(self.server.top / name)

    def reader(self, **more: Any) -> Git:
        more.setdefault("environ", {"HOME": str(self.tmp)})
        return Git(self.store, secret=self.secrets.get, **more)

    def get(self, rest: str, **more: Any) -> Path:
        """Check out `URL<rest>`; returns the directory."""
        reader = self.reader(**more)
        reference = parse_git(f"{self.server.url}/{rest}")
        self.count += 1
        directory = self.tmp / f"out{self.count}"
        directory.mkdir()
        reader.checkout(reference, reader.resolve(reference), str(directory))
        return directory


@pytest.fixture
def bench(server: Server, store: Store, tmp_path: Path) -> Bench:
    return Bench(server, store, tmp_path)


def test_a_commit_becomes_files(bench: Bench) -> None:
    bench.repository().commit(FILES)
    old = os.umask(0o077)
    try:
        found = tree_of(bench.get("r.git"))
    finally:
        os.umask(old)
    assert found == {
        "a.txt": "644 a\n",
        "run.sh": "755 #!/bin/sh\n",
        "d": "dir",
        "d/e": "dir",
        "d/e/f": "644 f\n",
        "link": "-> d",
        "out": "-> /etc",
    }
    assert tree_of(bench.get("r.git#:d")) == {"e": "dir", "e/f": "644 f\n"}


def test_a_branch_beats_a_tag_and_tags_are_peeled(bench: Bench) -> None:
    made = bench.repository()
    first = made.commit({"f": "1"})
    git(made.path, "tag", "-a", "v1", "-m", "v1", first)
    git(made.path, "tag", "both", first)
    second = made.commit({"f": "2"})
    git(made.path, "branch", "both", second)
    reader = bench.reader()

    def commit_of(rest: str) -> str:
        return reader.resolve(parse_git(f"{bench.server.url}/r.git{rest}"))

    assert commit_of("") == second
    assert commit_of("#v1") == first
    assert commit_of("?tag=v1") == first
    assert commit_of("#both") == second
    assert commit_of("?tag=both") == first
    assert commit_of("?ref=refs/tags/v1") == first
    assert commit_of(f"#{first}") == first
    annotated = git(made.path, "rev-parse", "refs/tags/v1")
    for checksum in (first, first[:7], annotated):
        assert commit_of(f"?tag=v1&checksum={checksum}") == first
    with pytest.raises(InputError, match=f"is commit {second}, and not {first}"):
        commit_of(f"?checksum={first}&ref=main")
    with pytest.raises(InputError, match="no branch or tag 'nope'"):
        commit_of("#nope")
    with pytest.raises(InputError, match="no branch") as failed:
        commit_of(f"#{first[:8]}")
    assert failed.value.hint == "a commit has to be given whole"


def test_only_what_is_new_is_fetched(bench: Bench) -> None:
    made = bench.repository()
    first = made.commit({"f": "1"})
    bench.get("r.git")
    asked = len(bench.server.asked)
    bench.get(f"r.git#{first}")
    assert len(bench.server.asked) == asked  # a whole commit that is here: nobody is asked
    bench.get(f"r.git#{first}", offline=True)
    bench.get("r.git")
    assert all("info/refs" in path or "upload-pack" in path for path in bench.server.asked)
    second = made.commit({"f": "2"})
    assert tree_of(bench.get("r.git")) == {"f": "644 2"}
    assert tree_of(bench.get(f"r.git#{first}")) == {"f": "644 1"}
    with pytest.raises(HostError, match="--offline"):
        bench.get("r.git#main", offline=True)
    assert second != first


@pytest.mark.parametrize("kind", ["old", "dumb"])
def test_servers_that_do_not_give_commits_by_themselves(bench: Bench, kind: str) -> None:
    setattr(bench.server, kind, True)
    made = bench.repository()
    first = made.commit({"f": "1"})
    made.commit({"f": "2"})
    git(made.path, "repack", "-adq")
    git(made.path, "update-server-info")
    assert tree_of(bench.get("r.git")) == {"f": "644 2"}
    assert tree_of(bench.get(f"r.git#{first}")) == {"f": "644 1"}
    with pytest.raises(InputError, match="has no commit"):
        bench.get("r.git#" + "1" * 40)


def test_submodules_come_along_from_their_own_places(bench: Bench) -> None:
    inner = bench.repository("inner.git").commit({"i": "i"})
    middle = bench.repository("x/middle.git").commit(
        {
            ".gitmodules": '[submodule "i"]\n\tpath = deep/i\n\turl = ../../inner.git\n',
            "deep/i": ("module", inner),
        }
    )
    bench.repository("x/top.git").commit(
        {
            ".gitmodules": '[submodule "m"]\n\tpath = sub/m\n\turl = ../middle.git\n\tbranch = x\n'
            '[submodule "n"]\n\tpath = none\n\turl = ../nowhere.git\n\tupdate = none\n',
            "sub/m": ("module", middle),
            "none": ("module", middle),
            "t": "t",
        }
    )
    found = tree_of(bench.get("x/top.git"))
    assert found["sub/m/deep/i/i"] == "644 i"
    assert found["none"] == "dir"
    assert not any(".git" in path.split("/") for path in found)
    assert "sub/m/deep" not in tree_of(bench.get("x/top.git?submodules=0"))
    assert tree_of(bench.get("x/top.git#:sub"))["m/deep/i/i"] == "644 i"


def test_a_git_directory_is_kept_on_demand_and_is_the_same_every_time(bench: Bench) -> None:
    made = bench.repository()
    first = made.commit({"f": "1"})
    second = made.commit({"f": "2", "d/g": "3"})
    found = bench.get("r.git?keep-git-dir=1&branch=main")
    words = ["git", "-c", "safe.directory=*", "-C", str(found)]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    for more, expected in (
        (["status", "--porcelain"], ""),
        (["rev-parse", "HEAD"], second),
        (["fsck"], ""),
        (["remote", "get-url", "origin"], f"{bench.server.url}/r.git"),
    ):
        said = subprocess.run(words + more, env=env, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == expected
    before = {p: (found / p).read_bytes() for p in tree_of(found) if (found / p).is_file()}
    with Store.open(str(bench.tmp / "other")) as other:
        # By another way: the history first, and nothing shallow.
        bench.store = other
        bench.get(f"r.git#{first}")
        bench.server.old = True
        again = bench.get("r.git?keep-git-dir=1&branch=main")
    after = {p: (again / p).read_bytes() for p in tree_of(again) if (again / p).is_file()}
    index = str(Path(".git/index"))
    assert set(before) == set(after)
    assert {p for p in before if before[p] != after[p]} <= {index}  # `git status` wrote to it
    assert not any("hooks" in path for path in after)


# -- logins ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["token", "token of host", "header", "url"])
def test_logins_reach_the_host_and_are_written_nowhere(bench: Bench, way: str) -> None:
    made = bench.repository()
    made.commit({"f": "1"})
    bench.server.ask_for("x-access-token", "canary-word")
    host = f"127.0.0.1:{bench.server.server_port}"
    with pytest.raises(HostError, match="401|Authentication|could not read") as failed:
        bench.get("r.git")
    assert failed.value.hint is not None
    assert "GIT_AUTH_TOKEN" in failed.value.hint
    reader = bench.reader()
    reference = parse_git(f"{bench.server.url}/r.git")
    match way:
        case "token":
            bench.secrets["GIT_AUTH_TOKEN"] = "canary-word\n"
        case "token of host":
            bench.secrets |= {"GIT_AUTH_TOKEN": "wrong", f"GIT_AUTH_TOKEN.{host}": "canary-word"}
        case "header":
            bench.secrets["GIT_AUTH_HEADER"] = bench.server.password
        case "url":
            reference = parse_git(f"http://x-access-token:canary-word@{host}/r.git")
    (bench.tmp / "o").mkdir()
    reader.checkout(reference, reader.resolve(reference), str(bench.tmp / "o"))
    assert tree_of(bench.tmp / "o") == {"f": "644 1"}
    for top, _, names in os.walk(bench.tmp):
        for name in names:
            assert b"canary" not in (Path(top) / name).read_bytes()


def test_a_wrong_login_is_not_in_the_message(bench: Bench) -> None:
    bench.repository().commit({"f": "1"})
    bench.server.ask_for("me", "right")
    host = f"127.0.0.1:{bench.server.server_port}"
    reference = parse_git(f"http://me:canary@{host}/r.git")
    with pytest.raises(HostError) as failed:
        bench.reader().resolve(reference)
    assert "canary" not in f"{failed.value} {failed.value.hint}"


def test_a_token_goes_to_no_submodule_elsewhere(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with serving(tmp_path / "other") as other:
        inner = new_repository(other.top / "i.git").commit({"i": "i"})
        url = f"http://localhost:{other.server_port}/i.git"
        bench.repository().commit(
            {
                ".gitmodules": f'[submodule "i"]\n\tpath = i\n\turl = {url}\n',
                "i": ("module", inner),
            }
        )
        bench.secrets["GIT_AUTH_TOKEN"] = "canary"
        assert tree_of(bench.get("r.git"))["i/i"] == "644 i"
        assert any("Authorization" in head for head in bench.server.headers_seen)
        assert not any("Authorization" in head for head in other.headers_seen)
        bench.secrets[f"GIT_AUTH_TOKEN.localhost:{other.server_port}"] = "for-them"
        (tmp_path / "two").mkdir()
        with Store.open(str(tmp_path / "two/store")) as bench.store:
            bench.get("r.git")
        assert any("Authorization" in head for head in other.headers_seen)


# -- A61: repositories that mean harm -----------------------------------------------------


def module(url: str, path: str = "m") -> str:
    return f'[submodule "m"]\n\tpath = {path}\n\turl = {url}\n'


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc",
        "/etc",
        "../../../../etc",
        "ext::sh -c touch% pwned",
        "--upload-pack=touch pwned",
        "ssh://-oProxyCommand=touch/x",
        "-u./payload",
        "git@-oProxyCommand=touch:x",
    ],
)
def test_submodules_of_this_machine_or_of_a_program_are_refused(bench: Bench, url: str) -> None:
    bench.repository().commit({".gitmodules": module(url), "m": ("module", "1" * 40)})
    with pytest.raises((InputError, HostError)) as failed:
        bench.get("r.git")
    assert "submodule" in failed.value.message or "gitmodules" in failed.value.message
    if "gitmodulesUrl" not in failed.value.message:  # git's own check lets none of it come here
        assert tree_of(bench.get("r.git?submodules=0"))["m"] == "dir"


def test_what_a_gitmodules_says_to_run_is_refused(bench: Bench) -> None:
    text = module("../i.git") + "\tupdate = !touch /tmp/pwned\n"
    bench.repository().commit({".gitmodules": text, "m": ("module", "1" * 40)})
    with pytest.raises(HostError, match="disallowed submodule update"):
        bench.get("r.git")


@pytest.mark.parametrize(
    ("files", "rest", "message"),
    [
        ({"real/f": "1", "d": ("link", "real")}, "#:d", "is no directory"),
        ({"real/x/f": "1", "d": ("link", "real")}, "#:d/x", "is no directory"),
        ({"d": ("link", "/etc")}, "#:d", "is no directory"),
        ({"d": "a file"}, "#:d", "is no directory"),
        ({"f": "1"}, "#:nope", "is not there"),
        ({"m": ("module", "1" * 40)}, "", "does not say where the submodule 'm'"),
        ({".gitmodules": ("link", "f"), "m": ("module", "1" * 40)}, "", "does not say|gitmodules"),
        ({".gitmodules": "[broken", "m": ("module", "1" * 40)}, "", "gitmodules"),
    ],
)
def test_trees_that_are_not_what_they_seem(
    bench: Bench, files: dict[str, Any], rest: str, message: str
) -> None:
    bench.repository().commit(files)
    with pytest.raises((InputError, HostError), match=message):
        bench.get(f"r.git{rest}")


def raw_tree(made: Repository, *entries: tuple[str, str, str]) -> None:
    """Commit a tree that git would not make: (mode, name, object)."""
    data = b"".join(f"{m} {n}\0".encode() + bytes.fromhex(o) for m, n, o in entries)
    place = made.path / "raw"
    place.write_bytes(data)
    tree = git(made.path, "hash-object", "-w", "-t", "tree", "--literally", str(place))
    commit = git(made.path, "commit-tree", tree, "-m", "m")
    git(made.path, "update-ref", "refs/heads/main", commit)


@pytest.mark.parametrize("name", [".git", ".GIT", "..", ".", "git~1", "a/b"])
def test_trees_with_names_that_lead_away_are_refused(bench: Bench, name: str) -> None:
    made = bench.repository()
    blob = git(made.path, "hash-object", "-w", "--stdin", data="x")
    raw_tree(made, ("100644", name, blob))
    with pytest.raises(HostError):
        bench.get("r.git")


def test_a_file_below_a_link_of_the_same_name_is_not_written_through_it(bench: Bench) -> None:
    made = bench.repository()
    link = git(made.path, "hash-object", "-w", "--stdin", data=str(bench.tmp / "victim"))
    blob = git(made.path, "hash-object", "-w", "--stdin", data="x")
    (made.path / "raw").write_bytes(b"100644 f\0" + bytes.fromhex(blob))
    inner = git(made.path, "hash-object", "-w", "-t", "tree", "--literally", str(made.path / "raw"))
    raw_tree(made, ("120000", "a", link), ("40000", "a", inner))
    (bench.tmp / "victim").mkdir()
    with pytest.raises(HostError):
        bench.get("r.git")
    assert not list((bench.tmp / "victim").iterdir())


def test_a_repository_that_holds_itself_ends(bench: Bench) -> None:
    made = bench.repository()
    # A commit cannot name itself, so the parent names the child's first state over and over.
    commit = made.commit({"f": "1"})
    for _ in range(20):
        commit = made.commit({".gitmodules": module("./../r.git"), "m": ("module", commit)})
    with pytest.raises(InputError, match="nested more than 16"):
        bench.get("r.git")


def test_hooks_filters_and_settings_of_a_repository_run_nothing(bench: Bench) -> None:
    flag = bench.tmp / "pwned"
    made = bench.repository()
    made.commit(
        {
            ".gitattributes": "* filter=evil diff=evil merge=evil ident\n",
            ".gitconfig": f'[filter "evil"]\n\tsmudge = touch {flag}\n',
            "config": f"[core]\n\tfsmonitor = touch {flag}\n",
            "hooks/post-checkout": ("exec", f"#!/bin/sh\ntouch {flag}\n"),
            "f": "1",
        }
    )
    home = bench.tmp / "home"
    (home / "hooks").mkdir(parents=True)
    (home / "hooks/post-checkout").write_text(f"#!/bin/sh\ntouch {flag}\n")
    (home / "hooks/post-checkout").chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[core]\n\thooksPath = {home}/hooks\n\tfsmonitor = touch {flag}\n\tsshCommand = touch {flag}\n"
        f'[filter "evil"]\n\tsmudge = touch {flag}\n[credential]\n\thelper = !touch {flag}\n'
        f'[url "file:///nothing"]\n\tinsteadOf = {bench.server.url}\n'
    )
    (bench.tmp / "bin").mkdir()
    for name in ("git", "ssh", "git-remote-http", "sh"):
        fake = bench.tmp / "bin" / name
        fake.write_text(f"#!/bin/sh\ntouch {flag}\n")
        fake.chmod(0o755)
    environ = {
        "HOME": str(home),
        "PATH": str(bench.tmp / "bin"),
        "GIT_DIR": "/nonexistent",
        "GIT_EXEC_PATH": str(bench.tmp / "bin"),
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_SSH_COMMAND": f"touch {flag}",
        "GIT_CONFIG_PARAMETERS": f"'core.fsmonitor=touch {flag}'",
        "GIT_TRACE": str(flag),
        "LD_PRELOAD": "/nonexistent.so",
    }
    assert tree_of(bench.get("r.git", environ=environ))["f"] == "644 1"
    assert not flag.exists()


def test_what_a_server_says_cannot_play_tricks(bench: Bench) -> None:
    made = bench.repository()
    made.commit({"f": "1"})
    git(made.path, "config", "uploadpack.packObjectsHook", "/bin/false")
    with pytest.raises(HostError) as failed:
        bench.get("nothere.git")
    assert "not found" in failed.value.message
    assert bench.server.url in failed.value.message


# -- the machine ---------------------------------------------------------------------------


def test_a_stop_leaves_no_process(bench: Bench) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        stop = threading.Event()
        timer = threading.Timer(0.3, stop.set)
        timer.start()
        begun = time.monotonic()
        reference = parse_git(f"git://127.0.0.1:{silent.getsockname()[1]}/p")
        with pytest.raises(Interrupted):
            bench.reader().resolve(reference, None, stop)
        timer.join()
    assert time.monotonic() - begun < 5
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children]
    assert not [words for words in names if b"ls-remote" in words]


def test_nobody_listens(bench: Bench) -> None:
    with pytest.raises(HostError, match="git ls-remote"):
        bench.reader().resolve(parse_git("git://127.0.0.1:1/p"))


def test_a_missing_git_says_what_to_do() -> None:
    program = GitProgram({}, SshSetup(), path="/nowhere/git")
    with pytest.raises(HostError, match="git is not installed") as failed:
        program.run(["version"])
    assert failed.value.hint is not None
    assert "install git" in failed.value.hint


def test_ssh_gets_the_agent_and_the_known_hosts_and_no_questions(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    program = GitProgram({}, SshSetup("/run/agent", str(tmp_path)))
    said = program.run(["-c", "alias.zz=!env", "zz"]).decode()
    assert "SSH_AUTH_SOCK=/run/agent" in said
    (command,) = re.findall(r"^GIT_SSH_COMMAND=(.*)$", said, re.MULTILINE)
    for word in ("BatchMode=yes", f"{tmp_path}/.ssh/known_hosts", "-F none"):
        assert word in command
    assert "GIT_TERMINAL_PROMPT=0" in said
